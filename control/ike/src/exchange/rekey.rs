//! Two rekeys of one child, and a rekey that meets a DELETE (RFC 7296 sections 2.8.1 and 2.25.1).
//!
//! A successor names its predecessor from the request to its end, on both sides, and a responder notes whether the initiator may
//! have missed its answer. That is all the state there is:
//!
//! | the peer's request to rekey finds our child | answer |
//! |---|---|
//! | unknown | CHILD_SA_NOT_FOUND |
//! | unknown, while our own request for a child is not answered | TEMPORARY_FAILURE |
//! | being deleted, or our own successor agreed to, or another one of the peer's | TEMPORARY_FAILURE; behind our DELETE, if it is soon to come |
//! | any, while all our children get successors in another engine | TEMPORARY_FAILURE |
//! | with a successor of ours that is asked for and not answered | yes; the lowest of the four nonces decides when our answer comes |
//! | with one that was not asked for yet | yes; ours is dropped |
//!
//! We ask nothing about a child of the peer's making before its next request has shown that our answer has come: it would not find
//! the child, as its own request is not answered for it, and make it later all the same. Nor is the IKE SA rekeyed under a rekey of
//! the peer's that may still be under way.

use crate::child::{Child, Step};
use crate::context::Context;
use crate::exchange::Came;
use crate::message::{Chain, notify};
use crate::output::ChildId;
use crate::retransmit::Purpose;
use crate::sa::{IkeSa, Refused};

/// For how long a peer that has asked for a child, and for nothing since, may still be about to repeat its request. strongSwan repeats
/// one after 4, 11 and 24 seconds.
pub(crate) const UNHEARD_MS: u64 = 30_000;

/// What a responder needs to know of the child that is to be replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Predecessor {
    pub(crate) id: ChildId,
    pub(crate) spi: u32,
    pub(crate) core: Option<u16>,
    pub(crate) fallback: bool,
}

/// Whether two successors of one child met, and which one stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collision {
    None,
    Won,
    Lost,
}

/// Initiator: the child to be replaced, if nothing but `successor` is about to replace it.
pub(crate) fn open(sa: &IkeSa, old: ChildId, successor: ChildId) -> Option<&Child> {
    let overtaken = sa.children.values().any(|child| child.replaces == Some(old) && child.id != successor);
    sa.children.get(&old).filter(|old| old.up() && !old.redundant && !overtaken)
}

/// Responder: the child whose outbound SPI the peer names, or the refusal.
pub(crate) fn predecessor(cx: &Context, sa: &IkeSa, spi: &[u8]) -> Result<Predecessor, Chain> {
    let named = |child: &&Child| child.remote_spi > 0 && child.remote_spi.to_be_bytes() == spi;
    let mut refusal = Chain::default();
    let Some(old) = sa.children.values().find(named) else {
        let spi = spi.try_into().map(u32::from_be_bytes).unwrap_or_default();
        // We do not know the SPIs of what the peer has agreed to and we have not heard of yet.
        let unheard = sa.requests.outstanding.as_ref().is_some_and(|request| matches!(request.purpose, Purpose::CreateChild(..)));
        if unheard || sa.deletes(spi) {
            refusal.notify(notify::TEMPORARY_FAILURE, &[]);
            return Err(refusal);
        }
        refusal.notify_child(notify::CHILD_SA_NOT_FOUND, spi);
        return Err(refusal);
    };
    let agreed = |child: &Child| !child.initiator || !matches!(child.step, Step::Expecting | Step::Requested);
    let overtaken = sa.children.values().any(|child| child.replaces == Some(old.id) && agreed(child));
    if overtaken || cx.held.is_some() || !matches!(old.step, Step::Activating | Step::Up) {
        refusal.notify(notify::TEMPORARY_FAILURE, &[]);
        return Err(refusal);
    }
    Ok(Predecessor { id: old.id, spi: old.spi, core: old.core, fallback: old.fallback })
}

/// Responder: answers that a child is not rekeyed. If our own successor has replaced it, the answer follows our DELETE: strongSwan 5.9.8
/// takes TEMPORARY_FAILURE to mean that the child goes on, and then sends nothing by the successor that it agreed to.
pub(crate) fn refuse(cx: &mut Context, sa: &mut IkeSa, came: &Came, spi: &[u8], refusal: Chain) {
    let old = sa.children.values().find(|child| child.remote_spi.to_be_bytes() == spi).map(|child| child.id);
    match old.filter(|old| deletes_soon(cx, sa, *old)) {
        Some(old) => sa.replies.refused = Some(Refused { old, came: *came, refusal }),
        None => sa.reply(cx, came, &refusal),
    }
}

/// Sends the refusal that waited for our DELETE, once that has left or will not come.
pub(crate) fn refuse_now(cx: &mut Context, sa: &mut IkeSa) {
    let waits = sa.replies.refused.as_ref().is_some_and(|refused| deletes_soon(cx, sa, refused.old));
    if let Some(Refused { came, refusal, .. }) = sa.replies.refused.take_if(|_| !waits) {
        sa.reply(cx, &came, &refusal);
    }
}

/// Whether the peer has agreed to our successor of a child, and our DELETE of the child has not left.
fn deletes_soon(cx: &Context, sa: &IkeSa, old: ChildId) -> bool {
    let Some(old) = sa.children.get(&old) else { return false };
    let ours = |child: &Child| child.initiator && !matches!(child.step, Step::Expecting | Step::Requested);
    let replaced = sa.children.values().any(|child| child.replaces == Some(old.id) && ours(child));
    let sent = sa.requests.outstanding.as_ref().is_some_and(|request| match &request.purpose {
        Purpose::DeleteChild(doomed) => doomed.iter().any(|doomed| doomed.ours == old.spi),
        _ => false,
    });
    // While all children get successors in another engine no DELETE leaves for long.
    replaced && !sent && cx.held.is_none()
}

/// Responder: the peer's successor is accepted. One of ours that was not asked for yet is dropped; one that was has a rival.
pub(crate) fn give_way(cx: &mut Context, sa: &mut IkeSa, theirs: &Child, old: ChildId) {
    let Some(ours) = sa.children.values_mut().find(|child| child.replaces == Some(old)) else { return };
    if ours.step == Step::Requested {
        // It counts even if it is gone when our answer comes: the peer may have rekeyed it again by then.
        ours.rival = Some((theirs.id, theirs.lowest_nonce.clone()));
        return;
    }
    let id = ours.id;
    sa.children.remove(&id).iter().for_each(|child| child.retire(cx));
}

/// The peer's successor could not be made here, and it is told so.
pub(crate) fn without_rival(sa: &mut IkeSa, theirs: ChildId) {
    sa.children.values_mut().filter(|child| child.rival.as_ref().is_some_and(|(id, _)| *id == theirs)).for_each(|child| child.rival = None);
}

/// Initiator: the peer has agreed to our successor; whether its own one stays instead. The nonces are compared octet by
/// octet (section 2.8.1).
pub(crate) fn collision(sa: &mut IkeSa, id: ChildId, nonce_r: &[u8]) -> Collision {
    let Some(child) = sa.children.get(&id) else { return Collision::None };
    let Some((theirs, their_lowest)) = &child.rival else { return Collision::None };
    if child.nonce.as_slice().min(nonce_r) < their_lowest.as_slice() {
        return Collision::Lost;
    }
    let theirs = *theirs;
    if let Some(theirs) = sa.children.get_mut(&theirs) {
        (theirs.redundant, theirs.rekey_at) = (true, None);
    }
    Collision::Won
}

/// Why a child that was asked for is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The moment was bad.
    Moment,
    /// It was refused, or failed: the next time may be no better.
    Refused,
}

/// How often a rekey of one SA came to nothing, by why; its successor begins at none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setbacks {
    pub(crate) moments: u32,
    pub(crate) refusals: u32,
}

/// Initiator: gives up a child that was asked for. What it was to replace is asked for again after a pause.
pub(crate) fn abandon(cx: &mut Context, now: u64, sa: &mut IkeSa, id: ChildId, why: Why) {
    let Some(child) = sa.children.remove(&id) else { return };
    child.retire(cx);
    if let Some(old) = child.replaces.and_then(|old| sa.children.get_mut(&old)) {
        old.rekey_at = Some(cx.rekey_again(now, &mut old.setbacks, why));
    }
}
