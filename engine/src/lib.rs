//! Penstock's data plane: moves packets between a TUN device and UDP, encrypted as ESP with AES-GCM. It is given its descriptors
//! and keys by control and knows neither peers nor how keys came about.
//!
//! # The life of a packet
//!
//! ```text
//!  an application's 64 KiB of TCP                                        the same bytes, in one piece again
//!        │                                                                               ▲
//!   TUN queue of core n                                                     TUN queue of core m
//!        │ one read: virtio header, super-packet                                         │ one write: merged super-packet
//!  ┌─────▼──────────────────────── ring | plain ───┐        ┌─────────────── ring | plain┴─────────────────────┐
//!  │     │ a filled buffer, when there is room     │        │                             │ when there is room │
//!  │  ┌──▼─────────────── path ─────────────────┐  │        │  ┌───────────────── path ───┴──────────────────┐ │
//!  │  │ policy   destination ─► peer, SA        │  │        │  │ tun::merge  consecutive segments join       │ │
//!  │  │    │       └─ not ours? handoff ────────┼──┼─►core  │  │    ▲                                        │ │
//!  │  │ tun::split  headers before each segment │  │        │  │ policy      inner source is this peer's     │ │
//!  │  │    │                                    │  │        │  │    ▲                                        │ │
//!  │  │ esp::seal   out of place, into a slot   │  │        │  │ esp::open   replay window, AES-GCM, window  │ │
//!  │  └──┬──────────────────────────────────────┘  │        │  │    ▲                                        │ │
//!  │     │ slots: a run of frames of one length    │        │  │ sa by SPI ── not ours? handoff ─► core      │ │
//!  │  lane of its socket, in order                 │        │  └────┬─────────────────────────────────────────┘ │
//!  └─────┬─────────────────────────────────────────┘        └───────┴───────────────────────────────────────────┘
//!        │ one send: UDP_SEGMENT                                    ▲ one receive: UDP_GRO
//!        └──────────────────────────── the wire ────────────────────┘
//! ```
//!
//! 1. The kernel gives a TUN read to the queue that last wrote packets of this flow, so a flow stays on one core. A [`ring`] fills
//!    buffers by itself, its twin [`plain`] reads when poll says so; either begins with a buffer only when there are
//!    [`slots`] for what comes out of it ([`limits`]).
//! 2. [`path`] finds the policy by the longest prefix of the inner destination ([`route`], [`policy`]), checks the inner source, and
//!    picks the pair of [SAs](sa) that this core owns. A peer with a single SA has it on one core: other cores hand their reads
//!    over ([`handoff`]).
//! 3. [`tun::split`] cuts the super-packet where it lies, [`esp::seal`] encrypts each segment from there into a send slot: no
//!    payload is copied. A run of frames leaves in one send with [control messages](udp) that let the kernel cut it.
//! 4. On the other side a receive brings many frames of one length. Each is judged by its own first bytes: keepalive, IKE (which
//!    goes to control), or ESP for an SPI that names this core or another.
//! 5. [`esp::open`] looks at the replay window, decrypts straight behind the payload that was merged before, and only then notes the
//!    number. [`path`] checks the inner packet against what was agreed with the peer, [`tun::merge`] makes one super-packet of
//!    consecutive segments, and one write delivers it.
//!
//! Everything in [`path`] is pure: no descriptor, no clock, no allocation. [`worker`] gives it a pinned thread, [`admin`] answers
//! control and is the only one that allocates after the start, [`tally`] counts every packet that is not delivered under a named
//! reason, [`sandbox`] takes away what none of this needs, and [`sys`] holds the `unsafe` parts.

pub mod admin;
pub mod esp;
pub mod handoff;
pub mod limits;
pub mod log;
pub mod packet;
pub mod path;
pub mod plain;
pub mod policy;
pub mod ring;
pub mod route;
pub mod sa;
pub mod sandbox;
pub mod slots;
pub mod sys;
pub mod tally;
pub mod tun;
pub mod udp;
pub mod worker;
