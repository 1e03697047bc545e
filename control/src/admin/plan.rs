//! What an `apply` is about to do or has done: the difference between what runs and what the files say.

use serde::{Deserialize, Serialize};

/// What a change costs the peer that it is about. Other peers notice nothing of any of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cost {
    /// Nothing: no packet and no key is touched.
    #[default]
    Nothing,
    /// The peer's SAs get new keys, without loss.
    Rekey,
    /// The peer's tunnel is closed and made anew, or made or closed for good.
    Tunnel,
    /// It waits for a restart of the daemon; until then what ran before goes on.
    Restart,
}

impl Cost {
    /// In words.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Nothing => "costs nothing",
            Self::Rekey => "its SAs get new keys, without loss",
            Self::Tunnel => "its tunnel is made anew",
            Self::Restart => "waits for a restart of penstockd",
        }
    }
}

/// How a section differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is new.
    Added,
    /// It is there, with other values.
    #[default]
    Changed,
    /// It is gone.
    Removed,
}

/// One section that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The section: `site`, `interface.pen0`, `peer.london`.
    pub section: String,
    /// How it differs.
    pub kind: Kind,
    /// The keys that differ, in a section that has changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// What it costs.
    pub cost: Cost,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What differs, in the order site, interface, peers by name.
    pub changes: Vec<Change>,
    /// How many peers are not touched.
    pub untouched: usize,
    /// Whether it has been done.
    pub applied: bool,
    /// Within how many milliseconds it has to be confirmed, or it is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
    /// What is usable in the new configuration, but ought to be changed; or, with nothing done, every mistake in it. A line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

impl Plan {
    /// How many peers are added, changed and removed: `1 added, 0 changed, 2 removed`.
    #[must_use]
    pub fn summary(&self) -> String {
        let peers = |kind: Kind| self.changes.iter().filter(|change| change.section.starts_with("peer.") && change.kind == kind).count();
        let [added, changed, removed] = [Kind::Added, Kind::Changed, Kind::Removed].map(peers);
        format!("{added} peers added, {changed} changed, {removed} removed, {} not touched", self.untouched)
    }
}
