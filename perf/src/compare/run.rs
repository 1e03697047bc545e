//! A run: all subjects up at once, each on a wire of its own, measured always in turn and each next to its plain wire. So
//! whatever the machine does meanwhile happens to all of them alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::measure::{Measure, Outcome};
use super::noise::{self, Watch, Watching};
use super::record::{Mode, Noise, Plan, Process, Record, SCHEMA, Sample, WireKind};
use super::subject::{Subject, Tunnel};
use super::summary;
use crate::Progress;
use crate::lab::{Offload, WireOptions, daemons, features};

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
    let known = features()?;
    for subject in subjects {
        if let Subject::Penstock(variant) = subject {
            variant.check(&known)?;
            variant.processors()?;
        }
    }
    let mut run = Run { start: Instant::now(), record: empty(plan, measures), progress, done: 0, total: 0 };
    run.record.daemons = daemons()?;
    let there: Vec<&Subject> = subjects.iter().filter(|subject| run.is_there(subject)).collect();
    let sides: &[bool] = if plan.no_wire { &[false] } else { &[true, false] };
    let loads = measures.iter().filter(|measure| **measure != Measure::Idle).count();
    run.total = plan.wires.len() * plan.rounds * (loads * there.len() * sides.len() + measures.len() - loads);
    for wire in &plan.wires {
        let mut tunnels = run.bring_up(&there, *wire);
        ensure!(!tunnels.is_empty(), "nothing to measure came up: {:?}", run.record.missing);
        for round in 1..=plan.rounds {
            for measure in measures {
                if *measure == Measure::Idle {
                    run.measure_idle(&tunnels, *wire, round);
                    continue;
                }
                for (name, tunnel) in &tunnels {
                    for beside in sides {
                        run.measure(&Turn { name, tunnel, beside: *beside, wire: *wire, measure: *measure, round });
                    }
                }
            }
            if plan.no_wire {
                tunnels.rotate_left(1); // so that nobody always comes behind the same one
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
        daemons: BTreeMap::new(),
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

    /// All of them at once: nothing is sent, so none takes anything from another.
    fn measure_idle(&mut self, tunnels: &[(String, Tunnel)], wire: WireKind, round: usize) {
        self.done += 1;
        let label = format!("[{}/{}] {} of all", self.done, self.total, Measure::Idle.name());
        let (plan, start) = (self.record.plan.clone(), self.start);
        let turn = |(name, tunnel)| Turn { name, tunnel, beside: false, wire, measure: Measure::Idle, round };
        let turns: Vec<Turn<'_>> = tunnels.iter().map(|(name, tunnel)| turn((name.as_str(), tunnel))).collect();
        match self.progress.told(
            &label,
            || idle(&plan, start, &turns),
            |samples| samples.iter().map(told_short).collect::<Vec<_>>().join(", "),
        ) {
            Ok(samples) => self.record.samples.extend(samples),
            Err(error) => self.record.failures.push(format!("idle, wire {wire}, round {round}: {error:#}")),
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
    let noise = sample.disturbed.as_ref().map(|why| format!("  (disturbed: {why})")).unwrap_or_default();
    format!("{}{noise}", shown_headline(sample))
}

fn told_short(sample: &Sample) -> String {
    format!("{} {}", sample.subject, shown_headline(sample))
}

fn shown_headline(sample: &Sample) -> String {
    let headline = Measure::headline(&sample.measure);
    summary::shown(headline, sample.values.get(headline).copied().unwrap_or_default())
}

fn idle(plan: &Plan, start: Instant, turns: &[Turn<'_>]) -> Result<Vec<Sample>> {
    let each = Duration::try_from_secs_f64(plan.idle_seconds).context("idle_seconds")?;
    let at_seconds = start.elapsed().as_secs_f64();
    let watches: Vec<Watch> = turns.iter().map(|turn| Watch::start(turn.tunnel)).collect::<Result<_>>()?;
    std::thread::sleep(each);
    let seen: Vec<Watching> = watches.into_iter().map(Watch::stop).collect();
    let one = |(turn, seen): (&Turn<'_>, Watching)| {
        let used = seen.fine_seconds.context("this kernel does not say what a thread uses (no /proc/PID/task/TID/schedstat)")?;
        let values = BTreeMap::from([("idle_core_share".to_owned(), used / seen.wall)]);
        // What other tunnels use is no foreign programs' time here, and takes nothing away.
        let noise = Noise { foreign_share: 0.0, ..seen.noise };
        Ok(of_turn(turn, 1, at_seconds, Outcome { values, ..Outcome::default() }, Watching { noise, ..seen }))
    };
    turns.iter().zip(seen).map(one).collect()
}

fn sample(plan: &Plan, start: Instant, turn: &Turn<'_>, attempt: usize) -> Result<Sample> {
    let each = Duration::try_from_secs_f64(plan.seconds).context("seconds")?;
    let hosts = if turn.beside { &turn.tunnel.outer } else { &turn.tunnel.inner };
    let before = if turn.beside { None } else { turn.tunnel.counts()? };
    let at_seconds = start.elapsed().as_secs_f64();
    let watch = Watch::start(turn.tunnel)?;
    let outcome = turn.measure.run(hosts, each, plan.loss_max)?;
    let seen = watch.stop();
    let mut sample = of_turn(turn, attempt, at_seconds, outcome, seen);
    if let (Some(before), Some(after)) = (before, if turn.beside { None } else { turn.tunnel.counts()? }) {
        sample.drops = since(after.drops, &before.drops);
        sample.drops.retain(|_, count| *count > 0);
        sample.values.insert("dropped".into(), sample.drops.values().sum::<u64>() as f64);
        sample.values.extend(since(after.moves, &before.moves).into_iter().map(|(name, count)| (name, count as f64)));
    }
    Ok(sample)
}

fn since(after: BTreeMap<String, u64>, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    after.into_iter().map(|(name, count)| (name.clone(), count - before.get(&name).copied().unwrap_or(0).min(count))).collect()
}

/// Adds what it cost to what came of it.
fn of_turn(turn: &Turn<'_>, attempt: usize, at_seconds: f64, outcome: Outcome, seen: Watching) -> Sample {
    let mut values = outcome.values;
    let used = |time: fn(&Process) -> f64| seen.processes.iter().map(time).sum::<f64>();
    let (user, system) = (used(|process| process.user_seconds), used(|process| process.system_seconds));
    if let Some(bytes) = outcome.bytes.filter(|bytes| *bytes > 0) {
        let gigabytes = bytes as f64 / 1e9;
        values.insert("machine_cpu_s_per_gb".into(), seen.machine_busy / gigabytes);
        if !turn.beside {
            values.insert("tunnel_user_s_per_gb".into(), user / gigabytes);
            values.insert("tunnel_system_s_per_gb".into(), system / gigabytes);
            values.insert("tunnel_cpu_s_per_gb".into(), (user + system) / gigabytes);
        }
    }
    if let Some(datagrams) = outcome.datagrams.filter(|datagrams| *datagrams > 0 && !turn.beside) {
        let nanoseconds = 1e9 / datagrams as f64;
        values.insert("tunnel_ns_per_packet".into(), (user + system) * nanoseconds);
        for side in ["left", "right"] {
            let of_side = seen.processes.iter().filter(|process| process.side == side);
            let used: f64 = of_side.map(|process| process.user_seconds + process.system_seconds).sum();
            values.insert(format!("{side}_ns_per_packet"), used * nanoseconds);
        }
    }
    values.insert("wall_s".into(), seen.wall);
    if !turn.beside {
        values.insert("memory_bytes".into(), seen.processes.iter().map(|process| process.memory_bytes).sum::<u64>() as f64);
    }
    Sample {
        subject: turn.name.to_owned(),
        beside: turn.beside,
        wire: turn.wire,
        measure: turn.measure.name(),
        round: turn.round,
        attempt,
        at_seconds,
        values,
        processes: if turn.beside { Vec::new() } else { seen.processes },
        drops: BTreeMap::new(),
        histogram: outcome.histogram,
        noise: seen.noise,
        disturbed: noise::disturbance(&seen.noise),
    }
}
