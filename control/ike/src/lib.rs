//! IKEv2 (RFC 7296) as a pure state machine: datagrams, time and randomness in; datagrams, key installs and events out.
//!
//! There is no I/O here, no clock, no global state, and no way to panic from the wire, so that a thousand simulated
//! peers run in memory from a seed. The way of a key, from the first datagram to the engine:
//!
//! ```text
//!   receive ─► dispatch ─► exchange::init ──► crypto::IkeKeys (ECDH, prf+)
//!                 │             │
//!                 │        exchange::intermediate ──► ML-KEM-768, both secrets mixed
//!                 │             │
//!                 │        exchange::auth ──► who is it? (psk_auth)
//!                 │             │
//!                 │        exchange::child ─► proposal, selector ─► crypto::child_keys
//!                 │             ▲                                        │
//!                 ├──► exchange::create ◄── rekey (time, limits)         │
//!                 │                                                      │
//!   tick ─► life (retransmit, retry)        Output::InstallInbound ◄─────┤ first, and acknowledged by `installed`
//!                 │                         Output::Send (response) ◄────┤ only then, where we respond
//!              rival (two IKE SAs)          Output::InstallOutbound ◄────┘ then the other direction
//! ```
//!
//! Installing goes in two phases. Where we initiate: [`Output::Expect`], and the request leaves after
//! [`Ike::expected`]; on the response [`Output::InstallInbound`]; after [`Ike::installed`] the outbound SA takes over at
//! once; after [`Ike::activated`] the child is up, and what it replaces is deleted. Where we respond: inbound first, the
//! response after [`Ike::installed`], and the outbound SA waits for the peer's first packet or its DELETE.
//!
//! The caller owns sockets and timers: it gives every IKE datagram (without the non-ESP marker of RFC 3948) to
//! [`Ike::receive`], calls [`Ike::tick`] no later than [`Ike::next_deadline`], and after each call takes from
//! [`Ike::poll`] until it is empty. Children are rekeyed by time and by [`Ike::rekey_child`]: the successor is installed as
//! above, on the same core, and what it replaces is deleted by whoever asked. The IKE SA is rekeyed by time and by
//! [`Ike::renew`]; its children move to the new one untouched. A peer that fell silent is
//! found by [`Ike::tick`] and [`Ike::heard`], one that moved by what it sends ([`Ike::peer_moved`]). Certificates are not here yet.

mod carry;
mod child;
pub mod config;
mod context;
mod cookie;
mod crypto;
mod dispatch;
mod error;
mod exchange;
mod fragment;
mod half_open;
mod life;
mod liveness;
mod message;
mod moves;
pub mod output;
mod parting;
mod proposal;
mod rekey;
mod renew;
mod retransmit;
mod rival;
mod sa;
mod selector;
pub mod snapshot;
mod steps;

pub use config::{
    Config, Dpd, DpdAction, FIRST_PORT, Group, Identity, IkeSuite, KEEPALIVE_MS, PeerConfig, PeerId, Psk, Start, Suite, Upkeep,
};
pub use output::{ChildId, ChildKeys, Host, Level, Nat, Output, Selectors, When};
pub use rekey::RekeyRefused;
pub use selector::MAX as SUBNETS_MAX;
pub use snapshot::{ChildSnapshot, IkeSnapshot, PeerSnapshot, PeerState};

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use context::{Context, Peer};
use cookie::Cookies;
use half_open::HalfOpens;
use sa::IkeSa;

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
    cx: Context,
    /// By our SPI.
    sas: BTreeMap<u64, IkeSa>,
    /// First messages that were answered, by sender and digest.
    firsts: HashMap<(SocketAddr, [u8; 32]), u64>,
    cookies: Cookies,
    half_opens: HalfOpens,
    /// The key that strangers' proofs are verified against.
    decoy: Psk,
}

impl Ike {
    /// `now` is any monotonic count of milliseconds; every later `now` must not be smaller.
    pub fn new(config: Config, now: u64, host: &mut dyn Host) -> Self {
        let (mut seed, mut decoy) = ([0; 8], vec![0; 32]);
        host.random(&mut seed);
        host.random(&mut decoy);
        let cx = Context::new(config, now, u64::from_ne_bytes(seed));
        let cookies = Cookies::new(now, host);
        Self { cx, sas: BTreeMap::new(), firsts: HashMap::new(), cookies, half_opens: HalfOpens::default(), decoy: Psk::new(decoy) }
    }

    /// Adds or replaces a peer. Nothing is sent to a new one before [`Ike::initiate`]. The IKE SAs of a replaced one
    /// stay if nothing that was negotiated with them has changed; else they are closed, and begun again where it starts.
    pub fn set_peer(&mut self, now: u64, peer: PeerConfig) {
        let (id, config) = (peer.id, Arc::new(peer));
        let Some(state) = self.cx.peers.get_mut(&id) else {
            let state = Peer::new(config, &self.cx.config);
            self.cx.peers.insert(id, state);
            return;
        };
        let same = state.config.negotiates_as(&config);
        state.config = config;
        // It may have to be found missing sooner than it was.
        let look_at = now.saturating_add(state.config.dpd.within_ms / 2);
        state.look_at = state.look_at.map(|planned| planned.min(look_at));
        if !same && self.of(id).next().is_some() {
            self.shut(now, id, "its configuration has changed");
            if let Some(state) = self.cx.peers.get_mut(&id).filter(|state| state.config.start == Start::Always && !state.closed) {
                state.retry_at = Some(now);
            }
        }
    }

    /// Closes and forgets a peer.
    pub fn remove_peer(&mut self, now: u64, peer: PeerId) {
        self.close(now, peer);
        self.cx.peers.remove(&peer);
    }

    /// Starts an IKE SA with the peer, even beside an established one, which it then replaces without a gap.
    /// `initial_contact`: the engine holds nothing for this peer, and what the peer may hold for us is dead. A try that
    /// is under way is left alone.
    pub fn initiate(&mut self, now: u64, peer: PeerId, initial_contact: bool, host: &mut dyn Host) {
        self.cx.tick();
        if let Some(state) = self.cx.peers.get_mut(&peer) {
            state.initial_contact = initial_contact;
        }
        self.start(now, peer, host);
    }

    /// Whether a peer was closed by [`Ike::close`] and not begun again since.
    #[must_use]
    pub fn is_closed(&self, peer: PeerId) -> bool {
        self.cx.peers.get(&peer).is_some_and(|state| state.closed)
    }

    /// One more child for this core (RFC 9611).
    ///
    /// # Errors
    /// Why not; none is worth asking again for at once.
    pub fn create_child(&mut self, now: u64, peer: PeerId, core: u16, host: &mut dyn Host) -> Result<ChildId, CreateRefused> {
        self.cx.tick();
        let spi = self.winner(peer).ok_or(CreateRefused::NotUp)?;
        let sa = self.sas.get_mut(&spi).ok_or(CreateRefused::NotUp)?;
        if (!sa.confirmed && sa.initiator) || sa.renewing {
            return Err(CreateRefused::NotUp);
        }
        if !sa.per_core {
            return Err(CreateRefused::NotPerCore);
        }
        if sa.children.values().any(|child| child.core == Some(core)) {
            return Err(CreateRefused::Exists);
        }
        if sa.full || sa.children.len() >= exchange::child::CHILDREN_MAX {
            return Err(CreateRefused::Full);
        }
        let (child_spi, nonce) = (host.allocate_spi(peer, Some(core)), exchange::child::nonce(host));
        let child = exchange::child::prepare(&mut self.cx, now, peer, child_spi, nonce).ok_or(CreateRefused::NoSpi)?;
        let (id, exchange) = (child.id, exchange::create::fresh(&self.cx, peer, host));
        sa.children.insert(id, child::Child { core: Some(core), fallback: false, exchange, ..child });
        Ok(id)
    }

    /// The answer to [`Output::Quiet`]: how many milliseconds ago the engine opened the newest packet of this peer, `None` if it
    /// never did.
    pub fn heard(&mut self, now: u64, peer: PeerId, idle_ms: Option<u64>) {
        self.cx.tick();
        self.on_heard(now, peer, idle_ms.map(|idle| now.saturating_sub(idle)));
    }

    /// A packet wants a tunnel to this peer. Begins if that is what the peer waits for ([`Start::Demand`]), or one that had vanished
    /// ([`DpdAction::Hold`]).
    pub fn acquire(&mut self, now: u64, peer: PeerId, host: &mut dyn Host) {
        self.cx.tick();
        let waits = |state: &Peer| {
            let held = state.dormant && state.config.dpd.action == DpdAction::Hold;
            (held || state.config.start == Start::Demand) && !state.closed && state.try_from <= now
        };
        if self.cx.peers.get(&peer).is_some_and(waits) && self.winner(peer).is_none() {
            self.start(now, peer, host);
        }
    }

    /// The engine opened the newest packet of the pair with this inbound SPI, and it came from another endpoint. That is a hint: an
    /// exchange with the new endpoint decides whether the peer has moved there ([`Output::Redirect`]).
    pub fn peer_moved(&mut self, now: u64, inbound_spi: u32, from: SocketAddr) {
        self.cx.tick();
        self.on_moved(now, inbound_spi, from);
    }

    /// This machine has lost an address. IKE SAs that used it, and are not bound to it by configuration, go on with another one.
    pub fn local_gone(&mut self, now: u64, gone: IpAddr) {
        self.cx.tick();
        self.on_local_gone(now, gone);
    }

    /// The addresses of this machine that IKE SAs use.
    #[must_use]
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        self.sas.values().filter(|sa| sa.live()).map(|sa| sa.local.ip()).filter(|ip| !ip.is_unspecified()).collect()
    }

    /// Whether a child is there, in whichever step.
    #[must_use]
    pub fn has_child(&self, child: ChildId) -> bool {
        self.sas.values().any(|sa| sa.children.contains_key(&child))
    }

    /// Deletes one child, such as an idle core's. With the last one its IKE SA closes.
    pub fn delete_child(&mut self, now: u64, child: ChildId) {
        self.cx.tick();
        self.drop_child(now, child);
    }

    /// DELETE of everything with this peer; it stays closed, and is refused if it comes, until [`Ike::initiate`].
    pub fn close(&mut self, now: u64, peer: PeerId) {
        self.cx.tick();
        if let Some(state) = self.cx.peers.get_mut(&peer) {
            state.closed = true;
        }
        self.shut(now, peer, "is closed");
    }

    /// Whether a DELETE is still unanswered: what a clean stop waits for, within bounds of its own.
    #[must_use]
    pub fn closing(&self) -> bool {
        self.sas.values().any(|sa| matches!(sa.stage, sa::Stage::Leaving))
    }

    /// Handshakes of strangers that are half open: what a flood makes grow, up to its bound.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half_opens.len()
    }

    /// A datagram that came from `from` to our `to`, without the non-ESP marker.
    pub fn receive(&mut self, now: u64, from: SocketAddr, to: SocketAddr, message: &[u8], host: &mut dyn Host) {
        self.cx.tick();
        self.dispatch(now, from, to, message, host);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: u64, host: &mut dyn Host) {
        self.cx.tick();
        self.on_tick(now, host);
    }

    /// When [`Ike::tick`] wants to be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let sas = self.sas.values().filter_map(IkeSa::next_deadline);
        sas.chain(self.cx.peers.values().flat_map(|peer| [peer.retry_at, peer.look_at]).flatten()).min()
    }

    /// The next thing to do; to be called until `None` after every other call.
    pub fn poll(&mut self) -> Option<Output> {
        self.cx.outputs.pop_front()
    }

    /// The engine parks packets for this child's SPI: [`Output::Expect`] is done.
    pub fn expected(&mut self, now: u64, child: ChildId) {
        self.cx.tick();
        self.on_expected(now, child);
    }

    /// [`Output::InstallInbound`] is done.
    pub fn installed(&mut self, now: u64, child: ChildId) {
        self.cx.tick();
        self.on_installed(now, child);
    }

    /// [`Output::InstallOutbound`] is done.
    pub fn activated(&mut self, now: u64, child: ChildId) {
        self.cx.tick();
        self.on_activated(now, child);
    }

    /// One of the three has failed.
    pub fn install_failed(&mut self, now: u64, child: ChildId, reason: &str) {
        self.cx.tick();
        self.on_failed(now, child, reason);
    }

    /// Closes all IKE SAs of a peer and says that it is down.
    fn shut(&mut self, now: u64, peer: PeerId, why: &str) {
        let all: Vec<u64> = self.of(peer).collect();
        if let Some(state) = self.cx.peers.get_mut(&peer) {
            (state.retry_at, state.look_at, state.dormant) = (None, None, false);
            if std::mem::take(&mut state.up) {
                let reason = format!("{} {why}", state.config.name);
                self.cx.outputs.push_back(Output::Down { peer, reason });
            }
        }
        for spi in all {
            match self.sas.get(&spi).map(|sa| &sa.stage) {
                Some(sa::Stage::Established) => self.leave(now, spi),
                Some(sa::Stage::Leaving) => {}
                Some(sa::Stage::Parting(_)) => self.parted(now, spi),
                _ => self.remove(now, spi, None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
