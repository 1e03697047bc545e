//! `cuts`: a wire that is cut and healed, with figures of how soon traffic is back.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use penstock_perf::campaign::{Cut, Cuts};

/// Traffic is back within so many milliseconds after a cut that killed nothing, and after one that did.
const BACK_MS: [f64; 2] = [1000.0, 5000.0];
/// IKE messages of one site in a second of a cut.
const MESSAGES_MAX: u64 = 2;

/// What `cuts` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How long each cut lasts, in seconds, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.3,1,3,10,20,45,60")]
    seconds: Vec<f64>,
    /// `dpd` of both sites, in seconds: a peer that is silent for longer is taken for dead.
    #[arg(long, default_value_t = 30)]
    dpd: u64,
}

/// Cuts, prints a report, and ends badly if a promise was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(arguments.seconds.iter().all(|seconds| (0.01..=3600.0).contains(seconds)), "--seconds: give 0.01 to 3600");
    ensure!((1..=3600).contains(&arguments.dpd), "--dpd: give 1 to 3600");
    let lengths = arguments.seconds.iter().map(|seconds| Duration::from_secs_f64(*seconds)).collect();
    println!("{:>10} {:>12} {:>10} {:>14}", "cut, s", "back, ms", "messages", "most a second");
    let told = |cut: &Cut| println!("{:>10.1} {:>12.0} {:>10} {:>14}", cut.seconds, cut.back_ms, cut.messages, cut.messages_a_second);
    let report = Cuts { lengths, dead_after: Duration::from_secs(arguments.dpd) }.run(told)?;
    println!("{}", serde_json::to_string(&report)?);
    ensure!(report.wrong == 0 && report.wire.is_clean(), "a promise was broken: {report:?}");
    for cut in &report.cuts {
        let bar = BACK_MS[usize::from(cut.seconds >= arguments.dpd as f64)];
        ensure!(cut.back_ms <= bar, "traffic is back only {:.0} ms after a cut of {} s", cut.back_ms, cut.seconds);
        ensure!(cut.messages_a_second <= MESSAGES_MAX, "{} messages in a second of a cut of {} s", cut.messages_a_second, cut.seconds);
    }
    Ok(())
}
