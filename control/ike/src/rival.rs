//! Two IKE SAs of one peer: which one stays, who closes the other, and when.
//!
//! It happens when both sides begin at once, when a side replaces its IKE SA on purpose, and when a restarted daemon
//! adopts a running engine. The rules give the same winner on both sides, and exactly one side closes the other one:
//!
//! | how the two came about | stays | closed by |
//! |---|---|---|
//! | one begun by each side, before either was established | not the one with the lowest of the four nonces | who began it |
//! | one begun by each side, one after the other | the later one | who began the later one |
//! | both begun by the same side | the later one | who began them |
//!
//! Nothing is closed before the winner is known to be in use on both sides: its initiator knows that when its engine has
//! both directions; its responder asks by an empty INFORMATIONAL, which the initiator answers only from then on. The side
//! that does not close waits a while and then asks by both whether the other still knows them. One that has restarted does
//! not know the loser: as soon as the winner answers, the loser is closed from here, so that no key outlives it.
//! A rekeyed IKE SA stands in all this for the one that was begun first.

use crate::Ike;
use crate::config::PeerId;
use crate::retransmit::Purpose;
use crate::sa::{IkeSa, Task};

/// How long to wait for the other side to close the loser before asking whether it still knows it.
const PROBE_MS: u64 = 3_000;

/// Begun by each side before the other one's was established.
///
/// Both sides see this alike: each proves itself in its own IKE SA only while the other one is not established with it
/// (`Ike::established` drops what is unsent), so each has answered the other's first message by then.
fn crossed(one: &IkeSa, other: &IkeSa) -> bool {
    let before = |a: &IkeSa, b: &IkeSa| b.established.is_some_and(|established| a.began < established);
    one.founder != other.founder && before(one, other) && before(other, one)
}

fn lowest_nonce(sa: &IkeSa) -> &[u8] {
    sa.nonce_i.as_slice().min(&sa.nonce_r)
}

/// Whether `one` stays rather than `other`.
fn beats(one: &IkeSa, other: &IkeSa) -> bool {
    if crossed(one, other) {
        lowest_nonce(one) > lowest_nonce(other)
    } else if one.founder == other.founder {
        one.began > other.began
    } else {
        one.established > other.established
    }
}

/// Whether it is for us to close `loser`.
fn ours_to_close(winner: &IkeSa, loser: &IkeSa) -> bool {
    if winner.founder != loser.founder && !crossed(winner, loser) { winner.founder } else { loser.founder }
}

impl Ike {
    /// The IKE SA of a peer that stays: established, with a child in use.
    pub(crate) fn winner(&self, peer: PeerId) -> Option<u64> {
        let standing = self.of(peer).filter_map(|spi| self.sas.get(&spi)).filter(|sa| sa.live() && sa.up());
        standing.reduce(|best, next| if beats(next, best) { next } else { best }).map(|sa| sa.spi)
    }

    /// Takes the next step towards one IKE SA with this peer.
    pub(crate) fn settle(&mut self, now: u64, peer: PeerId) {
        let Some(winner) = self.winner(peer).and_then(|spi| self.sas.get(&spi)) else { return };
        let spi = winner.spi;
        let confirmed = winner.confirmed;
        let losers: Vec<(u64, bool, bool)> = self
            .of(peer)
            .filter_map(|other| self.sas.get(&other))
            .filter(|sa| sa.spi != spi && sa.live() && sa.up())
            .map(|loser| (loser.spi, ours_to_close(winner, loser), probing(loser)))
            .collect();
        for (loser, ours, doubted) in losers {
            match (ours || doubted, confirmed) {
                (true, true) => self.leave(now, loser),
                (true, false) => self.probe(now, spi),
                (false, _) => [spi, loser].into_iter().for_each(|either| self.probe_later(now, either)),
            }
        }
    }

    fn probe_later(&mut self, now: u64, spi: u64) {
        if let Some(sa) = self.sas.get_mut(&spi).filter(|sa| !probing(sa)) {
            sa.probe_at.get_or_insert(now.saturating_add(PROBE_MS));
        }
    }

    fn probe(&mut self, now: u64, spi: u64) {
        if let Some(sa) = self.sas.get_mut(&spi).filter(|sa| !probing(sa)) {
            sa.requests.waiting.push_back(Task::Probe);
            self.pump(now, spi);
        }
    }
}

fn probing(sa: &IkeSa) -> bool {
    let sent = sa.requests.outstanding.as_ref().is_some_and(|request| request.purpose == Purpose::Probe);
    sent || sa.requests.waiting.contains(&Task::Probe)
}
