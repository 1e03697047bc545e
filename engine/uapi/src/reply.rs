//! What the engine answers.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::address::Endpoint;
use crate::counter::{Counter, Drop};
use crate::frame::{Body, Kind};

/// The answer to a hello. A writer that finds a running engine gets, with [`crate::Status::More`], this and then
/// [`Welcome::hand_backs`] frames of [`HandBack`]; the last one closes the answer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Welcome {
    /// The engine's protocol version.
    pub version: U16,
    /// Cores that run; 0 in an engine that was not started yet.
    pub cores: U16,
    /// How many [`HandBack`] frames follow.
    pub hand_backs: U16,
    /// [`crate::request::feature`] bits in use, or usable where nothing runs yet.
    pub features: U16,
    /// The TUN device's MTU as given at the start.
    pub mtu: U16,
    /// As given at the start.
    pub vnet_header_bytes: u8,
    /// As given at the start.
    pub generation: u8,
    /// The process id as the engine knows it: 1 in a process namespace of its own. `SO_PEERCRED` gives the asker's number for it.
    pub pid: U32,
    /// Random: tells one engine life from another.
    pub life: [u8; 16],
    /// The policy table in force.
    pub policy_generation: U64,
    /// Milliseconds since the engine started.
    pub age_ms: U64,
    /// [`protection`] bits in force; 0: it runs without a sandbox.
    pub protections: U16,
    /// The kernel's Landlock ABI, 0 without.
    pub landlock: u8,
    /// As given at the start.
    pub set: u8,
}
impl Body for Welcome {
    const KIND: Kind = Kind::Welcome;
}

/// What keeps a captured engine in.
pub mod protection {
    /// Network, mounts, message queues, names and control groups of its own.
    pub const NAMESPACES: u16 = 1;
    /// A process namespace of its own: there is nobody to signal or trace.
    pub const PROCESSES: u16 = 1 << 1;
    /// An empty root, and no mount of the system's left.
    pub const ROOT: u16 = 1 << 2;
    /// A user that is not root.
    pub const USER: u16 = 1 << 3;
    /// Keys never reach swap.
    pub const MEMORY: u16 = 1 << 4;
    /// Landlock denies files.
    pub const FILES: u16 = 1 << 5;
    /// Landlock denies TCP ports (Linux 6.7).
    pub const PORTS: u16 = 1 << 6;
    /// Landlock denies signals and abstract Unix sockets (Linux 6.12).
    pub const SIGNALS: u16 = 1 << 7;
    /// System call filters.
    pub const CALLS: u16 = 1 << 8;

    /// All, with their names and what each takes.
    pub const NAMES: [(u16, &str, &str); 9] = [
        (NAMESPACES, "namespaces", "start the engine by penstockd as root, or with --jail"),
        (PROCESSES, "processes", "start the engine by penstockd, or first in a process namespace of its own"),
        (ROOT, "root", "a system that runs from its initial RAM file system cannot exchange its root: boot from a real one"),
        (USER, "user", "start the engine by penstockd as root, or with --user"),
        (MEMORY, "memory", "give the launcher CAP_SYS_RESOURCE, or set its locked memory to unlimited"),
        (FILES, "files", "a kernel with CONFIG_SECURITY_LANDLOCK and landlock among its lsm="),
        (PORTS, "ports", "Linux 6.7 or newer with Landlock"),
        (SIGNALS, "signals", "Linux 6.12 or newer with Landlock"),
        (CALLS, "calls", "start the engine without --no-sandbox"),
    ];
}

/// Duplicates of one core's descriptors, for a new control.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct HandBack {
    /// Which core.
    pub core: U16,
    /// The CPU its worker is pinned to.
    pub cpu: U16,
    /// The roles of the descriptors beside the frame.
    pub roles: U32,
}
impl Body for HandBack {
    const KIND: Kind = Kind::HandBack;
}

/// One core's counters, as they stood between two batches.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CoreState {
    /// Which core.
    pub core: U16,
    /// 1: ring, 0: plain system calls.
    pub ring: u8,
    /// 1: the worker is asleep.
    pub asleep: u8,
    /// Frames parked for announced SPIs now.
    pub parked: U32,
    /// Packets from the TUN queue that wait for an SA now.
    pub waiting: U32,
    /// In the order of [`Counter::ALL`].
    pub counters: [U64; Counter::COUNT],
    /// In the order of [`Drop::ALL`].
    pub drops: [U64; Drop::COUNT],
}
impl Body for CoreState {
    const KIND: Kind = Kind::CoreState;
}

/// One policy's totals over all cores. They belong to the peer and outlive its SAs.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct PolicyState {
    /// The policy.
    pub policy: U32,
    /// Zero.
    pub reserved: U32,
    /// The peer's name, padded with zeros.
    pub name: [u8; 64],
    /// Inner packets sealed.
    pub outbound_packets: U64,
    /// Inner bytes sealed.
    pub outbound_bytes: U64,
    /// Inner packets opened.
    pub inbound_packets: U64,
    /// Inner bytes opened.
    pub inbound_bytes: U64,
    /// Milliseconds since the last authenticated packet; all ones: none yet.
    pub idle_ms: U64,
}
impl Body for PolicyState {
    const KIND: Kind = Kind::PolicyState;
}

/// What an SA is doing.
pub mod phase {
    /// Announced, no key yet.
    pub const EXPECTED: u8 = 0;
    /// Inbound in use, no outbound installed.
    pub const INBOUND: u8 = 1;
    /// Outbound installed, waiting for its turn.
    pub const WAITING: u8 = 2;
    /// In use both ways.
    pub const ACTIVE: u8 = 3;
    /// Only receiving, soon gone.
    pub const DRAINING: u8 = 4;
}

/// One SA pair. There is no key in it.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SaState {
    /// Our inbound SPI.
    pub inbound_spi: U32,
    /// The peer's SPI, or 0.
    pub outbound_spi: U32,
    /// The policy.
    pub policy: U32,
    /// The core.
    pub core: U16,
    /// A [`phase`].
    pub phase: u8,
    /// A [`crate::request::suite`], or 0.
    pub suite: u8,
    /// 1: extended sequence numbers.
    pub esn: u8,
    /// 1: the fallback SA of its policy.
    pub fallback: u8,
    /// A [`crate::request::source`].
    pub source: u8,
    /// 1: per-core SAs are wanted.
    pub per_core: u8,
    /// Milliseconds since the inbound SA was installed.
    pub age_ms: U64,
    /// Packets opened.
    pub inbound_packets: U64,
    /// Inner bytes opened.
    pub inbound_bytes: U64,
    /// Packets sealed; the last sequence number used.
    pub outbound_packets: U64,
    /// Inner bytes sealed.
    pub outbound_bytes: U64,
    /// Where packets go.
    pub remote: Endpoint,
}
impl Body for SaState {
    const KIND: Kind = Kind::SaState;
}

#[cfg(test)]
mod tests {
    use super::protection;

    #[test]
    fn each_protection_has_the_next_bit() {
        for (at, (bit, ..)) in protection::NAMES.iter().enumerate() {
            assert_eq!(*bit, 1 << at);
        }
    }
}
