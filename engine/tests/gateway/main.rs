//! One engine process a site, driven by a small client of its socket, two sites in namespaces joined by a wire:
//!
//! ```text
//!   10.77.0.1 ─ pen0 ─ [engine] ─ wire0 ────── wire0 ─ [engine] ─ pen0 ─ 10.77.1.1
//!                     10.0.0.1                10.0.0.2
//! ```
//! Keys come from the test. Needs root and /dev/net/tun.

mod client;
mod device;
mod hostile;
mod order;
mod relief;
mod site;
mod traffic;
