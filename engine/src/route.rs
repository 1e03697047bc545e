//! Longest-prefix match from an address to whatever a policy table keeps for it. Built where allocation is allowed,
//! read by the workers without any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Prefixes of both families with a value each.
#[derive(Debug)]
pub struct Table<V> {
    v4: PrefixMap<Ipv4Net, V>,
    v6: PrefixMap<Ipv6Net, V>,
}

impl<V: Copy> Table<V> {
    /// Builds a table. Of equal prefixes the last one counts; a prefix whose length is not its family's is left out.
    pub fn build(prefixes: impl Iterator<Item = (IpAddr, u8, V)>) -> Self {
        let (mut v4, mut v6) = (PrefixMap::new(), PrefixMap::new());
        for (ip, length, value) in prefixes {
            match ip {
                IpAddr::V4(ip) => Ipv4Net::new(ip, length).ok().map(|net| v4.insert(net.trunc(), value)),
                IpAddr::V6(ip) => Ipv6Net::new(ip, length).ok().map(|net| v6.insert(net.trunc(), value)),
            };
        }
        Self { v4, v6 }
    }

    /// The value of the longest prefix that holds an IPv4 address in network byte order.
    #[must_use]
    pub fn lookup_v4(&self, address: [u8; 4]) -> Option<V> {
        self.v4.get_lpm(&Ipv4Net::from(Ipv4Addr::from(address))).map(|(_, value)| *value)
    }

    /// The value of the longest prefix that holds an IPv6 address in network byte order.
    #[must_use]
    pub fn lookup_v6(&self, address: [u8; 16]) -> Option<V> {
        self.v6.get_lpm(&Ipv6Net::from(Ipv6Addr::from(address))).map(|(_, value)| *value)
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
