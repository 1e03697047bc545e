//! IKEv2 (RFC 7296) as a pure state machine: datagrams, time and randomness in; datagrams, key installs and events out.
pub mod config;
pub mod output;
pub mod snapshot;

pub use config::{Config, Identity, PeerConfig, PeerId, Psk, Suite};
pub use output::{ChildId, ChildKeys, Host, Level, Nat, Output, Selectors, When};
pub use snapshot::{ChildSnapshot, IkeSnapshot, PeerSnapshot, PeerState};

use std::net::SocketAddr;

/// Why [`Ike::create_child`] did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateRefused {
    /// No such peer, or no IKE SA with it is up.
    #[error("no IKE SA with this peer is up")]
    NotUp,
    /// The peer did not echo SA_RESOURCE_INFO (RFC 9611), or this site's configuration says no.
    #[error("the peer keeps one SA for all cores")]
    NotPerCore,
    /// The peer answered TS_MAX_QUEUE (RFC 9611), or the bound on children is reached.
    #[error("the peer wants no more SAs")]
    Full,
    /// One for this core is there or under way.
    #[error("this core has an SA, or one is under way")]
    Exists,
    /// The host gave no SPI.
    #[error("no SPI was given")]
    NoSpi,
}

/// All IKE SAs of one site.
#[derive(Debug)]
pub struct Ike {
    config: Config,
}

#[allow(unused_variables, missing_docs)]
impl Ike {
    /// `now` is any monotonic count of milliseconds; every later `now` must not be smaller.
    pub fn new(config: Config, now: u64, host: &mut dyn Host) -> Self {
        Self { config }
    }
    /// Adds or replaces a peer. Nothing is sent before [`Ike::initiate`]; a replaced peer's SAs stay unless what was negotiated changed (then they are closed).
    pub fn set_peer(&mut self, now: u64, peer: PeerConfig) {}
    /// Closes and forgets.
    pub fn remove_peer(&mut self, now: u64, peer: PeerId) {}
    /// Starts an IKE SA with the peer, even beside an established one (which it then replaces without a gap).
    pub fn initiate(&mut self, now: u64, peer: PeerId, initial_contact: bool, host: &mut dyn Host) {}
    /// One more child for this core (RFC 9611).
    pub fn create_child(&mut self, now: u64, peer: PeerId, core: u16, host: &mut dyn Host) -> Result<ChildId, CreateRefused> {
        Err(CreateRefused::NotUp)
    }
    /// Deletes one child pair (an idle per-core one).
    pub fn delete_child(&mut self, now: u64, child: ChildId) {}
    /// DELETE of everything with this peer; it stays down until [`Ike::initiate`].
    pub fn close(&mut self, now: u64, peer: PeerId) {}
    /// Whether a DELETE is still unanswered: what a clean stop waits for (bounded).
    pub fn closing(&self) -> bool {
        false
    }
    /// A datagram, without the non-ESP marker.
    pub fn receive(&mut self, now: u64, from: SocketAddr, to: SocketAddr, message: &[u8], host: &mut dyn Host) {}
    /// Lets time pass.
    pub fn tick(&mut self, now: u64, host: &mut dyn Host) {}
    /// When [`Ike::tick`] wants to be called at the latest.
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }
    /// The next thing to do; call until `None` after every other call.
    pub fn poll(&mut self) -> Option<Output> {
        None
    }
    /// The engine parks packets for this child's SPI ([`Output::Expect`] done).
    pub fn expected(&mut self, now: u64, child: ChildId) {}
    /// [`Output::InstallInbound`] done.
    pub fn installed(&mut self, now: u64, child: ChildId) {}
    /// [`Output::InstallOutbound`] done.
    pub fn activated(&mut self, now: u64, child: ChildId) {}
    /// Any of the three failed.
    pub fn install_failed(&mut self, now: u64, child: ChildId, reason: &str) {}
    /// Everything `show` wants to know, peers in order of their ids.
    pub fn snapshot(&self, now: u64) -> Vec<PeerSnapshot> {
        Vec::new()
    }
}
