//! Given a peer that knows RFC 7296 and nothing beyond, then both agree, one pair serves all cores, and the peer encapsulates towards us,
//! because it takes us to be behind a NAT.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // a test may fail

mod lab;

use lab::{EAST, PEER, WEST, Wire, World, east_config, west_config};
use penstock_ike::{Config, CreateRefused, Nat, PeerConfig, Upkeep};

/// West is a Penstock with all it has, east the plain peer.
fn with_a_plain_peer(seed: u64, upkeep: Upkeep) -> World {
    let west = PeerConfig { ml_kem: true, upkeep, ..west_config() };
    let east = PeerConfig { per_core: false, ml_kem: false, upkeep, ..east_config() };
    World::with(seed, Config::default(), Config { plain: true, ..Config::default() }, west, east)
}

/// What both know of each other once it is up.
fn assert_plain(world: &World) {
    let (west, east) = (&world.ike_sas(WEST)[0], &world.ike_sas(EAST)[0]);
    // East sees a NAT in front of west, where there is none, and so sends ESP in UDP. West sees none anywhere.
    assert_eq!((east.nat, west.nat), (Nat { here: false, there: true }, Nat::default()), "{}", world.describe());
    assert_eq!(world.sites[EAST].nats.last(), Some(&Nat { here: false, there: true }), "its engine is told");
    assert!(!west.penstock && !east.penstock && !west.per_core && !east.per_core);
    assert!(!west.suite.contains("ml-kem") && west.suite == east.suite, "{}", west.suite);
}

#[test]
fn either_side_begins_and_one_pair_serves_all_cores() {
    for (seed, who) in [(1, WEST), (2, EAST)] {
        let mut world = with_a_plain_peer(seed, Upkeep::default());
        if who == EAST {
            // It knows its own address, and so its hash is true.
            let mut own = PeerConfig { per_core: false, ml_kem: false, ..east_config() };
            own.local = Some(world.sites[EAST].address.ip());
            world.with_ike(EAST, |now, ike| ike.set_peer(now, own));
        }
        world.initiate(who, true);
        world.until(1_000, "both up", World::both_up);
        world.run(100);
        world.assert_agreed();
        assert_plain(&world);
        assert_eq!(world.create_child(WEST, 1).err(), Some(CreateRefused::NotPerCore));
        assert_eq!(world.children(WEST).len(), 1);
    }
}

#[test]
fn rekeys_of_either_side_lose_nothing_with_it() {
    let upkeep = Upkeep { rekey_child_ms: 4_000, rekey_ike_ms: 15_000, pfs: false };
    for seed in 3..8 {
        let mut world = with_a_plain_peer(seed, upkeep);
        world.wire = Wire { loss_percent: 5, copy_percent: 5, delay_ms: 10, jitter_ms: 20 };
        world.traffic_every = Some(7);
        world.initiate(WEST, true);
        world.until(20_000, "both up", World::both_up);
        world.run(120_000);
        world.traffic_every = None;
        world.wire = Wire { delay_ms: 5, ..Wire::default() };
        world.run(6_000);
        assert_eq!(world.lost(), 0, "seed {seed}\n{}", world.describe());
        world.assert_keys_are_used_once();
        assert!(world.both_up());
    }
}

#[test]
fn a_plain_peer_that_moves_is_followed_as_others_are() {
    let mut world = with_a_plain_peer(9, Upkeep::default());
    world.initiate(WEST, true);
    world.until(1_000, "both up", World::both_up);
    world.run(100);
    let moved = "203.0.113.77:4500".parse().expect("an address");
    world.sites[EAST].address = moved;
    let (spi, _) = world.children(WEST)[0];
    world.with_ike(WEST, |now, ike| ike.peer_moved(now, spi, moved));
    world.run(100);
    assert_eq!(world.ike_sas(WEST)[0].remote, moved, "{}", world.describe());
    assert_eq!(world.sites[WEST].ike.snapshot(world.now)[0].peer, PEER);
}
