//! Given somebody who is not who it says, then its answer tells nothing: not by its number, not by its length, and not by the time
//! that it takes.

mod lab;

use std::time::{Duration, Instant};

use lab::{EAST, WEST, World, east_config, west_config};
use penstock_ike::{Config, Identity, PeerConfig, Psk};

/// Who asks: a peer with another key, somebody whose name nobody knows (of the same length), a peer that the operator has closed.
const KINDS: [&str; 3] = ["wrong key", "unknown identity", "closed peer"];

/// The length of each answer to IKE_AUTH, and how long it took.
fn answer(kind: usize, seed: u64, ml_kem: bool) -> (Vec<usize>, Duration) {
    let west = PeerConfig { ml_kem, ..west_config() };
    let east = PeerConfig { ml_kem, ..east_config() };
    let (west, east) = match kind {
        0 => (west, PeerConfig { psk: Psk::new(vec![1; 39]), ..east }),
        1 => (PeerConfig { local_id: Identity::Fqdn("none.example".to_owned()), ..west }, east),
        _ => (west, east),
    };
    let mut world = World::with(seed, Config::default(), Config::default(), west, east);
    if kind == 2 {
        world.with_ike(EAST, |now, ike| ike.close(now, lab::PEER));
    }
    world.initiate(WEST, true);
    // Until IKE_AUTH has left, and has not arrived.
    while world.sent.iter().rfind(|(who, _)| *who == WEST).is_none_or(|(_, message)| message[18] != 35) {
        world.run(1);
    }
    let request = world.sent.last().expect("IKE_AUTH").1.clone();
    let (from, to) = (world.sites[WEST].address, world.sites[EAST].address);
    let before = world.sent.len();
    let site = &mut world.sites[EAST];
    let began = Instant::now();
    site.ike.receive(world.now, from, to, &request, &mut site.source);
    let took = began.elapsed();
    world.drain(EAST);
    (world.sent[before..].iter().map(|(_, message)| message.len()).collect(), took)
}

#[test]
fn each_gets_one_answer_of_one_length() {
    for ml_kem in [false, true] {
        let [wrong, unknown, closed] = [0, 1, 2].map(|kind| answer(kind, 1, ml_kem).0);
        // IKE header, encrypted payload, IV, one notification of 8 octets, its padding's length, ICV.
        assert_eq!(wrong, [28 + 4 + 8 + 8 + 1 + 16]);
        assert_eq!((&wrong, &wrong), (&unknown, &closed));
    }
}

/// Whoever is no peer learns nothing of what a peer could negotiate: with selectors and ciphers that nobody takes, too, the answer is
/// that of a wrong key.
#[test]
fn what_else_is_wrong_shows_only_to_a_peer() {
    let odd = |config: PeerConfig| PeerConfig {
        local_subnets: vec!["10.99.0.0/16".parse().expect("a prefix")],
        esp_suites: vec![penstock_ike::Suite::Aes128Gcm16],
        ..config
    };
    let only_256 = PeerConfig { esp_suites: vec![penstock_ike::Suite::Aes256Gcm16], ..east_config() };
    let answers = |west: PeerConfig, east: PeerConfig| {
        let mut world = World::with(1, Config::default(), Config::default(), west, east);
        world.initiate(WEST, true);
        world.run(1_000);
        world.sent.iter().filter(|(who, message)| *who == EAST && message[18] == 35).map(|(_, message)| message.len()).collect::<Vec<_>>()
    };
    let stranger = answers(PeerConfig { psk: Psk::new(vec![1; 39]), ..odd(west_config()) }, only_256.clone());
    assert_eq!(stranger, answers(PeerConfig { psk: Psk::new(vec![1; 39]), ..west_config() }, only_256.clone()));
    let peer = answers(odd(west_config()), only_256);
    assert!(peer.len() == 1 && peer[0] > stranger[0], "a peer is told: {peer:?} against {stranger:?}");
}

/// The medians of 1,000 answer times. By command, on a machine with nothing else to do:
/// `cargo test --release -p penstock-ike --test strangers -- --ignored --nocapture`
#[test]
#[ignore = "measures time"]
fn the_medians_of_1_000_answer_times_lie_within_5_percent() {
    let mut times = [vec![], vec![], vec![]];
    for seed in 0..1_000 {
        // In turn, and each kind in each place of the turn.
        for place in 0..3 {
            let kind = (place + seed as usize) % 3;
            times[kind].push(answer(kind, seed, false).1);
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    KINDS.iter().zip(&medians).for_each(|(kind, median)| println!("{kind}: {median:?}"));
    let (least, most) = (medians.iter().min().expect("three"), medians.iter().max().expect("three"));
    assert!(most.as_secs_f64() <= least.as_secs_f64() * 1.05, "{medians:?}");
}
