//! Campaigns: the same harm done to two sites many times under load, on a wire that audits everything that passes, and what came of it as
//! figures. The tests run them in a short form, `penstock-perf` in any length.

mod beat;
mod bench;
mod kills;
mod watch;

pub use beat::Beat;
pub use bench::Bench;
pub use kills::{KillReport, Kills, Victim};
pub use watch::Watch;
