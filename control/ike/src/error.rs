//! Why something with a peer failed, by who is at fault: that decides whom the operator has to talk to.

use crate::output::Level;

/// A failure that ends a try, an IKE SA or a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The peer broke the protocol.
    Misbehaved(String),
    /// The peer is right, but cannot do what we can.
    Incompatible(String),
    /// The peer said no.
    PeerRefused(String),
    /// We said no.
    WeRefused(String),
    /// Nothing came back.
    Silent(String),
    /// The fault lies on this machine.
    Local(String),
    /// Nobody's fault: the peer ended it.
    Ended(String),
}

impl Fault {
    /// One line for people, with the peer's name in it.
    pub(crate) fn told(&self, name: &str) -> String {
        match self {
            Self::Misbehaved(what) => format!("{name} misbehaved: {what}"),
            Self::Incompatible(what) => format!("{name} is incompatible: {what}"),
            Self::PeerRefused(what) => format!("{name} refused us: {what}"),
            Self::WeRefused(what) => format!("we refused {name}: {what}"),
            Self::Silent(what) => format!("{name} does not answer: {what}"),
            Self::Local(what) => format!("cannot serve {name}: {what}"),
            Self::Ended(what) => format!("{name} {what}"),
        }
    }

    /// How loud to be about it.
    pub(crate) fn level(&self) -> Level {
        if matches!(self, Self::Ended(_)) { Level::Info } else { Level::Warning }
    }
}

/// How many lines strangers may cause, in a burst and then per minute.
const BURST: u64 = 20;
const REFILL_MS: u64 = 3_000;

/// Bounds the log lines that anybody can cause without having proved who they are.
#[derive(Debug)]
pub(crate) struct Rate {
    left: u64,
    filled: u64,
    suppressed: u64,
}

impl Rate {
    pub(crate) fn new(now: u64) -> Self {
        Self { left: BURST, filled: now, suppressed: 0 }
    }

    /// Takes one; `Some` with the number that was suppressed before it.
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        let gained = now.saturating_sub(self.filled) / REFILL_MS;
        self.filled = self.filled.saturating_add(gained.saturating_mul(REFILL_MS));
        self.left = self.left.saturating_add(gained).min(BURST);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.suppressed))
            }
            None => {
                self.suppressed = self.suppressed.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BURST, REFILL_MS, Rate};

    #[test]
    fn a_flood_of_strangers_is_a_trickle_of_lines() {
        let mut rate = Rate::new(0);
        let heard = (0..10_000).filter(|_| rate.take(5).is_some()).count();
        assert_eq!(heard as u64, BURST);
        assert_eq!(rate.take(REFILL_MS), Some(10_000 - BURST));
        assert_eq!(rate.take(REFILL_MS), None);
    }
}
