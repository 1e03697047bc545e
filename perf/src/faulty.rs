//! The faulty wire: a relay between two links that loses, doubles, delays, reorders, changes and forges what passes, by a [`Script`] and a
//! seed, and sends everything again when it is asked to; and an [`Audit`] of everything that passes. The gateways at its ends run unchanged.
//!
//! ```text
//!   namespace of a site         middle namespace          namespace of the other site
//!   penstock-engine ── wire0 ══ left ── Relay ── right ══ wire0 ── penstock-engine
//! ```
//! What happens to a datagram is a function of the seed, the direction and its number ([`Decision::of`]): the same seed is the same run, as far
//! as the ends send the same. When a delayed frame leaves depends on the clock.

mod audit;
mod chance;
mod frame;
mod relay;
mod script;
mod treat;

pub use audit::{Audit, Findings};
pub(crate) use chance::draw;
pub use chance::{Alteration, Change, Decision};
pub(crate) use frame::Datagram;
pub use relay::{Playback, Relay, RelayOptions, Report};
pub use script::{Faults, Region, Script};
pub use treat::Counts;
