//! What `show` answers, put together from the state machine, the engine and the configuration.

use std::collections::HashMap;
use std::time::Duration;

use penstock_ike::{PeerId, PeerSnapshot, PeerState};
use penstock_uapi::reply::{PolicyState, SaState, phase};

use super::policies::peer_of;
use super::work::Status;
use crate::admin::{self, State};
use crate::config::{Config, Peer, Start};
use crate::engine;
use crate::socket::intake::Endpoints;

/// What the daemon knows without asking the engine.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) snapshots: Vec<PeerSnapshot>,
    pub(super) ids: Vec<PeerId>,
    pub(super) statuses: HashMap<PeerId, Status>,
    pub(super) endpoints: Endpoints,
    pub(super) engine: admin::Engine,
    pub(super) cpus: Vec<u16>,
    pub(super) mtu: u16,
    pub(super) age: Duration,
    pub(super) config_path: String,
    pub(super) rolled_back_in_ms: Option<u64>,
}

/// The whole state. `engine` is what the engine answered, if it did.
pub(super) fn state(config: &Config, known: Known, engine: Option<&engine::State>) -> State {
    let site = admin::Site {
        name: config.site.name.clone(),
        port: config.site.port,
        listen: config.site.listen.clone(),
        pid: std::process::id(),
        age_ms: millis(known.age),
        config: known.config_path.clone(),
        rolled_back_in_ms: known.rolled_back_in_ms,
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let interface = admin::Interface {
        name: config.interface.name.clone(),
        addresses: config.interface.address.iter().map(ToString::to_string).collect(),
        mtu: known.mtu,
    };
    let cpu_of = |core: u16| known.cpus.get(usize::from(core)).copied().unwrap_or_default();
    let cores = engine.map(|state| state.cores.iter().map(|core| admin::Core::new(core, cpu_of(core.core.get()))).collect());
    let all = Index::new(&known, engine);
    let peers = config.peers.iter().zip(&known.ids).map(|(configured, id)| peer(configured, *id, &known, &all)).collect();
    drop(all);
    let mut state =
        State { schema: admin::SCHEMA, site, engine: known.engine, interface, peers, cores: cores.unwrap_or_default(), ..State::default() };
    state.sum_drops();
    state
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What there is of each peer: with thousands of them nobody may search for each.
struct Index<'a> {
    snapshots: HashMap<PeerId, &'a PeerSnapshot>,
    sas: HashMap<PeerId, Vec<&'a SaState>>,
    policies: HashMap<u32, &'a PolicyState>,
}

impl<'a> Index<'a> {
    fn new(known: &'a Known, engine: Option<&'a engine::State>) -> Self {
        let mut sas: HashMap<PeerId, Vec<&SaState>> = HashMap::new();
        for sa in engine.into_iter().flat_map(|state| &state.sas) {
            sas.entry(peer_of(sa.policy.get())).or_default().push(sa);
        }
        let policies = engine.into_iter().flat_map(|state| &state.policies);
        Self {
            snapshots: known.snapshots.iter().map(|snapshot| (snapshot.peer, snapshot)).collect(),
            sas,
            policies: policies.map(|policy| (policy.policy.get(), policy)).collect(),
        }
    }
}

fn subnets(nets: &[ipnet::IpNet]) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}

fn peer(configured: &Peer, id: PeerId, known: &Known, all: &Index<'_>) -> admin::Peer {
    let snapshot = all.snapshots.get(&id).copied();
    let status = known.statuses.get(&id);
    let sas = all.sas.get(&id).map(Vec::as_slice).unwrap_or_default();
    let mut peer = admin::Peer {
        name: configured.name.clone(),
        endpoint: configured.endpoint.as_ref().map(ToString::to_string).unwrap_or_default(),
        remote: known.endpoints.get(id),
        local_id: configured.local_id.to_string(),
        remote_id: configured.remote_id.to_string(),
        local_subnets: subnets(&configured.local_subnets),
        subnets: subnets(&configured.subnets),
        psk_weak: configured.psk_weak.clone(),
        since_ms: status.map_or(0, |status| millis(status.since.elapsed())),
        attempts: status.map_or(0, |status| status.attempts),
        last_error: status.and_then(|status| Some(status.last_error.as_ref()?.1.clone())),
        last_error_ms: status.and_then(|status| Some(millis(status.last_error.as_ref()?.0.elapsed()))),
        sas: sas.iter().map(|sa| admin::Sa::from(*sa)).collect(),
        ..admin::Peer::default()
    };
    let carries = sas.iter().any(|sa| matches!(sa.phase, phase::ACTIVE | phase::WAITING));
    peer.state = match snapshot.map(|snapshot| snapshot.state) {
        _ if !known.engine.running => admin::PeerState::Connecting,
        Some(PeerState::Closed) => admin::PeerState::Down,
        Some(PeerState::Up) => admin::PeerState::Up,
        // Adopted SAs carry packets while the new IKE SA is under way.
        _ if carries => admin::PeerState::Up,
        // Nobody tries it: a packet, or the peer itself, has to come first.
        Some(PeerState::Down) if configured.start != Start::Always => admin::PeerState::Waiting,
        _ => admin::PeerState::Connecting,
    };
    if let Some(totals) = all.policies.get(&id.0) {
        peer.set_traffic(totals);
    }
    if let Some(snapshot) = snapshot {
        describe_ike(&mut peer, snapshot);
    }
    if peer.state != admin::PeerState::Up && peer.reason.is_none() {
        peer.reason = status.and_then(|status| status.reason.clone());
    }
    if let Some(name) = configured.endpoint.as_ref().filter(|_| peer.state == admin::PeerState::Connecting && peer.remote.is_none()) {
        peer.reason = Some(format!("the name {} does not resolve", name.host));
        peer.remedy = Some("check it with `getent hosts`, or write the address".into());
    }
    if peer.state == admin::PeerState::Waiting {
        let waits = if configured.start == Start::Demand { "waits for the first packet to it" } else { "waits for it to come" };
        peer.reason = Some(peer.reason.map_or_else(|| waits.into(), |reason| format!("{waits}; before, {reason}")));
    }
    peer
}

fn describe_ike(peer: &mut admin::Peer, snapshot: &PeerSnapshot) {
    if let Some(ike) = snapshot.ike.first() {
        let spis = [format!("{:016x}", ike.local_spi), format!("{:016x}", ike.remote_spi)];
        let [local, remote] = spis;
        let (initiator_spi, responder_spi) = if ike.initiator { (local, remote) } else { (remote, local) };
        peer.local = Some(ike.local);
        peer.remote = Some(ike.remote);
        peer.ike = Some(admin::Ike {
            initiator_spi,
            responder_spi,
            initiated: ike.initiator,
            proposal: ike.suite.clone(),
            age_ms: ike.age_ms,
            rekey_in_ms: ike.rekey_in_ms,
            nat_here: ike.nat.here,
            nat_there: ike.nat.there,
        });
    }
    let children: HashMap<String, &penstock_ike::ChildSnapshot> =
        snapshot.ike.iter().flat_map(|ike| &ike.children).map(|child| (format!("{:08x}", child.inbound_spi), child)).collect();
    for sa in &mut peer.sas {
        let Some(child) = children.get(&sa.inbound_spi) else { continue };
        sa.rekey_in_ms = child.rekey_in_ms;
        (sa.local_subnets, sa.subnets) = (subnets(&child.selectors.local), subnets(&child.selectors.remote));
    }
    if peer.state == admin::PeerState::Up {
        return;
    }
    peer.retry_in_ms = snapshot.retry_in_ms;
    peer.reason = match snapshot.state {
        PeerState::Closed => Some("closed by `penstock down`".into()),
        _ => snapshot.last_error.clone(),
    };
    peer.remedy = match snapshot.state {
        PeerState::Closed => Some(format!("penstock up {}", peer.name)),
        _ => None,
    };
}
