//! The TUN device's side of the engine: reads are hostile too, because any local program can send a packet.

use etherparse::{PacketBuilder, PacketHeaders};
use penstock_engine::tun::vnet::{Gso, Header};
use penstock_uapi::Counter;

use crate::records;
use crate::site::{ESP_BYTES_MAX, MTU, Run, Site, VNET_BYTES};

/// Reads of one batch, each a record. What is sealed must open at the other side and be within the MTU.
///
/// # Panics
/// If it is not, or if the counters do not add up.
pub fn outbound(bytes: &[u8]) {
    let (mut one, mut two) = (Site::sender(), Site::receiver());
    let runs = one.send(records::split(bytes).take(16));
    one.assert_sums();
    for run in &runs {
        assert!(run.stride <= MTU + ESP_BYTES_MAX, "a frame of {} octets", run.stride);
    }
    for run in &runs {
        // Frame by frame, so that every flow finds a buffer.
        for frame in run.bytes.chunks(run.stride) {
            two.receive(&[Run { tos: run.tos, stride: frame.len(), bytes: frame.to_vec() }]);
        }
    }
    two.assert_sums();
    assert_eq!(two.counter(Counter::OpenedPackets), one.counter(Counter::SealedPackets), "each frame opens");
}

/// A super-packet that a program could have sent: kind, segment size, ports, and payload. All of it must come out.
///
/// # Panics
/// If it does not.
pub fn round_trip(bytes: &[u8]) {
    let Some(([kind, high, low, port], payload)) = bytes.split_first_chunk::<4>().map(|(head, rest)| (*head, rest)) else { return };
    let (v6, tcp) = (kind & 1 == 1, kind & 2 == 2);
    let headers = headers(v6, tcp);
    let segment = usize::from(u16::from_be_bytes([high, low])).clamp(1, MTU - headers);
    // What fits one send: 8 buffers of 128 frames are there, a single read is never cut over more than the kernel's 64 KiB.
    let payload = payload.repeat(1 + usize::from(kind >> 4));
    let payload = payload.get(..payload.len().min(segment * 512).min(60_000)).unwrap_or_default();
    let (mut one, mut two) = (Site::sender(), Site::receiver());
    let runs = one.send([read(v6, tcp, u16::from(port), payload, segment).as_slice()]);
    let mut came = Vec::new();
    let mut packets = 0;
    for run in &runs {
        for write in two.receive(std::slice::from_ref(run)) {
            let packet = write.get(VNET_BYTES..).unwrap_or_default();
            let parsed = PacketHeaders::from_ip_slice(packet).expect("a packet");
            came.extend_from_slice(parsed.payload.slice());
            packets += 1;
        }
    }
    one.assert_sums();
    two.assert_sums();
    assert!(
        came == payload,
        "the payload of {} octets in segments of {segment} came as {} octets in {packets} writes",
        payload.len(),
        came.len()
    );
    let expected = payload.len().div_ceil(segment).max(1) as u64;
    assert_eq!((one.counter(Counter::SealedPackets), two.counter(Counter::DeliveredPackets)), (expected, expected));
}

fn headers(v6: bool, tcp: bool) -> usize {
    let (ip, transport) = (if v6 { 40 } else { 20 }, if tcp { 20 } else { 8 });
    ip + transport
}

fn packet(v6: bool, tcp: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = if v6 {
        let address = |site| [0xfd, 0, 0, 0, 0, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 1];
        PacketBuilder::ipv6(address(1), address(2), 61)
    } else {
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 61)
    };
    let written = if tcp {
        builder.tcp(port, 80, 0xffff_f000, 4096).ack(7).write(&mut bytes, payload)
    } else {
        builder.udp(port, 53).write(&mut bytes, payload)
    };
    written.expect("a packet fits memory");
    bytes
}

/// A read as the kernel gives it: a super-packet where the payload is longer than a segment.
#[must_use]
pub fn read(v6: bool, tcp: bool, port: u16, payload: &[u8], segment: usize) -> Vec<u8> {
    let mut read = vec![0; VNET_BYTES];
    if payload.len() > segment {
        let gso = match (tcp, v6) {
            (false, _) => Gso::Udp,
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
        };
        let checksum = Some((if v6 { 40 } else { 20 }, if tcp { 16 } else { 6 }));
        let header_bytes = headers(v6, tcp) as u16;
        Header { checksum, gso, header_bytes, segment_bytes: segment as u16 }.write(&mut read);
    }
    read.extend(packet(v6, tcp, port, payload));
    read
}
