//! `run`: the comparison.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use penstock_perf::Progress;
use penstock_perf::compare::{self, Adaptor, Measure, Mode, Plan, Record, Subject, Variant, WireKind};
use penstock_perf::lab::build_daemons;

/// What `run` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How often the subjects take turns; six or more give 95 % intervals.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// How long one measurement takes, in seconds.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
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

/// The measures of a short run.
const QUICK: [&str; 5] = ["tcp-1", "rtt-idle", "rtt-loaded", "udp-flood-64", "udp-no-loss-1400"];

/// Runs the comparison and prints its table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let measures = measures(arguments)?;
    let subjects = subjects(arguments)?;
    let plan = plan(arguments)?;
    build_daemons()?;
    let out = arguments.out.clone().map_or_else(default_folder, Ok)?;
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    let record = compare::run(&plan, &measures, &subjects, &Progress::new(), |record| save(record, &out))?;
    print!("{}", compare::table(&record));
    println!("The report: {}", out.join("report.html").display());
    ensure!(record.failures.is_empty(), "{} measurements could not be made", record.failures.len());
    Ok(())
}

/// What `report` takes.
#[derive(Args)]
pub(crate) struct Again {
    /// A `run.json` of an earlier run; report and plots are written beside it.
    record: PathBuf,
}

/// Makes table, plots and report again from a record.
pub(crate) fn report(arguments: &Again) -> Result<()> {
    let path = &arguments.record;
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let record: Record = serde_json::from_str(&text).with_context(|| format!("{} is no record of a run", path.display()))?;
    ensure!(record.schema == compare::SCHEMA, "{} has schema {}, this program reads {}", path.display(), record.schema, compare::SCHEMA);
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    show(&record, &folder)?;
    print!("{}", compare::table(&record));
    Ok(())
}

fn save(record: &Record, out: &Path) -> Result<()> {
    let text = serde_json::to_string(record).context("the record")?;
    write(&out.join("run.json"), &text)?;
    show(record, out)
}

fn show(record: &Record, out: &Path) -> Result<()> {
    write(&out.join("report.html"), &compare::report(record)?)?;
    compare::plots(record).iter().try_for_each(|(name, plot)| write(&out.join(name), plot))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}

fn default_folder() -> Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock stands before 1970")?.as_secs();
    Ok(PathBuf::from(format!("penstock-perf-{seconds}")))
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
        None => match Variant::parse(name) {
            Some(variant) => Ok(Subject::Penstock(variant?)),
            None => {
                let names: Vec<String> = subjects.iter().map(Subject::name).collect();
                bail!("--subjects {name}: there is {}, and forms of penstock", names.join(", "))
            }
        },
    };
    arguments.subjects.iter().map(wanted).collect()
}
