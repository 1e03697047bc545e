//! What the faulty wire does to each direction, as a file says it.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The whole script. Everything that is left out does nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// What all chances are drawn from.
    pub seed: u64,
    /// From the left end to the right one.
    pub forward: Faults,
    /// From the right end to the left one.
    pub backward: Faults,
}

/// Which bytes of a UDP payload a flipped bit may lie in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// The whole payload.
    #[default]
    Any,
    /// The ports, in front of the payload.
    Udp,
    /// The SPI.
    Spi,
    /// The sequence number.
    Sequence,
    /// The IV.
    Iv,
    /// Between IV and ICV.
    Ciphertext,
    /// The last 16 bytes.
    Icv,
}

/// The faults of one direction. Chances are from 0 to 1 and count for each UDP datagram; other frames (ARP, neighbour discovery, ICMP) are
/// only lost in a black-out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Chance of being lost.
    pub loss: f64,
    /// Chance that a burst of losses begins here.
    pub burst: f64,
    /// How many datagrams in a row a burst takes, up to 1,000.
    pub burst_frames: u32,
    /// Chance of being sent again.
    pub duplicate: f64,
    /// When it is sent again, in milliseconds after the first time; one copy for each.
    pub duplicate_after_ms: Vec<u32>,
    /// Chance of being held back.
    pub reorder: f64,
    /// How many later datagrams overtake one that is held back, at most. When none has come for half a second it goes.
    pub reorder_depth: u32,
    /// Always this much later, in milliseconds.
    pub delay_ms: f64,
    /// And up to this much more.
    pub jitter_ms: f64,
    /// Megabits a second, Ethernet header included; 0: no limit.
    pub rate_mbit: f64,
    /// How long a frame may wait for its turn at that rate before it is dropped.
    pub queue_ms: f64,
    /// The largest IP packet, in bytes; 0: no limit.
    pub mtu: u32,
    /// Whether the sender of a packet that is too large is told by ICMP.
    pub icmp: bool,
    /// Chance of being cut short.
    pub truncate: f64,
    /// Chance of growing by 1 to 64 bytes at the end.
    pub extend: f64,
    /// Chance of flipped bits.
    pub flip: f64,
    /// How many bits then.
    pub flip_bits: u32,
    /// Where.
    pub region: Region,
    /// So many forged copies of each ESP packet beside it: bits flipped, cut short or grown, in turn by chance.
    pub forgeries: u32,
    /// Chance of being cut into two IP fragments (IPv4).
    pub fragment: f64,
    /// Chance of garbage beside it, between the same addresses and ports.
    pub garbage: f64,
    /// Its length at most.
    pub garbage_bytes: u16,
    /// When nothing passes: pairs of start and length in milliseconds since the wire began.
    pub black_outs_ms: Vec<[u64; 2]>,
    /// After so many datagrams the sender seems to have moved to another port and the next of `move_to`; 0: never (IPv4).
    pub move_every: u64,
    /// The addresses that it moves between; none: the port alone changes.
    pub move_to: Vec<Ipv4Addr>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: 0.0,
            burst_frames: 10,
            duplicate: 0.0,
            duplicate_after_ms: vec![0],
            reorder: 0.0,
            reorder_depth: 0,
            delay_ms: 0.0,
            jitter_ms: 0.0,
            rate_mbit: 0.0,
            queue_ms: 100.0,
            mtu: 0,
            icmp: false,
            truncate: 0.0,
            extend: 0.0,
            flip: 0.0,
            flip_bits: 1,
            region: Region::Any,
            forgeries: 0,
            fragment: 0.0,
            garbage: 0.0,
            garbage_bytes: 1400,
            black_outs_ms: Vec::new(),
            move_every: 0,
            move_to: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// With line and key, if it says what no wire can do.
    pub fn parse(text: &str) -> Result<Self> {
        let script: Self = toml::from_str(text)?;
        for (name, faults) in [("forward", &script.forward), ("backward", &script.backward)] {
            faults.check().with_context(|| format!("[{name}]"))?;
        }
        Ok(script)
    }

    /// The same faults both ways.
    #[must_use]
    pub fn both_ways(seed: u64, faults: Faults) -> Self {
        Self { seed, forward: faults.clone(), backward: faults }
    }

    /// The faults of a direction: 0 is forward.
    pub(super) fn faults(&self, direction: usize) -> &Faults {
        if direction == 0 { &self.forward } else { &self.backward }
    }
}

impl Faults {
    fn check(&self) -> Result<()> {
        let chances = [
            ("loss", self.loss),
            ("burst", self.burst),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("truncate", self.truncate),
            ("extend", self.extend),
            ("flip", self.flip),
            ("fragment", self.fragment),
            ("garbage", self.garbage),
        ];
        for (name, chance) in chances {
            ensure!((0.0..=1.0).contains(&chance), "{name}: give 0 to 1");
        }
        for (name, amount) in [("delay_ms", self.delay_ms), ("jitter_ms", self.jitter_ms), ("queue_ms", self.queue_ms)] {
            ensure!((0.0..=3.6e6).contains(&amount), "{name}: give 0 to 3600000");
        }
        ensure!((0.0..=1e6).contains(&self.rate_mbit), "rate_mbit: give 0 to 1000000");
        ensure!(self.burst_frames <= 1000, "burst_frames: give 0 to 1000");
        ensure!(self.flip_bits <= 64, "flip_bits: give 0 to 64");
        ensure!(self.mtu == 0 || self.mtu >= 68, "mtu: give 0 or at least 68");
        ensure!(self.reorder_depth <= 1 << 20, "reorder_depth: give 0 to 1048576");
        Ok(())
    }
}
