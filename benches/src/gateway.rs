//! One core of a gateway in memory, with as many peers and prefixes as asked: what a shell drives, without its descriptors.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use penstock_engine::limits;
use penstock_engine::path::{Config, Event, Events, Io, Mail, Order, Path, Policies, Receive, Remains};
use penstock_engine::policy::{Lasting, Policy, PolicyTable, Prefix};
use penstock_engine::sa::{Inbound, Outbound, Pair};
use penstock_engine::slots::{Inbox, Outbox};
use penstock_engine::tally::{Moment, Tally};
use penstock_uapi::request::{InstallInbound, InstallOutbound, Limits, source, suite, switch};
use penstock_uapi::{Endpoint, Spi};
use zerocopy::little_endian::U32;

use crate::key;

/// Bytes of a read's virtio header.
pub const VNET_BYTES: usize = 12;

/// The largest inner packet on a path of 1,500 bytes.
pub const MTU: usize = 1438;

/// Our own inner subnets.
const LOCAL_V4: (IpAddr, u8) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 0)), 16);
const LOCAL_V6: (IpAddr, u8) = (IpAddr::V6(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0)), 64);

/// How large a gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Peers with a pair of SAs each.
    pub peers: u32,
    /// Remote prefixes of all peers together, dealt out in turn; at least one a peer.
    pub prefixes: u32,
    /// IPv6 inside.
    pub v6: bool,
}

impl Scale {
    /// One peer with one prefix.
    #[must_use]
    pub fn one(v6: bool) -> Self {
        Self { peers: 1, prefixes: 1, v6 }
    }

    /// Our inner address.
    #[must_use]
    pub fn local(&self) -> IpAddr {
        if self.v6 { IpAddr::from([0xfc00, 0, 0, 0, 0, 0, 0, 1]) } else { IpAddr::from([10, 0, 0, 1]) }
    }

    /// The prefix of this number: a /24 or /64, strewn over a quarter of IPv4 or a 32nd of the local IPv6 addresses.
    #[must_use]
    pub fn prefix(&self, number: u32) -> (IpAddr, u8) {
        // An odd factor visits every place once.
        if self.v6 {
            let place = u128::from(number.wrapping_mul(0x9e37_79b1));
            (IpAddr::V6((0xfd00_u128 << 112 | place << 64).into()), 64)
        } else {
            let place = number.wrapping_mul(0x9e37_79b1) & 0x3f_ffff;
            (IpAddr::V4((0x4000_0000 | place << 8).into()), 24)
        }
    }

    /// The peer that a prefix belongs to.
    #[must_use]
    pub fn peer(&self, prefix: u32) -> u32 {
        prefix % self.peers
    }

    /// The host of this number behind a peer; hosts that follow each other lie in different prefixes, as far as the peer has several.
    #[must_use]
    pub fn host(&self, peer: u32, number: u32) -> IpAddr {
        let of_peer = (self.prefixes - peer).div_ceil(self.peers);
        let (net, _) = self.prefix(peer + number % of_peer * self.peers);
        let host = number % 199 + 1;
        match net {
            IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) | host).into()),
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) | u128::from(host)).into()),
        }
    }

    /// The SPI of a peer's pair, in both directions.
    ///
    /// # Panics
    /// Never, with fewer than two million peers.
    #[must_use]
    pub fn spi(&self, peer: u32) -> u32 {
        let number = (peer + 1).wrapping_mul(0x9e37_79b1) & 0x1f_ffff;
        Spi::compose(number, 0, 0).expect("an odd factor leads to zero from zero only").value()
    }

    /// The table of all policies, one for each peer.
    ///
    /// # Panics
    /// Never: the lengths are right.
    #[must_use]
    pub fn table(&self) -> PolicyTable {
        let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
        let local = prefix(if self.v6 { LOCAL_V6 } else { LOCAL_V4 });
        let policies = (0..self.peers).map(|peer| {
            let remotes = (peer..self.prefixes).step_by(self.peers as usize).map(|number| self.prefix(number));
            let pairs = remotes.map(|remote| (local, prefix(remote))).collect();
            Policy { id: peer + 1, name: format!("peer-{peer}"), pairs, lasting: Arc::new(Lasting::new(1)) }
        });
        PolicyTable::new(1, policies.collect())
    }
}

/// Nobody else is there.
struct Nobody;

impl Mail for Nobody {
    fn outbound(&mut self, _: u16, _: u32, _: &[u8]) -> bool {
        false
    }

    fn inbound(&mut self, _: u16, _: &Receive, _: &[u8]) -> bool {
        false
    }
}

impl Events for Nobody {
    fn event(&mut self, _: Event) -> bool {
        true
    }

    fn stray_ike(&mut self, _: &Receive, _: &[u8]) -> bool {
        false
    }

    fn remains(&mut self, _: Remains) -> Option<Remains> {
        None
    }
}

/// A path with its buffers, driven as a shell drives it.
pub struct Gateway {
    path: Path,
    outbox: Outbox,
    inbox: Inbox,
    now_ms: u64,
}

/// Lends the path what it works with.
macro_rules! io {
    ($gateway:ident) => {
        &mut Io { outbox: &mut $gateway.outbox, inbox: &mut $gateway.inbox, mail: &mut Nobody, events: &mut Nobody }
    };
}

impl Gateway {
    /// A gateway of this scale with all its SAs installed.
    ///
    /// # Panics
    /// Never: the requests are right.
    #[must_use]
    pub fn new(scale: &Scale) -> Self {
        let pairs_max = (scale.peers as usize).max(limits::PAIRS_PER_CORE);
        let config = Config { core: 0, cores: 1, mtu: MTU, vnet_header_bytes: VNET_BYTES, uso: true, pairs_max };
        let path = Path::new(config, Arc::new(Tally::default()));
        let (outbox, inbox) = (Outbox::new(limits::SEND_SLOTS.into()), Inbox::new(limits::WRITE_SLOTS.into()));
        let mut gateway = Self { path, outbox, inbox, now_ms: 1 };
        gateway.order(Order::Policies(Box::new(Policies::new(Arc::new(scale.table())))));
        for peer in 0..scale.peers {
            for order in orders(scale, peer) {
                gateway.order(order);
            }
        }
        gateway
    }

    /// Carries out an order.
    pub fn order(&mut self, order: Order) {
        self.path.apply(self.now_ms, order, io!(self));
    }

    /// Time passes.
    pub fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.path.tick(self.now_ms, io!(self));
    }

    /// A batch of TUN reads, all of them sent; gives the bytes that left.
    pub fn send(&mut self, reads: &mut [Vec<u8>]) -> usize {
        for read in reads {
            self.path.outbound(self.now_ms, read, io!(self));
            if read.len() >= limits::WHOLE_READ_BYTES {
                self.outbox.close();
            }
        }
        self.path.finish(io!(self));
        let mut bytes = 0;
        while let Some(slot) = self.outbox.take_ready() {
            bytes += slot.len;
            self.path.sent(&slot, None, io!(self));
            self.outbox.give_back(slot);
        }
        bytes
    }

    /// A batch of UDP receives, all of them written; gives the bytes that were.
    pub fn receive(&mut self, received: &[Received]) -> usize {
        for Received { receive, datagrams } in received {
            self.path.inbound(self.now_ms, receive, datagrams, io!(self));
        }
        self.path.finish(io!(self));
        let mut bytes = 0;
        while let Some(slot) = self.inbox.take_ready() {
            bytes += slot.len;
            self.path.written(&slot, true);
            self.inbox.give_back(slot);
        }
        bytes
    }

    /// What was counted.
    #[must_use]
    pub fn moment(&self) -> &Moment {
        self.path.moment()
    }
}

/// One UDP receive.
#[derive(Clone, Debug)]
pub struct Received {
    /// What the kernel says of it.
    pub receive: Receive,
    /// Its datagrams, one behind the other.
    pub datagrams: Vec<u8>,
}

/// Where a peer is.
#[must_use]
pub fn endpoint() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 4500))
}

fn orders(scale: &Scale, peer: u32) -> [Order; 2] {
    let (spi, policy, limits) = (scale.spi(peer), U32::new(peer + 1), Limits::default());
    let key = || key(suite::AES_256_GCM_16);
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
        remote: Endpoint::from(Some(endpoint())),
        limits,
        key: key(),
    };
    [
        Order::InstallInbound(Box::new(Pair::installed(spi, peer + 1, Inbound::from_request(&inbound, 0).expect("a suite")))),
        Order::InstallOutbound { spi, outbound: Box::new(Outbound::from_request(&outbound, 0).expect("a suite")) },
    ]
}
