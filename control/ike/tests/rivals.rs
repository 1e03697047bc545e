//! Given two IKE SAs of one peer, exactly one stays, and at no moment a packet is without a home.

mod lab;

use lab::{EAST, PEER, WEST, Wire, World, east_config, west_config};
use penstock_ike::Config;

fn one_each(world: &World) -> bool {
    world.both_up() && world.ike_sas(WEST).len() == 1 && world.ike_sas(EAST).len() == 1
}

#[test]
fn both_begin_at_once_and_one_stays_without_a_gap() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.traffic_every = Some(1);
        world.engine_ms = seed % 4;
        world.wire = Wire { delay_ms: 5 + seed % 7, ..Wire::default() };
        world.initiate(WEST, true);
        world.run(seed % 15); // before West has reached it, or it would not say that it holds nothing
        world.initiate(EAST, true);
        world.until(5_000, "one each", one_each);
        world.run(20_000);
        world.assert_agreed();
        assert_eq!((world.sites[WEST].engine.lost(), world.sites[EAST].engine.lost()), (0, 0), "seed {seed}\n{}", world.describe());
        assert!(world.sites[WEST].downs.is_empty() && world.sites[EAST].downs.is_empty(), "seed {seed}: never down");
    }
}

#[test]
fn who_has_only_said_hello_when_the_peer_is_done_says_no_more() {
    let mut world = World::new(1);
    world.initiate(WEST, true);
    world.run(9);
    world.initiate(EAST, true);
    world.run(100);
    let proofs = world.sent.iter().filter(|(who, message)| *who == EAST && message[18] == 35 && message[19] & 0x20 == 0);
    assert_eq!((proofs.count(), one_each(&world)), (0, true));
}

#[test]
fn the_one_with_the_lowest_of_the_four_nonces_goes_whoever_began_it() {
    let mut kept_west = 0;
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.initiate(WEST, true);
        world.initiate(EAST, true);
        world.run(30);
        assert_eq!(world.ike_sas(WEST).iter().filter(|sa| sa.state == "established").count(), 2, "they crossed");
        world.until(5_000, "one each", one_each);
        kept_west += u32::from(world.ike_sas(WEST)[0].initiator);
        assert_ne!(world.ike_sas(WEST)[0].initiator, world.ike_sas(EAST)[0].initiator);
    }
    assert!((5..=35).contains(&kept_west), "the nonces decide, not the side: {kept_west} of 40");
}

#[test]
fn both_begin_at_once_on_a_wire_that_loses() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.traffic_every = Some(10);
        world.wire = Wire { loss_percent: 30, copy_percent: 10, delay_ms: 5, jitter_ms: 60 };
        world.initiate(WEST, true);
        world.run(seed % 40);
        world.initiate(EAST, true);
        world.until(300_000, "one each", one_each);
        world.wire = Wire { delay_ms: 5, ..Wire::default() };
        world.traffic_every = None;
        world.run(150_000);
        world.assert_agreed();
    }
}

#[test]
fn a_side_replaces_its_ike_sa_on_purpose_without_a_gap() {
    for (seed, who) in [(1, WEST), (2, EAST), (3, WEST), (4, EAST)] {
        let mut world = World::new(seed);
        world.traffic_every = Some(1);
        world.initiate(WEST, true);
        world.until(100, "up", World::both_up);
        let before = world.ike_sas(WEST)[0].local_spi;
        world.run(1_000);
        world.initiate(who, false);
        world.until(2_000, "the new one alone", |world| one_each(world) && world.ike_sas(WEST)[0].local_spi != before);
        world.run(20_000);
        world.assert_agreed();
        assert_eq!((world.sites[WEST].engine.lost(), world.sites[EAST].engine.lost()), (0, 0), "{}", world.describe());
    }
}

#[test]
fn a_new_daemon_adopts_a_running_engine_without_a_gap() {
    // Whoever had begun the old IKE SA, and whichever side is restarted.
    for (seed, began, restarted) in [(1, WEST, WEST), (2, EAST, WEST), (3, WEST, EAST), (4, EAST, EAST)] {
        let mut world = World::new(seed);
        world.traffic_every = Some(1);
        world.initiate(began, true);
        world.until(100, "up", World::both_up);
        world.run(1_000);
        // When one side's daemon is killed; its engine goes on
        world.sites[restarted].dead = true;
        world.run(2_000);
        world.sites[restarted].dead = false;
        world.restart(restarted, if restarted == WEST { west_config() } else { east_config() }, true);
        world.initiate(restarted, false);
        world.run(1_000);
        assert!(world.both_up());
        // Then the other side keeps the old children for a moment, and drops their keys when the new IKE SA has answered
        assert_eq!(world.ike_sas(1 - restarted).len(), 2, "no moment without children");
        let served = |world: &World| world.ike_sas(1 - restarted).iter().filter(|sa| !sa.children.is_empty()).count();
        world.until(5_000, "the old children are gone", |world| served(world) == 1);
        world.until(200_000, "one each", one_each);
        world.run(20_000);
        let lost = (world.sites[WEST].engine.lost(), world.sites[EAST].engine.lost());
        assert_eq!(lost, (0, 0), "began {began}, restarted {restarted}\n{}", world.describe());
        assert_eq!(world.ike_sas(WEST)[0].local_spi, world.ike_sas(EAST)[0].remote_spi);
    }
}

#[test]
fn a_peer_that_has_forgotten_everything_is_believed_at_once() {
    for (began, restarted) in [(WEST, WEST), (EAST, WEST), (WEST, EAST), (EAST, EAST)] {
        let mut world = World::new(9);
        world.initiate(began, true);
        world.until(100, "up", World::both_up);
        let config = if restarted == WEST { west_config() } else { east_config() };
        world.restart(restarted, config, false);
        world.initiate(restarted, true);
        world.until(100, "replaced at once", one_each);
        world.run(10_000);
        world.assert_agreed();
        let children = world.children(WEST).len();
        assert_eq!(world.sites[WEST].engine.counts(world.now), (children, children, 0));
        assert_eq!(world.sites[EAST].engine.counts(world.now), (children, children, 0));
    }
}

#[test]
fn what_we_hold_ourselves_goes_too_when_we_say_that_we_hold_nothing() {
    // The engine died, its control did not: a new IKE SA with INITIAL_CONTACT replaces everything on both sides.
    let mut world = World::new(11);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let before = world.ike_sas(WEST)[0].local_spi;
    world.initiate(WEST, true);
    world.until(100, "replaced", |world| one_each(world) && world.ike_sas(WEST)[0].local_spi != before);
    assert!(!world.sites[WEST].ike.closing(), "nobody is asked to delete what it has already dropped");
    world.run(10_000);
    world.assert_agreed();
}

#[test]
fn the_loser_is_not_closed_before_the_winner_is_in_use_on_both_sides() {
    // East's engine is so slow that West would be without a usable child if the older IKE SA went too early.
    let mut world = World::new(3);
    world.traffic_every = Some(1);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.engine_ms = 800;
    world.initiate(EAST, false);
    world.run(20_000);
    assert!(one_each(&world));
    assert_eq!((world.sites[WEST].engine.lost(), world.sites[EAST].engine.lost()), (0, 0), "{}", world.describe());
}

#[test]
fn an_ike_sa_that_crossed_another_stays_until_slow_engines_have_the_winner() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        world.traffic_every = Some(1);
        world.initiate(WEST, true);
        world.initiate(EAST, true);
        // The engines slow down when both proofs are on their way: the winner may be installed long after the loser.
        world.run(15);
        world.engine_ms = 100 + 20 * seed;
        world.run(20_000);
        assert!(one_each(&world));
        world.assert_agreed();
        assert_eq!((world.sites[WEST].engine.lost(), world.sites[EAST].engine.lost()), (0, 0), "seed {seed}\n{}", world.describe());
    }
}

#[test]
fn a_changed_configuration_is_negotiated_anew() {
    let mut world = World::new(12);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let mut config = west_config();
    config.name = "renamed".to_owned();
    world.with_ike(WEST, |now, ike| ike.set_peer(now, config.clone()));
    assert!(world.up(WEST), "a name is nobody's business");
    config.remote_subnets.truncate(1);
    let narrower = config.clone();
    world.with_ike(WEST, |now, ike| ike.set_peer(now, narrower));
    assert!(!world.up(WEST));
    world.until(5_000, "up again", World::both_up);
    world.run(10_000);
    world.assert_agreed();
    assert_eq!(world.ike_sas(EAST)[0].children[0].selectors.local.len(), 1);
    let other_key = penstock_ike::PeerConfig { psk: penstock_ike::Psk::new(vec![1; 32]), ..config };
    world.with_ike(WEST, |now, ike| ike.set_peer(now, other_key));
    assert!(!world.up(WEST), "what was proved by the old key is proved no more");
    world.with_ike(WEST, |now, ike| ike.remove_peer(now, PEER));
    assert!(world.sites[WEST].ike.snapshot(world.now).is_empty());
}

/// The children of the one that serves are used up: without the new one the tunnel is dead, so it must be tried until it stands.
#[test]
fn a_replacement_that_nobody_answers_is_tried_again() {
    // Neither side takes the other for dead while the wire is.
    let mut configs = [west_config(), east_config()];
    configs.iter_mut().for_each(|config| config.dpd.within_ms = 3_600_000);
    let [west, east] = configs;
    let mut world = World::with(5, Config::default(), Config::default(), west, east);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let before = world.ike_sas(WEST)[0].local_spi;
    world.wire = Wire { loss_percent: 100, ..Wire::default() };
    world.initiate(WEST, false);
    world.run(100_000);
    assert!(world.both_up(), "the old one was not given up");
    world.wire = Wire { delay_ms: 5, ..Wire::default() };
    world.until(130_000, "replaced", |world| one_each(world) && world.ike_sas(WEST)[0].local_spi != before);
}
