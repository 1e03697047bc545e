//! Dead peer detection (RFC 7296 section 2.4): is the peer of the IKE SA that serves still there?
//!
//! Driven by what is heard. An authenticated IKE message is life, and so is an authenticated ESP packet, of which only the
//! engine knows: [`Output::Quiet`] asks for it, [`Ike::heard`] is the answer. Where neither came for half of the time that
//! the peer's configuration allows, an empty INFORMATIONAL asks, repeated like any request; at the end of that time the peer
//! counts as gone, and everything that was shared with it goes.
//!
//! ```text
//!   last sign of life ──── half ────► Quiet ─► probe, probe, probe … ──► gone: restart, hold or clear
//!        ▲                              │              │
//!        └──────── packets came ────────┴─ answered ───┘
//! ```

use crate::Ike;
use crate::config::{DpdAction, PeerId};
use crate::error::Fault;
use crate::output::{Level, Output};
use crate::sa::Task;

/// How long after [`Output::Quiet`] to ask again, should there be no answer.
const ASK_AGAIN_MS: u64 = 1_000;

impl Ike {
    /// A child has come up: from now on somebody looks after the peer.
    pub(crate) fn watch(&mut self, now: u64, peer: PeerId) {
        if let Some(state) = self.cx.peers.get_mut(&peer) {
            state.dormant = false;
            state.look_at.get_or_insert(now.saturating_add(state.config.dpd.within_ms / 2));
        }
    }

    /// The time to look has come: asks for ESP unless IKE itself was heard lately.
    pub(crate) fn look(&mut self, now: u64, peer: PeerId) {
        let heard = self.winner(peer).and_then(|spi| self.sas.get(&spi)).map(|sa| sa.heard);
        let Some(state) = self.cx.peers.get_mut(&peer) else { return };
        state.look_at = heard.map(|heard| heard.saturating_add(state.config.dpd.within_ms / 2));
        if state.look_at.is_some_and(|due| due <= now) {
            state.look_at = Some(now.saturating_add(ASK_AGAIN_MS));
            self.cx.outputs.push_back(Output::Quiet { peer });
        }
    }

    /// What the engine knows: the newest authenticated packet of this peer came at `at`.
    pub(crate) fn on_heard(&mut self, now: u64, peer: PeerId, at: Option<u64>) {
        let Some(spi) = self.winner(peer) else { return };
        let (Some(sa), Some(state)) = (self.sas.get_mut(&spi), self.cx.peers.get_mut(&peer)) else { return };
        sa.heard = sa.heard.max(at.unwrap_or_default());
        let within = state.config.dpd.within_ms;
        let (quiet_at, gone_at) = (sa.heard.saturating_add(within / 2), sa.heard.saturating_add(within));
        if now < quiet_at {
            state.look_at = Some(quiet_at);
            return;
        }
        // It gets the second half of the time to answer also where the first one has passed unseen: this machine slept.
        let gone_at = match &sa.requests.outstanding {
            Some(request) => gone_at.max(request.first.saturating_add(within / 2)),
            None => gone_at.max(now.saturating_add(within / 2)),
        };
        if gone_at <= now {
            let seconds = now.saturating_sub(sa.heard) / 1_000;
            return self.vanished(now, spi, Fault::Silent(format!("nothing was heard for {seconds} s")));
        }
        state.look_at = Some(gone_at);
        if sa.requests.outstanding.is_none() {
            sa.requests.waiting.push_back(Task::Probe);
            self.pump(now, spi);
        }
    }

    /// A peer has fallen silent: its IKE SA goes with all children, and what then happens is the configuration's choice.
    pub(crate) fn vanished(&mut self, now: u64, spi: u64, fault: Fault) {
        let peer = self.sas.get(&spi).filter(|sa| sa.live()).and_then(|sa| sa.peer);
        if let Some((peer, state)) = peer.and_then(|peer| Some((peer, self.cx.peers.get_mut(&peer)?))) {
            state.look_at = None;
            let waits_for = match state.config.dpd.action {
                DpdAction::Restart => None,
                DpdAction::Hold => Some("the next packet"),
                DpdAction::Clear => Some("the peer"),
            };
            state.dormant = waits_for.is_some();
            let text = waits_for.map(|what| format!("waits for {what} before it is tried again"));
            text.into_iter().for_each(|text| self.cx.event(peer, Level::Info, text));
        }
        self.remove(now, spi, Some(fault));
        // Another one may have taken its place.
        if let Some(peer) = peer.filter(|peer| self.winner(*peer).is_some()) {
            self.watch(now, peer);
        }
    }
}
