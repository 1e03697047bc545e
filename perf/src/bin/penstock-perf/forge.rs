//! `forge`: forged packets through live engines under traffic.

use anyhow::{Result, ensure};
use clap::Args;
use penstock_perf::campaign::Forgeries;

/// What `forge` takes.
#[derive(Args)]
pub(crate) struct Arguments {
    /// How many forged packets.
    #[arg(long, default_value_t = 10_000_000)]
    count: u64,
    /// What they are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Forges, prints a report, and ends badly if one got in or was not counted.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut told = 0;
    let report = Forgeries { count: arguments.count, seed: arguments.seed }.run(|forged| {
        if forged >= told + arguments.count / 10 {
            told = forged;
            eprintln!("  {forged} forged");
        }
    })?;
    println!("{}", serde_json::to_string(&report)?);
    println!(
        "{} forged in {:.0} s beside {} true packets: {} accepted, {} refused under a name, {} without an SPI, {} datagrams lost by the kernels \
         ({} true ones lost), {} unexplained",
        report.forged,
        report.seconds,
        report.sent,
        report.accepted,
        report.counted.refused,
        report.without_spi,
        report.counted.kernel,
        report.lost,
        report.unexplained()
    );
    ensure!(report.is_clean(), "with seed {} a promise was broken: {report:?}", report.seed);
    Ok(())
}
