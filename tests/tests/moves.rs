//! Given two sites in the open, when one of them gets another address, then both go on without a new handshake, and the other one
//! asks before it believes.

use std::time::{Duration, Instant};

use penstock_perf::lab::{Family, Pair, PairOptions};
use penstock_perf::load::{Direction, Udp};
use penstock_tests::counters::Counters;
use penstock_tests::trickle::Trickle;

/// How often the address changes.
fn rounds() -> u8 {
    std::env::var("PENSTOCK_MOVES").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn founded(pair: &Pair, side: usize) -> String {
    let state = pair.sites[side].show_json().expect("the daemon answers");
    state["peers"][0]["ike"]["initiator_spi"].as_str().unwrap_or_default().to_owned()
}

/// Where the second site takes the first one to be.
fn remote(pair: &Pair) -> String {
    let state = pair.sites[1].show_json().expect("the daemon answers");
    state["peers"][0]["remote"].as_str().unwrap_or_default().to_owned()
}

/// Of two IKE SAs that both sides began at once one goes.
fn settled(pair: &Pair) -> String {
    let start = Instant::now();
    loop {
        let of_both = [0, 1].map(|side| founded(pair, side));
        let sas = |side: usize| pair.sites[side].show_json().expect("the daemon answers")["peers"][0]["sas"].as_array().map_or(0, Vec::len);
        if of_both[0] == of_both[1] && sas(0) == 1 && sas(1) == 1 {
            return of_both[0].clone();
        }
        assert!(start.elapsed() < Duration::from_secs(15), "two IKE SAs stay\n{}", Counters::picture(pair));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_site_that_changes_its_address_is_followed() {
    let pair = Pair::start(&PairOptions { cores: [1, 1], ..PairOptions::default() }).expect("both sites come up");
    let before = settled(&pair);
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let ways = [Trickle::start(&left, &right).expect("sockets"), Trickle::start(&right, &left).expect("sockets")];
    let (namespace, device) = (pair.sites[0].namespace(), pair.wire.device());
    // The second address of a network outlives the first.
    namespace.set_sysctl("net/ipv4/conf/all/promote_secondaries", "1").expect("a setting");
    let mut address = pair.wire.host_v4(0).address.to_string();
    let mut outages = [Vec::new(), Vec::new()];
    for round in 0..rounds() {
        std::thread::sleep(Duration::from_millis(1_000));
        let next = format!("10.0.0.{}", 50 + round);
        let moment = Instant::now();
        namespace.ip(&format!("addr add {next}/24 dev {device}")).expect("ip");
        namespace.ip(&format!("addr del {address}/24 dev {device}")).expect("ip");
        address = next;
        for (way, outages) in ways.iter().zip(&mut outages) {
            outages.push(way.wait_back(moment, Duration::from_secs(5), || Counters::picture(&pair)).as_millis());
        }
        // Packets are back as soon as the kernel has chosen another address here; that the other side asks there takes a little longer.
        while remote(&pair) != format!("{address}:4500") {
            assert!(moment.elapsed() < Duration::from_secs(2), "still at {}\n{}", remote(&pair), pair.sites[1].log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!("out {:?} ms, in {:?} ms after each change", outages[0], outages[1]);
    drop(ways);
    assert_eq!(settled(&pair), before, "the same IKE SA");
    let total = Udp { count: 500, rate: 1000.0, direction: Direction::Both, ..Udp::default() }.run(&left, &right).expect("sockets").total;
    assert!(total.is_perfect(), "{total}\n{}", Counters::picture(&pair));
}
