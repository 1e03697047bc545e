//! Given a wire that spoils one datagram in a hundred in each of its ways, a rekey a second, questions and a changed configuration, then
//! nothing is delivered twice or damaged, no nonce is used twice, and every packet is accounted for. `penstock-perf endure` is the long form.

use std::time::Duration;

use penstock_perf::campaign::Endurance;

#[test]
fn a_bad_wire_rekeys_and_changes_leave_every_packet_accounted_for() {
    // Long enough for one change of the configuration; memory still fills its tables in so short a time.
    let plan = Endurance { length: Duration::from_secs(65), warm_up: Duration::from_secs(600), seed: 7 };
    let report = plan.run(|_| ()).expect("both sites last");
    println!("{} sent, {} lost, {} SAs, {} answers, {} changes", report.sent, report.lost, report.sas, report.answers, report.reloads);
    assert!(report.complaints().is_empty(), "{:?}", report.complaints());
    assert!(report.trends.is_empty() && report.sas >= 200 && report.reloads == 1 && report.answers >= 100, "{report:?}");
    // Loss, truncation, extension and flipped bits: four in a hundred, and whatever else the wire counts.
    let share = report.lost as f64 / report.sent as f64;
    assert!((0.03..0.06).contains(&share), "{} of {} lost", report.lost, report.sent);
}
