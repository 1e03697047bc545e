//! What a run leaves behind: one JSON file with everything that was seen. Names end in their unit. Tables, plots and the
//! report are made from it alone, so that they can be made again later.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::stats::Summary;

/// The shape of the file; raised when a reader of the old shape would misread the new one.
pub const SCHEMA: u32 = 1;

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When it began, RFC 3339, UTC.
    pub started: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was cut short; then later rounds are missing.
    pub complete: bool,
    /// The machine.
    pub machine: Machine,
    /// What was asked for.
    pub plan: Plan,
    /// What was compared, by name, and in which version.
    pub subjects: BTreeMap<String, String>,
    /// Penstock's own programs: version, what they were built from, in which profile, and the beginning of their SHA-256.
    #[serde(default)]
    pub daemons: BTreeMap<String, String>,
    /// What was to be compared and is not, and why.
    pub missing: BTreeMap<String, String>,
    /// Measurements that could not be made, and why.
    pub failures: Vec<String>,
    /// Every measurement, in the order of time, the disturbed ones among them.
    pub samples: Vec<Sample>,
    /// What follows from them.
    pub summary: Vec<Line>,
}

/// The machine that it ran on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// `uname -sr`.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// Processors that may be used.
    pub processors: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// The commit of the tree that this program, which measures, was run from, `-dirty` behind it if files were changed; empty if
    /// that is not known. What it measured stands in [`Record::daemons`].
    pub commit: String,
    /// `/proc/loadavg` before the start, its first number: how busy the machine was without us.
    pub load_before: f64,
}

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// How often the subjects took turns.
    pub rounds: usize,
    /// How long one measurement takes.
    pub seconds: f64,
    /// How often a disturbed measurement is repeated at most.
    pub repeats_max: usize,
    /// Lost datagrams that the search for a rate calls none, as a share of those sent.
    pub loss_max: f64,
    /// The wires.
    pub wires: Vec<WireKind>,
    /// The measures.
    pub measures: Vec<String>,
    /// How long a measurement of an idle tunnel takes.
    #[serde(default)]
    pub idle_seconds: f64,
    /// Whether the plain wire was not measured; then the subjects take turns in another order each round.
    #[serde(default)]
    pub no_wire: bool,
    /// What it is to show.
    #[serde(default)]
    pub purpose: Purpose,
    /// What stands above it in a report of several runs.
    #[serde(default)]
    pub title: String,
}

/// What a run is to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// How tunnels compare with each other and the wire.
    #[default]
    Comparison,
    /// What each of Penstock's features does.
    Features,
    /// What it costs to have many peers and prefixes.
    Scale,
}

/// A kind of wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WireKind {
    /// What happens to super-packets.
    pub mode: Mode,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// What happens to super-packets on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They pass whole.
    Whole,
    /// The sender's kernel cuts them, the receiver's merges.
    Gro,
    /// The sender's kernel cuts them, nothing merges.
    Plain,
}

impl std::fmt::Display for WireKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = match self.mode {
            Mode::Whole => "whole",
            Mode::Gro => "gro",
            Mode::Plain => "plain",
        };
        write!(formatter, "{mode}, {}", self.mtu)
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Whose tunnel.
    pub subject: String,
    /// Whether the plain wire under that tunnel was measured, and not the tunnel.
    pub beside: bool,
    /// On which wire.
    pub wire: WireKind,
    /// What was measured.
    pub measure: String,
    /// In which round, from 1.
    pub round: usize,
    /// Which try, from 1: a disturbed one is repeated.
    pub attempt: usize,
    /// Seconds since the run began.
    pub at_seconds: f64,
    /// The values, by name.
    pub values: BTreeMap<String, f64>,
    /// The tunnel's processes.
    pub processes: Vec<Process>,
    /// What it dropped meanwhile, by its own names; only for those that say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub drops: BTreeMap<String, u64>,
    /// Round trips: (microseconds, how many took up to that long and longer than the one before).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histogram: Vec<(f64, u64)>,
    /// What else happened on the machine.
    pub noise: Noise,
    /// Why it counts as disturbed; none: it does not.
    pub disturbed: Option<String>,
}

/// One process of a tunnel during a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its program's name.
    pub name: String,
    /// `left` or `right`.
    pub side: String,
    /// CPU seconds in user space.
    pub user_seconds: f64,
    /// CPU seconds in the kernel.
    pub system_seconds: f64,
    /// Memory in use at the end (VmRSS).
    pub memory_bytes: u64,
}

/// What else happened on the machine during a measurement, each as a share of all processors' time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// Taken by the hypervisor.
    pub steal_share: f64,
    /// User-space time of processes that have nothing to do with this.
    pub foreign_share: f64,
}

/// What follows for one subject, wire, measure and value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Whose tunnel.
    pub subject: String,
    /// On which wire.
    pub wire: WireKind,
    /// What was measured.
    pub measure: String,
    /// Which of its values.
    pub value: String,
    /// Of the tunnel.
    pub tunnel: Summary,
    /// Of the plain wire next to it; none where the wire has no such value.
    pub beside: Option<Summary>,
    /// Tunnel to wire, pair by pair.
    pub to_wire: Option<Summary>,
    /// Penstock to this subject, pair by pair; none for Penstock itself.
    pub penstock_to_this: Option<Summary>,
    /// How many of the tunnel's samples were disturbed and had to be taken nevertheless.
    pub disturbed: usize,
}
