//! Given a site with an honest peer, when a stranger floods it from forged addresses, then the honest peer's packets pass, it comes up anew in the midst of the
//! flood, and the site neither dies, grows, talks more than it hears nor fills its log. `penstock-perf flood` is the long form, with rates.

use std::time::Duration;

use penstock_perf::campaign::{Ammunition, Flood, FloodReport};

/// Datagrams a second: what two processors carry beside everything else.
const RATE: f64 = 30_000.0;
const GROWTH_MAX: u64 = 16 << 20;

fn flooded(ammunition: Ammunition) -> FloodReport {
    let report =
        Flood { ammunition, rate: RATE, rounds: 1, length: Duration::from_millis(700), seed: 31 }.run(|_| ()).expect("load passes");
    println!("{report:?}");
    assert!(report.lives && report.rounds.iter().flatten().all(|sample| sample.wrong == 0 && sample.flood_pps > 100.0), "{report:?}");
    assert!(report.rounds.iter().flatten().all(|sample| sample.tcp_gbps > 0.0 && sample.udp_share > 0.5), "{report:?}");
    assert!(report.grown() <= GROWTH_MAX && report.lines_a_second() <= 10.0, "{report:?}");
    assert!(report.answered[1] <= report.answered[0], "{report:?}");
    report
}

fn dropped(report: &FloodReport, reason: &str) -> u64 {
    report.drops.get(&format!("frankfurt {reason}")).copied().unwrap_or_default()
}

#[test]
fn handshakes_of_strangers_cost_a_cookie_at_most() {
    let report = flooded(Ammunition::Handshakes);
    assert!(report.answered[1] > 10_000, "strangers are answered: {report:?}");
}

#[test]
fn packets_for_unknown_spis_are_counted_and_hardly_told() {
    let report = flooded(Ammunition::UnknownSpis);
    assert!(dropped(&report, "unknown_spi") > 1000, "{report:?}");
}

#[test]
fn forged_packets_for_live_spis_are_refused() {
    let report = flooded(Ammunition::Forgeries);
    assert!(dropped(&report, "bad_icv") > 1000, "{report:?}");
}
