//! Given two sites that know each other, when one calls, then both have the same keys; and what is said when not.

mod lab;

use lab::{EAST, PEER, WEST, World};
use penstock_ike::{CreateRefused, When};

#[test]
fn one_side_calls_and_both_have_the_same_keys() {
    let mut world = World::new(1);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.assert_agreed();
    let west = &world.ike_sas(WEST)[0];
    assert_eq!((west.suite.as_str(), west.initiator, west.penstock, west.per_core), ("aes256gcm16-prfsha256-x25519", true, true, true));
    assert_eq!(world.sites[WEST].engine.whens, [When::Now]);
    assert_eq!(world.sites[EAST].engine.whens, [When::OnInbound { or_after_ms: 200 }]);
    let child = &west.children[0];
    assert!(child.esn && child.fallback);
    assert_eq!(child.suite, Some(penstock_ike::Suite::Aes256Gcm16));
}

#[test]
fn each_further_core_gets_its_own_child() {
    let mut world = World::new(2);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    for core in 0..4 {
        world.create_child(WEST, core).expect("per core");
        world.create_child(EAST, core).expect("per core");
        assert_eq!(world.create_child(WEST, core), Err(CreateRefused::Exists));
    }
    world.run(1_000);
    assert_eq!(world.children(WEST).len(), 9);
    world.assert_agreed();
    assert!(world.sites[EAST].engine.whens.contains(&When::OnInbound { or_after_ms: 1_000 }));
}

#[test]
fn a_closed_peer_is_down_on_both_sides_and_nothing_is_left_in_the_engines() {
    let mut world = World::new(3);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.with_ike(WEST, |now, ike| ike.close(now, PEER));
    assert!(world.sites[WEST].ike.closing());
    world.run(20);
    assert!(!world.sites[WEST].ike.closing());
    assert_eq!(world.sites[EAST].downs, ["west closed the connection"]);
    // East starts by itself again and again; West stays closed and says no.
    world.run(20_000);
    assert!(!world.up(WEST) && !world.up(EAST));
    assert_eq!(world.sites[WEST].engine.counts(world.now), (0, 0, 0));
    assert_eq!(world.sites[EAST].engine.counts(world.now), (0, 0, 0));
}
