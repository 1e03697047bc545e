//! A wire in two pieces, whose inner ends somebody has to join.

use anyhow::{Context, Result};

use super::super::namespace::ip;
use super::{Namespace, Offload, Wire, WireOptions};
use crate::sys::Features;

/// The names of the two inner ends, left and right.
pub const INNER_ENDS: [&str; 2] = ["left", "right"];

impl Wire {
    /// Lays the wire again in two pieces that both end in a third namespace, at [`INNER_ENDS`], where every frame has to be carried over by a
    /// [`crate::faulty::Relay`]. Names and addresses stay. Frames are as a network card would send them: none merged, all checksums made.
    ///
    /// # Errors
    /// As [`Wire::new`].
    pub fn open_in(&self, middle: &Namespace, options: &WireOptions) -> Result<()> {
        let (device, mtu) = (self.device(), options.mtu.to_string());
        self.ends[0].ip(&format!("link del {device}"))?;
        middle.set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?; // it says nothing of its own
        for (side, end) in self.ends.iter().enumerate() {
            let inner = INNER_ENDS[side];
            let near = ["link", "add", &device, "mtu", &mtu, "netns", end.name(), "type", "veth"];
            ip(near.into_iter().chain(["peer", "name", inner, "mtu", &mtu, "netns", middle.name()]))?;
            super::switch(middle, inner, Offload::Plain)?;
            middle.ip(&format!("link set {inner} up"))?;
            end.ip(&format!("addr add {}/24 dev {device}", self.address_v4(side)))?;
            end.ip(&format!("addr add {}/64 dev {device} nodad", self.address_v6(side)))?;
            end.ip(&format!("link set {device} up"))?;
            let checksums = || Features::of(&device).and_then(|features| features.set(&[("tx-checksum-ip-generic", false)]));
            end.enter(checksums)?.with_context(|| format!("{device} in {} makes no checksums", end.name()))?;
        }
        self.set_offload(Offload::Plain)
    }
}
