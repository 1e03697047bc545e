//! Traffic selectors (RFC 7296 sections 2.9 and 3.13): from ranges on the wire to prefixes and back.
//!
//! The engine knows prefixes and no ports, so a selector that is limited to a protocol or to ports is never agreed
//! to; a range that is no prefix is cut into the prefixes that make it up. Both only narrow, which is always allowed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::message::{Malformed, array, take, word};

/// The most selectors in one payload, and the most prefixes of one side of a child. More would not be offered, so whoever
/// configures them has to be told.
pub const MAX: usize = 128;

/// A range of addresses of one family; IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    v6: bool,
    first: u128,
    last: u128,
}

impl Range {
    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(net) => Self { v6: false, first: u32::from(net.network()).into(), last: u32::from(net.broadcast()).into() },
            IpNet::V6(net) => Self { v6: true, first: net.network().into(), last: net.broadcast().into() },
        }
    }

    fn meet(&self, other: &Self) -> Option<Self> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.v6 == other.v6 && first <= last).then_some(Self { v6: self.v6, first, last })
    }

    fn holds(&self, other: &Self) -> bool {
        self.meet(other) == Some(*other)
    }

    /// The fewest prefixes that make up this range.
    fn prefixes(&self, out: &mut Vec<IpNet>) {
        let width: u32 = if self.v6 { 128 } else { 32 };
        let mut first = self.first;
        while out.len() < MAX {
            // The largest block that starts here is bounded by the alignment of `first` and by what is left.
            let left = self.last.saturating_sub(first);
            let room = left.checked_add(1).map_or(128, u128::ilog2);
            let size = first.trailing_zeros().min(room).min(width);
            let Some(net) = prefix(self.v6, first, width.saturating_sub(size)) else { return };
            out.push(net);
            let step = 1u128.checked_shl(size).and_then(|step| first.checked_add(step));
            match step {
                Some(next) if next <= self.last => first = next,
                _ => return,
            }
        }
    }
}

fn prefix(v6: bool, first: u128, length: u32) -> Option<IpNet> {
    let length = u8::try_from(length).ok()?;
    if v6 {
        Ipv6Net::new(Ipv6Addr::from(first), length).ok().map(IpNet::V6)
    } else {
        Ipv4Net::new(Ipv4Addr::from(u32::try_from(first).ok()?), length).ok().map(IpNet::V4)
    }
}

/// Reads a payload's body. Selectors of unknown types, and those limited to a protocol or to ports, are left out.
pub(crate) fn parse(mut body: &[u8]) -> Result<Vec<Range>, Malformed> {
    const CUT: &str = "traffic selectors cut short";
    let [count, ..]: [u8; 4] = array(&mut body, CUT)?;
    let mut ranges = Vec::new();
    for _ in 0..count {
        let [kind, protocol] = array(&mut body, CUT)?;
        let length = usize::from(word(&mut body, CUT)?).checked_sub(4).ok_or(Malformed(CUT))?;
        let mut selector = take(&mut body, length, CUT)?;
        let ports = (word(&mut selector, CUT)?, word(&mut selector, CUT)?);
        let (v6, first, last) = match kind {
            7 => (false, u32::from_be_bytes(array(&mut selector, CUT)?).into(), u32::from_be_bytes(array(&mut selector, CUT)?).into()),
            8 => (true, u128::from_be_bytes(array(&mut selector, CUT)?), u128::from_be_bytes(array(&mut selector, CUT)?)),
            _ => continue,
        };
        if !selector.is_empty() {
            return Err(Malformed("a traffic selector longer than its type"));
        }
        if protocol == 0 && ports == (0, u16::MAX) && first <= last && ranges.len() < MAX {
            ranges.push(Range { v6, first, last });
        }
    }
    if body.is_empty() { Ok(ranges) } else { Err(Malformed("bytes behind the last traffic selector")) }
}

/// Writes a payload's body.
pub(crate) fn write(nets: &[IpNet]) -> Vec<u8> {
    let nets = nets.get(..MAX).unwrap_or(nets);
    let mut body = vec![u8::try_from(nets.len()).unwrap_or(u8::MAX), 0, 0, 0];
    for net in nets {
        let (kind, length, ends) = match net {
            IpNet::V4(net) => (7, 16, [net.network().octets(), net.broadcast().octets()].concat()),
            IpNet::V6(net) => (8, 40, [net.network().octets(), net.broadcast().octets()].concat()),
        };
        body.extend_from_slice(&[kind, 0, 0, length, 0, 0, 0xff, 0xff]);
        body.extend_from_slice(&ends);
    }
    body
}

/// What both sides allow: our prefixes, in our order, narrowed to what the peer offers (section 2.9).
pub(crate) fn narrow(ours: &[IpNet], offered: &[Range]) -> Vec<IpNet> {
    let mut agreed: Vec<IpNet> = Vec::new();
    for own in ours.iter().map(Range::of) {
        for meet in offered.iter().filter_map(|range| own.meet(range)) {
            if agreed.iter().all(|net| !Range::of(net).holds(&meet)) {
                meet.prefixes(&mut agreed);
            }
        }
    }
    agreed
}

/// What a responder answered, if every part of it lies within what we offered; else `None` (section 2.9).
pub(crate) fn accept(ours: &[IpNet], answered: &[Range]) -> Option<Vec<IpNet>> {
    let inside = answered.iter().all(|range| ours.iter().any(|own| Range::of(own).holds(range)));
    let mut nets = Vec::new();
    answered.iter().for_each(|range| range.prefixes(&mut nets));
    (inside && !nets.is_empty()).then_some(nets)
}

/// Whether at least one family has prefixes on both sides, so that anything at all can pass.
pub(crate) fn usable(local: &[IpNet], remote: &[IpNet]) -> bool {
    let family = |net: &IpNet| matches!(net.addr(), IpAddr::V6(_));
    local.iter().any(|one| remote.iter().any(|other| family(one) == family(other)))
}

/// Ranges for a message to people.
pub(crate) fn describe(ranges: &[Range]) -> String {
    let mut nets = Vec::new();
    ranges.iter().for_each(|range| range.prefixes(&mut nets));
    describe_nets(&nets)
}

/// Prefixes for a message to people.
pub(crate) fn describe_nets(nets: &[IpNet]) -> String {
    match nets {
        [] => "nothing".to_owned(),
        nets => nets.iter().take(8).map(IpNet::to_string).collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::{Range, accept, narrow, parse, usable, write};
    use ipnet::IpNet;
    use proptest::prelude::{any, proptest};

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().expect("a prefix")).collect()
    }

    fn ranges(text: &str) -> Vec<Range> {
        parse(&write(&nets(text))).expect("our own selectors")
    }

    #[test]
    fn the_smaller_of_two_nested_prefixes_is_agreed_on() {
        assert_eq!(narrow(&nets("10.0.0.0/8"), &ranges("10.1.0.0/16 192.168.0.0/16")), nets("10.1.0.0/16"));
        assert_eq!(narrow(&nets("10.1.0.0/16 fd00::/64"), &ranges("0.0.0.0/0 ::/0")), nets("10.1.0.0/16 fd00::/64"));
        assert_eq!(narrow(&nets("10.1.0.0/16"), &ranges("10.2.0.0/16 ::/0")), []);
    }

    #[test]
    fn what_lies_in_a_prefix_already_agreed_is_not_repeated() {
        assert_eq!(narrow(&nets("10.0.0.0/8"), &ranges("10.0.0.0/8 10.1.0.0/16")), nets("10.0.0.0/8"));
    }

    #[test]
    fn a_selector_with_ports_or_a_protocol_is_left_out() {
        for (at, value) in [(5, 6u8), (9, 80), (11, 80)] {
            let mut body = write(&nets("10.0.0.0/8"));
            body[at] = value;
            assert_eq!(parse(&body).expect("well formed"), []);
        }
    }

    #[test]
    fn an_answer_beyond_the_offer_is_not_accepted() {
        assert_eq!(accept(&nets("10.0.0.0/8"), &ranges("10.3.0.0/16")), Some(nets("10.3.0.0/16")));
        assert_eq!(accept(&nets("10.0.0.0/8"), &ranges("10.3.0.0/16 11.0.0.0/16")), None);
        assert_eq!(accept(&nets("10.0.0.0/8"), &[]), None);
    }

    #[test]
    fn lengths_are_checked() {
        let good = write(&nets("10.0.0.0/8 fd00::/8"));
        for length in 0..good.len() {
            assert!(parse(&good[..length]).is_err(), "{length}");
        }
        assert!(parse(&[good.as_slice(), &[0]].concat()).is_err());
        let mut long = write(&nets("10.0.0.0/8"));
        long[7] = 17;
        long.push(0);
        assert!(parse(&long).is_err());
    }

    #[test]
    fn families_must_meet() {
        assert!(usable(&nets("10.0.0.0/8 fd00::/8"), &nets("fd01::/16")));
        assert!(!usable(&nets("10.0.0.0/8"), &nets("fd01::/16")));
    }

    #[test]
    fn more_selectors_than_any_site_has_are_left_out() {
        let one = write(&nets("10.0.0.0/8"));
        let body = [&[u8::MAX, 0, 0, 0], one[4..].repeat(255).as_slice()].concat();
        assert_eq!(parse(&body).expect("well formed").len(), super::MAX);
    }

    #[test]
    fn a_range_gives_a_bounded_number_of_prefixes() {
        // From ::1 to the last address but one: 254 prefixes.
        let mut out = Vec::new();
        Range { v6: true, first: 1, last: u128::MAX - 1 }.prefixes(&mut out);
        assert_eq!(out.len(), super::MAX);
    }

    #[test]
    fn whole_families_are_one_prefix() {
        for net in ["0.0.0.0/0", "::/0", "255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"] {
            let mut out = Vec::new();
            ranges(net)[0].prefixes(&mut out);
            assert_eq!(out, nets(net));
        }
    }

    proptest! {
        #[test]
        fn prefixes_cover_a_range_exactly(one in any::<u32>(), other in any::<u32>()) {
            let (first, last) = (one.min(other), one.max(other));
            let mut out = Vec::new();
            Range { v6: false, first: first.into(), last: last.into() }.prefixes(&mut out);
            let mut next = u64::from(first);
            for net in &out {
                let range = Range::of(net);
                assert_eq!(range.first, u128::from(next));
                next = u64::try_from(range.last).expect("32 bits") + 1;
            }
            assert_eq!(next, u64::from(last) + 1);
        }
    }
}
