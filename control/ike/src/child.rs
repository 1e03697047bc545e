//! One pair of ESP SAs on its way through the engine (two-phase install).
//!
//! ```text
//!  we initiate   Expecting ─► Requested ─► Installing ─► Activating ─► Up
//!                 (engine)     (peer)       (inbound)     (outbound)
//!  we respond                              Installing ─► Activating ─► Up ─► Deleting
//!                                           response leaves ┘          (rekeyed, by us)
//! ```

use crate::config::{PeerId, Suite};
use crate::context::Context;
use crate::crypto::Exchange;
use crate::exchange::rekey::Setbacks;
use crate::output::{ChildId, ChildKeys, Output, Selectors};

/// How far a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Expecting,
    Requested,
    Installing,
    Activating,
    Up,
    /// A successor is in use and our DELETE is on its way; until it is answered the peer may still send on this one.
    Deleting,
}

/// A child.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: ChildId,
    pub(crate) peer: PeerId,
    /// We sent the request that made it.
    pub(crate) initiator: bool,
    pub(crate) spi: u32,
    pub(crate) remote_spi: u32,
    pub(crate) core: Option<u16>,
    pub(crate) step: Step,
    /// When a step of the engine counts as failed.
    pub(crate) deadline: Option<u64>,
    pub(crate) suite: Option<Suite>,
    pub(crate) esn: bool,
    pub(crate) selectors: Selectors,
    pub(crate) fallback: bool,
    /// Our nonce, where we initiate and it is not the IKE SA's.
    pub(crate) nonce: Vec<u8>,
    /// Our half of a fresh key exchange, where we initiate with one.
    pub(crate) exchange: Option<Exchange>,
    /// The child that it is to replace, or has replaced.
    pub(crate) replaces: Option<ChildId>,
    /// The lower one of the two nonces that made it: what decides between two successors of one child (section 2.8.1).
    pub(crate) lowest_nonce: Vec<u8>,
    /// The peer's successor of the same child, accepted while this one was on its way, and the lower nonce of that.
    pub(crate) rival: Option<(ChildId, Vec<u8>)>,
    /// The peer has made it, and is about to delete it in favour of one of ours.
    pub(crate) redundant: bool,
    /// The peer has made it by a rekey and asked for nothing since, so our answer may be lost: until when it is asked nothing about it.
    pub(crate) unheard_until: Option<u64>,
    /// When its successor is to be asked for.
    pub(crate) rekey_at: Option<u64>,
    /// How often its successor could not be made.
    pub(crate) setbacks: Setbacks,
    /// The outbound key until its turn comes.
    pub(crate) outbound: Option<ChildKeys>,
    pub(crate) started: u64,
}

impl Child {
    pub(crate) fn up(&self) -> bool {
        self.step == Step::Up
    }

    /// Whether the peer may not know yet that we agreed to it (RFC 7296 section 2.3: its next request shows that it does).
    pub(crate) fn unheard(&self, now: u64) -> bool {
        self.unheard_until.is_some_and(|until| now < until)
    }

    /// Whether it carries, or is about to carry, what another one of the same IKE SA carried.
    pub(crate) fn serves_for(&self, other: &Self) -> bool {
        let stays = matches!(self.step, Step::Installing | Step::Activating | Step::Up) && !self.redundant;
        stays && (self.core, self.fallback, &self.selectors) == (other.core, other.fallback, &other.selectors)
    }

    /// Takes it out of the engine; the inbound SA goes on receiving for a while if it ever did.
    pub(crate) fn retire(&self, cx: &mut Context) {
        let drain_ms = if matches!(self.step, Step::Activating | Step::Up | Step::Deleting) { cx.config.drain_ms } else { 0 };
        cx.outputs.push_back(Output::Retire { child: self.id, peer: self.peer, inbound_spi: self.spi, drain_ms });
    }

    /// One word for people.
    pub(crate) fn step_name(&self) -> &'static str {
        match self.step {
            Step::Expecting => "expecting",
            Step::Requested => "requested",
            Step::Installing | Step::Activating => "installing",
            Step::Up => "up",
            Step::Deleting => "deleting",
        }
    }
}
