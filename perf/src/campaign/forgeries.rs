//! Forged copies beside every packet of live traffic: bits flipped anywhere, truncated, extended. None may be accepted, and the engines' counters
//! have to tell of each one.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{Bench, Counts};
use crate::faulty::{Faults, Report, Script};
use crate::lab::PairOptions;

/// Flows each way, and datagrams a second of each.
const FLOWS: usize = 4;
const RATE: f64 = 250.0;
/// Forged copies beside each packet: with the traffic above some 100,000 a second.
const COPIES: u32 = 50;

/// A plan.
#[derive(Clone, Copy, Debug)]
pub struct Forgeries {
    /// So many at least.
    pub count: u64,
    /// What they are drawn from.
    pub seed: u64,
}

/// What came of them.
#[derive(Clone, Debug, Serialize)]
pub struct ForgeryReport {
    /// The seed.
    pub seed: u64,
    /// Forged copies that the wire sent.
    pub forged: u64,
    /// Those without an SPI, which are not the engines' to judge: too short, or the first word zero.
    pub without_spi: u64,
    /// Datagrams sent through the tunnel meanwhile, both ways.
    pub sent: u64,
    /// Of those, never received.
    pub lost: u64,
    /// Received twice or damaged, or delivered by an engine without having been sent.
    pub accepted: u64,
    /// What engines and kernels counted.
    pub counted: Counts,
    /// Whether both engines are those that were started.
    pub engines_live: bool,
    /// For how long.
    pub seconds: f64,
    /// What the wire saw.
    pub wire: Report,
}

impl ForgeryReport {
    /// How many forged copies the counters do not tell of; below zero: how many they tell of too often. What the kernel lost may have been forged or
    /// true; of the true ones it is known, because they are missed.
    #[must_use]
    pub fn unexplained(&self) -> i64 {
        let true_ones_lost = self.lost as i64 - (self.counted.outbound_drops + self.counted.device) as i64;
        let lost = self.counted.kernel as i64 + (self.wire.forward.refused + self.wire.backward.refused) as i64 - true_ones_lost;
        (self.forged - self.without_spi) as i64 - self.counted.refused as i64 - lost
    }

    /// Whether nothing was accepted, no engine died, and every forged copy was counted.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.accepted == 0 && self.engines_live && self.unexplained() == 0 && self.wire.is_clean()
    }
}

impl Forgeries {
    /// Runs the plan; `seen` is told how many were forged so far.
    ///
    /// # Errors
    /// If the sites do not come up or an engine does not answer.
    pub fn run(&self, mut seen: impl FnMut(u64)) -> Result<ForgeryReport> {
        let bench = Bench::new(&PairOptions { cores: [2, 2], ..PairOptions::default() })?;
        bench.warm()?;
        let engines = [bench.pair.sites[0].engine_pid()?, bench.pair.sites[1].engine_pid()?];
        let before = Counts::of(&bench.pair)?;
        let beat = bench.beat_now(FLOWS, RATE)?;
        let forge = Faults { forgeries: COPIES, ..Faults::default() };
        bench.relay.set_script(Script::both_ways(self.seed, forge))?;
        let (start, mut last) = (Instant::now(), (0, Instant::now()));
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let report = bench.relay.report()?;
            let forged = report.forward.forged + report.backward.forged;
            seen(forged);
            if forged >= self.count {
                break;
            }
            if forged > last.0 {
                last = (forged, Instant::now());
            }
            ensure!(last.1.elapsed() < Duration::from_secs(10), "after {forged} forged packets no traffic passes");
        }
        let seconds = start.elapsed().as_secs_f64();
        bench.relay.set_script(Script::default())?;
        // Some more true ones, so that every socket tells what it had no room for.
        std::thread::sleep(Duration::from_millis(500));
        let verdict = beat.finish(Duration::from_secs(2))?;
        let counted = Counts::of(&bench.pair)?.since(&before);
        let wire = bench.relay.report()?;
        let engines_live = [0, 1].map(|side| bench.pair.sites[side].engine_pid().ok()) == engines.map(Some);
        Ok(ForgeryReport {
            seed: self.seed,
            forged: wire.forward.forged + wire.backward.forged,
            without_spi: wire.forward.forged_without_spi + wire.backward.forged_without_spi,
            sent: verdict.sent,
            lost: verdict.lost,
            accepted: verdict.duplicate + verdict.corrupt + counted.delivered.saturating_sub(verdict.received + verdict.receiver_overflows),
            counted,
            engines_live,
            seconds,
            wire,
        })
    }
}
