//! Two cores of two sites in memory: what goes in at one TUN queue comes out at the other, and what should not does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use penstock_uapi::counter::Stage;
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, switch};
use penstock_uapi::{Counter, Drop, Endpoint, Spi};
use proptest::prelude::*;
use zerocopy::little_endian::{U32, U64};

use super::{Config, Event, Events, Io, Mail, Order, Path, Policies, Receive, Remains};
use crate::policy::{Lasting, Policy, PolicyTable, Prefix};
use crate::sa::{Inbound, Outbound, Pair};
use crate::slots::{Inbox, Outbox};
use crate::tally::Tally;
use crate::tun::model::{Flow, cut_write};
use crate::tun::vnet::HEADER_BYTES_MAX;

mod edges;

const PEER: u32 = 7;

/// Keeps what the shell would carry.
#[derive(Default)]
struct Post {
    outbound: Vec<(u16, u32, Vec<u8>)>,
    inbound: Vec<(u16, Receive, Vec<u8>)>,
    full: bool,
}

impl Mail for Post {
    fn outbound(&mut self, core: u16, policy: u32, read: &[u8]) -> bool {
        if !self.full {
            self.outbound.push((core, policy, read.to_vec()));
        }
        !self.full
    }

    fn inbound(&mut self, core: u16, receive: &Receive, frame: &[u8]) -> bool {
        if !self.full {
            self.inbound.push((core, *receive, frame.to_vec()));
        }
        !self.full
    }
}

#[derive(Default)]
struct Told {
    events: Vec<Event>,
    ike: Vec<Vec<u8>>,
    remains: usize,
}

impl Events for Told {
    fn event(&mut self, event: Event) -> bool {
        self.events.push(event);
        true
    }

    fn stray_ike(&mut self, _: &Receive, message: &[u8]) -> bool {
        self.ike.push(message.to_vec());
        self.ike.len() < 100
    }

    fn remains(&mut self, _: Remains) -> Option<Remains> {
        self.remains += 1;
        None
    }
}

/// A core with everything around it.
struct Core {
    path: Path,
    outbox: Outbox,
    inbox: Inbox,
    post: Post,
    told: Told,
    now: u64,
}

/// One run of frames as the wire sees it.
#[derive(Clone, Debug)]
struct Run {
    tos: u8,
    stride: usize,
    bytes: Vec<u8>,
}

impl Core {
    fn new(core: u16, table: &Arc<PolicyTable>) -> Self {
        let config = Config { core, cores: 2, mtu: 1438, vnet_header_bytes: HEADER_BYTES_MAX, uso: true, pairs_max: 64 };
        let path = Path::new(config, Arc::new(Tally::default()));
        let mut core = Self { path, outbox: Outbox::new(32), inbox: Inbox::new(32), post: Post::default(), told: Told::default(), now: 1 };
        core.apply(Order::Policies(Box::new(Policies::new(Arc::clone(table)))));
        core
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Path, u64, &mut Io<'_>) -> T) -> T {
        let Self { path, outbox, inbox, post, told, now } = self;
        work(path, *now, &mut Io { outbox, inbox, mail: post, events: told })
    }

    fn apply(&mut self, order: Order) {
        self.with(|path, now, io| path.apply(now, order, io));
    }

    fn tick(&mut self, now: u64) {
        self.now = now;
        self.with(|path, now, io| path.tick(now, io));
    }

    /// Reads of a batch become runs on the wire.
    fn send(&mut self, reads: &[Vec<u8>]) -> Vec<Run> {
        self.with(|path, now, io| {
            for read in reads {
                path.outbound(now, &mut read.clone(), io);
            }
            path.finish(io);
        });
        self.sent()
    }

    fn sent(&mut self) -> Vec<Run> {
        let mut runs = Vec::new();
        while let Some(slot) = self.outbox.take_ready() {
            let tos = slot.envelope.expect("a ready run has an envelope").tos;
            runs.push(Run { tos, stride: slot.segment, bytes: slot.data[..slot.len].to_vec() });
            self.with(|path, _, io| path.sent(&slot, None, io));
            self.outbox.give_back(slot);
        }
        self.with(|path, _, io| path.finish(io));
        runs
    }

    /// Runs from the wire become writes.
    fn receive(&mut self, runs: &[Run]) -> Vec<Vec<u8>> {
        self.with(|path, now, io| {
            for run in runs {
                path.inbound(now, &receive_from("192.0.2.1:4500", run.tos, run.stride), &run.bytes, io);
            }
            path.finish(io);
        });
        self.written()
    }

    fn written(&mut self) -> Vec<Vec<u8>> {
        let mut writes = Vec::new();
        while let Some(slot) = self.inbox.take_ready() {
            writes.push(slot.data[..slot.len].to_vec());
            self.path.written(&slot, true);
            self.inbox.give_back(slot);
        }
        self.with(|path, _, io| path.finish(io));
        writes
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.path.moment().counter(counter)
    }

    fn dropped(&self, drop: Drop) -> u64 {
        self.path.moment().dropped(drop)
    }

    /// The sums that stand at [`Counter`].
    fn assert_sums(&self) {
        let moment = self.path.moment();
        let lost = |stage| Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| moment.dropped(*drop)).sum::<u64>();
        let sum = |counters: &[Counter]| counters.iter().map(|counter| moment.counter(*counter)).sum::<u64>();
        use Counter as C;
        assert_eq!(
            sum(&[C::OutboundPackets, C::OutboundHandoffIn]),
            sum(&[C::SealedPackets, C::OutboundHandoffOut]) + lost(Stage::Outbound)
        );
        assert_eq!(sum(&[C::SealedPackets]), sum(&[C::SentPackets]) + lost(Stage::Send));
        assert_eq!(
            sum(&[C::InboundFrames, C::InboundHandoffIn]),
            sum(&[C::OpenedPackets, C::InboundHandoffOut, C::Keepalives, C::StrayIke])
                + u64::from(self.path.parked())
                + lost(Stage::Inbound)
        );
        assert_eq!(sum(&[C::OpenedPackets]), sum(&[C::DeliveredPackets]) + lost(Stage::Deliver));
    }
}

fn receive_from(from: &str, tos: u8, stride: usize) -> Receive {
    Receive { from: from.parse().expect("an address"), to: None, tos, stride }
}

/// The table of a site: 10.`local`/16 and fd00:..:`local`::/64 here, the same of `remote` there.
fn table(local: u8, remote: u8) -> Arc<PolicyTable> {
    table_with(&Arc::new(Lasting::new(2)), local, remote)
}

fn table_with(lasting: &Arc<Lasting>, local: u8, remote: u8) -> Arc<PolicyTable> {
    let v4 = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let v6 = |site: u8| (IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 0]), 64);
    let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
    let pairs = vec![(prefix(v4(local)), prefix(v4(remote))), (prefix(v6(local)), prefix(v6(remote)))];
    let policy = Policy { id: PEER, name: "peer".into(), pairs, lasting: Arc::clone(lasting) };
    // Another peer nested in the first one's subnet.
    let nested = (IpAddr::from([10, remote, 9, 0]), 24);
    let lasting = Arc::new(Lasting::new(2));
    let other = Policy { id: PEER + 1, name: "other".into(), pairs: vec![(prefix(v4(local)), prefix(nested))], lasting };
    Arc::new(PolicyTable::new(1, vec![(policy, vec![v4(remote), v6(remote)]), (other, vec![nested])]))
}

fn spi(core: u8, number: u32) -> u32 {
    Spi::compose(number + 1, 0, core).expect("not zero").value()
}

fn key(number: u8) -> Key {
    Key { key: [number; 32], salt: [number; 4], suite: 1, esn: 1, reserved: [0; 2] }
}

fn inbound(spi: u32, number: u8, limits: Limits) -> Box<Pair> {
    let request = InstallInbound {
        spi: U32::new(spi),
        policy: U32::new(PEER),
        window: U32::new(1024),
        reserved: U32::ZERO,
        limits,
        key: key(number),
    };
    Box::new(Pair::installed(spi, PEER, Inbound::from_request(&request, 1).expect("a known suite")))
}

fn outbound(theirs: u32, ours: u32, number: u8, change: impl FnOnce(&mut InstallOutbound)) -> Box<Outbound> {
    let mut request = InstallOutbound {
        spi: U32::new(theirs),
        inbound_spi: U32::new(ours),
        policy: U32::new(PEER),
        switch: switch::NOW,
        source: source::OWN,
        fallback: 1,
        per_core: 0,
        switch_ms: U32::ZERO,
        dscp: 255,
        reserved: [0; 3],
        local: Endpoint::NONE,
        remote: "192.0.2.1:4500".parse::<SocketAddr>().expect("an address").into(),
        limits: Limits::default(),
        key: key(number),
    };
    change(&mut request);
    Box::new(Outbound::from_request(&request, 1).expect("a known suite"))
}

/// Site 1 sends to site 2 with key 1, and hears it with key 2.
fn pair() -> (Core, Core) {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits::default());
    (left, right)
}

fn join(left: &mut Core, right: &mut Core, number: u32, limits: Limits) {
    let (ours, theirs) = (spi(0, number), spi(0, number + 100));
    let (first, second) = (number as u8 * 2 + 1, number as u8 * 2 + 2);
    left.apply(Order::InstallInbound(inbound(ours, second, limits)));
    right.apply(Order::InstallInbound(inbound(theirs, first, limits)));
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(theirs, ours, first, |request| request.limits = limits) });
    right.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(ours, theirs, second, |request| request.limits = limits) });
}

fn packets(writes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    writes.iter().flat_map(|write| cut_write(write)).collect()
}

#[test]
fn super_packets_cross_whole() {
    let (mut left, mut right) = pair();
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let flow = Flow { push: tcp, ..Flow::new(v6, tcp) };
        let payload: Vec<u8> = (0..60_000u32).map(|at| ((at * 31) >> 3) as u8).collect();
        let segment = 1438 - flow.headers();
        let runs = left.send(&[flow.read(&payload, segment)]);
        assert_eq!(runs.len(), 1, "one super-packet, one send");
        let writes = right.receive(&runs);
        assert_eq!(writes.len(), 1, "one super-packet again");
        assert_eq!(packets(&writes), flow.cut(&payload, segment));
    }
    left.assert_sums();
    right.assert_sums();
    assert_eq!(left.counter(Counter::SealedPackets), right.counter(Counter::DeliveredPackets));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_mix_of_reads_comes_out_the_same(reads in proptest::collection::vec((any::<bool>(), any::<bool>(), 0..4u16, 1..9000usize, 300..1366usize), 1..12), mixed: bool) {
        let (mut left, mut right) = pair();
        let mut expected = Vec::new();
        let reads: Vec<_> = reads.into_iter().map(|(v6, tcp, port, length, segment)| {
            let flow = Flow { port: port + 1, ..Flow::new(v6, tcp) };
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            if length <= segment {
                expected.push(flow.packet(&payload));
                flow.plain(&payload)
            } else {
                expected.extend(flow.cut(&payload, segment));
                flow.read(&payload, segment)
            }
        }).collect();
        let mut runs = left.send(&reads);
        if mixed {
            // A wire that merges nothing.
            runs = runs.iter().flat_map(|run| run.bytes.chunks(run.stride).map(|frame| Run { tos: run.tos, stride: frame.len(), bytes: frame.to_vec() })).collect();
        }
        prop_assert_eq!(packets(&right.receive(&runs)), expected);
        left.assert_sums();
        right.assert_sums();
    }
}

#[test]
fn a_frame_is_delivered_once_and_only_if_whole() {
    let (mut left, mut right) = pair();
    let runs = left.send(&[Flow::new(false, false).plain(b"once")]);
    let frame = &runs[0].bytes;
    let mut tries = 0;
    for bit in 0..frame.len() * 8 {
        let mut run = runs[0].clone();
        run.bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(right.receive(&[run]).is_empty(), "bit {bit}");
        tries += 1;
    }
    for length in 1..frame.len() {
        assert!(right.receive(&[Run { bytes: frame[..length].to_vec(), ..runs[0] }]).is_empty(), "{length} bytes");
        tries += 1;
    }
    assert_eq!(right.receive(&runs).len(), 1);
    for _ in 0..5 {
        assert!(right.receive(&runs).is_empty());
        tries += 1;
    }
    assert_eq!(right.dropped(Drop::Replay), 5);
    let died: u64 = Drop::ALL.iter().map(|drop| right.dropped(*drop)).sum();
    assert_eq!(died + right.counter(Counter::InboundHandoffOut), tries, "each one counted");
    right.assert_sums();
}

#[test]
fn every_length_of_garbage_is_counted() {
    let (_, mut right) = pair();
    for length in 0..2048usize {
        for first in [0u8, 0xff, 0x45, 1] {
            let bytes: Vec<u8> = (0..length).map(|at| if at < 4 { first } else { at as u8 }).collect();
            assert!(right.receive(&[Run { tos: 0, stride: length, bytes }]).is_empty());
        }
    }
    assert_eq!(right.counter(Counter::InboundFrames), 2048 * 4);
    assert_eq!(right.counter(Counter::Keepalives), 1);
    assert!(right.dropped(Drop::StrayIkeLost) > 0 && right.counter(Counter::StrayIke) == 99);
    right.assert_sums();
}

/// What only a peer with the key can send: each frame is authentic and must still not be delivered.
#[test]
fn a_hostile_peer_reaches_nothing_beyond_its_subnets() {
    let (_, mut right) = pair();
    let mut sealer = crate::esp::seal::Sealer::new(spi(0, 100), &key(1), &Limits::default()).expect("a known suite");
    let mut try_one = |inner: &[u8], next_header: u8, tos: u8| {
        let mut bytes = vec![0; 4096];
        let length = sealer.seal(inner, next_header, &mut bytes).expect("room");
        bytes.truncate(length);
        right.receive(&[Run { tos, stride: length, bytes }]).len()
    };
    let good = Flow::new(false, false).packet(b"good");
    assert_eq!(try_one(&good, 4, 0), 1);
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    assert_eq!(try_one(&changed(13, 3), 4, 0), 0, "a source that no peer has");
    assert_eq!(try_one(&changed(14, 9), 4, 0), 0, "a source that the longest prefix gives to another peer");
    assert_eq!(try_one(&changed(17, 3), 4, 0), 0, "a destination that is not local");
    assert_eq!(try_one(&good, 41, 0), 0, "another version than announced");
    assert_eq!(try_one(&good, 6, 0), 0, "no tunnel");
    assert_eq!(try_one(&good, 59, 0), 0, "a dummy");
    assert_eq!(try_one(&good[..19], 4, 0), 0, "cut short");
    assert_eq!(try_one(&good[..good.len() - 1], 4, 0), 0, "shorter than it says");
    assert_eq!(try_one(&[], 4, 0), 0, "nothing");
    assert_eq!(try_one(&changed(0, 0x44), 4, 0), 0, "a header that is too short");
    assert_eq!(try_one(&good, 4, 3), 0, "congestion on a packet that cannot carry the mark");
    let reasons = [
        (Drop::SourceNotPeer, 2),
        (Drop::DestinationNotLocal, 1),
        (Drop::InboundMalformed, 5),
        (Drop::BadNextHeader, 1),
        (Drop::Dummy, 1),
        (Drop::Ecn, 1),
    ];
    for (reason, count) in reasons {
        assert_eq!(right.dropped(reason), count, "{}", reason.name());
    }
    right.assert_sums();
}

#[test]
fn congestion_is_carried_in_both_ways() {
    let (mut left, mut right) = pair();
    for (inner, outer, expected) in [(2, 3, 3), (1, 3, 3), (2, 1, 1), (3, 0, 3), (0xb8, 0, 0xb8)] {
        for v6 in [false, true] {
            let flow = Flow { tos: inner, ..Flow::new(v6, true) };
            let mut runs = left.send(&[flow.plain(b"marked")]);
            assert_eq!(runs[0].tos, inner, "the outer field is the inner one");
            runs[0].tos = outer;
            assert_eq!(packets(&right.receive(&runs)), [Flow { tos: expected, ..flow }.packet(b"marked")]);
        }
    }
}

#[test]
fn what_may_not_leave_is_named() {
    let (mut left, _) = pair();
    let good = Flow::new(false, false);
    let mut try_one = |change: &dyn Fn(&mut Vec<u8>), payload: usize| {
        let mut read = good.plain(&vec![0; payload]);
        change(&mut read);
        assert!(left.send(&[read]).is_empty());
    };
    try_one(&|read| read[12 + 17] = 3, 9);
    try_one(&|read| read[12 + 13] = 3, 9);
    try_one(&|read| read[12] = 0x75, 9);
    try_one(&|read| read.truncate(11), 9);
    try_one(&|read| read[1] = 3, 9);
    try_one(&|_| {}, 1439 - 28);
    // To the nested peer, which has no SA.
    try_one(&|read| read[12 + 18] = 9, 9);
    for (reason, count) in [(Drop::NoRoute, 1), (Drop::SourceNotLocal, 1), (Drop::OutboundMalformed, 3), (Drop::TooBig, 1), (Drop::NoSa, 1)]
    {
        assert_eq!(left.dropped(reason), count, "{}", reason.name());
    }
    assert_eq!(left.told.events, [Event::Acquire { policy: PEER + 1, per_core: false }]);
    left.assert_sums();
}

#[test]
fn our_own_frames_do_not_enter_again() {
    let (mut left, _) = pair();
    let ours = spi(0, 50);
    left.apply(Order::InstallInbound(inbound(ours, 60, Limits::default())));
    // A peer whose subnet covers its endpoint: 10.2.0.1, where the model's packets go.
    let endpoint: SocketAddr = "10.2.0.1:53".parse().expect("an address");
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(9999, ours, 61, |request| request.remote = endpoint.into()) });
    assert!(left.send(&[Flow::new(false, false).plain(b"round and round")]).is_empty());
    assert_eq!(left.dropped(Drop::Loop), 1);
    assert_eq!(left.send(&[Flow::new(false, true).plain(b"not UDP")]).len(), 1);
}

#[test]
fn limits_are_told_once_and_stop_to_the_packet() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    let limits = Limits { soft_packets: U64::new(3), hard_packets: U64::new(5), ..Limits::default() };
    join(&mut left, &mut right, 0, limits);
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.extend(left.send(&[Flow::new(false, false).plain(b"counted")]));
    }
    assert_eq!((runs.len(), left.dropped(Drop::KeyExhausted)), (5, 3));
    assert_eq!(right.receive(&runs).len(), 5);
    let limit = |spi, hard, outbound| Event::Limit { spi, hard, outbound };
    assert_eq!(left.told.events, [limit(spi(0, 0), false, true), limit(spi(0, 0), true, true)]);
    assert_eq!(right.told.events, [limit(spi(0, 100), false, false), limit(spi(0, 100), true, false)]);
    left.assert_sums();
    right.assert_sums();
}

#[test]
fn a_key_ends_with_its_time() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits { hard_ms: U64::new(1000), ..Limits::default() });
    let read = Flow::new(false, false).plain(b"late");
    left.tick(1000);
    let runs = left.send(std::slice::from_ref(&read));
    assert_eq!(runs.len(), 1);
    left.tick(1001);
    assert!(left.send(&[read]).is_empty());
    assert_eq!(left.dropped(Drop::KeyExhausted), 1);
    right.tick(1001);
    assert!(right.receive(&runs).is_empty());
    assert_eq!(right.dropped(Drop::InboundKeyExhausted), 1);
}

#[test]
fn the_responder_switches_when_it_hears_the_new_key() {
    let (mut left, mut right) = pair();
    let read = |text: &[u8]| vec![Flow::new(false, false).plain(text)];
    let reply = |text: &[u8]| {
        let mut flow = Flow::new(false, false).plain(text);
        let (source, destination) = (flow[12 + 12..12 + 16].to_vec(), flow[12 + 16..12 + 20].to_vec());
        flow[12 + 12..12 + 16].copy_from_slice(&destination);
        flow[12 + 16..12 + 20].copy_from_slice(&source);
        vec![flow]
    };
    let frame_spi = |runs: &[Run]| crate::esp::packet::spi(&runs[0].bytes).expect("a frame");
    // New keys: the right side is the responder, the left one the initiator that has announced its SPI.
    let (ours, theirs) = (spi(0, 1), spi(0, 101));
    left.apply(Order::Expect(Box::new(Pair::expected(ours, PEER))));
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    right.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(ours, theirs, 4, |request| request.switch = switch::ON_INBOUND) });
    let old = right.send(&reply(b"still the old key"));
    assert_eq!(frame_spi(&old), spi(0, 0));
    assert_eq!(left.receive(&old).len(), 1);
    left.apply(Order::InstallInbound(inbound(ours, 4, Limits::default())));
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(theirs, ours, 3, |_| {}) });
    let new = left.send(&read(b"the new key"));
    assert_eq!(frame_spi(&new), theirs);
    assert_eq!(right.receive(&new).len(), 1);
    assert_eq!(right.told.events, [Event::OutboundActive { spi: theirs }]);
    let answer = right.send(&reply(b"heard"));
    assert_eq!(frame_spi(&answer), ours);
    assert_eq!(left.receive(&answer).len(), 1);
    // The old pair goes on receiving while it drains, then it is unknown.
    right.apply(Order::Retire { spi: spi(0, 100), drain_ms: 5000 });
    right.tick(5001);
    right.tick(5101);
    assert!(right.path.pairs.get(spi(0, 100)).is_none() && right.path.pairs.get(theirs).is_some());
    left.assert_sums();
    right.assert_sums();
}

#[test]
fn a_waiting_key_takes_over_when_the_old_pair_is_retired_or_its_time_comes() {
    for by_time in [false, true] {
        let (_, mut right) = pair();
        let theirs = spi(0, 101);
        right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
        let waiting = outbound(7777, theirs, 4, |request| {
            request.switch = switch::ON_INBOUND;
            request.switch_ms = U32::new(if by_time { 1000 } else { 0 });
        });
        right.apply(Order::InstallOutbound { spi: theirs, outbound: waiting });
        right.tick(900);
        assert!(right.told.events.is_empty());
        if by_time {
            right.tick(1001);
        } else {
            right.apply(Order::Retire { spi: spi(0, 100), drain_ms: 5000 });
        }
        assert_eq!(right.told.events, [Event::OutboundActive { spi: theirs }]);
    }
}

#[test]
fn a_key_that_is_retired_while_it_waits_never_takes_over() {
    let (_, mut right) = pair();
    let theirs = spi(0, 101);
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    let waiting = outbound(7777, theirs, 4, |request| {
        request.switch = switch::ON_INBOUND;
        request.switch_ms = U32::new(1000);
    });
    right.apply(Order::InstallOutbound { spi: theirs, outbound: waiting });
    right.apply(Order::Retire { spi: theirs, drain_ms: 5000 });
    right.tick(1001);
    assert!(right.told.events.is_empty());
}

#[test]
fn packets_for_an_announced_spi_wait_for_its_key() {
    let (mut left, mut right) = pair();
    let runs: Vec<_> = (0..70).flat_map(|_| left.send(&[Flow::new(false, true).plain(&[1; 900])])).collect();
    let theirs = spi(0, 100);
    right.apply(Order::Retire { spi: theirs, drain_ms: 0 });
    right.apply(Order::Expect(Box::new(Pair::expected(theirs, PEER))));
    assert!(right.receive(&runs[..10]).is_empty());
    assert_eq!(right.path.parked(), 10);
    right.assert_sums();
    right.apply(Order::InstallInbound(inbound(theirs, 1, Limits::default())));
    right.with(|path, _, io| path.finish(io));
    assert_eq!(packets(&right.written()).len(), 10);
    // More than fits, and then too long.
    right.apply(Order::Expect(Box::new(Pair::expected(theirs, PEER))));
    right.receive(&runs[10..]);
    let kept = u64::from(right.path.parked());
    assert!(kept > 50 && right.dropped(Drop::Parked) == 60 - kept, "{kept}");
    right.tick(right.now + 2000);
    assert_eq!((right.path.parked(), right.dropped(Drop::Parked)), (0, 60));
    right.assert_sums();
}

#[test]
fn another_core_hands_over_to_the_owner_of_the_only_sa() {
    let lasting = Arc::new(Lasting::new(2));
    let here = table_with(&lasting, 1, 2);
    let (mut owner, mut other, mut right) = (Core::new(0, &here), Core::new(1, &here), Core::new(0, &table(2, 1)));
    join(&mut owner, &mut right, 0, Limits::default());
    let flow = Flow::new(false, true);
    let payload = vec![3; 10_000];
    let read = flow.read(&payload, 1000);
    assert!(other.send(std::slice::from_ref(&read)).is_empty());
    assert_eq!(other.told.events, [Event::Acquire { policy: PEER, per_core: true }]);
    let (core, policy, handed) = other.post.outbound.pop().expect("handed over");
    assert_eq!((core, policy, &handed), (0, PEER, &read));
    let mut handed = handed;
    owner.with(|path, _, io| {
        path.outbound_handed(policy, &mut handed, io);
        path.finish(io);
    });
    let runs = owner.sent();
    assert_eq!(packets(&right.receive(&runs)), flow.cut(&payload, 1000));
    // And inbound: a frame for core 0 that core 1 received.
    let stray = right.send(&[{
        let mut read = flow.plain(b"back");
        let (source, destination) = (read[24..28].to_vec(), read[28..32].to_vec());
        read[24..28].copy_from_slice(&destination);
        read[28..32].copy_from_slice(&source);
        read
    }]);
    assert!(other.receive(&stray).is_empty());
    let (core, receive, frame) = other.post.inbound.pop().expect("handed over");
    assert_eq!(core, 0);
    owner.with(|path, now, io| {
        path.inbound_handed(now, &receive, &frame, io);
        path.finish(io);
    });
    assert_eq!(owner.written().len(), 1);
    // A full queue is a named drop.
    other.post.full = true;
    other.send(&[read]);
    other.receive(&stray);
    assert_eq!((other.dropped(Drop::OutboundHandoffFull), other.dropped(Drop::InboundHandoffFull)), (10, 1));
    // Its own SA ends the handoff, and the change is counted.
    let own = spi(1, 5);
    other.apply(Order::InstallInbound(inbound(own, 9, Limits::default())));
    other.apply(Order::InstallOutbound { spi: own, outbound: outbound(8888, own, 10, |request| request.fallback = 0) });
    assert_eq!(other.send(&[flow.plain(b"own")]).len(), 1);
    assert_eq!(other.counter(Counter::FlowMoves), 1);
    for core in [&owner, &other, &right] {
        core.assert_sums();
    }
}

#[test]
fn a_moved_peer_is_followed_only_where_the_port_is_shared() {
    for (source, follows) in [(source::SHARED, true), (source::OWN, false)] {
        let (mut left, mut right) = pair();
        let theirs = spi(0, 100);
        right.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(spi(0, 0), theirs, 2, |request| request.source = source) });
        let runs: Vec<_> = (0..2).flat_map(|_| left.send(&[Flow::new(false, false).plain(b"x")])).collect();
        let from = |core: &mut Core, address: &str, run: &Run| {
            core.with(|path, now, io| {
                path.inbound(now, &receive_from(address, 0, run.stride), &run.bytes, io);
                path.finish(io);
            });
        };
        right.now = 1000;
        from(&mut right, "198.51.100.9:1234", &runs[1]);
        from(&mut right, "203.0.113.1:9", &runs[0]);
        let remote = right.path.pairs.get(theirs).and_then(|pair| pair.outbound.as_ref()).expect("installed").remote;
        assert_eq!(remote == "198.51.100.9:1234".parse().expect("an address"), follows, "an older packet from elsewhere moves nothing");
        let moved = Event::PeerMoved { spi: theirs, from: "198.51.100.9:1234".parse().expect("an address") };
        assert_eq!(right.told.events.contains(&moved), !follows);
    }
}

#[test]
fn a_new_table_keeps_what_was_counted_and_what_sends() {
    let lasting = Arc::new(Lasting::new(2));
    let (mut left, mut right) = (Core::new(0, &table_with(&lasting, 1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits::default());
    left.send(&[Flow::new(false, false).plain(b"before")]);
    left.apply(Order::Policies(Box::new(Policies::new(table_with(&lasting, 1, 2)))));
    assert_eq!(left.send(&[Flow::new(false, false).plain(b"after")]).len(), 1);
    assert_eq!(lasting.cells[0].outbound_packets.load(std::sync::atomic::Ordering::Relaxed), 2);
    // Without the policy there is no way.
    left.apply(Order::Policies(Box::new(Policies::new(Arc::new(PolicyTable::new(3, Vec::new()))))));
    assert!(left.send(&[Flow::new(false, false).plain(b"gone")]).is_empty());
    assert_eq!(left.dropped(Drop::NoRoute), 1);
}

#[test]
fn kernel_errors_have_names() {
    let (mut left, _) = pair();
    let errors = [
        (libc::EPERM, Drop::SendFiltered),
        (libc::ENETUNREACH, Drop::SendUnreachable),
        (libc::EMSGSIZE, Drop::SendTooBig),
        (libc::ENOBUFS, Drop::SendNoBuffer),
        (libc::ECONNREFUSED, Drop::SendFailed),
    ];
    for (error, reason) in errors {
        left.with(|path, now, io| {
            path.outbound(now, &mut Flow::new(false, false).plain(b"x"), io);
            path.finish(io);
        });
        let slot = left.outbox.take_ready().expect("a run");
        left.with(|path, _, io| path.sent(&slot, Some(error), io));
        left.outbox.give_back(slot);
        assert_eq!(left.dropped(reason), 1);
    }
    assert_eq!(left.told.events.len(), 1, "a path MTU");
    left.assert_sums();
}

#[test]
fn buffers_that_run_out_cost_packets_and_nothing_else() {
    let (mut left, mut right) = pair();
    left.outbox = Outbox::new(1);
    let runs = left.send(&[Flow::new(false, true).read(&[1; 60_000], 1000), Flow::new(false, true).read(&[2; 60_000], 1000)]);
    assert_eq!((runs.len(), left.dropped(Drop::OutboundNoBuffer)), (1, 60), "sixty frames of 1,088 bytes fill one send");
    right.inbox = Inbox::new(1);
    right.receive(&runs);
    assert!(right.dropped(Drop::InboundNoBuffer) > 0);
    left.assert_sums();
    right.assert_sums();
}

#[test]
fn a_new_key_is_asked_for_before_the_old_ones_time_is_up() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits { hard_ms: U64::new(70_000), ..Limits::default() });
    left.tick(53_000);
    assert!(left.told.events.is_empty(), "a tenth before six sevenths is the earliest");
    left.tick(60_001);
    left.tick(60_101);
    assert_eq!(left.told.events, [Event::Limit { spi: spi(0, 0), hard: false, outbound: true }], "without a packet, and once");
    assert_eq!(left.send(&[Flow::new(false, false).plain(b"still good")]).len(), 1);
}

#[test]
fn a_path_mtu_is_told_once_a_tick() {
    let (mut left, _) = pair();
    for now in [100, 200] {
        for _ in 0..5 {
            left.with(|path, now, io| {
                path.outbound(now, &mut Flow::new(false, false).plain(b"x"), io);
                path.finish(io);
            });
            let slot = left.outbox.take_ready().expect("a run");
            left.with(|path, _, io| path.sent(&slot, Some(libc::EMSGSIZE), io));
            left.outbox.give_back(slot);
        }
        left.tick(now);
    }
    assert_eq!((left.told.events.len(), left.dropped(Drop::SendTooBig)), (2, 10));
}

/// UDP_GRO merges by address and port before the socket is picked: a buffer can hold frames of two SAs, and IKE behind ESP.
#[test]
fn each_frame_of_a_mixed_buffer_goes_its_own_way() {
    let (mut left, mut right) = pair();
    let flow = Flow::new(false, false);
    let runs: Vec<_> = (0..3).flat_map(|_| left.send(&[flow.plain(b"mine")])).collect();
    let stride = runs[0].stride;
    let mut elsewhere = runs[0].bytes.clone();
    elsewhere[..4].copy_from_slice(&spi(1, 100).to_be_bytes());
    let mut ike = elsewhere.clone();
    ike[..4].fill(0);
    let bytes = [&runs[0].bytes, &elsewhere, &runs[1].bytes, &ike, &elsewhere, &runs[2].bytes].map(Vec::as_slice).concat();
    let writes = right.receive(&[Run { tos: 0, stride, bytes }]);
    assert_eq!(packets(&writes), vec![flow.packet(b"mine"); 3]);
    let handed: Vec<_> = right.post.inbound.iter().map(|(core, _, frame)| (*core, frame == &elsewhere)).collect();
    assert_eq!((handed, right.told.ike.len()), (vec![(1, true); 2], 1));
    right.assert_sums();
}
