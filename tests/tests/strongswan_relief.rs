//! Given strongSwan, which has one SA for both cores of Penstock, under steady traffic both ways, when Penstock's engine is relieved by
//! another, then strongSwan sees a rekey like any other, and no packet is lost.

use std::time::Duration;

use penstock_perf::lab::Family;
use penstock_perf::load::{Direction, Udp};
use penstock_tests::mixed::{Mixed, MixedOptions};

#[test]
fn strongswan_notices_nothing_of_an_engine_that_is_relieved() {
    let mixed = Mixed::start(&MixedOptions::default()).expect("both come up");
    let [left, right] = mixed.inner(Family::V4);
    let udp = Udp {
        flows: 4,
        rate: 500.0,
        sizes: vec![64, 1200],
        duration: Duration::from_secs(8),
        direction: Direction::Both,
        linger: Duration::from_secs(2),
        ..Udp::default()
    };
    let before = mixed.missed();
    let total = std::thread::scope(|scope| {
        let running = scope.spawn(|| udp.run(&left, &right).expect("sockets").total);
        std::thread::sleep(Duration::from_secs(1));
        let output = mixed.site[0].penstock(&["upgrade", "engine", "--json"]).expect("the command");
        assert!(output.status.success(), "{output:?}\n{}", mixed.picture());
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        println!("one SA pair: packets waited {} us", answer["pause_us"]);
        assert_eq!(answer["sas"], 1, "{answer}");
        running.join().expect("the load")
    });
    let missed = mixed.missed().since(&before);
    println!("{total}; {missed}");
    assert_eq!((total.lost.saturating_sub(missed.at_charon()), total.duplicate, total.corrupt), (0, 0, 0), "{total}\n{}", mixed.picture());
    mixed.counters().assert_no_drops(&[]);
}
