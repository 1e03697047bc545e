//! Kills of engines or of control, at moments drawn from a seed, of either site, under load.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Bench, Watch};
use crate::faulty::{Report, draw};
use crate::lab::PairOptions;
use crate::sys;

/// Flows each way, and datagrams a second of each.
const FLOWS: usize = 4;
const RATE: f64 = 250.0;
/// The longest pause between a successor's first answer and the next kill.
const PAUSE_MAX_MS: u64 = 2000;
/// How long what was killed may stay away.
const PATIENCE: Duration = Duration::from_secs(10);

/// What each number is drawn for.
mod purpose {
    pub(super) const PAUSE: u64 = 1 << 42;
    pub(super) const SIDE: u64 = 1 << 43;
    pub(super) const LAUNCHER: u64 = 1 << 44;
}

/// Which process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The engine.
    Engine,
    /// Control; each second time, by the seed, its launcher with it.
    Control,
}

/// A plan.
#[derive(Clone, Copy, Debug)]
pub struct Kills {
    /// Whom.
    pub victim: Victim,
    /// How often.
    pub count: u32,
    /// What moments and sides are drawn from.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct KillReport {
    /// The seed.
    pub seed: u64,
    /// Kills.
    pub kills: u32,
    /// Milliseconds from each kill until all flows carried what was sent after it, in order of length. For control these are mere delays of packets.
    pub back_ms: Vec<f64>,
    /// Kills after which not all flows were back when the next one came.
    pub overlapped: u32,
    /// Datagrams sent through the tunnel, both ways.
    pub sent: u64,
    /// Of those, never received.
    pub lost: u64,
    /// Received twice or damaged.
    pub wrong: u64,
    /// What of the tunnel devices was deleted meanwhile, as the kernel told it.
    pub deleted: Vec<String>,
    /// Kills after which the device, its addresses or its routes were others than before.
    pub changed: u32,
    /// What the wire saw.
    pub wire: Report,
}

impl KillReport {
    /// The share `part` of kills was survived within so many milliseconds; infinity if there was none.
    #[must_use]
    pub fn back_within(&self, part: f64) -> f64 {
        let rank = (self.back_ms.len() as f64 * part).ceil() as usize;
        self.back_ms.get(rank.saturating_sub(1)).copied().unwrap_or(f64::INFINITY)
    }

    /// Whether no nonce was repeated, nothing went in clear, nothing came twice or damaged, and device, addresses and routes stayed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wire.is_clean() && self.wrong == 0 && self.deleted.is_empty() && self.changed == 0
    }
}

impl Kills {
    fn draw(&self, number: u32, purpose: u64) -> u64 {
        draw(self.seed, 0, number.into(), purpose)
    }

    /// Runs the plan; `seen` is told of each kill.
    ///
    /// # Errors
    /// If the sites do not come up, or a killed process does not come back.
    pub fn run(&self, mut seen: impl FnMut(u32)) -> Result<KillReport> {
        let mut bench = Bench::new(&PairOptions { cores: [2, 2], ..PairOptions::default() })?;
        let watches = bench.watches()?;
        let beat = bench.beat(FLOWS, RATE)?;
        let (mut back_ms, mut overlapped, mut changed) = (Vec::new(), 0, 0);
        for number in 0..self.count {
            std::thread::sleep(Duration::from_millis(self.draw(number, purpose::PAUSE) % PAUSE_MAX_MS));
            overlapped += u32::from(number > 0 && beat.back().is_none());
            back_ms.extend(beat.back().filter(|_| number > 0).map(|back| back.as_secs_f64() * 1e3));
            let side = (self.draw(number, purpose::SIDE) & 1) as usize;
            self.kill(&mut bench, side, number, &beat).with_context(|| format!("seed {}, kill {number}", self.seed))?;
            changed += u32::from(!watches.iter().all(|watch| watch.is_as_before().unwrap_or(false)));
            seen(number);
        }
        let back = beat.wait_back(PATIENCE).with_context(|| format!("seed {}, the last kill", self.seed))?;
        back_ms.push(back.as_secs_f64() * 1e3);
        back_ms.sort_by(f64::total_cmp);
        let verdict = beat.finish(Duration::from_secs(2))?;
        let deleted = watches.into_iter().flat_map(Watch::finish).collect();
        Ok(KillReport {
            seed: self.seed,
            kills: self.count,
            back_ms,
            overlapped,
            sent: verdict.sent,
            lost: verdict.lost,
            wrong: verdict.duplicate + verdict.corrupt,
            deleted,
            changed,
            wire: bench.relay.report()?,
        })
    }

    fn kill(&self, bench: &mut Bench, side: usize, number: u32, beat: &super::Beat) -> Result<()> {
        let site = &mut bench.pair.sites[side];
        if self.victim == Victim::Engine {
            let engine = site.engine_pid()?;
            beat.mark();
            sys::signal(engine, libc::SIGKILL)?;
            return site.wait_new_engine(engine, PATIENCE).map(drop);
        }
        let control = site.control_pid()?;
        beat.mark();
        if self.draw(number, purpose::LAUNCHER) & 1 == 0 {
            site.kill_control()?;
        } else {
            site.kill_daemon()?;
            site.start()?;
        }
        site.wait_new_control(control, PATIENCE).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::KillReport;
    use crate::faulty::{Findings, Report};

    fn report() -> KillReport {
        KillReport {
            seed: 1,
            kills: 4,
            back_ms: vec![1.0, 2.0, 3.0, 400.0],
            overlapped: 0,
            sent: 10,
            lost: 2,
            wrong: 0,
            deleted: Vec::new(),
            changed: 0,
            wire: Report::default(),
        }
    }

    #[test]
    fn a_share_of_kills_is_told_by_nearest_rank() {
        let report = report();
        assert_eq!([0.5, 0.75, 0.99].map(|part| report.back_within(part)), [2.0, 3.0, 400.0]);
        assert!(KillReport { back_ms: Vec::new(), ..report }.back_within(0.5).is_infinite());
    }

    #[test]
    fn a_campaign_is_clean_only_if_nothing_was_found() {
        assert!(report().is_clean());
        let repeated = Report { findings: Findings { repeated_nonces: 1, ..Findings::default() }, ..Report::default() };
        let bad = [
            KillReport { wrong: 1, ..report() },
            KillReport { deleted: vec!["Deleted 3: pen0".into()], ..report() },
            KillReport { changed: 1, ..report() },
            KillReport { wire: repeated, ..report() },
        ];
        assert!(bad.iter().all(|report| !report.is_clean()));
    }
}
