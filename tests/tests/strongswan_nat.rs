//! Given a NAT between Penstock and strongSwan, with a filter that lets in only answers, when the side behind it begins, then
//! both find the NAT, and every packet goes both ways through the one mapping.

use std::time::{Duration, Instant};

use penstock_perf::lab::Family;
use penstock_perf::load::{Direction, Tcp, Udp};
use penstock_tests::mixed::{Behind, Mixed, MixedOptions};
use penstock_tests::trickle::Trickle;

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

/// `dpd` of Penstock: silence is looked into after half of it.
const DPD: Duration = Duration::from_secs(4);

/// Both ways, while the NAT forgets everything: how long after that packets come again, out of the NAT and into it.
fn forget_under_traffic(mixed: &Mixed, hidden: usize) -> [Duration; 2] {
    let hosts = mixed.inner(Family::V4);
    let ways = [(hidden, 1 - hidden), (1 - hidden, hidden)].map(|(from, to)| Trickle::start(&hosts[from], &hosts[to]).expect("sockets"));
    std::thread::sleep(Duration::from_millis(500));
    let moment = Instant::now();
    mixed.nat.as_ref().expect("a NAT").forget().expect("conntrack");
    ways.map(|way| way.wait_back(moment, DPD + Duration::from_secs(2), || mixed.picture()))
}

fn options(behind: Behind) -> MixedOptions {
    MixedOptions { behind, peer_toml: format!("dpd = \"{}s\"\n", DPD.as_secs()), ..MixedOptions::default() }
}

#[test]
fn a_nat_in_front_of_strongswan_forgets() {
    let mut mixed = Mixed::new(&options(Behind::StrongSwan)).expect("the lab");
    mixed.penstock_waits().expect("it starts");
    mixed.swan.initiate("net").expect("it initiates");
    mixed.wait_up(1, Duration::from_secs(10)).expect("both come up");
    let [out, back] = forget_under_traffic(&mixed, 1);
    println!("strongSwan behind the NAT: out {} ms, in {} ms after it forgot", out.as_millis(), back.as_millis());
    assert_eq!(mixed.peer()["state"], "up");
    carries_both_families(&mixed);
}

#[test]
fn a_nat_in_front_of_penstock_forgets() {
    let mixed = Mixed::start(&options(Behind::Penstock)).expect("both come up");
    let [out, back] = forget_under_traffic(&mixed, 0);
    println!("Penstock behind the NAT: out {} ms, in {} ms after it forgot, dpd {DPD:?}", out.as_millis(), back.as_millis());
    assert!(out < Duration::from_secs(1) && back <= DPD, "{out:?} {back:?}\n{}", mixed.picture());
    assert_eq!(mixed.peer()["state"], "up");
    carries_both_families(&mixed);
}
