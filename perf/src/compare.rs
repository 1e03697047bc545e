//! `penstock-perf run`: Penstock, other VPNs and the plain wire, measured in turn.
//!
//! ```text
//!   subject ── bring up ──► tunnel ── measure ──► sample ──► record (JSON) ──► summary ──► table, plots, report
//!   adaptor (TOML)            │  next to its wire    │ noise
//! ```
//! [`run()`] makes a [`Record`]; everything shown is made from that alone.

mod adaptor;
mod grid;
mod measure;
mod noise;
mod plot;
mod reach;
mod record;
mod report;
mod run;
mod stats;
mod subject;
mod summary;
mod table;
mod variant;

pub use adaptor::{Adaptor, Running};
pub use grid::{Grid, grids};
pub use measure::Measure;
pub use record::{Line, Machine, Mode, Noise, Plan, Process, Purpose, Record, SCHEMA, Sample, WireKind};
pub use report::{plots, report};
pub use run::run;
pub use stats::{Summary, ratios, slope};
pub use subject::{Subject, Tunnel};
pub use table::table;
pub use variant::{Build, Variant};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Mode, Noise, Plan, Record, SCHEMA, Sample, WireKind, summary};

    const WIRE: WireKind = WireKind { mode: Mode::Whole, mtu: 1500 };

    /// A calm TCP measurement.
    pub(super) fn sample(subject: &str, beside: bool, round: usize, goodput: f64) -> Sample {
        Sample {
            subject: subject.into(),
            beside,
            wire: WIRE,
            measure: "tcp-1".into(),
            round,
            attempt: 1,
            at_seconds: round as f64,
            values: BTreeMap::from([("goodput_gbps".into(), goodput)]),
            processes: Vec::new(),
            drops: BTreeMap::new(),
            histogram: Vec::new(),
            noise: Noise::default(),
            disturbed: None,
        }
    }

    /// Six rounds of Penstock and another one.
    pub(super) fn record() -> Record {
        let turns = [("penstock", true, 10.0), ("penstock", false, 6.0), ("openvpn", true, 10.0), ("openvpn", false, 1.0)];
        let samples: Vec<Sample> =
            (1..=6).flat_map(|round| turns.map(|(subject, beside, goodput)| sample(subject, beside, round, goodput))).collect();
        Record {
            schema: SCHEMA,
            started: "2026-11-23T03:00:00Z".into(),
            seconds: 60.0,
            complete: true,
            machine: super::Machine::default(),
            plan: Plan { rounds: 6, seconds: 1.0, wires: vec![WIRE], measures: vec!["tcp-1".into()], ..Plan::default() },
            subjects: BTreeMap::from([("penstock".into(), "0.1".into()), ("openvpn".into(), "2.6 <&>".into())]),
            daemons: BTreeMap::from([("penstockd".into(), "penstockd 0.1.0, built by this run from 1234".into())]),
            missing: BTreeMap::from([("nebula".into(), "not installed: nebula".into())]),
            failures: Vec::new(),
            summary: summary::lines(&samples),
            samples,
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let record = record();
        let text = serde_json::to_string(&record).expect("plain data");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("its own words"), record);
        for key in ["\"schema\":1", "\"kernel\"", "\"commit\"", "\"samples\":[{", "\"penstock_to_this\":{", "\"mode\":\"whole\""] {
            assert!(text.contains(key), "{key}");
        }
    }
}
