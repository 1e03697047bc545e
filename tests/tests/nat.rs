//! Given two Penstocks with two workers each and a NAT with a filter between, when the NAT forgets, or falls asleep, then they go
//! on by themselves within seconds.

use std::time::{Duration, Instant};

use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;
use penstock_tests::natted::Natted;
use penstock_tests::trickle::Trickle;

/// `dpd` of both sites: silence is looked into after half of it.
const DPD: Duration = Duration::from_secs(4);

fn carries(natted: &Natted) {
    let udp = Udp { flows: 8, count: 500, rate: 1000.0, direction: Direction::Both, ..Udp::default() };
    let total = udp.run(&natted.host(0), &natted.host(1)).expect("sockets").total;
    assert!(total.is_perfect(), "{total}\n{}", natted.picture());
}

#[test]
fn both_find_the_nat_and_every_core_sends_through_its_one_mapping() {
    let natted = Natted::start(2, "").expect("both come up");
    carries(&natted);
    assert_eq!(natted.peer(0)["ike"]["nat_here"], true, "{}", natted.peer(0));
    assert_eq!(natted.peer(1)["ike"]["nat_there"], true, "{}", natted.peer(1));
    // Each core has its SA, and all go to the one port that the NAT gave.
    let remotes = natted.remotes();
    assert!(remotes.len() >= 2 && remotes.iter().all(|remote| *remote == remotes[0] && !remote.ends_with(":4500")), "{remotes:?}");
    let counters = Counters::of_sites(&natted.sites);
    counters.assert_sums();
    counters.assert_no_drops(&[]);
}

#[test]
fn a_nat_that_forgets_under_traffic_costs_moments() {
    let natted = Natted::start(2, &format!("dpd = \"{}s\"\n", DPD.as_secs())).expect("both come up");
    let [hidden, open] = [natted.host(0), natted.host(1)];
    let both = [Trickle::start(&hidden, &open).expect("sockets"), Trickle::start(&open, &hidden).expect("sockets")];
    std::thread::sleep(Duration::from_millis(500));
    for round in 0..3 {
        let (before, moment) = (natted.remotes(), Instant::now());
        natted.nat.forget().expect("conntrack");
        let after: Vec<u128> =
            both.iter().map(|way| way.wait_back(moment, Duration::from_secs(2), || natted.picture()).as_millis()).collect();
        println!("round {round}: out {} ms, in {} ms after the NAT forgot", after[0], after[1]);
        std::thread::sleep(Duration::from_millis(500));
        assert_ne!(natted.remotes(), before, "the NAT has chosen another port");
    }
    drop(both);
    carries(&natted);
    assert!(natted.sites[1].log().contains("has moved from"), "IKE has followed, too\n{}", natted.picture());
}

#[test]
fn a_nat_that_forgets_while_only_the_open_side_sends_is_found_by_the_silence() {
    let natted = Natted::start(2, &format!("dpd = \"{}s\"\n", DPD.as_secs())).expect("both come up");
    let inward = Trickle::start(&natted.host(1), &natted.host(0)).expect("sockets");
    std::thread::sleep(Duration::from_millis(500));
    let before = natted.remotes();
    let moment = Instant::now();
    natted.nat.forget().expect("conntrack");
    let after = inward.wait_back(moment, DPD, || natted.picture());
    println!("in {} ms after the NAT forgot, dpd {DPD:?}", after.as_millis());
    assert_ne!(natted.remotes(), before);
    assert_eq!(natted.peer(0)["state"], "up");
}

#[test]
fn a_nat_with_a_short_memory_is_reminded() {
    for (keepalive, reached) in [("1s", true), ("5m", false)] {
        let natted = Natted::start(1, &format!("nat_keepalive = \"{keepalive}\"\ndpd = \"10m\"\n")).expect("both come up");
        natted.nat.forget_after(3, 3).expect("conntrack");
        carries(&natted);
        std::thread::sleep(Duration::from_secs(8));
        let inward = Trickle::start(&natted.host(1), &natted.host(0)).expect("sockets");
        let begun = Instant::now();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(inward.back_after(begun).is_some(), reached, "every {keepalive}\n{}", natted.picture());
    }
}

#[test]
fn a_new_control_finds_the_peer_behind_the_nat_again_and_nothing_is_lost() {
    let mut natted = Natted::start(2, "").expect("both come up");
    let [hidden, open] = [natted.host(0), natted.host(1)];
    let before = natted.peer(1)["ike"]["initiator_spi"].clone();
    let udp = Udp { flows: 4, rate: 500.0, duration: Duration::from_secs(4), direction: Direction::Both, ..Udp::default() };
    let total = std::thread::scope(|scope| {
        let load = scope.spawn(|| udp.run(&hidden, &open).expect("sockets").total);
        std::thread::sleep(Duration::from_secs(1));
        let old = natted.sites[1].kill_control().expect("it runs");
        natted.sites[1].wait_new_control(old, Duration::from_secs(10)).expect("another one");
        load.join().expect("the load")
    });
    assert!(total.is_perfect(), "{total}\n{}", natted.picture());
    natted.sites[1].wait_up(Duration::from_secs(5)).expect("it is up");
    let after = natted.peer(1)["ike"]["initiator_spi"].clone();
    assert!(after.is_string() && after != before, "an IKE SA of the new control's: {after}\n{}", natted.picture());
    println!("{total} while control was killed");
}
