//! `endure`: a bad wire, rekeys, questions and changes for a long time.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use penstock_perf::campaign::Endurance;

/// What `endure` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many minutes.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// How many of them do not count for what grows.
    #[arg(long, default_value_t = 10)]
    warm_up: u64,
    /// What the wire's faults are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs, prints a report, and ends badly if a promise was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let plan = Endurance { length: minutes(arguments.minutes), warm_up: minutes(arguments.warm_up), seed: arguments.seed };
    let report = plan.run(|point| {
        let memory = point.values.iter().filter(|(name, _)| name.ends_with("memory_bytes"));
        let memory: Vec<String> =
            memory.map(|(name, bytes)| format!("{} {:.0} KiB", name.trim_end_matches(" memory_bytes"), bytes / 1024.0)).collect();
        eprintln!("  {:5.0} s  {}", point.at_seconds, memory.join("  "));
    })?;
    println!("{}", serde_json::to_string(&report)?);
    println!(
        "{:.0} s: {} datagrams sent, {} lost, {} twice or damaged; {} SAs, {} nonces repeated; {} answers, {} changes; {} lines logged",
        report.seconds,
        report.sent,
        report.lost,
        report.wrong,
        report.sas,
        report.wire.findings.repeated_nonces,
        report.answers,
        report.reloads,
        report.log_lines
    );
    for (name, first, last, an_hour) in &report.trends {
        println!("  {name}: {first:.0} to {last:.0}, {:.0} more in an hour", an_hour.unwrap_or_default());
    }
    let complaints = report.complaints();
    ensure!(complaints.is_empty(), "with seed {}: {}", report.seed, complaints.join("; "));
    Ok(())
}
