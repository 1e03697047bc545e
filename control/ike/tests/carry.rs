//! Given a site whose engine is to be exchanged under traffic, when every child gets a successor while its predecessor goes on, then
//! whether the exchange comes about or not, no packet is without a home.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test may fail

mod lab;

use std::collections::BTreeSet;

use lab::{EAST, WEST, Wire, World, east_config, west_config};

fn inbound(world: &World, who: usize) -> BTreeSet<u32> {
    world.children(who).iter().map(|(inbound, _)| *inbound).collect()
}

/// Those that its engine has, on their way out as well.
fn held(world: &World, who: usize) -> BTreeSet<u32> {
    world.ike_sas(who).iter().flat_map(|sa| &sa.children).map(|child| child.inbound_spi).collect()
}

/// West asks for successors of everything, until all are there.
fn carry(world: &mut World, before: &BTreeSet<u32>) {
    let site = &mut world.sites[WEST];
    site.engine.two = true;
    site.ike.hold();
    for _ in 0..1_000 {
        let left = world.sites[WEST].ike.left_behind(|spi| !before.contains(&spi));
        let succeeded = world.sites[WEST].ike.left_behind(|spi| before.contains(&spi)).len();
        if left.is_empty() && succeeded == before.len() {
            return;
        }
        let (now, site) = (world.now, &mut world.sites[WEST]);
        for spi in left {
            // What is under way already comes by itself.
            let _ = site.ike.rekey_child(now, spi, &mut site.source);
        }
        world.drain(WEST);
        world.run(20);
    }
    panic!("not all were carried over\n{}", world.describe());
}

fn ends_well(world: &mut World, children: usize) {
    world.wire = Wire { delay_ms: 5, ..Wire::default() };
    world.run(40_000);
    world.assert_agreed();
    for who in [WEST, EAST] {
        assert_eq!(world.children(who).len(), children, "{}", world.describe());
        assert_eq!(world.sites[who].engine.counts(world.now), (children, children, 0), "{}", world.describe());
        assert!(world.sites[who].downs.is_empty(), "{}", world.describe());
    }
    world.assert_keys_are_used_once();
    assert_eq!(world.lost(), 0, "{}", world.describe());
}

#[test]
fn what_is_carried_over_loses_nothing_and_leaves_nothing() {
    for seed in 0..30 {
        let mut world = World::busy(seed, west_config(), east_config());
        if seed % 3 == 2 {
            world.wire = Wire { loss_percent: 10, copy_percent: 10, delay_ms: 5, jitter_ms: 40 };
        }
        let before = inbound(&world, WEST);
        carry(&mut world, &before);
        // For as long as it takes the predecessors carry the packets, both ways.
        world.run(3_000);
        assert!(before.is_subset(&held(&world, WEST)), "seed {seed}\n{}", world.describe());
        world.sites[WEST].engine.hand_over();
        world.with_ike(WEST, |now, ike| ike.let_go(now));
        ends_well(&mut world, 3);
        assert!(before.is_disjoint(&inbound(&world, WEST)), "seed {seed}");
    }
}

#[test]
fn what_is_taken_back_loses_nothing_and_leaves_nothing() {
    for seed in 0..30 {
        let mut world = World::busy(seed, west_config(), east_config());
        let before = inbound(&world, WEST);
        carry(&mut world, &before);
        if seed % 2 == 1 {
            // Their keys may be used up before it is decided, and the successors get successors.
            let both = held(&world, WEST);
            carry(&mut world, &both.difference(&before).copied().collect());
        }
        world.run(seed * 20);
        world.with_ike(WEST, |now, ike| ike.take_back(now));
        world.sites[WEST].engine.two = false;
        world.run(500);
        assert_eq!(inbound(&world, WEST), before, "seed {seed}: the predecessors go on\n{}", world.describe());
        ends_well(&mut world, 3);
    }
}

#[test]
fn a_peer_that_wants_to_rekey_what_has_no_successor_yet_is_asked_to_wait() {
    let mut world = World::busy(78, west_config(), east_config());
    let before = inbound(&world, WEST);
    world.sites[WEST].engine.two = true;
    world.sites[WEST].ike.hold();
    let (old, made) = (world.children(EAST)[0].0, world.sites[WEST].ups);
    let (now, site) = (world.now, &mut world.sites[EAST]);
    site.ike.rekey_child(now, old, &mut site.source).expect("it begins");
    world.drain(EAST);
    world.run(300);
    assert_eq!((inbound(&world, WEST), world.sites[WEST].ups), (before.clone(), made), "{}", world.describe());
    carry(&mut world, &before);
    world.sites[WEST].engine.hand_over();
    world.with_ike(WEST, |now, ike| ike.let_go(now));
    ends_well(&mut world, 3);
}

#[test]
fn a_peer_that_wants_to_rekey_meanwhile_is_asked_to_wait() {
    let mut world = World::busy(77, west_config(), east_config());
    let before = inbound(&world, WEST);
    let old = world.children(EAST)[0].0;
    carry(&mut world, &before);
    let newest = |world: &World| world.children(EAST).last().expect("a child").0;
    for spi in [old, newest(&world)] {
        let (now, site) = (world.now, &mut world.sites[EAST]);
        let _ = site.ike.rekey_child(now, spi, &mut site.source);
        world.drain(EAST);
    }
    let made = world.sites[WEST].ups;
    world.run(2_000);
    assert_eq!(world.sites[WEST].ups, made, "nothing new is made\n{}", world.describe());
    assert!(before.is_subset(&held(&world, WEST)), "and nothing is deleted\n{}", world.describe());
    world.sites[WEST].engine.hand_over();
    world.with_ike(WEST, |now, ike| ike.let_go(now));
    ends_well(&mut world, 3);
}
