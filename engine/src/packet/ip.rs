//! An IPv4 or IPv6 header, read once (RFC 791 section 3.1, RFC 8200 section 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// What a header says. Every length has been held against the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Bytes of the header, with IPv4 options and without IPv6 extension headers.
    pub header: usize,
    /// Bytes of the whole packet as the header says, at most as many as there are.
    pub total: usize,
    /// The protocol or next header.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Part of a fragmented IPv4 packet.
    pub fragment: bool,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
}

impl Ip {
    /// Reads the header in front of `packet`; `None` if a length or the version makes no sense.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; 20] = packet.first_chunk()?;
        let header = usize::from(fixed[0] & 15) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if header < 20 || total < header || total > packet.len() {
            return None;
        }
        Some(Self {
            v6: false,
            header,
            total,
            protocol: fixed[9],
            tos: fixed[1],
            // More fragments, or an offset.
            fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0,
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
        })
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        let (fixed, _) = packet.split_first_chunk::<40>()?;
        let total = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if total > packet.len() {
            return None;
        }
        let address =
            |at: usize| -> Option<IpAddr> { fixed.get(at..at + 16)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into()) };
        Some(Self {
            v6: true,
            header: 40,
            total,
            protocol: fixed[6],
            tos: fixed[0] << 4 | fixed[1] >> 4,
            fragment: false,
            source: address(8)?,
            destination: address(24)?,
        })
    }
}

/// The addresses of a packet of this version, as they stand in its header: what a pseudo-header sums.
#[must_use]
pub fn addresses(packet: &[u8], v6: bool) -> &[u8] {
    packet.get(if v6 { 8..40 } else { 12..20 }).unwrap_or_default()
}

/// Writes another type of service or traffic class into a packet that [`Ip::parse`] has read.
///
/// The IPv4 checksum is changed by the difference (RFC 1624 section 3): a header that was damaged stays recognisable as damaged.
pub fn set_tos(packet: &mut [u8], ip: &Ip, tos: u8) {
    let Some(header) = packet.get_mut(..ip.header) else { return };
    if ip.v6 {
        if let [first, second, ..] = header {
            *first = *first & 0xf0 | tos >> 4;
            *second = *second & 0x0f | tos << 4;
        }
    } else if let [version, old_tos, _, _, _, _, _, _, _, _, high, low, ..] = header {
        let old = u16::from_be_bytes([*version, std::mem::replace(old_tos, tos)]);
        let sum = Sum::default().word(!u16::from_be_bytes([*high, *low])).word(!old).word(u16::from_be_bytes([*version, tos]));
        [*high, *low] = sum.finish();
    }
}

/// Writes the checksum of a whole IPv4 header.
pub fn finish_v4(header: &mut [u8]) {
    if header.len() >= 20 {
        header[10..12].fill(0);
        let sum = Sum::default().bytes(header).finish();
        header[10..12].copy_from_slice(&sum);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::{Ip, set_tos};

    fn v4() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2).write(&mut packet, &[7; 11]).expect("a packet");
        packet
    }

    fn v6() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64).udp(1, 2).write(&mut packet, &[7; 11]).expect("a packet");
        packet
    }

    #[test]
    fn no_length_is_believed_unseen() {
        for packet in [v4(), v6()] {
            let ip = Ip::parse(&packet).expect("whole");
            assert_eq!((ip.total, ip.protocol), (packet.len(), 17));
            for length in 0..packet.len() {
                assert_eq!(Ip::parse(&packet[..length]), None, "{length}");
            }
            let mut longer = packet.clone();
            longer.push(0);
            assert_eq!(Ip::parse(&longer), Some(ip));
        }
        let mut bad = v4();
        bad[0] = 0x44;
        assert_eq!(Ip::parse(&bad), None);
        bad[0] = 0x45;
        bad[2..4].copy_from_slice(&19u16.to_be_bytes());
        assert_eq!(Ip::parse(&bad), None);
        bad[0] = 0x55;
        assert_eq!(Ip::parse(&bad), None);
    }

    #[test]
    fn another_type_of_service_keeps_the_header_whole() {
        for mut packet in [v4(), v6()] {
            let ip = Ip::parse(&packet).expect("whole");
            set_tos(&mut packet, &ip, 0xb9);
            assert_eq!(Ip::parse(&packet), Some(Ip { tos: 0xb9, ..ip }));
            if !ip.v6 {
                let header = etherparse::Ipv4HeaderSlice::from_slice(&packet).expect("a header").to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
            }
        }
    }

    #[test]
    fn every_fragment_is_known_as_one() {
        let fragment = |high: u8, low: u8| {
            let mut packet = v4();
            (packet[6], packet[7]) = (high, low);
            Ip::parse(&packet).expect("whole").fragment
        };
        assert!(fragment(0x20, 0) && fragment(0x20, 9) && fragment(0, 9) && fragment(0x10, 0), "first, middle, last, far");
        assert!(!fragment(0, 0) && !fragment(0x40, 0) && !fragment(0x80, 0));
    }

    #[test]
    fn a_damaged_header_is_not_made_good() {
        for tos in 0..=255 {
            let mut packet = v4();
            packet[8] ^= 0x10;
            let ip = Ip::parse(&packet).expect("lengths are right");
            set_tos(&mut packet, &ip, tos);
            packet[8] ^= 0x10;
            let header = etherparse::Ipv4HeaderSlice::from_slice(&packet).expect("a header").to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "wrong by the damage and by nothing else");
        }
    }
}
