//! Longest prefix match: which value belongs to an inner address.
//!
//! Nested prefixes are flattened when the table is built, off the workers, into ranges that do not overlap. A lookup
//! is then one search in a sorted array, without pointers to chase and without allocation. `cargo bench --bench route`
//! has a trie beside it, which is 3 to 20 times as slow for up to 100 prefixes and faster only for 100,000 of IPv6.

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
}

impl<A: Copy + Ord + Default, V: Copy> Ranges<A, V> {
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
        Self { starts: ranges.starts.into_boxed_slice(), values: ranges.values.into_boxed_slice() }
    }

    #[inline]
    fn lookup(&self, address: A) -> Option<V> {
        let behind = self.starts.partition_point(|start| *start <= address);
        self.values.get(behind.wrapping_sub(1)).copied().flatten()
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

    /// Begins a range. One that began at the same address is empty then, and the search passes over it.
    fn push(&mut self, start: A, value: Option<V>) {
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
