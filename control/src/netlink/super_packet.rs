//! How large a super-packet the kernel may hand to the device (`gso_max_size`).
//!
//! A full super-packet of 64 KiB does not fit one UDP send once each of its segments has become an ESP packet: the last few are a
//! send of their own, which the peer receives and mostly writes by itself. Where all packets are this machine's own, its TCP cuts
//! its data to fit when the device asks for less. A machine that forwards must not ask for less: what others send is merged to
//! 64 KiB before, and the kernel then cuts *all* of it into single packets (`net/core/dev.c`, `gso_features_check`), which halves
//! the throughput.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::LinkAttribute;

use super::link::Link;
use super::{Netlink, NetlinkError, mtu};

/// As large as super-packets get (`GSO_LEGACY_MAX_SIZE` of include/linux/netdevice.h).
pub(super) const WHOLE_BYTES: u32 = 65_536;

/// The most bytes of one UDP send over IPv4: 65,535 less both headers.
const SEND_BYTES: u32 = 65_507;

/// IPv4 and TCP headers with timestamps, as nearly all of TCP has them.
const HEADER_BYTES: u32 = 20 + 20 + 12;

/// What TCP keeps free of `gso_max_size` for headers (`MAX_TCP_HEADER` of include/net/tcp.h, 320 on most kernels, and one more:
/// net/ipv4/tcp.c, `tcp_xmit_size_goal`).
const RESERVE_BYTES: u32 = 321;

/// How often it is looked whether this machine forwards: somebody who turns that on is to wait for no more.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The `gso_max_size` of a device: so much that as many full segments as one UDP send takes are one super-packet, and no more; all
/// there is on a machine that forwards.
#[must_use]
pub fn bytes(mtu: u16, forwards: bool) -> u32 {
    let packets = SEND_BYTES / mtu::frame(mtu);
    let payload = u32::from(mtu).saturating_sub(HEADER_BYTES);
    if forwards || packets < 2 { WHOLE_BYTES } else { (packets * payload + RESERVE_BYTES).min(WHOLE_BYTES) }
}

/// Whether any device of this network namespace forwards what it receives. Where that cannot be read it may.
#[must_use]
pub fn forwards() -> bool {
    ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"].iter().any(|devices| any_forwards(Path::new(devices)))
}

fn any_forwards(devices: &Path) -> bool {
    let entries = match fs::read_dir(devices) {
        Ok(entries) => entries,
        // No such family in this kernel.
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    // A device that is removed meanwhile forwards nothing.
    entries.flatten().any(|device| fs::read_to_string(device.path().join("forwarding")).is_ok_and(|value| value.trim() != "0"))
}

impl Netlink {
    /// Gives the device the `gso_max_size` that fits, if it has another.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub async fn fit_super_packets(&self, link: &Link, name: &str) -> Result<(), NetlinkError> {
        let wanted = bytes(u16::try_from(link.mtu).unwrap_or(u16::MAX), forwards());
        if link.super_packet == wanted {
            return Ok(());
        }
        let mut message = LinkUnspec::new_with_index(link.index).build();
        message.attributes.push(LinkAttribute::GsoMaxSize(wanted));
        let set = self.handle.link().set(message).execute().await;
        set.map_err(|error| NetlinkError::new(format!("give {name} super-packets of at most {wanted} bytes"), error))
    }

    /// Goes on doing so as long as the daemon lives.
    pub async fn keep_super_packets_fit(self, name: String) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // A device that is gone, or a kernel that refuses, costs speed and nothing else.
            if let Ok(Some(link)) = self.link(&name).await {
                let _ = self.fit_super_packets(&link, &name).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{HEADER_BYTES, RESERVE_BYTES, SEND_BYTES, WHOLE_BYTES, any_forwards, bytes};
    use crate::netlink::mtu;

    /// How many segments TCP puts into a super-packet, with so many bytes of headers in each.
    fn segments(mtu: u16, headers: u32) -> u32 {
        (bytes(mtu, false) - RESERVE_BYTES) / (u32::from(mtu) - headers)
    }

    #[test]
    fn what_this_machine_sends_fills_one_send() {
        assert_eq!(segments(mtu::inner(1500, false), HEADER_BYTES), 44);
        for path in 1280..9100 {
            for v6 in [false, true] {
                let mtu = mtu::inner(path, v6);
                // IPv4 and IPv6, with timestamps and without.
                for headers in [40, 52, 60, 72] {
                    assert!(segments(mtu, headers) * mtu::frame(mtu) <= SEND_BYTES, "{mtu}, {headers}");
                }
                assert!((segments(mtu, HEADER_BYTES) + 1) * mtu::frame(mtu) > SEND_BYTES, "{mtu}");
            }
        }
    }

    #[test]
    fn a_machine_that_forwards_takes_them_whole() {
        assert_eq!(bytes(1438, true), WHOLE_BYTES);
        assert!(bytes(1438, false) < WHOLE_BYTES);
        assert_eq!(bytes(u16::MAX, false), WHOLE_BYTES);
    }

    #[test]
    fn one_device_that_forwards_is_enough() {
        let root = std::env::temp_dir().join(format!("penstock-forwarding-{}", std::process::id()));
        for (device, value) in [("eth0", "0\n"), ("eth1", "0\n")] {
            fs::create_dir_all(root.join(device)).expect("a directory");
            fs::write(root.join(device).join("forwarding"), value).expect("a file");
        }
        assert!(!any_forwards(&root));
        fs::write(root.join("eth1/forwarding"), "1\n").expect("a file");
        assert!(any_forwards(&root));
        fs::remove_dir_all(&root).expect("nobody else is there");
        assert!(!any_forwards(&root), "no such family");
    }
}
