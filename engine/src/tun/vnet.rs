//! The virtio header in front of every packet on a TUN queue (include/uapi/linux/virtio_net.h: struct virtio_net_hdr),
//! little-endian here as the kernel's native order on x86-64 and aarch64.

/// Bytes of the header without the count of merged buffers.
pub const HEADER_BYTES_MIN: usize = 10;
/// Bytes of the header with it.
pub const HEADER_BYTES_MAX: usize = 12;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a super-packet is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either.
    Udp,
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the checksum starts and the offset of its field behind that, if it is still to be computed.
    pub checksum: Option<(u16, u16)>,
    /// Whether the packet has to be cut.
    pub gso: Gso,
    /// Bytes of all headers of a super-packet. Only a hint: the kernel does not promise it on read.
    pub header_bytes: u16,
    /// Payload bytes of each segment but the last.
    pub segment_bytes: u16,
}

impl Header {
    /// Reads the header in front of a packet; `None` if it is short or speaks of an unknown kind.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES_MIN] = bytes.first_chunk()?;
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CSUM != 0).then(|| (word(6), word(8)));
        Some(Self { checksum, gso, header_bytes: word(2), segment_bytes: word(4) })
    }

    /// Writes the header into the front of `bytes`, which is as long as the queue's headers are.
    pub fn write(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        let Some(bytes) = bytes.first_chunk_mut::<HEADER_BYTES_MIN>() else { return };
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.segment_bytes.to_le_bytes());
        if let Some((start, offset)) = self.checksum {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Gso, Header};

    #[test]
    fn a_header_comes_back() {
        for gso in [Gso::None, Gso::TcpV4, Gso::TcpV6, Gso::Udp] {
            for checksum in [None, Some((20, 16))] {
                let header = Header { checksum, gso, header_bytes: 52, segment_bytes: 1386 };
                let mut bytes = [0xee; 12];
                header.write(&mut bytes);
                assert_eq!(Header::parse(&bytes), Some(header));
            }
        }
        assert_eq!(Header::parse(&[0; 9]), None);
        assert_eq!(Header::parse(&[0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert!(Header::parse(&[0, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]).is_some_and(|header| header.gso == Gso::TcpV4));
    }
}
