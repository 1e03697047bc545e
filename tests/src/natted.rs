//! Two Penstocks with a NAT between: frankfurt is hidden behind it, london has no endpoint for it and waits.
//!
//! ```text
//!   frankfurt            wire0 10.0.0.0/24         nat         wire1 10.0.1.0/24            london
//!   lo 10.43.43.1     .1 ───────────────── .2  masquerade  .1 ───────────────── .2   lo 10.43.100.1
//! ```

use std::time::Duration;

use anyhow::Result;
use penstock_perf::lab::{Host, Namespace, Site, SiteOptions, Wire, WireOptions, new_psk};

use crate::nat::Nat;

/// The names of the sites, and host 1 of the network behind each.
const SITES: [&str; 2] = ["frankfurt", "london"];
const HOSTS: [&str; 2] = ["10.43.43.1", "10.43.100.1"];
const NETWORKS: [&str; 2] = ["10.43.43.0/24", "10.43.100.0/24"];

/// Two Penstocks and the NAT.
pub struct Natted {
    /// The sites: the hidden one, and the one that waits.
    pub sites: [Site; 2],
    /// The NAT.
    pub nat: Nat,
    /// The wires of the hidden site and of the other one.
    pub wires: [Wire; 2],
}

impl Natted {
    /// Lays everything and starts both; `peer_toml` are more lines for both `[peer…]` tables.
    ///
    /// # Errors
    /// If a program is missing, or they are not up within ten seconds.
    pub fn start(cores: u16, peer_toml: &str) -> Result<Self> {
        let [hidden, middle, open] = [Namespace::new(SITES[0])?, Namespace::new("nat")?, Namespace::new(SITES[1])?];
        let near = Wire::new(&hidden, &middle, &WireOptions::default())?;
        let far = Wire::new(&middle, &open, &WireOptions { number: 1, ..WireOptions::default() })?;
        hidden.ip(&format!("route add default via {}", near.host_v4(1).address))?;
        let nat = Nat::new(&middle, "wire1")?;
        let psk = new_psk()?;
        let endpoints = [format!("endpoint = \"{}\"", far.host_v4(1).address), "start = \"wait\"".to_owned()];
        let make = |side: usize, namespace: &Namespace| -> Result<Site> {
            namespace.ip(&format!("addr add {}/32 dev lo", HOSTS[side]))?;
            let (name, other) = (SITES[side], SITES[1 - side]);
            let config = format!(
                "[site]\nname = \"{name}\"\ncores = {cores}\n[interface.pen0]\naddress = [\"192.168.192.{}/30\"]\n[peer.{other}]\n{}\n\
                 local_subnets = [\"{}\"]\nsubnets = [\"{}\"]\npsk_file = \"{other}.psk\"\n{peer_toml}\n",
                side + 1,
                endpoints[side],
                NETWORKS[side],
                NETWORKS[1 - side],
            );
            let secrets = vec![(format!("{other}.psk"), psk.clone())];
            Site::new(name, namespace, SiteOptions { config, secrets, ..SiteOptions::default() })
        };
        let mut this = Self { sites: [make(0, &hidden)?, make(1, &open)?], nat, wires: [near, far] };
        // The hidden one first finds nobody: it tries again.
        this.sites.iter_mut().rev().try_for_each(Site::start)?;
        this.sites.iter_mut().try_for_each(|site| site.wait_up(Duration::from_secs(10)).map(drop))?;
        Ok(this)
    }

    /// The host behind a site.
    ///
    /// # Panics
    /// Never: the addresses are addresses.
    #[must_use]
    pub fn host(&self, side: usize) -> Host {
        Host { namespace: self.sites[side].namespace().clone(), address: HOSTS[side].parse().expect("an address") }
    }

    /// What a site shows of its peer.
    ///
    /// # Panics
    /// If the daemon does not answer.
    #[must_use]
    pub fn peer(&self, side: usize) -> serde_json::Value {
        self.sites[side].show_json().unwrap_or_else(|error| panic!("{error:#}"))["peers"][0].clone()
    }

    /// Where the waiting site's SAs send to.
    #[must_use]
    pub fn remotes(&self) -> Vec<String> {
        let sas = self.peer(1)["sas"].as_array().cloned().unwrap_or_default();
        sas.iter().filter_map(|sa| sa["remote"].as_str().map(ToOwned::to_owned)).collect()
    }

    /// Everything worth seeing when something went wrong.
    #[must_use]
    pub fn picture(&self) -> String {
        let logs: Vec<String> = self.sites.iter().map(Site::log).collect();
        format!("{}{}", crate::counters::Counters::picture_of(&self.sites), logs.join("\n----\n"))
    }
}
