//! Policies: which inner packets may pass to and from which peer. Built by the admin thread as a whole, read by every core.

mod reach;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use reach::Reaches;
pub use reach::{Candidate, Reach};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// The prefix of this length that holds it; itself if that is not shorter.
    fn around(self, length: u8) -> Self {
        let length = length.min(self.length);
        let bits = if length == 0 { 0 } else { self.bits >> (self.length - length) };
        Self { bits, length, ..self }
    }

    /// Its first and its last address, at the low end of 128 bits.
    fn range(self) -> (u128, u128) {
        let width = if self.v6 { 128 } else { 32 };
        let host = u128::MAX.checked_shr(128 - width + u32::from(self.length)).unwrap_or(0) & (u128::MAX >> (128 - width));
        let first = self.bits.checked_shl(width - u32::from(self.length)).unwrap_or(0);
        (first, first | host)
    }

    /// Its first address and its length.
    fn parts(self) -> (IpAddr, u8) {
        let (first, _) = self.range();
        let v4 = || u32::try_from(first).unwrap_or_default();
        (if self.v6 { IpAddr::V6(first.into()) } else { IpAddr::V4(v4().into()) }, self.length)
    }
}

impl From<&Prefix> for penstock_uapi::Prefix {
    fn from(prefix: &Prefix) -> Self {
        let (ip, length) = prefix.parts();
        Self::new(ip, length)
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

/// All policies of one generation.
#[derive(Debug)]
pub struct PolicyTable {
    /// Control's number for this table.
    pub generation: u64,
    /// Sorted by id.
    pub policies: Vec<Policy>,
    reaches: Reaches,
    /// Of each policy: where its peer's first one stands.
    peers: Vec<usize>,
}

/// Policies of one name are one peer's, one for each set of pairs that its children have.
fn peers(policies: &[Policy]) -> Vec<usize> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    policies.iter().enumerate().map(|(at, policy)| *first.entry(&policy.name).or_insert(at)).collect()
}

impl PolicyTable {
    /// Builds a table.
    #[must_use]
    pub fn new(generation: u64, mut policies: Vec<Policy>) -> Self {
        policies.sort_by_key(|policy| policy.id);
        let peers = peers(&policies);
        let reaches = Reaches::new(&policies, &peers);
        Self { generation, policies, reaches, peers }
    }

    /// The policies of the peer whose remote subnets hold an address, by the longest prefix.
    #[inline]
    #[must_use]
    pub fn route(&self, remote: IpAddr) -> Option<Reach> {
        self.reaches.route(remote)
    }

    /// Those policies, as far as a pair of theirs has the address: the one with the longest prefix first.
    #[inline]
    #[must_use]
    pub fn candidates(&self, reach: Reach) -> &[Candidate] {
        self.reaches.candidates(reach)
    }

    /// Whether the candidate has a pair with this local address and the remote one that led to it.
    #[inline]
    #[must_use]
    pub fn holds(&self, candidate: &Candidate, local: IpAddr) -> bool {
        self.reaches.holds(candidate, local)
    }

    /// Whether two policies are of one peer, by their places.
    #[must_use]
    pub fn of_one_peer(&self, one: usize, other: usize) -> bool {
        self.peers.get(one).zip(self.peers.get(other)).is_some_and(|(one, other)| one == other)
    }

    /// What a core counts for the peer of a policy: the first policy of a peer has it for all of them, so that nothing is
    /// lost from a total when the others go.
    #[must_use]
    pub fn cell(&self, at: usize, core: u16) -> Option<&Cell> {
        self.policies.get(*self.peers.get(at)?)?.lasting.cells.get(usize::from(core))
    }

    /// The place of a policy by its number.
    #[must_use]
    pub fn place(&self, id: u32) -> Option<usize> {
        self.policies.binary_search_by_key(&id, |policy| policy.id).ok()
    }

    /// The same, if it is likely to be where it was.
    #[inline]
    #[must_use]
    pub fn place_near(&self, id: u32, last: usize) -> Option<usize> {
        let unmoved = self.policies.get(last).is_some_and(|policy| policy.id == id);
        if unmoved { Some(last) } else { self.place(id) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Lasting, Policy, PolicyTable, Prefix};

    #[test]
    fn policies_of_one_name_are_one_peers() {
        let policy = |id: u32, name: &str| Policy { id, name: name.into(), pairs: Vec::new(), lasting: Arc::new(Lasting::new(1)) };
        let all = [(9, "b"), (1, "a"), (3, "b"), (5, "b"), (7, "c")];
        let table = PolicyTable::new(1, all.map(|(id, name)| policy(id, name)).into());
        // Sorted: a 1, b 3, b 5, c 7, b 9.
        assert!(table.of_one_peer(4, 1) && table.of_one_peer(1, 2) && !table.of_one_peer(4, 3) && !table.of_one_peer(0, 9));
        let counted = |at| std::ptr::from_ref(table.cell(at, 0).expect("a core"));
        assert!(counted(4) == counted(1) && counted(2) == counted(1) && counted(3) != counted(1));
    }

    #[test]
    fn a_policy_is_found_where_it_was_and_where_it_went() {
        let policy = |id: u32| Policy { id, name: id.to_string(), pairs: Vec::new(), lasting: Arc::new(Lasting::new(1)) };
        let table = PolicyTable::new(1, [3, 5, 9].map(policy).into());
        for last in 0..5 {
            assert_eq!([3, 5, 9, 4].map(|id| table.place_near(id, last)), [Some(0), Some(1), Some(2), None]);
        }
    }

    #[test]
    fn a_prefix_is_what_it_was_made_of() {
        let ip = |text: &str| text.parse().expect("an address");
        assert_eq!(Prefix::new(ip("10.0.0.0"), 33), None);
        for (host, net, length, last) in [
            ("10.1.2.3", "10.1.0.0", 16, "10.1.255.255"),
            ("1.2.3.4", "0.0.0.0", 0, "255.255.255.255"),
            ("10.0.0.1", "10.0.0.1", 32, "10.0.0.1"),
        ] {
            let prefix = Prefix::new(ip(host), length).expect("a length");
            assert_eq!(prefix.parts(), (ip(net), length));
            let number = |text: &str| u128::from(u32::from(text.parse::<std::net::Ipv4Addr>().expect("an address")));
            assert_eq!(prefix.range(), (number(net), number(last)));
            assert_eq!(penstock_uapi::Prefix::from(&prefix).parts(), Some((ip(net), length)));
        }
        for (host, net, length, last) in [("fd00::7", "fd00::", 64, "fd00::ffff:ffff:ffff:ffff"), ("fd00::7", "fd00::7", 128, "fd00::7")] {
            let prefix = Prefix::new(ip(host), length).expect("a length");
            assert_eq!(prefix.parts(), (ip(net), length));
            let number = |text: &str| u128::from(text.parse::<std::net::Ipv6Addr>().expect("an address"));
            assert_eq!(prefix.range(), (number(net), number(last)));
            assert_eq!(prefix.around(200), prefix);
        }
        let all = Prefix::new(ip("::1"), 0).expect("a length");
        assert_eq!((all.range(), all.parts()), ((0, u128::MAX), (ip("::"), 0)));
        let deep = Prefix::new(ip("10.1.2.3"), 24).expect("a length");
        assert_eq!((deep.around(8).parts(), deep.around(0).parts()), ((ip("10.0.0.0"), 8), (ip("0.0.0.0"), 0)));
    }
}
