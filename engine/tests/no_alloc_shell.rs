//! Given a worker on a ring or on plain calls that has started, when packets go all the way round, from its TUN queue through UDP
//! back to itself, then its thread allocates and frees nothing. The queue is a pair of Unix datagram sockets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use penstock_engine::handoff::mail::Mailroom;
use penstock_engine::path::{Config, Order, Policies};
use penstock_engine::policy::{Lasting, Policy, PolicyTable, Prefix};
use penstock_engine::sa::{Inbound, Outbound, Pair};
use penstock_engine::sys::wait::Bell;
use penstock_engine::tun::vnet::{Gso, Header};
use penstock_engine::worker::core::Core;
use penstock_engine::worker::desk::{Desk, Errand};
use penstock_engine::worker::{Files, Plan, Set};
use penstock_engine::{plain, ring};
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, switch};
use penstock_uapi::{Counter, Endpoint, Role, Spi};
use zerocopy::little_endian::U32;

const VNET_BYTES: usize = 12;
const ROUNDS: usize = 400;

fn table() -> Arc<PolicyTable> {
    let net = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
    let pairs = vec![(prefix(net(1)), prefix(net(2))), (prefix(net(2)), prefix(net(1)))];
    let policy = Policy { id: 1, name: "self".into(), pairs, lasting: Arc::new(Lasting::new(1)) };
    Arc::new(PolicyTable::new(1, vec![policy]))
}

/// A policy and a pair whose peer is this core itself.
fn orders(remote: SocketAddr) -> [Order; 3] {
    let key = || Key { key: [7; 32], salt: [7; 4], suite: 2, esn: 1, reserved: [0; 2] };
    let spi = Spi::compose(77, 0, 0).expect("not zero").value();
    let (limits, policy) = (Limits::default(), U32::new(1));
    let inbound = InstallInbound { spi: U32::new(spi), policy, window: U32::new(16_384), reserved: U32::ZERO, limits, key: key() };
    let outbound = InstallOutbound {
        spi: U32::new(spi),
        inbound_spi: U32::new(spi),
        policy,
        switch: switch::NOW,
        source: source::OWN,
        fallback: 1,
        per_core: 0,
        switch_ms: U32::ZERO,
        dscp: 255,
        reserved: [0; 3],
        local: Endpoint::NONE,
        remote: Endpoint::from(Some(remote)),
        limits,
        key: key(),
    };
    [
        Order::Policies(Box::new(Policies::new(table()))),
        Order::InstallInbound(Box::new(Pair::installed(spi, 1, Inbound::from_request(&inbound, 0).expect("a suite")))),
        Order::InstallOutbound { spi, outbound: Box::new(Outbound::from_request(&outbound, 0).expect("a suite")) },
    ]
}

/// A TCP super-packet, a UDP datagram, a packet without a route, and garbage.
fn reads() -> Vec<Vec<u8>> {
    let with = |header: Header, packet: Vec<u8>| {
        let mut read = vec![0; VNET_BYTES];
        header.write(&mut read);
        read.extend(packet);
        read
    };
    let mut tcp = Vec::new();
    let builder = PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64).tcp(1, 2, 3, 4).ack(5);
    builder.write(&mut tcp, &[9; 40_000]).expect("memory");
    let udp = |destination: [u8; 4]| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 1], destination, 64).udp(1, 2).write(&mut packet, &[1; 99]).expect("memory");
        packet
    };
    let gso = Header { checksum: Some((20, 16)), gso: Gso::TcpV4, header_bytes: 40, segment_bytes: 1300 };
    vec![with(gso, tcp), with(Header::default(), udp([10, 2, 0, 1])), with(Header::default(), udp([10, 3, 0, 1])), vec![0xff; 40]]
}

/// Runs rounds with packets coming in and nothing allocated; gives how many were delivered.
fn counts_nothing(with_ring: bool, gso: bool) {
    let (tun, device) = UnixDatagram::pair().expect("a pair");
    device.set_nonblocking(true).expect("non-blocking");
    let shared = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let own = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let remote = shared.local_addr().expect("bound");
    let attached = [(Role::Tun, tun.into()), (Role::Shared4, shared.into()), (Role::Own4, own.into())];
    let desk = Arc::new(Desk::new(Arc::new(Bell::new().expect("a bell"))).expect("a desk"));
    let plan = Plan {
        path: Config { core: 0, cores: 1, mtu: 1438, vnet_header_bytes: VNET_BYTES, uso: true, pairs_max: 64 },
        cpu: 0,
        files: Files::duplicate(&attached, Set::First).expect("descriptors"),
        desk: Arc::clone(&desk),
        mail: Mailroom::default(),
        epoch: Instant::now(),
        ring: with_ring,
        read_multishot: true,
        gather: true,
        gso,
        poll: Duration::ZERO,
        drop_stale: false,
        reads_tun: true,
        sandbox: false,
    };
    let ring = with_ring.then(|| ring::open(&plan).expect("a ring"));
    let core = Core::new(plan);
    let mut turn: Box<dyn FnMut()> = match ring {
        Some(ring) => {
            let mut shell = ring::Shell::new(ring, core);
            Box::new(move || shell.round())
        }
        None => {
            let mut shell = plain::Shell::new(core);
            Box::new(move || shell.round())
        }
    };
    let mut orders = orders(remote).into_iter();
    let reads = reads();
    let mut written = vec![0; 70_000];
    let mut delivered = 0;
    let counted = allocation_counter::measure(|| {
        for _ in 0..ROUNDS {
            if let Some(order) = orders.next() {
                assert!(desk.ask(Errand::Order(order)).is_ok());
            }
            for read in &reads {
                // A full queue refuses, like a device's.
                let _ = device.send(read);
            }
            turn();
            while device.recv(&mut written).is_ok() {
                delivered += 1;
            }
        }
    });
    let moment = desk.tally.read();
    assert_eq!((desk.orders_done(), moment.counter(Counter::TunWrites) > 300), (3, true), "{moment:?}");
    assert!(delivered > 300, "{delivered} writes");
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert_eq!(counted.count_current, 0, "nothing was freed either: {counted:?}");
}

#[test]
fn a_worker_on_a_ring_allocates_nothing() {
    counts_nothing(true, true);
    counts_nothing(true, false);
}

#[test]
fn a_worker_on_plain_calls_allocates_nothing() {
    counts_nothing(false, true);
    counts_nothing(false, false);
}
