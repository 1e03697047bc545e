//! Floods from a stranger's namespace with forged source addresses, and what is left of an honest peer's traffic, measured in turn with the same flood
//! to a port that nobody listens on: the kernel's and the flooder's own work are in both.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::stranger::{Ammunition, Stranger};
use crate::compare::Summary;
use crate::lab::{Pair, PairOptions};
use crate::load::{Direction, Tcp, Udp};
use crate::soak::usage;

/// Datagrams of the honest load in each direction and second, of 1200 bytes; few enough to be carried while a flood takes a core.
const HONEST_RATE: f64 = 10_000.0;
/// A port that nobody listens on.
const CLOSED_PORT: u16 = 4999;
/// The port of IKE and ESP.
const OPEN_PORT: u16 = 4500;
/// How long a new peer may take to come up in a flood.
const UP_PATIENCE: Duration = Duration::from_secs(30);

/// A plan.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// What is sent.
    pub ammunition: Ammunition,
    /// So many a second, as far as the machine can.
    pub rate: f64,
    /// Rounds, each of a flood to the closed port and one to the open one.
    pub rounds: u32,
    /// How long each load of each flood lasts.
    pub length: Duration,
    /// What addresses and contents are drawn from.
    pub seed: u64,
}

/// One flood and the honest traffic beside it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// Flood datagrams that left a second.
    pub flood_pps: f64,
    /// Honest bulk in both directions.
    pub tcp_gbps: f64,
    /// The share of honest datagrams that arrived.
    pub udp_share: f64,
    /// Honest datagrams that came twice or damaged.
    pub wrong: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct FloodReport {
    /// What was sent.
    pub ammunition: Ammunition,
    /// The closed port's sample of each round, and the open one's.
    pub rounds: Vec<[Sample; 2]>,
    /// Bytes of memory of the flooded site's engine and control before and after.
    pub memory: [u64; 2],
    /// Lines in the flooded site's log, and for how many seconds its port was flooded.
    pub log_lines: usize,
    /// See there.
    pub flooded_seconds: f64,
    /// Bytes that the stranger sent to the open port, and bytes of the answers to them.
    pub answered: [u64; 2],
    /// How long the honest peer, started anew within the flood, took until it was up.
    pub new_peer_seconds: f64,
    /// What both sites have dropped since their start, by site and reason.
    pub drops: BTreeMap<String, u64>,
    /// Whether engine and control are those that were started.
    pub lives: bool,
}

impl FloodReport {
    /// What the honest peer keeps of bulk and of datagrams, open port to closed: medians of the rounds.
    #[must_use]
    pub fn kept(&self) -> [f64; 2] {
        [|sample: &Sample| sample.tcp_gbps, |sample: &Sample| sample.udp_share].map(|value| {
            let ratios: Vec<f64> = self.rounds.iter().map(|[closed, open]| value(open) / value(closed)).collect();
            Summary::of(&ratios).map_or(0.0, |summary| summary.median)
        })
    }

    /// Log lines a second.
    #[must_use]
    pub fn lines_a_second(&self) -> f64 {
        self.log_lines as f64 / self.flooded_seconds
    }

    /// How much memory grew.
    #[must_use]
    pub fn grown(&self) -> u64 {
        self.memory[1].saturating_sub(self.memory[0])
    }
}

impl Flood {
    /// Runs the plan; `seen` is told of each round.
    ///
    /// # Errors
    /// If the sites do not come up or load cannot be made.
    pub fn run(&self, mut seen: impl FnMut(&[Sample; 2])) -> Result<FloodReport> {
        let mut pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() })?;
        let stranger = Stranger::beside(&pair.sites[0])?;
        let spis = spis(&pair)?;
        let processes = [pair.sites[0].engine_pid()?, pair.sites[0].control_pid()?];
        self.measure(&pair)?; // SAs of all cores, and what memory they take
        let (memory, lines) = (memory(&processes), pair.sites[0].log().lines().count());
        let (mut rounds, mut flooded_seconds, mut answered) = (Vec::new(), 0.0, [0, 0]);
        for round in 0..self.rounds {
            let mut sample = |port: u16| -> Result<Sample> {
                let before = stranger.bytes()?;
                let flood = stranger.flood(self.ammunition, port, self.rate, self.seed + u64::from(round), &spis)?;
                let start = Instant::now();
                let sample = self.measure(&pair)?;
                let flood_pps = flood.stop()?;
                if port == OPEN_PORT {
                    flooded_seconds += start.elapsed().as_secs_f64();
                    std::thread::sleep(Duration::from_millis(300)); // what stands in queues is answered
                    let after = stranger.bytes()?;
                    answered = [answered[0] + after[0] - before[0], answered[1] + after[1] - before[1]];
                }
                Ok(Sample { flood_pps, ..sample })
            };
            let pair = [sample(CLOSED_PORT)?, sample(OPEN_PORT)?];
            seen(&pair);
            rounds.push(pair);
        }
        let flood = stranger.flood(self.ammunition, OPEN_PORT, self.rate, self.seed, &spis)?;
        let start = Instant::now();
        let new_peer_seconds = restarted(&mut pair).context("a new peer in the flood")?;
        flood.stop()?;
        flooded_seconds += start.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(1));
        let log_lines = pair.sites[0].log().lines().count() - lines;
        let after = self::memory(&processes);
        let lives = pair.sites[0].engine_pid().ok() == Some(processes[0]) && pair.sites[0].control_pid().ok() == Some(processes[1]);
        let (ammunition, memory, drops) = (self.ammunition, [memory, after], pair.drops()?);
        Ok(FloodReport { ammunition, rounds, memory, log_lines, flooded_seconds, answered, new_peer_seconds, drops, lives })
    }

    fn measure(&self, pair: &Pair) -> Result<Sample> {
        let [left, right] = [0, 1].map(|side| pair.inner(side, crate::lab::Family::V4));
        let tcp = Tcp { streams: 1, duration: self.length, direction: Direction::Both, ..Tcp::default() }.run(&left, &right)?;
        let udp = Udp { rate: HONEST_RATE, duration: self.length, direction: Direction::Both, ..Udp::default() }.run(&left, &right)?;
        Ok(Sample {
            flood_pps: 0.0,
            tcp_gbps: tcp.gigabits(),
            udp_share: udp.total.received as f64 / udp.total.sent.max(1) as f64,
            wrong: udp.total.duplicate + udp.total.corrupt + u64::from(!tcp.is_intact()),
        })
    }
}

/// Stops the honest peer, starts it again, and waits until it is up.
fn restarted(pair: &mut Pair) -> Result<f64> {
    pair.sites[1].stop()?;
    let start = Instant::now();
    pair.sites[1].start()?;
    pair.sites[1].wait_up(UP_PATIENCE)?;
    Ok(start.elapsed().as_secs_f64())
}

/// The SPIs that the flooded site receives on.
fn spis(pair: &Pair) -> Result<Vec<u32>> {
    let state = pair.sites[0].show_json()?;
    let sas = state["peers"][0]["sas"].as_array().context("no SAs are shown")?;
    let spis: Vec<u32> = sas.iter().filter_map(|sa| u32::from_str_radix(sa["inbound_spi"].as_str()?, 16).ok()).collect();
    anyhow::ensure!(!spis.is_empty(), "no SPI is shown: {sas:?}");
    Ok(spis)
}

/// Resident bytes of these processes together.
fn memory(processes: &[u32]) -> u64 {
    let used = processes.iter().filter_map(|pid| usage(*pid).ok());
    used.map(|[(_, bytes), ..]| bytes as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::{Ammunition, FloodReport, Sample};

    #[test]
    fn what_the_honest_peer_keeps_is_the_median_of_ratios_within_rounds() {
        let sample = |tcp_gbps, udp_share| Sample { tcp_gbps, udp_share, ..Sample::default() };
        let rounds = [(4.0, 2.0), (2.0, 1.8), (1.0, 0.8)].map(|(closed, open)| [sample(closed, 1.0), sample(open, 0.9)]).to_vec();
        let report = FloodReport {
            ammunition: Ammunition::Handshakes,
            rounds,
            memory: [10, 7],
            log_lines: 30,
            flooded_seconds: 10.0,
            answered: [0, 0],
            new_peer_seconds: 0.0,
            drops: std::collections::BTreeMap::new(),
            lives: true,
        };
        assert!(report.kept().iter().zip([0.8, 0.9]).all(|(kept, right)| (kept - right).abs() < 1e-9), "{:?}", report.kept());
        assert!((report.lines_a_second() - 3.0).abs() < 1e-9 && report.grown() == 0);
    }
}
