//! A wire that is cut somewhere in between: nothing arrives at either end, and neither is told, as its own link stays up.

use std::time::{Duration, Instant};

use anyhow::Result;
use penstock_perf::lab::Namespace;

use crate::nat::nft;

/// How long the cuts of a story last: 1 s and 10 s, and 60 s with `PENSTOCK_LONG_CUTS=1`.
#[must_use]
pub fn lengths() -> Vec<Duration> {
    let long = std::env::var_os("PENSTOCK_LONG_CUTS").is_some();
    [1, 10].into_iter().chain(long.then_some(60)).map(Duration::from_secs).collect()
}

/// Cuts the wire between two ends for a while. Returns the moment from which packets pass again.
///
/// # Errors
/// If `nft` is missing or refuses.
pub fn cut(ends: [&Namespace; 2], device: &str, length: Duration) -> Result<Instant> {
    for end in ends {
        nft(
            end,
            &format!(
                "table inet cut {{\nchain wire {{\ntype filter hook prerouting priority -300;\niifname \"{device}\" counter drop\n}}\n}}\n"
            ),
        )?;
    }
    std::thread::sleep(length);
    for end in ends {
        nft(end, "delete table inet cut\n")?;
    }
    Ok(Instant::now())
}
