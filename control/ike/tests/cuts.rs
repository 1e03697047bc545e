//! Given two sites under traffic and a wire that is cut at any moment of an exchange, when the wire is whole again, then traffic of every core is
//! back soon, and meanwhile neither site talks more than it has to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test may fail

mod lab;

use lab::{EAST, PEER, WEST, World, east_config, west_config};
use penstock_ike::Config;

/// Cores of each site.
const CORES: u32 = 2;

/// What is under way when the wire is cut.
#[derive(Clone, Copy, Debug)]
enum Step {
    Nothing,
    FurtherChild,
    RekeyChild,
    RekeyIke,
}

const STEPS: [Step; 4] = [Step::Nothing, Step::FurtherChild, Step::RekeyChild, Step::RekeyIke];

/// Both sites up, with traffic of every core; a peer that is silent for so long counts as gone.
fn busy(seed: u64, dead_after_ms: u64) -> World {
    let (mut west, mut east) = (west_config(), east_config());
    (west.dpd.within_ms, east.dpd.within_ms) = (dead_after_ms, dead_after_ms);
    let mut world = World::with(seed, Config::default(), Config::default(), west, east);
    world.initiate(WEST, true);
    world.until(5_000, "both up", World::both_up);
    (world.traffic_every, world.cores) = (Some(10), CORES);
    world.run(2_000);
    world
}

fn rekey(world: &mut World, who: usize) {
    let (now, site) = (world.now, &mut world.sites[who]);
    site.ike.rekey(now, PEER, &mut site.source).expect("it is up");
    world.drain(who);
}

/// A cut of `length` ms that begins `phase` ms after the step. Gives how long after it traffic of the last core was back, and the most messages
/// that one site sent in a second.
fn cut(world: &mut World, step: Step, phase: u64, length: u64) -> (u64, usize) {
    match step {
        Step::Nothing => {}
        Step::FurtherChild => _ = world.create_child(WEST, 1).expect("a core without an SA"),
        Step::RekeyChild => rekey(world, WEST),
        Step::RekeyIke => world.with_ike(WEST, |now, ike| ike.renew(now, PEER).expect("it is up")),
    }
    world.run(phase);
    world.cut = true;
    let (end, mut most) = (world.now + length, 0);
    while world.now < end {
        world.sent.clear();
        world.run((end - world.now).min(1_000));
        let of = |site| world.sent.iter().filter(|(who, _)| *who == site).count();
        most = most.max(of(WEST)).max(of(EAST));
    }
    world.cut = false;
    world.arrived.clear();
    let healed = world.now;
    let all = |world: &World| world.arrived.len() == 2 * CORES as usize;
    world.until(120_000, "traffic of every core", all);
    (world.now - healed, most)
}

#[test]
fn after_a_cut_that_kills_nothing_traffic_is_back_within_a_second_whatever_was_under_way() {
    let mut worst = (0, String::new());
    for step in STEPS {
        for phase in 0..30 {
            for length in [100, 1_000, 10_000, 20_000] {
                let mut world = busy(phase * 7 + length, 60_000);
                let (back, most) = cut(&mut world, step, phase, length);
                let what = format!("{step:?}, cut after {phase} ms for {length} ms");
                worst = worst.max((back, what.clone()));
                assert!(most <= 2, "{what}: {most} messages in a second");
                world.run(150_000);
                world.assert_agreed();
                world.assert_keys_are_used_once();
            }
        }
    }
    assert!(worst.0 < 1_000, "{worst:?}");
}

#[test]
fn after_a_cut_that_ends_the_tunnel_it_is_back_within_five_seconds_however_long_that_was() {
    let mut worst = (0, 0);
    for seed in 0..40 {
        for length in [5_000, 45_000, 60_000 + seed * 250, 600_000 + seed * 1_700] {
            let mut world = busy(seed, 4_000);
            let (back, most) = cut(&mut world, Step::Nothing, 0, length);
            worst = worst.max((back, length));
            assert!(most <= 2, "{most} messages in a second of {length} ms");
        }
    }
    assert!(worst.0 < 5_000, "{worst:?}");
}
