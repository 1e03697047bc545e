//! Control: who the peers are, how their keys come about, what the kernel's tables say. It never touches a packet.
//!
//! # The way of a key
//!
//! ```text
//!   london.psk ──► config, psk          a pre-shared key, judged; it never leaves this process
//!                    │
//!                    ▼
//!   peer's ──►  socket::ike ──► ┌──────────────┐  IKE_SA_INIT: X25519, nonces ─► SKEYSEED
//!   datagrams ◄──               │ penstock_ike │  IKE_AUTH: the PSK signs both first messages
//!   (engine's strays too)       └──────────────┘  CREATE_CHILD_SA: one more child per core
//!                                  │  Output::{Expect, InstallInbound, InstallOutbound, Retire}
//!                                  ▼
//!                    daemon::install            each step waits for the engine's yes
//!                                  │  penstock_uapi::install: Expected ─► Inbound ─► Pair
//!                                  ▼
//!   engine::Client ══ engine.sock ══► penstock-engine      goes in once, never comes out; wiped here
//!                                  │
//!   OutboundActive, SaLimit, … ◄───┘  soft limit ─► a fresh IKE SA ─► new keys ─► the old pair drains 5 s
//! ```
//!
//! A key is derived in [`penstock_ike`], crosses [`daemon`] in a type that wipes itself, and lives in one core of one
//! engine life. What dies takes its keys along: an engine that is started again gets the same descriptors
//! ([`tun`], [`socket`]) and *new* keys; control that is started again finds the engine going on, and renews.
//!
//! # The rest
//! * [`launcher`] starts the daemon and the engine, and keeps the rights that this takes.
//! * [`daemon`] is the loop: adopt or set up, then events until told to end.
//! * [`netlink`] brings addresses, MTU, routes and rules to the configured state, and takes away what it made.
//! * [`tun`], [`socket`]: queues and UDP sockets, steered by SPI to the core that owns it.
//! * [`config`], [`psk`]: one TOML file, every mistake one line.
//! * [`admin`], [`cli`], [`show`]: the `penstock` command and what it hears over `control.sock`.

pub mod admin;
pub mod cli;
pub mod config;
mod confine;
pub mod daemon;
pub mod engine;
pub mod launcher;
mod log;
pub mod netlink;
mod only;
mod private;
pub mod psk;
pub mod show;
pub mod socket;
mod steer;
mod sys;
pub mod tun;

pub use sys::Wiping;
