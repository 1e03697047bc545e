//! `profile`: where the engines' time goes while bulk flows through the tunnel.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use penstock_perf::compare::{Mode, Subject};
use penstock_perf::lab::{Folder, Offload, WireOptions, build_daemons};
use penstock_perf::load::{Tcp, process_times};
use penstock_perf::profile::{Part, Profile};

/// What `profile` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How long samples are taken.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// TCP connections.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// The wire's MTU.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// What happens to super-packets on the wire.
    #[arg(long, value_enum, default_value_t = Mode::Whole)]
    mode: Mode,
    /// Without these facilities of the kernel, as `penstockd --without` takes them.
    #[arg(long, default_value = "")]
    without: String,
}

/// Samples a second.
const FREQUENCY: &str = "1999";

/// Runs bulk, takes samples and prints the parts.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let duration = Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?;
    ensure!((0.2..=600.0).contains(&arguments.seconds), "--seconds: give 0.2 to 600");
    if Command::new("perf").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        bail!("the program perf is not installed (Debian package linux-perf); nothing else can take the samples");
    }
    build_daemons()?;
    let offload = match arguments.mode {
        Mode::Whole => Offload::Whole,
        Mode::Gro => Offload::Gro,
        Mode::Plain => Offload::Plain,
    };
    let wire = WireOptions { mtu: arguments.mtu, offload, ..WireOptions::default() };
    let tunnel = Subject::penstock_without(&arguments.without).start(&wire)?;
    let is_engine = |pid: &u32| penstock_perf::lab::name_of(*pid).is_some_and(|name| name.starts_with("penstock-engine"));
    let engines: Vec<u32> = tunnel.processes()?.into_iter().map(|(_, pid)| pid).filter(is_engine).collect();
    ensure!(!engines.is_empty(), "no engine runs");
    let folder = Folder::new(&format!("{}-profile", tunnel.inner[0].namespace.name()))?;
    let data = folder.path().join("perf.data");
    let pids = engines.iter().map(u32::to_string).collect::<Vec<_>>().join(",");

    let plan = Tcp { streams: arguments.streams, duration: duration + Duration::from_millis(500), check: false, ..Tcp::default() };
    let used = || engines.iter().filter_map(|pid| process_times(*pid)).map(|[user, system]| user + system).sum::<f64>();
    let before = used();
    let (outcome, recorded) = std::thread::scope(|scope| {
        let load = scope.spawn(|| plan.run(&tunnel.inner[0], &tunnel.inner[1]));
        let mut command = Command::new("perf");
        command.args(["record", "-q", "-e", "cpu-clock", "-F", FREQUENCY, "-g", "-p", &pids, "-o"]).arg(&data);
        let recorded = command.args(["--", "sleep", &arguments.seconds.to_string()]).output();
        (load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), recorded)
    });
    let (outcome, recorded) = (outcome?, recorded.context("perf record")?);
    ensure!(recorded.status.success(), "perf record: {}", String::from_utf8_lossy(&recorded.stderr).trim());
    let per_gigabyte = (used() - before) / (outcome.bytes() as f64 / 1e9);
    // While an engine lives, perf looks for its program in the empty directory that is the engine's root.
    drop(tunnel);

    let mut command = Command::new("perf");
    command.args(["script", "--no-inline", "-F", "ip,sym,dso", "-i"]).arg(&data);
    let script = command.output().context("perf script")?;
    ensure!(script.status.success(), "perf script: {}", String::from_utf8_lossy(&script.stderr).trim());
    let profile = Profile::parse(&String::from_utf8_lossy(&script.stdout));
    drop(fs::remove_file(&data));
    ensure!(profile.samples() > 0, "perf took no sample");
    show(&profile, outcome.gigabits(), per_gigabyte);
    Ok(())
}

fn show(profile: &Profile, gigabits: f64, per_gigabyte: f64) {
    println!("{gigabits:.2} Gb/s; both engines: {per_gigabyte:.3} CPU s per GB; {} samples, {FREQUENCY} a second\n", profile.samples());
    println!("{:<14} {:>7} {:>9}   most of it in", "part", "share", "s per GB");
    let mut parts = Part::ALL;
    parts.sort_by(|one, other| profile.share(*other).total_cmp(&profile.share(*one)));
    for part in parts {
        let share = profile.share(part);
        let top: Vec<String> = profile.top(part, 3).into_iter().map(|(symbol, share)| format!("{symbol} {:.1} %", share * 100.0)).collect();
        println!("{:<14} {:>5.1} % {:>9.3}   {}", part.name(), share * 100.0, share * per_gigabyte, top.join(", "));
    }
    println!("\nAES is {:.1} % of the engines' time.", profile.share(Part::Aes) * 100.0);
}
