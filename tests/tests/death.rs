//! Given two sites under load, when a process of one dies by `kill -9`, then: without control not one packet is lost, and a new
//! one takes over what runs and renews the keys; without the engine traffic is back under new keys within two seconds, and
//! meanwhile nothing leaves in clear and nothing of the device is gone.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions};
use penstock_perf::load::{Direction, Tcp, Udp, UdpOutcome};
use penstock_tests::capture::Capture;
use penstock_tests::counters::Counters;

/// Datagrams a second of each flow.
const RATE: f64 = 2000.0;

fn pair() -> Pair {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    // The SAs of all cores, made on their first traffic, are there before anything is measured.
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let warm = Udp { flows: 16, count: 100, rate: 500.0, direction: Direction::Both, ..Udp::default() };
    warm.run(&left, &right).expect("sockets");
    sleep(Duration::from_secs(1));
    pair
}

/// Steady traffic both ways for `seconds`, while `act` is done to the pair after the first second.
fn under_load(pair: &mut Pair, seconds: u64, act: impl FnOnce(&mut Pair)) -> UdpOutcome {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp { flows: 4, rate: RATE, duration: Duration::from_secs(seconds), direction: Direction::Both, ..Udp::default() };
    std::thread::scope(|scope| {
        let load = scope.spawn(|| udp.run(&left, &right).expect("sockets"));
        sleep(Duration::from_secs(1));
        act(pair);
        load.join().expect("the load ends")
    })
}

/// The SPIs in use at a site.
fn spis(pair: &Pair, side: usize) -> BTreeSet<String> {
    let state = pair.sites[side].show_json().expect("the daemon answers");
    let sas = state["peers"][0]["sas"].as_array().cloned().unwrap_or_default();
    sas.iter().filter(|sa| sa["phase"] == "active").filter_map(|sa| sa["inbound_spi"].as_str().map(ToOwned::to_owned)).collect()
}

/// Waits until no SPI of `old` is in use at a site and others are.
fn wait_renewed(pair: &Pair, side: usize, old: &BTreeSet<String>) -> Duration {
    let start = Instant::now();
    loop {
        if pair.sites[side].show_json().is_ok() {
            let now = spis(pair, side);
            if !now.is_empty() && now.is_disjoint(old) {
                return start.elapsed();
            }
        }
        assert!(start.elapsed() < Duration::from_secs(15), "the keys were not renewed: {old:?}\n{}", Counters::picture(pair));
        sleep(Duration::from_millis(20));
    }
}

fn device(pair: &Pair, side: usize) -> [String; 3] {
    let namespace = pair.sites[side].namespace();
    let index = namespace.ip("-o link show dev pen0").expect("the device is there");
    let index = index.split(':').next().unwrap_or_default().to_owned();
    [index, namespace.ip("-o addr show dev pen0").expect("ip"), namespace.ip("route show table all dev pen0").expect("ip")]
}

#[test]
fn killing_control_loses_nothing_and_the_next_one_renews_the_keys() {
    let mut pair = pair();
    let engine = pair.sites[0].engine_pid().expect("an engine runs");
    let before = [0, 1].map(|side| spis(&pair, side));
    let outcome = under_load(&mut pair, 6, |pair| {
        let killed = pair.sites[0].kill_control().expect("it runs");
        let renewed = wait_renewed(pair, 0, &before[0]);
        wait_renewed(pair, 1, &before[1]);
        println!("control {killed} was killed; new keys on both sides {renewed:?} later");
    });
    let clean = outcome.total.lost == 0 && outcome.total.duplicate == 0 && outcome.total.corrupt == 0;
    assert!(clean, "{:?}\n{}", outcome.flows, Counters::picture(&pair));
    assert_eq!(pair.sites[0].engine_pid().expect("an engine runs"), engine, "the engine was not touched");
    Counters::of(&pair).assert_no_drops(&[]);
    // And once more, so that the adopting control is adopted from.
    let before = spis(&pair, 0);
    let outcome = under_load(&mut pair, 5, |pair| {
        pair.sites[0].kill_control().expect("it runs");
        wait_renewed(pair, 0, &before);
    });
    assert_eq!(outcome.total.lost, 0, "{:?}\n{}", outcome.flows, Counters::picture(&pair));
}

#[test]
fn killing_the_whole_daemon_but_the_engine_loses_nothing() {
    let mut pair = pair();
    let before = spis(&pair, 0);
    let outcome = under_load(&mut pair, 7, |pair| {
        pair.sites[0].kill_daemon().expect("it runs");
        sleep(Duration::from_millis(500));
        pair.sites[0].start().expect("a new daemon starts");
        wait_renewed(pair, 0, &before);
    });
    assert_eq!(outcome.total.lost, 0, "{:?}\n{}", outcome.flows, Counters::picture(&pair));
}

#[test]
fn killing_the_engine_costs_less_than_two_seconds_and_nothing_leaks() {
    let mut pair = pair();
    let before = device(&pair, 0);
    let old = spis(&pair, 0);
    let wire = pair.wire.device();
    let capture = pair.sites[1].namespace().enter(|| Capture::start(&wire)).expect("the namespace").expect("the link");
    let outcome = under_load(&mut pair, 6, |pair| {
        pair.sites[0].kill_engine().expect("it runs");
        let renewed = wait_renewed(pair, 0, &old);
        println!("new keys {renewed:?} after the engine's death");
        assert!(renewed < Duration::from_secs(2), "{renewed:?}");
    });
    for flow in &outcome.flows {
        let gap = flow.lost as f64 / RATE;
        println!("a flow lost {} datagrams: {gap:.3} s", flow.lost);
        assert!(gap < 2.0 && flow.duplicate == 0 && flow.corrupt == 0, "{flow:?}");
    }
    assert_eq!(device(&pair, 0), before, "the device, its addresses and its routes were never gone");
    let inner: Vec<u8> = [[10, 43, 43, 1], [10, 43, 100, 1]].concat();
    let frames = capture.finish().expect("a capture");
    assert!(frames.len() > 1000 && !frames.iter().any(|frame| frame.windows(8).any(|window| window == inner)), "nothing leaves in clear");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let tcp = Tcp { duration: Duration::from_millis(500), direction: Direction::Both, ..Tcp::default() };
    assert!(tcp.run(&left, &right).expect("connections").is_intact());
}

#[test]
fn a_clean_stop_takes_away_what_it_made_and_tells_the_peer() {
    let mut pair = pair();
    let namespace = pair.sites[0].namespace().clone();
    let rules = |family: &str| namespace.ip(&format!("{family} rule show")).expect("ip");
    assert!(rules("-4").contains("fwmark"), "{}", rules("-4"));
    let status = pair.sites[0].stop().expect("it stops").expect("it ran");
    assert_eq!(status.code(), Some(0));
    assert!(!namespace.ip("-o link show").expect("ip").contains("pen0"));
    assert!(!rules("-4").contains("fwmark") && !rules("-6").contains("fwmark"));
    let deadline = Instant::now() + Duration::from_secs(2);
    while pair.sites[1].show_json().expect("the daemon answers")["peers"][0]["state"] == "up" {
        assert!(Instant::now() < deadline, "the peer was not told");
        sleep(Duration::from_millis(20));
    }
    // And it comes back by itself.
    pair.sites[0].start().expect("it starts again");
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
}
