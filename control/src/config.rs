//! The configuration as the daemon uses it: plain typed fields, every one of them checked.
//!
//! [`Config::load`] reads `penstock.toml` and `peers.d/*.toml` beside it. It either gives a whole configuration or
//! every mistake at once, one line each with file, line, key, cause and remedy; nothing in between, so that a bad
//! file never changes what runs. Keys are described in `docs/configuration.md`.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::psk::Psk;

pub use penstock_ike::{DpdAction, Start};
pub(crate) use value::parse_duration;
pub use value::{Endpoint, Identity, IkeSuite, SourcePort, Suite};

mod cross;
mod file;
mod local;
mod peer;
mod section;
mod value;

#[cfg(test)]
mod tests;

/// Where `penstockd` and `penstock check` look unless told otherwise.
pub const PATH: &str = "/etc/penstock/penstock.toml";

/// The UDP port of IKE and ESP unless `[site] port` says otherwise (RFC 3948 section 4).
pub const PORT: u16 = 4500;

/// The mark that all our UDP sockets carry, so that one rule keeps them off our own routes.
pub const MARK: u32 = 0x7065;

/// The routing table that holds the routes to the peers' subnets.
pub const TABLE: u32 = 0x7065;

/// A whole, checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[site]`: this machine.
    pub site: Site,
    /// `[interface.NAME]`: the TUN device.
    pub interface: Interface,
    /// `[peer.NAME]`: the other sites, sorted by name.
    pub peers: Vec<Peer>,
    /// What is accepted but ought to be changed; `check` answers 1 because of them.
    pub warnings: Vec<Finding>,
    /// What is right, but worth knowing: nested prefixes and the like.
    pub notes: Vec<String>,
}

/// This machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The name; also the identity towards peers unless a peer's `local_id` says otherwise.
    pub name: String,
    /// The UDP port of IKE and ESP.
    pub port: u16,
    /// Whether port 500 is listened on, too.
    pub ike_port: IkePort,
    /// The addresses to receive on; empty: all.
    pub listen: Vec<IpAddr>,
    /// How many workers; `None`: one for each CPU that the process may use, unless [`Site::cpus`] names them.
    pub cores: Option<u16>,
    /// The CPUs to pin workers to, one worker each.
    pub cpus: Option<Vec<u16>>,
    /// How long a worker polls before it sleeps, in microseconds.
    pub poll_us: u32,
    /// Whether device, addresses and routes stay when the daemon stops.
    pub persist: bool,
    /// The mark on our UDP sockets; never 0.
    pub mark: u32,
    /// The routing table of our routes.
    pub table: u32,
    /// Where `port` stands, or `[site]` if it is not given: the place to name when the port is in use.
    pub port_place: Place,
    /// Where `ike_port` stands, or `[site]`.
    pub ike_port_place: Place,
    /// Where `listen` stands, or `[site]`.
    pub listen_place: Place,
    /// Where `cores` or `cpus` stands, or `[site]`.
    pub cores_place: Place,
}

/// Whether port 500 is listened on for the first messages of peers that begin there (RFC 7296 section 2.23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkePort {
    /// Unless another program has it.
    IfFree,
    /// Or the daemon does not start.
    Required,
    /// It is not.
    None,
}

/// The TUN device.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its addresses with the prefix length of their network; host bits are kept.
    pub address: Vec<IpNet>,
    /// The MTU, at least 1280; `None`: what a path of 1500 bytes leaves.
    pub mtu: Option<u16>,
    /// Where the table stands: the place to name when the device cannot be made.
    pub place: Place,
}

/// Another site.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// The name of its table.
    pub name: String,
    /// Where it is reached; `None`: it comes to us.
    pub endpoint: Option<Endpoint>,
    /// When it is tried.
    pub start: Start,
    /// The address to send from; `None`: the kernel chooses.
    pub local_address: Option<IpAddr>,
    /// Our side of the tunnel: the inner addresses that may talk to this peer.
    pub local_subnets: Vec<IpNet>,
    /// The peer's side of the tunnel.
    pub subnets: Vec<IpNet>,
    /// The pre-shared key.
    pub psk: Psk,
    /// Why the key is weak, where the configuration accepts it nevertheless.
    pub psk_weak: Option<String>,
    /// Who we say we are.
    pub local_id: Identity,
    /// Who the peer must be.
    pub remote_id: Identity,
    /// The ESP suites to offer, best first; never empty.
    pub suites: Vec<Suite>,
    /// The ciphers for IKE's own messages, best first; never empty.
    pub ike_suites: Vec<IkeSuite>,
    /// Whether ML-KEM-768 is offered and taken beside the curve.
    pub ml_kem: bool,
    /// The UDP source port of ESP.
    pub source_port: SourcePort,
    /// Whether to ask for one SA per core (RFC 9611).
    pub per_core: bool,
    /// The replay window in packets, 1,024 to 65,536.
    pub window: u32,
    /// The age at which the keys of packets are renewed.
    pub rekey_child: Duration,
    /// The age at which the keys of the IKE SA are renewed.
    pub rekey_ike: Duration,
    /// A fresh key exchange each time.
    pub pfs: bool,
    /// The time within which a vanished peer is found.
    pub dpd: Duration,
    /// What then happens.
    pub dpd_action: DpdAction,
    /// Between two keepalives to a NAT in front of us.
    pub nat_keepalive: Duration,
    /// Where the table stands.
    pub place: Place,
    /// Where `endpoint` stands: the place to name when it cannot be resolved.
    pub endpoint_place: Place,
    /// Where `local_address` stands, or the table.
    pub local_address_place: Place,
}

/// The text of each file that a configuration was read from. No key stands in it: key files are named there, and read when it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Texts(Vec<(PathBuf, String)>);

impl Config {
    /// Reads `path` and the `peers.d/*.toml` beside it.
    ///
    /// # Errors
    /// Every mistake found, in the order of files and lines.
    pub fn load(path: &Path) -> Result<Self, Vec<Finding>> {
        Self::load_with_texts(path).map(|(config, _)| config)
    }

    /// The same, with what was read.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_texts(path: &Path) -> Result<(Self, Texts), Vec<Finding>> {
        file::load(path)
    }

    /// Reads what stood in these files; `path` is the one that is no `peers.d/*.toml`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn of(path: &Path, texts: &Texts) -> Result<Self, Vec<Finding>> {
        file::of(path, texts)
    }
}

/// Where something stands in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user named it.
    pub file: PathBuf,
    /// The line from 1; 0 where there is no line, because the file could not be read.
    pub line: u32,
    /// The dotted key, for example `peer.london.endpoint`; empty where there is none.
    pub key: String,
}

impl Place {
    /// A finding about what stands here.
    pub fn finding(&self, problem: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { place: self.clone(), problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        Ok(())
    }
}

/// One mistake or warning: `FILE:LINE: KEY: what is wrong; what to do`, always a single line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{}: {}; {}", self.place, self.problem, self.remedy);
        // Values from the file are quoted in here, and a quoted newline or escape would break the one line.
        f.write_str(&line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>())
    }
}
