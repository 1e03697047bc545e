//! Given Penstock and strongSwan with packets on their way in both directions, when a process of either dies by `kill -9`, or the wire
//! between them is cut for a while, then packets pass both ways again by themselves, within dead peer detection and one more try; and
//! where Penstock's engine went on meanwhile, not one is lost.
//!
//! `PENSTOCK_LONG_CUTS=1` adds a cut of a minute.

use std::thread::sleep;
use std::time::{Duration, Instant};

use penstock_perf::lab::Family;
use penstock_perf::load::{Direction, Udp, UdpOutcome};
use penstock_tests::cut;
use penstock_tests::mixed::{Mixed, MixedOptions};
use penstock_tests::trickle::Trickle;

/// `dpd` of Penstock.
const DPD: Duration = Duration::from_secs(4);
/// The longest pause between two attempts of a handshake, and what one takes on a busy machine.
const RETRY: Duration = Duration::from_secs(12);
/// Datagrams a second of each flow.
const RATE: f64 = 500.0;

fn options() -> MixedOptions {
    MixedOptions { peer_toml: format!("dpd = \"{}s\"\n", DPD.as_secs()), ..MixedOptions::default() }
}

fn mixed() -> Mixed {
    Mixed::start(&options()).expect("both come up")
}

/// strongSwan begins by itself as soon as it runs.
fn eager() -> MixedOptions {
    MixedOptions { child: "start_action = start".into(), ..options() }
}

fn numbered(mixed: &Mixed, duration: Duration) -> UdpOutcome {
    let [left, right] = mixed.inner(Family::V4);
    let sizes = vec![64, 1200];
    Udp { flows: 2, rate: RATE, sizes, duration, direction: Direction::Both, ..Udp::default() }.run(&left, &right).expect("sockets")
}

/// A trickle each way.
fn trickles(mixed: &Mixed) -> [Trickle; 2] {
    let [left, right] = mixed.inner(Family::V4);
    let ways = [(&left, &right), (&right, &left)].map(|(from, to)| Trickle::start(from, to).expect("sockets"));
    sleep(Duration::from_millis(300));
    ways
}

/// Waits until both trickles come again, then sends numbered datagrams, each of which must arrive once. Nothing is told to
/// anybody in between.
fn back(mixed: &Mixed, ways: [Trickle; 2], moment: Instant, patience: Duration, what: &str) {
    let [out, back] = ways.each_ref().map(|way| way.wait_back(moment, patience, || mixed.picture()));
    println!("{what}: back after {} ms to strongSwan, {} ms from it (dpd {DPD:?})", out.as_millis(), back.as_millis());
    drop(ways);
    // Two IKE SAs may have been begun at once, and the one that is not needed goes.
    sleep(Duration::from_secs(1));
    let missed = mixed.missed();
    let total = numbered(mixed, Duration::from_secs(1)).total;
    let missed = mixed.missed().since(&missed);
    println!("{what}: then {total}; {missed}");
    assert_eq!(total.duplicate + total.corrupt, 0, "{what}: {total}");
    assert!(total.lost <= missed.total(), "{what}: {total}; {missed}\n{}", mixed.picture());
    assert!(total.sent > 1_500, "{total}");
    assert_eq!(mixed.peer()["state"], "up", "{what}: {}", mixed.picture());
}

#[test]
fn strongswan_that_died_and_says_nothing_is_found() {
    let mut mixed = mixed();
    let ways = trickles(&mixed);
    let moment = Instant::now();
    mixed.swan.kill().expect("it runs");
    mixed.swan.run().expect("it starts again");
    // Its new self answers to nothing old: only silence tells.
    back(&mixed, ways, moment, DPD + RETRY, "strongSwan killed, and it waits");
}

#[test]
fn strongswan_that_died_and_begins_anew_replaces_its_old_self_at_once() {
    let mut mixed = Mixed::start(&eager()).expect("both come up");
    let ways = trickles(&mixed);
    let moment = Instant::now();
    mixed.swan.kill().expect("it runs");
    mixed.swan.run().expect("it starts again");
    back(&mixed, ways, moment, DPD + RETRY, "strongSwan killed, and it begins");
    let peer = mixed.peer();
    assert_eq!(peer["ike"]["initiated"], false, "{peer}");
    let lasting = peer["sas"].as_array().into_iter().flatten().filter(|sa| sa["phase"] != "draining").count();
    assert_eq!(lasting, 1, "what its old self had goes: {peer}");
}

#[test]
fn strongswan_that_is_gone_for_longer_is_tried_until_it_is_back() {
    let mut mixed = mixed();
    let ways = trickles(&mixed);
    mixed.swan.kill().expect("it runs");
    let start = Instant::now();
    while mixed.peer()["state"] == "up" {
        assert!(start.elapsed() < DPD + Duration::from_secs(2), "{}", mixed.picture());
        sleep(Duration::from_millis(20));
    }
    let (found, reason) = (start.elapsed(), mixed.peer()["reason"].as_str().unwrap_or_default().to_owned());
    println!("found after {found:?}: {reason}");
    assert!(reason.contains("nothing was heard for"), "{reason}");
    mixed.swan.run().expect("it starts again");
    back(&mixed, ways, Instant::now(), RETRY, "strongSwan gone until it was missed");
    // What went wrong last is still told, beside what runs now.
    assert_eq!(mixed.site[0].penstock(&["wait", "london", "--timeout", "5s"]).expect("it runs").status.code(), Some(0));
    let shown = String::from_utf8(mixed.site[0].penstock(&["show", "peer", "london"]).expect("it runs").stdout).expect("text");
    println!("{shown}");
    for part in ["IKE: new keys in ", "; 10.43.43.0/24, fd00:43:43::/64 <-> 10.43.100.0/24, fd00:43:100::/64", "last error ", &reason] {
        assert!(shown.contains(part), "no «{part}»: {shown}");
    }
}

/// Steady traffic for some seconds, while something is done to Penstock after the first.
fn under_load(mixed: &mut Mixed, act: impl FnOnce(&mut Mixed)) -> UdpOutcome {
    let [left, right] = mixed.inner(Family::V4);
    let duration = Duration::from_secs(6);
    let load = Udp { flows: 2, rate: RATE, sizes: vec![64, 1200], duration, direction: Direction::Both, ..Udp::default() };
    std::thread::scope(|scope| {
        let running = scope.spawn(|| load.run(&left, &right).expect("sockets"));
        sleep(Duration::from_secs(1));
        act(mixed);
        running.join().expect("the load ends")
    })
}

/// The SPI of the IKE SA, which a new control cannot know.
fn ike(mixed: &Mixed) -> String {
    mixed.peer()["ike"]["initiator_spi"].as_str().unwrap_or_default().to_owned()
}

fn wait_for_new_keys(mixed: &Mixed, old: &str) -> Duration {
    let start = Instant::now();
    loop {
        let shown = mixed.site[0].show_json().is_ok().then(|| ike(mixed)).filter(|spi| !spi.is_empty() && spi != old);
        if shown.is_some() && mixed.peer()["state"] == "up" {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(15), "{}", mixed.site[0].log());
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_control_that_died_costs_not_one_packet() {
    let mut mixed = mixed();
    let old = ike(&mixed);
    let outcome = under_load(&mut mixed, |mixed| {
        mixed.site[0].kill_control().expect("it runs");
        println!("control killed: new keys {:?} later", wait_for_new_keys(mixed, &old));
    });
    assert!(outcome.total.received > 10_000 && outcome.total.is_perfect(), "{}\n{}", outcome.total, mixed.picture());
}

#[test]
fn a_daemon_that_died_costs_not_one_packet() {
    let mut mixed = mixed();
    let old = ike(&mixed);
    let outcome = under_load(&mut mixed, |mixed| {
        mixed.site[0].kill_daemon().expect("it runs");
        sleep(Duration::from_millis(500));
        mixed.site[0].start().expect("a new one starts");
        println!("launcher and control killed: new keys {:?} after the new start", wait_for_new_keys(mixed, &old));
    });
    assert!(outcome.total.received > 10_000 && outcome.total.is_perfect(), "{}\n{}", outcome.total, mixed.picture());
}

#[test]
fn an_engine_that_died_is_replaced() {
    let mut mixed = mixed();
    let ways = trickles(&mixed);
    let moment = Instant::now();
    mixed.site[0].kill_engine().expect("it runs");
    back(&mixed, ways, moment, RETRY, "engine killed");
}

#[test]
fn everything_of_penstock_that_died_is_back_as_soon_as_it_is_started() {
    let mut mixed = mixed();
    let ways = trickles(&mixed);
    let engine = mixed.site[0].engine_pid().expect("it runs");
    mixed.site[0].kill_daemon().expect("it runs");
    let killed = std::process::Command::new("kill").args(["-9", &engine.to_string()]).status().expect("kill can be run");
    assert!(killed.success());
    sleep(Duration::from_secs(1));
    let moment = Instant::now();
    mixed.site[0].start().expect("it starts again");
    back(&mixed, ways, moment, RETRY, "everything killed");
    // strongSwan was told that its old SAs are dead.
    let children = mixed.swan.children().expect("charon answers");
    assert_eq!(children.len(), 1, "{}", mixed.picture());
}

#[test]
fn a_cut_wire_is_survived() {
    for length in cut::lengths() {
        let mixed = mixed();
        let ways = trickles(&mixed);
        let ends = [mixed.site[0].namespace(), mixed.swan.namespace()];
        let moment = cut::cut(ends, &mixed.wire.device(), length).expect("nft");
        back(&mixed, ways, moment, RETRY, &format!("cut for {length:?}"));
    }
}
