//! What the stories share beyond the lab of `penstock-perf`: a look at the wire itself, packet by packet.

pub mod capture;
pub mod counters;
pub mod cut;
pub mod esp;
pub mod host;
pub mod keys;
pub mod missed;
pub mod mixed;
pub mod nat;
pub mod natted;
pub mod plain;
pub mod strongswan;
mod sys;
pub mod trickle;
