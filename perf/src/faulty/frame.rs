//! UDP in IP in an Ethernet frame: found, changed, and made whole again with lengths and checksums that hold.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::chance::{Alteration, Change, draw};
use super::script::Region;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const PROTOCOL_UDP: u8 = 17;
/// What an ESP packet has before its ciphertext: SPI, sequence number, IV.
const ESP_HEAD_BYTES: usize = 16;
const ICV_BYTES: usize = 16;
/// What an ICMP error quotes of the packet at most, so that it fits everywhere.
const QUOTE_BYTES: usize = 500;

/// Where the parts of a UDP datagram stand in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: [u16; 2],
    udp_at: usize,
    end: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = frame.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn addresses<const N: usize>(frame: &[u8], at: usize) -> Option<[[u8; N]; 2]> {
    Some([frame.get(at..at + N)?.try_into().ok()?, frame.get(at + N..at + 2 * N)?.try_into().ok()?])
}

impl Datagram {
    /// Finds an unfragmented UDP datagram over IPv4 without options or IPv6 without extensions.
    pub(crate) fn find(frame: &[u8]) -> Option<Self> {
        let ip = ETHERNET_BYTES;
        let (source, destination, udp_at, end) = match (word(frame, 12)?, *frame.get(ip)?) {
            (0x0800, 0x45) => {
                if *frame.get(ip + 9)? != PROTOCOL_UDP || word(frame, ip + 6)? & 0x3fff != 0 {
                    return None;
                }
                let [source, destination] = addresses::<4>(frame, ip + 12)?.map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
                (source, destination, ip + IPV4_BYTES, ip + usize::from(word(frame, ip + 2)?))
            }
            (0x86dd, _) => {
                if *frame.get(ip + 6)? != PROTOCOL_UDP {
                    return None;
                }
                let [source, destination] = addresses::<16>(frame, ip + 8)?.map(|octets| IpAddr::V6(Ipv6Addr::from(octets)));
                (source, destination, ip + IPV6_BYTES, ip + IPV6_BYTES + usize::from(word(frame, ip + 4)?))
            }
            _ => return None,
        };
        let whole = end <= frame.len() && udp_at + usize::from(word(frame, udp_at + 4)?) == end;
        let ports = [word(frame, udp_at)?, word(frame, udp_at + 2)?];
        (whole && end >= udp_at + UDP_BYTES).then_some(Self { source, destination, ports, udp_at, end })
    }

    pub(super) fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(self.udp_at + UDP_BYTES..self.end).unwrap_or_default()
    }

    /// SPI and IV, if this is ESP: what is neither IKE (four zero bytes, or port 500) nor a keepalive.
    pub(super) fn esp(&self, frame: &[u8]) -> Option<(u32, u64)> {
        let payload = self.payload(frame);
        let spi = u32::from_be_bytes(payload.get(..4)?.try_into().ok()?);
        let iv = u64::from_be_bytes(payload.get(8..16)?.try_into().ok()?);
        (spi != 0 && !self.ports.contains(&500)).then_some((spi, iv))
    }

    /// Whether this is an IKE message: on port 500, or behind four zero bytes.
    pub(super) fn is_ike(&self, frame: &[u8]) -> bool {
        self.ports.contains(&500) || self.payload(frame).starts_with(&[0; 4])
    }

    /// The IP packet's length.
    pub(super) fn ip_bytes(&self) -> usize {
        self.end - ETHERNET_BYTES
    }

    /// The same frame with another payload.
    pub(crate) fn with_payload(&self, frame: &[u8], payload: &[u8]) -> Vec<u8> {
        let head = frame.get(..self.udp_at + UDP_BYTES).unwrap_or_default();
        let mut new = [head, payload].concat();
        let udp_bytes = (UDP_BYTES + payload.len()) as u16;
        let ip = ETHERNET_BYTES;
        if self.source.is_ipv4() {
            put(&mut new, ip + 2, &(IPV4_BYTES as u16 + udp_bytes).to_be_bytes());
        } else {
            put(&mut new, ip + 4, &udp_bytes.to_be_bytes());
        }
        put(&mut new, self.udp_at + 4, &udp_bytes.to_be_bytes());
        self.mend(&mut new);
        new
    }

    /// Makes the checksums hold; a UDP checksum that is not used stays so.
    fn mend(&self, frame: &mut [u8]) {
        let ip = ETHERNET_BYTES;
        if self.source.is_ipv4() {
            mend_ipv4(frame);
        }
        if word(frame, self.udp_at + 6) == Some(0) {
            return;
        }
        put(frame, self.udp_at + 6, &[0, 0]);
        let addresses_at = if self.source.is_ipv4() { ip + 12 } else { ip + 8 };
        let udp = frame.get(addresses_at..).unwrap_or_default();
        let length = (frame.len() - self.udp_at) as u64;
        let sum = fold(sum_words(udp) + u64::from(PROTOCOL_UDP) + length);
        put(frame, self.udp_at + 6, &(if sum == 0 { 0xffff } else { sum }).to_be_bytes());
    }

    /// A changed copy.
    pub(super) fn altered(&self, frame: &[u8], alteration: Alteration, region: Region, bits: u32) -> Vec<u8> {
        let mut payload = self.payload(frame).to_vec();
        let length = payload.len();
        match alteration.change {
            Change::Truncate => payload.truncate((alteration.draw % length.max(1) as u64) as usize),
            Change::Extend => payload.extend((0..=alteration.draw % 64).map(|at| (alteration.draw >> (at % 57)) as u8)),
            Change::Flip if region == Region::Udp => return self.with_ports_flipped(frame, alteration.draw),
            Change::Flip => {
                let range = range_of(region, length);
                let mut flipped = Vec::new();
                for at in 0..u64::from(bits.max(1)) {
                    let bit = draw(alteration.draw, 0, at, 0) % (range.len() as u64 * 8).max(1);
                    // A bit flipped twice would be none.
                    if !flipped.contains(&bit) {
                        flipped.push(bit);
                        if let Some(byte) = payload.get_mut(range.start + (bit / 8) as usize) {
                            *byte ^= 1 << (bit % 8);
                        }
                    }
                }
            }
        }
        self.with_payload(frame, &payload)
    }

    fn with_ports_flipped(&self, frame: &[u8], draw: u64) -> Vec<u8> {
        let [source, destination] = self.ports;
        let flipped = |port: u16, bit: u64| port ^ 1 << (bit & 15);
        let ports = if draw >> 8 & 1 == 0 { [flipped(source, draw), destination] } else { [source, flipped(destination, draw)] };
        self.readdressed(frame, [self.source, self.destination], ports)
    }

    /// The same datagram between other addresses (of the same family) and ports.
    pub(crate) fn readdressed(&self, frame: &[u8], addresses: [IpAddr; 2], ports: [u16; 2]) -> Vec<u8> {
        let mut new = frame.get(..self.end).unwrap_or_default().to_vec();
        for (index, (address, port)) in addresses.into_iter().zip(ports).enumerate() {
            match address {
                IpAddr::V4(v4) => put(&mut new, ETHERNET_BYTES + 12 + 4 * index, &v4.octets()),
                IpAddr::V6(v6) => put(&mut new, ETHERNET_BYTES + 8 + 16 * index, &v6.octets()),
            }
            put(&mut new, self.udp_at + 2 * index, &port.to_be_bytes());
        }
        self.mend(&mut new);
        new
    }

    /// The datagram as two IPv4 fragments; whole if it is IPv6 or too short. The identification has to be new: what says "do not fragment"
    /// has none of its own (RFC 6864).
    pub(super) fn fragments(&self, frame: &[u8], identification: u16) -> Vec<Vec<u8>> {
        let body = frame.get(self.udp_at..self.end).unwrap_or_default();
        let cut = (body.len() / 2) & !7;
        if !self.source.is_ipv4() || cut == 0 {
            return vec![frame.to_vec()];
        }
        const MORE: u16 = 0x2000;
        let part = |bytes: &[u8], offset: u16| {
            let mut new = [frame.get(..self.udp_at).unwrap_or_default(), bytes].concat();
            put(&mut new, ETHERNET_BYTES + 2, &((IPV4_BYTES + bytes.len()) as u16).to_be_bytes());
            put(&mut new, ETHERNET_BYTES + 4, &identification.to_be_bytes());
            put(&mut new, ETHERNET_BYTES + 6, &offset.to_be_bytes());
            mend_ipv4(&mut new);
            new
        };
        let (first, second) = body.split_at(cut);
        vec![part(first, MORE), part(second, (cut / 8) as u16)]
    }

    /// What a router says when this is larger than its next link (RFC 792, RFC 1191, RFC 4443 section 3.2).
    pub(super) fn too_big(&self, frame: &[u8], mtu: u32) -> Vec<u8> {
        let (from, to) = (frame.get(..6).unwrap_or_default(), frame.get(6..12).unwrap_or_default());
        let quote = frame.get(ETHERNET_BYTES..self.end.min(ETHERNET_BYTES + QUOTE_BYTES)).unwrap_or_default();
        let ethernet = [to, from, frame.get(12..14).unwrap_or_default()].concat();
        let v4 = self.source.is_ipv4();
        let mut icmp = if v4 { vec![3, 4, 0, 0] } else { vec![2, 0, 0, 0] };
        icmp.extend(mtu.to_be_bytes());
        icmp.extend(quote);
        let ends = [octets(self.destination), octets(self.source)].concat();
        let pseudo = if v4 { 0 } else { sum_words(&ends) + icmp.len() as u64 + 58 };
        let sum = fold(sum_words(&icmp) + pseudo);
        put(&mut icmp, 2, &sum.to_be_bytes());
        let head = if v4 {
            let length = ((IPV4_BYTES + icmp.len()) as u16).to_be_bytes();
            [&[0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, 1, 0, 0][..], &ends].concat()
        } else {
            let length = (icmp.len() as u16).to_be_bytes();
            [&[0x60, 0, 0, 0, length[0], length[1], 58, 64][..], &ends].concat()
        };
        let mut whole = [ethernet, head, icmp].concat();
        if v4 {
            mend_ipv4(&mut whole);
        }
        whole
    }
}

/// The answer to an ARP request for one of `addresses` (RFC 826), from the hardware address of the end that moved there.
pub(super) fn arp_answer(frame: &[u8], addresses: &[Ipv4Addr], hardware: [u8; 6]) -> Option<Vec<u8>> {
    let request = word(frame, 12)? == 0x0806 && word(frame, 20)? == 1;
    let wanted: [u8; 4] = frame.get(38..42)?.try_into().ok()?;
    if !request || !addresses.contains(&Ipv4Addr::from(wanted)) {
        return None;
    }
    let (asker, asker_address) = (frame.get(22..28)?, frame.get(28..32)?);
    Some([asker, &hardware, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &hardware, &wanted, asker, asker_address].concat())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn range_of(region: Region, length: usize) -> Range<usize> {
    let range = match region {
        Region::Any | Region::Udp => 0..length,
        Region::Spi => 0..4,
        Region::Sequence => 4..8,
        Region::Iv => 8..ESP_HEAD_BYTES,
        Region::Ciphertext => ESP_HEAD_BYTES..length.saturating_sub(ICV_BYTES),
        Region::Icv => length.saturating_sub(ICV_BYTES)..length,
    };
    if range.end > length || range.is_empty() { 0..length } else { range }
}

fn mend_ipv4(frame: &mut [u8]) {
    put(frame, ETHERNET_BYTES + 10, &[0, 0]);
    let header = frame.get(ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES).unwrap_or_default();
    let sum = fold(sum_words(header));
    put(frame, ETHERNET_BYTES + 10, &sum.to_be_bytes());
}

/// The sum of 16-bit words (RFC 1071), a last odd byte as if a zero followed.
fn sum_words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low))).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{Datagram, fold, sum_words};
    use crate::faulty::Region;
    use crate::faulty::chance::{Alteration, Change};

    /// A frame from 10.0.0.`from` port 4500 to 10.0.0.`to` port 4500.
    pub(crate) fn frame(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 8, 0, 0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
        frame.extend([10, 0, 0, from, 10, 0, 0, to]);
        frame.extend([0x11, 0x94, 0x11, 0x94, 0, 8, 1, 1]);
        Datagram::find(&frame).expect("UDP").with_payload(&frame, payload)
    }

    /// Sums over header and datagram: both are zero when the checksums hold (RFC 1071).
    fn sums(frame: &[u8]) -> [u16; 2] {
        let udp = &frame[34..];
        [fold(sum_words(&frame[14..34])), fold(sum_words(&frame[26..34]) + 17 + udp.len() as u64 + sum_words(udp))]
    }

    #[test]
    fn whatever_is_changed_has_lengths_and_checksums_that_hold() {
        let original = frame(1, 2, &(0..100).collect::<Vec<u8>>());
        let found = Datagram::find(&original).expect("UDP");
        for change in [Change::Flip, Change::Truncate, Change::Extend] {
            for draw in 0..200 {
                for region in [Region::Any, Region::Udp, Region::Spi, Region::Sequence, Region::Iv, Region::Ciphertext, Region::Icv] {
                    let changed = found.altered(&original, Alteration { change, draw }, region, 3);
                    assert_ne!(changed, original, "{change:?} {draw} {region:?}");
                    assert!(Datagram::find(&changed).is_some());
                    assert_eq!(sums(&changed), [0, 0]);
                }
            }
        }
    }

    #[test]
    fn bits_flip_in_their_region_alone() {
        let original = frame(1, 2, &[0; 100]);
        let found = Datagram::find(&original).expect("UDP");
        for (region, range) in
            [(Region::Spi, 0..4), (Region::Sequence, 4..8), (Region::Iv, 8..16), (Region::Ciphertext, 16..84), (Region::Icv, 84..100)]
        {
            for draw in 0..200 {
                let changed = found.altered(&original, Alteration { change: Change::Flip, draw }, region, 1);
                let payload = Datagram::find(&changed).expect("UDP").payload(&changed).to_vec();
                let places: Vec<usize> = (0..100).filter(|at| payload[*at] != 0).collect();
                assert!(places.len() == 1 && range.contains(&places[0]), "{region:?}: {places:?}");
            }
        }
    }

    #[test]
    fn fragments_together_are_the_datagram() {
        let original = frame(1, 2, &(0..101).collect::<Vec<u8>>());
        let parts = Datagram::find(&original).expect("UDP").fragments(&original, 9);
        assert_eq!([&parts[0][34..], &parts[1][34..]].concat(), original[34..]);
        assert!(parts.iter().all(|part| part[18..20] == [0, 9] && sums(part)[0] == 0 && Datagram::find(part).is_none()));
    }

    #[test]
    fn a_sender_that_moved_can_be_moved_back() {
        let original = frame(1, 2, b"somebody moved");
        let found = Datagram::find(&original).expect("UDP");
        let moved = found.readdressed(&original, [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 77)), found.destination], [999, 4500]);
        let seen = Datagram::find(&moved).expect("UDP");
        assert_eq!((seen.source.to_string(), seen.ports, sums(&moved)), ("10.0.0.77".into(), [999, 4500], [0, 0]));
        assert_eq!(seen.readdressed(&moved, [found.source, found.destination], found.ports), original);
    }
}
