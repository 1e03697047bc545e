//! A core of a site in memory: the engine's path with everything a shell would give it.
//!
//! Site 1 has 10.1.0.0/16 and fd00:0:0:1::/64, site 2 has 10.2.0.0/16 and fd00:0:0:2::/64; a second peer of site 1 is nested in
//! the latter at 10.2.9.0/24.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use penstock_engine::path::{Config, Event, Events, Io, Mail, Order, Path, Policies, Receive, Remains};
use penstock_engine::policy::{Lasting, Policy, PolicyTable, Prefix};
use penstock_engine::sa::{Inbound, Outbound, Pair};
use penstock_engine::slots::{Inbox, Outbox};
use penstock_engine::tally::Tally;
use penstock_engine::tun::vnet::HEADER_BYTES_MAX;
use penstock_uapi::counter::Stage;
use penstock_uapi::request::{InstallInbound, InstallOutbound, Key, Limits, source, suite, switch};
use penstock_uapi::{Counter, Drop, Endpoint, Spi};
use zerocopy::little_endian::U32;

/// The other site's policy.
pub const PEER: u32 = 7;
/// Bytes of the virtio header in front of reads and writes.
pub const VNET_BYTES: usize = HEADER_BYTES_MAX;
/// The TUN device's MTU.
pub const MTU: usize = 1438;
/// Bytes that ESP adds at most: header, IV, padding, trailer, ICV (RFC 4303, RFC 4106).
pub const ESP_BYTES_MAX: usize = 8 + 8 + 3 + 2 + 16;

/// Takes everything, keeps nothing.
#[derive(Debug, Default)]
struct Elsewhere;

impl Mail for Elsewhere {
    fn outbound(&mut self, _: u16, _: u32, _: &[u8]) -> bool {
        true
    }

    fn inbound(&mut self, _: u16, _: &Receive, _: &[u8]) -> bool {
        true
    }
}

impl Events for Elsewhere {
    fn event(&mut self, _: Event) -> bool {
        true
    }

    fn stray_ike(&mut self, _: &Receive, _: &[u8]) -> bool {
        true
    }

    fn remains(&mut self, _: Remains) -> Option<Remains> {
        None
    }
}

/// Frames of one length as one UDP send carries them.
#[derive(Clone, Debug)]
pub struct Run {
    /// The outer type of service.
    pub tos: u8,
    /// Bytes of each frame but the last.
    pub stride: usize,
    /// The frames.
    pub bytes: Vec<u8>,
}

/// Core 0 of 2.
#[derive(Debug)]
pub struct Site {
    path: Path,
    outbox: Outbox,
    inbox: Inbox,
    elsewhere: Elsewhere,
}

/// Our inbound SPI of pair `number` of a site.
#[must_use]
pub fn spi(site: u8, number: u32) -> u32 {
    Spi::compose(u32::from(site) * 100 + number + 1, 0, 0).map_or(0, Spi::value)
}

/// A key that the number tells.
#[must_use]
pub fn key(number: u8) -> Key {
    Key { key: [number; 32], salt: [number; 4], suite: suite::AES_128_GCM_16, esn: 1, reserved: [0; 2] }
}

fn table(local: u8, remote: u8) -> Arc<PolicyTable> {
    let v4 = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let v6 = |site: u8| (IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, site, 0, 0, 0, 0, 0, 0, 0, 0]), 64);
    let nested = (IpAddr::from([10, remote, 9, 0]), 24);
    let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length of the family");
    let policy = |id, pairs: &[_]| {
        let pairs = pairs.iter().map(|(ours, theirs)| (prefix(*ours), prefix(*theirs))).collect();
        Policy { id, name: String::new(), pairs, lasting: Arc::new(Lasting::new(2)) }
    };
    let peer = policy(PEER, &[(v4(local), v4(remote)), (v6(local), v6(remote))]);
    let other = policy(PEER + 1, &[(v4(local), nested)]);
    Arc::new(PolicyTable::new(1, vec![peer, other]))
}

impl Site {
    /// Site 1 or 2 without an SA, with so many buffers to send and to write from; making them takes most of the time of an input.
    #[must_use]
    pub fn new(site: u8, sends: usize, writes: usize) -> Self {
        let config = Config { core: 0, cores: 2, mtu: MTU, vnet_header_bytes: VNET_BYTES, uso: true, pairs_max: 64 };
        let path = Path::new(config, Arc::new(Tally::default()));
        let mut core = Self { path, outbox: Outbox::new(sends), inbox: Inbox::new(writes), elsewhere: Elsewhere };
        core.apply(Order::Policies(Box::new(Policies::new(table(site, 3 - site)))));
        core
    }

    /// Site 1 with a pair of SAs; it seals with key 1.
    #[must_use]
    pub fn sender() -> Self {
        let mut one = Self::new(1, 8, 1);
        one.install(1, 0, 2, 1);
        one
    }

    /// Site 2 with a pair of SAs; it opens with key 1.
    #[must_use]
    pub fn receiver() -> Self {
        let mut two = Self::new(2, 1, 8);
        two.install(2, 0, 1, 2);
        two
    }

    /// Installs pair `number`: inbound with the key `opens`, outbound with the key `seals`.
    ///
    /// # Panics
    /// Never: the suite is known.
    pub fn install(&mut self, site: u8, number: u32, opens: u8, seals: u8) {
        let (ours, theirs) = (spi(site, number), spi(3 - site, number));
        let inbound = InstallInbound {
            spi: U32::new(ours),
            policy: U32::new(PEER),
            window: U32::new(1024),
            reserved: U32::ZERO,
            limits: Limits::default(),
            key: key(opens),
        };
        let inbound = Inbound::from_request(&inbound, 1).expect("a known suite");
        self.apply(Order::InstallInbound(Box::new(Pair::installed(ours, PEER, inbound))));
        let outbound = InstallOutbound {
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
            remote: from().into(),
            limits: Limits::default(),
            key: key(seals),
        };
        let outbound = Outbound::from_request(&outbound, 1).expect("a known suite");
        self.apply(Order::InstallOutbound { spi: ours, outbound: Box::new(outbound) });
    }

    /// Carries out an order.
    pub fn apply(&mut self, order: Order) {
        self.with(|path, io| path.apply(1, order, io));
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Path, &mut Io<'_>) -> T) -> T {
        let Self { path, outbox, inbox, elsewhere } = self;
        let mut other = Elsewhere;
        work(path, &mut Io { outbox, inbox, mail: elsewhere, events: &mut other })
    }

    /// Reads of one batch become runs on the wire.
    pub fn send<'r>(&mut self, reads: impl IntoIterator<Item = &'r [u8]>) -> Vec<Run> {
        self.with(|path, io| {
            for read in reads {
                path.outbound(1, &mut read.to_vec(), io);
            }
            path.finish(io);
        });
        let mut runs = Vec::new();
        while let Some(slot) = self.outbox.take_ready() {
            let tos = slot.envelope.map_or(0, |envelope| envelope.tos);
            runs.push(Run { tos, stride: slot.segment, bytes: slot.data.get(..slot.len).unwrap_or_default().to_vec() });
            self.with(|path, io| path.sent(&slot, None, io));
            self.outbox.give_back(slot);
        }
        runs
    }

    /// Hears a buffer of datagrams of `stride` octets; what it makes stays until [`Site::written`].
    pub fn hear(&mut self, tos: u8, stride: usize, datagrams: &[u8]) {
        let receive = Receive { from: from(), to: None, tos, stride };
        self.with(|path, io| path.inbound(1, &receive, datagrams, io));
    }

    /// Ends a batch: each write as it goes to the TUN queue.
    pub fn written(&mut self, mut take: impl FnMut(&[u8])) {
        self.with(|path, io| path.finish(io));
        while let Some(slot) = self.inbox.take_ready() {
            take(slot.data.get(..slot.len).unwrap_or_default());
            self.path.written(&slot, true);
            self.inbox.give_back(slot);
        }
    }

    /// Runs of one batch become writes.
    pub fn receive<'r>(&mut self, runs: impl IntoIterator<Item = &'r Run>) -> Vec<Vec<u8>> {
        runs.into_iter().for_each(|run| self.hear(run.tos, run.stride, &run.bytes));
        let mut writes = Vec::new();
        self.written(|write| writes.push(write.to_vec()));
        writes
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.path.moment().counter(counter)
    }

    /// How many packets died of a reason.
    #[must_use]
    pub fn dropped(&self, drop: Drop) -> u64 {
        self.path.moment().dropped(drop)
    }

    /// The sums that stand at [`Counter`]: nothing vanished without a name.
    ///
    /// # Panics
    /// If something did.
    pub fn assert_sums(&self) {
        use Counter as C;
        let lost = |stage| Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| self.dropped(*drop)).sum::<u64>();
        let sum = |counters: &[Counter]| counters.iter().map(|counter| self.counter(*counter)).sum::<u64>();
        let outbound = sum(&[C::OutboundPackets, C::OutboundHandoffIn]);
        assert_eq!(outbound, sum(&[C::SealedPackets, C::OutboundHandoffOut]) + lost(Stage::Outbound), "outbound");
        assert_eq!(sum(&[C::SealedPackets]), sum(&[C::SentPackets]) + lost(Stage::Send), "sent");
        let parked = u64::from(self.path.parked());
        let heard = sum(&[C::OpenedPackets, C::InboundHandoffOut, C::Keepalives, C::StrayIke]) + parked + lost(Stage::Inbound);
        assert_eq!(sum(&[C::InboundFrames, C::InboundHandoffIn]), heard, "inbound");
        assert_eq!(sum(&[C::OpenedPackets]), sum(&[C::DeliveredPackets]) + lost(Stage::Deliver), "delivered");
    }
}

/// Where all datagrams come from.
fn from() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4500))
}
