//! `crowd`: thousands of peers at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use penstock_perf::campaign::Crowd;

/// All of a crowd are to be up within so many seconds.
const UP_SECONDS: f64 = 60.0;

/// What `crowd` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many peers.
    #[arg(long, default_value_t = 5_000)]
    peers: usize,
}

/// Brings them up, prints a report, and ends badly if that took too long.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let report = Crowd { peers: arguments.peers, patience: Duration::from_secs(600) }.run()?;
    println!("{}", serde_json::to_string(&report)?);
    let [control, engine] = report.bytes_per_peer.map(|bytes| bytes / 1024.0);
    println!(
        "{} peers up after {:.1} s, {:.0} handshakes a second; {} shown as up; {control:.1} KiB of control and {engine:.1} KiB of the engine for each",
        report.peers, report.up_seconds, report.handshakes_per_second, report.shown_up
    );
    ensure!(report.shown_up == report.peers && report.up_seconds <= UP_SECONDS, "not all are up within {UP_SECONDS} s");
    Ok(())
}
