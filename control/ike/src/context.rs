//! What every IKE SA of the site shares: limits, peers, the queue of things to do, and the count of events.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::carry::Held;
use crate::config::{Config, IkeSuite, PeerConfig, PeerId};
use crate::error::{Fault, Rate};
use crate::exchange::rekey::{Setbacks, Why};
use crate::output::{ChildId, Level, Output};
use crate::retransmit::Jitter;

/// Everything beside the IKE SAs themselves.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) jitter: Jitter,
    strangers: Rate,
    /// Predecessors that are not deleted yet, and their successors, while all children get successors elsewhere (see [`crate::carry`]).
    pub(crate) held: Option<Vec<Held>>,
    /// Counts what happened, so that two things of the same millisecond have an order.
    pub(crate) event: u64,
    next_child: u64,
}

/// A peer and how we stand with it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) config: Arc<PeerConfig>,
    /// Closed by the operator: no retry, and no IKE SA for it if it comes.
    pub(crate) closed: bool,
    pub(crate) initial_contact: bool,
    pub(crate) retry_at: Option<u64>,
    /// When to look whether it is still there.
    pub(crate) look_at: Option<u64>,
    /// It had vanished, and is not to be tried by time.
    pub(crate) dormant: bool,
    /// A packet that wants to go there begins nothing before.
    pub(crate) try_from: u64,
    pub(crate) pause: u64,
    /// A new IKE SA is wanted beside the one that serves.
    pub(crate) replacing: bool,
    pub(crate) last_error: Option<String>,
    /// What the daemon was told last.
    pub(crate) up: bool,
}

impl Peer {
    pub(crate) fn new(config: Arc<PeerConfig>, config_of_site: &Config) -> Self {
        let pause = config_of_site.retry_first_ms;
        Self {
            config,
            closed: false,
            initial_contact: true,
            retry_at: None,
            look_at: None,
            dormant: false,
            try_from: 0,
            pause,
            replacing: false,
            last_error: None,
            up: false,
        }
    }
}

impl Context {
    pub(crate) fn new(config: Config, now: u64, seed: u64) -> Self {
        let (peers, outputs) = (BTreeMap::new(), VecDeque::new());
        Self { config, peers, outputs, jitter: Jitter::new(seed), strangers: Rate::new(now), held: None, event: 0, next_child: 0 }
    }

    /// The place of what happens now among all events.
    pub(crate) fn tick(&mut self) -> u64 {
        self.event = self.event.saturating_add(1);
        self.event
    }

    pub(crate) fn child_id(&mut self) -> ChildId {
        self.next_child = self.next_child.saturating_add(1);
        ChildId(self.next_child)
    }

    /// When to try a rekey again that came to nothing once more, as `setbacks` then knows.
    pub(crate) fn rekey_again(&mut self, now: u64, setbacks: &mut Setbacks, why: Why) -> u64 {
        let (count, first, last) = match why {
            Why::Moment => (&mut setbacks.moments, self.config.rekey_again_ms, self.config.rekey_again_last_ms),
            Why::Refused => (&mut setbacks.refusals, self.config.rekey_retry_ms, self.config.rekey_retry_last_ms),
        };
        let doubled = first.saturating_mul(1 << (*count).min(16));
        *count = count.saturating_add(1);
        now.saturating_add(self.jitter.spread(doubled.min(last)))
    }

    pub(crate) fn peer(&self, peer: PeerId) -> Option<Arc<PeerConfig>> {
        self.peers.get(&peer).map(|peer| Arc::clone(&peer.config))
    }

    pub(crate) fn name(&self, peer: PeerId) -> String {
        self.peers.get(&peer).map_or_else(|| format!("peer {}", peer.0), |peer| peer.config.name.clone())
    }

    /// What some peer may use for IKE, AEADs first: before IKE_AUTH nobody knows which peer it is that asks.
    pub(crate) fn ike_suites(&self) -> Vec<IkeSuite> {
        let mut all: Vec<IkeSuite> = self.peers.values().flat_map(|peer| peer.config.ike_suites.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        if all.is_empty() { IkeSuite::DEFAULT.to_vec() } else { all }
    }

    /// Whether some peer may have ML-KEM, for the same reason.
    pub(crate) fn ml_kem(&self) -> bool {
        self.peers.values().any(|peer| peer.config.ml_kem)
    }

    /// Somebody at a peer's address was refused. Nobody vouches for it; it is what the operator of a peer that is down wants to
    /// see beside its name.
    pub(crate) fn suspect(&mut self, from: IpAddr, text: &str) {
        let at = |peer: &&mut Peer| !peer.up && peer.config.endpoint.is_some_and(|endpoint| endpoint.ip() == from);
        self.peers.values_mut().filter(at).for_each(|peer| peer.last_error = Some(text.to_owned()));
    }

    pub(crate) fn send(&mut self, from: SocketAddr, to: SocketAddr, message: Vec<u8>) {
        self.outputs.push_back(Output::Send { from, to, message });
    }

    /// A line about a peer that has proved who it is, or that we talk to of our own accord.
    pub(crate) fn event(&mut self, peer: PeerId, level: Level, text: String) {
        self.outputs.push_back(Output::Event { peer: Some(peer), level, text });
    }

    /// A line about somebody who has proved nothing; bounded in rate.
    pub(crate) fn stranger(&mut self, now: u64, text: String) {
        let Some(suppressed) = self.strangers.take(now) else { return };
        let more = if suppressed > 0 { format!(" ({suppressed} lines like this left out)") } else { String::new() };
        self.outputs.push_back(Output::Event { peer: None, level: Level::Warning, text: text + &more });
    }

    /// Remembers what went wrong with a peer and says it.
    pub(crate) fn fault(&mut self, peer: PeerId, fault: &Fault) -> String {
        let text = fault.told(&self.name(peer));
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.last_error = Some(text.clone());
        }
        self.event(peer, fault.level(), text.clone());
        text
    }
}
