//! `wire`: the faulty wire by hand, between two devices of the namespace it is started in.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use penstock_perf::faulty::{Relay, RelayOptions, Script};

/// What `wire` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The device towards the left end.
    left: String,
    /// The device towards the right end.
    right: String,
    /// What the wire does to frames (docs/faulty-wire.md); without it they pass as they are.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// In place of the script's seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Text that must not pass in clear; may be given again.
    #[arg(long)]
    marker: Vec<String>,
    /// For how long.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
}

/// Carries frames, then prints what happened. An audit that found something is an error.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!((0.1..=1e6).contains(&arguments.seconds), "--seconds: give 0.1 to 1000000");
    let mut script = match &arguments.script {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
            Script::parse(&text).with_context(|| format!("{}", path.display()))?
        }
        None => Script::default(),
    };
    script.seed = arguments.seed.unwrap_or(script.seed);
    let markers = arguments.marker.iter().map(|text| text.clone().into_bytes()).collect();
    let relay = Relay::start([&arguments.left, &arguments.right], RelayOptions { script, markers, keep: 0 })?;
    sleep(Duration::from_secs_f64(arguments.seconds));
    let report = relay.report()?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    ensure!(report.is_clean(), "with seed {} the audits found {:?}", report.seed, report.findings);
    Ok(())
}
