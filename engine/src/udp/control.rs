//! Control messages (`struct cmsghdr`): what a send asks for and what a receive tells.
//!
//! ```text
//!   ┌────────────┬─────────┬────────┬──────┬─────────────┐
//!   │ length, 8  │ level,4 │ type,4 │ data │ to 8 bytes  │  length counts header and data, without the padding
//!   └────────────┴─────────┴────────┴──────┴─────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::CONTROL_BYTES;

/// `UDP_SEGMENT` of linux/udp.h.
const UDP_SEGMENT: i32 = 103;
/// `UDP_GRO` of linux/udp.h.
const UDP_GRO: i32 = 104;
const HEADER_BYTES: usize = 16;

/// Control messages being written.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8; CONTROL_BYTES],
    used: usize,
}

impl<'a> Writer<'a> {
    /// Starts with none.
    pub fn new(out: &'a mut [u8; CONTROL_BYTES]) -> Self {
        Self { out, used: 0 }
    }

    /// Asks the kernel to cut the payload every `bytes`.
    pub fn segment(&mut self, bytes: u16) {
        self.push(libc::SOL_UDP, UDP_SEGMENT, &bytes.to_ne_bytes());
    }

    /// Names the source address.
    pub fn source(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(v4) => {
                // struct in_pktinfo: interface, local address, destination.
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&v4.octets());
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            IpAddr::V6(v6) => {
                // struct in6_pktinfo: address, interface.
                let mut info = [0; 20];
                info[..16].copy_from_slice(&v6.octets());
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    /// Sets the type of service or traffic class.
    pub fn tos(&mut self, v6: bool, tos: u8) {
        let (level, name) = if v6 { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) } else { (libc::IPPROTO_IP, libc::IP_TOS) };
        self.push(level, name, &i32::from(tos).to_ne_bytes());
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    fn push(&mut self, level: i32, name: i32, data: &[u8]) {
        let length = HEADER_BYTES + data.len();
        let end = self.used + length.next_multiple_of(8);
        // Three messages of at most 40 bytes always fit; a fourth kind would need a larger buffer, and is left out until it has one.
        let Some(room) = self.out.get_mut(self.used..end) else { return };
        room.fill(0);
        room[..8].copy_from_slice(&length.to_ne_bytes());
        room[8..12].copy_from_slice(&level.to_ne_bytes());
        room[12..16].copy_from_slice(&name.to_ne_bytes());
        room[16..length].copy_from_slice(data);
        self.used = end;
    }
}

/// What a receive told beside its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// The address that the datagrams came to.
    pub to: Option<IpAddr>,
    /// The outer type of service or traffic class.
    pub tos: u8,
    /// Bytes of each merged datagram but the last; `None`: the payload is one datagram.
    pub segment: Option<usize>,
    /// Datagrams that this socket has lost so far because its buffer was full, modulo 2^32.
    pub overflows: Option<u32>,
}

/// Reads control messages. Unknown ones are passed over, and reading stops at one whose length makes no sense.
#[must_use]
pub fn read(mut bytes: &[u8]) -> Told {
    let mut told = Told::default();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, n0, n1, n2, n3] = *header;
        let length = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let Some(data) = bytes.get(HEADER_BYTES..length) else { break };
        note(&mut told, i32::from_ne_bytes([v0, v1, v2, v3]), i32::from_ne_bytes([n0, n1, n2, n3]), data);
        // `length` lies within `bytes`, so rounding it up cannot overflow.
        bytes = bytes.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    told
}

fn note(told: &mut Told, level: i32, name: i32, data: &[u8]) {
    match (level, name) {
        // linux/net/ipv4/udp.c gives an int, older kernels documented a u16.
        (libc::SOL_UDP, UDP_GRO) => told.segment = number(data).and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
        (libc::IPPROTO_IP, libc::IP_TOS) => told.tos = data.first().copied().unwrap_or(0),
        (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => told.tos = number(data).and_then(|tos| u8::try_from(tos).ok()).unwrap_or(0),
        // The third field: the destination in the header, not the route's local address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            told.to = data.get(8..12).and_then(<[u8]>::first_chunk::<4>).map(|ip| Ipv4Addr::from(*ip).into());
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => told.to = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip).into()),
        (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => told.overflows = data.first_chunk().map(|count| u32::from_ne_bytes(*count)),
        _ => (),
    }
}

fn number(data: &[u8]) -> Option<i32> {
    match data.first_chunk() {
        Some(number) => Some(i32::from_ne_bytes(*number)),
        None => data.first_chunk().map(|number| u16::from_ne_bytes(*number).into()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Told, Writer, read};

    #[test]
    fn what_is_asked_for_can_be_read_back() {
        for (ip, v6) in [("192.0.2.7", false), ("2001:db8::7", true)] {
            let mut bytes = [0xff; super::CONTROL_BYTES];
            let mut writer = Writer::new(&mut bytes);
            let ip = ip.parse().expect("an address");
            writer.segment(1472);
            writer.tos(v6, 0xb9);
            writer.source(ip);
            let used = writer.len();
            let told = read(&bytes[..used]);
            assert_eq!(told.tos, 0xb9);
            // A sender's segment and (IPv4) source are other messages than a receiver's.
            assert_eq!(told.segment, None);
            assert_eq!(told.to, v6.then_some(ip).or(Some("0.0.0.0".parse().expect("an address"))));
            assert!(used <= 96);
        }
    }

    #[test]
    fn a_receive_is_understood() {
        let mut bytes = [0; super::CONTROL_BYTES];
        let mut writer = Writer::new(&mut bytes);
        writer.push(libc::SOL_UDP, super::UDP_GRO, &1200i32.to_ne_bytes());
        writer.push(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, &7u32.to_ne_bytes());
        writer.push(libc::IPPROTO_IP, libc::IP_TOS, &[3]);
        writer.push(99, 99, &[1, 2, 3]);
        writer.push(libc::IPPROTO_IP, libc::IP_PKTINFO, &[0, 0, 0, 0, 9, 9, 9, 9, 192, 0, 2, 1]);
        let used = writer.len();
        let to = Some("192.0.2.1".parse().expect("an address"));
        assert_eq!(read(&bytes[..used]), Told { to, tos: 3, segment: Some(1200), overflows: Some(7) });
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200), length in 0..64u64) {
            let _ = read(&bytes);
            let mut sized = length.to_ne_bytes().to_vec();
            sized.extend(bytes);
            let _ = read(&sized);
        }
    }
}
