//! A wire that is cut and healed: how soon traffic is back, and how much the sites talk meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Bench;
use crate::faulty::Report;
use crate::lab::PairOptions;

/// Flows each way, and datagrams a second of each.
const FLOWS: usize = 2;
const RATE: f64 = 250.0;
/// How long traffic may stay away after the wire is whole again.
const PATIENCE: Duration = Duration::from_secs(30);
/// Quiet time before each cut.
const PAUSE: Duration = Duration::from_secs(2);

/// A plan.
#[derive(Clone, Debug)]
pub struct Cuts {
    /// How long each cut lasts.
    pub lengths: Vec<Duration>,
    /// `dpd` of both sites.
    pub dead_after: Duration,
}

/// One cut.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cut {
    /// How long it lasted.
    pub seconds: f64,
    /// From the moment that the wire was whole again until all flows carried what was sent after it.
    pub back_ms: f64,
    /// The most IKE messages that one site sent in any second of the cut.
    pub messages_a_second: u64,
    /// All that both sent during the cut.
    pub messages: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct CutReport {
    /// Each cut.
    pub cuts: Vec<Cut>,
    /// Datagrams received twice or damaged.
    pub wrong: u64,
    /// What the wire saw.
    pub wire: Report,
}

impl Cuts {
    /// Runs the plan; `seen` is told of each cut.
    ///
    /// # Errors
    /// If the sites do not come up, or traffic does not come back.
    pub fn run(&self, mut seen: impl FnMut(&Cut)) -> Result<CutReport> {
        let peer_toml = format!("dpd = \"{}s\"\n", self.dead_after.as_secs());
        let bench = Bench::new(&PairOptions { cores: [2, 2], peer_toml, ..PairOptions::default() })?;
        let beat = bench.beat(FLOWS, RATE)?;
        let mut cuts = Vec::new();
        for length in &self.lengths {
            std::thread::sleep(PAUSE);
            let (messages, messages_a_second) = self.cut(&bench, *length)?;
            beat.mark();
            let back = beat.wait_back(PATIENCE).with_context(|| format!("after a cut of {length:?}"))?;
            let cut = Cut { seconds: length.as_secs_f64(), back_ms: back.as_secs_f64() * 1e3, messages_a_second, messages };
            seen(&cut);
            cuts.push(cut);
        }
        let verdict = beat.finish(Duration::from_secs(2))?;
        Ok(CutReport { cuts, wrong: verdict.duplicate + verdict.corrupt, wire: bench.relay.report()? })
    }

    /// Cuts and heals. Gives how many IKE messages came, and the most of one site in one second.
    fn cut(&self, bench: &Bench, length: Duration) -> Result<(u64, u64)> {
        let start = Instant::now();
        bench.relay.cut(true)?;
        let ike = |report: &Report| [report.forward.ike, report.backward.ike];
        let first = ike(&bench.relay.report()?);
        let (mut last, mut most) = (first, 0);
        while start.elapsed() < length {
            std::thread::sleep(length.saturating_sub(start.elapsed()).min(Duration::from_secs(1)));
            let now = ike(&bench.relay.report()?);
            most = most.max((now[0] - last[0]).max(now[1] - last[1]));
            last = now;
        }
        bench.relay.cut(false)?;
        Ok((last[0] + last[1] - first[0] - first[1], most))
    }
}
