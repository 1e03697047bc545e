//! Runs that are made of whole plans: the report, the table of features, the comparison of one peer with many.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use penstock_perf::Progress;
use penstock_perf::compare::{self, Adaptor, Measure, Mode, Plan, Purpose, Record, Subject, Variant, WireKind};
use penstock_perf::lab::{build_daemons, features};

use super::output::Output;

/// A run with a name, under which its record is kept.
pub(crate) struct Step {
    name: &'static str,
    plan: Plan,
    measures: Vec<Measure>,
    subjects: Vec<Subject>,
}

/// The usual wire.
const WHOLE: WireKind = WireKind { mode: Mode::Whole, mtu: 1500 };
/// Rounds enough for an interval of 95 %.
const ROUNDS: usize = 6;
/// What counts as no loss in the report.
const LOSS_MAX: f64 = 0.01;

/// What `features` takes.
#[derive(Args)]
pub(crate) struct Features {
    /// How often the subjects take turns.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these features, with commas; without it all that the daemon can do without.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The folder for the results; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// What `scale` takes.
#[derive(Args)]
pub(crate) struct Scale {
    /// How many idle peers each site has beside the one in use, with commas; 1 stands for none beside it.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
    peers: Vec<usize>,
    /// The same for peers that are up: each has SAs that carry nothing.
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    peers_up: Vec<usize>,
    /// How many prefixes each site has beside the one in use, with commas; 1 stands for none beside it.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100_000])]
    prefixes: Vec<usize>,
    /// How many pairs; six or more give 95 % intervals.
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// The folder for the results; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Measures what each feature does.
pub(crate) fn features_run(arguments: &Features) -> Result<()> {
    let out = Output::new(arguments.out.as_ref())?;
    build_daemons()?;
    perform(vec![features_step(arguments)?], &out)
}

/// Compares one peer with many.
pub(crate) fn scale_run(arguments: &Scale) -> Result<()> {
    let out = Output::new(arguments.out.as_ref())?;
    build_daemons()?;
    perform(vec![scale_step(arguments)?], &out)
}

/// Everything that the report shows.
pub(crate) fn report_run(out: Option<&PathBuf>) -> Result<()> {
    let out = Output::new(out)?;
    build_daemons()?;
    let features = Features { rounds: 7, seconds: 0.5, only: Vec::new(), out: None };
    let scale = Scale { peers: vec![1, 10_000], peers_up: vec![1], prefixes: vec![1, 100_000], pairs: 15, seconds: 1.0, out: None };
    perform(vec![comparison()?, forms()?, wires()?, features_step(&features)?, scale_step(&scale)?], &out)
}

/// Runs the steps one after the other; the report is written again after each round of each.
fn perform(steps: Vec<Step>, out: &Output) -> Result<()> {
    let mut done: Vec<(&str, Record)> = Vec::new();
    let progress = Progress::new();
    for step in steps {
        eprintln!("{}", step.plan.title);
        let record = compare::run(&step.plan, &step.measures, &step.subjects, &progress, |record| {
            let all = done.iter().map(|(_, record)| record).chain([record]).cloned().collect::<Vec<_>>();
            out.save(step.name, record)?;
            out.page(&all)
        })?;
        done.push((step.name, record));
    }
    for (_, record) in &done {
        print!("{}", compare::table(record));
        compare::grids(record).iter().for_each(|grid| println!("\n{}", grid.markdown()));
    }
    println!("The report: {}", out.report().display());
    let failures: usize = done.iter().map(|(_, record)| record.failures.len()).sum();
    ensure!(failures == 0, "{failures} measurements could not be made");
    Ok(())
}

fn plan(title: &str, rounds: usize, seconds: f64) -> Plan {
    let title = title.to_owned();
    Plan { title, rounds, seconds, repeats_max: 1, loss_max: LOSS_MAX, idle_seconds: 5.0, wires: vec![WHOLE], ..Plan::default() }
}

fn named(names: &[&str]) -> Vec<Measure> {
    Measure::all().into_iter().filter(|measure| names.contains(&measure.name().as_str())).collect()
}

fn variants(names: &[&str]) -> Result<Vec<Subject>> {
    names.iter().filter_map(|name| Variant::parse(name)).map(|variant| Ok(Subject::Penstock(variant?))).collect()
}

fn comparison() -> Result<Step> {
    let mut subjects = vec![Subject::penstock()];
    subjects.extend(Adaptor::shipped()?.into_iter().map(|adaptor| Subject::Other(Box::new(adaptor))));
    let measures = ["tcp-1", "tcp-1-reversed", "rtt-idle", "rtt-loaded", "udp-flood-64", "udp-no-loss-64"];
    Ok(Step { name: "comparison", plan: plan("With other VPNs", ROUNDS, 0.8), measures: named(&measures), subjects })
}

fn forms() -> Result<Step> {
    let measures = ["tcp-8", "rtt-idle", "rtt-loaded", "udp-uso-64", "udp-uso-no-loss-64", "cpu-idle"];
    let subjects = variants(&["penstock", "penstock-2", "penstock-poll"])?;
    Ok(Step { name: "forms", plan: plan("Two workers, polling, super-packets", ROUNDS, 0.8), measures: named(&measures), subjects })
}

fn wires() -> Result<Step> {
    let wires =
        [(Mode::Gro, 1500), (Mode::Plain, 1500), (Mode::Whole, 1500), (Mode::Whole, 9000)].map(|(mode, mtu)| WireKind { mode, mtu });
    let plan = Plan { wires: wires.to_vec(), ..plan("Other wires, and a peer that sends no UDP checksums", ROUNDS, 0.8) };
    let mut subjects = variants(&["penstock", "penstock-unsummed"])?;
    let openvpn = Adaptor::shipped()?.into_iter().find(|adaptor| adaptor.name == "openvpn");
    subjects.extend(openvpn.map(|adaptor| Subject::Other(Box::new(adaptor))));
    Ok(Step { name: "wires", plan, measures: named(&["tcp-1"]), subjects })
}

fn features_step(arguments: &Features) -> Result<Step> {
    check(arguments.rounds, arguments.seconds)?;
    let names = if arguments.only.is_empty() { features()? } else { arguments.only.clone() };
    let mut subjects = vec![Subject::penstock()];
    subjects.extend(names.iter().map(|name| Subject::penstock_without(name)));
    let plan = plan("Rings against plain calls, and each feature", arguments.rounds, arguments.seconds);
    let plan = Plan { purpose: Purpose::Features, no_wire: true, ..plan };
    let measures = named(&["tcp-1", "rtt-idle", "rtt-loaded", "udp-flood-64", "udp-uso-64"]);
    Ok(Step { name: "features", plan, measures, subjects })
}

fn scale_step(arguments: &Scale) -> Result<Step> {
    check(arguments.pairs, arguments.seconds)?;
    let form = |variant: fn(usize) -> Variant, counts: &[usize]| -> Vec<Subject> {
        counts.iter().filter(|count| **count > 1).map(|count| Subject::Penstock(variant(*count))).collect()
    };
    let mut subjects = vec![Subject::penstock()];
    subjects.extend(form(|peers| Variant { peers, ..Variant::default() }, &arguments.peers));
    subjects.extend(form(|peers_up| Variant { peers_up, ..Variant::default() }, &arguments.peers_up));
    subjects.extend(form(|prefixes| Variant { prefixes, ..Variant::default() }, &arguments.prefixes));
    ensure!(subjects.len() > 1, "give --peers, --peers-up or --prefixes a number above 1");
    let plan = plan("One peer and thousands", arguments.pairs, arguments.seconds);
    let plan = Plan { purpose: Purpose::Scale, no_wire: true, ..plan };
    Ok(Step { name: "scale", plan, measures: named(&["tcp-1"]), subjects })
}

fn check(rounds: usize, seconds: f64) -> Result<()> {
    ensure!((1..=1000).contains(&rounds), "give 1 to 1000 rounds or pairs");
    ensure!((0.2..=600.0).contains(&seconds), "--seconds: give 0.2 to 600");
    Ok(())
}
