//! Addresses, endpoints and prefixes as fixed layouts: 16 bytes of address, IPv4 in the first four.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IP address and a UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Endpoint {
    address: [u8; 16],
    port: U16,
    /// 4, 6, or 0 for "none".
    family: u8,
    reserved: [u8; 5],
}

impl Endpoint {
    /// No address: "let the kernel choose".
    pub const NONE: Self = Self { address: [0; 16], port: U16::ZERO, family: 0, reserved: [0; 5] };

    /// Reads the endpoint back; `None` where it is [`Endpoint::NONE`] or its family is unknown.
    #[must_use]
    pub fn to_socket(self) -> Option<SocketAddr> {
        unpack(self.address, self.family).map(|ip| SocketAddr::new(ip, self.port.get()))
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(socket: SocketAddr) -> Self {
        let (address, family) = pack(socket.ip());
        Self { address, port: U16::new(socket.port()), family, reserved: [0; 5] }
    }
}

impl From<Option<SocketAddr>> for Endpoint {
    fn from(socket: Option<SocketAddr>) -> Self {
        socket.map_or(Self::NONE, Self::from)
    }
}

/// An address prefix with no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Prefix {
    address: [u8; 16],
    length: u8,
    family: u8,
    reserved: [u8; 6],
}

impl Prefix {
    /// Packs an address and a prefix length in bits.
    #[must_use]
    pub fn new(ip: IpAddr, length: u8) -> Self {
        let (address, family) = pack(ip);
        Self { address, length, family, reserved: [0; 6] }
    }

    /// Address and length; `None` for an unknown family, a length over the family's, or host bits that are set.
    #[must_use]
    pub fn parts(self) -> Option<(IpAddr, u8)> {
        let ip = unpack(self.address, self.family)?;
        let clean = match ip {
            IpAddr::V4(v4) => self.length <= 32 && u32::from(v4).checked_shl(self.length.into()).unwrap_or(0) == 0,
            IpAddr::V6(v6) => self.length <= 128 && u128::from(v6).checked_shl(self.length.into()).unwrap_or(0) == 0,
        };
        clean.then_some((ip, self.length))
    }
}

fn pack(ip: IpAddr) -> ([u8; 16], u8) {
    match ip {
        IpAddr::V4(v4) => {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&v4.octets());
            (address, 4)
        }
        IpAddr::V6(v6) => (v6.octets(), 6),
    }
}

fn unpack(address: [u8; 16], family: u8) -> Option<IpAddr> {
    match family {
        4 => Some(Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()),
        6 => Some(Ipv6Addr::from(address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Prefix};

    #[test]
    fn endpoints_survive_the_layout() {
        for text in ["192.0.2.7:4500", "[2001:db8::1]:1"] {
            let socket = text.parse().expect("an address");
            assert_eq!(Endpoint::from(Some(socket)).to_socket(), Some(socket));
        }
        assert_eq!(Endpoint::NONE.to_socket(), None);
    }

    #[test]
    fn a_prefix_with_host_bits_or_a_wild_length_is_refused() {
        let ip = "10.1.0.0".parse().expect("an address");
        assert_eq!(Prefix::new(ip, 16).parts(), Some((ip, 16)));
        assert_eq!(Prefix::new(ip, 15).parts(), None);
        assert_eq!(Prefix::new(ip, 33).parts(), None);
        let all = "::".parse().expect("an address");
        assert_eq!(Prefix::new(all, 0).parts(), Some((all, 0)));
        assert_eq!(Prefix::new(all, 129).parts(), None);
    }
}
