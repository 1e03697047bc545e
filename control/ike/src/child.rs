//! One pair of ESP SAs on its way through the engine (two-phase install).
//!
//! ```text
//!  we initiate   Expecting ─► Requested ─► Installing ─► Activating ─► Up
//!                 (engine)     (peer)       (inbound)     (outbound)
//!  we respond                              Installing ─► Activating ─► Up
//!                                           response leaves ┘
//! ```
//! Rekeying will add a pair that names its predecessor; [`crate::exchange::child`] is where it goes.

use crate::config::{PeerId, Suite};
use crate::context::Context;
use crate::output::{ChildId, ChildKeys, Output, Selectors};

/// How far a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Expecting,
    Requested,
    Installing,
    Activating,
    Up,
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
    /// The outbound key until its turn comes.
    pub(crate) outbound: Option<ChildKeys>,
    pub(crate) started: u64,
}

impl Child {
    pub(crate) fn up(&self) -> bool {
        self.step == Step::Up
    }

    /// Takes it out of the engine; the inbound SA goes on receiving for a while if it ever did.
    pub(crate) fn retire(&self, cx: &mut Context) {
        let drain_ms = if matches!(self.step, Step::Activating | Step::Up) { cx.config.drain_ms } else { 0 };
        cx.outputs.push_back(Output::Retire { child: self.id, peer: self.peer, inbound_spi: self.spi, drain_ms });
    }

    /// One word for people.
    pub(crate) fn step_name(&self) -> &'static str {
        match self.step {
            Step::Expecting => "expecting",
            Step::Requested => "requested",
            Step::Installing | Step::Activating => "installing",
            Step::Up => "up",
        }
    }
}
