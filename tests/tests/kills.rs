//! Given two sites under load on an audited wire, when engines or controls of either are killed at moments drawn from a seed, then no
//! nonce is used twice, nothing leaves in clear, device and routes are never gone, and what a dead control costs is not one packet. `penstock-perf
//! kills` is the long form.

use std::process::Command;
use std::time::Duration;

use penstock_perf::campaign::{Bench, Kills, Victim};
use penstock_perf::lab::PairOptions;

const KILLS: u32 = 8;

#[test]
fn killed_engines_come_back_without_a_trace() {
    let report = Kills { victim: Victim::Engine, count: KILLS, seed: 11 }.run(|_| ()).expect("every engine comes back");
    println!("back after {:?} ms, {} of {} lost", report.back_ms, report.lost, report.sent);
    assert!(report.is_clean() && report.wire.findings.esp_packets > 5000, "{report:?}");
    assert_eq!(report.back_ms.len() as u32 + report.overlapped, KILLS);
    assert!(report.back_within(1.0) < 5000.0, "{report:?}");
}

#[test]
fn killed_controls_cost_no_packet() {
    let report = Kills { victim: Victim::Control, count: KILLS, seed: 12 }.run(|_| ()).expect("every control comes back");
    println!("{} of {} lost", report.lost, report.sent);
    assert!(report.is_clean() && report.wire.findings.esp_packets > 5000, "{report:?}");
    assert_eq!((report.lost, report.overlapped), (0, 0), "{report:?}");
}

#[test]
fn a_campaign_would_see_a_route_that_goes_and_a_packet_in_clear() {
    let bench = Bench::new(&PairOptions::default()).expect("both sites come up");
    let [watch, other] = bench.watches().expect("ip monitor");
    let beat = bench.beat(1, 500.0).expect("packets pass");
    assert!(bench.relay.report().expect("it runs").is_clean() && watch.is_as_before().expect("the device is there"));
    // Given a control that cannot put back what somebody takes away
    let site = &bench.pair.sites[0];
    let control = site.control_pid().expect("it runs").to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &control]).status().expect("kill can be run").success());
    signal("-STOP");
    site.namespace().ip("route flush table 28773").expect("ip");
    std::thread::sleep(Duration::from_millis(200));
    let as_before = watch.is_as_before().expect("the device is there");
    signal("-CONT");
    drop(beat);
    let (deleted, report) = (watch.finish(), bench.relay.report().expect("it runs"));
    assert!(!as_before && deleted.iter().any(|line| line.contains("10.43.100.0/24")), "{deleted:?}");
    assert!(other.finish().is_empty());
    // then what should have gone through the tunnel went along the default route, and was seen.
    assert!(report.findings.clear_frames > 50 && !report.is_clean(), "{report:?}");
}
