//! Frames that nobody sealed: none is opened, and each dies under the name that its clear bytes foretell. The long form is
//! `penstock-fuzz forge`.

use penstock_fuzz::forge;

#[test]
fn a_million_forged_frames_die_under_their_names() {
    let report = forge::run(1_000_000, 7);
    assert_eq!(report.total(), 1_000_000);
    assert!(report.holds(), "{report}");
    assert!(report.tried.iter().all(|tried| *tried > 50_000), "each kind has its share: {report}");
    assert_eq!(forge::run(10_000, 7), forge::run(10_000, 7), "the same seed, the same frames");
}
