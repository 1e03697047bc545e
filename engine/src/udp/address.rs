//! `sockaddr_in` and `sockaddr_in6` as bytes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::ADDRESS_BYTES;

const FAMILY_V4: u16 = libc::AF_INET as u16;
const FAMILY_V6: u16 = libc::AF_INET6 as u16;

/// Writes a socket address; returns how many bytes of `out` it takes.
pub fn encode(address: SocketAddr, out: &mut [u8; ADDRESS_BYTES]) -> usize {
    *out = [0; ADDRESS_BYTES];
    out[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            out[..2].copy_from_slice(&FAMILY_V4.to_ne_bytes());
            out[4..8].copy_from_slice(&v4.ip().octets());
            16
        }
        SocketAddr::V6(v6) => {
            out[..2].copy_from_slice(&FAMILY_V6.to_ne_bytes());
            out[8..24].copy_from_slice(&v6.ip().octets());
            out[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            28
        }
    }
}

/// Reads a socket address back; `None` for another family or too few bytes.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match u16::from_ne_bytes(*family) {
        FAMILY_V4 => Some(SocketAddr::new(Ipv4Addr::from(*rest.first_chunk::<4>()?).into(), port)),
        FAMILY_V6 => {
            let (_flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["192.0.2.9:4500", "[2001:db8::9]:500", "[fe80::1%3]:4500"] {
            let address = text.parse().expect("an address");
            let mut bytes = [0xff; super::ADDRESS_BYTES];
            let length = encode(address, &mut bytes);
            assert_eq!(decode(&bytes[..length]), Some(address));
            for short in 0..if length == 16 { 8 } else { 28 } {
                assert_eq!(decode(&bytes[..short]), None);
            }
        }
        assert_eq!(decode(&[0; 28]), None);
    }

    #[test]
    fn the_layout_is_the_kernels() {
        let address: std::net::SocketAddr = "[2001:db8::9]:500".parse().expect("an address");
        let mut bytes = [0; super::ADDRESS_BYTES];
        let length = encode(address, &mut bytes);
        let sockaddr = socket2::SockAddr::from(address);
        assert_eq!(usize::try_from(sockaddr.len()).expect("small"), length);
        assert_eq!(sockaddr.as_socket(), decode(&bytes));
    }
}
