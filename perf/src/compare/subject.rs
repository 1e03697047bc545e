//! What is compared: Penstock, another VPN through its adaptor. Each has two namespaces and a wire of its own, so that the
//! plain wire next to it is the very wire under it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use super::adaptor::{Adaptor, Running};
use super::reach;
use crate::lab::{Family, Host, Pair, PairOptions, WireOptions, allowed_processors, binary};

/// Something that makes a tunnel.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Penstock, AES-256-GCM, one worker a site on a processor of its own. `without` is what `penstockd --without` takes.
    Penstock {
        /// Facilities that it must do without; empty: none.
        without: String,
    },
    /// Another one.
    Other(Box<Adaptor>),
}

/// A tunnel that carries datagrams.
pub struct Tunnel {
    /// Its ends, left and right.
    pub inner: [Host; 2],
    /// The ends of the wire under it.
    pub outer: [Host; 2],
    made: Made,
}

enum Made {
    Pair(Box<Pair>),
    Other(#[expect(dead_code, reason = "held so that it stays up")] Box<Running>),
}

impl Subject {
    /// What it is called in tables.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Penstock { without } if without.is_empty() => "penstock".into(),
            Self::Penstock { without } => format!("penstock-without-{}", without.replace(',', "-")),
            Self::Other(adaptor) => adaptor.name.clone(),
        }
    }

    /// Which version is measured.
    #[must_use]
    pub fn version(&self) -> String {
        match self {
            Self::Penstock { .. } => {
                let output = binary("penstockd").ok().and_then(|path| std::process::Command::new(path).arg("--version").output().ok());
                let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
                let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
                format!("{}, {build}, aes256-gcm", text.trim())
            }
            Self::Other(adaptor) => adaptor.version(),
        }
    }

    /// What this machine lacks for it; empty: nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        match self {
            Self::Penstock { .. } => Vec::new(),
            Self::Other(adaptor) => adaptor.missing(),
        }
    }

    /// Brings the tunnel up.
    ///
    /// # Errors
    /// If it does not carry a datagram in time, with what its logs end with.
    pub fn start(&self, wire: &WireOptions) -> Result<Tunnel> {
        match self {
            Self::Penstock { without } => penstock(wire, without),
            Self::Other(adaptor) => {
                let running = Box::new(adaptor.start(wire)?);
                let inner = [running.inner(0), running.inner(1)];
                let outer = [running.wire.host_v4(0), running.wire.host_v4(1)];
                Ok(Tunnel { inner, outer, made: Made::Other(running) })
            }
        }
    }
}

fn penstock(wire: &WireOptions, without: &str) -> Result<Tunnel> {
    let processors = allowed_processors();
    let nth = |index: usize| processors.get(index % processors.len().max(1)).copied().into_iter().collect();
    let pair = Pair::start(&PairOptions {
        wire: wire.clone(),
        cpus: [nth(0), nth(1)],
        peer_toml: "suites = [\"aes256-gcm\"]".into(),
        without: [without.into(), without.into()],
        ..PairOptions::default()
    })?;
    let inner = [pair.inner(0, Family::V4), pair.inner(1, Family::V4)];
    let outer = [pair.outer(0, Family::V4), pair.outer(1, Family::V4)];
    reach::wait(&inner[0], &inner[1], Duration::from_secs(10)).context("penstock")?;
    Ok(Tunnel { inner, outer, made: Made::Pair(Box::new(pair)) })
}

impl Tunnel {
    /// The processes that make it: side and process id.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn processes(&self) -> Result<Vec<(usize, u32)>> {
        let mut found = Vec::new();
        for (side, host) in self.inner.iter().enumerate() {
            found.extend(host.namespace.processes()?.into_iter().map(|pid| (side, pid)));
        }
        if let Made::Pair(pair) = &self.made {
            // The engine has left the namespace for an empty one; it keeps only the descriptors that it was given.
            for (side, site) in pair.sites.iter().enumerate() {
                found.push((side, site.engine_pid()?));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What it says that it has dropped since its start, by name; `None` if it does not say such things.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn drops(&self) -> Result<Option<BTreeMap<String, u64>>> {
        match &self.made {
            Made::Pair(pair) => pair.drops().map(Some),
            Made::Other(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Subject;

    #[test]
    fn a_variant_is_told_from_the_whole() {
        let name = |without: &str| Subject::Penstock { without: without.into() }.name();
        assert_eq!([name(""), name("gro,gso")], ["penstock", "penstock-without-gro-gso"]);
    }
}
