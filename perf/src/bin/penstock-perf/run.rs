//! `run`: the comparison.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use penstock_perf::Progress;
use penstock_perf::compare::{self, Adaptor, Build, Measure, Mode, Plan, Record, Subject, Variant, WireKind};
use penstock_perf::lab::build_daemons;

use super::output::Output;
use super::preset;

/// What `run` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often the subjects take turns; six or more give 95 % intervals.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// A whole set of runs in place of all other choices but --out.
    #[arg(long, value_enum, conflicts_with_all = ["rounds", "seconds", "quick", "mode", "mtu", "only", "subjects", "adaptor", "build", "without", "repeats", "loss"])]
    preset: Option<Preset>,
    /// A short run: two rounds of half a second, one measure of each kind, nothing repeated.
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "repeats"])]
    quick: bool,
    /// What happens to super-packets on the wire; several with commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Mode::Whole])]
    mode: Vec<Mode>,
    /// The wire's MTU; several with commas.
    #[arg(long, value_delimiter = ',', default_values_t = [1500])]
    mtu: Vec<u32>,
    /// Only these measures, with commas: each of them and all that begin with it and a dash.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these subjects, with commas. Penstock has many forms, see docs/performance.md: penstock-2, penstock-poll,
    /// penstock-plain-calls, penstock-without-FEATURE, and others.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Penstock once more, from the programs in a folder, as `penstock@NAME`; can be given several times. In --subjects any form of
    /// Penstock takes `@NAME` at its end.
    #[arg(long, value_name = "NAME=FOLDER")]
    build: Vec<Build>,
    /// Another VPN: a file that says how to bring it up. See docs/performance.md.
    #[arg(long, value_name = "FILE")]
    adaptor: Vec<PathBuf>,
    /// Penstock once more, without these facilities of the kernel; can be given several times.
    #[arg(long, value_name = "LIST")]
    without: Vec<String>,
    /// How often a disturbed measurement is repeated at most.
    #[arg(long, default_value_t = 1)]
    repeats: usize,
    /// How long a measurement of idle tunnels takes, in seconds.
    #[arg(long, default_value_t = 10.0)]
    idle_seconds: f64,
    /// The share of lost datagrams up to which a rate counts as one without loss.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// The folder for the results; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    /// Everything that the committed report shows: other VPNs, forms of Penstock, other wires, each feature, thousands of peers.
    Report,
}

/// The measures of a short run.
const QUICK: [&str; 5] = ["tcp-1", "rtt-idle", "rtt-loaded", "udp-flood-64", "udp-no-loss-1400"];

/// Runs the comparison and prints its table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Preset::Report) = arguments.preset {
        return preset::report_run(arguments.out.as_ref());
    }
    let measures = measures(arguments)?;
    let subjects = subjects(arguments)?;
    let plan = plan(arguments)?;
    build_daemons()?;
    let out = Output::new(arguments.out.as_ref())?;
    let record = compare::run(&plan, &measures, &subjects, &Progress::new(), |record| {
        out.save("run", record)?;
        out.page(std::slice::from_ref(record))
    })?;
    print!("{}", compare::table(&record));
    println!("The report: {}", out.report().display());
    ensure!(record.failures.is_empty(), "{} measurements could not be made", record.failures.len());
    Ok(())
}

/// What `report` takes.
#[derive(Args)]
pub(crate) struct Again {
    /// The JSON files of earlier runs, in the order in which they shall stand; the page is written beside the first, plots beside each.
    #[arg(required = true)]
    records: Vec<PathBuf>,
}

/// Makes tables, plots and report again from records.
pub(crate) fn report(arguments: &Again) -> Result<()> {
    let records: Vec<Record> = arguments.records.iter().map(|path| read(path)).collect::<Result<_>>()?;
    for (path, record) in arguments.records.iter().zip(&records) {
        let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Output::beside(path).show(&name, record)?;
        print!("{}", compare::table(record));
        compare::grids(record).iter().for_each(|grid| println!("\n{}", grid.markdown()));
    }
    arguments.records.first().map_or(Ok(()), |first| Output::beside(first).page(&records))
}

fn read(path: &Path) -> Result<Record> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let record: Record = serde_json::from_str(&text).with_context(|| format!("{} is no record of a run", path.display()))?;
    ensure!(record.schema == compare::SCHEMA, "{} has schema {}, this program reads {}", path.display(), record.schema, compare::SCHEMA);
    Ok(record)
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    ensure!((1..=1000).contains(&arguments.rounds), "--rounds: give 1 to 1000");
    ensure!((0.2..=600.0).contains(&arguments.seconds), "--seconds: give 0.2 to 600");
    ensure!((0.0..=0.5).contains(&arguments.loss), "--loss: give 0 to 0.5");
    ensure!(arguments.mtu.iter().all(|mtu| (1280..=65_535).contains(mtu)), "--mtu: give 1280 to 65535");
    let (rounds, seconds, repeats_max) =
        if arguments.quick { (2, 0.5, 0) } else { (arguments.rounds, arguments.seconds, arguments.repeats) };
    let wires = arguments.mode.iter().flat_map(|mode| arguments.mtu.iter().map(|mtu| WireKind { mode: *mode, mtu: *mtu })).collect();
    ensure!((0.2..=3600.0).contains(&arguments.idle_seconds), "--idle-seconds: give 0.2 to 3600");
    Ok(Plan { rounds, seconds, repeats_max, loss_max: arguments.loss, idle_seconds: arguments.idle_seconds, wires, ..Plan::default() })
}

fn measures(arguments: &Arguments) -> Result<Vec<Measure>> {
    let all = Measure::all();
    if arguments.only.is_empty() {
        return Ok(all.into_iter().filter(|measure| !arguments.quick || QUICK.contains(&measure.name().as_str())).collect());
    }
    let meant = |name: &str, wanted: &str| name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('-'));
    let names: Vec<String> = all.iter().map(|measure| measure.name()).collect();
    for wanted in &arguments.only {
        if !names.iter().any(|name| meant(name, wanted)) {
            bail!("--only {wanted}: there is {}", names.join(", "));
        }
    }
    Ok(all.into_iter().filter(|measure| arguments.only.iter().any(|wanted| meant(&measure.name(), wanted))).collect())
}

fn subjects(arguments: &Arguments) -> Result<Vec<Subject>> {
    let mut subjects = vec![Subject::penstock()];
    subjects.extend(arguments.build.iter().map(|build| penstock(Variant::default(), build)));
    subjects.extend(arguments.without.iter().map(|without| Subject::penstock_without(without)));
    let read = arguments.adaptor.iter().map(|path| Adaptor::read(path));
    for adaptor in Adaptor::shipped()?.into_iter().map(Ok).chain(read) {
        subjects.push(Subject::Other(Box::new(adaptor?)));
    }
    if arguments.subjects.is_empty() {
        return Ok(subjects);
    }
    let wanted = |name: &String| match subjects.iter().find(|subject| subject.name() == *name) {
        Some(subject) => Ok(subject.clone()),
        None => match form(name, &arguments.build) {
            Some(subject) => subject,
            None => {
                let names: Vec<String> = subjects.iter().map(Subject::name).collect();
                bail!("--subjects {name}: there is {}, and forms of penstock", names.join(", "))
            }
        },
    };
    arguments.subjects.iter().map(wanted).collect()
}

fn penstock(variant: Variant, build: &Build) -> Subject {
    Subject::Penstock(Variant { build: Some(build.clone()), ..variant })
}

/// A form of Penstock, perhaps of another build. `None`: the name is no Penstock's.
fn form(name: &str, builds: &[Build]) -> Option<Result<Subject>> {
    let (form, build) = name.split_once('@').map_or((name, None), |(form, build)| (form, Some(build)));
    let variant = match Variant::parse(form)? {
        Ok(variant) => variant,
        Err(error) => return Some(Err(error)),
    };
    let Some(wanted) = build else { return Some(Ok(Subject::Penstock(variant))) };
    let build = builds.iter().find(|build| build.name == wanted);
    Some(build.map(|build| penstock(variant, build)).with_context(|| format!("--subjects {name}: give --build {wanted}=FOLDER")))
}
