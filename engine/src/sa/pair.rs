//! One SA pair as its core holds it: the inbound half with its key and window, the outbound half with its key and envelope, and
//! where both stand between announcement and end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use penstock_uapi::reply::phase;
use penstock_uapi::request::{InstallInbound, InstallOutbound, switch};

use crate::esp::open::Opener;
use crate::esp::seal::Sealer;
use crate::path::Receive;
use crate::slots::Source;

/// The most bytes parked for one announced SPI (a first flight of a TCP sender).
pub const PARKED_BYTES_MAX: usize = 65_536;
/// The most frames parked for one announced SPI.
pub const PARKED_FRAMES_MAX: usize = 64;
/// The longest time that a frame is parked.
pub const PARKED_MS_MAX: u64 = 2000;

/// What others may read of a pair while its core works with it. One writer, relaxed loads and stores.
#[derive(Debug, Default)]
pub struct Shared {
    /// A [`phase`].
    pub phase: AtomicU8,
    /// Packets opened.
    pub inbound_packets: AtomicU64,
    /// Inner bytes opened.
    pub inbound_bytes: AtomicU64,
    /// Packets sealed.
    pub outbound_packets: AtomicU64,
    /// Inner bytes sealed.
    pub outbound_bytes: AtomicU64,
}

/// Adds to a cell that only this thread writes.
pub(crate) fn bump(cell: &AtomicU64, amount: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

/// The inbound half.
#[derive(Debug)]
pub struct Inbound {
    /// Key and window.
    pub opener: Opener,
    /// When it was installed, in the engine's milliseconds.
    pub installed_ms: u64,
    /// Its key is past its time.
    pub expired: bool,
    /// A soft or hard limit was reported.
    pub reported: [bool; 2],
}

impl Inbound {
    /// From a request whose fields were checked; `None` if its suite is unknown.
    #[must_use]
    pub fn from_request(request: &InstallInbound, now_ms: u64) -> Option<Self> {
        let opener = Opener::new(&request.key, request.window.get(), &request.limits)?;
        Some(Self { opener, installed_ms: now_ms, expired: false, reported: [false; 2] })
    }
}

/// The outbound half.
#[derive(Debug)]
pub struct Outbound {
    /// Key and counter.
    pub sealer: Sealer,
    /// Where packets go.
    pub remote: SocketAddr,
    /// Our address, if it is fixed.
    pub local: Option<IpAddr>,
    /// From which socket.
    pub source: Source,
    /// Another endpoint of the peer is not told before.
    pub moved_ms: u64,
    /// The outer DSCP; `None` copies the inner one.
    pub dscp: Option<u8>,
    /// Waits for the peer to be heard on the inbound half.
    pub waits: bool,
    /// Takes over at this time anyway.
    pub switch_at_ms: Option<u64>,
    /// The fallback SA of its policy (RFC 9611).
    pub fallback: bool,
    /// Further per-core SAs are wanted.
    pub per_core: bool,
    /// When it was installed.
    pub installed_ms: u64,
    /// Its key nears its time.
    pub aged: bool,
    /// Its key is past its time.
    pub expired: bool,
    /// A soft or hard limit was reported.
    pub reported: [bool; 2],
}

impl Outbound {
    /// From a request whose fields were checked; `None` if its suite is unknown or it has no remote endpoint.
    #[must_use]
    pub fn from_request(request: &InstallOutbound, now_ms: u64) -> Option<Self> {
        let sealer = Sealer::new(request.spi.get(), &request.key, &request.limits)?;
        let switch_ms = u64::from(request.switch_ms.get());
        Some(Self {
            sealer,
            remote: request.remote.to_socket()?,
            local: request.local.to_socket().map(|local| local.ip()).filter(|ip| !ip.is_unspecified()),
            source: Source::from_request(request.source),
            moved_ms: 0,
            dscp: (request.dscp < 64).then_some(request.dscp),
            waits: request.switch == switch::ON_INBOUND,
            switch_at_ms: (switch_ms > 0).then(|| now_ms.saturating_add(switch_ms)),
            fallback: request.fallback == 1,
            per_core: request.per_core == 1,
            installed_ms: now_ms,
            aged: false,
            expired: false,
            reported: [false; 2],
        })
    }
}

/// Frames that came for an SPI before its key.
#[derive(Debug)]
pub struct Parking {
    bytes: Box<[u8]>,
    frames: Vec<(Receive, usize, usize)>,
    used: usize,
    since_ms: u64,
}

impl Parking {
    fn new() -> Self {
        Self { bytes: vec![0; PARKED_BYTES_MAX].into(), frames: Vec::with_capacity(PARKED_FRAMES_MAX), used: 0, since_ms: 0 }
    }

    /// Keeps a frame, or says that there is no room.
    pub fn park(&mut self, now_ms: u64, receive: &Receive, frame: &[u8]) -> bool {
        let Some(place) = self.bytes.get_mut(self.used..self.used + frame.len()) else { return false };
        if self.frames.len() == PARKED_FRAMES_MAX {
            return false;
        }
        if self.frames.is_empty() {
            self.since_ms = now_ms;
        }
        place.copy_from_slice(frame);
        self.frames.push((*receive, self.used, frame.len()));
        self.used += frame.len();
        true
    }

    /// The frames in the order in which they came.
    pub fn frames(&self) -> impl Iterator<Item = (&Receive, &[u8])> {
        self.frames.iter().map(|(receive, at, length)| (receive, &self.bytes[*at..at + length]))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        // At most `PARKED_FRAMES_MAX`.
        self.frames.len() as u32
    }

    /// Forgets all frames if the oldest waited too long; gives how many.
    pub fn expire(&mut self, now_ms: u64) -> u32 {
        if self.frames.is_empty() || now_ms.saturating_sub(self.since_ms) < PARKED_MS_MAX {
            return 0;
        }
        self.used = 0;
        let count = self.count();
        self.frames.clear();
        count
    }
}

/// One pair.
#[derive(Debug)]
pub struct Pair {
    /// Our inbound SPI, whose low byte names this core.
    pub spi: u32,
    /// The policy's number.
    pub policy: u32,
    /// Where the policy stood in the table when it was last looked for.
    pub policy_place: usize,
    /// The inbound half; `None` while only announced.
    pub inbound: Option<Inbound>,
    /// The outbound half, once installed.
    pub outbound: Option<Box<Outbound>>,
    /// Frames that came before the key; only while announced.
    pub parking: Option<Parking>,
    /// When a retired pair stops receiving.
    pub ends_ms: Option<u64>,
    /// What others read.
    pub shared: Arc<Shared>,
}

impl Pair {
    /// An announced SPI.
    #[must_use]
    pub fn expected(spi: u32, policy: u32) -> Self {
        Self {
            spi,
            policy,
            policy_place: 0,
            inbound: None,
            outbound: None,
            parking: Some(Parking::new()),
            ends_ms: None,
            shared: Arc::default(),
        }
    }

    /// A pair with its inbound half.
    #[must_use]
    pub fn installed(spi: u32, policy: u32, inbound: Inbound) -> Self {
        let inbound = Some(inbound);
        let pair = Self { spi, policy, policy_place: 0, inbound, outbound: None, parking: None, ends_ms: None, shared: Arc::default() };
        pair.enter(phase::INBOUND);
        pair
    }

    /// Notes what the pair is doing now.
    pub fn enter(&self, phase: u8) {
        self.shared.phase.store(phase, Ordering::Relaxed);
    }

    /// Whether its outbound half could be used now.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.ends_ms.is_none() && self.outbound.as_ref().is_some_and(|outbound| !outbound.waits)
    }
}
