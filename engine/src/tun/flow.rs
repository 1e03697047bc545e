//! Which packets must keep their order.

use std::net::IpAddr;

use crate::packet::ip::{Ip, TCP, UDP};

/// Protocol number of ICMPv6.
const ICMP_V6: u8 = 58;

/// What tells a flow: addresses, protocol and, where they can be seen, ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    source: IpAddr,
    destination: IpAddr,
    ports: Option<(u8, [u8; 4])>,
}

impl Flow {
    /// The flow of a packet; `None` if it is none.
    #[must_use]
    pub fn of(packet: &[u8]) -> Option<Self> {
        let ip = Ip::parse(packet)?;
        // Only the first fragment has ports; behind IPv6 extension headers they stand elsewhere.
        let ports = match ip.protocol {
            _ if ip.fragment => None,
            TCP | UDP => packet.get(ip.header..).and_then(|transport| transport.first_chunk().copied()),
            ICMP_V6 => Some([0; 4]),
            _ if ip.v6 => None,
            _ => Some([0; 4]),
        };
        let ports = ports.map(|ports| (ip.protocol, ports));
        Some(Self { source: ip.source, destination: ip.destination, ports })
    }

    /// Whether two packets may be of one flow. Without ports nothing but the addresses can tell.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let apart = self.ports.zip(other.ports).is_some_and(|(ours, theirs)| ours != theirs);
        !apart && (self.source, self.destination) == (other.source, other.destination)
    }
}

#[cfg(test)]
mod tests {
    use super::Flow;

    fn packet(protocol: u8, last: u8, port: u8, fragment: u8) -> [u8; 28] {
        let mut packet = [0; 28];
        (packet[0], packet[3], packet[7], packet[9], packet[15], packet[21]) = (0x45, 28, fragment, protocol, last, port);
        packet
    }

    fn flow(protocol: u8, last: u8, port: u8, fragment: u8) -> Flow {
        Flow::of(&packet(protocol, last, port, fragment)).expect("a packet")
    }

    #[test]
    fn ports_and_addresses_tell_flows_apart() {
        let one = flow(17, 1, 1, 0);
        assert!(one.may_be(&flow(17, 1, 1, 0)));
        assert!(!one.may_be(&flow(17, 1, 2, 0)));
        assert!(!one.may_be(&flow(6, 1, 1, 0)));
        assert!(!one.may_be(&flow(17, 2, 1, 0)));
    }

    #[test]
    fn what_shows_no_ports_may_be_any_flow_between_its_addresses() {
        let (hidden, shown) = (flow(17, 1, 9, 1), flow(17, 1, 1, 0));
        assert!(hidden.may_be(&shown) && shown.may_be(&hidden) && hidden.may_be(&flow(1, 1, 0, 0)));
        assert!(!hidden.may_be(&flow(17, 2, 1, 0)));
        // ICMP has none to hide.
        assert!(!shown.may_be(&flow(1, 1, 0, 0)));
        let mut extended = [0; 60];
        extended[0] = 0x60;
        extended[5] = 20;
        let mut plain = extended;
        plain[6] = 17;
        let [extended, plain] = [extended, plain].map(|packet| Flow::of(&packet).expect("a packet"));
        assert!(extended.may_be(&plain));
        assert_eq!(Flow::of(&[0; 40]), None);
    }
}
