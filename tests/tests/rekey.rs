//! Given two sites with two workers each under steady load, when both sides renew the keys of packets every second and those of IKE
//! every few, or when somebody orders it, then not one packet is lost or comes twice, and the keys really are others.

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

fn renewals(pair: &Pair, side: usize) -> usize {
    pair.sites[side].log().matches("has new keys").count()
}

#[test]
fn an_order_renews_every_key_once() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let load = Udp { flows: 4, rate: 1_000.0, duration: Duration::from_secs(3), direction: Direction::Both, ..Udp::default() };
    load.run(&left, &right).expect("sockets");
    for side in [0, 1] {
        let before = spis(&pair, side);
        let (outcome, answer) = std::thread::scope(|scope| {
            let running = scope.spawn(|| load.run(&left, &right).expect("sockets"));
            std::thread::sleep(Duration::from_secs(1));
            let answer = pair.sites[side].penstock(&["peer", "rekey", ["london", "frankfurt"][side]]).expect("the command");
            (running.join().expect("the load"), answer)
        });
        let said = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.status.success() && said.contains("and the IKE SA have new keys"), "{said} {answer:?}");
        assert!(spis(&pair, side).is_disjoint(&before));
        assert_eq!((outcome.total.lost, outcome.total.duplicate), (0, 0), "{:?}\n{}", outcome.flows, Counters::picture(&pair));
    }
}

#[test]
fn keys_change_every_second_and_no_packet_notices() {
    let options = PairOptions { cores: [2, 2], peer_toml: "rekey_child = \"1s\"\nrekey_ike = \"3s\"".into(), ..PairOptions::default() };
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
    let ike_before = [0, 1].map(|side| renewals(&pair, side));
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
        let renewals = renewals(&pair, side) - ike_before[side];
        assert!(renewals >= 2, "{renewals} rekeys of the IKE SA in ten seconds");
        println!(
            "site {side}: {renewals} rekeys of the IKE SA; {rekeys} rekeys of {} pairs, {} packets, none lost",
            before[side].len(),
            total.received
        );
    }
    let counters = Counters::of(&pair);
    counters.assert_no_drops(&[]);
    assert_eq!(counters.since(&counted).drop("no_sa"), 0);
}
