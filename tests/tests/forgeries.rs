//! Given traffic on the audited wire, when forged copies travel beside each packet, then none is accepted, both engines live, and the sum of
//! named drops is the number that was forged, less what the kernels lost. `penstock-perf forge` is the long form.

use penstock_perf::campaign::Forgeries;

const FORGED: u64 = 200_000;

#[test]
fn forged_packets_beside_live_traffic_are_refused_and_counted_one_by_one() {
    let report = Forgeries { count: FORGED, seed: 21 }.run(|_| ()).expect("traffic passes");
    println!("{} forged: {:?}, {} of {} true ones lost", report.forged, report.counted, report.lost, report.sent);
    assert!(report.forged >= FORGED && report.counted.refused > FORGED / 2, "{report:?}");
    assert_eq!((report.accepted, report.unexplained()), (0, 0), "{report:?}");
    assert!(report.is_clean(), "{report:?}");
}
