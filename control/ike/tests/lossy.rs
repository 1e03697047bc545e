//! Given a wire that loses, copies, delays and reorders, both sides end with the same keys, whatever the seed.

mod lab;

use lab::{EAST, WEST, Wire, World};

const BAD: Wire = Wire { loss_percent: 20, copy_percent: 20, delay_ms: 5, jitter_ms: 400 };

/// Runs until nothing is under way any more, on a wire that has healed.
fn calm(world: &mut World, seed: u64) {
    world.wire = Wire { delay_ms: 5, ..Wire::default() };
    world.until(200_000, &format!("seed {seed}: one IKE SA each, up"), |world| {
        world.both_up() && world.ike_sas(WEST).len() == 1 && world.ike_sas(EAST).len() == 1
    });
    world.run(100_000);
    assert!(world.both_up(), "seed {seed}");
    world.assert_agreed();
    for who in [WEST, EAST] {
        let children = world.children(who).len();
        assert_eq!(
            world.sites[who].engine.counts(world.now),
            (children, children, 0),
            "seed {seed}: the engine holds what is agreed, no more"
        );
    }
}

#[test]
fn one_side_calls_over_a_bad_wire() {
    for seed in 0..200 {
        let mut world = if seed % 2 == 0 { World::mixed(seed) } else { World::new(seed) };
        world.wire = BAD;
        world.initiate(WEST, true);
        world.run(10_000);
        calm(&mut world, seed);
    }
}

#[test]
fn both_sides_call_at_once_over_a_bad_wire() {
    for seed in 0..300 {
        let mut world = if seed % 2 == 0 { World::mixed(seed) } else { World::new(seed) };
        world.wire = BAD;
        world.initiate(WEST, true);
        world.run(seed % 50 * 20);
        world.initiate(EAST, true);
        world.run(30_000);
        calm(&mut world, seed);
    }
}

#[test]
fn children_per_core_are_made_over_a_bad_wire_from_both_sides() {
    for seed in 0..100 {
        let mut world = World::new(seed);
        world.initiate(WEST, true);
        world.until(100, "up", World::both_up);
        world.wire = BAD;
        for core in 0..3 {
            world.create_child(WEST, core).expect("per core");
            world.create_child(EAST, core).expect("per core");
        }
        world.run(40_000);
        world.wire = Wire { delay_ms: 5, ..Wire::default() };
        world.run(40_000);
        assert_eq!(world.children(WEST).len(), 7, "seed {seed}\n{}", world.describe());
        world.assert_agreed();
    }
}

#[test]
fn a_seed_replays_to_the_byte() {
    let run = || {
        let mut world = World::new(42);
        world.wire = BAD;
        world.initiate(WEST, true);
        world.initiate(EAST, true);
        world.run(60_000);
        world.sent
    };
    assert_eq!(run(), run());
}

#[test]
fn a_seed_replays_step_by_step_where_the_library_draws_keys_of_its_own() {
    let run = || {
        let mut world = World::mixed(42);
        world.wire = BAD;
        world.initiate(WEST, true);
        world.initiate(EAST, true);
        world.run(60_000);
        // Who sent what kind of message with which id, and how long it was.
        world.sent.into_iter().map(|(who, message)| (who, message[..28].to_vec(), message.len())).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn a_peer_that_is_not_there_is_called_for_ever_and_found_within_five_seconds() {
    let mut world = World::new(5);
    world.sites[EAST].dead = true;
    world.initiate(WEST, true);
    world.run(3_600_000);
    let tries = world.sites[WEST].downs.len();
    assert!((55..=60).contains(&tries), "{tries} tries in an hour");
    let told = &world.sites[WEST].downs[0];
    assert!(told.starts_with("east does not answer: ") && told.contains(" tries in 6"), "{told:?}");
    world.sites[EAST].dead = false;
    world.until(5_000, "up", World::both_up);
    world.run(10_000);
    world.assert_agreed();
}
