//! A veth pair as the wire between two namespaces, and how much of a network card's merging and cutting it pretends to do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use super::namespace::ip;
use super::{Host, Namespace};
use crate::sys::Features;

mod bridge;
mod router;

pub use bridge::INNER_ENDS;

/// What happens to super-packets on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// They pass whole, as between two guests of one machine.
    #[default]
    Whole,
    /// The sender's kernel cuts them and the receiver's merges again: a network card without segmentation, with GRO.
    Gro,
    /// The sender's kernel cuts them and nothing is merged.
    Plain,
}

/// How a wire is made.
#[derive(Clone, Debug)]
pub struct WireOptions {
    /// Which wire it is: devices `wire<n>`, networks 10.0.n.0/24 and fd00:0:0:n::/64.
    pub number: u8,
    /// The largest IP packet.
    pub mtu: u32,
    /// What happens to super-packets.
    pub offload: Offload,
}

impl Default for WireOptions {
    fn default() -> Self {
        Self { number: 0, mtu: 1500, offload: Offload::Whole }
    }
}

/// A wire between two namespaces; the left end has host number 1, the right end 2. It goes with either namespace.
#[derive(Clone, Debug)]
pub struct Wire {
    ends: [Namespace; 2],
    number: u8,
}

impl Wire {
    /// Lays the wire and gives both ends their addresses.
    ///
    /// # Errors
    /// If a wire of this number ends in one of the namespaces already, or the kernel has no veth.
    pub fn new(left: &Namespace, right: &Namespace, options: &WireOptions) -> Result<Self> {
        let wire = Self { ends: [left.clone(), right.clone()], number: options.number };
        let device = wire.device();
        let mtu = options.mtu.to_string();
        let near = ["link", "add", &device, "mtu", &mtu, "netns", left.name(), "type", "veth"];
        let far = ["peer", "name", &device, "mtu", &mtu, "netns", right.name()];
        ip(near.into_iter().chain(far))?;
        wire.set_offload(options.offload)?;
        for (side, end) in wire.ends.iter().enumerate() {
            end.ip(&format!("addr add {}/24 dev {device}", wire.address_v4(side)))?;
            end.ip(&format!("addr add {}/64 dev {device} nodad", wire.address_v6(side)))?;
            end.ip(&format!("link set {device} up"))?;
        }
        Ok(wire)
    }

    /// The device's name, the same at both ends.
    #[must_use]
    pub fn device(&self) -> String {
        format!("wire{}", self.number)
    }

    fn address_v4(&self, side: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, self.number, side as u8 + 1)
    }

    fn address_v6(&self, side: usize) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, 0, self.number.into(), 0, 0, 0, side as u16 + 1)
    }

    /// The IPv4 host at one end: 0 is left, 1 is right.
    #[must_use]
    pub fn host_v4(&self, side: usize) -> Host {
        Host { namespace: self.ends[side].clone(), address: IpAddr::V4(self.address_v4(side)) }
    }

    /// The IPv6 host at one end.
    #[must_use]
    pub fn host_v6(&self, side: usize) -> Host {
        Host { namespace: self.ends[side].clone(), address: IpAddr::V6(self.address_v6(side)) }
    }

    /// The hardware address of one end.
    ///
    /// # Errors
    /// If the device is gone.
    pub fn hardware(&self, side: usize) -> Result<[u8; 6]> {
        let shown = self.ends[side].ip(&format!("-o link show dev {}", self.device()))?;
        let words = shown.split_ascii_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let octets: Vec<u8> = words.unwrap_or_default().split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
        octets.try_into().ok().with_context(|| format!("{} has no hardware address: {shown}", self.device()))
    }

    /// Changes what happens to super-packets, at both ends.
    ///
    /// # Errors
    /// If the kernel's veth cannot do it.
    pub fn set_offload(&self, offload: Offload) -> Result<()> {
        let device = self.device();
        self.ends.iter().try_for_each(|end| switch(end, &device, offload))
    }

    /// Cuts the wire, or mends it.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn set_up(&self, up: bool) -> Result<()> {
        self.ends[0].ip(&format!("link set {} {}", self.device(), if up { "up" } else { "down" })).map(drop)
    }

    /// Changes the MTU of both ends.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn set_mtu(&self, bytes: u32) -> Result<()> {
        self.ends.iter().try_for_each(|end| end.ip(&format!("link set {} mtu {bytes}", self.device())).map(drop))
    }
}

/// Switches one end of a veth pair.
fn switch(namespace: &Namespace, device: &str, offload: Offload) -> Result<()> {
    let whole = offload == Offload::Whole;
    let switches = [
        ("tx-tcp-segmentation", whole),
        ("tx-tcp6-segmentation", whole),
        ("tx-tcp-ecn-segmentation", whole),
        ("tx-tcp-mangleid-segmentation", whole),
        ("tx-udp-segmentation", whole),
        ("tx-generic-segmentation", whole),
        ("rx-gro", offload == Offload::Gro),
    ];
    let set = || Features::of(device).and_then(|features| features.set(&switches));
    namespace.enter(set)?.with_context(|| format!("{device} in {} cannot be switched to {offload:?}", namespace.name()))
}

#[cfg(test)]
mod tests {
    use super::{Offload, Wire, WireOptions};
    use crate::lab::Namespace;

    #[test]
    fn a_wire_carries_both_families_in_every_mode() {
        if !crate::is_root() {
            return eprintln!("skipped: needs root");
        }
        let left = Namespace::new("perf-left").expect("a namespace");
        let right = Namespace::new("perf-right").expect("a namespace");
        let wire = Wire::new(&left, &right, &WireOptions::default()).expect("a wire");
        for offload in [Offload::Gro, Offload::Plain, Offload::Whole] {
            wire.set_offload(offload).expect("veth can do all of them");
            for (from, to) in [(wire.host_v4(0), wire.host_v4(1)), (wire.host_v6(0), wire.host_v6(1))] {
                let listener = to.listen().expect("a port");
                from.connect(listener.local_addr().expect("bound")).expect("the wire is up");
            }
        }
        assert!(left.device_counters("wire0").expect("it is there").tx_packets > 0);
        assert!(left.device_counters("wire9").is_err());
    }
}
