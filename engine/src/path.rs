//! The path of packets through one core: pure code between a read and a send, and between a receive and a write. No descriptor,
//! no clock (milliseconds are passed in), no allocation after [`Path::new`]; what has to be freed is given away.
//!
//! ```text
//!   TUN read ─► outbound: policy by destination ─► pair of subnets ─► SA ─► split ─► seal ─► Outbox
//!   Inbox ◄─ merge ◄─ inner checks ◄─ open ◄─ SA by SPI ◄─ inbound: each frame by its own first bytes ◄─ UDP receive
//! ```
//!
//! A shell (ring or plain calls) owns a [`Path`] and its [`Outbox`] and [`Inbox`], feeds it buffers, carries out what is ready,
//! and calls [`Path::finish`] at the end of each batch.

mod ecn;
mod inbound;
mod install;
mod outbound;
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use penstock_uapi::{Counter, Drop};

use crate::policy::{PolicyTable, Reach};
use crate::sa::{self, Inbound, Outbound, Pair};
use crate::slots::{Inbox, Outbox, SendSlot, Source, WriteSlot};
use crate::tally::{Moment, Tally};
use crate::tun::merge::Merge;
use waiting::Waiting;

/// What a path is made for.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This core.
    pub core: u16,
    /// How many there are.
    pub cores: u16,
    /// The TUN device's MTU.
    pub mtu: usize,
    /// Bytes of the virtio header on the TUN queue: 10 or 12.
    pub vnet_header_bytes: usize,
    /// Whether the TUN queue takes UDP super-packets.
    pub uso: bool,
    /// How many SA pairs this core can hold.
    pub pairs_max: usize,
}

/// What is known of a received datagram besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Where it came from.
    pub from: SocketAddr,
    /// Our address that it came to.
    pub to: Option<IpAddr>,
    /// The outer type of service or traffic class.
    pub tos: u8,
    /// Bytes of each datagram in the buffer but the last (UDP_GRO); the buffer's length if there is one.
    pub stride: usize,
}

/// Takes packets to the core that owns their SA. `false`: its queue is full.
pub trait Mail {
    /// A TUN read, virtio header and packet, for a policy.
    fn outbound(&mut self, core: u16, policy: u32, read: &[u8]) -> bool;
    /// A frame.
    fn inbound(&mut self, core: u16, receive: &Receive, frame: &[u8]) -> bool;
}

/// Takes what control should know, and what this core must not free itself. `false` or a value given back: the queue is full.
pub trait Events {
    /// An event; one that is refused is counted as lost.
    fn event(&mut self, event: Event) -> bool;
    /// An IKE message without its non-ESP marker.
    fn stray_ike(&mut self, receive: &Receive, message: &[u8]) -> bool;
    /// Something to be freed elsewhere.
    fn remains(&mut self, remains: Remains) -> Option<Remains>;
}

/// What control should know (see [`penstock_uapi::event`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame for an SPI that is not there.
    UnknownSpi {
        /// The SPI.
        spi: u32,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A key reached a limit.
    Limit {
        /// Our SPI of the pair.
        spi: u32,
        /// The hard limit rather than the soft one.
        hard: bool,
        /// The outbound key rather than the inbound one.
        outbound: bool,
    },
    /// An authenticated packet came from elsewhere.
    PeerMoved {
        /// Our SPI of the pair.
        spi: u32,
        /// Where it came from.
        from: SocketAddr,
    },
    /// A packet wants an SA.
    Acquire {
        /// The policy.
        policy: u32,
        /// There is one, but this core has none of its own.
        per_core: bool,
    },
    /// A waiting outbound SA took over.
    OutboundActive {
        /// Our SPI of the pair.
        spi: u32,
    },
    /// The kernel refused a send as too large for the path.
    PathMtu {
        /// Our SPI of the pair.
        spi: u32,
        /// Bytes of UDP payload.
        refused: u16,
    },
}

/// What the admin thread orders. All of it was checked and allocated there.
#[derive(Debug)]
pub enum Order {
    /// Announce an SPI.
    Expect(Box<Pair>),
    /// Install an inbound SA, announced or not.
    InstallInbound(Box<Pair>),
    /// Install the outbound half of a pair.
    InstallOutbound {
        /// Our SPI of the pair.
        spi: u32,
        /// The half.
        outbound: Box<Outbound>,
    },
    /// Send between other endpoints.
    Redirect {
        /// Our SPI of the pair.
        spi: u32,
        /// Where packets go.
        remote: SocketAddr,
        /// Our address, if it is fixed.
        local: Option<IpAddr>,
        /// From which socket.
        source: Source,
    },
    /// End a pair.
    Retire {
        /// Our SPI of the pair.
        spi: u32,
        /// How long it goes on receiving.
        drain_ms: u64,
    },
    /// A new table of policies and this core's room for what it keeps of each.
    Policies(Box<Policies>),
}

/// What a core must not free itself.
#[derive(Debug)]
pub enum Remains {
    /// A pair.
    Pair(Box<Pair>),
    /// An outbound half that was replaced.
    Outbound(Box<Outbound>),
    /// A table that was replaced.
    Policies(Box<Policies>),
}

/// A table of policies with one core's state for each.
#[derive(Debug)]
pub struct Policies {
    table: Arc<PolicyTable>,
    states: Vec<PolicyState>,
}

/// What a core keeps for a policy.
#[derive(Clone, Copy, Debug, Default)]
struct PolicyState {
    /// Our SPI of the pair that sends now; 0: none.
    active: u32,
    /// The earliest time of the next acquire event.
    acquire_ms: u64,
    /// When a packet was last handed to the fallback's core; 0: never.
    handed_ms: u64,
}

impl Policies {
    /// For one core.
    #[must_use]
    pub fn new(table: Arc<PolicyTable>) -> Self {
        let states = vec![PolicyState::default(); table.policies.len()];
        Self { table, states }
    }
}

/// What a path works with while it works.
pub struct Io<'a> {
    /// Send buffers.
    pub outbox: &'a mut Outbox,
    /// Write buffers.
    pub inbox: &'a mut Inbox,
    /// The way to other cores.
    pub mail: &'a mut dyn Mail,
    /// The way to control.
    pub events: &'a mut dyn Events,
}

/// One core's share of everything.
#[derive(Debug)]
pub struct Path {
    config: Config,
    pairs: sa::Table,
    policies: Box<Policies>,
    merge: Merge,
    now: Moment,
    tally: Arc<Tally>,
    /// Where the last packet's destination led: most packets of a batch go one way.
    last_route: Option<(IpAddr, Reach)>,
    unknown_spi_ms: u64,
    /// A path MTU was told since the last tick.
    path_mtu_told: bool,
    parked: u32,
    /// What came before there was an SA for it, and when that was looked at last.
    waiting: Waiting,
    waited_ms: u64,
    /// The pair that the next tick begins with.
    tick_at: usize,
    /// What found no room on its way out.
    leaving: Option<Remains>,
}

/// The shortest time between two events of one kind that anybody on the wire can cause.
const EVENT_MS: u64 = 100;

impl Path {
    /// A path without policies or SAs.
    #[must_use]
    pub fn new(config: Config, tally: Arc<Tally>) -> Self {
        Self {
            config,
            pairs: sa::Table::new(config.pairs_max),
            policies: Box::new(Policies::new(Arc::new(PolicyTable::new(0, Vec::new())))),
            merge: Merge::new(config.vnet_header_bytes, config.uso),
            now: Moment::default(),
            tally,
            last_route: None,
            unknown_spi_ms: 0,
            path_mtu_told: false,
            parked: 0,
            waiting: Waiting::new(),
            waited_ms: 0,
            tick_at: 0,
            leaving: None,
        }
    }

    /// The end of a batch: what is open becomes ready, what was counted becomes visible.
    pub fn finish(&mut self, io: &mut Io<'_>) {
        io.outbox.close();
        self.close_merged(io);
        self.last_route = None;
        self.tally.publish(&self.now);
    }

    /// The kernel answered a send: an error number, or none.
    pub fn sent(&mut self, slot: &SendSlot, error: Option<i32>, io: &mut Io<'_>) {
        self.now.add(Counter::UdpSends, 1);
        let packets = u64::from(slot.packets);
        let Some(error) = error else { return self.now.add(Counter::SentPackets, packets) };
        let reason = match error {
            libc::EPERM | libc::EACCES => Drop::SendFiltered,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EADDRNOTAVAIL => Drop::SendUnreachable,
            libc::EMSGSIZE => Drop::SendTooBig,
            libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN => Drop::SendNoBuffer,
            _ => Drop::SendFailed,
        };
        self.now.drop(reason, packets);
        if let (Drop::SendTooBig, Some(envelope), false) = (reason, slot.envelope, self.path_mtu_told) {
            self.path_mtu_told = true;
            let refused = u16::try_from(slot.segment).unwrap_or(u16::MAX);
            self.tell(Event::PathMtu { spi: envelope.spi, refused }, io);
        }
    }

    /// The kernel answered a write: whether it took it.
    pub fn written(&mut self, slot: &WriteSlot, taken: bool) {
        self.now.add(Counter::TunWrites, 1);
        if taken {
            self.now.add(Counter::DeliveredPackets, slot.packets.into());
        } else {
            self.now.drop(Drop::TunRefused, slot.packets.into());
        }
    }

    /// Counts what only the shell sees.
    pub fn count(&mut self, counter: Counter, amount: u64) {
        self.now.add(counter, amount);
    }

    /// Counts a packet that the shell had to drop.
    pub fn drop(&mut self, reason: Drop, packets: u64) {
        self.now.drop(reason, packets);
    }

    /// Packets from the TUN queue that wait for an SA now.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.packets()
    }

    /// Frames parked for announced SPIs now. Kept as a sum: it is asked for in every round.
    #[must_use]
    pub fn parked(&self) -> u32 {
        self.parked
    }

    /// The counters as they stand, unpublished ones too.
    #[must_use]
    pub fn moment(&self) -> &Moment {
        &self.now
    }

    fn tell(&mut self, event: Event, io: &mut Io<'_>) {
        if !io.events.event(event) {
            self.now.add(Counter::EventsLost, 1);
        }
    }

    fn close_merged(&mut self, io: &mut Io<'_>) {
        if !self.merge.is_open() {
            return;
        }
        let closed = io.inbox.open().and_then(|slot| self.merge.close(&mut slot.data));
        if let Some((bytes, packets)) = closed {
            io.inbox.close(bytes, packets);
        }
    }
}

/// Reports a limit of a key once.
fn limit_reached(soft: bool, hard: bool, reported: &mut [bool; 2]) -> Option<bool> {
    if hard && !reported[1] {
        *reported = [true; 2];
        return Some(true);
    }
    if soft && !reported[0] {
        reported[0] = true;
        return Some(false);
    }
    None
}

impl Inbound {
    fn limit(&mut self) -> Option<bool> {
        limit_reached(self.opener.soft(), self.opener.exhausted() || self.expired, &mut self.reported)
    }
}

impl Outbound {
    fn limit(&mut self) -> Option<bool> {
        limit_reached(self.sealer.soft() || self.aged, self.sealer.exhausted() || self.expired, &mut self.reported)
    }
}

#[cfg(test)]
mod tests;
