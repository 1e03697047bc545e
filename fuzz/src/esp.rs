//! The wire's side of the engine: frames that a stranger sends, and what an authenticated peer puts into them.

use penstock_engine::esp::seal::Sealer;
use penstock_engine::packet::ip::Ip;
use penstock_uapi::request::Limits;
use penstock_uapi::{Counter, Drop};

use crate::records;
use crate::site::{Run, Site, VNET_BYTES, key, spi};

/// How many genuine frames there are.
pub const GENUINE: usize = 8;

/// A packet from site 1 to site 2. Each port has a packet of its own length, so that no two are merged.
#[must_use]
pub fn packet(number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let port = 1000 + number as u16;
    let payload = vec![number as u8; 16 * number];
    let builder = if number.is_multiple_of(2) {
        etherparse::PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 61)
    } else {
        let address = |site| [0xfd, 0, 0, 0, 0, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 1];
        etherparse::PacketBuilder::ipv6(address(1), address(2), 61)
    };
    builder.udp(port, 53).write(&mut bytes, &payload).expect("a packet fits memory");
    bytes
}

/// Seals as site 1 does.
///
/// # Panics
/// Never: the suite is known.
#[must_use]
pub fn sealer() -> Sealer {
    Sealer::new(spi(2, 0), &key(1), &Limits::default()).expect("a known suite")
}

/// A frame around an inner packet.
///
/// # Panics
/// If the key is used up.
pub fn seal(sealer: &mut Sealer, inner: &[u8], next_header: u8) -> Vec<u8> {
    let mut bytes = vec![0; inner.len() + 64];
    let length = sealer.seal(inner, next_header, &mut bytes).expect("there is room, and the key is fresh");
    bytes.truncate(length);
    bytes
}

/// The genuine frames, in the order of their sequence numbers.
#[must_use]
pub fn genuine() -> Vec<Vec<u8>> {
    let mut sealer = sealer();
    (0..GENUINE)
        .map(|number| {
            let packet = packet(number);
            let next_header = if number.is_multiple_of(2) { 4 } else { 41 };
            seal(&mut sealer, &packet, next_header)
        })
        .collect()
}

/// Datagrams at a core that has an SA: of each record the first octet is the outer type of service, the next two the stride, the
/// rest what came. Whatever is delivered must be one of the genuine packets, each once.
///
/// # Panics
/// If it is not, or if the counters do not add up.
pub fn inbound(bytes: &[u8]) {
    let mut site = Site::receiver();
    let mut delivered = Vec::new();
    for part in records::split(bytes).take(64) {
        let Some(([tos, high, low], datagrams)) = part.split_first_chunk::<3>().map(|(head, rest)| (*head, rest)) else { continue };
        let stride = usize::from(u16::from_be_bytes([high, low]));
        delivered.extend(site.receive(&[Run { tos, stride, bytes: datagrams.to_vec() }]));
    }
    site.assert_sums();
    let mut genuine: Vec<Vec<u8>> = (0..GENUINE).map(packet).collect();
    for write in &delivered {
        // The outer mark of congestion may be carried over, which changes the header only.
        let inner = write.get(VNET_BYTES..).unwrap_or_default();
        let port = |packet: &[u8]| Ip::parse(packet).and_then(|ip| packet.get(ip.header..).map(<[u8]>::to_vec));
        let at = genuine.iter().position(|packet| port(packet) == port(inner));
        genuine.remove(at.expect("only a genuine packet is delivered, and once"));
    }
}

/// Inner packets of a peer that has the key: of each record the first octet is the next header, the second the outer type of service.
/// Only packets between the agreed subnets may come out.
///
/// # Panics
/// If another one does, or if the counters do not add up.
pub fn opened(bytes: &[u8]) {
    let mut site = Site::receiver();
    let mut sealer = sealer();
    let mut runs = Vec::new();
    for part in records::split(bytes).take(64) {
        let Some(([next_header, tos], inner)) = part.split_first_chunk::<2>().map(|(head, rest)| (*head, rest)) else { continue };
        let frame = seal(&mut sealer, inner, next_header);
        runs.push(Run { tos, stride: frame.len(), bytes: frame });
    }
    // As many to a batch as there are buffers for packets of different flows.
    let writes: Vec<Vec<u8>> = runs.chunks(6).flat_map(|batch| site.receive(batch)).collect();
    site.assert_sums();
    assert_eq!(site.dropped(Drop::BadIcv) + site.dropped(Drop::Replay), 0, "the frames themselves are good");
    assert_eq!(site.counter(Counter::TunWrites), writes.len() as u64);
    for write in writes {
        let packet = write.get(VNET_BYTES..).unwrap_or_default();
        let ip = Ip::parse(packet).expect("what is delivered is an IP packet");
        let within = match (ip.source, ip.destination) {
            (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) => {
                let ([a, b, c, _], [d, e, ..]) = (from.octets(), to.octets());
                [a, b, d, e] == [10, 1, 10, 2] && c != 9
            }
            (std::net::IpAddr::V6(from), std::net::IpAddr::V6(to)) => {
                let net = |site: u16| [0xfd00, 0, 0, site];
                from.segments()[..4] == net(1) && to.segments()[..4] == net(2)
            }
            _ => false,
        };
        assert!(within, "{} to {} is outside of what was agreed", ip.source, ip.destination);
        assert_eq!(ip.total, packet.len(), "no octet behind the packet");
    }
}
