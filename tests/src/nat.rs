//! A router that hides whom it forwards for: nftables masquerade, and a filter that lets in only what belongs to a connection
//! that began inside.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use penstock_perf::lab::Namespace;

/// A namespace that translates what leaves by one of its devices.
#[derive(Clone, Debug)]
pub struct Nat {
    namespace: Namespace,
}

impl Nat {
    /// Lets a namespace forward, with everything that leaves by `outside` getting the address of that device and a port that the NAT chooses.
    ///
    /// # Errors
    /// If `nft` is missing or the kernel cannot do it.
    pub fn new(namespace: &Namespace, outside: &str) -> Result<Self> {
        namespace.set_sysctl("net/ipv4/ip_forward", "1")?;
        let this = Self { namespace: namespace.clone() };
        // Fully random ports: the NAT keeps no port number, as large ones do.
        this.nft(&format!(
            "table ip nat {{\n\
             chain post {{\ntype nat hook postrouting priority 100;\noifname \"{outside}\" masquerade fully-random\n}}\n\
             chain forward {{\ntype filter hook forward priority 0; policy drop;\nct state established,related accept\n\
             oifname \"{outside}\" accept\n}}\n}}\n"
        ))?;
        Ok(this)
    }

    /// Gives `nft` a file of orders.
    ///
    /// # Errors
    /// With what it said, if it refused.
    pub fn nft(&self, orders: &str) -> Result<()> {
        nft(&self.namespace, orders)
    }

    /// The NAT forgets everything, as one that is started again does. What next comes from inside gets another port.
    ///
    /// # Errors
    /// If `conntrack` is missing or refuses.
    pub fn forget(&self) -> Result<()> {
        let output = self.namespace.command("conntrack").arg("-F").output().context("conntrack cannot be run (package conntrack)")?;
        ensure!(output.status.success(), "conntrack: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// How long the NAT remembers a UDP mapping that only one side, or that both sides have used.
    ///
    /// # Errors
    /// If the kernel has no such setting.
    pub fn forget_after(&self, one_way_seconds: u32, both_ways_seconds: u32) -> Result<()> {
        self.namespace.set_sysctl("net/netfilter/nf_conntrack_udp_timeout", &one_way_seconds.to_string())?;
        self.namespace.set_sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", &both_ways_seconds.to_string())
    }
}

/// Gives `nft` in a namespace a file of orders.
///
/// # Errors
/// With what it said, if it refused.
pub fn nft(namespace: &Namespace, orders: &str) -> Result<()> {
    let mut command = namespace.command("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("nft cannot be run (package nftables)")?;
    child.stdin.take().context("its input")?.write_all(orders.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}\n{orders}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
