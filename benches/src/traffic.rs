//! Traffic of a gateway: TUN reads on their way out, and what peers send.
//!
//! Batches are alike at every scale: each goes to, or comes from, one peer, the next one to another; within a batch every packet has
//! another host and port. So what differs between scales is what looking up costs, not how much can be gathered.

use std::collections::HashMap;
use std::net::IpAddr;

use etherparse::PacketBuilder;
use penstock_engine::esp::Sealer;
use penstock_engine::esp::packet::{NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, frame_bytes};
use penstock_engine::packet::ip::Ip;
use penstock_engine::path::Receive;
use penstock_engine::slots::{RUN_BYTES_MAX, RUN_PACKETS_MAX};
use penstock_engine::tun::split::Split;
use penstock_engine::tun::vnet::{Gso, Header};
use penstock_uapi::request::{Limits, suite};

use crate::gateway::{MTU, Received, Scale, VNET_BYTES, endpoint};
use crate::key;

/// Buffers of a batch, as many as a shell takes in one go.
pub const BATCH: usize = penstock_engine::limits::BUDGET;

/// A kind of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP super-packets of nearly 64 KiB, with timestamps.
    Tcp,
    /// Single UDP datagrams of 64 bytes of payload.
    Small,
    /// UDP super-packets of 64 such datagrams.
    Uso,
}

/// Bytes of payload of a small datagram.
const SMALL_BYTES: usize = 64;
/// Small datagrams of one super-packet.
const USO_DATAGRAMS: usize = 64;
/// Two no-operations and timestamps (RFC 7323 section 3.2).
const TIMESTAMPS: [u8; 12] = [1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7];

impl Load {
    /// Packets of one read.
    #[must_use]
    pub fn packets(self, v6: bool) -> usize {
        match self {
            Self::Tcp => 65_000 / self.segment(v6),
            Self::Small => 1,
            Self::Uso => USO_DATAGRAMS,
        }
    }

    /// Payload bytes of a packet.
    fn segment(self, v6: bool) -> usize {
        match self {
            Self::Tcp => MTU - if v6 { 40 } else { 20 } - 20 - TIMESTAMPS.len(),
            Self::Small | Self::Uso => SMALL_BYTES,
        }
    }

    /// A read as the kernel gives it: what offloading leaves to do is not done.
    fn read(self, from: IpAddr, to: IpAddr, port: u16) -> Vec<u8> {
        let (v6, l4) = if from.is_ipv6() { (true, 40) } else { (false, 20) };
        let segment = self.segment(v6);
        let payload: Vec<u8> = (0..segment * self.packets(v6)).map(|at| (at * 31 % 251) as u8).collect();
        let ip = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), 64),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), 64),
            _ => panic!("both ends are of one family"),
        };
        let mut packet = vec![0; VNET_BYTES];
        let (gso, headers, field) = if self == Self::Tcp {
            let tcp = ip.tcp(port, 80, 1, 4096).ack(7).options_raw(&TIMESTAMPS).expect("twelve bytes of options");
            tcp.write(&mut packet, &payload).expect("memory");
            (if v6 { Gso::TcpV6 } else { Gso::TcpV4 }, l4 + 20 + TIMESTAMPS.len(), 16)
        } else {
            ip.udp(port, 53).write(&mut packet, &payload).expect("memory");
            (if self == Self::Uso { Gso::Udp } else { Gso::None }, l4 + 8, 6)
        };
        let word = |number: usize| u16::try_from(number).expect("a short header");
        let header = if gso == Gso::None {
            Header { checksum: Some((word(l4), field)), ..Header::default() }
        } else {
            Header { checksum: Some((word(l4), field)), gso, header_bytes: word(headers), segment_bytes: word(segment) }
        };
        // The pseudo-header's sum stands where the checksum will.
        let place = VNET_BYTES + l4 + usize::from(field);
        let sum = penstock_engine::packet::checksum::pseudo(
            penstock_engine::packet::ip::addresses(&packet[VNET_BYTES..], v6),
            if self == Self::Tcp { 6 } else { 17 },
        );
        let sum = sum.word(word((packet.len() - VNET_BYTES - l4).min(usize::from(u16::MAX)))).folded();
        packet[place..place + 2].copy_from_slice(&sum);
        header.write(&mut packet[..VNET_BYTES]);
        packet
    }
}

/// Which peer a batch belongs to: all of them have their turn.
fn peer(scale: &Scale, batch: usize) -> u32 {
    (batch as u32).wrapping_mul(0x9e37_79b1) % scale.peers
}

/// Batches of TUN reads.
#[must_use]
pub fn reads(load: Load, scale: &Scale, batches: usize) -> Vec<Vec<Vec<u8>>> {
    let batch = |batch: usize| {
        let peer = peer(scale, batch);
        let number = |at: usize| (batch * BATCH + at) as u32;
        (0..BATCH).map(|at| load.read(scale.local(), scale.host(peer, number(at)), number(at) as u16 | 1024)).collect()
    };
    (0..batches).map(batch).collect()
}

/// What peers send.
#[derive(Default)]
pub struct Peers {
    sealers: HashMap<u32, Sealer>,
}

impl Peers {
    /// Batches of UDP receives, each with the packets of one read of the peer.
    ///
    /// # Panics
    /// Never: the packets are whole.
    #[must_use]
    pub fn receives(&mut self, load: Load, scale: &Scale, batches: usize) -> Vec<Vec<Received>> {
        (0..batches).map(|batch| self.batch(load, scale, batch)).collect()
    }

    fn batch(&mut self, load: Load, scale: &Scale, batch: usize) -> Vec<Received> {
        let peer = peer(scale, batch);
        let spi = scale.spi(peer);
        let sealer = self
            .sealers
            .entry(spi)
            .or_insert_with(|| Sealer::new(spi, &key(suite::AES_256_GCM_16), &Limits::default()).expect("a known suite"));
        let number = |at: usize| (batch * BATCH + at) as u32;
        let reads = (0..BATCH).map(|at| load.read(scale.host(peer, number(at)), scale.local(), number(at) as u16 | 1024));
        reads.flat_map(|mut read| seal(sealer, &mut read)).collect()
    }
}

/// The sends of one read, as they are received.
fn seal(sealer: &mut Sealer, read: &mut [u8]) -> Vec<Received> {
    let (header, packet) = read.split_at_mut(VNET_BYTES);
    let header = Header::parse(header).expect("a virtio header");
    let ip = Ip::parse(packet).expect("a whole packet");
    let next_header = if ip.v6 { NEXT_HEADER_IPV6 } else { NEXT_HEADER_IPV4 };
    let mut split = Split::new(&header, packet, &ip).expect("a super-packet");
    let mut frames: Vec<Vec<u8>> = Vec::new();
    while let Some(inner) = split.next() {
        let mut frame = vec![0; frame_bytes(inner.len())];
        sealer.seal(inner, next_header, &mut frame).expect("the key is fresh");
        frames.push(frame);
    }
    let stride = frames.first().map_or(0, Vec::len);
    let run = (RUN_BYTES_MAX / stride.max(1)).min(RUN_PACKETS_MAX as usize);
    let receive = Receive { from: endpoint(), to: None, tos: 0, stride };
    frames.chunks(run).map(|frames| Received { receive, datagrams: frames.concat() }).collect()
}
