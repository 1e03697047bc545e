//! Endurance: a wire that spoils one datagram in a hundred in each of its ways, a rekey a second, questions every second and a changed
//! configuration every minute, for as long as one likes; and what grows meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{Bench, broken_sums};
use crate::faulty::{Faults, Region, Report, Script};
use crate::lab::{PairOptions, Site};
use crate::soak::{self, Point, Trend, trends};

/// Flows each way, and datagrams a second of each.
const FLOWS: usize = 4;
const RATE: f64 = 250.0;
/// Between two points of the curves, and two changes of the configuration.
const POINT: Duration = Duration::from_secs(10);
const RELOAD: Duration = Duration::from_secs(60);
/// How much memory a program may gain in an hour.
const GROWTH_BYTES_MAX: f64 = 65_536.0;
/// How often each way of spoiling a datagram is chosen.
const CHANCE: f64 = 0.01;

/// A plan.
#[derive(Clone, Copy, Debug)]
pub struct Endurance {
    /// How long.
    pub length: Duration,
    /// What at the beginning does not count for what grows: tables and caches fill.
    pub warm_up: Duration,
    /// What the wire's faults are drawn from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct EnduranceReport {
    /// The seed.
    pub seed: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Datagrams sent through the tunnel, both ways.
    pub sent: u64,
    /// Of those, never received: the wire's losses, and what it spoilt.
    pub lost: u64,
    /// Received twice or damaged.
    pub wrong: u64,
    /// Questions that were answered, and configurations that came into force.
    pub answers: u64,
    /// See there.
    pub reloads: u64,
    /// SAs that were seen on the wire.
    pub sas: u64,
    /// Lines in both logs.
    pub log_lines: u64,
    /// Sums of counters that did not hold at the end, in words.
    pub broken_sums: Vec<String>,
    /// What each program used, from the end of the warm-up: name, first and last value, growth in an hour.
    pub trends: Vec<(String, f64, f64, Option<f64>)>,
    /// What the wire did and saw.
    pub wire: Report,
}

impl EnduranceReport {
    /// What is wrong, in words; nothing if nothing is.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.broken_sums.clone();
        if self.wrong > 0 {
            complaints.push(format!("{} datagrams came twice or damaged", self.wrong));
        }
        if !self.wire.is_clean() {
            complaints.push(format!("the wire's audits: {:?}", self.wire.findings));
        }
        for (name, first, last, an_hour) in &self.trends {
            let most = if name.ends_with("memory_bytes") { GROWTH_BYTES_MAX } else { 0.0 };
            if an_hour.is_some_and(|growth| growth > most) {
                complaints.push(format!("{name}: {first} at first, {last} at last, {an_hour:?} more in an hour"));
            }
        }
        complaints
    }
}

impl Endurance {
    /// Runs the plan; `seen` gets each point of the curves.
    ///
    /// # Errors
    /// If the sites do not come up, a program ends, or a question or a change is refused.
    pub fn run(&self, mut seen: impl FnMut(&Point)) -> Result<EnduranceReport> {
        let options =
            PairOptions { cores: [2, 2], peer_toml: "rekey_child = \"1s\"\nrekey_ike = \"30s\"\n".into(), ..PairOptions::default() };
        let bench = Bench::new(&options)?;
        let beat = bench.beat(FLOWS, RATE)?;
        bench.relay.set_script(Script::both_ways(self.seed, faults()))?;
        let start = Instant::now();
        let (mut points, mut answers, mut reloads) = (Vec::new(), 0, 0);
        let (mut next_point, mut next_reload) = (POINT, RELOAD);
        while start.elapsed() < self.length {
            std::thread::sleep(Duration::from_secs(1));
            for site in &bench.pair.sites {
                site.show_json()?;
                answers += 1;
            }
            if start.elapsed() >= next_reload {
                next_reload += RELOAD;
                bench.pair.sites.iter().try_for_each(|site| reload(site, reloads))?;
                reloads += 1;
            }
            if start.elapsed() >= next_point {
                next_point += POINT;
                let point = Point { at_seconds: start.elapsed().as_secs_f64(), values: usage(&bench.pair.sites)? };
                seen(&point);
                points.push(point);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        bench.relay.set_script(Script::default())?;
        let verdict = beat.finish(Duration::from_secs(3))?;
        std::thread::sleep(Duration::from_secs(2));
        let wire = bench.relay.report()?;
        points.retain(|point| point.at_seconds >= self.warm_up.as_secs_f64());
        let tell = |trend: Trend| (trend.name, trend.first, trend.last, trend.an_hour);
        Ok(EnduranceReport {
            seed: self.seed,
            seconds,
            sent: verdict.sent,
            lost: verdict.lost,
            wrong: verdict.duplicate + verdict.corrupt,
            answers,
            reloads,
            sas: wire.findings.sas,
            log_lines: bench.pair.sites.iter().map(|site| site.log().lines().count() as u64).sum(),
            broken_sums: bench
                .pair
                .sites
                .iter()
                .map(Site::show_json)
                .map(|state| Ok(broken_sums(&state?)))
                .collect::<Result<Vec<_>>>()?
                .concat(),
            trends: trends(&points).into_iter().map(tell).collect(),
            wire,
        })
    }
}

fn faults() -> Faults {
    Faults {
        loss: CHANCE,
        duplicate: CHANCE,
        duplicate_after_ms: vec![0, 100],
        reorder: CHANCE,
        reorder_depth: 100,
        truncate: CHANCE,
        extend: CHANCE,
        flip: CHANCE,
        flip_bits: 1,
        region: Region::Any,
        garbage: CHANCE,
        garbage_bytes: 1400,
        ..Faults::default()
    }
}

/// A change that costs the peer nothing, there and back.
fn reload(site: &Site, number: u64) -> Result<()> {
    let text = fs::read_to_string(site.config_path())?;
    let changed = if number.is_multiple_of(2) {
        text.replacen("rekey_child", "dpd = \"29s\"\nrekey_child", 1)
    } else {
        text.replacen("dpd = \"29s\"\n", "", 1)
    };
    ensure!(changed != text, "the configuration of {} has nothing to change", site.name());
    site.write_config(&changed)?;
    let answer = site.penstock(&["apply"])?;
    ensure!(answer.status.success(), "apply at {}: {}", site.name(), String::from_utf8_lossy(&answer.stderr));
    Ok(())
}

/// Memory, descriptors and threads of each program, by site.
fn usage(sites: &[Site]) -> Result<BTreeMap<String, f64>> {
    let mut values = BTreeMap::new();
    for site in sites {
        for (program, pid) in [("engine", site.engine_pid()?), ("control", site.control_pid()?)] {
            let used = soak::usage(pid).with_context(|| format!("{program} of {} has ended", site.name()))?;
            values.extend(used.map(|(what, value)| (format!("{} {program} {what}", site.name()), value)));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::{EnduranceReport, Report};

    #[test]
    fn what_grows_or_breaks_is_complained_of() {
        let good = EnduranceReport {
            seed: 1,
            seconds: 1.0,
            sent: 10,
            lost: 1,
            wrong: 0,
            answers: 1,
            reloads: 1,
            sas: 1,
            log_lines: 1,
            broken_sums: Vec::new(),
            trends: vec![("a engine memory_bytes".into(), 1e6, 1e6, Some(60_000.0)), ("a engine threads".into(), 4.0, 4.0, Some(0.0))],
            wire: Report::default(),
        };
        assert!(good.complaints().is_empty());
        let grows = |name: &str, by: f64| EnduranceReport { trends: vec![(name.into(), 1.0, 2.0, Some(by))], ..good.clone() };
        for bad in [
            EnduranceReport { wrong: 1, ..good.clone() },
            EnduranceReport { broken_sums: vec!["x".into()], ..good.clone() },
            grows("a engine memory_bytes", 70_000.0),
            grows("a control descriptors", 0.5),
        ] {
            assert_eq!(bad.complaints().len(), 1, "{bad:?}");
        }
    }
}
