//! Given two sites joined by a wire that replays, reorders, loses, changes and forges, then nothing is delivered twice or spoilt, every
//! refusal is counted by name, and the wire's audits find neither a nonce used twice nor a clear byte nor an answer larger than its request.

use std::thread::sleep;
use std::time::Duration;

use penstock_perf::faulty::{Faults, Playback, Region, Relay, RelayOptions, Report, Script};
use penstock_perf::lab::{Family, Pair, PairOptions, Site};
use penstock_perf::load::{Direction, Udp, UdpOutcome, Verdict};
use penstock_tests::counters::Counters;
use penstock_uapi::Drop;
use penstock_uapi::counter::Stage;

/// How many ESP packets of each direction are kept to be sent again.
const KEPT: usize = 2000;
const TIMES: u32 = 5;

fn sites_on_a_faulty_wire(peer_toml: &str) -> (Pair, Relay) {
    let options = PairOptions { cores: [2, 2], peer_toml: peer_toml.into(), ..PairOptions::default() };
    let mut pair = Pair::new(&options).expect("two sites");
    // Inner addresses side by side, as an inner header in clear would have them.
    let markers = vec![vec![10, 43, 43, 1, 10, 43, 100, 1], vec![10, 43, 100, 1, 10, 43, 43, 1]];
    let relay_options = RelayOptions { markers, keep: KEPT, ..RelayOptions::default() };
    let relay = Relay::on(&pair.wire, &options.wire, relay_options).expect("a relay");
    pair.sites.iter_mut().try_for_each(Site::start).expect("both daemons start");
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    (pair, relay)
}

fn load(pair: &Pair, seconds: u64) -> UdpOutcome {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let udp = Udp {
        flows: 4,
        rate: 1000.0,
        duration: Duration::from_secs(seconds),
        direction: Direction::Both,
        linger: Duration::from_secs(3),
        ..Udp::default()
    };
    udp.run(&left, &right).expect("sockets")
}

fn assert_audits(relay: &Relay) -> Report {
    let report = relay.report().expect("it runs");
    assert!(report.is_clean() && report.findings.esp_packets > 1000, "seed {}: {report:?}", report.seed);
    report
}

/// What a site dropped on the way in, and what it delivered.
fn refused_and_delivered(counted: &Counters, side: usize) -> (i64, i64) {
    let inbound = Drop::ALL.iter().filter(|drop| matches!(drop.stage(), Stage::Inbound | Stage::Deliver));
    (inbound.map(|drop| counted.at_site(side, drop.name())).sum(), counted.at_site(side, "delivered_packets"))
}

/// Plays everything that went from left to right, five times each, and asserts that the site that gets it refuses each one.
fn play(pair: &Pair, relay: &Relay, reflect: bool, when: &str) -> Counters {
    sleep(Duration::from_millis(300));
    let before = Counters::of(pair);
    let sent = relay.play(Playback { direction: 0, times: TIMES, reflect, rate: 10_000.0 }).expect("it runs");
    assert_eq!(sent, KEPT as u64 * u64::from(TIMES));
    sleep(Duration::from_millis(500));
    let counted = Counters::of(pair).since(&before);
    let (refused, delivered) = refused_and_delivered(&counted, usize::from(!reflect));
    println!("{when}: {sent} replayed, {refused} refused, {delivered} delivered");
    assert_eq!((refused, delivered), (sent as i64, 0), "{when}: {counted:?}");
    counted
}

#[test]
fn everything_sent_again_at_once_later_after_rekey_and_restarts_is_refused_and_counted() {
    let (mut pair, relay) = sites_on_a_faulty_wire("");
    // At once and a little later: a copy of each, five times.
    let faults = Faults { duplicate: 1.0, duplicate_after_ms: vec![0, 0, 1, 20, 200], ..Faults::default() };
    let before = Counters::of(&pair);
    relay.set_script(Script::both_ways(1, faults)).expect("it runs");
    let outcome = load(&pair, 2);
    relay.set_script(Script::default()).expect("it runs");
    let clean = |verdict: &Verdict| verdict.lost == 0 && verdict.duplicate == 0 && verdict.corrupt == 0;
    assert!(clean(&outcome.total), "{:?}\n{}", outcome.total, Counters::picture(&pair));
    sleep(Duration::from_millis(500));
    let counted = Counters::of(&pair).since(&before);
    let replays = counted.counter("replay") + counted.counter("replay_window");
    assert_eq!(replays, 5 * counted.counter("delivered_packets"), "{counted:?}");

    let counted = play(&pair, &relay, false, "later");
    assert_eq!(counted.at_site(1, "replay") + counted.at_site(1, "replay_window"), KEPT as i64 * i64::from(TIMES), "{counted:?}");
    play(&pair, &relay, true, "to its own sender");
    for _ in 0..2 {
        let answer = pair.sites[0].penstock(&["peer", "rekey", "london"]).expect("the command");
        assert!(answer.status.success(), "{answer:?}");
        sleep(Duration::from_secs(1));
    }
    sleep(Duration::from_secs(6)); // the old SAs drain for five seconds
    play(&pair, &relay, false, "after a rekey");
    let old = pair.sites[1].kill_engine().expect("it runs");
    pair.sites[1].wait_new_engine(old, Duration::from_secs(5)).expect("a new engine");
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    load(&pair, 1); // the SAs of all cores
    play(&pair, &relay, false, "after the engine's restart");
    for site in &mut pair.sites {
        site.stop().expect("it stops");
    }
    pair.sites.iter_mut().try_for_each(Site::start).expect("both daemons start");
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    load(&pair, 1);
    play(&pair, &relay, false, "after both restart");
    // The ports that its own sender had are nobody's now: there is nothing to count, and nothing comes of it.
    let before = Counters::of(&pair);
    relay.play(Playback { direction: 0, times: TIMES, reflect: true, rate: 10_000.0 }).expect("it runs");
    sleep(Duration::from_millis(500));
    assert_eq!(refused_and_delivered(&Counters::of(&pair).since(&before), 0).1, 0);
    Counters::of(&pair).assert_sums();
    assert_audits(&relay);
}

#[test]
fn packets_reordered_up_to_the_window_less_64_are_all_delivered() {
    let (pair, relay) = sites_on_a_faulty_wire("window = 1024");
    load(&pair, 1);
    let before = Counters::of(&pair);
    let reorder = |depth| Faults { reorder: 0.3, reorder_depth: depth, ..Faults::default() };
    relay.set_script(Script::both_ways(2, reorder(1024 - 64))).expect("it runs");
    let outcome = load(&pair, 2);
    assert!(
        outcome.total.lost == 0 && outcome.total.duplicate == 0 && outcome.total.reordered > 1000,
        "{}\n{}",
        outcome.total,
        Counters::picture(&pair)
    );
    let counted = Counters::of(&pair).since(&before);
    assert_eq!(refused_and_delivered(&counted, 0).0 + refused_and_delivered(&counted, 1).0, 0, "{counted:?}");
    // Beyond the window what is late is refused and counted, and still nothing comes twice. Several SAs share the wire, so the depth is far more.
    relay.set_script(Script::both_ways(3, reorder(8000))).expect("it runs");
    let before = Counters::of(&pair);
    let outcome = load(&pair, 3);
    let counted = Counters::of(&pair).since(&before);
    let late = counted.counter("replay_window") as u64;
    println!("reordered by up to 8000: {} late ones refused of {}", late, outcome.total.sent);
    assert!(late > 0 && outcome.total.lost == late && outcome.total.duplicate == 0, "{} {counted:?}", outcome.total);
    Counters::of(&pair).assert_sums();
    assert_audits(&relay);
}

/// Datagrams that both kernels refused before any socket had them, without their queue being full (`InErrors` of `Udp` in
/// /proc/net/snmp).
fn refused_by_the_kernel(pair: &Pair) -> u64 {
    let of = |site: &Site| -> Option<u64> {
        let output = site.namespace().command("cat").arg("/proc/net/snmp").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = text.lines().filter(|line| line.starts_with("Udp: "));
        let at = lines.next()?.split_whitespace().position(|name| name == "InErrors")?;
        lines.next()?.split_whitespace().nth(at)?.parse().ok()
    };
    pair.sites.iter().map(|site| of(site).expect("the kernel's counters")).sum()
}

#[test]
fn a_bad_wire_costs_what_it_takes_and_nothing_more() {
    let (pair, relay) = sites_on_a_faulty_wire("");
    load(&pair, 1);
    let started = relay.report().expect("it runs");
    let (before, refused) = (Counters::of(&pair), refused_by_the_kernel(&pair));
    let faults = Faults {
        loss: 0.02,
        burst: 0.001,
        duplicate: 0.02,
        duplicate_after_ms: vec![0, 5],
        jitter_ms: 2.0,
        reorder: 0.02,
        reorder_depth: 100,
        flip: 0.01,
        region: Region::Ciphertext,
        truncate: 0.01,
        extend: 0.01,
        forgeries: 5,
        fragment: 0.02,
        garbage: 0.02,
        ..Faults::default()
    };
    relay.set_script(Script::both_ways(4, faults)).expect("it runs");
    let outcome = load(&pair, 3);
    relay.set_script(Script::default()).expect("it runs");
    sleep(Duration::from_millis(500));
    let report = assert_audits(&relay);
    let taken = |from: &Report| {
        [&from.forward, &from.backward].map(|counts| counts.lost + counts.altered + counts.refused + counts.overflowed).iter().sum::<u64>()
    };
    let (taken, forged) = (taken(&report) - taken(&started), report.forward.forged + report.backward.forged);
    let counted = Counters::of(&pair).since(&before);
    // What the kernel refuses is counted as well: a queue that overflows while this machine is busy, a datagram that it finds wrong.
    let taken = taken + counted.counter("receive_queue_overflows") as u64 + refused_by_the_kernel(&pair) - refused;
    println!("{}; the wire took {taken} and forged {forged}: {:?}", outcome.total, counted.drops());
    assert!(
        outcome.total.duplicate == 0 && outcome.total.corrupt == 0 && outcome.total.lost <= taken,
        "{} of {taken}: {counted:?}",
        outcome.total
    );
    assert!(forged > 10_000);
    Counters::of(&pair).assert_sums();
}
