//! What the engine answers, step by step (see [`crate::child`]): each answer takes a child one step further, or ends it.

use crate::Ike;
use crate::child::Step;
use crate::error::Fault;
use crate::exchange::{End, auth, rekey};
use crate::message::{Chain, notify};
use crate::output::{ChildId, Output, When};
use crate::sa::{Doomed, IkeSa, Stage, Task};

/// How long a responder's very first child waits for the initiator's packets before it is sent on: the initiator needs
/// the response and its engine, and until then can only park what comes.
const FIRST_SWITCH_MS: u32 = 200;

impl Ike {
    /// The IKE SA that has this child.
    pub(crate) fn owner(&self, child: ChildId) -> Option<u64> {
        self.sas.values().find(|sa| sa.children.contains_key(&child)).map(|sa| sa.spi)
    }

    pub(crate) fn on_expected(&mut self, now: u64, id: ChildId) {
        let Some(spi) = self.owner(id) else { return };
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let Some(child) = sa.children.get_mut(&id).filter(|child| child.step == Step::Expecting) else { return };
        child.deadline = None;
        if matches!(sa.stage, Stage::Authenticating(_)) {
            child.step = Step::Requested;
            return auth::request(&mut self.cx, now, sa);
        }
        sa.requests.waiting.push_back(Task::CreateChild(id));
        self.pump(now, spi);
    }

    pub(crate) fn on_installed(&mut self, now: u64, id: ChildId) {
        let Some(spi) = self.owner(id) else { return };
        let peer = self.sas.get(&spi).and_then(|sa| sa.peer);
        let busy = peer.is_some_and(|peer| self.of(peer).any(|spi| self.sas.get(&spi).is_some_and(IkeSa::up)));
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let (local, remote, nat, per_core) = (sa.local, sa.remote, sa.nat, sa.per_core);
        let replaces = sa.children.get(&id).and_then(|child| child.replaces).is_some_and(|old| sa.children.contains_key(&old));
        let Some(child) = sa.children.get_mut(&id).filter(|child| child.step == Step::Installing) else { return };
        let Some(keys) = child.outbound.take() else { return };
        child.step = Step::Activating;
        child.deadline = Some(now.saturating_add(self.cx.config.engine_ms));
        let when = match (child.initiator, replaces, busy) {
            (true, _, _) => When::Now,
            // The initiator says by its first packet, or by DELETE of the old one, that it has the response; by time nobody knows.
            (false, true, _) => When::OnInbound { or_after_ms: 0 },
            (false, false, false) => When::OnInbound { or_after_ms: FIRST_SWITCH_MS },
            (false, false, true) => When::OnInbound { or_after_ms: self.cx.config.switch_ms },
        };
        let (peer, inbound_spi, spi_out, fallback) = (child.peer, child.spi, child.remote_spi, child.fallback);
        let activate =
            Output::InstallOutbound { child: id, peer, inbound_spi, spi: spi_out, keys, when, local, remote, fallback, per_core, nat };
        let answered = self.release(now, spi, id, true);
        self.cx.outputs.push_back(activate);
        if answered {
            self.established(now, spi);
        }
        self.after(now, spi);
    }

    /// Sends the response that waited for this child; whether that made the IKE SA established.
    fn release(&mut self, now: u64, spi: u64, id: ChildId, success: bool) -> bool {
        let Some(sa) = self.sas.get_mut(&spi) else { return false };
        let Some(held) = sa.replies.held.take_if(|held| held.child == id) else { return false };
        let chain = if success { &held.success } else { &held.failure };
        sa.reply(&mut self.cx, &held.came, chain);
        let first = matches!(sa.stage, Stage::Answering);
        if first {
            auth::established(&mut self.cx, now, sa);
        }
        first
    }

    pub(crate) fn on_activated(&mut self, now: u64, id: ChildId) {
        let Some(spi) = self.owner(id) else { return };
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let Some(child) = sa.children.get_mut(&id).filter(|child| child.step == Step::Activating) else { return };
        (child.step, child.deadline) = (Step::Up, None);
        let (peer, selectors, fallback, replaces) = (child.peer, child.selectors.clone(), child.fallback, child.replaces);
        let every = self.cx.peer(peer).map_or(0, |config| config.upkeep.rekey_child_ms);
        child.rekey_at = Some(now.saturating_add(self.cx.jitter.early(every))).filter(|_| !child.redundant);
        self.cx.outputs.push_back(Output::Up { peer, child: id, inbound_spi: child.spi, selectors, fallback, replaces });
        let initiator = child.initiator;
        sa.confirmed |= sa.initiator;
        sa.deadline = None;
        // Section 2.8: who made the successor deletes what it replaces.
        if let Some(old) = replaces.filter(|_| initiator).and_then(|old| sa.children.get_mut(&old)) {
            (old.step, old.rekey_at) = (Step::Deleting, None);
            match &mut self.cx.held {
                Some(held) => held.push((old.id, id)),
                None => sa.requests.waiting.push_back(Task::DeleteChild(vec![Doomed::new(old)])),
            }
        }
        let pause = self.cx.config.retry_first_ms;
        if let Some(state) = self.cx.peers.get_mut(&peer) {
            state.up = true;
            // One more child of an IKE SA that is to be replaced replaces nothing.
            if (fallback && replaces.is_none()) || !state.replacing {
                (state.replacing, state.pause, state.retry_at, state.last_error) = (false, pause, None, None);
            }
        }
        self.watch(now, peer);
        self.after(now, spi);
    }

    pub(crate) fn on_failed(&mut self, now: u64, id: ChildId, reason: &str) {
        let Some(spi) = self.owner(id) else { return };
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let fault = Fault::Local(format!("the engine: {reason}"));
        // Before IKE_AUTH has left there is nobody to tell.
        if matches!(&sa.stage, Stage::Authenticating(stage) if stage.held.is_some()) {
            return self.end(now, spi, End::Drop(fault));
        }
        let Some(child) = sa.children.remove(&id) else { return };
        child.retire(&mut self.cx);
        rekey::without_rival(sa, id);
        if let Some(old) = child.replaces.and_then(|old| sa.children.get_mut(&old)) {
            old.rekey_at = Some(self.cx.rekey_again(now, &mut old.setbacks, rekey::Why::Refused));
        }
        self.cx.fault(child.peer, &fault);
        let known = matches!(child.step, Step::Installing | Step::Activating | Step::Up);
        let held = sa.replies.held.as_ref().is_some_and(|held| held.child == id);
        if known && !held {
            sa.requests.waiting.push_back(Task::DeleteChild(vec![Doomed::new(&child)]));
        }
        if self.release(now, spi, id, false) {
            self.established(now, spi);
        }
        // Without its first child the IKE SA is of no use.
        if self.sas.get(&spi).is_some_and(|sa| sa.initiator && sa.live() && sa.children.is_empty()) {
            return self.end(now, spi, End::Delete(fault));
        }
        self.childless(now, spi, "lost its last child");
        self.after(now, spi);
    }

    /// DELETE of one child.
    pub(crate) fn drop_child(&mut self, now: u64, id: ChildId) {
        let Some(spi) = self.owner(id) else { return };
        let Some(sa) = self.sas.get_mut(&spi).filter(|sa| sa.live() && sa.confirmed) else { return };
        let Some(child) = sa.children.remove(&id).filter(|child| child.step != Step::Deleting) else { return };
        child.retire(&mut self.cx);
        let mut chain = Chain::default();
        chain.notify(notify::TEMPORARY_FAILURE, &[]);
        if sa.replies.held.as_ref().is_some_and(|held| held.child == id) {
            self.release(now, spi, id, false);
        } else if !matches!(child.step, Step::Expecting | Step::Requested) {
            sa.requests.waiting.push_back(Task::DeleteChild(vec![Doomed::new(&child)]));
        }
        self.childless(now, spi, "has no child left");
        self.after(now, spi);
    }
}
