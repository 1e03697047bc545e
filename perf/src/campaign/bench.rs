//! Where campaigns take place: two sites on an audited wire, with a default route along it, so that an inner packet which misses the tunnel
//! would be seen there in clear.

use std::time::Duration;

use anyhow::Result;

use super::{Beat, Watch};
use crate::faulty::{Relay, RelayOptions};
use crate::lab::{Family, Host, Pair, PairOptions, Site};

/// Two sites under a steady beat, with everything that looks at them.
pub struct Bench {
    /// The sites.
    pub pair: Pair,
    /// The wire between them.
    pub relay: Relay,
}

impl Bench {
    /// Lays the wire and brings both sites up.
    ///
    /// # Errors
    /// As [`Pair::start`] and [`Relay::on`].
    pub fn new(options: &PairOptions) -> Result<Self> {
        let mut pair = Pair::new(options)?;
        // Inner addresses side by side, as an inner header in clear would have them.
        let markers = vec![vec![10, 43, 43, 1, 10, 43, 100, 1], vec![10, 43, 100, 1, 10, 43, 43, 1]];
        let relay = Relay::on(&pair.wire, &options.wire, RelayOptions { markers, ..RelayOptions::default() })?;
        for (side, site) in pair.sites.iter().enumerate() {
            site.namespace().ip(&format!("route add default via {}", pair.outer(1 - side, Family::V4).address))?;
        }
        pair.sites.iter_mut().try_for_each(Site::start)?;
        pair.wait_up(Duration::from_secs(10))?;
        Ok(Self { pair, relay })
    }

    /// The hosts behind the sites.
    #[must_use]
    pub fn ends(&self) -> [Host; 2] {
        [0, 1].map(|side| self.pair.inner(side, Family::V4))
    }

    /// Starts a beat between the sites, and gives it once the SAs of all cores are made.
    ///
    /// # Errors
    /// If sockets cannot be made or nothing passes.
    pub fn beat(&self, flows: usize, rate: f64) -> Result<Beat> {
        self.warm()?;
        self.beat_now(flows, rate)
    }

    /// Lets the sites make the SAs of all cores, which come with their first traffic.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn warm(&self) -> Result<()> {
        let [left, right] = self.ends();
        let warm = Beat::start([&left, &right], 16, 50.0)?;
        std::thread::sleep(Duration::from_secs(2));
        warm.finish(Duration::from_secs(1)).map(drop)
    }

    /// Starts a beat and gives it once it passes.
    ///
    /// # Errors
    /// If sockets cannot be made or nothing passes.
    pub fn beat_now(&self, flows: usize, rate: f64) -> Result<Beat> {
        let [left, right] = self.ends();
        let beat = Beat::start([&left, &right], flows, rate)?;
        beat.mark();
        beat.wait_back(Duration::from_secs(5))?;
        Ok(beat)
    }

    /// Watches the tunnel devices of both sites.
    ///
    /// # Errors
    /// As [`Watch::start`].
    pub fn watches(&self) -> Result<[Watch; 2]> {
        let [left, right] = &self.pair.sites;
        Ok([Watch::start(left.namespace())?, Watch::start(right.namespace())?])
    }
}
