//! The peer's DELETE of an IKE SA while another one serves: a new authentication that is made before the old one breaks.
//!
//! ```text
//!  Established ──DELETE──► Parting: the children stop sending at once ──a moment later──► answer ──► gone
//! ```
//! RFC 7296 section 1.4.1 lets whoever has the answer forget the inbound SAs, and strongSwan does so at once. What was sent on them
//! just before has to arrive first, so the answer follows behind it.

use crate::Ike;
use crate::child::Step;
use crate::error::Fault;
use crate::exchange::Came;
use crate::message::Chain;
use crate::sa::{IkeSa, Requests, Stage};

/// How long the answer waits: for the engine to send on the other IKE SA's children, and for what is on its way to be opened by the
/// peer. Shorter than any usual first repetition of a request.
const PARTING_MS: u64 = 200;

/// Whether packets go out on its children, or are about to.
fn sends(sa: &IkeSa) -> bool {
    sa.children.values().any(|child| matches!(child.step, Step::Activating | Step::Up | Step::Deleting))
}

impl Ike {
    /// The peer's DELETE of an IKE SA, which goes with all its children; the answer is empty (RFC 7296 section 1.4.1).
    pub(crate) fn part(&mut self, now: u64, spi: u64, came: &Came) {
        // Section 2.25.2: in the middle of a rekey by both sides the peer's has taken over, with the children.
        self.inherit(now, spi);
        let Some(sa) = self.sas.get(&spi) else { return };
        let (peer, serving) = (sa.peer, matches!(sa.stage, Stage::Established) && sends(sa));
        let another =
            |peer| self.of(peer).filter(|other| *other != spi).filter_map(|other| self.sas.get(&other)).any(|sa| sa.live() && sends(sa));
        let carried_on = serving && peer.is_some_and(another);
        let fault = Fault::Ended("closed the connection".to_owned());
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        if !carried_on {
            sa.reply(&mut self.cx, came, &Chain::default());
            return self.remove(now, spi, Some(fault));
        }
        std::mem::take(&mut sa.children).values().for_each(|child| child.retire(&mut self.cx));
        (sa.stage, sa.deadline) = (Stage::Parting(*came), Some(now.saturating_add(PARTING_MS)));
        (sa.requests, sa.replies.held) = (Requests::default(), None);
        (sa.rekey_at, sa.probe_at, sa.renewal) = (None, None, None);
        peer.into_iter().for_each(|peer| self.lost(now, peer, Some(fault.clone())));
    }

    /// Answers the DELETE of one that parts; nothing is left of it then.
    pub(crate) fn parted(&mut self, now: u64, spi: u64) {
        let Some(sa) = self.sas.get_mut(&spi) else { return };
        let Stage::Parting(came) = sa.stage else { return };
        sa.reply(&mut self.cx, &came, &Chain::default());
        self.remove(now, spi, None);
    }
}
