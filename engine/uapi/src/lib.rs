//! The only words that control and engine share: fixed little-endian messages over a `SOCK_SEQPACKET` Unix socket.
//!
//! No I/O and no cryptography live here, so that both processes, their tests and their fuzzers can read and
//! write every message from plain bytes. One frame is one datagram:
//!
//! ```text
//!   0        2        4                8                                16            16 + length
//!   ┌────────┬────────┬────────────────┬────────────────────────────────┬───────────────┐
//!   │ kind   │ status │ length         │ request                        │ body …        │
//!   └────────┴────────┴────────────────┴────────────────────────────────┴───────────────┘
//! ```
//!
//! Control speaks first ([`request::Hello`]). Every request carries an id and gets exactly one closing answer with
//! the same id ([`Status::Done`] or an error), preceded by any number of frames with [`Status::More`].
//! Events of the engine carry request id 0. File descriptors travel beside a frame (`SCM_RIGHTS`), never
//! without one. A key goes in once and no message reads it back.

pub mod address;
pub mod counter;
pub mod event;
pub mod frame;
pub mod install;
pub mod reply;
pub mod request;
pub mod role;
pub mod spi;

pub use address::{Endpoint, Prefix};
pub use counter::{Counter, Drop};
pub use frame::{Frame, FrameError, Kind, Status};
pub use role::Role;
pub use spi::Spi;

/// The version of these layouts; a hello with another one is refused.
pub const VERSION: u16 = 4;

/// The most workers one engine runs: the SPI has 8 bits for the core, and a TUN device takes 256 queues.
pub const CORES_MAX: usize = 256;

/// The most clients of one engine socket, of which one may write.
pub const CLIENTS_MAX: usize = 16;

/// The most bytes of one frame: a header and the largest datagram that can be carried beside it.
pub const FRAME_BYTES_MAX: usize = 66_000;
