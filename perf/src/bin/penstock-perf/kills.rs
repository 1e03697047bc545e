//! `kills`: engines or controls killed at random moments under load, on an audited wire.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use penstock_perf::campaign::{Kills, Victim};

/// A recovery from an engine's death may take so long in 99 of 100 cases.
const ENGINE_BACK_MS: f64 = 300.0;

/// What `kills` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Whom.
    #[arg(value_enum)]
    victim: Process,
    /// How often.
    #[arg(long, default_value_t = 200)]
    count: u32,
    /// What moments and sides are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Process {
    Engine,
    Control,
}

/// Kills, prints a report, and ends badly if a promise was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let victim = match arguments.victim {
        Process::Engine => Victim::Engine,
        Process::Control => Victim::Control,
    };
    let plan = Kills { victim, count: arguments.count.max(1), seed: arguments.seed };
    let report = plan.run(|number| {
        if (number + 1) % 20 == 0 {
            eprintln!("  {} kills", number + 1);
        }
    })?;
    println!("{}", serde_json::to_string(&report)?);
    let [half, most, all] = [0.5, 0.99, 1.0].map(|part| report.back_within(part));
    println!(
        "{} kills: back after {half:.0} ms in half of the cases, {most:.0} ms in 99 of 100, {all:.0} ms at most; {} of {} datagrams lost; \
         {} ESP packets of {} SAs: {} nonces repeated, {} frames in clear; {} deletions at the devices",
        report.kills,
        report.lost,
        report.sent,
        report.wire.findings.esp_packets,
        report.wire.findings.sas,
        report.wire.findings.repeated_nonces,
        report.wire.findings.clear_frames,
        report.deleted.len()
    );
    ensure!(report.is_clean(), "with seed {} a promise was broken: {report:?}", report.seed);
    match victim {
        Victim::Engine => ensure!(most <= ENGINE_BACK_MS, "an engine's death costs more than {ENGINE_BACK_MS} ms"),
        Victim::Control => ensure!(report.lost == 0, "control's death cost {} datagrams", report.lost),
    }
    Ok(())
}
