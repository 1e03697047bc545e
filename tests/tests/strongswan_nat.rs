//! Given a NAT between Penstock and strongSwan, with a filter that lets in only answers, when the side behind it begins, then
//! both find the NAT, and every packet goes both ways through the one mapping.

use std::time::Duration;

use penstock_perf::lab::Family;
use penstock_perf::load::{Direction, Tcp, Udp};
use penstock_tests::mixed::{Behind, Mixed, MixedOptions};

fn carries_both_families(mixed: &Mixed) {
    for family in [Family::V4, Family::V6] {
        let [left, right] = mixed.inner(family);
        let udp = Udp { flows: 4, sizes: vec![64, 1200], count: 500, rate: 300.0, direction: Direction::Both, ..Udp::default() };
        let outcome = udp.run(&left, &right).expect("sockets");
        assert!(outcome.total.is_perfect(), "{family:?}: {}\n{}", outcome.total, mixed.picture());
        let tcp = Tcp { streams: 2, duration: Duration::from_millis(500), direction: Direction::Both, ..Tcp::default() };
        let bulk = tcp.run(&left, &right).expect("connections");
        assert!(bulk.is_intact() && bulk.bytes() > 1 << 20, "{family:?}: {bulk:?}\n{}", mixed.picture());
        println!("{family:?}: {}; TCP {:.2} Gbit/s", outcome.total, bulk.gigabits());
    }
    let counters = mixed.counters();
    counters.assert_sums();
    counters.assert_no_drops(&[]);
}

#[test]
fn strongswan_behind_a_nat() {
    let options = MixedOptions { behind: Behind::StrongSwan, ..MixedOptions::default() };
    let mut mixed = Mixed::new(&options).expect("the lab");
    mixed.penstock_waits().expect("it starts");
    mixed.swan.initiate("net").expect("it initiates");
    mixed.wait_up(1, Duration::from_secs(10)).expect("both come up");
    // The port that the NAT chose, not 4500, is where packets go.
    let remote = mixed.peer()["sas"][0]["remote"].as_str().unwrap_or_default().to_owned();
    assert!(!remote.is_empty() && !remote.ends_with(":4500"), "{remote}\n{}", mixed.picture());
    println!("strongSwan is seen at {remote}");
    carries_both_families(&mixed);
}

#[test]
fn penstock_behind_a_nat() {
    let options = MixedOptions { behind: Behind::Penstock, ..MixedOptions::default() };
    let mixed = Mixed::start(&options).expect("both come up");
    carries_both_families(&mixed);
}
