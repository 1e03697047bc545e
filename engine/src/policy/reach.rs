//! Which policies an inner packet can belong to, made when a table is built so that a packet asks twice and not for every pair:
//! its remote address leads to the policies that have it, each with the local addresses that go with it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::{Policy, Prefix};
use crate::route;

/// Where a remote address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    first: u32,
    count: NonZeroU32,
}

/// A policy that a remote address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    place: u32,
    locals: u32,
}

impl Candidate {
    /// The policy's place in the table.
    #[must_use]
    pub fn place(&self) -> usize {
        self.place as usize
    }
}

/// Local addresses as ranges that do not touch, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Locals {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Locals {
    fn new(prefixes: &[Prefix]) -> Self {
        let joined = |v6: bool| {
            let mut ranges: Vec<_> = prefixes.iter().filter(|prefix| prefix.v6 == v6).map(|prefix| prefix.range()).collect();
            ranges.sort_unstable();
            let mut joined: Vec<(u128, u128)> = Vec::new();
            for (first, last) in ranges {
                match joined.last_mut() {
                    Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                    _ => joined.push((first, last)),
                }
            }
            joined
        };
        let v4 = |number: u128| u32::try_from(number).unwrap_or(u32::MAX);
        Self { v4: joined(false).into_iter().map(|(first, last)| (v4(first), v4(last))).collect(), v6: joined(true).into() }
    }

    #[inline]
    fn holds(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => within(&self.v4, u32::from(v4)),
            IpAddr::V6(v6) => within(&self.v6, u128::from(v6)),
        }
    }
}

#[inline]
fn within<A: Copy + Ord>(ranges: &[(A, A)], address: A) -> bool {
    // Mostly there is one.
    if let [(first, last)] = ranges {
        return *first <= address && address <= *last;
    }
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

/// All of it, for a table.
#[derive(Debug)]
pub(super) struct Reaches {
    remotes: route::Table<Reach>,
    candidates: Vec<Candidate>,
    locals: Vec<Locals>,
}

impl Reaches {
    /// `peers` gives for each policy the first one of its peer.
    pub(super) fn new(policies: &[Policy], peers: &[usize]) -> Self {
        let mut by_peer: BTreeMap<usize, Remotes> = BTreeMap::new();
        for (at, (policy, peer)) in policies.iter().zip(peers).enumerate() {
            by_peer.entry(*peer).or_default().add(at as u32, policy);
        }
        let mut building = Building::default();
        let mut prefixes = Vec::new();
        for (at, (policy, peer)) in policies.iter().zip(peers).enumerate() {
            let Some(remotes) = by_peer.get(peer) else { continue };
            let own: BTreeSet<_> = policy.pairs.iter().map(|(_, remote)| remote.parts()).collect();
            for (ip, length) in own {
                let reach = Prefix::new(ip, length).and_then(|remote| building.reach(remotes, at as u32, remote));
                prefixes.extend(reach.map(|reach| (ip, length, reach)));
            }
        }
        let remotes = route::Table::build(prefixes.into_iter());
        Self { remotes, candidates: building.candidates, locals: building.locals }
    }

    #[inline]
    pub(super) fn route(&self, remote: IpAddr) -> Option<Reach> {
        match remote {
            IpAddr::V4(v4) => self.remotes.lookup_v4(v4.octets()),
            IpAddr::V6(v6) => self.remotes.lookup_v6(v6.octets()),
        }
    }

    #[inline]
    pub(super) fn candidates(&self, reach: Reach) -> &[Candidate] {
        let first = reach.first as usize;
        self.candidates.get(first..first + reach.count.get() as usize).unwrap_or_default()
    }

    #[inline]
    pub(super) fn holds(&self, candidate: &Candidate, local: IpAddr) -> bool {
        self.locals.get(candidate.locals as usize).is_some_and(|locals| locals.holds(local))
    }
}

/// The remote prefixes of one peer.
#[derive(Default)]
struct Remotes {
    /// With the places of the policies that have them, and the local prefixes that go with them.
    pairs: HashMap<Prefix, Vec<(u32, Prefix)>>,
    lengths: BTreeSet<u8>,
}

impl Remotes {
    fn add(&mut self, place: u32, policy: &Policy) {
        for (local, remote) in &policy.pairs {
            self.pairs.entry(*remote).or_default().push((place, *local));
            self.lengths.insert(remote.length);
        }
    }
}

/// Equal lists are kept once: most prefixes of a peer have the same.
#[derive(Default)]
struct Building {
    candidates: Vec<Candidate>,
    locals: Vec<Locals>,
    known_lists: HashMap<Vec<Candidate>, Reach>,
    known_locals: HashMap<Locals, u32>,
}

impl Building {
    /// What belongs to the addresses of `remote`, a prefix of the policy at `place`, that no longer prefix has.
    fn reach(&mut self, remotes: &Remotes, place: u32, remote: Prefix) -> Option<Reach> {
        // The policy itself, those behind it, and those in front of it.
        let mut found: BTreeMap<(bool, u32), Vec<Prefix>> = BTreeMap::new();
        for length in remotes.lengths.range(..=remote.length) {
            for (at, local) in remotes.pairs.get(&remote.around(*length)).into_iter().flatten() {
                found.entry((*at < place, *at)).or_default().push(*local);
            }
        }
        let list: Vec<_> = found.into_iter().map(|((_, place), locals)| Candidate { place, locals: self.locals(&locals) }).collect();
        if let Some(known) = self.known_lists.get(&list) {
            return Some(*known);
        }
        let reach = Reach { first: self.candidates.len() as u32, count: NonZeroU32::new(list.len() as u32)? };
        self.candidates.extend(&list);
        self.known_lists.insert(list, reach);
        Some(reach)
    }

    fn locals(&mut self, prefixes: &[Prefix]) -> u32 {
        let locals = Locals::new(prefixes);
        *self.known_locals.entry(locals).or_insert_with_key(|locals| {
            self.locals.push(locals.clone());
            self.locals.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use proptest::prelude::*;

    use crate::policy::{Lasting, Policy, PolicyTable, Prefix};

    type Net = (IpAddr, u8);
    /// A peer's number and the pairs of one of its policies.
    type Agreed = (u8, Vec<(Net, Net)>);

    fn holds((net, length): Net, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, false),
            IpAddr::V6(v6) => (u128::from(v6), true),
        };
        let ((net, net_v6), (ip, ip_v6)) = (bits(net), bits(ip));
        net_v6 == ip_v6 && (net ^ ip).leading_zeros() >= u32::from(length)
    }

    /// The slow way: of the peer with the longest remote prefix (of equal ones the last), every policy with a pair that holds both.
    fn slow(policies: &[Agreed], local: IpAddr, remote: IpAddr) -> Vec<usize> {
        let mut best: Option<(u8, usize)> = None;
        for (at, (_, pairs)) in policies.iter().enumerate() {
            for (_, net) in pairs.iter().filter(|(_, net)| holds(*net, remote)) {
                if best.is_none_or(|(length, _)| net.1 >= length) {
                    best = Some((net.1, at));
                }
            }
        }
        let Some((_, routed)) = best else { return Vec::new() };
        let of_peer = (routed..policies.len()).chain(0..routed).filter(|at| policies[*at].0 == policies[routed].0);
        of_peer.filter(|at| policies[*at].1.iter().any(|(ours, theirs)| holds(*ours, local) && holds(*theirs, remote))).collect()
    }

    fn net() -> impl Strategy<Value = Net> {
        let v4 = (0..3u8, 0..3u8, prop_oneof![Just(0u8), Just(8), Just(16), Just(24), Just(32)]);
        let v6 = (0..3u8, 0..3u8, prop_oneof![Just(0u8), Just(16), Just(64), Just(128)]);
        prop_oneof![
            v4.prop_map(|(b, c, length)| (IpAddr::from([10, b, c, 0]), length)),
            v6.prop_map(|(b, c, length)| (IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, b, 0, 0, 0, 0, 0, 0, 0, c]), length))
        ]
    }

    proptest! {
        #[test]
        fn a_packet_belongs_to_what_the_slow_way_finds(
            policies in proptest::collection::vec((0..3u8, proptest::collection::vec((net(), net()), 0..8)), 0..8),
            asks in proptest::collection::vec((net(), net()), 40),
        ) {
            let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
            let policy = |(at, (peer, pairs)): (usize, &Agreed)| Policy {
                id: at as u32,
                name: peer.to_string(),
                pairs: pairs.iter().map(|(local, remote)| (prefix(*local), prefix(*remote))).collect(),
                lasting: Arc::new(Lasting::new(1)),
            };
            let table = PolicyTable::new(1, policies.iter().enumerate().map(policy).collect());
            for ((local, _), (remote, _)) in asks {
                let candidates = table.route(remote).map(|reach| table.candidates(reach)).unwrap_or_default();
                let found: Vec<_> = candidates.iter().filter(|one| table.holds(one, local)).map(super::Candidate::place).collect();
                prop_assert_eq!(found, slow(&policies, local, remote), "{} to {}", local, remote);
            }
        }
    }
}
