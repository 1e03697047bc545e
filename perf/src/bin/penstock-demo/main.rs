//! `cargo demo`: two sites, frankfurt and london, on this machine: real daemons in two network namespaces, a wire between
//! them, a fresh key. Moves TCP and UDP through the tunnel and beside it, checks every byte, and says what it saw. Whoever
//! has never heard of Penstock should know after a minute what it does, how fast, and that nothing was lost.

mod measure;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use penstock_perf::Progress;
use penstock_perf::lab::cleanup::{self, Leavings};
use penstock_perf::lab::{Offload, Pair, PairOptions, WireOptions, allowed_processors, binary, build_daemons};

use measure::Plan;

/// Joins two sites on this machine, sends traffic through the tunnel and beside it, and shows what came of it.
///
/// Exit code 0: everything as it should be. 1: something was not, and the last line says what. 2: it cannot be run like this.
#[derive(Parser)]
#[command(name = "cargo demo", version)]
struct Arguments {
    /// How long each of the measurements takes, in seconds.
    #[arg(long, default_value_t = 2.0, value_name = "N")]
    seconds: f64,
    /// Leave the sites up at the end, and say how to enter them.
    #[arg(long)]
    keep: bool,
    /// Remove sites that were left up, and do nothing else.
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !penstock_perf::is_root() {
        eprintln!("demo: network namespaces and TUN devices need root: run `sudo -E cargo demo`, or as root");
        return ExitCode::from(2);
    }
    let Some(each) = Duration::try_from_secs_f64(arguments.seconds).ok().filter(|each| (0.2..=600.0).contains(&each.as_secs_f64())) else {
        eprintln!("demo: --seconds {}: give 0.2 to 600", arguments.seconds);
        return ExitCode::from(2);
    };
    let outcome = if arguments.clean { clean() } else { run(each, arguments.keep) };
    cleanup::give_way();
    match outcome {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            eprintln!("demo: FAILED: {}", faults.join("; "));
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("demo: FAILED: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn clean() -> Result<Vec<String>> {
    let removed = cleanup::clean(Leavings::Kept)?;
    removed.iter().for_each(|thing| println!("removed {thing}"));
    if removed.is_empty() {
        println!("nothing was left");
    }
    Ok(Vec::new())
}

/// Returns what was not as it should be.
fn run(each: Duration, keep: bool) -> Result<Vec<String>> {
    build_daemons()?;
    cleanup::clean(Leavings::Orphaned)?;
    let progress = Progress::new();
    let mut pair = progress.step("two namespaces, a wire, two daemons, a fresh key", || Pair::new(&options()))?;
    progress.step("waiting until the tunnel is up", || {
        pair.sites.iter_mut().try_for_each(penstock_perf::lab::Site::start)?;
        pair.wait_up(Duration::from_secs(15))
    })?;
    let seen = measure::run(&pair, &Plan { each, rounds: 3 }, &progress)?;
    let faults = seen.faults();
    let shown = pair.sites[0].penstock(&["show"]).context("penstock show")?;
    println!("\n$ penstock show        # in {}\n{}", pair.sites[0].name(), String::from_utf8_lossy(&shown.stdout).trim_end());
    println!("\n{}", report::table(&seen));
    if keep {
        cleanup::keep()?;
        println!("\n{}", how_to_enter(&pair)?);
        std::mem::forget(pair); // dropping it would take everything down
    }
    if faults.is_empty() {
        println!("\nNothing lost, nothing damaged, no packet dropped.");
    }
    Ok(faults)
}

/// One worker a site, each on a processor of its own where there are two, on a wire like that between two guests of one host.
fn options() -> PairOptions {
    let processors = allowed_processors();
    let nth = |index: usize| processors.get(index % processors.len().max(1)).copied().into_iter().collect();
    PairOptions {
        wire: WireOptions { offload: Offload::Whole, ..WireOptions::default() },
        cpus: [nth(0), nth(1)],
        peer_toml: "suites = [\"aes128-gcm\"]".into(),
        ..PairOptions::default()
    }
}

fn how_to_enter(pair: &Pair) -> Result<String> {
    let penstock = binary("penstock")?;
    let mut text = String::from("The sites stay up. Look at them with:\n");
    for site in &pair.sites {
        let (name, folder) = (site.namespace().name(), site.run_dir());
        text += &format!("  ip netns exec {name} {} --run-dir {} show\n", penstock.display(), folder.display());
    }
    text += &format!("A shell in {}: ip netns exec {} bash\n", pair.sites[0].name(), pair.sites[0].namespace().name());
    text += "Remove them with: cargo demo --clean";
    Ok(text)
}
