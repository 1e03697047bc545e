//! A router in the middle of a wire.

use anyhow::Result;

use super::super::namespace::ip;
use super::{Namespace, Offload, Wire, WireOptions, switch};

/// Host number of the router on both sides.
const HOST: u16 = 254;

impl Wire {
    /// Lays the wire again, through a third namespace that routes between its ends; names, addresses and options stay. What comes out
    /// of a router has left its sender's socket behind: the kernel of the far end merges packets of several sockets as a network card's
    /// driver would, which it does not on a veth pair from socket to socket.
    ///
    /// # Errors
    /// As [`Wire::new`].
    pub fn lead_through(&self, router: &Namespace, options: &WireOptions) -> Result<()> {
        let (device, number, mtu) = (self.device(), self.number, options.mtu.to_string());
        let (gateway_v4, gateway_v6) = (format!("10.0.{number}.{HOST}"), format!("fd00:0:0:{number:x}::{HOST:x}"));
        self.ends[0].ip(&format!("link del {device}"))?;
        for (side, end) in self.ends.iter().enumerate() {
            let far = ["left", "right"][side];
            let near = ["link", "add", &device, "mtu", &mtu, "netns", end.name(), "type", "veth"];
            ip(near.into_iter().chain(["peer", "name", far, "mtu", &mtu, "netns", router.name()]))?;
            let (own_v4, own_v6) = (self.address_v4(side), self.address_v6(side));
            router.ip(&format!("addr add {gateway_v4}/32 dev {far}"))?;
            router.ip(&format!("addr add {gateway_v6}/128 dev {far} nodad"))?;
            // What cuts must be what sends: a veth end merges only what comes from one that can not segment.
            let cuts = if options.offload == Offload::Whole { Offload::Whole } else { Offload::Plain };
            switch(router, far, cuts)?;
            router.ip(&format!("link set {far} up"))?;
            router.ip(&format!("route add {own_v4}/32 dev {far}"))?;
            router.ip(&format!("route add {own_v6}/128 dev {far}"))?;
            end.ip(&format!("addr add {own_v4}/32 dev {device}"))?;
            end.ip(&format!("addr add {own_v6}/128 dev {device} nodad"))?;
            end.ip(&format!("link set {device} up"))?;
            end.ip(&format!("route add {}/32 via {gateway_v4} dev {device} onlink", self.address_v4(1 - side)))?;
            end.ip(&format!("route add {}/128 via {gateway_v6} dev {device} onlink", self.address_v6(1 - side)))?;
        }
        router.set_sysctl("net/ipv4/ip_forward", "1")?;
        router.set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
        self.set_offload(options.offload)
    }
}
