//! `[peer.NAME]`: another site.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use penstock_ike::FIRST_PORT;

use super::cross::Meeting;
use super::local::{parse_local_address, parse_name};
use super::section::{Key, Section, list};
use super::value::{Endpoint, Fault, Identity, IkeSuite, SourcePort, Suite, parse_duration, parse_prefix};
use super::{DpdAction, Finding, IkePort, Interface, PORT, Peer, Site, Start};
use crate::psk;

pub(super) const KEYS: &[Key] = &[
    ("endpoint", "endpoint = \"203.0.113.7\""),
    ("start", "start = \"always\""),
    ("local_address", "local_address = \"198.51.100.7\""),
    ("local_subnets", "local_subnets = [\"10.43.43.0/24\"]"),
    ("subnets", "subnets = [\"10.43.100.0/24\"]"),
    ("psk_file", "psk_file = \"london.psk\""),
    ("psk_strength", "psk_strength = \"accept-weak\""),
    ("local_id", "local_id = \"frankfurt\""),
    ("remote_id", "remote_id = \"london\""),
    ("suites", "suites = [\"aes256-gcm\", \"aes128-gcm\"]"),
    ("ike_suites", "ike_suites = [\"aes256-gcm\", \"aes128-gcm\"]"),
    ("ml_kem", "ml_kem = false"),
    ("source_port", "source_port = 4500"),
    ("per_core", "per_core = false"),
    ("window", "window = 16384"),
    ("rekey_child", "rekey_child = \"1h\""),
    ("rekey_ike", "rekey_ike = \"4h\""),
    ("pfs", "pfs = true"),
    ("nat_keepalive", "nat_keepalive = \"20s\""),
    ("dpd", "dpd = \"30s\""),
    ("dpd_action", "dpd_action = \"restart\""),
];

/// The replay window unless the peer says otherwise: 18 ms of reordering at 10 Gbit/s of 1,400-byte packets.
const WINDOW: u32 = 16_384;

/// When the keys of packets are renewed unless the peer says otherwise. It is also the latest: the engine stops using a key
/// after 70 minutes.
const REKEY_CHILD: Duration = Duration::from_secs(3600);
/// When the keys of the IKE SA are renewed unless the peer says otherwise, and at the latest.
const REKEY_IKE: Duration = Duration::from_secs(4 * 3600);
/// Within which time a vanished peer is found unless the peer says otherwise, and at the latest.
const DPD: Duration = Duration::from_secs(30);
const DPD_MAX: Duration = Duration::from_secs(3600);
/// Between two keepalives to a NAT in front of us, unless the peer says otherwise, and at the latest: NATs forget UDP after 30 s at
/// the earliest (RFC 4787 asks for 2 minutes).
const NAT_KEEPALIVE: Duration = Duration::from_millis(penstock_ike::KEEPALIVE_MS);
const NAT_KEEPALIVE_MAX: Duration = Duration::from_secs(600);
const REKEY_IKE_MAX: Duration = Duration::from_secs(24 * 3600);

/// As many subnets as one child takes, less the interface's own address of each family, which may join them.
const LOCAL_SUBNETS_MAX: usize = penstock_ike::SUBNETS_MAX - 2;

/// What a peer's section is read against; either is `None` if it is itself wrong.
pub(super) struct Here<'a> {
    pub(super) site: Option<&'a Site>,
    pub(super) interface: Option<&'a Interface>,
}

/// Reads `[peer.NAME]`; no peer if anything in it is wrong.
pub(super) fn peer(
    section: &Section<'_>,
    here: &Here<'_>,
    findings: &mut Vec<Finding>,
    warnings: &mut Vec<Finding>,
) -> (Meeting, Option<Peer>) {
    let before = findings.len();
    section.refuse_unknown(findings);
    if let Err((problem, remedy)) = parse_name(section.name, "peer") {
        findings.push(section.place.finding(problem, remedy));
    }
    let start = section.parsed("start", parse_start, findings).unwrap_or_default();
    for key in ["endpoint", "subnets", "psk_file"] {
        // Who only waits need not know where the peer is.
        if key != "endpoint" || start != Start::Wait {
            section.require(key, findings);
        }
    }
    let endpoint = section.parsed("endpoint", parse_endpoint, findings);
    if let Some(port) = endpoint.as_ref().map(|endpoint| endpoint.port).filter(|port| *port == FIRST_PORT)
        && here.site.is_some_and(|site| site.ike_port == IkePort::None)
    {
        let problem = format!("nothing can be sent to port {port} without a port {port} of our own");
        findings.push(section.place_of("endpoint").finding(problem, "leave the port out, or let site.ike_port be 500"));
    }
    let local_address = local_address(section, endpoint.as_ref(), here.site, findings);
    let subnets = section.parsed_list("subnets", parse_subnet, findings).unwrap_or_default();
    let local_subnets = match section.has("local_subnets") {
        true => section.parsed_list("local_subnets", parse_subnet, findings).unwrap_or_default().into_iter().map(|(net, _)| net).collect(),
        false => here.interface.map(own_addresses).unwrap_or_default(),
    };
    few_enough(section, "subnets", subnets.len(), penstock_ike::SUBNETS_MAX, findings);
    few_enough(section, "local_subnets", local_subnets.len(), LOCAL_SUBNETS_MAX, findings);
    let psk = psk(section, findings, warnings);
    let (local_id, remote_id) = identities(section, here.site, findings, warnings);
    let suites = section.parsed_list("suites", parse_suite, findings);
    let ike_suites = section.parsed_list("ike_suites", parse_ike_suite, findings);
    let ml_kem = section.boolean("ml_kem", findings).unwrap_or(true);
    let source_port = source_port(section, findings);
    let per_core = section.boolean("per_core", findings).unwrap_or(true);
    let window = window(section, findings);
    let rekey_child = section.parsed("rekey_child", |text| parse_duration(text, REKEY_CHILD), findings).unwrap_or(REKEY_CHILD);
    let rekey_ike = section.parsed("rekey_ike", |text| parse_duration(text, REKEY_IKE_MAX), findings).unwrap_or(REKEY_IKE);
    let pfs = section.boolean("pfs", findings).unwrap_or(false);
    let nat_keepalive = section.parsed("nat_keepalive", |text| parse_duration(text, NAT_KEEPALIVE_MAX), findings).unwrap_or(NAT_KEEPALIVE);
    let dpd = section.parsed("dpd", |text| parse_duration(text, DPD_MAX), findings).unwrap_or(DPD);
    let dpd_action = dpd_action(section, start, findings);
    let meeting = Meeting {
        name: section.name.to_owned(),
        endpoint: endpoint.as_ref().and_then(Endpoint::address),
        subnets: subnets.clone(),
        local_subnets: local_subnets.clone(),
        ids: local_id.clone().zip(remote_id.clone()),
        id_place: section.place_of("remote_id"),
    };
    let clean = findings.len() == before;
    // A value that is missing here without a finding hangs on `[site]` or `[interface]`, which had one.
    let whole = psk.zip(local_id.zip(remote_id)).filter(|_| clean);
    let peer = whole.map(|((psk, psk_weak), (local_id, remote_id))| Peer {
        name: section.name.to_owned(),
        endpoint,
        start,
        local_address,
        local_subnets,
        subnets: subnets.into_iter().map(|(net, _)| net).collect(),
        psk,
        psk_weak,
        local_id,
        remote_id,
        suites: suites.map_or_else(|| Suite::ALL.to_vec(), |suites| suites.into_iter().map(|(suite, _)| suite).collect()),
        ike_suites: ike_suites.map_or_else(|| IkeSuite::DEFAULT.to_vec(), |suites| suites.into_iter().map(|(suite, _)| suite).collect()),
        ml_kem,
        source_port,
        per_core,
        window,
        rekey_child,
        rekey_ike,
        pfs,
        nat_keepalive,
        dpd,
        dpd_action,
        place: section.place.clone(),
        endpoint_place: section.place_of("endpoint"),
        local_address_place: section.place_of("local_address"),
    });
    (meeting, peer)
}

/// More subnets than a child can have would be left out of the offer without a word.
fn few_enough(section: &Section<'_>, key: &str, count: usize, most: usize, findings: &mut Vec<Finding>) {
    if count > most {
        let problem = format!("{count} prefixes, but an SA takes {most} on this side");
        findings.push(section.place_of(key).finding(problem, "join neighbours into larger prefixes, or divide them between two peers"));
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, Fault> {
    let endpoint = Endpoint::parse(text)?;
    if endpoint.address().is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err((
            format!("{} is no address of one machine", endpoint.host),
            "write the address or name under which the peer is reached".into(),
        ));
    }
    Ok(endpoint)
}

fn local_address(section: &Section<'_>, endpoint: Option<&Endpoint>, site: Option<&Site>, findings: &mut Vec<Finding>) -> Option<IpAddr> {
    let ip = section.parsed("local_address", parse_local_address, findings)?;
    let place = section.place_of("local_address");
    if let Some(remote) = endpoint.and_then(Endpoint::address).filter(|remote| remote.is_ipv4() != ip.is_ipv4()) {
        findings.push(
            place.finding(format!("{ip} cannot reach the endpoint {remote}: one is IPv4, the other IPv6"), "use addresses of one family"),
        );
    }
    if ip.is_unspecified() {
        findings.push(place.finding(format!("{ip} is no address"), "write the address to send from, or leave the key out"));
    }
    let listened = site.is_none_or(|site| {
        site.listen.is_empty()
            || site.listen.iter().any(|listen| *listen == ip || (listen.is_unspecified() && listen.is_ipv4() == ip.is_ipv4()))
    });
    if !listened {
        findings.push(place.finding(
            format!("{ip} is not among the addresses in site.listen, so answers would not arrive"),
            format!("add \"{ip}\" to site.listen"),
        ));
    }
    Some(ip)
}

fn parse_subnet(text: &str) -> Result<IpNet, Fault> {
    let net = parse_prefix(text)?;
    if net.addr().is_multicast() || net.addr().is_loopback() {
        return Err((format!("{net} never leaves a machine or a link, and no tunnel carries it"), "write the prefix of a network".into()));
    }
    Ok(net)
}

/// The interface's own addresses as host prefixes: our side of the tunnel unless the peer's section names another.
fn own_addresses(interface: &Interface) -> Vec<IpNet> {
    interface.address.iter().map(|net| IpNet::from(net.addr())).collect()
}

fn psk(section: &Section<'_>, findings: &mut Vec<Finding>, warnings: &mut Vec<Finding>) -> Option<(psk::Psk, Option<String>)> {
    let accept = section.parsed("psk_strength", parse_strength, findings);
    let (path, place) = section.string("psk_file", findings)?;
    let path = section.resolve(path);
    let judged = match psk::read(&path) {
        Ok(judged) => judged,
        Err(fault) => {
            findings.push(place.finding(fault.problem, fault.remedy));
            return None;
        }
    };
    let name = path.display();
    match (judged.weak, accept.is_some()) {
        (None, false) => Some((judged.psk, None)),
        (None, true) => {
            let place = section.place_of("psk_strength");
            warnings
                .push(place.finding("the key is strong and needs no exception", "take psk_strength out, so that a weak key is refused"));
            Some((judged.psk, None))
        }
        (Some(why), true) => {
            warnings.push(
                place.finding(
                    format!("{name} is a weak key: {why}"),
                    format!("replace it at both sites: penstock key psk --out {name}.new"),
                ),
            );
            Some((judged.psk, Some(why)))
        }
        (Some(why), false) => {
            let remedy = format!(
                "make one with: penstock key psk --out {name}.new, or set psk_strength = \"accept-weak\" if the other side dictates it"
            );
            findings.push(place.finding(format!("{name} is a weak key: {why}"), remedy));
            None
        }
    }
}

fn parse_strength(text: &str) -> Result<(), Fault> {
    match text {
        "accept-weak" => Ok(()),
        _ => Err((format!("\"{text}\" is no strength"), "write psk_strength = \"accept-weak\", or leave the key out".into())),
    }
}

fn identities(
    section: &Section<'_>,
    site: Option<&Site>,
    findings: &mut Vec<Finding>,
    warnings: &mut Vec<Finding>,
) -> (Option<Identity>, Option<Identity>) {
    let local = match section.has("local_id") {
        true => section.parsed("local_id", Identity::parse, findings),
        false => site.map(|site| Identity::Fqdn(site.name.clone())),
    };
    let remote = match section.has("remote_id") {
        true => section.parsed("remote_id", Identity::parse, findings),
        false => Some(Identity::Fqdn(section.name.to_owned())),
    };
    if local.is_some() && local == remote {
        let id = remote.as_ref().map(ToString::to_string).unwrap_or_default();
        warnings.push(
            section
                .place_of("remote_id")
                .finding(format!("\"{id}\" is our own identity towards this peer, too"), "give the two sites different names"),
        );
    }
    (local, remote)
}

fn parse_suite(text: &str) -> Result<Suite, Fault> {
    Suite::ALL
        .into_iter()
        .find(|suite| suite.name() == text)
        .ok_or_else(|| (format!("\"{text}\" is no suite"), format!("there are {}", list(Suite::ALL.iter().map(|suite| suite.name())))))
}

fn parse_ike_suite(text: &str) -> Result<IkeSuite, Fault> {
    let names = || list(IkeSuite::ALL.iter().map(|suite| suite.name()));
    let known = IkeSuite::ALL.into_iter().find(|suite| suite.name() == text);
    known.ok_or_else(|| (format!("\"{text}\" is no suite for IKE"), format!("there are {}", names())))
}

fn parse_start(text: &str) -> Result<Start, Fault> {
    match text {
        "always" => Ok(Start::Always),
        "demand" => Ok(Start::Demand),
        "wait" => Ok(Start::Wait),
        _ => Err((format!("\"{text}\" is no way to start"), "there are always, demand and wait".into())),
    }
}

/// What happens once the peer has vanished; unless it is said, what its `start` calls for.
fn dpd_action(section: &Section<'_>, start: Start, findings: &mut Vec<Finding>) -> DpdAction {
    let (fitting, word) = match start {
        Start::Always => return section.parsed("dpd_action", parse_dpd_action, findings).unwrap_or_default(),
        Start::Demand => (DpdAction::Hold, "demand"),
        Start::Wait => (DpdAction::Clear, "wait"),
    };
    let said = section.parsed("dpd_action", parse_dpd_action, findings);
    if said == Some(DpdAction::Restart) || (said, start) == (Some(DpdAction::Hold), Start::Wait) {
        let problem = format!("it would be tried again, which start = \"{word}\" rules out");
        findings.push(section.place_of("dpd_action").finding(problem, "leave it out, or write \"clear\""));
    }
    said.unwrap_or(fitting)
}

fn parse_dpd_action(text: &str) -> Result<DpdAction, Fault> {
    match text {
        "restart" => Ok(DpdAction::Restart),
        "hold" => Ok(DpdAction::Hold),
        "clear" => Ok(DpdAction::Clear),
        _ => Err((format!("\"{text}\" is no action"), "there are restart, hold and clear".into())),
    }
}

fn source_port(section: &Section<'_>, findings: &mut Vec<Finding>) -> SourcePort {
    let remedy = format!("write source_port = {PORT} to send from the IKE port, or \"own\" (the default) for one port a core");
    if section.is_integer("source_port") {
        if let Some(port) = section.integer("source_port", i64::MIN..=i64::MAX, findings).filter(|port| *port != i64::from(PORT)) {
            findings.push(section.place_of("source_port").finding(format!("{port} cannot be chosen"), remedy));
        }
        return SourcePort::Shared;
    }
    let parse =
        |text: &str| if text == "own" { Ok(SourcePort::Own) } else { Err((format!("\"{text}\" cannot be chosen"), remedy.clone())) };
    section.parsed("source_port", parse, findings).unwrap_or(SourcePort::Own)
}

fn window(section: &Section<'_>, findings: &mut Vec<Finding>) -> u32 {
    let Some(window) = section.integer("window", i64::MIN..=i64::MAX, findings) else { return WINDOW };
    match u32::try_from(window) {
        Ok(window @ 1024..=65_536) => window,
        Ok(0) => {
            findings.push(section.place_of("window").finding("0 would let recorded packets in again", "write a number from 1024 to 65536"));
            WINDOW
        }
        _ => {
            findings.push(section.place_of("window").finding(format!("{window} is out of range"), "write a number from 1024 to 65536"));
            WINDOW
        }
    }
}
