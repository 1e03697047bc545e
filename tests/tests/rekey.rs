//! Given two sites with two workers each under steady load, when their keys are renewed every second by both sides, then not one
//! packet is lost or comes twice, and the keys really are others.

use std::collections::BTreeSet;
use std::time::Duration;

use penstock_perf::lab::{Family, Pair, PairOptions};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;
use serde_json::Value;

/// The SPIs of the pairs that a site sends on or is about to.
fn spis(pair: &Pair, side: usize) -> BTreeSet<String> {
    let state = pair.sites[side].show_json().unwrap_or_else(|error| panic!("{error:#}"));
    let sas = state["peers"][0]["sas"].as_array().cloned().unwrap_or_default();
    let alive = |sa: &&Value| matches!(sa["phase"].as_str(), Some("active" | "waiting" | "inbound"));
    sas.iter().filter(alive).filter_map(|sa| sa["inbound_spi"].as_str().map(str::to_owned)).collect()
}

fn rekeys(pair: &Pair, side: usize) -> usize {
    pair.sites[side].log().matches("child-rekeyed").count()
}

#[test]
fn keys_change_every_second_and_no_packet_notices() {
    let options = PairOptions { cores: [2, 2], peer_toml: "rekey_child = \"1s\"".into(), ..PairOptions::default() };
    let pair = Pair::start(&options).expect("both sites come up");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let load = |seconds: u64| Udp {
        flows: 4,
        rate: 1_500.0,
        sizes: vec![64, 512, 1200],
        duration: Duration::from_secs(seconds),
        direction: Direction::Both,
        linger: Duration::from_secs(2),
        ..Udp::default()
    };
    // The first traffic of each core makes its SA; a flow may move to that core once.
    load(2).run(&left, &right).expect("sockets");
    let (before, counted, rekeyed) = ([0, 1].map(|side| spis(&pair, side)), Counters::of(&pair), [0, 1].map(|side| rekeys(&pair, side)));
    let outcome = load(10).run(&left, &right).expect("sockets");
    let picture = || format!("{:?}\n{}", outcome.flows, Counters::picture(&pair));
    let total = outcome.total;
    assert_eq!((total.lost, total.duplicate, total.corrupt), (0, 0, 0), "{}", picture());
    assert!(total.received > 50_000, "{}", picture());
    for side in [0, 1] {
        let after = spis(&pair, side);
        assert!(after.is_disjoint(&before[side]) && !after.is_empty(), "other keys: {after:?}, before {:?}", before[side]);
        let rekeys = rekeys(&pair, side) - rekeyed[side];
        assert!(rekeys >= 8 * before[side].len().min(3), "{rekeys} rekeys of {} pairs in ten seconds", before[side].len());
        println!("site {side}: {rekeys} rekeys of {} pairs, {} packets, none lost", before[side].len(), total.received);
    }
    let counters = Counters::of(&pair);
    counters.assert_no_drops(&[]);
    assert_eq!(counters.since(&counted).drop("no_sa"), 0);
}
