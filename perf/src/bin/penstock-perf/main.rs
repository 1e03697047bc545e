//! `penstock-perf` (`cargo perf`): what measures. Every subcommand is a file of its own beside this one, and makes its own
//! namespaces; what they share is the library.

mod by_hand;
mod crowd;
mod cuts;
mod endure;
mod flood;
mod forge;
mod kills;
mod output;
mod preset;
mod profile;
mod run;
mod soak;
mod wire;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use penstock_perf::lab::cleanup::{self, Leavings};

/// Measures Penstock, other tunnels and the plain wire between two network namespaces.
///
/// Exit code 0: done. 1: it could not be done, and the last line says why. 2: it cannot be run like this.
#[derive(Parser)]
#[command(name = "penstock-perf", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Compares Penstock with other VPNs and the plain wire, always in turn.
    Run(run::Arguments),
    /// Measures Penstock with and without each of its features, in one table.
    Features(preset::Features),
    /// Compares one peer with thousands: throughput pair by pair, and memory of each.
    Scale(preset::Scale),
    /// Makes tables, plots and report again from the JSON of runs.
    Report(run::Again),
    /// Says where the engines' time goes, by part, from samples of `perf record`.
    Profile(profile::Arguments),
    /// Sends for hours and says what grows: memory, descriptors, threads, round trips, losses.
    Soak(soak::Arguments),
    /// Carries frames between two devices and spoils them by a script: losses, copies, delays, changes, forgeries; and audits what passes.
    Wire(wire::Arguments),
    /// Sends forged copies beside each packet of live traffic, and says whether one got in and each was counted.
    Forge(forge::Arguments),
    /// Floods a site from forged addresses, and says what an honest peer keeps.
    Flood(flood::Arguments),
    /// Cuts the wire and heals it, and says how soon traffic is back.
    Cuts(cuts::Arguments),
    /// Kills engines or controls again and again under load, and says what that cost.
    Kills(kills::Arguments),
    /// Brings thousands of peers up at once, and says how long that takes and what each costs.
    Crowd(crowd::Arguments),
    /// Lasts: a bad wire, a rekey a second, questions and changes, for an hour; and says what grows.
    Endure(endure::Arguments),
    #[command(flatten)]
    ByHand(by_hand::Load),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if !penstock_perf::is_root() {
        eprintln!("penstock-perf makes network namespaces: run it as root");
        return ExitCode::from(2);
    }
    let outcome = cleanup::clean(Leavings::Orphaned).and_then(|_| perform(&arguments.task));
    cleanup::give_way();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock-perf: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn perform(task: &Task) -> Result<()> {
    match task {
        Task::Run(arguments) => run::run(arguments),
        Task::Features(arguments) => preset::features_run(arguments),
        Task::Scale(arguments) => preset::scale_run(arguments),
        Task::Report(arguments) => run::report(arguments),
        Task::Profile(arguments) => profile::run(arguments),
        Task::Soak(arguments) => soak::run(arguments),
        Task::Wire(arguments) => wire::run(arguments),
        Task::Forge(arguments) => forge::run(arguments),
        Task::Flood(arguments) => flood::run(arguments),
        Task::Cuts(arguments) => cuts::run(arguments),
        Task::Kills(arguments) => kills::run(arguments),
        Task::Crowd(arguments) => crowd::run(arguments),
        Task::Endure(arguments) => endure::run(arguments),
        Task::ByHand(load) => by_hand::run(load),
    }
}
