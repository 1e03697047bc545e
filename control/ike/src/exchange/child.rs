//! Children: the second half of IKE_AUTH and the whole of CREATE_CHILD_SA (RFC 7296 sections 1.3, 2.9, 2.17; RFC 9611).

use crate::child::{Child, Step};
use crate::config::{PeerConfig, PeerId};
use crate::context::Context;
use crate::crypto::{Secret, child_keys};
use crate::error::Fault;
use crate::exchange::Came;
use crate::message::{Chain, Payloads, exchange, kind, notify};
use crate::output::{ChildId, Host, Level, Output, Selectors};
use crate::proposal::{self, Proposal};
use crate::retransmit::Purpose;
use crate::sa::{Held, IkeSa, Stage, Task};
use crate::selector;

/// The most children of one IKE SA: one for each of a peer's 256 cores, and the fallback.
pub(crate) const CHILDREN_MAX: usize = 257;
/// Octets of our nonces: the PRF's key size (RFC 7296 section 2.10 asks for half of it).
pub(crate) const NONCE_BYTES: usize = 32;

/// Why a child cannot be, as the peer and as people are told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) notify: u16,
    pub(crate) fault: Fault,
}

impl Refusal {
    fn new(notify: u16, fault: Fault) -> Self {
        Self { notify, fault }
    }
}

/// A random nonce.
pub(crate) fn nonce(host: &mut dyn Host) -> Vec<u8> {
    let mut nonce = vec![0; NONCE_BYTES];
    host.random(&mut nonce);
    nonce
}

/// First phase, initiator: chooses an SPI and has the engine expect it. `None` if the host has no SPI to give.
pub(crate) fn prepare(cx: &mut Context, now: u64, peer: PeerId, core: Option<u16>, host: &mut dyn Host) -> Option<Child> {
    let spi = Some(host.allocate_spi(peer, core)).filter(|spi| *spi > 255)?;
    let id = cx.child_id();
    cx.outputs.push_back(Output::Expect { child: id, peer, spi });
    Some(Child {
        id,
        peer,
        initiator: true,
        spi,
        remote_spi: 0,
        core,
        step: Step::Expecting,
        deadline: Some(now.saturating_add(cx.config.engine_ms)),
        suite: None,
        esn: false,
        selectors: Selectors::default(),
        fallback: core.is_none(),
        nonce: nonce(host),
        outbound: None,
        started: now,
    })
}

/// What a request for this child says about it.
pub(crate) fn offer(chain: &mut Chain, config: &PeerConfig, spi: u32, marked: bool) {
    chain.push(kind::SA, &proposal::write(&Proposal::esp(&config.esp_suites, spi)));
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

/// Initiator: the engine expects the SPI; the request goes out.
pub(crate) fn request(cx: &mut Context, now: u64, sa: &mut IkeSa, id: ChildId) {
    let Some(child) = sa.children.get_mut(&id) else { return };
    let Some(config) = cx.peer(child.peer) else { return };
    (child.step, child.deadline) = (Step::Requested, None);
    let spi = child.spi;
    let mut chain = Chain::default();
    chain.nonce(&child.nonce);
    offer(&mut chain, &config, child.spi, sa.per_core && !child.fallback);
    sa.send_request(cx, now, exchange::CREATE_CHILD, &chain, Purpose::CreateChild(id, spi));
}

/// The two nonces of the exchange that makes a child, initiator's first, and SK_d.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Material<'a> {
    pub(crate) derive: &'a Secret,
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
}

/// Responder: chooses, narrows and derives. The child still has to be installed before `answer` may leave.
pub(crate) fn accept(
    cx: &mut Context,
    now: u64,
    config: &PeerConfig,
    payloads: &Payloads<'_>,
    material: Material<'_>,
    further: bool,
    host: &mut dyn Host,
) -> Result<(Child, Chain), Refusal> {
    let syntax = |what: &str| Refusal::new(notify::INVALID_SYNTAX, Fault::Misbehaved(what.to_owned()));
    let (Some(sa), Some(ts_i), Some(ts_r)) = (payloads.sa, payloads.ts_i, payloads.ts_r) else {
        return Err(syntax("a request for a child without proposal or selectors"));
    };
    let offers = proposal::parse(sa).map_err(|malformed| syntax(malformed.0))?;
    let theirs = selector::parse(ts_i).map_err(|malformed| syntax(malformed.0))?;
    let ours = selector::parse(ts_r).map_err(|malformed| syntax(malformed.0))?;
    let chosen = proposal::choose(&Proposal::esp(&config.esp_suites, 0), &offers)
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
    let spi = if further { host.allocate_further_spi(config.id) } else { host.allocate_spi(config.id, None) };
    let spi = Some(spi).filter(|spi| *spi > 255);
    let spi = spi.ok_or_else(|| Refusal::new(notify::TEMPORARY_FAILURE, Fault::Local("no SPI to give".to_owned())))?;

    let (from_peer, to_peer) = child_keys(material.derive, suite, chosen.esn(), material.nonce_i, material.nonce_r);
    let id = cx.child_id();
    let mut chain = Chain::default();
    chain.push(kind::SA, &proposal::write(&Proposal { spi: spi.to_be_bytes().to_vec(), ..chosen.clone() }));
    chain.push(kind::TS_I, &selector::write(&selectors.remote));
    chain.push(kind::TS_R, &selector::write(&selectors.local));
    cx.outputs.push_back(Output::InstallInbound { child: id, peer: config.id, spi, keys: from_peer, selectors: selectors.clone() });
    let child = Child {
        id,
        peer: config.id,
        initiator: false,
        spi,
        remote_spi,
        core: None,
        step: Step::Installing,
        deadline: Some(now.saturating_add(cx.config.engine_ms)),
        suite: Some(suite),
        esn: chosen.esn(),
        selectors,
        fallback: true,
        nonce: Vec::new(),
        outbound: Some(to_peer),
        started: now,
    };
    Ok((child, chain))
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
    if !Proposal::esp(&config.esp_suites, 0).allows(chosen) {
        return Err(Fault::Misbehaved(format!("it chose what was not offered: {}", proposal::describe(chosen))));
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
    let (to_peer, from_peer) = child_keys(material.derive, suite, chosen.esn(), material.nonce_i, material.nonce_r);
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

/// Responder: a CREATE_CHILD_SA request.
pub(crate) fn on_request(cx: &mut Context, now: u64, sa: &mut IkeSa, came: &Came, payloads: &Payloads<'_>, host: &mut dyn Host) {
    let refuse = |cx: &mut Context, sa: &mut IkeSa, kind: u16| {
        sa.reply(cx, came, Chain::default().notify(kind, &[]));
    };
    let Some(config) = sa.peer.and_then(|peer| cx.peer(peer)) else { return refuse(cx, sa, notify::TEMPORARY_FAILURE) };
    if !matches!(sa.stage, Stage::Established) {
        return refuse(cx, sa, notify::TEMPORARY_FAILURE);
    }
    // RFC 7296 section 1.3: a rekey of the IKE SA has no selectors, a rekey of a child says which one it replaces.
    // Neither is offered yet, and this is the answer for "no more SAs here": the peer starts over when its key is used up.
    if payloads.notify(notify::REKEY_SA).is_some() || (payloads.sa.is_some() && payloads.ts_i.is_none()) {
        cx.event(config.id, Level::Info, format!("{} asked for a rekey, which this version does not do", config.name));
        return refuse(cx, sa, notify::NO_ADDITIONAL_SAS);
    }
    let marked = payloads.notify(notify::SA_RESOURCE_INFO).is_some();
    if sa.children.len() >= CHILDREN_MAX || (marked && !sa.per_core) {
        return refuse(cx, sa, if marked { notify::TS_MAX_QUEUE } else { notify::NO_ADDITIONAL_SAS });
    }
    let (Some(nonce_i), Some(keys)) = (payloads.nonce, sa.keys.as_ref()) else { return refuse(cx, sa, notify::INVALID_SYNTAX) };
    let nonce_r = nonce(host);
    let material = Material { derive: &keys.derive, nonce_i, nonce_r: &nonce_r };
    match accept(cx, now, &config, payloads, material, marked, host) {
        Err(refusal) => {
            cx.fault(config.id, &refusal.fault);
            refuse(cx, sa, refusal.notify);
        }
        Ok((mut child, mut success)) => {
            child.fallback = !marked;
            success.nonce(&nonce_r);
            notices(&mut success, marked);
            let mut failure = Chain::default();
            failure.notify(notify::TEMPORARY_FAILURE, &[]);
            sa.replies.held = Some(Held { child: child.id, came: *came, success, failure });
            sa.children.insert(child.id, child);
        }
    }
}

/// Initiator: the answer to CREATE_CHILD_SA. A child that we cannot use is deleted by our inbound SPI (section 1.4.1).
pub(crate) fn on_response(cx: &mut Context, now: u64, sa: &mut IkeSa, (id, spi): (ChildId, u32), payloads: &Payloads<'_>) {
    let Some(child) = sa.children.get_mut(&id) else {
        // It was given up meanwhile, and the peer may have made it.
        return if payloads.error().is_none() {
            sa.requests.waiting.push_back(Task::DeleteChild(vec![spi]))
        };
    };
    let (peer, keys) = (child.peer, sa.keys.as_ref());
    let (Some(config), Some(keys)) = (cx.peer(peer), keys) else { return };
    let result = match (payloads.error(), payloads.nonce) {
        (Some(error), _) => {
            // RFC 9611: no more for these selectors. NO_ADDITIONAL_SAS: no more at all.
            sa.full |= matches!(error.kind, notify::TS_MAX_QUEUE | notify::NO_ADDITIONAL_SAS);
            Err(Fault::PeerRefused(format!("{} for a further child", notify::name(error.kind))))
        }
        (None, None) => Err(Fault::Misbehaved("an answer about a child without a nonce".to_owned())),
        (None, Some(nonce_r)) => {
            let nonce_i = child.nonce.clone();
            complete(cx, now, child, &config, payloads, Material { derive: &keys.derive, nonce_i: &nonce_i, nonce_r })
        }
    };
    let Err(fault) = result else { return };
    if let Some(child) = sa.children.remove(&id) {
        child.retire(cx);
    }
    if payloads.error().is_none() {
        sa.requests.waiting.push_back(Task::DeleteChild(vec![spi]));
    }
    cx.fault(peer, &fault);
}
