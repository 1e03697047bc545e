//! INFORMATIONAL: liveness and DELETE of children (RFC 7296 sections 1.4, 2.4, 2.25).

use crate::child::Step;
use crate::context::Context;
use crate::error::Fault;
use crate::exchange::{Came, End, nat};
use crate::message::{Chain, Payloads, notify};
use crate::proposal::protocol;
use crate::sa::IkeSa;

/// The peer's request, if it is no DELETE of the IKE SA ([`crate::parting`]). An empty one asks whether we live: the empty answer is the yes.
pub(crate) fn on_request(cx: &mut Context, sa: &mut IkeSa, came: &Came, payloads: &Payloads<'_>) -> Result<(), End> {
    let mut chain = Chain::default();
    let ours = delete_children(cx, sa, payloads);
    if !ours.is_empty() {
        chain.delete(protocol::ESP, &ours);
    }
    // Who confirms a move is told how it looks from here.
    if nat::said(payloads, came) != nat::Said::default() {
        nat::tell(&mut chain, sa, came.to, came.from);
    }
    sa.reply(cx, came, &chain);
    // Section 2.21.2: an initiator that does not believe us says so in an exchange of its own.
    match payloads.notify(notify::AUTHENTICATION_FAILED) {
        Some(_) => Err(End::Drop(Fault::PeerRefused("AUTHENTICATION_FAILED".to_owned()))),
        None => Ok(()),
    }
}

/// Removes the children whose outbound SPIs the peer names; returns our inbound SPIs of the same pairs, but for those that
/// we are deleting ourselves (section 2.25.1).
fn delete_children(cx: &mut Context, sa: &mut IkeSa, payloads: &Payloads<'_>) -> Vec<u32> {
    let deletes = payloads.deletes.iter().filter(|delete| delete.protocol == protocol::ESP);
    let mut ours = Vec::new();
    for spi in deletes.flat_map(|delete| &delete.spis) {
        let found = sa.children.values().find(|child| child.remote_spi > 0 && child.remote_spi == *spi).map(|child| child.id);
        if let Some(child) = found.and_then(|id| sa.children.remove(&id)) {
            child.retire(cx);
            if child.step != Step::Deleting {
                ours.push(child.spi);
            }
        }
    }
    ours
}
