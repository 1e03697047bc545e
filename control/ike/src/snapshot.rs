//! What `show` shows: a copy of the state without any secret.

use std::net::SocketAddr;

use crate::config::{PeerId, Suite};
use crate::output::{ChildId, Nat, Selectors};

/// In which state a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// At least one child carries traffic.
    Up,
    /// A handshake is under way.
    Connecting,
    /// Waits for the next try, or for the peer to come.
    Down,
    /// Closed by the operator.
    Closed,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Its number.
    pub peer: PeerId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: PeerState,
    /// Its IKE SAs, the preferred one first.
    pub ike: Vec<IkeSnapshot>,
    /// The newest error, for people.
    pub last_error: Option<String>,
    /// Milliseconds until the next try.
    pub retry_in_ms: Option<u64>,
}

/// One IKE SA.
#[derive(Clone, Debug)]
pub struct IkeSnapshot {
    /// Our SPI.
    pub local_spi: u64,
    /// The peer's SPI; 0 until it is known.
    pub remote_spi: u64,
    /// Whether we started it.
    pub initiator: bool,
    /// Its state as one word.
    pub state: &'static str,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Cipher, PRF and key exchange as one word, e.g. `aes256gcm16-prfsha256-x25519`; empty until agreed.
    pub suite: &'static str,
    /// What NAT detection said.
    pub nat: Nat,
    /// Whether the peer is a Penstock.
    pub penstock: bool,
    /// Whether both sides want one child a core (RFC 9611).
    pub per_core: bool,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// Its children.
    pub children: Vec<ChildSnapshot>,
}

/// One child.
#[derive(Clone, Debug)]
pub struct ChildSnapshot {
    /// Its number.
    pub child: ChildId,
    /// Our inbound SPI.
    pub inbound_spi: u32,
    /// The peer's SPI; 0 until it is known.
    pub outbound_spi: u32,
    /// The core it was asked for; `None`: the host's choice.
    pub core: Option<u16>,
    /// Its state as one word: `expecting`, `requested`, `installing`, `up` or `leaving`.
    pub state: &'static str,
    /// Its cipher, once agreed.
    pub suite: Option<Suite>,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Whether cores without their own SA use it.
    pub fallback: bool,
    /// What it carries.
    pub selectors: Selectors,
    /// Milliseconds since its first step.
    pub age_ms: u64,
}
