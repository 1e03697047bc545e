//! Longest prefix match: which value belongs to an inner address.
//!
//! Nested prefixes are flattened when the table is built, off the workers, into ranges that do not overlap. A lookup finds the
//! range by dividing: a node cuts the span of its ranges into cells of equal width, about one a range, and a cell that still has
//! more than a few ranges is a node of its own. So what a lookup costs hardly depends on how many prefixes there are, and a
//! small table is a few comparisons. `cargo bench --bench route` has a trie beside it.

use core::net::IpAddr;

/// Values by IPv4 and IPv6 prefix.
#[derive(Clone, Debug)]
pub struct Table<V> {
    v4: Ranges<u32, V>,
    v6: Ranges<u128, V>,
}

impl<V: Copy> Table<V> {
    /// Builds the table of (address, prefix length, value). Host bits are ignored, a length over the family's is taken
    /// for the family's, and of two values for one prefix the later one counts.
    pub fn build(prefixes: impl Iterator<Item = (IpAddr, u8, V)>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (ip, length, value) in prefixes {
            match ip {
                IpAddr::V4(ip) => {
                    let host = u32::MAX.checked_shr(length.into()).unwrap_or(0);
                    v4.push(Prefix { first: u32::from(ip) & !host, last: u32::from(ip) | host, value });
                }
                IpAddr::V6(ip) => {
                    let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
                    v6.push(Prefix { first: u128::from(ip) & !host, last: u128::from(ip) | host, value });
                }
            }
        }
        Self { v4: Ranges::build(v4, |last| last.checked_add(1)), v6: Ranges::build(v6, |last| last.checked_add(1)) }
    }

    /// The value of the longest prefix that holds an IPv4 address.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, address: [u8; 4]) -> Option<V> {
        self.v4.lookup(u32::from_be_bytes(address))
    }

    /// The value of the longest prefix that holds an IPv6 address.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, address: [u8; 16]) -> Option<V> {
        self.v6.lookup(u128::from_be_bytes(address))
    }
}

/// One prefix as the addresses that it holds.
struct Prefix<A, V> {
    first: A,
    last: A,
    value: V,
}

/// Adjacent ranges that cover the whole family: range `i` reaches from `starts[i]` to just before the next one.
#[derive(Clone, Debug)]
struct Ranges<A, V> {
    starts: Box<[A]>,
    values: Box<[Option<V>]>,
    index: Index<A>,
}

/// What the search in [`Ranges`] needs of an address.
trait Address: Copy + Ord + Default {
    /// How far behind `first`, in cells of `2^shift`; 0 in front of it, and at most `last`.
    fn cell(self, first: Self, shift: u32, last: u32) -> usize;
    /// The bits that the distance from `first` takes.
    fn bits_from(self, first: Self) -> u32;
    /// The beginning of a cell.
    fn behind(first: Self, cell: u32, shift: u32) -> Self;
}

macro_rules! address {
    ($($number:ty),*) => {$(
        impl Address for $number {
            #[inline]
            fn cell(self, first: Self, shift: u32, last: u32) -> usize {
                (self.saturating_sub(first).wrapping_shr(shift)).min(Self::from(last)) as usize
            }

            fn bits_from(self, first: Self) -> u32 {
                Self::BITS - self.saturating_sub(first).leading_zeros()
            }

            fn behind(first: Self, cell: u32, shift: u32) -> Self {
                first.saturating_add(Self::from(cell) << shift)
            }
        }
    )*};
}

address!(u32, u128);

impl<A: Address, V: Copy> Ranges<A, V> {
    fn build(mut prefixes: Vec<Prefix<A, V>>, after: impl Fn(A) -> Option<A>) -> Self {
        // Outer prefixes before those nested in them. The sort is stable: of equal ones, the later comes later.
        prefixes.sort_by(|a, b| a.first.cmp(&b.first).then(b.last.cmp(&a.last)));
        let mut ranges = Flat { starts: vec![A::default()], values: vec![None] };
        let mut open: Vec<(A, V)> = Vec::new();
        for prefix in prefixes {
            ranges.close(&mut open, &after, |last| last < prefix.first);
            ranges.push(prefix.first, Some(prefix.value));
            open.push((prefix.last, prefix.value));
        }
        ranges.close(&mut open, &after, |_| true);
        let index = Index::build(&ranges.starts);
        Self { starts: ranges.starts.into_boxed_slice(), values: ranges.values.into_boxed_slice(), index }
    }

    #[inline]
    fn lookup(&self, address: A) -> Option<V> {
        let mut at = self.index.near(address);
        while self.starts.get(at + 1).is_some_and(|start| *start <= address) {
            at += 1;
        }
        self.values.get(at).copied().flatten()
    }
}

/// Leads from an address to a range at most [`STEPS_MAX`] in front of the one that holds it.
#[derive(Clone, Debug)]
struct Index<A> {
    root: Entry,
    nodes: Vec<Node<A>>,
    cells: Vec<Entry>,
}

/// The most ranges that a search passes over one by one.
const STEPS_MAX: usize = 3;

/// Where a cell leads: to a range, or with [`Entry::NODE`] set to a node.
#[derive(Clone, Copy, Debug)]
struct Entry(u32);

/// A span of ranges in cells of equal width.
#[derive(Clone, Copy, Debug)]
struct Node<A> {
    /// The first start of a range in it.
    first: A,
    /// A cell is two to the power of this wide.
    shift: u32,
    /// The number of the last cell.
    last: u32,
    /// Where its cells stand.
    cells: u32,
}

impl Entry {
    const NODE: u32 = 1 << 31;
}

impl<A: Address> Index<A> {
    fn build(starts: &[A]) -> Self {
        let mut index = Self { root: Entry(0), nodes: Vec::new(), cells: Vec::new() };
        index.root = index.entry(starts, 0, starts.len());
        index
    }

    /// For what lies from range `lo` to just before the start of range `end`.
    fn entry(&mut self, starts: &[A], lo: usize, end: usize) -> Entry {
        let [_, inner @ ..] = starts.get(lo..end).unwrap_or_default() else { return Entry(lo as u32) };
        let ([first, ..], [.., last]) = (inner, inner) else { return Entry(lo as u32) };
        if inner.len() <= STEPS_MAX {
            return Entry(lo as u32);
        }
        // A start has at least two cells or so, and at most four.
        let shift = last.bits_from(*first).saturating_sub(inner.len().ilog2() + 2);
        let count = last.cell(*first, shift, u32::MAX) as u32;
        let (at, cells) = (self.nodes.len(), self.cells.len());
        self.nodes.push(Node { first: *first, shift, last: count, cells: cells as u32 });
        self.cells.resize(cells + count as usize + 1, Entry(0));
        let mut from = lo;
        for cell in 0..=count {
            // The first cell is also asked for what lies in front of it.
            let begin = A::behind(*first, cell, shift);
            while cell > 0 && from + 1 < end && starts[from + 1] <= begin {
                from += 1;
            }
            let next = A::behind(*first, cell + 1, shift);
            let inside = starts[from + 1..end].iter().take_while(|start| cell == count || **start < next).count();
            self.cells[cells + cell as usize] = self.entry(starts, from, from + 1 + inside);
            from += inside;
        }
        Entry(at as u32 | Entry::NODE)
    }

    #[inline]
    fn near(&self, address: A) -> usize {
        let mut entry = self.root;
        while entry.0 & Entry::NODE != 0 {
            let Some(node) = self.nodes.get((entry.0 & !Entry::NODE) as usize) else { return 0 };
            let cell = address.cell(node.first, node.shift, node.last);
            let Some(next) = self.cells.get(node.cells as usize + cell) else { return 0 };
            entry = *next;
        }
        entry.0 as usize
    }
}

/// The ranges while they are made.
struct Flat<A, V> {
    starts: Vec<A>,
    values: Vec<Option<V>>,
}

impl<A: Copy + Ord, V: Copy> Flat<A, V> {
    /// Ends the innermost open prefixes as long as `done`, going back to the value of the one around each.
    fn close(&mut self, open: &mut Vec<(A, V)>, after: &impl Fn(A) -> Option<A>, done: impl Fn(A) -> bool) {
        while let Some((last, _)) = open.pop_if(|(last, _)| done(*last)) {
            if let Some(next) = after(last) {
                self.push(next, open.last().map(|(_, value)| *value));
            }
        }
    }

    /// Begins a range, in place of one that began at the same address.
    fn push(&mut self, start: A, value: Option<V>) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.values.pop();
        }
        self.starts.push(start);
        self.values.push(value);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::Table;

    /// The slow way: every prefix that holds the address, the longest of them.
    fn slow<const N: usize>(prefixes: &[([u8; N], u8)], address: [u8; N]) -> Option<usize> {
        let holds = |prefix: [u8; N], length: u8| {
            (0..usize::from(length)).all(|bit| (prefix[bit / 8] ^ address[bit / 8]) & (0x80 >> (bit % 8)) == 0)
        };
        let mut best: Option<(u8, usize)> = None;
        for (at, (prefix, length)) in prefixes.iter().enumerate() {
            if holds(*prefix, *length) && best.is_none_or(|(other, _)| *length >= other) {
                best = Some((*length, at));
            }
        }
        best.map(|(_, at)| at)
    }

    proptest! {
        #[test]
        fn many_prefixes_agree_with_the_slow_way(
            v4 in proptest::collection::vec(((0..3u8, 0..40u8, any::<u8>(), any::<u8>()), prop_oneof![8..=32u8, Just(24), Just(32)]), 100..900),
            v6 in proptest::collection::vec(((0..3u8, 0..40u8, any::<u8>(), 0..3u8), prop_oneof![16..=128u8, Just(64), Just(128)]), 100..300),
            asks in proptest::collection::vec((0..3u8, 0..40u8, any::<u8>(), any::<u8>()), 50),
        ) {
            let near = |(a, b, c, d): (u8, u8, u8, u8)| [10 + a, b, c, d];
            let far = |(a, b, c, d): (u8, u8, u8, u8)| { let mut ip = [0; 16]; (ip[0], ip[4], ip[7], ip[15]) = (0xfd, b, c, d); ip[1] = a; ip };
            let v4: Vec<_> = v4.into_iter().map(|(ip, length)| (near(ip), length)).collect();
            let v6: Vec<_> = v6.into_iter().map(|(ip, length)| (far(ip), length)).collect();
            let all = v4.iter().enumerate().map(|(at, (ip, length))| (Ipv4Addr::from(*ip).into(), *length, at));
            let all = all.chain(v6.iter().enumerate().map(|(at, (ip, length))| (Ipv6Addr::from(*ip).into(), *length, at)));
            let table = Table::build(all);
            // The prefixes' own edges, and what lies somewhere.
            let edge = |ip: u32| [ip.wrapping_sub(1), ip, ip.wrapping_add(1)];
            for address in v4.iter().flat_map(|(ip, _)| edge(u32::from_be_bytes(*ip))).map(u32::to_be_bytes).chain(asks.iter().map(|ip| near(*ip))) {
                prop_assert_eq!(table.lookup_v4(address), slow(&v4, address));
            }
            for address in v6.iter().map(|(ip, _)| *ip).chain(asks.iter().map(|ip| far(*ip))) {
                prop_assert_eq!(table.lookup_v6(address), slow(&v6, address));
            }
        }

        #[test]
        fn agrees_with_the_slow_way(
            v4 in proptest::collection::vec((prop_oneof![any::<[u8; 4]>(), (0..4u8, 0..4u8).prop_map(|(c, d)| [10, 0, c, d])], 0..=32u8), 0..40),
            v6 in proptest::collection::vec((prop_oneof![any::<[u8; 16]>(), (0..4u8).prop_map(|d| { let mut a = [0; 16]; a[0] = 0xfd; a[15] = d; a })], 0..=128u8), 0..40),
            asks in proptest::collection::vec((0..4u8, 0..4u8, any::<[u8; 16]>()), 50),
        ) {
            let all = v4.iter().enumerate().map(|(at, (ip, length))| (Ipv4Addr::from(*ip).into(), *length, at));
            let all = all.chain(v6.iter().enumerate().map(|(at, (ip, length))| (Ipv6Addr::from(*ip).into(), *length, at)));
            let table = Table::build(all);
            for (c, d, wild) in asks {
                for address in [[10, 0, c, d], [wild[0], wild[1], wild[2], wild[3]]] {
                    prop_assert_eq!(table.lookup_v4(address), slow(&v4, address));
                }
                let mut near = [0; 16];
                (near[0], near[15]) = (0xfd, d);
                for address in [near, wild] {
                    prop_assert_eq!(table.lookup_v6(address), slow(&v6, address));
                }
            }
        }
    }
}
