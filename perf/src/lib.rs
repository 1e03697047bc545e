//! What measures Penstock and what its whole-system tests stand on: a [`lab`] of network namespaces in which sites run as
//! on machines of their own, and a [`load`] generator that knows every byte it sent. Both are our own, so that nothing but
//! `ip` has to be installed, and so that one lost packet in a hundred million is a number and not an impression.
//!
//! ```text
//!   namespace left                                        namespace right
//!   load ── 10.43.43.1 ── pen0 ═ penstockd ═ wire0 ────── wire0 ═ penstockd ═ pen0 ── 10.43.100.1 ── load
//!                               penstock-engine            penstock-engine
//! ```

pub mod campaign;
pub mod compare;
pub mod faulty;
pub mod lab;
pub mod load;
pub mod profile;
mod progress;
pub mod soak;
mod sys;

pub use progress::{Progress, Unit};
pub use sys::is_root;
