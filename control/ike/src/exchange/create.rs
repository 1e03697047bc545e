//! CREATE_CHILD_SA for a child: one more, or the successor of one (RFC 7296 sections 1.3.1 and 1.3.3; RFC 9611).
//!
//! What two rekeys of one child do to each other stands in [`super::rekey`].

use crate::child::{Child, Step};
use crate::context::Context;
use crate::crypto::{Exchange, Material};
use crate::error::Fault;
use crate::exchange::Came;
use crate::exchange::child::{self, CHILDREN_MAX, Place, Refusal, Terms, accept, complete, nonce, notices, offer, prepare};
use crate::exchange::rekey::{self, Collision, Why};
use crate::message::{Chain, Payloads, exchange, notify};
use crate::output::{ChildId, Host, Level};
use crate::proposal;
use crate::retransmit::Purpose;
use crate::sa::{Doomed, Held, IkeSa, Stage, Task};

/// What the answer asks for beyond this IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// The peer rekeys no child: only a fresh IKE SA brings new keys (section 1.3).
    Reestablish,
}

/// Initiator: the engine expects the SPI; the request goes out.
pub(crate) fn request(cx: &mut Context, now: u64, sa: &mut IkeSa, id: ChildId) {
    let Some(child) = sa.children.get(&id) else { return };
    let Some(config) = cx.peer(child.peer) else { return };
    let mut chain = Chain::default();
    if let Some(old) = child.replaces {
        // While it waited its predecessor may have gone, or the peer may have been faster.
        match rekey::open(sa, old, id) {
            Some(old) => chain.notify_child(notify::REKEY_SA, old.spi),
            None => return rekey::abandon(cx, now, sa, id, Why::Moment),
        };
    }
    let Some(child) = sa.children.get_mut(&id) else { return };
    (child.step, child.deadline) = (Step::Requested, None);
    let spi = child.spi;
    let groups = if child.exchange.is_some() { cx.config.groups.as_slice() } else { &[] };
    chain.nonce(&child.nonce);
    if let Some(exchange) = &child.exchange {
        chain.ke(exchange.group.number(), &exchange.public);
    }
    offer(&mut chain, &config, spi, groups, sa.per_core && !child.fallback);
    sa.send_request(cx, now, exchange::CREATE_CHILD, &chain, Purpose::CreateChild(id, spi));
}

/// Responder: a CREATE_CHILD_SA request for a child.
pub(crate) fn on_request(cx: &mut Context, now: u64, sa: &mut IkeSa, came: &Came, payloads: &Payloads<'_>, host: &mut dyn Host) {
    let refuse = |cx: &mut Context, sa: &mut IkeSa, kind: u16, data: &[u8]| {
        sa.reply(cx, came, Chain::default().notify(kind, data));
    };
    let Some(config) = sa.peer.and_then(|peer| cx.peer(peer)) else { return refuse(cx, sa, notify::TEMPORARY_FAILURE, &[]) };
    // Section 2.25.2: not while the IKE SA is being closed or rekeyed.
    if !matches!(sa.stage, Stage::Established) || sa.renewal.is_some() {
        return refuse(cx, sa, notify::TEMPORARY_FAILURE, &[]);
    }
    let marked = payloads.notify(notify::SA_RESOURCE_INFO).is_some();
    let predecessor = match payloads.notify(notify::REKEY_SA).map(|rekey| (rekey.spi, rekey::predecessor(cx, sa, rekey.spi))) {
        None => None,
        Some((_, Ok(predecessor))) => Some(predecessor),
        Some((spi, Err(refusal))) => return rekey::refuse(cx, sa, came, spi, refusal),
    };
    if predecessor.is_none() && (sa.children.len() >= CHILDREN_MAX || (marked && !sa.per_core)) {
        return refuse(cx, sa, if marked { notify::TS_MAX_QUEUE } else { notify::NO_ADDITIONAL_SAS }, &[]);
    }
    let (Some(nonce_i), Some(keys)) = (payloads.nonce, sa.keys.as_ref()) else { return refuse(cx, sa, notify::INVALID_SYNTAX, &[]) };
    let nonce_r = nonce(host);
    let material = Material { derive: &keys.derive, shared: &[], nonce_i, nonce_r: &nonce_r };
    let place = match predecessor {
        Some(old) => Place::After(old.spi),
        None if marked => Place::Further,
        None => Place::First,
    };
    let groups = cx.config.groups.clone();
    match accept(cx, now, &config, payloads, material, Terms { groups: &groups, place }, host) {
        Err(Refusal { notify, data, fault }) => {
            fault.into_iter().for_each(|fault| _ = cx.fault(config.id, &fault));
            refuse(cx, sa, notify, &data);
        }
        Ok((mut child, mut success)) => {
            child.fallback = !marked;
            if let Some(old) = predecessor {
                (child.replaces, child.core, child.fallback) = (Some(old.id), old.core, old.fallback);
                child.unheard_until = Some(now.saturating_add(rekey::UNHEARD_MS));
                rekey::give_way(cx, sa, &child, old.id);
            }
            success.nonce(&nonce_r);
            notices(&mut success, marked);
            let mut failure = Chain::default();
            failure.notify(notify::TEMPORARY_FAILURE, &[]);
            sa.replies.held = Some(Held { child: child.id, came: *came, success, failure });
            sa.children.insert(child.id, child);
        }
    }
}

/// Initiator: the answer. A child that we cannot use is deleted by our inbound SPI (section 1.4.1).
pub(crate) fn on_response(
    cx: &mut Context,
    now: u64,
    sa: &mut IkeSa,
    (id, spi): (ChildId, u32),
    payloads: &Payloads<'_>,
    host: &mut dyn Host,
) -> Then {
    let Some(child) = sa.children.get(&id) else {
        // It was given up meanwhile, and the peer may have made it.
        if payloads.error().is_none() {
            sa.requests.waiting.push_back(Task::DeleteChild(vec![doomed(spi, payloads)]));
        }
        return Then::Nothing;
    };
    let peer = child.peer;
    if let Some(error) = payloads.error() {
        return refused(cx, now, sa, id, (error.kind, error.data), host);
    }
    let Err(fault) = agreed(cx, now, sa, id, payloads) else { return Then::Nothing };
    rekey::abandon(cx, now, sa, id, Why::Refused);
    sa.requests.waiting.push_back(Task::DeleteChild(vec![doomed(spi, payloads)]));
    match fault {
        Some(fault) => _ = cx.fault(peer, &fault),
        None => cx.event(peer, Level::Info, format!("both sides rekeyed one child; {}'s successor stays", cx.name(peer))),
    }
    Then::Nothing
}

/// What the peer has made and we do not take.
fn doomed(ours: u32, payloads: &Payloads<'_>) -> Doomed {
    let chosen = payloads.sa.and_then(|sa| proposal::parse(sa).ok()).unwrap_or_default();
    Doomed { ours, theirs: chosen.first().and_then(proposal::Proposal::child_spi).unwrap_or_default() }
}

/// The peer says yes. An error without a fault: its own successor of the same child stays.
fn agreed(cx: &mut Context, now: u64, sa: &mut IkeSa, id: ChildId, payloads: &Payloads<'_>) -> Result<(), Option<Fault>> {
    let missing = || Some(Fault::Misbehaved("an answer about a child without a nonce".to_owned()));
    let nonce_r = payloads.nonce.ok_or_else(missing)?;
    if rekey::collision(sa, id, nonce_r) == Collision::Lost {
        return Err(None);
    }
    let (Some(child), Some(keys)) = (sa.children.get_mut(&id), sa.keys.as_ref()) else { return Ok(()) };
    let Some(config) = cx.peer(child.peer) else { return Ok(()) };
    let nonce_i = std::mem::take(&mut child.nonce);
    let material = Material { derive: &keys.derive, shared: &[], nonce_i: &nonce_i, nonce_r };
    complete(cx, now, child, &config, payloads, material).map_err(Some)
}

/// The peer says no.
fn refused(cx: &mut Context, now: u64, sa: &mut IkeSa, id: ChildId, (error, data): (u16, &[u8]), host: &mut dyn Host) -> Then {
    let Some(child) = sa.children.get_mut(&id) else { return Then::Nothing };
    let (peer, old) = (child.peer, child.replaces);
    let other = <[u8; 2]>::try_from(data).ok().and_then(|number| cx.config.group(u16::from_be_bytes(number)));
    if let (notify::INVALID_KE_PAYLOAD, Some(group), Some(tried)) = (error, other, child.exchange.as_ref().map(|tried| tried.group))
        && group != tried
        && cx.config.groups.first() == Some(&tried)
    {
        // Section 1.3: once more, with the group that the peer wants.
        (child.exchange, child.step) = (Exchange::new(group, host), Step::Expecting);
        sa.requests.waiting.push_front(Task::CreateChild(id));
        return Then::Nothing;
    }
    let groups = if child.exchange.is_some() { cx.config.groups.clone() } else { Vec::new() };
    let why = if error == notify::TEMPORARY_FAILURE { Why::Moment } else { Why::Refused };
    rekey::abandon(cx, now, sa, id, why);
    let what = if old.is_some() { "a rekey" } else { "a further child" };
    let text = cx.peer(peer).map(|config| child::refused(&config, error, what, &groups)).unwrap_or_default();
    match (error, old) {
        // Section 2.25: a bad moment is nobody's fault.
        (notify::TEMPORARY_FAILURE, Some(_)) => {}
        (notify::CHILD_SA_NOT_FOUND, Some(old)) => anew(cx, now, sa, old, host),
        (notify::NO_ADDITIONAL_SAS, Some(_)) => {
            cx.event(peer, Level::Info, format!("{} rekeys no child: a fresh IKE SA replaces this one", cx.name(peer)));
            return Then::Reestablish;
        }
        (_, Some(_)) => _ = cx.fault(peer, &Fault::PeerRefused(text)),
        (_, None) => {
            // RFC 9611: no more for these selectors. NO_ADDITIONAL_SAS: no more at all.
            sa.full |= matches!(error, notify::TS_MAX_QUEUE | notify::NO_ADDITIONAL_SAS);
            cx.fault(peer, &Fault::PeerRefused(text));
        }
    }
    Then::Nothing
}

/// CHILD_SA_NOT_FOUND (section 2.25): the peer has lost the child, so it goes without a word, and another one is made in its
/// place unless one stands there already: the peer's successor of it, what it was to replace, or what is left of two rekeys at once.
fn anew(cx: &mut Context, now: u64, sa: &mut IkeSa, old: ChildId, host: &mut dyn Host) {
    let Some(old) = sa.children.remove(&old) else { return };
    old.retire(cx);
    if sa.children.values().any(|child| child.replaces == Some(old.id) || child.serves_for(&old)) {
        return;
    }
    cx.event(old.peer, Level::Info, format!("{} no longer has child {:08x}: another one is made", cx.name(old.peer), old.spi));
    if let Some(child) = after(cx, now, &old, host) {
        sa.children.insert(child.id, Child { replaces: None, ..child });
    }
}

/// A child to be asked for that stands where `old` stands.
pub(crate) fn after(cx: &mut Context, now: u64, old: &Child, host: &mut dyn Host) -> Option<Child> {
    let spi = host.allocate_successor_spi(old.peer, old.spi);
    let child = prepare(cx, now, old.peer, spi, nonce(host))?;
    let exchange = fresh(cx, old.peer, host);
    Some(Child { core: old.core, fallback: old.fallback, replaces: Some(old.id), exchange, ..child })
}

/// Our half of a fresh key exchange, if one is configured.
pub(crate) fn fresh(cx: &Context, peer: crate::PeerId, host: &mut dyn Host) -> Option<Exchange> {
    let group = *cx.config.groups.first()?;
    cx.peer(peer).filter(|config| config.upkeep.pfs).and_then(|_| Exchange::new(group, host))
}
