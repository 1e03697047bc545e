//! When keys are renewed: by time, when a key nears its limits, and by order.

use crate::Ike;
use crate::config::PeerId;
use crate::exchange::create::{self, Then};
use crate::output::{ChildId, Host};
use crate::sa::IkeSa;

/// Why a rekey was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RekeyRefused {
    /// No child with this SPI, or no IKE SA with this peer, is up.
    #[error("nothing to rekey is up")]
    NotUp,
    /// A successor is on its way already.
    #[error("a rekey is under way already")]
    UnderWay,
    /// The host gave no SPI.
    #[error("no SPI was given")]
    NoSpi,
}

impl Ike {
    /// Rekeys the child with this inbound SPI, because its key nears a limit. It is tried again until it is done or the child
    /// is gone.
    ///
    /// # Errors
    /// Why not; it happens by itself then if it can.
    pub fn rekey_child(&mut self, now: u64, inbound_spi: u32, host: &mut dyn Host) -> Result<(), RekeyRefused> {
        self.cx.tick();
        let of = |sa: &IkeSa| sa.children.values().find(|child| child.spi == inbound_spi).map(|child| (sa.spi, child.id));
        let (spi, child) = self.sas.values().find_map(of).ok_or(RekeyRefused::NotUp)?;
        self.begin_rekey(now, spi, child, host)
    }

    /// Rekeys all children of a peer now. Returns how many rekeys were begun.
    ///
    /// # Errors
    /// If none was.
    pub fn rekey(&mut self, now: u64, peer: PeerId, host: &mut dyn Host) -> Result<usize, RekeyRefused> {
        self.cx.tick();
        let spi = self.winner(peer).ok_or(RekeyRefused::NotUp)?;
        let children: Vec<ChildId> = self.sas.get(&spi).map(|sa| sa.children.keys().copied().collect()).unwrap_or_default();
        let results: Vec<_> = children.into_iter().map(|child| self.begin_rekey(now, spi, child, host)).collect();
        match results.iter().filter(|result| result.is_ok()).count() {
            0 => Err(results.into_iter().find_map(Result::err).unwrap_or(RekeyRefused::NotUp)),
            begun => Ok(begun),
        }
    }

    /// Rekeys the IKE SA with a peer as soon as nothing else is under way on it.
    ///
    /// # Errors
    /// If none is up.
    pub fn renew(&mut self, now: u64, peer: PeerId) -> Result<(), RekeyRefused> {
        let sa = self.winner(peer).and_then(|spi| self.sas.get_mut(&spi)).ok_or(RekeyRefused::NotUp)?;
        crate::renew::plan(sa, now);
        Ok(())
    }

    /// First phase of a rekey: the engine has to expect the successor's SPI.
    fn begin_rekey(&mut self, now: u64, spi: u64, old: ChildId, host: &mut dyn Host) -> Result<(), RekeyRefused> {
        let pause = self.cx.config.rekey_again_ms;
        let Some(sa) = self.sas.get_mut(&spi) else { return Err(RekeyRefused::NotUp) };
        let usable = sa.live() && (sa.confirmed || !sa.initiator) && !sa.renewing;
        let Some(child) = sa.children.get_mut(&old) else { return Err(RekeyRefused::NotUp) };
        // Whatever stands in the way now may be gone by then.
        let wanted = child.up() && !child.redundant;
        child.rekey_at = wanted.then(|| now.saturating_add(pause));
        if !usable || !wanted {
            return Err(RekeyRefused::NotUp);
        }
        let unheard = child.unheard(now);
        if unheard || sa.children.values().any(|child| child.replaces == Some(old)) {
            return Err(RekeyRefused::UnderWay);
        }
        let Some(child) = sa.children.get_mut(&old) else { return Err(RekeyRefused::NotUp) };
        let successor = create::after(&mut self.cx, now, child, host).ok_or(RekeyRefused::NoSpi)?;
        child.rekey_at = None;
        sa.children.insert(successor.id, successor);
        Ok(())
    }

    /// Begins the rekeys whose time has come.
    pub(crate) fn rekey_due(&mut self, now: u64, spi: u64, host: &mut dyn Host) {
        let Some(sa) = self.sas.get(&spi) else { return };
        let due = sa.children.values().filter(|child| child.rekey_at.is_some_and(|at| at <= now));
        for child in due.map(|child| child.id).collect::<Vec<_>>() {
            // What cannot be begun now has a later time already.
            let _ = self.begin_rekey(now, spi, child, host);
        }
    }

    /// After the answer to CREATE_CHILD_SA.
    pub(crate) fn created(&mut self, now: u64, spi: u64, then: Then) {
        self.childless(now, spi, "has no child left");
        if then == Then::Reestablish {
            self.reestablish(now, spi);
        }
    }

    /// The next tick begins a fresh IKE SA beside this one, whose children go on until the new ones are in use.
    pub(crate) fn reestablish(&mut self, now: u64, spi: u64) {
        if let Some(state) = self.sas.get(&spi).and_then(|sa| sa.peer).and_then(|peer| self.cx.peers.get_mut(&peer)) {
            (state.initial_contact, state.retry_at) = (false, Some(now));
        }
    }
}
