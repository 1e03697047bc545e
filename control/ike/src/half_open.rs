//! Which half-open IKE SAs of strangers are kept (RFC 7296 section 2.6, RFC 8019).
//!
//! An address that has not shown a cookie can be anybody's, so it takes the place of nobody. One that has shown a cookie receives
//! what we send to it, and its handshake has time to finish: whoever comes later waits, and finds room when it repeats its
//! request. So any number of sites behind one NAT, which are one sender here, come up. Among senders the greediest gives way.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// The most half-open IKE SAs. One takes some 5 KiB with an ordinary first message, 10 MiB in all. With the longest first message
/// and pieces of IKE_AUTH as long as they may be it is some 45 KiB, 90 MiB in all, for which thousands of key exchanges were made.
const MAX: usize = 2_048;
/// The most of one sender.
const PER_SOURCE_MAX: usize = 1_024;
/// How many a sender may have before it must show a cookie.
const UNPROVEN_PER_SOURCE_MAX: usize = 3;
/// For so long a handshake with a proven address keeps its place, except against a sender that has fewer.
const HELD_MS: u64 = 5_000;
/// A longer IKE_SA_INIT request is ignored, because it is kept until IKE_AUTH. RFC 7296 section 2 asks for 3,000 octets.
pub(crate) const FIRST_MESSAGE_BYTES_MAX: usize = 4_096;

#[derive(Clone, Copy, Debug)]
struct Entry {
    spi: u64,
    source: u128,
    proven: bool,
    since: u64,
}

/// Whether one more has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Free,
    /// If this one goes.
    InsteadOf(u64),
    Full,
}

/// All half-open IKE SAs of strangers.
#[derive(Debug, Default)]
pub(crate) struct HalfOpens {
    /// In the order of coming.
    entries: BTreeMap<u64, Entry>,
    places: HashMap<u64, u64>,
    /// How many each sender has.
    senders: HashMap<u128, usize>,
    next: u64,
}

impl HalfOpens {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn of(&self, source: u128) -> usize {
        self.senders.get(&source).copied().unwrap_or_default()
    }

    /// Whether a sender has to show a cookie before anything is kept: where there are more than `over` in all.
    pub(crate) fn crowded(&self, address: IpAddr, over: usize) -> bool {
        self.len() >= over.min(MAX) || self.of(source(address)) >= UNPROVEN_PER_SOURCE_MAX
    }

    /// Whether one more of this sender, which has shown a cookie or need not, has room. Looks at each entry only where it is full.
    pub(crate) fn room(&self, now: u64, address: IpAddr, proven: bool) -> Room {
        let source = source(address);
        let own = self.of(source);
        if self.len() < MAX && own < PER_SOURCE_MAX {
            return Room::Free;
        }
        if !proven {
            return Room::Full;
        }
        let held = |entry: &&Entry| now.saturating_sub(entry.since) < HELD_MS;
        if own >= PER_SOURCE_MAX {
            // Its few unproven ones too: they are as likely its own as the others.
            let old = self.entries.values().find(|entry| entry.source == source && !held(entry));
            return old.map_or(Room::Full, |entry| Room::InsteadOf(entry.spi));
        }
        let unproven = self.entries.values().find(|entry| !entry.proven);
        let old = || self.entries.values().find(|entry| !held(entry));
        // The newest of the greediest: its older ones are nearer to their end.
        let greedy = || {
            let (greediest, most) = self.senders.iter().max_by_key(|(source, count)| (**count, **source))?;
            (*most > own.saturating_add(1)).then(|| self.entries.values().rev().find(|entry| entry.source == *greediest)).flatten()
        };
        unproven.or_else(old).or_else(greedy).map_or(Room::Full, |entry| Room::InsteadOf(entry.spi))
    }

    pub(crate) fn add(&mut self, now: u64, spi: u64, address: IpAddr, proven: bool) {
        let source = source(address);
        self.next = self.next.saturating_add(1);
        self.entries.insert(self.next, Entry { spi, source, proven, since: now });
        self.places.insert(spi, self.next);
        let count = self.senders.entry(source).or_default();
        *count = count.saturating_add(1);
    }

    /// It is gone, or no longer half-open.
    pub(crate) fn forget(&mut self, spi: u64) {
        let Some(entry) = self.places.remove(&spi).and_then(|place| self.entries.remove(&place)) else { return };
        let left = self.of(entry.source).saturating_sub(1);
        if left == 0 {
            self.senders.remove(&entry.source);
        } else {
            self.senders.insert(entry.source, left);
        }
    }
}

/// What counts as one sender: an IPv4 address, or an IPv6 network of 64 bits.
fn source(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{HELD_MS, HalfOpens, MAX, PER_SOURCE_MAX, Room};

    fn sender(number: usize) -> IpAddr {
        Ipv4Addr::from(0x0b00_0000 + u32::try_from(number).expect("small")).into()
    }

    /// So many of each sender, with SPIs from 1 on in the order of coming.
    fn filled(counts: &[usize], proven: bool) -> HalfOpens {
        let mut all = HalfOpens::default();
        for (number, count) in counts.iter().enumerate() {
            (0..*count).for_each(|_| all.add(0, all.next + 1, sender(number), proven));
        }
        all
    }

    #[test]
    fn a_proven_one_keeps_its_place_against_newer_ones_of_its_sender_until_its_time_is_over() {
        let all = filled(&[PER_SOURCE_MAX], true);
        assert_eq!(all.room(HELD_MS - 1, sender(0), true), Room::Full);
        assert_eq!(all.room(HELD_MS, sender(0), true), Room::InsteadOf(1));
        assert_eq!(all.room(0, sender(1), true), Room::Free, "another sender has room");
    }

    #[test]
    fn an_unproven_one_takes_the_place_of_nobody_and_gives_way_to_a_proven_one() {
        let all = filled(&[1; MAX], false);
        assert_eq!(all.room(HELD_MS, sender(MAX), false), Room::Full);
        assert_eq!(all.room(0, sender(MAX), true), Room::InsteadOf(1));
        assert!(all.crowded(sender(MAX), usize::MAX), "so it is asked for a cookie");
    }

    #[test]
    fn the_greediest_sender_gives_way_to_one_that_has_less() {
        let all = filled(&[PER_SOURCE_MAX - 1, PER_SOURCE_MAX - 2, 3], true);
        assert_eq!(all.len(), MAX);
        let newest = u64::try_from(PER_SOURCE_MAX - 1).expect("small");
        assert_eq!(all.room(0, sender(9_000), true), Room::InsteadOf(newest));
        assert_eq!(all.room(0, sender(0), true), Room::Full, "it has no claim against others");
    }

    #[test]
    fn senders_that_have_alike_wait_for_each_other() {
        let all = filled(&[1; MAX], true);
        assert_eq!(all.room(HELD_MS - 1, sender(MAX), true), Room::Full);
        assert_eq!(all.room(HELD_MS, sender(MAX), true), Room::InsteadOf(1));
    }

    #[test]
    fn what_is_gone_is_counted_no_more() {
        let mut all = filled(&[3, 1], true);
        assert!(all.crowded(sender(0), 30) && !all.crowded(sender(1), 30));
        (1..=4).for_each(|spi| all.forget(spi));
        all.forget(4);
        assert!(!all.crowded(sender(0), 30) && all.len() == 0);
        assert!(all.entries.is_empty() && all.places.is_empty() && all.senders.is_empty());
    }
}
