//! Given a core that has started, when packets of every kind go through it and orders are carried out, then nothing is allocated
//! and nothing is freed on its thread.

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::PacketBuilder;
use penstock_engine::path::{Config, Event, Events, Io, Mail, Order, Path, Policies, Receive, Remains};
use penstock_engine::policy::{Lasting, Policy, PolicyTable, Prefix};
use penstock_engine::sa::{Inbound, Outbound, Pair};
use penstock_engine::slots::{Inbox, Outbox};
use penstock_engine::tally::Tally;
use penstock_engine::tun::vnet::{Gso, Header};
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, switch};
use penstock_uapi::{Counter, Endpoint, Spi};
use zerocopy::little_endian::U32;

/// Counts what is handed to other cores.
struct Sink {
    handed: u32,
}

impl Mail for Sink {
    fn outbound(&mut self, _: u16, _: u32, _: &[u8]) -> bool {
        self.handed += 1;
        true
    }

    fn inbound(&mut self, _: u16, _: &Receive, _: &[u8]) -> bool {
        self.handed += 1;
        true
    }
}

struct Ear(u32);

impl Events for Ear {
    fn event(&mut self, _: Event) -> bool {
        self.0 += 1;
        true
    }

    fn stray_ike(&mut self, _: &Receive, _: &[u8]) -> bool {
        true
    }

    fn remains(&mut self, remains: Remains) -> Option<Remains> {
        // The admin thread would free it; here it must not be freed on this thread.
        std::mem::forget(remains);
        None
    }
}

fn table() -> Arc<PolicyTable> {
    let net = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
    let pairs = vec![(prefix(net(1)), prefix(net(2))), (prefix(net(2)), prefix(net(1)))];
    let policy = Policy { id: 1, name: "self".into(), pairs, lasting: Arc::new(Lasting::new(2)) };
    Arc::new(PolicyTable::new(1, vec![policy]))
}

fn key() -> Key {
    Key { key: [7; 32], salt: [7; 4], suite: 2, esn: 1, reserved: [0; 2] }
}

fn orders(spi: u32) -> [Order; 4] {
    let inbound = InstallInbound {
        spi: U32::new(spi),
        policy: U32::new(1),
        window: U32::new(16_384),
        reserved: U32::ZERO,
        limits: Limits::default(),
        key: key(),
    };
    let outbound = InstallOutbound {
        spi: U32::new(spi),
        inbound_spi: U32::new(spi),
        policy: U32::new(1),
        switch: switch::NOW,
        source: source::OWN,
        fallback: 1,
        per_core: 1,
        switch_ms: U32::ZERO,
        dscp: 255,
        reserved: [0; 3],
        local: Endpoint::NONE,
        remote: Endpoint::from(Some("192.0.2.1:4500".parse().expect("an address"))),
        limits: Limits::default(),
        key: key(),
    };
    [
        Order::Policies(Box::new(Policies::new(table()))),
        Order::Expect(Box::new(Pair::expected(spi, 1))),
        Order::InstallInbound(Box::new(Pair::installed(spi, 1, Inbound::from_request(&inbound, 0).expect("a suite")))),
        Order::InstallOutbound { spi, outbound: Box::new(Outbound::from_request(&outbound, 0).expect("a suite")) },
    ]
}

/// A TCP super-packet, a UDP datagram, a packet without a route, and garbage.
fn reads() -> Vec<Vec<u8>> {
    let with = |header: Header, packet: Vec<u8>| {
        let mut read = vec![0; 12];
        header.write(&mut read);
        read.extend(packet);
        read
    };
    let tcp = |payload: &[u8]| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64).tcp(1, 2, 3, 4).ack(5).write(&mut packet, payload).expect("memory");
        packet
    };
    let udp = |destination: [u8; 4]| {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 1], destination, 64).udp(1, 2).write(&mut packet, &[1; 99]).expect("memory");
        packet
    };
    let gso = Header { checksum: Some((20, 16)), gso: Gso::TcpV4, header_bytes: 40, segment_bytes: 1398 };
    vec![
        with(gso, tcp(&[9; 60_000])),
        with(Header::default(), udp([10, 2, 0, 1])),
        with(Header::default(), udp([10, 3, 0, 1])),
        vec![0xff; 40],
    ]
}

#[test]
fn a_core_allocates_nothing() {
    let config = Config { core: 0, cores: 2, mtu: 1438, vnet_header_bytes: 12, uso: true, pairs_max: 64 };
    let mut path = Path::new(config, Arc::new(Tally::default()));
    let (mut outbox, mut inbox) = (Outbox::new(32), Inbox::new(32));
    let mut sink = Sink { handed: 0 };
    let mut ear = Ear(0);
    let spi = Spi::compose(77, 0, 0).expect("not zero").value();
    let mut orders = orders(spi).into_iter();
    let mut later = self::orders(spi).into_iter();
    drop(later.next());
    let mut reads = reads();
    let elsewhere = Spi::compose(77, 0, 1).expect("not zero").value().to_be_bytes();
    let receive = Receive { from: "192.0.2.1:4500".parse().expect("an address"), to: None, tos: 0, stride: 0 };
    let counted = allocation_counter::measure(|| {
        for round in 0..200u64 {
            let mut io = Io { outbox: &mut outbox, inbox: &mut inbox, mail: &mut sink, events: &mut ear };
            if let Some(order) = orders.next() {
                path.apply(round, order, &mut io);
            } else if round > 100
                && let Some(order) = later.next()
            {
                path.apply(round, order, &mut io);
            }
            for read in &mut reads {
                path.outbound(round, read, &mut io);
            }
            path.inbound(round, &Receive { stride: 40, ..receive }, &[0; 40], &mut io);
            path.inbound(round, &Receive { stride: 4, ..receive }, &elsewhere, &mut io);
            path.finish(&mut io);
            while let Some(slot) = outbox.take_ready() {
                let mut io = Io { outbox: &mut outbox, inbox: &mut inbox, mail: &mut sink, events: &mut ear };
                path.inbound(round, &Receive { stride: slot.segment, ..receive }, &slot.data[..slot.len], &mut io);
                path.sent(&slot, None, &mut io);
                path.finish(&mut io);
                outbox.give_back(slot);
            }
            while let Some(slot) = inbox.take_ready() {
                path.written(&slot, true);
                inbox.give_back(slot);
            }
            let mut io = Io { outbox: &mut outbox, inbox: &mut inbox, mail: &mut sink, events: &mut ear };
            path.tick(round, &mut io);
        }
    });
    let moment = path.moment();
    assert!(moment.counter(Counter::SealedPackets) > 1000 && moment.counter(Counter::DeliveredPackets) > 1000, "packets went through");
    assert!(ear.0 > 0 && sink.handed > 0);
    assert_eq!(counted.count_total, 0, "{counted:?}");
    assert_eq!(counted.count_current, 0, "nothing was freed either: {counted:?}");
}
