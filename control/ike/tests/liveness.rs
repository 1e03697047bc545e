//! Given two sites, when one falls silent, then the other finds it within the configured time, and neither asks while
//! packets come.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test may fail

mod lab;

use lab::{EAST, PEER, WEST, World, east_config, west_config};
use penstock_ike::{Config, Dpd, DpdAction, PeerState, Start};

/// West looks after east; east, with an hour of patience, asks nothing.
fn watched(seed: u64, within_ms: u64, action: DpdAction) -> World {
    let (mut west, mut east) = (west_config(), east_config());
    west.dpd = Dpd { within_ms, action };
    east.dpd.within_ms = 3_600_000;
    east.start = Start::Wait;
    let mut world = World::with(seed, Config::default(), Config::default(), west, east);
    world.initiate(WEST, true);
    world.until(5_000, "both up", World::both_up);
    world.sent.clear();
    world
}

fn state(world: &World, who: usize) -> PeerState {
    world.sites[who].ike.snapshot(world.now)[0].state
}

/// How many milliseconds west still takes its dead peer for a living one.
fn found_after(world: &mut World, within_ms: u64) -> u64 {
    let died = world.now;
    world.sites[EAST].dead = true;
    world.until(within_ms + 100, "west has noticed", |world| !world.up(WEST));
    world.now - died
}

#[test]
fn a_vanished_peer_is_found_within_the_configured_time_and_not_before_it_was_asked() {
    for (seed, within_ms) in [(1, 1_000), (2, 4_000), (3, 30_000), (4, 120_000)] {
        let mut world = watched(seed, within_ms, DpdAction::Clear);
        let after = found_after(&mut world, within_ms);
        assert!((within_ms - 100..=within_ms).contains(&after), "after {after} of {within_ms} ms");
        let probes = world.sent.iter().filter(|(who, _)| *who == WEST).count();
        assert!((2..=22).contains(&probes), "{probes} tries in {within_ms} ms");
        assert!(world.sites[WEST].downs.iter().any(|why| why.contains("does not answer")), "{:?}", world.sites[WEST].downs);
        assert!(world.ike_sas(WEST).is_empty(), "its SAs are gone");
    }
}

#[test]
fn packets_are_life_and_then_nothing_is_asked() {
    let mut world = watched(5, 4_000, DpdAction::Clear);
    world.traffic_every = Some(1_500);
    world.run(60_000);
    assert_eq!(world.sent.iter().filter(|(who, _)| *who == WEST).count(), 0, "no probe among packets");
    assert!(world.up(WEST));
}

#[test]
fn an_idle_peer_is_asked_twice_within_the_time_and_stays() {
    let mut world = watched(6, 4_000, DpdAction::Clear);
    world.run(60_000);
    let probes = world.sent.iter().filter(|(who, _)| *who == WEST).count();
    assert!((25..=30).contains(&probes), "{probes} probes in a minute");
    assert!(world.up(WEST));
}

#[test]
fn a_lossy_wire_is_no_death() {
    for seed in 0..20 {
        // Five tries or six fit into the second half: all of them are lost once in some hundred thousand times.
        let mut world = watched(seed, 30_000, DpdAction::Clear);
        world.wire.loss_percent = 5;
        world.run(300_000);
        assert!(world.up(WEST), "seed {seed}: {:?}", world.sites[WEST].downs);
    }
}

#[test]
fn a_peer_to_be_restarted_is_tried_again_until_it_is_back() {
    let mut world = watched(7, 4_000, DpdAction::Restart);
    found_after(&mut world, 4_000);
    world.run(20_000);
    world.restart(EAST, east_config(), false);
    world.sites[EAST].dead = false;
    world.until(30_000, "both up again", World::both_up);
    world.assert_agreed();
}

#[test]
fn a_peer_on_hold_is_tried_when_a_packet_wants_it() {
    let mut world = watched(8, 4_000, DpdAction::Hold);
    found_after(&mut world, 4_000);
    world.sent.clear();
    world.run(600_000);
    assert_eq!(world.sent.len(), 0, "nobody asks for it");
    let mut east = east_config();
    east.start = Start::Wait;
    world.restart(EAST, east, false);
    world.sites[EAST].dead = false;
    let site = &mut world.sites[WEST];
    site.ike.acquire(world.now, PEER, &mut site.source);
    world.drain(WEST);
    world.until(5_000, "both up again", World::both_up);
}

#[test]
fn a_cleared_peer_is_left_alone_until_it_comes() {
    let mut world = watched(9, 4_000, DpdAction::Clear);
    found_after(&mut world, 4_000);
    world.sent.clear();
    let site = &mut world.sites[WEST];
    site.ike.acquire(world.now, PEER, &mut site.source);
    world.drain(WEST);
    world.run(600_000);
    assert_eq!((world.sent.len(), state(&world, WEST)), (0, PeerState::Down), "neither time nor packets call it");
    world.restart(EAST, east_config(), false);
    world.sites[EAST].dead = false;
    world.initiate(EAST, true);
    world.until(5_000, "both up again", World::both_up);
    // And it is looked after again.
    found_after(&mut world, 4_000);
}

#[test]
fn a_machine_that_slept_asks_before_it_takes_anybody_for_dead() {
    let mut world = watched(10, 4_000, DpdAction::Clear);
    // The machine sleeps for a minute, its clock goes on; the peer is there.
    world.now += 60_000;
    world.run(10_000);
    assert!(world.up(WEST), "{:?}", world.sites[WEST].downs);
}

/// West begins as configured; east only answers.
fn starting(start: Start) -> World {
    let (mut west, mut east) = (west_config(), east_config());
    (west.start, east.start) = (start, Start::Wait);
    World::with(21, Config::default(), Config::default(), west, east)
}

fn acquire(world: &mut World) {
    let (now, site) = (world.now, &mut world.sites[WEST]);
    site.ike.acquire(now, PEER, &mut site.source);
    world.drain(WEST);
}

#[test]
fn a_peer_on_demand_is_tried_with_the_first_packet_and_only_once_at_a_time() {
    let mut world = starting(Start::Demand);
    world.run(60_000);
    assert!(world.sent.is_empty(), "nobody wants to go there");
    acquire(&mut world);
    acquire(&mut world);
    world.until(1_000, "both up", World::both_up);
    acquire(&mut world);
    world.run(5_000);
    world.assert_agreed();
    assert_eq!(world.sites[WEST].ups, 1, "what is up is enough");
}

#[test]
fn a_peer_on_demand_that_does_not_answer_gets_a_pause_and_no_try_without_a_packet() {
    let mut world = starting(Start::Demand);
    world.sites[EAST].dead = true;
    acquire(&mut world);
    world.until(120_000, "it is given up", |world| !world.sites[WEST].downs.is_empty());
    let sent = world.sent.len();
    acquire(&mut world);
    assert_eq!(world.sent.len(), sent, "not at once");
    world.run(600_000);
    assert_eq!(world.sent.len(), sent, "not without a packet");
    world.sites[EAST].dead = false;
    acquire(&mut world);
    world.until(1_000, "both up", World::both_up);
}

#[test]
fn a_peer_that_has_to_come_is_never_tried() {
    let mut world = starting(Start::Wait);
    acquire(&mut world);
    world.run(60_000);
    assert!(world.sent.is_empty());
    // By order it is.
    world.initiate(WEST, true);
    world.until(1_000, "both up", World::both_up);
}
