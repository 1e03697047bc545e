//! What is compared: Penstock, another VPN through its adaptor. Each has two namespaces and a wire of its own, so that the
//! plain wire next to it is the very wire under it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::adaptor::{Adaptor, Running, is_there};
use super::reach;
use super::variant::Variant;
use crate::lab::{Counts, Family, Folder, Host, Namespace, Pair, PairOptions, SITES, Site, WireOptions, binary, first_line};
use crate::load::process_seconds;

/// Something that makes a tunnel.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Penstock, AES-256-GCM, workers on processors of their own.
    Penstock(Variant),
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
    /// With the engines' process ids.
    Pair(Box<Pair>, [u32; 2]),
    Other(#[expect(dead_code, reason = "held so that it stays up")] Box<Running>),
}

impl Subject {
    /// Penstock as it is by default, one worker a site.
    #[must_use]
    pub fn penstock() -> Self {
        Self::Penstock(Variant::default())
    }

    /// The same without some features, as `penstockd --without` takes them, with commas; empty: none.
    #[must_use]
    pub fn penstock_without(features: &str) -> Self {
        let without = features.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Self::Penstock(Variant { without, ..Variant::default() })
    }

    /// What it is called in tables.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Penstock(variant) => variant.name(),
            Self::Other(adaptor) => adaptor.name.clone(),
        }
    }

    /// Which version is measured, and in which form.
    #[must_use]
    pub fn version(&self) -> String {
        match self {
            Self::Penstock(variant) => {
                let other = variant.build.as_ref().map(|build| build.folder.join("penstockd"));
                let program = other.or_else(|| binary("penstockd").ok()).unwrap_or_default().display().to_string();
                format!("{}, aes256-gcm, {}", first_line(&program, &["--version"]), variant.words())
            }
            Self::Other(adaptor) => adaptor.version(),
        }
    }

    /// What this machine lacks for it; empty: nothing.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        match self {
            Self::Penstock(variant) if variant.unsummed => {
                ["nft"].iter().filter(|need| !is_there(need)).map(|need| (*need).into()).collect()
            }
            Self::Penstock(_) => Vec::new(),
            Self::Other(adaptor) => adaptor.missing(),
        }
    }

    /// Brings the tunnel up.
    ///
    /// # Errors
    /// If it does not carry a datagram in time, with what its logs end with.
    pub fn start(&self, wire: &WireOptions) -> Result<Tunnel> {
        match self {
            Self::Penstock(variant) => penstock(wire, variant),
            Self::Other(adaptor) => {
                let running = Box::new(adaptor.start(wire)?);
                let inner = [running.inner(0), running.inner(1)];
                let outer = [running.wire.host_v4(0), running.wire.host_v4(1)];
                Ok(Tunnel { inner, outer, made: Made::Other(running) })
            }
        }
    }
}

fn penstock(wire: &WireOptions, variant: &Variant) -> Result<Tunnel> {
    let masked = variant.masked().join(",");
    let mut left = variant.masked();
    if variant.unsummed {
        left.push("gso".into()); // the kernel refuses UDP_SEGMENT without a checksum, and a kernel's own ESP sends one by one
    }
    let ends = [0, 1].map(|side| Ipv4Addr::new(10, 0, wire.number, side + 1).to_string());
    let peers = |side: usize| variant.peers_toml(side, &ends[1 - side], &format!("{}.psk", SITES[1 - side]));
    let mut pair = Pair::new(&PairOptions {
        wire: wire.clone(),
        cpus: variant.processors()?,
        site_toml: variant.site_toml(),
        peer_toml: variant.peer_toml(),
        more_toml: [peers(0), peers(1)],
        without: [left.join(","), masked],
        programs: variant.build.as_ref().map(|build| build.folder.clone()),
        ..PairOptions::default()
    })?;
    if variant.unsummed {
        send_unsummed(pair.sites[0].namespace(), &pair.wire.device())?;
    }
    pair.sites.iter_mut().try_for_each(Site::start)?;
    // Thousands of handshakes take their time.
    let patience = Duration::from_secs(10) + Duration::from_millis(20) * (variant.peers + variant.peers_up + variant.prefixes) as u32;
    let wanted = variant.peers_up + 1;
    pair.sites.iter_mut().try_for_each(|site| site.wait_peers_up(wanted, patience).map(drop))?;
    let inner = [pair.inner(0, Family::V4), pair.inner(1, Family::V4)];
    let outer = [pair.outer(0, Family::V4), pair.outer(1, Family::V4)];
    reach::wait(&inner[0], &inner[1], Duration::from_secs(10)).context("penstock")?;
    if variant.peers + variant.prefixes > 0 {
        close_idle(&mut pair, patience)?;
    }
    if wanted > 1 || variant.peers + variant.prefixes > 0 {
        pair.sites.iter().try_for_each(|site| settle(site, patience))?;
    }
    let engines = [pair.sites[0].engine_pid()?, pair.sites[1].engine_pid()?];
    Ok(Tunnel { inner, outer, made: Made::Pair(Box::new(pair), engines) })
}

/// Takes the checksum out of every datagram of ESP that leaves by the device: each is one datagram on its own there, and the
/// receiver's kernel neither checks it nor merges it with others (RFC 3948 section 2.1; net/ipv4/udp_offload.c).
fn send_unsummed(namespace: &Namespace, device: &str) -> Result<()> {
    let rules = format!(
        "table netdev unsummed {{\n chain out {{\n type filter hook egress device \"{device}\" priority 0\n udp dport 4500 udp checksum set 0\n }}\n}}\n"
    );
    let folder = Folder::new(&format!("{}-unsummed", namespace.name()))?;
    let file = folder.path().join("rules");
    std::fs::write(&file, rules)?;
    let program = ["/usr/sbin/nft", "/sbin/nft"].into_iter().find(|path| Path::new(path).exists()).unwrap_or("nft");
    let output = namespace.command(program).arg("-f").arg(&file).output().context("nft cannot be run")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Closes all peers but the one in use, by order: an idle peer is not one that control tries to reach for ever.
fn close_idle(pair: &mut Pair, patience: Duration) -> Result<()> {
    let order = |site: &Site, words: &[&str]| {
        let output = site.penstock(words)?;
        // 1 says that it is not up yet, which is waited for below.
        ensure!(
            matches!(output.status.code(), Some(0 | 1)),
            "{}: penstock {words:?}: {}",
            site.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    };
    for site in &pair.sites {
        order(site, &["down"])?;
    }
    for (site, other) in pair.sites.iter().zip([SITES[1], SITES[0]]) {
        order(site, &["up", other])?;
    }
    pair.sites.iter_mut().try_for_each(|site| site.wait_peers_up(1, patience).map(drop))
}

/// Waits until control has nothing more to do than on any other day: less than 3 % of a processor for a second.
fn settle(site: &Site, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience + Duration::from_secs(60);
    let pid = site.control_pid()?;
    loop {
        let before = process_seconds(pid).unwrap_or_default();
        std::thread::sleep(Duration::from_secs(1));
        let used = process_seconds(pid).unwrap_or_default() - before;
        if used < 0.03 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{}: control still uses {used:.2} of a processor", site.name());
    }
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
        if let Made::Pair(_, engines) = &self.made {
            // The engine has left the namespace for an empty one; it keeps only the descriptors that it was given.
            found.extend(engines.iter().copied().enumerate());
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// How often child SAs were replaced since its start, both sides together; `None` if it does not say such things.
    #[must_use]
    pub fn rekeys(&self) -> Option<usize> {
        match &self.made {
            Made::Pair(pair, _) => Some(pair.sites.iter().map(|site| site.log().matches("child-rekeyed").count()).sum()),
            Made::Other(_) => None,
        }
    }

    /// What it has counted since its start; `None` if it does not say such things.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn counts(&self) -> Result<Option<Counts>> {
        match &self.made {
            Made::Pair(pair, _) => pair.counts().map(Some),
            Made::Other(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::send_unsummed;
    use crate::lab::{Namespace, Wire, WireOptions};

    #[test]
    fn an_unsummed_wire_carries_no_checksum_of_the_port_of_esp() {
        if !crate::is_root() || !super::is_there("nft") {
            return eprintln!("skipped: needs root and nft");
        }
        let [left, right] = ["sum-left", "sum-right"].map(|name| Namespace::new(name).expect("a namespace"));
        let wire = Wire::new(&left, &right, &WireOptions::default()).expect("a wire");
        send_unsummed(&left, &wire.device()).expect("nft can do it");
        let seen =
            "table netdev seen {\n chain in {\n type filter hook ingress device \"wire0\" priority 0\n udp checksum 0 counter\n }\n}\n";
        let rules = std::env::temp_dir().join(format!("penstock-seen-{}", std::process::id()));
        std::fs::write(&rules, seen).expect("a file");
        assert!(right.command("nft").arg("-f").arg(&rules).status().expect("nft runs").success());
        std::fs::remove_file(&rules).expect("ours");
        let sender = wire.host_v4(0).udp(0).expect("a socket");
        for (port, count) in [(4500, 7), (4501, 5)] {
            let receiver = wire.host_v4(1).udp(port).expect("a socket");
            receiver.set_read_timeout(Some(std::time::Duration::from_secs(2))).expect("a time");
            for _ in 0..count {
                sender.send_to(&[7; 100], receiver.local_addr().expect("bound")).expect("the wire is up");
                assert_eq!(receiver.recv(&mut [0; 200]).expect("it arrives"), 100);
            }
        }
        let listed = right.command("nft").args(["list", "table", "netdev", "seen"]).output().expect("nft runs");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.contains("packets 7 "), "{listed}");
    }
}
