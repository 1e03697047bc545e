//! What strangers cost in memory: of senders that forge their addresses, and of senders that really have theirs. This file has one
//! test, because it looks at the memory of its process.

mod lab;

use std::net::{Ipv4Addr, SocketAddr};

use lab::{EAST, WEST, World};

fn stranger(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(0x0b00_0000 + number).into(), 4500)
}

/// Memory of this process that is in use, in KiB (proc(5), VmRSS).
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// 10,000 first messages, each from an address of its own; with `real` each sender goes on to show the cookie that it is asked for.
fn flood(world: &mut World, message: &[u8], first: u32, real: bool) {
    for number in first..first + 10_000 {
        let message = [&u64::from(number + 1).to_be_bytes(), &message[8..]].concat();
        world.inject(EAST, stranger(number), &message);
        let answer = world.sent.pop().map(|(_, answer)| answer).unwrap_or_default();
        assert!(answer.len() <= message.len(), "an unproven address gets no more than it sent");
        if real && answer.len() == 28 + 8 + 33 {
            let mut shown = [&message[..28], &[message[16]], &answer[29..], &message[28..]].concat();
            shown[16] = 41;
            let length = u32::try_from(shown.len()).expect("short").to_be_bytes();
            shown[24..28].copy_from_slice(&length);
            world.inject(EAST, stranger(number), &shown);
            world.sent.clear();
        }
    }
}

#[test]
fn ten_thousand_strangers_cost_a_bounded_amount_of_memory_and_an_honest_peer_connects() {
    let mut world = World::new(40);
    world.initiate(WEST, true);
    let message = world.sent.remove(0).1;
    // An honest peer comes through a flood from forged addresses.
    let mut world = World::new(41);
    let before = resident_kib();
    flood(&mut world, &message, 0, false);
    let forged = resident_kib() - before;
    assert_eq!(world.sites[EAST].ike.half_open(), 30);
    world.initiate(WEST, true);
    world.until(2_000, "up in spite of the flood", World::both_up);
    println!("10,000 forged addresses: 30 half open, {forged} KiB; an honest peer is up after {} ms", world.now);
    // Whoever really has 10,000 addresses fills the table, and no more than that.
    let before = resident_kib();
    flood(&mut world, &message, 20_000, true);
    let (real, kept) = (resident_kib() - before, world.sites[EAST].ike.half_open());
    println!("10,000 addresses that show cookies: {kept} half open, {real} KiB");
    assert_eq!(kept, 2_048);
    assert!(forged < 2_048 && real < 2_048 * 8, "{forged} and {real} KiB");
    assert!(world.both_up(), "who is up stays up");
    world.run(31_000);
    assert_eq!(world.sites[EAST].ike.half_open(), 0, "and they pass");
}
