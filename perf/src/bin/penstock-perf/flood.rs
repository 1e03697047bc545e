//! `flood`: what an honest peer keeps while strangers flood its site.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use penstock_perf::campaign::{Ammunition, Flood};

/// Lines of the log a second at most.
const LINES_MAX: f64 = 10.0;
/// Memory may grow by so much.
const GROWTH_MAX: u64 = 16 << 20;
/// A new peer is up within so many seconds.
const NEW_PEER_SECONDS: f64 = 2.0;

/// What `flood` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What is sent.
    #[arg(value_enum)]
    ammunition: Kind,
    /// Datagrams a second, as far as this machine can.
    #[arg(long, default_value_t = 200_000.0)]
    rate: f64,
    /// Rounds, each with the flood to a closed port and then to the open one.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each load.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// What addresses and contents are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Handshakes,
    UnknownSpis,
    Forgeries,
}

impl Kind {
    /// What is sent, and which share the honest peer has to keep.
    fn meaning(self) -> (Ammunition, f64) {
        match self {
            Self::Handshakes => (Ammunition::Handshakes, 0.8),
            Self::UnknownSpis => (Ammunition::UnknownSpis, 0.8),
            Self::Forgeries => (Ammunition::Forgeries, 0.5),
        }
    }
}

/// Floods, prints a report, and ends badly if a promise was broken.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!((0.1..=600.0).contains(&arguments.seconds) && arguments.rounds > 0, "--seconds: give 0.1 to 600; --rounds: at least 1");
    let (ammunition, bar) = arguments.ammunition.meaning();
    let length = Duration::from_secs_f64(arguments.seconds);
    let plan = Flood { ammunition, rate: arguments.rate, rounds: arguments.rounds, length, seed: arguments.seed };
    println!("{:>12} {:>10} {:>10}   {:>12} {:>10} {:>10}", "closed, pps", "Gb/s", "datagrams", "open, pps", "Gb/s", "datagrams");
    let report = plan.run(|[closed, open]| {
        println!(
            "{:>12.0} {:>10.3} {:>10.3}   {:>12.0} {:>10.3} {:>10.3}",
            closed.flood_pps, closed.tcp_gbps, closed.udp_share, open.flood_pps, open.tcp_gbps, open.udp_share
        );
    })?;
    let [bulk, datagrams] = report.kept();
    println!(
        "the honest peer keeps {bulk:.2} of bulk and {datagrams:.2} of datagrams; a new peer is up after {:.1} s; memory grew by {:.1} MiB; \
         {:.1} log lines a second; {} bytes answered to {} sent",
        report.new_peer_seconds,
        report.grown() as f64 / f64::from(1 << 20),
        report.lines_a_second(),
        report.answered[1],
        report.answered[0]
    );
    println!("{}", serde_json::to_string(&report)?);
    ensure!(report.lives, "engine or control died");
    ensure!(bulk >= bar && datagrams >= bar, "the honest peer keeps less than {bar}");
    ensure!(report.lines_a_second() <= LINES_MAX, "more than {LINES_MAX} log lines a second");
    ensure!(report.grown() <= GROWTH_MAX, "memory grew");
    ensure!(report.answered[1] <= report.answered[0], "strangers get more bytes than they send");
    ensure!(report.new_peer_seconds <= NEW_PEER_SECONDS, "a new peer takes more than {NEW_PEER_SECONDS} s");
    Ok(())
}
