//! What IKE_AUTH and CREATE_CHILD_SA say about a child, and its keys (RFC 7296 sections 1.3, 2.9, 2.17; RFC 9611).

use crate::child::{Child, Step};
use crate::config::{Group, PeerConfig, PeerId};
use crate::context::Context;
use crate::crypto::{Exchange, Material, child_keys};
use crate::error::Fault;
use crate::exchange::rekey::Setbacks;
use crate::message::{Chain, Payloads, kind, notify};
use crate::output::{ChildId, Host, Output, Selectors};
use crate::proposal::{self, Proposal};
use crate::selector;
use zeroize::Zeroizing;

/// The most children of one IKE SA: one for each of a peer's 256 cores, and the fallback.
pub(crate) const CHILDREN_MAX: usize = 257;
/// Octets of our nonces: half of the longest PRF's key, as RFC 7296 section 2.10 asks, and all of the shortest one's.
pub(crate) const NONCE_BYTES: usize = 32;

/// Why a child cannot be, as the peer and as people are told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) notify: u16,
    pub(crate) data: Vec<u8>,
    /// `None` where the peer only has to ask again in another way.
    pub(crate) fault: Option<Fault>,
}

impl Refusal {
    fn new(notify: u16, fault: Fault) -> Self {
        Self { notify, data: Vec::new(), fault: Some(fault) }
    }

    /// Section 1.3: the group that we want.
    pub(crate) fn group(group: Group) -> Self {
        Self { notify: notify::INVALID_KE_PAYLOAD, data: group.number().to_be_bytes().to_vec(), fault: None }
    }
}

/// What a peer's no to a child of ours means: what we had asked for, where that is what it did not take. `groups` are those of a fresh
/// key exchange.
pub(crate) fn refused(config: &PeerConfig, error: u16, what: &str, groups: &[Group]) -> String {
    let name = notify::name(error);
    match error {
        notify::NO_PROPOSAL_CHOSEN => {
            let offer = Proposal::esp(&config.esp_suites, 0).with_groups(groups);
            format!("{name} for {what}: it takes nothing of our offer [{}]", proposal::describe(&[offer]))
        }
        notify::TS_UNACCEPTABLE => {
            let [ours, theirs] = [&config.local_subnets, &config.remote_subnets].map(|nets| selector::describe_nets(nets));
            format!("{name} for {what}: it has no common subnets with our [{ours} to {theirs}]")
        }
        _ => format!("{name} for {what}"),
    }
}

/// A random nonce.
pub(crate) fn nonce(host: &mut dyn Host) -> Vec<u8> {
    let mut nonce = vec![0; NONCE_BYTES];
    host.random(&mut nonce);
    nonce
}

/// First phase, initiator: the engine has to expect this SPI. `None` if the host had no SPI to give.
pub(crate) fn prepare(cx: &mut Context, now: u64, peer: PeerId, spi: u32, nonce: Vec<u8>) -> Option<Child> {
    let spi = Some(spi).filter(|spi| *spi > 255)?;
    let id = cx.child_id();
    cx.outputs.push_back(Output::Expect { child: id, peer, spi });
    let deadline = Some(now.saturating_add(cx.config.engine_ms));
    Some(Child { nonce, deadline, ..empty(id, peer, spi, now) })
}

/// A child at its first step.
fn empty(id: ChildId, peer: PeerId, spi: u32, now: u64) -> Child {
    Child {
        id,
        peer,
        initiator: true,
        spi,
        remote_spi: 0,
        core: None,
        step: Step::Expecting,
        deadline: None,
        suite: None,
        esn: false,
        selectors: Selectors::default(),
        fallback: true,
        nonce: Vec::new(),
        exchange: None,
        replaces: None,
        lowest_nonce: Vec::new(),
        rival: None,
        redundant: false,
        unheard_until: None,
        rekey_at: None,
        setbacks: Setbacks::default(),
        outbound: None,
        started: now,
    }
}

/// What a request for this child says about it. `groups` are those of a fresh key exchange; none: without one.
pub(crate) fn offer(chain: &mut Chain, config: &PeerConfig, spi: u32, groups: &[Group], marked: bool) {
    chain.push(kind::SA, &proposal::write(&Proposal::esp(&config.esp_suites, spi).with_groups(groups)));
    chain.push(kind::TS_I, &selector::write(&config.local_subnets));
    chain.push(kind::TS_R, &selector::write(&config.remote_subnets));
    notices(chain, marked);
}

/// What a message about a child says beside proposal and selectors.
pub(crate) fn notices(chain: &mut Chain, marked: bool) {
    // The engine counts a packet that is longer than it says as malformed.
    chain.notify(notify::ESP_TFC_PADDING_NOT_SUPPORTED, &[]);
    if marked {
        chain.notify(notify::SA_RESOURCE_INFO, &[]);
    }
}

/// Where a responder's child is to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the first child of its IKE SA.
    First,
    /// It is one more.
    Further,
    /// It replaces the one with this inbound SPI.
    After(u32),
}

/// What differs from child to child for a responder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// Groups for a fresh key exchange; IKE_AUTH has none.
    pub(crate) groups: &'a [Group],
    pub(crate) place: Place,
}

/// Responder: chooses, narrows and derives. The child still has to be installed before `answer` may leave.
pub(crate) fn accept(
    cx: &mut Context,
    now: u64,
    config: &PeerConfig,
    payloads: &Payloads<'_>,
    material: Material<'_>,
    terms: Terms<'_>,
    host: &mut dyn Host,
) -> Result<(Child, Chain), Refusal> {
    let syntax = |what: &str| Refusal::new(notify::INVALID_SYNTAX, Fault::Misbehaved(what.to_owned()));
    let (Some(sa), Some(ts_i), Some(ts_r)) = (payloads.sa, payloads.ts_i, payloads.ts_r) else {
        return Err(syntax("a request for a child without proposal or selectors"));
    };
    let offers = proposal::parse(sa).map_err(|malformed| syntax(malformed.0))?;
    let theirs = selector::parse(ts_i).map_err(|malformed| syntax(malformed.0))?;
    let ours = selector::parse(ts_r).map_err(|malformed| syntax(malformed.0))?;
    let chosen = choose(config, payloads, &offers, terms)
        .map_err(|reason| Refusal::new(notify::NO_PROPOSAL_CHOSEN, Fault::Incompatible(format!("no common ESP proposal: {reason}"))))?;
    let (Some(remote_spi), Some(suite)) = (chosen.child_spi(), chosen.suite()) else {
        return Err(syntax("a proposal with a reserved SPI"));
    };
    let selectors =
        Selectors { local: selector::narrow(&config.local_subnets, &ours), remote: selector::narrow(&config.remote_subnets, &theirs) };
    if !selector::usable(&selectors.local, &selectors.remote) {
        let text = format!(
            "no common subnets: ours [{} to {}], theirs [{} to {}]",
            selector::describe_nets(&config.local_subnets),
            selector::describe_nets(&config.remote_subnets),
            selector::describe(&ours),
            selector::describe(&theirs)
        );
        return Err(Refusal::new(notify::TS_UNACCEPTABLE, Fault::Incompatible(text)));
    }
    let mut chain = Chain::default();
    let shared = match chosen.group() {
        Some(group) => answer_exchange(&mut chain, group, payloads, host)?,
        None => Zeroizing::default(),
    };
    let spi = match terms.place {
        Place::First => host.allocate_spi(config.id, None),
        Place::Further => host.allocate_further_spi(config.id),
        Place::After(predecessor) => host.allocate_successor_spi(config.id, predecessor),
    };
    let spi = Some(spi).filter(|spi| *spi > 255);
    let spi = spi.ok_or_else(|| Refusal::new(notify::TEMPORARY_FAILURE, Fault::Local("no SPI to give".to_owned())))?;

    let material = Material { shared: &shared, ..material };
    let (from_peer, to_peer) = child_keys(material, suite, chosen.esn());
    let id = cx.child_id();
    chain.push(kind::SA, &proposal::write(&Proposal { spi: spi.to_be_bytes().to_vec(), ..chosen.clone() }));
    chain.push(kind::TS_I, &selector::write(&selectors.remote));
    chain.push(kind::TS_R, &selector::write(&selectors.local));
    cx.outputs.push_back(Output::InstallInbound { child: id, peer: config.id, spi, keys: from_peer, selectors: selectors.clone() });
    let child = Child {
        initiator: false,
        remote_spi,
        step: Step::Installing,
        deadline: Some(now.saturating_add(cx.config.engine_ms)),
        suite: Some(suite),
        esn: chosen.esn(),
        selectors,
        lowest_nonce: material.nonce_i.min(material.nonce_r).to_vec(),
        outbound: Some(to_peer),
        ..empty(id, config.id, spi, now)
    };
    Ok((child, chain))
}

/// One of the peer's proposals. A fresh key exchange is taken where it is offered, and demanded where that is configured.
fn choose(config: &PeerConfig, payloads: &Payloads<'_>, offers: &[Proposal], terms: Terms<'_>) -> Result<Proposal, String> {
    let plain = [Proposal::esp(&config.esp_suites, 0)];
    if terms.groups.is_empty() {
        return proposal::choose(&plain, offers);
    }
    let sent = payloads.ke.map(|ke| ke.group);
    let mut groups = terms.groups.to_vec();
    // The group that is already computed saves a round trip.
    groups.sort_by_key(|group| Some(group.number()) != sent);
    let fresh = proposal::choose(&plain.clone().map(|plain| plain.with_groups(&groups)), offers);
    if config.upkeep.pfs { fresh } else { fresh.or_else(|_| proposal::choose(&plain, offers)) }
}

/// Responder: our half of a fresh key exchange, and the secret.
fn answer_exchange(chain: &mut Chain, group: Group, payloads: &Payloads<'_>, host: &mut dyn Host) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let ke = payloads.ke.filter(|ke| ke.group == group.number()).ok_or_else(|| Refusal::group(group))?;
    let broken = || Refusal::new(notify::INVALID_SYNTAX, Fault::Misbehaved("its key exchange value is not a valid one".to_owned()));
    let exchange = Exchange::new(group, host).ok_or_else(broken)?;
    let shared = exchange.agree(ke.public).ok_or_else(broken)?;
    chain.ke(group.number(), &exchange.public);
    Ok(shared)
}

/// Initiator: the peer agreed to the child; its inbound SA goes to the engine.
pub(crate) fn complete(
    cx: &mut Context,
    now: u64,
    child: &mut Child,
    config: &PeerConfig,
    payloads: &Payloads<'_>,
    material: Material<'_>,
) -> Result<(), Fault> {
    let misbehaved = |what: &str| Fault::Misbehaved(what.to_owned());
    let (Some(sa), Some(ts_i), Some(ts_r)) = (payloads.sa, payloads.ts_i, payloads.ts_r) else {
        return Err(misbehaved("an answer about a child without proposal or selectors"));
    };
    let chosen = proposal::parse(sa).map_err(|malformed| misbehaved(malformed.0))?;
    let [chosen] = chosen.as_slice() else { return Err(misbehaved("it chose more than one proposal")) };
    let (Some(remote_spi), Some(suite)) = (chosen.child_spi(), chosen.suite()) else {
        return Err(misbehaved("it chose a proposal without a usable SPI or cipher"));
    };
    let groups: &[Group] = if child.exchange.is_some() { &cx.config.groups } else { &[] };
    if !Proposal::esp(&config.esp_suites, 0).with_groups(groups).allows(chosen) {
        return Err(Fault::Misbehaved(format!("it chose what was not offered: {}", proposal::describe(std::slice::from_ref(chosen)))));
    }
    let local = selector::parse(ts_i).map_err(|malformed| misbehaved(malformed.0))?;
    let remote = selector::parse(ts_r).map_err(|malformed| misbehaved(malformed.0))?;
    let inside = (selector::accept(&config.local_subnets, &local), selector::accept(&config.remote_subnets, &remote));
    let (Some(local), Some(remote)) = inside else {
        let (local, remote) = (selector::describe(&local), selector::describe(&remote));
        return Err(Fault::Misbehaved(format!("its selectors are not within our offer: {local} to {remote}")));
    };
    if !selector::usable(&local, &remote) {
        return Err(Fault::Incompatible("its selectors leave no family common to both sides".to_owned()));
    }
    let shared = match &child.exchange {
        Some(exchange) => {
            let ke = payloads.ke.filter(|ke| chosen.group() == Some(exchange.group) && ke.group == exchange.group.number());
            ke.and_then(|ke| exchange.agree(ke.public)).ok_or_else(|| misbehaved("its key exchange value is not a valid one"))?
        }
        None => Zeroizing::default(),
    };
    let material = Material { shared: &shared, ..material };
    let (to_peer, from_peer) = child_keys(material, suite, chosen.esn());
    child.exchange = None;
    child.lowest_nonce = material.nonce_i.min(material.nonce_r).to_vec();
    child.remote_spi = remote_spi;
    child.suite = Some(suite);
    child.esn = chosen.esn();
    child.selectors = Selectors { local, remote };
    child.outbound = Some(to_peer);
    child.step = Step::Installing;
    child.deadline = Some(now.saturating_add(cx.config.engine_ms));
    let selectors = child.selectors.clone();
    cx.outputs.push_back(Output::InstallInbound { child: child.id, peer: child.peer, spi: child.spi, keys: from_peer, selectors });
    Ok(())
}
