//! Given two sites that make their tunnel on demand, when the first packet wants to go there, then the tunnel is made and not even
//! that packet is lost; before it, and without one, nothing is sent.

use std::time::Duration;

use penstock_perf::lab::{Family, Pair, PairOptions, Site};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;
use penstock_uapi::Drop;

fn pair() -> Pair {
    let options = PairOptions { cores: [2, 2], peer_toml: "start = \"demand\"\n".into(), ..PairOptions::default() };
    let mut pair = Pair::new(&options).expect("the lab");
    pair.sites.iter_mut().try_for_each(Site::start).expect("both start");
    for site in &pair.sites {
        let start = std::time::Instant::now();
        while site.show_json().is_err() {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", site.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    pair
}

fn state(pair: &Pair, side: usize) -> String {
    let state = pair.sites[side].show_json().expect("the daemon answers");
    state["peers"][0]["state"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_first_packets_wait_for_the_tunnel_that_they_begin() {
    let pair = pair();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!([state(&pair, 0), state(&pair, 1)], ["waiting", "waiting"]);
    assert!(pair.sites.iter().all(|site| !site.log().contains("event=ike")), "nothing was tried");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    // Several flows, so that both cores have some of the first ones; so few packets that they find room for half a second.
    let udp = Udp { flows: 6, count: 20, rate: 20.0, direction: Direction::Forward, ..Udp::default() };
    let total = udp.run(&left, &right).expect("sockets").total;
    assert!(total.is_perfect(), "{total}\n{}", Counters::picture(&pair));
    assert_eq!([state(&pair, 0), state(&pair, 1)], ["up", "up"]);
    let counters = Counters::of_sites(&pair.sites);
    counters.assert_sums();
    counters.assert_no_drops(&[]);
    println!("{total}");
}

#[test]
fn packets_for_a_site_that_never_answers_are_dropped_by_their_name() {
    let pair = pair();
    pair.wire.set_up(false).expect("ip");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let total = Udp { count: 100, rate: 100.0, ..Udp::default() }.run(&left, &right).expect("sockets").total;
    assert_eq!(total.received, 0);
    std::thread::sleep(Duration::from_millis(1_500));
    let counters = Counters::of_sites(&pair.sites[..1]);
    counters.assert_sums();
    counters.assert_no_drops(&[Drop::NoSa]);
    assert_eq!(counters.drop("no_sa"), 100, "{}", pair.sites[0].log());
}
