//! Campaigns: the same harm done to two sites many times under load, on a wire that audits everything that passes, and what came of it as
//! figures. The tests run them in a short form, `penstock-perf` in any length.

mod beat;
mod bench;
mod counts;
mod crowd;
mod cuts;
mod endurance;
mod flood;
mod forgeries;
mod kills;
mod stranger;
mod watch;

pub use beat::Beat;
pub use bench::Bench;
pub use counts::{Counts, broken_sums};
pub use crowd::{Crowd, CrowdReport};
pub use cuts::{Cut, CutReport, Cuts};
pub use endurance::{Endurance, EnduranceReport};
pub use flood::{Flood, FloodReport, Sample};
pub use forgeries::{Forgeries, ForgeryReport};
pub use kills::{KillReport, Kills, Victim};
pub use stranger::{Ammunition, Flooding, Stranger};
pub use watch::Watch;
