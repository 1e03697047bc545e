//! Given a daemon with hundreds of peers, when it starts, then all are up within seconds. `penstock-perf crowd` is the long form.

use std::time::Duration;

use penstock_perf::campaign::Crowd;

#[test]
fn a_crowd_of_peers_comes_up_together() {
    let report = Crowd { peers: 300, patience: Duration::from_secs(60) }.run().expect("all come up");
    let [control, engine] = report.bytes_per_peer.map(|bytes| bytes / 1024.0);
    println!(
        "{} up after {:.1} s; {control:.1} KiB of control and {engine:.1} KiB of the engine for each",
        report.peers, report.up_seconds
    );
    assert_eq!(report.shown_up, 300);
}
