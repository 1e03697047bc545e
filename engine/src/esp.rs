//! ESP in tunnel mode with AES-GCM (RFC 4303, RFC 4106): pure code over byte slices.
//!
//! [`Sealer`] makes a frame of an inner packet, [`Opener`] gives the inner packet back, both out of place, so that a
//! payload is touched once. What an [`Opener`] has not authenticated does not exist: only [`Opener::open`] makes an
//! [`Authenticated`], and nothing else leads to the TUN device.

pub mod open;
pub mod packet;
pub mod replay;
pub mod seal;

mod cipher;

pub use open::{Authenticated, Opener};
pub use seal::{SealError, Sealer};

#[cfg(test)]
mod vectors;
