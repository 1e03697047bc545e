//! Every child gets a successor in another engine, while the predecessors go on carrying packets until all are there.
//!
//! ```text
//!   hold ─► each child that stands in the old engine is rekeyed; the DELETE of its predecessor is kept back ─┬─► let_go
//!                                                                                                            └─► take_back
//! ```
//! The peer, as responder of all these rekeys, goes on sending on the old children until it hears the new ones or the DELETE, so both
//! ways of ending lose nothing. What it would rekey itself meanwhile is refused with TEMPORARY_FAILURE (RFC 7296 section 2.25): it would
//! delete predecessors that still carry packets.

use crate::Ike;
use crate::child::{Child, Step};
use crate::output::ChildId;
use crate::sa::{Doomed, IkeSa, Task};

/// A predecessor, and the successor that is up beside it.
pub(crate) type Held = (ChildId, ChildId);

impl Ike {
    /// From now on predecessors stay when their successors are up.
    pub fn hold(&mut self) {
        self.cx.tick();
        self.cx.held.get_or_insert_default();
    }

    /// The inbound SPIs of the children that carry packets, are not `there` yet, and have no successor that is up.
    #[must_use]
    pub fn left_behind(&self, there: impl Fn(u32) -> bool) -> Vec<u32> {
        let carries = |child: &&Child| matches!(child.step, Step::Activating | Step::Up) && !child.redundant;
        let children = self.sas.values().filter(|sa| sa.live()).flat_map(|sa| sa.children.values());
        children.filter(carries).map(|child| child.spi).filter(|spi| !there(*spi)).collect()
    }

    /// The successors are in use: their predecessors are deleted.
    pub fn let_go(&mut self, now: u64) {
        self.cx.tick();
        for (old, _) in self.cx.held.take().unwrap_or_default() {
            let Some(spi) = self.owner(old) else { continue };
            let Some(sa) = self.sas.get_mut(&spi) else { continue };
            if let Some(doomed) = sa.children.get(&old).map(Doomed::new) {
                sa.requests.waiting.push_back(Task::DeleteChild(vec![doomed]));
            }
            self.after(now, spi);
        }
    }

    /// The successors are never to be used: they are deleted, and their predecessors go on.
    pub fn take_back(&mut self, now: u64) {
        self.cx.tick();
        // The newest first: one may have been the successor of another.
        for (old, new) in self.cx.held.take().unwrap_or_default().into_iter().rev() {
            let every = self.cx.config.rekey_again_ms;
            let again = now.saturating_add(self.cx.jitter.spread(every));
            let of = self.owner(old).and_then(|spi| self.sas.get_mut(&spi));
            if let Some(child) = of.and_then(|sa: &mut IkeSa| sa.children.get_mut(&old)) {
                // Its own time was given up when the successor stood.
                (child.step, child.rekey_at) = (Step::Up, Some(again));
            }
            self.drop_child(now, new);
        }
    }
}
