//! Given two sites that cannot agree, each says why, in words that name the difference and who has to change something.

mod lab;

use lab::{EAST, PEER, WEST, World, east_config, west_config};
use penstock_ike::{Config, Group, Identity, IkeSuite, PeerConfig, Psk, Suite};

fn meet(west: PeerConfig, east: PeerConfig) -> World {
    let mut world = World::with(1, Config::default(), Config::default(), west, east);
    world.initiate(WEST, true);
    world.run(4_000);
    world
}

fn assert_apart(world: &mut World) {
    assert!(!world.up(WEST) && !world.up(EAST), "{}", world.describe());
    let now = world.now + 60_000;
    for who in [WEST, EAST] {
        assert_eq!(world.sites[who].engine.counts(now), (0, 0, 0), "nothing is left in the engine");
    }
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_alike_from_outside() {
    let mut wrong_key = meet(west_config(), PeerConfig { psk: Psk::new(vec![1; 32]), ..east_config() });
    assert_apart(&mut wrong_key);
    let stranger = Identity::Fqdn("elsewhere.example".to_owned());
    let mut unknown = meet(PeerConfig { local_id: stranger, ..west_config() }, east_config());
    assert_apart(&mut unknown);
    for world in [&wrong_key, &unknown] {
        let as_whom = if std::ptr::eq(world, &wrong_key) { "west" } else { "elsewhere" };
        assert_eq!(
            world.sites[WEST].downs[0],
            format!(
                "east refused us: AUTHENTICATION_FAILED: it does not know us as name {as_whom}.example, is not name east.example itself, \
                 or has another key"
            )
        );
    }
    // The same messages of the same sizes, but for the identity's own length
    let sizes = |world: &World| world.sent.iter().filter(|(who, _)| *who == EAST).map(|(_, m)| m.len()).take(2).collect::<Vec<_>>();
    assert_eq!(sizes(&wrong_key), sizes(&unknown));
    // Only the responder's own log tells them apart.
    assert!(wrong_key.sites[EAST].said("name west.example: its proof does not fit the key that we share with it"));
    assert!(unknown.sites[EAST].said("name elsewhere.example: no such peer is configured"));
    // And what its operator sees beside the peer at that address.
    let shown = unknown.sites[EAST].ike.snapshot(unknown.now)[0].last_error.clone().expect("an error");
    assert!(shown.contains("elsewhere.example"), "{shown}");
}

#[test]
fn a_responder_with_another_name_or_another_key_is_not_believed() {
    // The responder has our key but calls itself something else than we expect.
    let other = Identity::Fqdn("other.example".to_owned());
    let mut named = meet(PeerConfig { remote_id: other.clone(), ..west_config() }, east_config());
    assert_apart(&mut named);
    // RFC 7296 section 3.5: it is asked for by the name that we want, and has no such name.
    assert!(named.sites[EAST].said("west.example: it wants to talk to name other.example, and that is not our name for it"));
    let address = Identity::Address("192.0.2.1".parse().expect("an address"));
    let named = meet(PeerConfig { local_id: address.clone(), ..west_config() }, PeerConfig { remote_id: address, ..east_config() });
    assert!(named.both_up(), "an address is as good a name as any");
}

#[test]
fn every_kind_of_identity_authenticates() {
    let kinds = [
        Identity::Fqdn("a.example".to_owned()),
        Identity::Email("a@example.org".to_owned()),
        Identity::KeyId(vec![0, 255, 3]),
        Identity::Address("192.0.2.77".parse().expect("an address")),
        Identity::Address("2001:db8::7".parse().expect("an address")),
    ];
    for identity in kinds {
        let west = PeerConfig { local_id: identity.clone(), ..west_config() };
        let world = meet(west, PeerConfig { remote_id: identity, ..east_config() });
        assert!(world.both_up());
        world.assert_agreed();
    }
}

#[test]
fn no_common_ike_proposal_shows_both_offers() {
    let west = PeerConfig { ike_suites: vec![IkeSuite::Aes256Gcm16], ..west_config() };
    let mut world = meet(west, PeerConfig { ike_suites: vec![IkeSuite::Aes128Gcm16], ..east_config() });
    assert_apart(&mut world);
    assert!(
        world.sites[EAST].said(
            "no common IKE proposal: \
             ours [AES_GCM_16_128 + PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512 + X25519/P256/P384], \
             theirs [AES_GCM_16_256 + PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512 + X25519/P256/P384]; \
             first difference: encryption: ours AES_GCM_16_128, theirs AES_GCM_16_256"
        ),
        "{}",
        world.describe()
    );
    // The same stands beside the peer's name, although nobody has proved to be it.
    let shown = world.sites[EAST].ike.snapshot(world.now)[0].last_error.clone().expect("an error");
    assert!(shown.contains("first difference: encryption: ours AES_GCM_16_128, theirs AES_GCM_16_256"), "{shown}");
    let down = &world.sites[WEST].downs[0];
    let prfs = "PRF_HMAC_SHA2_256/PRF_HMAC_SHA2_384/PRF_HMAC_SHA2_512";
    assert_eq!(
        *down,
        format!("east refused us: NO_PROPOSAL_CHOSEN: it takes nothing of our offer [AES_GCM_16_256 + {prfs} + X25519/P256/P384] for IKE")
    );
}

#[test]
fn no_common_esp_proposal_closes_the_ike_sa_again() {
    let west = PeerConfig { esp_suites: vec![Suite::Aes256Gcm16], ..west_config() };
    let mut world = meet(west, PeerConfig { esp_suites: vec![Suite::Aes128Gcm16], ..east_config() });
    assert_apart(&mut world);
    assert_eq!(
        world.sites[WEST].downs[0],
        "east refused us: NO_PROPOSAL_CHOSEN for the first child: it takes nothing of our offer [AES_GCM_16_256 + ESN/NO_ESN]"
    );
    assert!(world.sites[EAST].said("no common ESP proposal: ours [AES_GCM_16_128 + ESN/NO_ESN]"));
    assert!(world.ike_sas(EAST).len() <= 1, "the closed IKE SA is gone");
}

#[test]
fn a_suite_that_both_have_is_found_by_the_responders_preference() {
    let west = PeerConfig { esp_suites: vec![Suite::Aes256Gcm16, Suite::Aes128Gcm16], ..west_config() };
    let world = meet(west, PeerConfig { esp_suites: vec![Suite::Aes128Gcm16, Suite::Aes256Gcm16], ..east_config() });
    assert_eq!(world.ike_sas(WEST)[0].children[0].suite, Some(Suite::Aes128Gcm16));
    world.assert_agreed();
}

#[test]
fn disjoint_subnets_show_both_sides() {
    let east = PeerConfig { local_subnets: vec!["10.9.0.0/16".parse().expect("a prefix")], ..east_config() };
    let mut world = meet(west_config(), east);
    assert_apart(&mut world);
    assert_eq!(
        world.sites[WEST].downs[0],
        "east refused us: TS_UNACCEPTABLE for the first child: it has no common subnets with our \
         [10.1.0.0/16 fd01::/64 to 10.2.0.0/16 fd02::/64]"
    );
    assert!(world.sites[EAST].said(
        "no common subnets: ours [10.9.0.0/16 to 10.1.0.0/16 fd01::/64], \
         theirs [10.2.0.0/16 fd02::/64 to 10.1.0.0/16 fd01::/64]"
    ));
}

#[test]
fn subnets_are_narrowed_to_what_both_have() {
    let all = |text: &str| text.split_whitespace().map(|net| net.parse().expect("a prefix")).collect();
    let west = PeerConfig { local_subnets: all("10.1.0.0/16 fd01::/64"), remote_subnets: all("0.0.0.0/0 ::/0"), ..west_config() };
    let east = PeerConfig { local_subnets: all("10.2.4.0/24 fd02::/64"), remote_subnets: all("10.0.0.0/8"), ..east_config() };
    let world = meet(west, east);
    world.assert_agreed();
    let selectors = &world.ike_sas(WEST)[0].children[0].selectors;
    assert_eq!(selectors.local, all("10.1.0.0/16"));
    assert_eq!(selectors.remote, all("10.2.4.0/24 fd02::/64"));
    let mirrored = &world.sites[EAST].engine.selectors[0];
    assert_eq!((&mirrored.local, &mirrored.remote), (&selectors.remote, &selectors.local));
}

#[test]
fn a_group_that_the_responder_prefers_is_followed_once() {
    let east = Config { groups: vec![Group::P256], ..Config::default() };
    let mut world = World::with(1, Config::default(), east, west_config(), east_config());
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.assert_agreed();
    assert_eq!(world.ike_sas(WEST)[0].suite, "aes256gcm16-prfsha256-p256");
    // A responder that can do what came does not ask for another.
    let west = Config { groups: vec![Group::P256], ..Config::default() };
    let mut world = World::with(1, west, Config::default(), west_config(), east_config());
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    assert_eq!(world.sent.len(), 4);
}

#[test]
fn a_responder_without_per_core_children_is_left_with_one() {
    let mut world = meet(west_config(), PeerConfig { per_core: false, ..east_config() });
    assert_eq!(world.create_child(WEST, 1), Err(penstock_ike::CreateRefused::NotPerCore));
    assert_eq!(world.create_child(EAST, 1), Err(penstock_ike::CreateRefused::NotPerCore));
    assert!(!world.sites[WEST].engine.per_core_wanted);
}

#[test]
fn an_engine_that_fails_is_told_to_the_peer_and_tried_again() {
    type Break = fn(&mut World, bool);
    let cases: [(&str, Break); 6] = [
        ("west expect", |world, bad| world.sites[WEST].engine.fail_expect = bad),
        ("west inbound", |world, bad| world.sites[WEST].engine.fail_inbound = bad),
        ("west outbound", |world, bad| world.sites[WEST].engine.fail_outbound = bad),
        ("east inbound", |world, bad| world.sites[EAST].engine.fail_inbound = bad),
        ("east outbound", |world, bad| world.sites[EAST].engine.fail_outbound = bad),
        ("west stuck", |world, bad| world.sites[WEST].engine.stuck = bad),
    ];
    for (name, set) in cases {
        let mut world = World::new(1);
        set(&mut world, true);
        world.initiate(WEST, true);
        world.run(8_000);
        assert!(!world.both_up(), "{name}");
        assert!(!world.sites[WEST].downs.is_empty(), "{name}\n{}", world.describe());
        set(&mut world, false);
        world.until(130_000, name, World::both_up);
        world.run(60_000);
        world.assert_agreed();
        let now = world.now;
        for who in [WEST, EAST] {
            let children = world.children(who).len();
            assert_eq!(world.sites[who].engine.counts(now), (children, children, 0), "{name}\n{}", world.describe());
        }
    }
}

#[test]
fn an_engine_that_fails_for_one_core_leaves_the_others_alone() {
    type Break = fn(&mut World, bool);
    let cases: [(&str, Break); 5] = [
        ("west expect", |world, bad| world.sites[WEST].engine.fail_expect = bad),
        ("west inbound", |world, bad| world.sites[WEST].engine.fail_inbound = bad),
        ("west outbound", |world, bad| world.sites[WEST].engine.fail_outbound = bad),
        ("east inbound", |world, bad| world.sites[EAST].engine.fail_inbound = bad),
        ("east outbound", |world, bad| world.sites[EAST].engine.fail_outbound = bad),
    ];
    for (name, set) in cases {
        let mut world = World::new(1);
        world.traffic_every = Some(1);
        world.initiate(WEST, true);
        world.until(100, "up", World::both_up);
        set(&mut world, true);
        world.create_child(WEST, 3).expect("per core");
        world.run(12_000);
        world.assert_agreed();
        assert_eq!(world.children(WEST).len(), 1, "{name}");
        set(&mut world, false);
        world.create_child(WEST, 3).expect("asked again");
        world.run(12_000);
        assert_eq!(world.children(WEST).len(), 2, "{name}\n{}", world.describe());
        world.assert_agreed();
        assert!(world.sites[WEST].downs.is_empty() && world.sites[EAST].downs.is_empty(), "{name}");
    }
}

#[test]
fn a_site_that_has_no_spi_left_says_so() {
    let mut world = World::new(1);
    world.sites[EAST].source.dry = true;
    world.initiate(WEST, true);
    world.run(500);
    assert_eq!(world.sites[WEST].downs[0], "east refused us: TEMPORARY_FAILURE for the first child");
    assert!(world.sites[EAST].said("cannot serve west: no SPI to give"));
    let mut world = World::new(1);
    world.sites[WEST].source.dry = true;
    world.initiate(WEST, true);
    world.run(500);
    assert_eq!(world.sites[WEST].downs[0], "cannot serve east: no SPI to give");
}

#[test]
fn a_peer_without_an_endpoint_has_to_come() {
    let mut world = World::with(1, Config::default(), Config::default(), west_config(), PeerConfig { endpoint: None, ..east_config() });
    world.initiate(EAST, true);
    assert_eq!(world.sites[EAST].downs[0], "cannot serve west: no endpoint is configured, so it has to come to us");
    world.run(600_000);
    assert_eq!(world.sites[EAST].downs.len(), 1, "it is not called again and again");
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
}

#[test]
fn one_core_is_deleted_and_the_rest_stays() {
    let mut world = World::new(1);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    let child = world.create_child(WEST, 1).expect("per core");
    world.run(100);
    assert_eq!(world.children(EAST).len(), 2);
    world.with_ike(WEST, |now, ike| ike.delete_child(now, child));
    world.run(100);
    world.assert_agreed();
    assert_eq!(world.children(EAST).len(), 1);
    world.run(6_000);
    let now = world.now;
    assert_eq!(world.sites[EAST].engine.counts(now), (1, 1, 0));
    // With the last one the IKE SA goes, and East, which starts, comes back.
    let last = world.ike_sas(WEST)[0].children[0].child;
    world.with_ike(WEST, |now, ike| ike.delete_child(now, last));
    assert!(!world.up(WEST));
    world.until(5_000, "up again", World::both_up);
}

#[test]
fn a_closed_peer_that_comes_is_refused_like_a_stranger() {
    let mut world = World::new(1);
    world.with_ike(EAST, |now, ike| ike.close(now, PEER));
    world.initiate(WEST, true);
    world.run(100);
    assert!(world.sites[WEST].downs[0].starts_with("east refused us: AUTHENTICATION_FAILED"));
    assert!(world.sites[EAST].said("this peer is closed"));
    world.initiate(EAST, true);
    world.until(100, "up", World::both_up);
}

#[test]
fn cbc_is_offered_and_taken_only_where_a_peers_configuration_asks_for_it() {
    let cbc = |config: PeerConfig| PeerConfig { ike_suites: vec![IkeSuite::Aes256Cbc, IkeSuite::Aes128Cbc], ..config };
    let world = meet(cbc(west_config()), cbc(east_config()));
    world.assert_agreed();
    assert_eq!(world.ike_sas(WEST)[0].suite, "aes256-sha256-prfsha256-x25519");
    // One side asks for it, the other one does not.
    let mut world = meet(cbc(west_config()), east_config());
    assert_apart(&mut world);
    assert!(world.sites[EAST].said("first difference: encryption: ours AES_GCM_16_256/AES_GCM_16_128, theirs AES_CBC_256/AES_CBC_128"));
    // Where both sorts are allowed, the one that authenticates by itself is taken.
    let both = |config: PeerConfig| PeerConfig { ike_suites: vec![IkeSuite::Aes128Gcm16, IkeSuite::Aes256Cbc], ..config };
    let world = meet(both(west_config()), both(east_config()));
    assert_eq!(world.ike_sas(WEST)[0].suite, "aes128gcm16-prfsha256-x25519");
}

#[test]
fn cbc_that_another_peer_may_use_is_refused_once_it_is_known_who_asks() {
    let west = PeerConfig { ike_suites: vec![IkeSuite::Aes256Cbc], ..west_config() };
    let mut world = World::with(1, Config::default(), Config::default(), west, east_config());
    let other = PeerConfig {
        id: penstock_ike::PeerId(2),
        name: "old".to_owned(),
        remote_id: Identity::Fqdn("old.example".to_owned()),
        ike_suites: vec![IkeSuite::Aes256Cbc],
        ..east_config()
    };
    world.with_ike(EAST, |now, ike| ike.set_peer(now, other));
    world.initiate(WEST, true);
    world.run(4_000);
    assert_apart(&mut world);
    assert_eq!(
        world.sites[WEST].downs[0],
        "east refused us: NO_PROPOSAL_CHOSEN: it does not take aes256-sha256-prfsha256-x25519 from us for IKE"
    );
    assert!(world.sites[EAST].said("west is incompatible: no common IKE proposal: ours [AES_GCM_16_256/AES_GCM_16_128"));
}

#[test]
fn a_weak_group_is_refused_by_its_name() {
    // MODP 1024 (group 2) instead of all others, in a first message of our own.
    let mut world = World::new(1);
    world.initiate(WEST, true);
    let mut message = world.sent[0].1.clone();
    for group in [31u8, 19, 20] {
        let transform = [4, 0, 0, group];
        let at = (28..message.len() - 4).find(|at| message[*at..at + 4] == transform).expect("a group");
        message[at + 3] = 2;
    }
    let mut world = World::new(2);
    let from = world.sites[WEST].address;
    world.inject(EAST, from, &message);
    assert!(
        world.sites[EAST]
            .said("first difference: key exchange: ours X25519/P256/P384, theirs MODP_1024/MODP_1024/MODP_1024, which is too weak")
    );
    let shown = world.sites[EAST].ike.snapshot(0)[0].last_error.clone().expect("an error");
    assert!(shown.contains("theirs MODP_1024"), "{shown}");
}

#[test]
fn p384_is_followed_and_a_rekey_keeps_to_it() {
    let east = Config { groups: vec![Group::P384], ..Config::default() };
    let mut world = World::with(1, Config::default(), east, west_config(), east_config());
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.assert_agreed();
    assert_eq!(world.ike_sas(WEST)[0].suite, "aes256gcm16-prfsha256-p384");
    world.with_ike(EAST, |now, ike| ike.renew(now, PEER).expect("up"));
    world.run(1_000);
    world.assert_agreed();
    assert_eq!(world.ike_sas(EAST)[0].suite, "aes256gcm16-prfsha256-p384");
}
