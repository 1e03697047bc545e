//! When the IKE SA itself gets new keys, and which of two new ones takes over (RFC 7296 sections 2.8.2, 2.18 and 2.25.2).
//!
//! ```text
//!  initiator   Established ──answer──► children move to the heir ──► Leaving (DELETE)
//!  responder   Established ──answers──► children move to the heir ──► Replaced ──DELETE──► gone
//! ```
//! If both ask at once, the children stay where they are until our own answer comes; then the lowest of the four nonces tells
//! which heir goes. It is deleted by whoever asked for it, the old IKE SA by the other one.

use crate::Ike;
use crate::error::Fault;
use crate::exchange::Came;
use crate::exchange::rekey::Why;
use crate::exchange::renew::{self, Failed, Heir};
use crate::message::{Payloads, notify};
use crate::output::{Host, Level};
use crate::sa::{IkeSa, Stage, Task};

/// How soon to look again whether nothing is under way that a rekey of the IKE SA would disturb.
const QUIET_MS: u64 = 50;

/// Asks for a rekey of the IKE SA, whether it is time or an order.
pub(crate) fn plan(sa: &mut IkeSa, at: u64) {
    sa.rekey_at = Some(at);
}

impl Ike {
    /// Begins a rekey of the IKE SA whose time has come, once no other request of ours is under way.
    pub(crate) fn renew_due(&mut self, now: u64, spi: u64, host: &mut dyn Host) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if sa.rekey_at.take_if(|at| *at <= now).is_none() || !sa.live() || sa.heir.is_some() || sa.renewal.is_some() {
            return;
        }
        // From now on nothing new begins, so that what is under way comes to its end.
        sa.renewing = true;
        let pending = sa.children.values().any(|child| child.unheard(now));
        let quiet = sa.requests.outstanding.is_none() && sa.requests.waiting.is_empty() && sa.replies.held.is_none() && !pending;
        let group = self.cx.config.groups.first().copied();
        if !quiet || (!sa.confirmed && sa.initiator) {
            return plan(sa, now.saturating_add(QUIET_MS));
        }
        let fresh = self.fresh_spi(host);
        let (Some(sa), Some(group)) = (self.sas.get_mut(&spi), group) else { return };
        renew::request(&mut self.cx, now, sa, fresh, group, host);
    }

    /// The peer asks for a rekey of the IKE SA.
    pub(crate) fn renewal_asked(&mut self, now: u64, spi: u64, came: &Came, payloads: &Payloads<'_>, host: &mut dyn Host) {
        let fresh = self.fresh_spi(host);
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let Some(Heir { sa: heir, lowest_nonce }) = renew::on_request(&mut self.cx, now, sa, fresh, came, payloads, host) else { return };
        let ours_asked = sa.renewal.is_some();
        sa.heir = Some((fresh, lowest_nonce));
        self.sas.insert(fresh, heir);
        if !ours_asked {
            self.inherit(now, spi);
        }
    }

    /// The answer to our own.
    pub(crate) fn renewal_answered(&mut self, now: u64, spi: u64, payloads: &Payloads<'_>, host: &mut dyn Host) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let Some(renewal) = sa.renewal.take() else { return };
        match renew::on_response(&mut self.cx, now, sa, &renewal, payloads, host) {
            Err(Failed::Again) => {}
            Err(Failed::Refused(kind)) => self.renewal_refused(now, spi, kind),
            Err(Failed::Fault(fault)) => self.not_renewed(now, spi, Some(&fault), Why::Refused),
            Ok(ours) => {
                let fresh = ours.sa.spi;
                let lost = sa.heir.as_ref().is_some_and(|(_, theirs)| ours.lowest_nonce < *theirs);
                self.sas.insert(fresh, ours.sa);
                if lost {
                    self.inherit(now, spi);
                    return self.leave(now, fresh);
                }
                if let Some(sa) = self.sas.get_mut(&spi) {
                    sa.heir = Some((fresh, ours.lowest_nonce));
                }
                self.inherit(now, spi);
                self.leave(now, spi);
            }
        }
    }

    fn renewal_refused(&mut self, now: u64, spi: u64, kind: u16) {
        let Some(peer) = self.sas.get(&spi).and_then(|sa| sa.peer) else { return };
        match kind {
            // Section 2.25: a bad moment is nobody's fault.
            notify::TEMPORARY_FAILURE => self.not_renewed(now, spi, None, Why::Moment),
            notify::NO_ADDITIONAL_SAS => {
                self.cx.event(peer, Level::Info, format!("{} rekeys no IKE SA: a fresh one replaces it", self.cx.name(peer)));
                self.not_renewed(now, spi, None, Why::Refused);
                self.reestablish(now, spi);
            }
            kind => {
                let fault = Fault::PeerRefused(format!("{} for a rekey of the IKE SA", notify::name(kind)));
                self.not_renewed(now, spi, Some(&fault), Why::Refused);
            }
        }
    }

    /// Ours came to nothing: the peer's takes over if there is one, else ours is tried again.
    fn not_renewed(&mut self, now: u64, spi: u64, fault: Option<&Fault>, why: Why) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        sa.renewing = false;
        if sa.heir.is_some() {
            return self.inherit(now, spi);
        }
        let at = self.cx.rekey_again(now, &mut sa.setbacks, why);
        plan(sa, at);
        if let (Some(peer), Some(fault)) = (sa.peer, fault) {
            self.cx.fault(peer, fault);
        }
    }

    /// The children of an IKE SA, and what waits to be said about them, go to its heir. Nothing changes for the engine.
    pub(crate) fn inherit(&mut self, now: u64, from: u64) {
        let Some(old) = self.sas.get_mut(&from) else { return };
        let Some((to, _)) = old.heir.take() else { return };
        // The peer may have deleted it meanwhile, in favour of ours.
        if !self.sas.contains_key(&to) {
            return;
        }
        let Some(old) = self.sas.get_mut(&from) else { return };
        (old.stage, old.rekey_at, old.renewing, old.renewal) = (Stage::Replaced, None, false, None);
        old.deadline = Some(now.saturating_add(self.cx.config.half_open_ms));
        let (children, full, peer) = (std::mem::take(&mut old.children), old.full, old.peer);
        let waiting: Vec<Task> = std::mem::take(&mut old.requests.waiting).into_iter().filter(|task| *task != Task::Probe).collect();
        let Some(new) = self.sas.get_mut(&to) else { return };
        new.children.extend(children);
        new.requests.waiting.extend(waiting);
        (new.deadline, new.full) = (None, new.full || full);
        if let Some(config) = peer.and_then(|peer| self.cx.peer(peer)) {
            plan(new, now.saturating_add(self.cx.jitter.early(config.upkeep.rekey_ike_ms)));
            self.cx.event(config.id, Level::Info, format!("the IKE SA with {} has new keys", config.name));
        }
        self.pump(now, to);
    }

    /// The peer uses an IKE SA that is to take over from another one: it has decided, so we do.
    pub(crate) fn used(&mut self, now: u64, heir: u64) {
        let from = self.sas.values().find(|sa| sa.heir.as_ref().is_some_and(|(to, _)| *to == heir)).map(|sa| sa.spi);
        from.into_iter().for_each(|from| self.inherit(now, from));
    }
}
