//! Two cores of two sites in memory: what goes in at one TUN queue comes out at the other, and what should not does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use penstock_uapi::counter::Stage;
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, switch};
use penstock_uapi::{Counter, Drop, Endpoint, Spi};
use zerocopy::little_endian::{U32, U64};

use super::{Config, Event, Events, Io, Mail, Order, Path, Policies, Receive, Remains};
use crate::policy::{Lasting, Policy, PolicyTable, Prefix};
use crate::sa::{Inbound, Outbound, Pair};
use crate::slots::{Envelope, Inbox, Outbox};
use crate::tally::Tally;
use crate::tun::model::{Flow, cut_write};
use crate::tun::vnet::HEADER_BYTES_MAX;

mod crossing;
mod edges;
mod keys;
mod owners;
mod refusals;
mod waiting;

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
    /// That of the run sent last.
    envelope: Option<Envelope>,
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
        let mut core = Self {
            path,
            outbox: Outbox::new(32),
            inbox: Inbox::new(32),
            post: Post::default(),
            told: Told::default(),
            envelope: None,
            now: 1,
        };
        core.apply(Order::Policies(Box::new(Policies::new(Arc::clone(table)))));
        core
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Path, u64, &mut Io<'_>) -> T) -> T {
        let Self { path, outbox, inbox, post, told, now, .. } = self;
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
            self.envelope = slot.envelope;
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

    /// Packets that found no SA: dropped, or waiting for one.
    fn without_sa(&self) -> u64 {
        self.dropped(Drop::NoSa) + self.path.waiting()
    }

    /// The sums that stand at [`Counter`].
    fn assert_sums(&self) {
        let moment = self.path.moment();
        let lost = |stage| Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| moment.dropped(*drop)).sum::<u64>();
        let sum = |counters: &[Counter]| counters.iter().map(|counter| moment.counter(*counter)).sum::<u64>();
        use Counter as C;
        assert_eq!(
            sum(&[C::OutboundPackets, C::OutboundHandoffIn]),
            sum(&[C::SealedPackets, C::OutboundHandoffOut]) + self.path.waiting() + lost(Stage::Outbound)
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
    Arc::new(PolicyTable::new(1, vec![policy, other]))
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
