//! Given two sites under load that look after each other every three seconds, when the wire is cut for less or more than that, then traffic is back by
//! itself, and meanwhile neither site talks more than it has to. `penstock-perf cuts` is the long form.

use std::time::Duration;

use penstock_perf::campaign::Cuts;

/// `dpd` of both sites.
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// A new handshake is tried at least every five seconds; and what it takes on a busy machine.
const RETRY_MS: f64 = 8_000.0;

#[test]
fn traffic_is_back_after_every_cut() {
    let lengths = [100, 1000, 8000].map(Duration::from_millis).to_vec();
    let report = Cuts { lengths, dead_after: DEAD_AFTER }.run(|cut| println!("{cut:?}")).expect("traffic comes back");
    assert!(report.wrong == 0 && report.wire.is_clean(), "{report:?}");
    for cut in &report.cuts {
        assert!(cut.messages_a_second <= 2, "{report:?}");
        // Below the time that makes a peer dead nothing is made anew.
        let bar = if cut.seconds < DEAD_AFTER.as_secs_f64() { 1000.0 } else { RETRY_MS };
        assert!(cut.back_ms < bar, "{report:?}");
    }
    assert!(report.cuts.last().is_some_and(|cut| cut.messages > 0), "the dead peer was tried: {report:?}");
}
