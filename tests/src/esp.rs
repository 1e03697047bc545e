//! ESP in UDP as a stranger on the wire sees it: what stands in clear in a captured frame.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, UdpSocket};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::sys;

/// The readable part of one captured ESP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// Where it was going.
    pub destination: IpAddr,
    /// Its UDP source port.
    pub source_port: u16,
    /// Security parameters index.
    pub spi: u32,
    /// The low half of the sequence number.
    pub sequence: u32,
    /// The IV, which with the salt is the nonce.
    pub iv: u64,
}

/// Reads a frame as ESP in UDP to or from `port`; `None` if it is something else (ARP, IKE, keepalive).
#[must_use]
pub fn sight(frame: &[u8], port: u16) -> Option<Sighting> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let destination = match packet.net? {
        NetSlice::Ipv4(v4) => v4.header().destination_addr().into(),
        NetSlice::Ipv6(v6) => v6.header().destination_addr().into(),
        _ => return None,
    };
    let TransportSlice::Udp(udp) = packet.transport? else { return None };
    if udp.destination_port() != port && udp.source_port() != port {
        return None;
    }
    let payload = udp.payload();
    let word = |at: usize| payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let spi = word(0)?;
    if spi == 0 {
        return None;
    }
    Some(Sighting {
        destination,
        source_port: udp.source_port(),
        spi,
        sequence: word(4)?,
        iv: u64::from(word(8)?) << 32 | u64::from(word(12)?),
    })
}

/// Which of `known` SPIs stand in a captured frame that the kernel has merged from ESP packets of `length` bytes each, behind Ethernet,
/// IPv6 and UDP; none if it is something else.
#[must_use]
pub fn spis_in_a_row(frame: &[u8], length: usize, known: &BTreeSet<u32>) -> BTreeSet<u32> {
    let Ok(packet) = SlicedPacket::from_ethernet(frame) else { return BTreeSet::new() };
    let Some(TransportSlice::Udp(_)) = packet.transport else { return BTreeSet::new() };
    let packets = frame.get(14 + 40 + 8..).unwrap_or_default().chunks_exact(length);
    let spis: BTreeSet<u32> = packets.filter_map(|packet| packet.first_chunk().copied().map(u32::from_be_bytes)).collect();
    if spis.is_subset(known) { spis } else { BTreeSet::new() }
}

/// Sends frames of one length, each a whole ESP packet, as one row: a receiver that merges gets them in one buffer.
///
/// # Errors
/// If their lengths differ, or the kernel cannot send a row.
pub fn send_in_a_row(socket: &UdpSocket, frames: &[Vec<u8>]) -> io::Result<()> {
    let length = frames.first().map_or(0, Vec::len);
    if frames.iter().any(|frame| frame.len() != length) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sys::set_segment_size(socket, u16::try_from(length).map_err(io::Error::other)?)?;
    socket.send(&frames.concat()).map(drop)
}

/// Completes the UDP checksum of a frame captured on a link that leaves it to the receiver's hardware: what a real wire would
/// have carried. `None` if the frame is not UDP over IPv4.
#[must_use]
pub fn with_checksum(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (NetSlice::Ipv4(v4), TransportSlice::Udp(udp)) = (packet.net?, packet.transport?) else { return None };
    let sum = udp.to_header().calc_checksum_ipv4(&v4.header().to_header(), udp.payload()).ok()?;
    let at = frame.len().checked_sub(udp.slice().len())? + 6;
    let mut whole = frame.to_vec();
    whole.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(whole)
}
