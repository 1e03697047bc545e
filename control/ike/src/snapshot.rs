//! What `show` shows: a copy of the state without any secret.

use std::net::SocketAddr;

use crate::Ike;
use crate::child::Child;
use crate::context::Peer;
use crate::sa::{IkeSa, Stage};

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
    pub suite: String,
    /// What NAT detection said.
    pub nat: Nat,
    /// Whether the peer is a Penstock.
    pub penstock: bool,
    /// Whether both sides want one child a core (RFC 9611).
    pub per_core: bool,
    /// Milliseconds since it was started.
    pub age_ms: u64,
    /// Milliseconds until we renew its keys.
    pub rekey_in_ms: Option<u64>,
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
    /// Its state as one word: `expecting`, `requested`, `installing`, `up` or `deleting`.
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
    /// Milliseconds until we ask for its successor.
    pub rekey_in_ms: Option<u64>,
}

impl Ike {
    /// Everything that `show` wants to know, peers in the order of their ids.
    #[must_use]
    pub fn snapshot(&self, now: u64) -> Vec<PeerSnapshot> {
        self.cx.peers.iter().map(|(id, peer)| self.snapshot_peer(now, *id, peer)).collect()
    }

    fn snapshot_peer(&self, now: u64, id: PeerId, peer: &Peer) -> PeerSnapshot {
        let winner = self.winner(id);
        let mut sas: Vec<&IkeSa> = self.sas.values().filter(|sa| sa.peer == Some(id)).collect();
        sas.sort_by_key(|sa| (Some(sa.spi) != winner, sa.began));
        let connecting = sas.iter().any(|sa| sa.starting() || matches!(sa.stage, Stage::Answering | Stage::Established));
        let state = match (winner.is_some(), peer.closed, connecting) {
            (true, _, _) => PeerState::Up,
            (_, true, _) => PeerState::Closed,
            (_, _, true) => PeerState::Connecting,
            _ => PeerState::Down,
        };
        PeerSnapshot {
            peer: id,
            name: peer.config.name.clone(),
            state,
            ike: sas.into_iter().map(|sa| snapshot_ike(now, sa)).collect(),
            last_error: peer.last_error.clone(),
            retry_in_ms: peer.retry_at.map(|at| at.saturating_sub(now)),
        }
    }
}

fn snapshot_ike(now: u64, sa: &IkeSa) -> IkeSnapshot {
    IkeSnapshot {
        local_spi: sa.spi,
        remote_spi: sa.remote_spi,
        initiator: sa.initiator,
        state: sa.stage_name(),
        local: sa.local,
        remote: sa.remote,
        suite: sa.suite.clone(),
        nat: sa.nat,
        penstock: sa.penstock,
        per_core: sa.per_core,
        age_ms: now.saturating_sub(sa.started),
        rekey_in_ms: sa.rekey_at.map(|at| at.saturating_sub(now)),
        children: sa.children.values().map(|child| snapshot_child(now, child)).collect(),
    }
}

fn snapshot_child(now: u64, child: &Child) -> ChildSnapshot {
    ChildSnapshot {
        child: child.id,
        inbound_spi: child.spi,
        outbound_spi: child.remote_spi,
        core: child.core,
        state: child.step_name(),
        suite: child.suite,
        esn: child.esn,
        fallback: child.fallback,
        selectors: child.selectors.clone(),
        age_ms: now.saturating_sub(child.started),
        rekey_in_ms: child.rekey_at.map(|at| at.saturating_sub(now)),
    }
}
