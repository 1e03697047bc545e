//! Given two sites that look after each other every two seconds, when one vanishes without a word, then the other says so within
//! that time, and both are back by themselves once it can be reached again; silence alone costs nothing.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;
use penstock_tests::cut;
use penstock_tests::trickle::Trickle;
use serde_json::Value;

/// `dpd` of both sites.
const DPD: Duration = Duration::from_secs(2);
/// The longest time between two attempts so soon after the first, and what a handshake takes on a busy machine.
const RETRY: Duration = Duration::from_secs(12);

fn pair() -> Pair {
    let options = PairOptions { cores: [1, 1], peer_toml: format!("dpd = \"{}s\"\n", DPD.as_secs()), ..PairOptions::default() };
    let pair = Pair::start(&options).expect("both sites come up");
    // Both began at once: of two IKE SAs one goes.
    let start = Instant::now();
    while [0, 1].iter().any(|side| spis(&pair, *side).len() != 1) {
        assert!(start.elapsed() < Duration::from_secs(15), "more than one SA stays: {}", pair.sites[0].log());
        sleep(Duration::from_millis(50));
    }
    pair
}

fn peer(pair: &Pair, side: usize) -> Value {
    pair.sites[side].show_json().expect("the daemon answers")["peers"][0].clone()
}

fn spis(pair: &Pair, side: usize) -> Vec<String> {
    let sas = peer(pair, side)["sas"].as_array().cloned().unwrap_or_default();
    let mut spis: Vec<String> = sas.iter().filter_map(|sa| sa["inbound_spi"].as_str().map(ToOwned::to_owned)).collect();
    spis.sort();
    spis
}

/// Waits until the left site's peer is up or not, and says how long that took and what was said of it.
fn wait(pair: &Pair, up: bool, patience: Duration) -> (Duration, Value) {
    let start = Instant::now();
    loop {
        let peer = peer(pair, 0);
        if (peer["state"] == "up") == up {
            return (start.elapsed(), peer);
        }
        assert!(start.elapsed() < patience, "after {patience:?}: {peer}\n{}\n{}", pair.sites[0].log(), Counters::picture(pair));
        sleep(Duration::from_millis(20));
    }
}

/// Both sites are up again, and packets pass both ways.
fn carries(pair: &mut Pair) {
    pair.wait_up(RETRY).expect("both sites come up again");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { count: 500, rate: 1000.0, direction: Direction::Both, ..Udp::default() };
    let total = udp.run(&left, &right).expect("sockets").total;
    assert_eq!((total.received, total.lost, total.corrupt), (1000, 0, 0), "{}", Counters::picture(pair));
}

#[test]
fn silence_alone_ends_nothing() {
    let pair = pair();
    let before = [0, 1].map(|side| spis(&pair, side));
    sleep(3 * DPD);
    assert_eq!([0, 1].map(|side| spis(&pair, side)), before, "{}", pair.sites[0].log());
    assert!([0, 1].iter().all(|side| peer(&pair, *side)["state"] == "up"));
    assert!(pair.drops().expect("counters").is_empty(), "{:?}", pair.drops());
}

#[test]
fn a_site_that_is_gone_is_found_and_comes_back_by_itself() {
    let mut pair = pair();
    let engine = pair.sites[1].engine_pid().expect("it runs");
    pair.sites[1].kill_daemon().expect("it runs");
    let killed = Command::new("kill").args(["-9", &engine.to_string()]).status().expect("kill can be run");
    assert!(killed.success());
    let (found, told) = wait(&pair, false, DPD + Duration::from_secs(1));
    let reason = told["reason"].as_str().unwrap_or_default();
    println!("found after {found:?}: {reason}");
    assert!(reason.contains("nothing was heard for"), "{told}");
    pair.sites[1].start().expect("a new daemon starts");
    let (back, _) = wait(&pair, true, DPD + RETRY);
    println!("back {back:?} after it was started again");
    carries(&mut pair);
}

#[test]
fn a_cut_link_is_found_and_survived() {
    let mut pair = pair();
    let (wire, namespace) = (pair.wire.device(), pair.sites[1].namespace().clone());
    let switch = |to: &str| namespace.ip(&format!("link set {wire} {to}")).map(drop).expect("ip");
    switch("down");
    let (found, _) = wait(&pair, false, DPD + Duration::from_secs(1));
    sleep(Duration::from_secs(4));
    switch("up");
    let (back, _) = wait(&pair, true, DPD + RETRY);
    println!("found after {found:?}, back {back:?} after the link");
    carries(&mut pair);
}

/// Unlike above, neither end is told: its own link stays up.
#[test]
fn a_wire_that_is_cut_in_between_is_survived() {
    for length in cut::lengths() {
        let mut pair = pair();
        let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
        let ways = [(&left, &right), (&right, &left)].map(|(from, to)| Trickle::start(from, to).expect("sockets"));
        sleep(Duration::from_millis(300));
        let ends = [0, 1].map(|side| pair.sites[side].namespace());
        let moment = cut::cut(ends, &pair.wire.device(), length).expect("nft");
        let [out, back] = ways.each_ref().map(|way| way.wait_back(moment, RETRY, || Counters::picture(&pair)));
        println!("cut for {length:?}: back after {} ms one way, {} ms the other (dpd {DPD:?})", out.as_millis(), back.as_millis());
        drop(ways);
        sleep(Duration::from_secs(1));
        carries(&mut pair);
    }
}
