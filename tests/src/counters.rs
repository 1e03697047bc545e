//! What both sites of a pair have counted, as `penstock show --json` gives it.

use std::collections::BTreeMap;
use std::fmt::Write;

use penstock_perf::lab::{Pair, Site};
use penstock_uapi::{Counter, Drop};
use serde_json::Value;

/// The counters of each core of each site, in order.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    cores: Vec<Core>,
    /// The sums that did not hold when they were read.
    broken_sums: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Core {
    site: usize,
    ring: bool,
    parked: i64,
    /// Counters and drops by name; drops that are zero may be absent.
    values: BTreeMap<String, i64>,
}

impl Counters {
    /// Reads both sites now.
    ///
    /// # Panics
    /// If a daemon does not answer: a story cannot go on then.
    #[must_use]
    pub fn of(pair: &Pair) -> Self {
        Self::of_sites(&pair.sites)
    }

    /// Reads these sites now.
    ///
    /// # Panics
    /// If a daemon does not answer.
    #[must_use]
    pub fn of_sites(sites: &[Site]) -> Self {
        let (mut cores, mut broken_sums) = (Vec::new(), Vec::new());
        for (site, daemon) in sites.iter().enumerate() {
            let state = daemon.show_json().unwrap_or_else(|error| panic!("{error:#}"));
            let listed = state["cores"].as_array().unwrap_or_else(|| panic!("no cores in {state}"));
            cores.extend(listed.iter().map(|core| Core::read(site, core)));
            broken_sums.extend(penstock_perf::campaign::broken_sums(&state));
        }
        Self { cores, broken_sums }
    }

    /// What was counted since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut cores = self.cores.clone();
        for (core, old) in cores.iter_mut().zip(&before.cores) {
            for (name, value) in &mut core.values {
                *value -= old.values.get(name).copied().unwrap_or(0);
            }
        }
        Self { cores, broken_sums: self.broken_sums.clone() }
    }

    /// What a failed story shows of both sites: their SAs, every counter that is not zero, and what the kernel counted at
    /// the devices.
    ///
    /// # Panics
    /// If a daemon does not answer.
    #[must_use]
    pub fn picture(pair: &Pair) -> String {
        Self::picture_of(&pair.sites)
    }

    /// The same of any sites.
    ///
    /// # Panics
    /// If a daemon does not answer.
    #[must_use]
    pub fn picture_of(sites: &[Site]) -> String {
        let mut lines = String::new();
        for (site, core) in Self::of_sites(sites).cores.iter().map(|core| (core.site, core)) {
            let counted: Vec<_> =
                core.values.iter().filter(|(_, value)| **value != 0).map(|(name, value)| format!("{name}={value}")).collect();
            let _ = writeln!(lines, "site {site}, a core: parked={} {}", core.parked, counted.join(" "));
        }
        for (site, daemon) in sites.iter().enumerate() {
            let state = daemon.show_json().unwrap_or_else(|error| panic!("{error:#}"));
            for sa in state["peers"].as_array().into_iter().flatten().flat_map(|peer| peer["sas"].as_array().into_iter().flatten()) {
                let _ = writeln!(lines, "site {site}, an SA: {sa}");
            }
            let _ = writeln!(lines, "site {site}: {}", daemon.namespace().ip("-s link show").unwrap_or_else(|error| format!("{error:#}")));
        }
        lines
    }

    /// A counter over all cores of both sites.
    #[must_use]
    pub fn counter(&self, name: &str) -> i64 {
        self.cores.iter().map(|core| core.value(name)).sum()
    }

    /// A counter over all cores of one site.
    #[must_use]
    pub fn at_site(&self, site: usize, name: &str) -> i64 {
        self.cores.iter().filter(|core| core.site == site).map(|core| core.value(name)).sum()
    }

    /// A drop reason over all cores of both sites.
    #[must_use]
    pub fn drop(&self, name: &str) -> i64 {
        self.counter(name)
    }

    /// Every drop that occurred: site, reason, packets.
    #[must_use]
    pub fn drops(&self) -> Vec<(usize, &'static str, i64)> {
        let all = self.cores.iter().flat_map(|core| Drop::ALL.iter().map(move |drop| (core.site, drop.name(), core.value(drop.name()))));
        all.filter(|(_, _, packets)| *packets != 0).collect()
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.cores.len()
    }

    /// Whether all of them use a ring.
    #[must_use]
    pub fn all_rings(&self) -> bool {
        self.cores.iter().all(|core| core.ring)
    }

    /// How many of them have sealed a packet.
    #[must_use]
    pub fn cores_that_sealed(&self) -> usize {
        self.cores.iter().filter(|core| core.value("sealed_packets") > 0).count()
    }

    /// Asserts the sums that stand at [`Counter`]. Call it when nothing is in flight.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_sums(&self) {
        assert!(self.broken_sums.is_empty(), "{:?}: {self:?}", self.broken_sums);
    }

    /// Asserts that nothing was dropped but for the reasons given.
    ///
    /// # Panics
    /// If something was.
    pub fn assert_no_drops(&self, but: &[Drop]) {
        for core in &self.cores {
            for drop in Drop::ALL.iter().filter(|drop| !but.contains(drop)) {
                assert_eq!(core.value(drop.name()), 0, "{}: {core:?}", drop.name());
            }
            assert_eq!(core.value(Counter::ReceiveQueueOverflows.name()), 0, "{core:?}");
        }
    }
}

impl Core {
    fn read(site: usize, core: &Value) -> Self {
        let mut values = BTreeMap::new();
        for part in ["counters", "drops"] {
            let part = core[part].as_object().unwrap_or_else(|| panic!("no {part} in {core}"));
            values.extend(part.iter().map(|(name, value)| (name.clone(), value.as_i64().unwrap_or_else(|| panic!("{name} is no number")))));
        }
        Self { site, ring: core["ring"].as_bool().unwrap_or(false), parked: core["parked"].as_i64().unwrap_or(0), values }
    }

    fn value(&self, name: &str) -> i64 {
        self.values.get(name).copied().unwrap_or(0)
    }
}
