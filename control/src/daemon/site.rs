//! What follows from the configuration: sockets, routes, policies, and the peers as the IKE state machine wants them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use penstock_ike::{PeerConfig, PeerId, Selectors};
use penstock_uapi::Prefix;
use penstock_uapi::request::Pair;

use crate::config::{Config, Identity, IkeSuite, Peer, Suite};
use crate::netlink::{self, Route, mtu};
use crate::socket;

/// The path MTU where nothing better is known: Ethernet.
const PATH_MTU: u32 = 1500;

/// The smallest MTU worth having (RFC 791: every host takes 576 bytes).
const MTU_MIN: u16 = 576;

/// The CPUs of the workers, one each.
pub(super) fn cpus(config: &Config) -> Vec<u16> {
    if let Some(cpus) = &config.site.cpus {
        return cpus.clone();
    }
    let allowed = allowed_cpus();
    let count = config.site.cores.map_or(allowed.len(), usize::from).clamp(1, penstock_uapi::CORES_MAX);
    allowed.iter().copied().cycle().take(count).collect()
}

/// The CPUs that this process may use, from `/proc/self/status`.
fn allowed_cpus() -> Vec<u16> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    let cpus = parse_list(list.trim());
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Reads the kernel's notation of a set, such as `0-3,8`.
fn parse_list(list: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Which addresses the sockets are bound to; the configuration names one of each family at most.
pub(super) fn sockets(config: &Config, cores: usize, gro: bool) -> socket::Plan {
    let site = &config.site;
    let listen = &site.listen;
    let v4 = listen.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let v6 = listen.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    let all = listen.is_empty();
    socket::Plan {
        port: site.port,
        v4: v4.or(all.then_some(Ipv4Addr::UNSPECIFIED)),
        v6: v6.or(all.then_some(Ipv6Addr::UNSPECIFIED)),
        mark: site.mark,
        cores: u16::try_from(cores).unwrap_or(u16::MAX),
        gro,
    }
}

/// The inner MTU: as configured, or what the narrowest known path leaves. `paths` are the link MTUs towards the peers
/// with a literal address; a peer with a name may turn out to be reached over IPv6.
pub(super) fn mtu(config: &Config, paths: &[(IpAddr, Option<u32>)]) -> u16 {
    if let Some(mtu) = config.interface.mtu {
        return mtu;
    }
    let named = config.peers.len() > paths.len();
    let known = paths.iter().map(|(ip, path)| mtu::inner(path.unwrap_or(PATH_MTU), ip.is_ipv6()));
    let unknown = named.then(|| mtu::inner(PATH_MTU, true));
    known.chain(unknown).min().unwrap_or_else(|| mtu::inner(PATH_MTU, false)).max(MTU_MIN)
}

/// The peers' endpoints that are addresses and need no name server.
pub(super) fn literal_endpoints(config: &Config) -> Vec<IpAddr> {
    config.peers.iter().filter_map(|peer| peer.endpoint.as_ref()?.address()).collect()
}

/// The kernel's tables as they are to be. `here` are the addresses of this machine.
pub(super) fn netlink(config: &Config, mtu: u16, here: &[IpNet]) -> netlink::Plan {
    let mut routes: Vec<Route> = Vec::new();
    for peer in &config.peers {
        for subnet in &peer.subnets {
            routes.push(Route { subnet: *subnet, source: source(config, peer, here, subnet.addr().is_ipv4()) });
        }
    }
    routes.sort();
    netlink::Plan {
        device: config.interface.name.clone(),
        addresses: config.interface.address.clone(),
        mtu,
        routes,
        mark: config.site.mark,
        table: config.site.table,
    }
}

/// The source address of what this machine itself sends to a peer: one of the interface or of the machine that lies
/// in the local subnets, else the interface's own.
pub(super) fn source(config: &Config, peer: &Peer, here: &[IpNet], v4: bool) -> Option<IpAddr> {
    let inside = |ip: &IpAddr| ip.is_ipv4() == v4 && peer.local_subnets.iter().any(|subnet| subnet.contains(ip));
    let interface = || config.interface.address.iter().map(IpNet::addr);
    let machine = here.iter().map(IpNet::addr);
    interface().chain(machine).find(inside).or_else(|| interface().find(|ip| ip.is_ipv4() == v4))
}

/// Our side of the tunnel as it is offered: the configured subnets, and the interface's own address where it is the
/// only source that this machine has towards the peer.
pub(super) fn offered(config: &Config, peer: &Peer, here: &[IpNet]) -> Vec<IpNet> {
    let mut offered = peer.local_subnets.clone();
    for v4 in [true, false] {
        let of_family = peer.subnets.iter().any(|subnet| subnet.addr().is_ipv4() == v4);
        let Some(source) = source(config, peer, here, v4).filter(|_| of_family) else { continue };
        if !offered.iter().any(|subnet| subnet.contains(&source)) {
            offered.push(IpNet::from(source));
        }
    }
    offered
}

/// Every local subnet with every remote one of its family, in order of preference.
pub(super) fn pairs(selectors: &Selectors) -> Vec<Pair> {
    let prefix = |net: &IpNet| Prefix::new(net.network(), net.prefix_len());
    let mut pairs = Vec::new();
    for local in &selectors.local {
        for remote in selectors.remote.iter().filter(|remote| remote.addr().is_ipv4() == local.addr().is_ipv4()) {
            pairs.push(Pair { local: prefix(local), remote: prefix(remote) });
        }
    }
    pairs
}

/// A peer for the state machine.
pub(super) fn ike_peer(peer: &Peer, id: PeerId, offered: Vec<IpNet>, endpoint: Option<SocketAddr>) -> PeerConfig {
    PeerConfig {
        id,
        name: peer.name.clone(),
        local_id: identity(&peer.local_id),
        remote_id: identity(&peer.remote_id),
        psk: penstock_ike::Psk::new(peer.psk.as_bytes().to_vec()),
        local_subnets: offered,
        remote_subnets: peer.subnets.clone(),
        ike_suites: peer.ike_suites.iter().map(ike_suite).collect(),
        ml_kem: peer.ml_kem,
        esp_suites: peer.suites.iter().map(suite).collect(),
        endpoint,
        local: peer.local_address,
        per_core: peer.per_core,
        start: peer.start,
        upkeep: penstock_ike::Upkeep { rekey_child_ms: millis(peer.rekey_child), rekey_ike_ms: millis(peer.rekey_ike), pfs: peer.pfs },
        keepalive_ms: millis(peer.nat_keepalive),
        dpd: penstock_ike::Dpd { within_ms: millis(peer.dpd), action: peer.dpd_action },
    }
}

fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn identity(identity: &Identity) -> penstock_ike::Identity {
    match identity {
        Identity::Ipv4(ip) => penstock_ike::Identity::Address((*ip).into()),
        Identity::Ipv6(ip) => penstock_ike::Identity::Address((*ip).into()),
        Identity::Fqdn(name) => penstock_ike::Identity::Fqdn(name.clone()),
        Identity::Email(name) => penstock_ike::Identity::Email(name.clone()),
        Identity::KeyId(octets) => penstock_ike::Identity::KeyId(octets.clone()),
    }
}

fn ike_suite(suite: &IkeSuite) -> penstock_ike::IkeSuite {
    match suite {
        IkeSuite::Aes256Gcm => penstock_ike::IkeSuite::Aes256Gcm16,
        IkeSuite::Aes128Gcm => penstock_ike::IkeSuite::Aes128Gcm16,
        IkeSuite::Aes256Cbc => penstock_ike::IkeSuite::Aes256Cbc,
        IkeSuite::Aes128Cbc => penstock_ike::IkeSuite::Aes128Cbc,
    }
}

fn suite(suite: &Suite) -> penstock_ike::Suite {
    match suite {
        Suite::Aes128Gcm => penstock_ike::Suite::Aes128Gcm16,
        Suite::Aes256Gcm => penstock_ike::Suite::Aes256Gcm16,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::os::unix::fs::OpenOptionsExt;

    use ipnet::IpNet;
    use penstock_ike::Selectors;

    use super::{allowed_cpus, mtu, netlink, offered, pairs, parse_list, sockets};
    use crate::config::Config;

    /// Reads a site with one peer, whose lines are given.
    fn config(test: &str, site: &str, peer: &str) -> Config {
        let folder = std::env::temp_dir().join(format!("penstock-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("a folder");
        let mut key = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join("k.psk")).expect("a file");
        let secret = "0x00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";
        std::io::Write::write_all(&mut key, secret.as_bytes()).expect("written");
        let path = folder.join("penstock.toml");
        let text = format!(
            "[site]\nname = \"a\"\n{site}\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n[peer.b]\npsk_file = \"k.psk\"\n{peer}\n"
        );
        std::fs::write(&path, text).expect("written");
        let config = Config::load(&path).expect("a configuration");
        std::fs::remove_dir_all(&folder).expect("removed");
        config
    }

    const PEER: &str = "endpoint = \"203.0.113.7\"\nlocal_subnets = [\"10.43.43.0/24\"]\nsubnets = [\"10.43.100.0/24\"]";

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    #[test]
    fn a_machines_own_packets_have_a_source_that_the_peer_accepts() {
        let config = config("source", "", PEER);
        let peer = &config.peers[0];
        // An address of the machine inside the local subnets is the source, and nothing is added to the offer.
        let here = [net("198.51.100.1/24"), net("10.43.43.1/24")];
        assert_eq!(netlink(&config, 1438, &here).routes[0].source, Some(IpAddr::from([10, 43, 43, 1])));
        assert_eq!(offered(&config, peer, &here), [net("10.43.43.0/24")]);
        // Without one the interface's own address is, and it joins the offer.
        assert_eq!(netlink(&config, 1438, &[]).routes[0].source, Some(IpAddr::from([192, 168, 192, 1])));
        assert_eq!(offered(&config, peer, &[]), [net("10.43.43.0/24"), net("192.168.192.1/32")]);
    }

    #[test]
    fn the_narrowest_path_sets_the_mtu() {
        let literal = config("mtu", "", PEER);
        let (v4, v6) = (IpAddr::from([203, 0, 113, 7]), IpAddr::from([0; 16]));
        assert_eq!(mtu(&literal, &[(v4, Some(1500))]), 1438);
        assert_eq!(mtu(&literal, &[(v4, None)]), 1438);
        assert_eq!(mtu(&literal, &[(v4, Some(9000))]), 8938);
        assert_eq!(mtu(&literal, &[(v4, Some(1500)), (v6, Some(1500))]), 1418);
        // A name may lead to an IPv6 address.
        let named = config("named", "", &PEER.replace("203.0.113.7", "b.example.net"));
        assert_eq!(mtu(&named, &[]), 1418);
    }

    #[test]
    fn one_address_of_a_family_is_listened_on() {
        let listen = |list: &str| sockets(&config(&format!("listen{}", list.len()), &format!("listen = [{list}]"), PEER), 2, true);
        let v4 = listen("\"127.0.0.1\"");
        assert_eq!((v4.v4.is_some(), v4.v6.is_some(), v4.cores), (true, false, 2));
        let both = listen("\"127.0.0.1\", \"::1\"");
        assert_eq!((both.v4.is_some(), both.v6.is_some()), (true, true));
    }

    #[test]
    fn the_kernels_list_of_cpus_is_read() {
        assert_eq!(parse_list("0-3,8"), [0, 1, 2, 3, 8]);
        assert_eq!(parse_list("5"), [5]);
        assert!(parse_list("").is_empty());
        assert!(!allowed_cpus().is_empty());
    }

    #[test]
    fn pairs_never_mix_families() {
        let selectors = Selectors {
            local: vec![net("10.1.0.0/24"), net("fd01::/64")],
            remote: vec![net("10.2.0.0/24"), net("fd02::/64"), net("10.3.0.0/24")],
        };
        let got: Vec<_> = pairs(&selectors).iter().map(|p| (p.local.parts(), p.remote.parts())).collect();
        assert_eq!(got.len(), 3);
        assert!(got.iter().all(|(l, r)| l.is_some_and(|l| r.is_some_and(|r| l.0.is_ipv4() == r.0.is_ipv4()))));
    }
}
