//! A run: all subjects up at once, each on a wire of its own, measured always in turn and each next to its plain wire. So
//! whatever the machine does meanwhile happens to all of them alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::measure::Measure;
use super::noise::{self, Watch};
use super::record::{Mode, Plan, Record, SCHEMA, Sample, WireKind};
use super::subject::{Subject, Tunnel};
use super::summary;
use crate::Progress;
use crate::lab::{Offload, WireOptions};

/// Runs a plan. `save` is given what is known so far after each round, and everything at the end.
///
/// # Errors
/// If no subject comes up, or `save` fails. A subject that does not come up, or a measurement that cannot be made, is
/// written into the record instead.
pub fn run(
    plan: &Plan,
    measures: &[Measure],
    subjects: &[Subject],
    progress: &Progress,
    mut save: impl FnMut(&Record) -> Result<()>,
) -> Result<Record> {
    let names: BTreeSet<String> = subjects.iter().map(Subject::name).collect();
    ensure!(names.len() == subjects.len(), "two subjects have one name: {names:?}");
    let mut run = Run { start: Instant::now(), record: empty(plan, measures), progress, done: 0, total: 0 };
    let there: Vec<&Subject> = subjects.iter().filter(|subject| run.is_there(subject)).collect();
    run.total = plan.wires.len() * plan.rounds * measures.len() * there.len() * 2;
    for wire in &plan.wires {
        let tunnels = run.bring_up(&there, *wire);
        ensure!(!tunnels.is_empty(), "nothing to measure came up: {:?}", run.record.missing);
        for round in 1..=plan.rounds {
            for measure in measures {
                for (name, tunnel) in &tunnels {
                    for beside in [true, false] {
                        run.measure(&Turn { name, tunnel, beside, wire: *wire, measure: *measure, round });
                    }
                }
            }
            run.settle();
            save(&run.record)?;
        }
    }
    run.record.complete = true;
    save(&run.record)?;
    Ok(run.record)
}

fn empty(plan: &Plan, measures: &[Measure]) -> Record {
    Record {
        schema: SCHEMA,
        started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        seconds: 0.0,
        complete: false,
        machine: noise::machine(),
        plan: Plan { measures: measures.iter().map(|measure| measure.name()).collect(), ..plan.clone() },
        subjects: BTreeMap::new(),
        missing: BTreeMap::new(),
        failures: Vec::new(),
        samples: Vec::new(),
        summary: Vec::new(),
    }
}

struct Run<'a> {
    start: Instant,
    record: Record,
    progress: &'a Progress,
    done: usize,
    total: usize,
}

/// One subject's turn, or that of the wire under it.
struct Turn<'a> {
    name: &'a str,
    tunnel: &'a Tunnel,
    beside: bool,
    wire: WireKind,
    measure: Measure,
    round: usize,
}

impl Run<'_> {
    fn is_there(&mut self, subject: &Subject) -> bool {
        let missing = subject.missing();
        if !missing.is_empty() {
            self.record.missing.insert(subject.name(), format!("not installed: {}", missing.join(", ")));
            return false;
        }
        self.record.subjects.insert(subject.name(), subject.version());
        true
    }

    fn bring_up(&mut self, subjects: &[&Subject], kind: WireKind) -> Vec<(String, Tunnel)> {
        let offload = match kind.mode {
            Mode::Whole => Offload::Whole,
            Mode::Gro => Offload::Gro,
            Mode::Plain => Offload::Plain,
        };
        let wire = WireOptions { mtu: kind.mtu, offload, ..WireOptions::default() };
        let mut up = Vec::new();
        for subject in subjects {
            let name = subject.name();
            match self.progress.step(&format!("{name} on a wire of {kind}"), || subject.start(&wire)) {
                Ok(tunnel) => up.push((name, tunnel)),
                Err(error) => {
                    self.record.missing.insert(name, format!("did not come up on a wire of {kind}: {error:#}"));
                }
            }
        }
        up
    }

    fn measure(&mut self, turn: &Turn<'_>) {
        self.done += 1;
        for attempt in 1..=self.record.plan.repeats_max + 1 {
            let what = if turn.beside { "wire" } else { turn.name };
            let left = self.left().map(|left| format!(", {left} left")).unwrap_or_default();
            let label = format!("[{}/{}{left}] {} {what}", self.done, self.total, turn.measure.name());
            let (record, start) = (&self.record, self.start);
            match self.progress.told(&label, || sample(&record.plan, start, turn, attempt), told) {
                Ok(sample) => {
                    let calm = sample.disturbed.is_none();
                    self.record.samples.push(sample);
                    if calm {
                        break;
                    }
                }
                Err(error) if is_too_large(&error) => {
                    let why = format!("datagrams of this size do not fit into its packets on a wire of {}", turn.wire);
                    self.record.missing.insert(format!("{} in {what}", turn.measure.name()), why);
                    break;
                }
                Err(error) => {
                    let what = if turn.beside { format!("the wire of {}", turn.name) } else { turn.name.to_owned() };
                    let where_ = format!("{what}, {}, wire {}, round {}", turn.measure.name(), turn.wire, turn.round);
                    self.record.failures.push(format!("{where_}: {error:#}"));
                    break;
                }
            }
        }
    }

    fn left(&self) -> Option<humantime::FormattedDuration> {
        let done = self.done.checked_sub(1).filter(|done| *done > 0)?;
        let each = self.start.elapsed().as_secs_f64() / done as f64;
        let seconds = each * (self.total - done) as f64;
        Some(humantime::format_duration(Duration::from_secs(seconds as u64)))
    }

    fn settle(&mut self) {
        self.record.seconds = self.start.elapsed().as_secs_f64();
        self.record.summary = summary::lines(&self.record.samples);
    }
}

fn is_too_large(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|cause| cause.raw_os_error() == Some(libc::EMSGSIZE))
}

fn told(sample: &Sample) -> String {
    let headline = Measure::headline(&sample.measure);
    let value = sample.values.get(headline).copied().unwrap_or_default();
    let noise = sample.disturbed.as_ref().map(|why| format!("  (disturbed: {why})")).unwrap_or_default();
    format!("{}{noise}", summary::shown(headline, value))
}

fn sample(plan: &Plan, start: Instant, turn: &Turn<'_>, attempt: usize) -> Result<Sample> {
    let each = Duration::try_from_secs_f64(plan.seconds).context("seconds")?;
    let hosts = if turn.beside { &turn.tunnel.outer } else { &turn.tunnel.inner };
    let drops_before = if turn.beside { None } else { turn.tunnel.drops()? };
    let at_seconds = start.elapsed().as_secs_f64();
    let watch = Watch::start(turn.tunnel)?;
    let outcome = turn.measure.run(hosts, each, plan.loss_max)?;
    let seen = watch.stop();
    let mut values = outcome.values;
    if let Some(bytes) = outcome.bytes.filter(|bytes| *bytes > 0) {
        let gigabytes = bytes as f64 / 1e9;
        // The search sends at many rates, and only the best one's bytes are known: no cost per byte follows from it.
        if !matches!(turn.measure, Measure::NoLoss { .. }) {
            values.insert("machine_cpu_s_per_gb".into(), seen.machine_busy / gigabytes);
            if !turn.beside {
                let sum = |seconds: fn(&super::record::Process) -> f64| seen.processes.iter().map(seconds).sum::<f64>() / gigabytes;
                values.insert("tunnel_user_s_per_gb".into(), sum(|process| process.user_seconds));
                values.insert("tunnel_system_s_per_gb".into(), sum(|process| process.system_seconds));
                values.insert("tunnel_cpu_s_per_gb".into(), sum(|process| process.user_seconds + process.system_seconds));
            }
        }
    }
    values.insert("wall_s".into(), seen.wall);
    let mut drops = BTreeMap::new();
    if let (Some(before), Some(after)) = (drops_before, if turn.beside { None } else { turn.tunnel.drops()? }) {
        drops = after.into_iter().map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or(0).min(count))).collect();
        drops.retain(|_, count| *count > 0);
        values.insert("dropped".into(), drops.values().sum::<u64>() as f64);
    }
    if !turn.beside {
        values.insert("memory_bytes".into(), seen.processes.iter().map(|process| process.memory_bytes).sum::<u64>() as f64);
    }
    Ok(Sample {
        subject: turn.name.to_owned(),
        beside: turn.beside,
        wire: turn.wire,
        measure: turn.measure.name(),
        round: turn.round,
        attempt,
        at_seconds,
        values,
        processes: if turn.beside { Vec::new() } else { seen.processes },
        drops,
        histogram: outcome.histogram,
        noise: seen.noise,
        disturbed: noise::disturbance(&seen.noise),
    })
}
