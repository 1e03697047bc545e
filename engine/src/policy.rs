//! Policies: which inner packets may pass to and from which peer. Built by the admin thread as a whole, read by every core.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::route;

/// What a core counts for a policy. One writer each; it goes on from table to table, so nothing is ever reset.
#[derive(Debug, Default)]
pub struct Cell {
    /// Inner packets sealed.
    pub outbound_packets: AtomicU64,
    /// Inner bytes sealed.
    pub outbound_bytes: AtomicU64,
    /// Inner packets opened.
    pub inbound_packets: AtomicU64,
    /// Inner bytes opened.
    pub inbound_bytes: AtomicU64,
    /// When the last packet was opened, in the engine's milliseconds; 0: never.
    pub inbound_ms: AtomicU64,
}

/// What all cores share of a policy, from table to table.
#[derive(Debug)]
pub struct Lasting {
    /// One cell a core.
    pub cells: Box<[Cell]>,
    /// The core that owns the fallback SA, plus one; 0: none.
    fallback: AtomicU32,
}

impl Lasting {
    /// For `cores` cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self { cells: (0..cores).map(|_| Cell::default()).collect(), fallback: AtomicU32::new(0) }
    }

    /// The core that takes packets of cores without an SA of their own.
    #[must_use]
    pub fn fallback(&self) -> Option<u16> {
        self.fallback.load(Ordering::Relaxed).checked_sub(1).and_then(|core| u16::try_from(core).ok())
    }

    /// This core owns the fallback SA now.
    pub(crate) fn claim(&self, core: u16) {
        self.fallback.store(u32::from(core) + 1, Ordering::Relaxed);
    }

    /// This core has no SA of the policy any more.
    pub(crate) fn release(&self, core: u16) {
        // Another core may have claimed it meanwhile: then that one stays.
        let own = u32::from(core) + 1;
        let _ = self.fallback.compare_exchange(own, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// An address prefix as a pair of numbers, so that holding an address is a shift and a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    v6: bool,
    bits: u128,
    length: u8,
}

impl Prefix {
    /// Host bits are ignored; `None` if the length is over the family's.
    #[must_use]
    pub fn new(ip: IpAddr, length: u8) -> Option<Self> {
        let (v6, bits, width) = key(ip);
        (length <= width).then(|| Self { v6, bits: high(bits, length), length })
    }

    /// Whether the prefix holds an address.
    #[must_use]
    pub fn holds(&self, ip: IpAddr) -> bool {
        let (v6, bits, _) = key(ip);
        v6 == self.v6 && high(bits, self.length) == self.bits
    }
}

impl From<&Prefix> for penstock_uapi::Prefix {
    fn from(prefix: &Prefix) -> Self {
        let bits = if prefix.length == 0 { 0 } else { prefix.bits << (128 - u32::from(prefix.length)) };
        let v4 = u32::try_from(bits >> 96).unwrap_or_default();
        let ip = if prefix.v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4(v4.into()) };
        Self::new(ip, prefix.length)
    }
}

/// Family, address at the high end of 128 bits, width in bits.
fn key(ip: IpAddr) -> (bool, u128, u8) {
    match ip {
        IpAddr::V4(v4) => (false, u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (true, u128::from(v6), 128),
    }
}

fn high(bits: u128, length: u8) -> u128 {
    if length == 0 { 0 } else { bits >> (128 - u32::from(length)) }
}

/// One policy.
#[derive(Debug)]
pub struct Policy {
    /// Control's number for it.
    pub id: u32,
    /// The peer's name.
    pub name: String,
    /// Agreed pairs (local, remote), in order of preference.
    pub pairs: Vec<(Prefix, Prefix)>,
    /// What outlives this table.
    pub lasting: Arc<Lasting>,
}

impl Policy {
    /// Whether a packet between these inner addresses, seen from this side, belongs to an agreed pair.
    #[must_use]
    pub fn holds(&self, local: IpAddr, remote: IpAddr) -> bool {
        self.pairs.iter().any(|(ours, theirs)| ours.holds(local) && theirs.holds(remote))
    }

    /// Whether an address is on the peer's side of an agreed pair.
    #[must_use]
    pub fn reaches(&self, remote: IpAddr) -> bool {
        self.pairs.iter().any(|(_, theirs)| theirs.holds(remote))
    }
}

/// All policies of one generation.
#[derive(Debug)]
pub struct PolicyTable {
    /// Control's number for this table.
    pub generation: u64,
    /// Sorted by id.
    pub policies: Vec<Policy>,
    /// From a peer's subnets to the policy's place in [`Self::policies`].
    remotes: route::Table<u32>,
    /// Of each policy: where its peer's first one stands, and where the next one of its peer does. The last one's next is the first.
    kin: Vec<Kin>,
}

#[derive(Clone, Copy, Debug)]
struct Kin {
    first: usize,
    next: usize,
}

/// Policies of one name are one peer's, one for each set of pairs that its children have.
fn kin(policies: &[Policy]) -> Vec<Kin> {
    let mut rings: HashMap<&str, Kin> = HashMap::new();
    let mut kin: Vec<Kin> = Vec::with_capacity(policies.len());
    for (at, policy) in policies.iter().enumerate() {
        kin.push(*rings.entry(&policy.name).or_insert(Kin { first: at, next: at }));
    }
    // From the back, so that the last one of a ring is given its first.
    for (at, policy) in policies.iter().enumerate().rev() {
        if let Some(ring) = rings.get_mut(policy.name.as_str()) {
            kin[at].next = std::mem::replace(&mut ring.next, at);
        }
    }
    kin
}

impl PolicyTable {
    /// Builds a table; `remotes` are the prefixes of each policy's pairs, given again with their lengths for the route table.
    #[must_use]
    pub fn new(generation: u64, mut policies: Vec<(Policy, Vec<(IpAddr, u8)>)>) -> Self {
        policies.sort_by_key(|(policy, _)| policy.id);
        let prefixes = policies.iter().enumerate().flat_map(|(at, (_, remotes))| {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            remotes.iter().map(move |(ip, length)| (*ip, *length, at))
        });
        let remotes = route::Table::build(prefixes);
        let policies: Vec<Policy> = policies.into_iter().map(|(policy, _)| policy).collect();
        let kin = kin(&policies);
        Self { generation, policies, remotes, kin }
    }

    /// The place of the policy whose remote subnets hold an address, by the longest prefix.
    #[must_use]
    pub fn route(&self, ip: IpAddr) -> Option<usize> {
        let found = match ip {
            IpAddr::V4(v4) => self.remotes.lookup_v4(v4.octets()),
            IpAddr::V6(v6) => self.remotes.lookup_v6(v6.octets()),
        };
        found.map(|at| at as usize)
    }

    /// The policy at `at` and then the other ones of its peer.
    pub fn kin(&self, at: usize) -> impl Iterator<Item = usize> + '_ {
        let next = move |now: &usize| self.kin.get(*now).map(|kin| kin.next).filter(|next| *next != at);
        std::iter::successors(Some(at), next)
    }

    /// Whether two policies are of one peer, by their places.
    #[must_use]
    pub fn of_one_peer(&self, one: usize, other: usize) -> bool {
        self.kin.get(one).zip(self.kin.get(other)).is_some_and(|(one, other)| one.first == other.first)
    }

    /// What a core counts for the peer of a policy: the first policy of a peer has it for all of them, so that nothing is
    /// lost from a total when the others go.
    #[must_use]
    pub fn cell(&self, at: usize, core: u16) -> Option<&Cell> {
        self.policies.get(self.kin.get(at)?.first)?.lasting.cells.get(usize::from(core))
    }

    /// The place of a policy by its number.
    #[must_use]
    pub fn place(&self, id: u32) -> Option<usize> {
        self.policies.binary_search_by_key(&id, |policy| policy.id).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Lasting, Policy, PolicyTable, Prefix};

    #[test]
    fn policies_of_one_name_are_found_from_each_of_them() {
        let policy =
            |id: u32, name: &str| (Policy { id, name: name.into(), pairs: Vec::new(), lasting: Arc::new(Lasting::new(1)) }, Vec::new());
        let all = [(9, "b"), (1, "a"), (3, "b"), (5, "b"), (7, "c")];
        let table = PolicyTable::new(1, all.map(|(id, name)| policy(id, name)).into());
        // Sorted: a 1, b 3, b 5, c 7, b 9.
        let kin = |at| table.kin(at).collect::<Vec<_>>();
        assert_eq!([kin(0), kin(1), kin(2), kin(3), kin(4)], [vec![0], vec![1, 2, 4], vec![2, 4, 1], vec![3], vec![4, 1, 2]]);
        assert!(table.of_one_peer(4, 1) && !table.of_one_peer(4, 3));
        let counted = |at| std::ptr::from_ref(table.cell(at, 0).expect("a core"));
        assert!(counted(4) == counted(1) && counted(2) == counted(1) && counted(3) != counted(1));
    }

    #[test]
    fn a_prefix_holds_its_own() {
        let prefix = |ip: &str, length| Prefix::new(ip.parse().expect("an address"), length).expect("a length");
        let ip = |text: &str| text.parse().expect("an address");
        assert!(prefix("10.1.0.0", 16).holds(ip("10.1.255.255")) && !prefix("10.1.0.0", 16).holds(ip("10.2.0.0")));
        assert!(prefix("0.0.0.0", 0).holds(ip("1.2.3.4")) && !prefix("0.0.0.0", 0).holds(ip("::1")));
        assert!(prefix("::", 0).holds(ip("::1")) && !prefix("::", 0).holds(ip("1.2.3.4")));
        assert!(prefix("fd00::7", 128).holds(ip("fd00::7")) && !prefix("fd00::7", 128).holds(ip("fd00::6")));
        assert!(prefix("10.0.0.1", 32).holds(ip("10.0.0.1")) && !prefix("10.0.0.1", 32).holds(ip("10.0.0.0")));
        assert_eq!(Prefix::new(ip("10.0.0.0"), 33), None);
        for (net, length) in [("10.1.0.0", 16), ("0.0.0.0", 0), ("::", 0), ("fd00::7", 128), ("10.0.0.1", 32)] {
            let told = penstock_uapi::Prefix::from(&prefix(net, length));
            assert_eq!(told.parts(), Some((ip(net), length)));
        }
    }
}
