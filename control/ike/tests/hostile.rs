//! Given whatever the network may send, nothing panics, nothing grows, and the honest exchange still finishes.

mod lab;

use std::net::SocketAddr;

use lab::{Chance, EAST, Flight, PEER, WEST, World};

fn stranger(number: u32) -> SocketAddr {
    SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + number).into(), 4500)
}

/// A first message as West sends it, and the same with another SPI, as often as needed.
fn first_messages() -> impl Iterator<Item = Vec<u8>> {
    let mut world = World::new(99);
    world.initiate(WEST, true);
    let message = world.sent[0].1.clone();
    (1u64..).map(move |spi| [&spi.to_be_bytes(), &message[8..]].concat())
}

/// The messages of a whole conversation: handshake, a second child, DELETE.
fn conversation(seed: u64) -> Vec<(usize, Vec<u8>)> {
    let mut world = World::new(seed);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.create_child(WEST, 1).expect("per core");
    world.run(100);
    world.with_ike(WEST, |now, ike| ike.close(now, PEER));
    world.run(20);
    world.sent
}

/// Every truncation, and for each octet one bit turned over.
fn mutations(message: &[u8]) -> Vec<Vec<u8>> {
    let cuts = (0..message.len()).map(|length| message[..length].to_vec());
    let flips = (0..message.len()).map(|at| {
        let mut flipped = message.to_vec();
        flipped[at] ^= 1 << (at % 8);
        flipped
    });
    cuts.chain(flips).collect()
}

#[test]
fn every_length_of_noise_in_every_state() {
    let mut chance = Chance::new(1);
    for stage_ms in [0, 6, 11, 16, 21, 200] {
        let mut world = World::new(1);
        world.initiate(WEST, true);
        world.run(stage_ms);
        let (west, east) = (world.sites[WEST].address, world.sites[EAST].address);
        for length in 0..=2_048usize {
            let mut noise: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
            world.inject(EAST, west, &noise);
            world.inject(WEST, east, &noise);
            // The same with a header that is right but for its SPIs, and with no more than zeros behind it.
            if length >= 28 {
                noise[16..20].copy_from_slice(&[33, 0x20, 34 + (length % 4) as u8, if length % 3 == 0 { 0x20 } else { 0x08 }]);
                noise[24..28].copy_from_slice(&(length as u32).to_be_bytes());
                world.inject(EAST, west, &noise);
                world.inject(WEST, east, &noise);
                noise[28..].fill(0);
                world.inject(EAST, west, &noise);
                world.inject(WEST, east, &noise);
            }
        }
        assert!(world.sites[EAST].ike.half_open() <= 1 && world.sites[WEST].ike.half_open() == 0);
        world.until(1_000, "up", World::both_up);
        world.assert_agreed();
        assert_eq!(world.sent.len(), 4, "nobody answered noise");
    }
}

#[test]
fn protected_messages_cut_or_changed_are_ignored_and_the_real_ones_taken() {
    let mut world = World::new(2);
    // Everything but the first exchange is protected; each changed copy arrives right before the real message.
    world.tap = Some(Box::new(|flight: &Flight| if flight.message[18] == 34 { vec![] } else { mutations(&flight.message) }));
    world.initiate(WEST, true);
    world.until(200, "up", World::both_up);
    world.create_child(WEST, 1).expect("per core");
    world.create_child(EAST, 2).expect("per core");
    world.run(200);
    assert_eq!(world.children(EAST).len(), 3);
    world.assert_agreed();
    assert_eq!(world.sent.len(), 8, "no changed message was answered");
    world.with_ike(WEST, |now, ike| ike.close(now, PEER));
    world.run(50);
    assert!(!world.up(EAST));
}

#[test]
fn first_messages_cut_or_changed_cost_a_bounded_number_of_half_open_handshakes() {
    let (mut world, mut left) = (World::new(3), 1);
    world.tap = Some(Box::new(move |flight: &Flight| {
        let request = flight.message[18] == 34 && flight.message[19] & 0x20 == 0;
        if request && left > 0 {
            left -= 1;
            return mutations(&flight.message);
        }
        vec![]
    }));
    world.initiate(WEST, true);
    world.run(8);
    assert_eq!(world.sites[EAST].ike.half_open(), 3, "from then on its address has to show a cookie");
    // West takes the first answer for the right one, which it is not; the next try succeeds.
    world.until(100_000, "up", World::both_up);
    world.run(100_000);
    world.assert_agreed();
    assert_eq!(world.sites[EAST].ike.half_open(), 0, "and they pass");
    assert!(world.sites[EAST].events.len() <= 25, "a stranger cannot fill the log: {}", world.sites[EAST].events.len());
}

#[test]
fn a_forged_answer_to_the_first_message_costs_at_most_one_try() {
    // Nothing in the first exchange is protected: whoever reads it on the wire can answer first. The try fails, and
    // the next one succeeds.
    for seed in 0..40 {
        let (mut world, mut left) = (World::new(seed), 1);
        let mut chance = Chance::new(seed);
        world.tap = Some(Box::new(move |flight: &Flight| {
            if left == 0 || flight.message[18] != 34 || flight.message[19] & 0x20 == 0 {
                return vec![];
            }
            left -= 1;
            let mut forged = flight.message.clone();
            (0..3).for_each(|_| {
                let at = chance.below(forged.len() as u64) as usize;
                forged[at] ^= 1 << chance.below(8);
            });
            vec![forged]
        }));
        world.initiate(WEST, true);
        world.until(100_000, "up", World::both_up);
        world.run(100_000);
        world.assert_agreed();
    }
}

#[test]
fn a_forged_refusal_does_not_end_a_try_that_a_real_answer_can_still_save() {
    let mut world = World::new(4);
    world.tap = Some(Box::new(|flight: &Flight| {
        if flight.message[18] != 34 || flight.message[19] & 0x20 == 0 {
            return vec![];
        }
        // NO_PROPOSAL_CHOSEN, and INVALID_KE_PAYLOAD for a group that we never offered, as anybody on the way can send them.
        let forge = |notify: &[u8]| {
            let mut forged = flight.message[..28].to_vec();
            forged[16] = 41;
            forged[24..28].copy_from_slice(&(32 + notify.len() as u32).to_be_bytes());
            forged.extend_from_slice(&[0, 0, 0, 4 + notify.len() as u8]);
            forged.extend_from_slice(notify);
            forged
        };
        vec![forge(&[0, 0, 0, 14]), forge(&[0, 0, 0, 17, 0, 14]), forge(&[0, 0, 0x40, 6])]
    }));
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.assert_agreed();
}

#[test]
fn a_flood_of_first_messages_meets_cookies_and_an_honest_peer_comes_through() {
    let mut world = World::new(5);
    let mut messages = first_messages();
    for number in 0..10_000u32 {
        let message = messages.next().expect("endless");
        let before = world.sent.len();
        world.inject(EAST, stranger(number), &message);
        assert!(world.sent[before..].iter().all(|(_, answer)| answer.len() <= message.len()), "no answer is longer than its request");
    }
    assert_eq!(world.sites[EAST].ike.half_open(), 30);
    assert_eq!(world.sent.len(), 10_000, "each got an answer: a handshake's or a cookie");
    assert_eq!(world.sent.last().expect("one").1.len(), 28 + 8 + 33);
    world.initiate(WEST, true);
    world.until(200, "up in spite of the flood", World::both_up);
    world.assert_agreed();
    let west: Vec<usize> = world.sent.iter().filter(|(who, _)| *who == WEST).map(|(_, message)| message.len()).collect();
    assert_eq!(west.len(), 3, "one more message, with the cookie");
    assert_eq!(west[1], west[0] + 8 + 33);
    world.run(31_000);
    assert_eq!(world.sites[EAST].ike.half_open(), 0);
    assert!(world.both_up());
}

/// The same first message with the cookie that it was answered with.
fn with_cookie(message: &[u8], answer: &[u8]) -> Vec<u8> {
    let mut proven = [&message[..28], &[message[16]], &answer[29..], &message[28..]].concat();
    proven[16] = 41;
    let length = proven.len() as u32;
    proven[24..28].copy_from_slice(&length.to_be_bytes());
    proven
}

/// Shows the cookie that the sender is asked for; whether that was answered.
fn prove(world: &mut World, from: SocketAddr, message: &[u8]) -> bool {
    world.inject(EAST, from, message);
    let answer = world.sent.pop().expect("a cookie").1;
    world.inject(EAST, from, &with_cookie(message, &answer));
    world.sent.pop().is_some()
}

#[test]
fn one_address_cannot_push_out_the_others() {
    let config = penstock_ike::Config { cookie_over_half_open: usize::MAX, ..penstock_ike::Config::default() };
    let mut world = World::with(6, config.clone(), config, lab::west_config(), lab::east_config());
    let mut messages = first_messages();
    // Whoever only forges an address gets no further than this
    for _ in 0..100 {
        world.inject(EAST, stranger(1), &messages.next().expect("endless"));
    }
    assert_eq!(world.sites[EAST].ike.half_open(), 3);
    // and whoever really has it has a bound of its own, and takes the place of what it began only when the time of that is over.
    world.sent.clear();
    let taken = (0..1_100).filter(|_| prove(&mut world, stranger(1), &messages.next().expect("endless"))).count();
    assert_eq!((taken, world.sites[EAST].ike.half_open()), (1_021, 1_024));
    world.run(5_000);
    assert!(prove(&mut world, stranger(1), &messages.next().expect("endless")));
    assert_eq!(world.sites[EAST].ike.half_open(), 1_024);
    for number in 0..2_000 {
        world.inject(EAST, stranger(2 + number), &messages.next().expect("endless"));
    }
    assert_eq!(world.sites[EAST].ike.half_open(), 2_048, "and all of them together have a bound");
}

#[test]
fn a_first_message_longer_than_any_is_ignored() {
    let mut world = World::new(15);
    let message = first_messages().next().expect("one");
    // A private notification at the end, of so many octets.
    let padded = |length: usize| {
        let (mut at, mut long) = (28, message.clone());
        while message[at] != 0 {
            at += usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
        }
        long[at] = 41;
        let more = length - message.len();
        long.extend([0, 0]);
        long.extend((more as u16).to_be_bytes());
        long.extend([0, 0, 0xa0, 1]);
        long.resize(length, 0);
        long[24..28].copy_from_slice(&(length as u32).to_be_bytes());
        long
    };
    world.inject(EAST, stranger(1), &padded(4_097));
    assert_eq!((world.sent.len(), world.sites[EAST].ike.half_open()), (0, 0));
    world.inject(EAST, stranger(1), &padded(4_096));
    assert_eq!((world.sent.len(), world.sites[EAST].ike.half_open()), (1, 1));
}

#[test]
fn a_short_first_message_has_to_prove_its_address_before_it_gets_a_long_answer() {
    let mut world = World::new(7);
    let message = first_messages().next().expect("one");
    // Without NAT detection and vendor ID, which stand behind the nonce, the answer would be longer than the request.
    let mut short = message.clone();
    let mut at = 28;
    while message[at] != 41 {
        at += usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
    }
    let end = at + usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
    short.truncate(end);
    short[at] = 0;
    short[24..28].copy_from_slice(&(end as u32).to_be_bytes());
    world.inject(EAST, stranger(1), &short);
    assert_eq!(world.sites[EAST].ike.half_open(), 0);
    assert_eq!(world.sent[0].1.len(), 28 + 8 + 33, "a cookie");
}

#[test]
fn repetitions_get_the_same_answer_and_change_nothing() {
    let mut world = World::new(8);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let west = world.sites[WEST].address;
    let (first, auth) = (world.sent[0].1.clone(), world.sent[2].1.clone());
    let answer = world.sent[3].1.clone();
    world.inject(EAST, west, &auth);
    assert_eq!(world.sent.last().expect("one").1, answer, "the same answer, octet for octet");
    let count = world.sent.len();
    let mut changed = auth.clone();
    *changed.last_mut().expect("an octet") ^= 1;
    world.inject(EAST, west, &changed);
    world.inject(EAST, west, &first);
    assert_eq!(world.sent.len(), count, "neither a changed one nor a late first message is answered");
    world.create_child(WEST, 1).expect("per core");
    world.run(100);
    let count = world.sent.len();
    world.inject(EAST, west, &auth);
    assert_eq!(world.sent.len(), count, "what lies two back is older than the window");
    world.assert_agreed();
    assert_eq!(world.sites[EAST].ike.half_open(), 0);
}

#[test]
fn a_first_message_repeated_is_answered_alike_while_it_is_half_open() {
    let mut world = World::new(9);
    let message = first_messages().next().expect("one");
    world.inject(EAST, stranger(1), &message);
    world.inject(EAST, stranger(1), &message);
    assert_eq!(world.sent[0].1, world.sent[1].1);
    assert_eq!(world.sites[EAST].ike.half_open(), 1);
    world.inject(EAST, stranger(2), &message);
    assert_eq!(world.sites[EAST].ike.half_open(), 2, "from elsewhere it is another one");
}

#[test]
fn a_higher_version_and_an_unknown_critical_payload_are_answered_briefly() {
    let mut world = World::new(10);
    let message = first_messages().next().expect("one");
    let mut newer = message.clone();
    newer[17] = 0x30;
    world.inject(EAST, stranger(1), &newer);
    let answer = world.sent.last().expect("an answer").1.clone();
    assert_eq!((answer[17], answer[19], &answer[28..]), (0x20, 0x20, [0, 0, 0, 8, 0, 0, 0, 5].as_slice()), "INVALID_MAJOR_VERSION");
    // A payload of kind 200, critical, in front of the others.
    let mut critical = [&message[..28], &[message[16], 0x80, 0, 4], &message[28..]].concat();
    critical[16] = 200;
    let length = critical.len() as u32;
    critical[24..28].copy_from_slice(&length.to_be_bytes());
    world.inject(EAST, stranger(1), &critical);
    let answer = world.sent.last().expect("an answer").1.clone();
    assert_eq!(answer[28..], [0, 0, 0, 9, 0, 0, 0, 1, 200], "UNSUPPORTED_CRITICAL_PAYLOAD");
    let count = world.sent.len();
    // The same payload without the flag is skipped.
    critical[29] = 0;
    world.inject(EAST, stranger(1), &critical);
    assert_eq!(world.sites[EAST].ike.half_open(), 1);
    // Neither a response of a higher version, nor a lower version, nor a request too short for our answer is answered.
    newer[19] = 0x28;
    world.inject(EAST, stranger(1), &newer);
    newer[17] = 0x10;
    newer[19] = 0x08;
    world.inject(EAST, stranger(1), &newer);
    let mut bare = message[..28].to_vec();
    bare[17] = 0x30;
    bare[24..28].copy_from_slice(&28u32.to_be_bytes());
    world.inject(EAST, stranger(1), &bare);
    assert_eq!(world.sent.len(), count + 1);
}

#[test]
fn a_first_message_that_cannot_be_one_is_ignored() {
    let mut world = World::new(14);
    let message = first_messages().next().expect("one");
    // The responder's SPI is known, the message id is not the first, the sender is not the initiator.
    for (at, value) in [(15, 1), (23, 1), (19, 0)] {
        let mut odd = message.clone();
        odd[at] = value;
        world.inject(EAST, stranger(1), &odd);
    }
    assert_eq!((world.sent.len(), world.sites[EAST].ike.half_open()), (0, 0));
    world.inject(EAST, stranger(1), &message);
    assert_eq!((world.sent.len(), world.sites[EAST].ike.half_open()), (1, 1));
}

#[test]
fn messages_of_one_conversation_mean_nothing_in_another() {
    let mut world = World::new(11);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let count = world.sent.len();
    for (who, message) in conversation(12).into_iter().filter(|(_, message)| message[18] != 34) {
        let from = world.sites[who].address;
        world.inject(1 - who, from, &message);
    }
    assert_eq!(world.sent.len(), count);
    world.assert_agreed();
}

#[test]
fn a_whole_conversation_replayed_brings_nothing_back() {
    let mut world = World::new(13);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.with_ike(WEST, |now, ike| ike.close(now, PEER));
    world.with_ike(EAST, |now, ike| ike.close(now, PEER));
    world.run(20);
    for (who, message) in world.sent.clone() {
        let from = world.sites[who].address;
        world.inject(1 - who, from, &message);
    }
    world.run(60_000);
    assert!(!world.up(WEST) && !world.up(EAST));
    assert_eq!((world.sites[WEST].ups, world.sites[EAST].ups), (1, 1));
    assert_eq!((world.sites[WEST].ike.half_open(), world.sites[EAST].ike.half_open()), (0, 0));
}
