//! Every bound of the engine in one place, each with its reason. What belongs to one algorithm (replay window, key lifetimes,
//! sizes of a UDP send) stands with it.

use std::time::Duration;

use penstock_uapi::{CLIENTS_MAX, CORES_MAX};

/// Send buffers of a core. Half of them may be with the kernel while the other half is filled; more would only leave the cache.
pub const SEND_SLOTS: u16 = 48;

/// Free send buffers without which no TUN read is begun: 64 KiB cut into the smallest segments that TCP allows (48 bytes)
/// make eleven runs of 128, and the runs before and behind them.
pub const SEND_SLOTS_PER_READ: usize = 16;

/// A TUN read from this size on is a send of its own: joined to the next one it would end in the middle of the peer's receive, and
/// the peer would write two super-packets for each of ours.
pub const WHOLE_READ_BYTES: usize = 32 * 1024;

/// Parts of sends in flight: where the kernel cannot cut, every frame of a run is a send of its own, and a run has 128.
pub const SEND_PARTS: u16 = 256;

/// Write buffers of a core: each of the 128 datagrams that one receive can hold may need its own, and one stays open.
pub const WRITE_SLOTS: u16 = 144;

/// Buffers for the TUN queue: what one sleep gathers of small packets, and some to spare.
pub const TUN_BUFFERS: u16 = 64;

/// Those of them that are in use while packets are not gathered: a burst of super-packets is read while the last one is being
/// sealed; more would only leave the cache.
pub const TUN_BUFFERS_OFFERED: u16 = 16;

/// Buffers for the UDP sockets of a core: with 16 a saturated receiver runs dry now and then, with 32 hardly ever (measured).
pub const UDP_BUFFERS: u16 = 32;

/// Bytes of a receive buffer: the largest packet or datagram, with its headers and control messages, in whole pages.
pub const BUFFER_BYTES: usize = 68 * 1024;

/// Buffers taken from one source before the other has its turn: about 1 MiB, or 0.2 ms of work.
pub const BUDGET: usize = 16;

/// Bytes that a round on a ring moves before it submits what came of them and looks what else has come: two super-packets, or 0.1 ms
/// of work, so that the peer works on the first while we work on the next, and a small packet that comes meanwhile does not wait
/// for all that came before it.
pub const ROUND_BYTES: usize = 128 * 1024;

/// Orders and injected frames that wait for a core; the admin thread waits for each order anyway.
pub const ERRANDS: usize = 64;

/// Errands done before packets have their turn again.
pub const ERRANDS_PER_ROUND: usize = 8;

/// Events of a core that wait for the admin thread; their rates are bounded where they arise.
pub const EVENTS: usize = 256;

/// What a core has given away and the admin thread has not freed yet.
pub const SPENT: usize = 2 * ERRANDS + 8;

/// IKE messages of a core that wait for the admin thread: a flood of them must not take more.
pub const LETTERS: usize = 8;

/// Parcels of a core on their way to other cores: 4 MiB, which a core seals in a millisecond.
pub const PARCELS: usize = 64;

/// Parcels that must be there before anything is read: one buffer can hold frames for several cores by turns.
pub const PARCELS_PER_READ: usize = 8;

/// Frames that one parcel can hold: as many as one receive.
pub const PARCEL_FRAMES: usize = 128;

/// SA pairs of one core: ten thousand peers with a pair each, and six thousand successors and pairs that drain.
pub const PAIRS_PER_CORE: usize = 16_384;

/// SPIs announced and not yet installed, in all: each keeps room for 64 KiB.
pub const ANNOUNCED_MAX: usize = 256;

/// Policies in one table.
pub const POLICIES_MAX: usize = 16_384;

/// Pairs of subnets in one table.
pub const POLICY_PAIRS_MAX: usize = 262_144;

/// Time between two looks at what time brings: keys past their life, SAs that drained, parked frames.
pub const TICK: Duration = Duration::from_millis(50);

/// The longest time that the admin thread waits for a core to carry out an order.
pub const ORDER_PATIENCE: Duration = Duration::from_secs(4);

/// The longest time that what was read of the TUN queues takes to leave, when another engine is to read them: several times what a
/// socket buffer holds. Packets wait in the queues meanwhile.
pub const QUIET_PATIENCE: Duration = Duration::from_millis(100);

/// The longest time that a worker takes to set itself up.
pub const START_PATIENCE: Duration = Duration::from_secs(10);

/// The longest that a worker polls before it sleeps, whatever it is told.
pub const POLL_MAX: Duration = Duration::from_millis(10);

/// Frames that wait for a client that does not read. Events beyond are lost, and no request of it is read meanwhile.
pub const CLIENT_FRAMES: usize = 1024;

/// How long an engine that runs no core waits for somebody.
pub const IDLE: Duration = Duration::from_secs(10);

/// Requests of one client answered before the others have their turn.
pub const CLIENT_REQUESTS_PER_ROUND: usize = 32;

/// The MTU of a TUN device: IPv4's smallest, and the largest packet (RFC 791).
pub const MTU: std::ops::RangeInclusive<u16> = 576..=65_535;

/// How long packets may have waited in a TUN queue before a start that drops stale ones; control decides, the engine only obeys.
pub const STALE_READS_MAX: usize = 4096;

/// Descriptors that the engine may have: for each core those it was given, its own duplicates of them, its bell and its ring; for each
/// client its socket and what waits for it; and a few.
pub const DESCRIPTORS: u64 = (CORES_MAX * 20 + CLIENTS_MAX * 20 + 64) as u64;
