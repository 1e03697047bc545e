//! A Penstock and a strongSwan joined by a wire, with or without a NAT between.
//!
//! ```text
//!  frankfurt: Penstock              wire0 10.0.0.0/24             london: charon, ESP in user space
//!  lo 10.43.43.1, fd00:43:43::1   .1 ───────────────────── .2     lo 10.43.100.1, fd00:43:100::1
//!
//!                     wire0 10.0.0.0/24         wire1 10.0.1.0/24
//!  frankfurt        .1 ─────────────── .2 nat .1 ─────────────── .2        london
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use penstock_perf::lab::{Family, Host, Namespace, Site, SiteOptions, Wire, WireOptions, new_psk};

use crate::counters::Counters;
use crate::missed::Missed;
use crate::nat::Nat;
use crate::strongswan::StrongSwan;

/// Whose packets get another source address on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behind {
    /// Nobody's.
    #[default]
    Nobody,
    /// Penstock's.
    Penstock,
    /// strongSwan's.
    StrongSwan,
}

/// How the two are configured.
#[derive(Clone, Debug)]
pub struct MixedOptions {
    /// Where a NAT stands.
    pub behind: Behind,
    /// `cores` of Penstock.
    pub cores: u16,
    /// The port of both sides' first messages.
    pub port: u16,
    /// More lines for `[peer.london]`.
    pub peer_toml: String,
    /// Penstock's side of the tunnel and the other one.
    pub subnets: [Vec<&'static str>; 2],
    /// The key that strongSwan has; empty: the same one.
    pub other_psk: String,
    /// What strongSwan offers for the IKE SA.
    pub proposals: String,
    /// What it calls itself.
    pub identity: String,
    /// More lines for its connection.
    pub connection: String,
    /// Its children; empty: one named `net` with all subnets.
    pub children: String,
    /// What it offers for packets, where `children` is empty.
    pub esp: String,
    /// More lines for that child.
    pub child: String,
    /// More lines for charon itself.
    pub charon: String,
}

impl Default for MixedOptions {
    fn default() -> Self {
        Self {
            behind: Behind::Nobody,
            cores: 2,
            port: 4500,
            peer_toml: String::new(),
            subnets: [vec!["10.43.43.0/24", "fd00:43:43::/64"], vec!["10.43.100.0/24", "fd00:43:100::/64"]],
            other_psk: String::new(),
            proposals: "aes256gcm16-prfsha256-curve25519".into(),
            identity: "london".into(),
            connection: String::new(),
            children: String::new(),
            esp: "aes256gcm16".into(),
            child: String::new(),
            charon: String::new(),
        }
    }
}

/// A Penstock and a strongSwan.
pub struct Mixed {
    /// strongSwan, named london. It runs from the start and initiates nothing by itself, unless its configuration says so.
    pub swan: StrongSwan,
    /// Penstock, named frankfurt. It tries to reach london as soon as it is started.
    pub site: [Site; 1],
    /// The NAT, if there is one.
    pub nat: Option<Nat>,
    /// The wire at Penstock's end.
    pub wire: Wire,
    config: String,
}

impl Mixed {
    /// Lays the wires and starts strongSwan. Penstock is not started yet.
    ///
    /// # Errors
    /// If a program is missing or refuses its configuration.
    pub fn new(options: &MixedOptions) -> Result<Self> {
        let psk = new_psk()?;
        let [frankfurt, london] = [Namespace::new("frankfurt")?, Namespace::new("london")?];
        inner_addresses(&frankfurt, &options.subnets[0])?;
        inner_addresses(&london, &options.subnets[1])?;
        let (wire, nat, addresses) = lay(&frankfurt, &london, options.behind)?;

        let other = if options.other_psk.is_empty() { &psk } else { &options.other_psk };
        let config = swanctl_conf(options, addresses, other.trim());
        let swan = StrongSwan::start(&london, &options.charon, &config)?;
        let site = SiteOptions {
            config: penstock_toml(options, addresses[1]),
            secrets: vec![("london.psk".into(), psk)],
            ..SiteOptions::default()
        };
        Ok(Self { swan, site: [Site::new("frankfurt", &frankfurt, site)?], nat, wire, config })
    }

    /// [`Self::new`], then lets Penstock initiate and waits until both say that they are up.
    ///
    /// # Errors
    /// If they are not within ten seconds.
    pub fn start(options: &MixedOptions) -> Result<Self> {
        let mut mixed = Self::new(options)?;
        mixed.site[0].start()?;
        mixed.wait_up(1, Duration::from_secs(10))?;
        Ok(mixed)
    }

    /// [`Self::new`], then starts Penstock such that it cannot reach strongSwan by itself, and lets strongSwan initiate.
    ///
    /// # Errors
    /// If they are not up within ten seconds.
    pub fn start_from_strongswan(options: &MixedOptions) -> Result<Self> {
        let mut mixed = Self::new(options)?;
        mixed.penstock_waits()?;
        mixed.swan.initiate("net")?;
        mixed.wait_up(1, Duration::from_secs(10))?;
        Ok(mixed)
    }

    /// Starts Penstock and closes the peer's door for what Penstock sends first: it has nobody to initiate to.
    ///
    /// # Errors
    /// If it does not answer within ten seconds.
    pub fn penstock_waits(&mut self) -> Result<()> {
        let path = self.site[0].config_path();
        let text = std::fs::read_to_string(&path)?;
        let line = text.lines().find(|line| line.starts_with("endpoint")).context("an endpoint")?.to_owned();
        self.site[0].write_config(&text.replace(&line, "start = \"wait\""))?;
        self.site[0].start()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Err(error) = self.site[0].show_json() {
            ensure!(Instant::now() < deadline, "{error:#}\n{}", self.site[0].log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until Penstock shows the peer as up and strongSwan shows this many children.
    ///
    /// # Errors
    /// If they are not in time; with both logs.
    pub fn wait_up(&mut self, children: usize, timeout: Duration) -> Result<()> {
        let start = Instant::now();
        let both = self.site[0].wait_up(timeout).and_then(|_| {
            loop {
                let installed = self.swan.children()?;
                if installed.len() == children {
                    return Ok(());
                }
                ensure!(start.elapsed() < timeout, "strongSwan shows {installed:?} and not {children} children");
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        both.with_context(|| format!("strongSwan's log:\n{}", self.swan.log()))
    }

    /// The host behind a side: 0 is Penstock's, 1 strongSwan's. `network` is the number of one of its subnets.
    ///
    /// # Panics
    /// If there is no such subnet.
    #[must_use]
    pub fn host(&self, side: usize, subnet: &str) -> Host {
        let namespace = if side == 0 { self.site[0].namespace() } else { self.swan.namespace() };
        Host { namespace: namespace.clone(), address: first_host(subnet).expect("a subnet") }
    }

    /// The hosts behind both sides, of the usual subnets.
    #[must_use]
    pub fn inner(&self, family: Family) -> [Host; 2] {
        match family {
            Family::V4 => [self.host(0, "10.43.43.0/24"), self.host(1, "10.43.100.0/24")],
            Family::V6 => [self.host(0, "fd00:43:43::/64"), self.host(1, "fd00:43:100::/64")],
        }
    }

    /// Penstock's counters.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters::of_sites(&self.site)
    }

    /// What Penstock shows of its peer.
    ///
    /// # Panics
    /// If the daemon does not answer.
    #[must_use]
    pub fn peer(&self) -> serde_json::Value {
        let state = self.site[0].show_json().unwrap_or_else(|error| panic!("{error:#}"));
        state["peers"][0].clone()
    }

    /// The configuration that strongSwan was given, in the words of swanctl.conf(5).
    #[must_use]
    pub fn swanctl_conf(&self) -> &str {
        &self.config
    }

    /// What queues of the kernel on both sides have had no room for.
    ///
    /// # Panics
    /// If the kernel's counters cannot be read.
    #[must_use]
    pub fn missed(&self) -> Missed {
        let far = if self.nat.is_some() { "wire1" } else { "wire0" };
        Missed::read([(self.site[0].namespace(), "pen0", &self.wire.device()), (self.swan.namespace(), "ipsec0", far)])
    }

    /// Everything worth seeing when something went wrong.
    #[must_use]
    pub fn picture(&self) -> String {
        let listed = self.swan.swanctl(&["--list-sas"]).unwrap_or_else(|error| format!("{error:#}"));
        let links = self.swan.namespace().ip("-s link show").unwrap_or_else(|error| format!("{error:#}"));
        format!("{}strongSwan:\n{listed}{links}{}\n{}", Counters::picture_of(&self.site), self.swan.log(), self.site[0].log())
    }
}

/// Puts host 1 of each subnet on the loopback device.
///
/// # Errors
/// If a subnet is none, or its address is taken.
pub fn inner_addresses(namespace: &Namespace, subnets: &[&str]) -> Result<()> {
    for subnet in subnets {
        let host = first_host(subnet)?;
        let (length, more) = if host.is_ipv4() { (32, "") } else { (128, " nodad") };
        namespace.ip(&format!("addr add {host}/{length} dev lo{more}"))?;
    }
    Ok(())
}

fn first_host(subnet: &str) -> Result<IpAddr> {
    let (network, _) = subnet.split_once('/').context("a prefix")?;
    Ok(match network.parse()? {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network) + 1).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network) + 1).into()),
    })
}

/// The wire at Penstock's end, the NAT, and where each side sees the other or is itself: Penstock's own address, the address that
/// Penstock sends to, strongSwan's own (or that of whoever stands in its place), the one that it sends to.
///
/// # Errors
/// If a device or the NAT cannot be made.
pub fn lay(frankfurt: &Namespace, london: &Namespace, behind: Behind) -> Result<(Wire, Option<Nat>, [IpAddr; 4])> {
    if behind == Behind::Nobody {
        let wire = Wire::new(frankfurt, london, &WireOptions::default())?;
        let [left, right] = [wire.host_v4(0).address, wire.host_v4(1).address];
        return Ok((wire, None, [left, right, right, left]));
    }
    let middle = Namespace::new("nat")?;
    let wire = Wire::new(frankfurt, &middle, &WireOptions::default())?;
    let far = Wire::new(&middle, london, &WireOptions { number: 1, ..WireOptions::default() })?;
    let [left, near, beyond, right] = [wire.host_v4(0), wire.host_v4(1), far.host_v4(0), far.host_v4(1)].map(|host| host.address);
    if behind == Behind::StrongSwan {
        london.ip(&format!("route add default via {beyond}"))?;
        Ok((wire, Some(Nat::new(&middle, "wire0")?), [left, near, right, left]))
    } else {
        frankfurt.ip(&format!("route add default via {near}"))?;
        Ok((wire, Some(Nat::new(&middle, "wire1")?), [left, right, right, beyond]))
    }
}

fn penstock_toml(options: &MixedOptions, endpoint: IpAddr) -> String {
    let [local, remote] = &options.subnets;
    format!(
        "[site]\nname = \"frankfurt\"\ncores = {}\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n\
         [peer.london]\nendpoint = \"{endpoint}:{}\"\nlocal_subnets = {local:?}\nsubnets = {remote:?}\npsk_file = \"london.psk\"\n{}\n",
        options.cores, options.port, options.peer_toml
    )
}

fn swanctl_conf(options: &MixedOptions, [_, _, own, other]: [IpAddr; 4], psk: &str) -> String {
    let MixedOptions { subnets: [local, remote], proposals, identity, connection, esp, child, port, .. } = options;
    let children = if options.children.is_empty() {
        let (local, remote) = (local.join(","), remote.join(","));
        format!("net {{\nlocal_ts = {remote}\nremote_ts = {local}\nesp_proposals = {esp}\n{child}\n}}")
    } else {
        options.children.clone()
    };
    format!(
        "connections {{\nfrankfurt {{\nversion = 2\nlocal_addrs = {own}\nremote_addrs = {other}\nlocal_port = {port}\nremote_port = {port}\n\
         proposals = {proposals}\n{connection}\nlocal {{\nauth = psk\nid = {identity}\n}}\nremote {{\nauth = psk\nid = frankfurt\n}}\n\
         children {{\n{children}\n}}\n}}\n}}\nsecrets {{\nike-frankfurt {{\nid-1 = frankfurt\nsecret = {psk}\n}}\n}}\n"
    )
}
