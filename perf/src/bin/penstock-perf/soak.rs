//! `soak`: hours of traffic, and the slopes of what must not grow.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use penstock_perf::compare::{Subject, Variant};
use penstock_perf::lab::build_daemons;
use penstock_perf::soak::{self, Point};

/// What `soak` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// For how many hours; 0.1 are six minutes.
    #[arg(long)]
    hours: f64,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 60.0)]
    every: f64,
    /// Which form of Penstock, see docs/performance.md: `penstock-rekey-1` rekeys each second.
    #[arg(long, default_value = "penstock")]
    subject: String,
    /// Write every look into this JSON file, and again after each.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs and prints the slopes.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!((0.001..=10_000.0).contains(&arguments.hours), "--hours: give 0.001 to 10000");
    ensure!((3.0..=86_400.0).contains(&arguments.every), "--every: give 3 to 86400");
    let subject = match Variant::parse(&arguments.subject) {
        Some(variant) => Subject::Penstock(variant?),
        None => bail!("--subject {}: only forms of penstock", arguments.subject),
    };
    build_daemons()?;
    let length = Duration::from_secs_f64(arguments.hours * 3600.0);
    let points = soak::soak(&subject, length, Duration::from_secs_f64(arguments.every), |points| seen(points, arguments))?;
    println!("{:<36} {:>14} {:>14} {:>16}", "", "first", "last", "growth an hour");
    for trend in soak::trends(&points) {
        let growth = trend.an_hour.map_or_else(|| "-".into(), |growth| format!("{growth:+.2}"));
        println!("{:<36} {:>14.2} {:>14.2} {:>16}", trend.name, trend.first, trend.last, growth);
    }
    println!("\n{} looks in {:.2} hours. Growth is the median slope between all looks (Theil and Sen).", points.len(), arguments.hours);
    Ok(())
}

fn seen(points: &[Point], arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.out {
        fs::write(path, serde_json::to_string(points)?).with_context(|| format!("{}", path.display()))?;
    }
    if let Some(point) = points.last() {
        let value = |name: &str| point.values.get(name).copied().unwrap_or_default();
        let memory: f64 = point.values.iter().filter(|(name, _)| name.ends_with("memory_bytes")).map(|(_, bytes)| bytes).sum();
        eprintln!(
            "{:>8.0} s  {:.1} MiB  {:.1} us median  {:.2} Gb/s  lost {}  twice {}  dropped {}  rekeys {}",
            point.at_seconds,
            memory / f64::from(1 << 20),
            value("rtt_p50_us"),
            value("goodput_gbps"),
            value("lost"),
            value("duplicate"),
            value("dropped"),
            value("rekeys")
        );
    }
    Ok(())
}
