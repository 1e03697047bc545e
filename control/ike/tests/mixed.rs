//! ML-KEM-768 beside the curve (RFC 9242, RFC 9370): between Penstocks by default, and a plain peer has the curve alone.

mod lab;

use lab::{EAST, PEER, WEST, World, east_config, west_config};
use penstock_ike::{Config, PeerConfig};

/// The exchange types of the messages that a site has sent.
fn exchanges(world: &World, who: usize) -> Vec<u8> {
    world.sent.iter().filter(|(from, _)| *from == who).map(|(_, message)| message[18]).collect()
}

#[test]
fn two_penstocks_mix_both_secrets_before_anybody_says_who_it_is() {
    let mut world = World::mixed(1);
    world.initiate(WEST, true);
    world.until(200, "up", World::both_up);
    world.assert_agreed();
    for who in [WEST, EAST] {
        assert_eq!(world.ike_sas(who)[0].suite, "aes256gcm16-prfsha256-x25519-mlkem768");
        // IKE_SA_INIT, IKE_INTERMEDIATE in three pieces of at most 576 octets with IP and UDP, IKE_AUTH.
        assert_eq!(exchanges(&world, who), [34, 43, 43, 43, 35]);
    }
    assert!(world.sent.iter().all(|(_, message)| message.len() <= 544));
}

#[test]
fn one_side_without_it_leaves_the_curve_alone() {
    for (west, east) in [(true, false), (false, true)] {
        let config = |config: PeerConfig, ml_kem| PeerConfig { ml_kem, ..config };
        let mut world = World::with(1, Config::default(), Config::default(), config(west_config(), west), config(east_config(), east));
        world.initiate(WEST, true);
        world.until(200, "up", World::both_up);
        world.assert_agreed();
        assert_eq!(world.ike_sas(WEST)[0].suite, "aes256gcm16-prfsha256-x25519");
        assert_eq!(exchanges(&world, EAST), [34, 35]);
    }
}

#[test]
fn a_rekey_of_either_kind_follows_as_before() {
    let mut world = World::mixed(2);
    world.initiate(WEST, true);
    world.until(200, "up", World::both_up);
    for who in [WEST, EAST] {
        world.with_ike(who, |now, ike| ike.renew(now, PEER).expect("up"));
        world.run(1_000);
        let site = &mut world.sites[who];
        site.ike.rekey(world.now, PEER, &mut site.source).expect("up");
        world.drain(who);
        world.run(10_000);
        world.assert_agreed();
        world.assert_keys_are_used_once();
    }
}

#[test]
fn a_wrong_key_is_refused_as_without_it() {
    let config = |config: PeerConfig| PeerConfig { ml_kem: true, ..config };
    let wrong = PeerConfig { psk: penstock_ike::Psk::new(vec![1; 32]), ..config(east_config()) };
    let mut world = World::with(1, Config::default(), Config::default(), config(west_config()), wrong);
    world.initiate(WEST, true);
    world.run(4_000);
    assert!(world.sites[WEST].downs[0].starts_with("east refused us: AUTHENTICATION_FAILED"));
}
