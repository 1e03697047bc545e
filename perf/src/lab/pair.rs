//! Two sites joined by a wire and configured for each other: the topology that most tests and the demo use.
//!
//! ```text
//!  frankfurt                                                     london
//!  lo 10.43.43.1, fd00:43:43::1        wire0 10.0.0.0/24         lo 10.43.100.1, fd00:43:100::1
//!  pen0 192.168.192.1/30        .1 ─────── fd00::/64 ─────── .2  pen0 192.168.192.2/30
//! ```
//! The inner addresses stand on `lo`: a network behind a site needs no device of its own for that.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::site::new_psk;
use super::{Host, Namespace, Site, SiteOptions, Wire, WireOptions};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

/// How a pair is made. Arrays hold the left site's value, then the right one's.
#[derive(Clone, Debug, Default)]
pub struct PairOptions {
    /// The wire between the sites.
    pub wire: WireOptions,
    /// The family that carries the tunnel.
    pub outer: Family,
    /// `cpus` of each site: one worker each. Both empty: `cores` decides.
    pub cpus: [Vec<u16>; 2],
    /// `cores` of each site; 0 leaves the daemon's default.
    pub cores: [u16; 2],
    /// More lines for both `[site]` tables.
    pub site_toml: String,
    /// More lines for both `[interface.pen0]` tables.
    pub interface_toml: String,
    /// More lines for both `[peer…]` tables.
    pub peer_toml: String,
    /// More tables for the end of each file.
    pub more_toml: [String; 2],
    /// What each site's `--without` masks.
    pub without: [String; 2],
    /// The folder of both sites' programs; none: where [`binary`](super::binary) finds them.
    pub programs: Option<PathBuf>,
    /// More environment for both daemons.
    pub environment: Vec<(String, String)>,
}

/// Two sites joined by a wire. The left one is frankfurt, the right one london.
pub struct Pair {
    /// The sites; dropped before the wire they use.
    pub sites: [Site; 2],
    /// The wire.
    pub wire: Wire,
}

/// The counters of what moves between cores: flows, and packets that a core handed to another one.
const MOVES: [&str; 3] = ["flow_moves", "outbound_handoff_out", "inbound_handoff_out"];

/// What a pair has counted since its start.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Packets that did not arrive, by site and reason; only those that are not zero.
    pub drops: BTreeMap<String, u64>,
    /// What moved between cores, by the engine's names, both sites together.
    pub moves: BTreeMap<String, u64>,
}

/// The names of the two sites, left and right; each is also what the other calls it as a peer.
pub const SITES: [&str; 2] = ["frankfurt", "london"];
/// Their networks: host 1 of each stands on `lo`.
const NETWORKS_V4: [&str; 2] = ["10.43.43.", "10.43.100."];
const NETWORKS_V6: [&str; 2] = ["fd00:43:43::", "fd00:43:100::"];
/// The addresses of `pen0`.
const TUNNEL_V4: [&str; 2] = ["192.168.192.1/30", "192.168.192.2/30"];
const TUNNEL_V6: [&str; 2] = ["fd00:c0::1/126", "fd00:c0::2/126"];

impl Pair {
    /// Lays the wire, writes both configurations with a fresh key, and starts nothing.
    ///
    /// # Errors
    /// If this is not root or a program is missing.
    pub fn new(options: &PairOptions) -> Result<Self> {
        let psk = new_psk()?;
        let namespaces = [Namespace::new(SITES[0])?, Namespace::new(SITES[1])?];
        let wire = Wire::new(&namespaces[0], &namespaces[1], &options.wire)?;
        let make = |side: usize| -> Result<Site> {
            let namespace = &namespaces[side];
            namespace.ip(&format!("addr add {}1/32 dev lo", NETWORKS_V4[side]))?;
            namespace.ip(&format!("addr add {}1/128 dev lo nodad", NETWORKS_V6[side]))?;
            let site = SiteOptions {
                config: config(side, options, &wire),
                secrets: vec![(format!("{}.psk", SITES[1 - side]), psk.clone())],
                without: options.without[side].clone(),
                programs: options.programs.clone(),
                environment: options.environment.clone(),
            };
            Site::new(SITES[side], namespace, site)
        };
        Ok(Self { sites: [make(0)?, make(1)?], wire })
    }

    /// [`Self::new`], then starts both daemons and waits until both sides are up.
    ///
    /// # Errors
    /// As [`Self::new`], or if they do not come up within ten seconds.
    pub fn start(options: &PairOptions) -> Result<Self> {
        let mut pair = Self::new(options)?;
        pair.sites.iter_mut().try_for_each(Site::start)?;
        pair.wait_up(Duration::from_secs(10))?;
        Ok(pair)
    }

    /// Waits until both sides are up.
    ///
    /// # Errors
    /// If they are not in time.
    pub fn wait_up(&mut self, timeout: Duration) -> Result<()> {
        self.sites.iter_mut().try_for_each(|site| site.wait_up(timeout).map(drop))
    }

    /// What both sites have counted since the start, from one look at each.
    ///
    /// # Errors
    /// If a site does not answer.
    pub fn counts(&self) -> Result<Counts> {
        let mut counts = Counts { drops: BTreeMap::new(), moves: MOVES.map(|name| (name.to_owned(), 0)).into() };
        for site in &self.sites {
            let state = site.show_json()?;
            for core in state["cores"].as_array().context("no cores are shown")? {
                for (name, count) in &mut counts.moves {
                    *count += core["counters"][name].as_u64().with_context(|| format!("no {name} is shown"))?;
                }
            }
            self.note_drops(site, &state, &mut counts.drops)?;
        }
        Ok(counts)
    }

    /// Every count of a packet that did not arrive since the start, by site and name; only those that are not zero.
    ///
    /// # Errors
    /// If a site does not answer.
    pub fn drops(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.counts()?.drops)
    }

    fn note_drops(&self, site: &Site, state: &Value, drops: &mut BTreeMap<String, u64>) -> Result<()> {
        let mut note = |reason: &str, count: u64| {
            if count > 0 {
                *drops.entry(format!("{} {reason}", site.name())).or_insert(0) += count;
            }
        };
        for (reason, count) in state["drops"].as_object().context("no drops are shown")? {
            note(reason, count.as_u64().unwrap_or_default());
        }
        for core in state["cores"].as_array().context("no cores are shown")? {
            note("receive_queue_overflows", core["counters"]["receive_queue_overflows"].as_u64().unwrap_or_default());
        }
        let device = state["interface"]["name"].as_str().context("no interface is shown")?;
        let counters = site.namespace().device_counters(device)?;
        note("packets dropped at the TUN queue", counters.tx_dropped);
        note("packets refused by the TUN device", counters.rx_dropped + counters.rx_errors);
        let wire = site.namespace().device_counters(&self.wire.device())?;
        note("packets dropped on the wire", wire.rx_dropped + wire.rx_errors + wire.tx_dropped + wire.tx_errors);
        Ok(())
    }

    /// The host of the network behind a site.
    #[must_use]
    pub fn inner(&self, side: usize, family: Family) -> Host {
        let address = match family {
            Family::V4 => format!("{}1", NETWORKS_V4[side]).parse().map(IpAddr::V4).ok(),
            Family::V6 => format!("{}1", NETWORKS_V6[side]).parse().map(IpAddr::V6).ok(),
        };
        Host { namespace: self.sites[side].namespace().clone(), address: address.expect("the constants above are addresses") }
    }

    /// The site's end of the wire, beside the tunnel.
    #[must_use]
    pub fn outer(&self, side: usize, family: Family) -> Host {
        match family {
            Family::V4 => self.wire.host_v4(side),
            Family::V6 => self.wire.host_v6(side),
        }
    }
}

fn config(side: usize, options: &PairOptions, wire: &Wire) -> String {
    let other = 1 - side;
    let endpoint = match options.outer {
        Family::V4 => wire.host_v4(other).address,
        Family::V6 => wire.host_v6(other).address,
    };
    let workers = match (&options.cpus[side][..], options.cores[side]) {
        ([], 0) => String::new(),
        ([], cores) => format!("cores = {cores}\n"),
        (cpus, _) => format!("cpus = {cpus:?}\n"),
    };
    format!(
        "[site]\nname = \"{name}\"\n{workers}{site}\n\
         [interface.pen0]\naddress = [\"{tunnel_v4}\", \"{tunnel_v6}\"]\n{interface}\n\
         [peer.{peer}]\nendpoint = \"{endpoint}\"\n\
         local_subnets = [\"{local_v4}0/24\", \"{local_v6}/64\"]\n\
         subnets = [\"{remote_v4}0/24\", \"{remote_v6}/64\"]\n\
         psk_file = \"{peer}.psk\"\n{peer_lines}\n{more}",
        name = SITES[side],
        site = lines(&options.site_toml),
        tunnel_v4 = TUNNEL_V4[side],
        tunnel_v6 = TUNNEL_V6[side],
        interface = lines(&options.interface_toml),
        peer = SITES[other],
        local_v4 = NETWORKS_V4[side],
        local_v6 = NETWORKS_V6[side],
        remote_v4 = NETWORKS_V4[other],
        remote_v6 = NETWORKS_V6[other],
        peer_lines = lines(&options.peer_toml),
        more = options.more_toml[side],
    )
}

fn lines(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}
