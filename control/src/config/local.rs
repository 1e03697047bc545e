//! `[site]` and `[interface.NAME]`: what this machine is.

use std::net::IpAddr;

use ipnet::IpNet;

use super::section::{Key, Section};
use super::value::{Fault, parse_cidr};
use super::{Finding, IkePort, Interface, MARK, PORT, Site, TABLE};

pub(super) const SITE_KEYS: &[Key] = &[
    ("name", "name = \"frankfurt\""),
    ("port", "port = 4500"),
    ("ike_port", "ike_port = 500"),
    ("listen", "listen = [\"198.51.100.7\"]"),
    ("cores", "cores = 2"),
    ("cpus", "cpus = [2, 3]"),
    ("poll_us", "poll_us = 50"),
    ("persist", "persist = true"),
    ("mark", "mark = 0x7065"),
    ("table", "table = 28773"),
];

pub(super) const INTERFACE_KEYS: &[Key] = &[("address", "address = [\"192.168.192.1/30\"]"), ("mtu", "mtu = 1438")];

/// The longest polling before sleep, in microseconds: beyond it a worker would rather never sleep.
const POLL_US_MAX: i64 = 100_000;

/// The largest inner MTU: jumbo frames with room for what stands around them.
pub(super) const MTU_MAX: i64 = 9216;

/// The smallest inner MTU: what IPv6 needs (RFC 8200 section 5).
pub(super) const MTU_MIN: i64 = 1280;

/// Peers that begin on port 500 go on to 4500: where we listen elsewhere, it leads nowhere.
fn ike_port(section: &Section<'_>, port: Option<u16>, findings: &mut Vec<Finding>) -> IkePort {
    let reaches = port.is_none_or(|port| port == PORT);
    match section.integer("ike_port", i64::MIN..=i64::MAX, findings) {
        None if reaches => IkePort::IfFree,
        None | Some(0) => IkePort::None,
        Some(500) if reaches => IkePort::Required,
        Some(500) => {
            let problem = format!("peers that begin on port 500 go on to {PORT}, and site.port is another");
            findings.push(section.place_of("ike_port").finding(problem, "leave ike_port out, or listen on 4500"));
            IkePort::None
        }
        Some(other) => {
            findings.push(section.place_of("ike_port").finding(format!("{other} cannot be chosen"), "write 500, or 0 for none"));
            IkePort::None
        }
    }
}

/// Reads `[site]`; `None` if anything in it is wrong.
pub(super) fn site(section: &Section<'_>, findings: &mut Vec<Finding>) -> Option<Site> {
    let before = findings.len();
    section.refuse_unknown(findings);
    section.require("name", findings);
    let name = section.parsed("name", |text| parse_name(text, "site"), findings);
    let port = section.integer("port", 1..=65_535, findings).and_then(|port| u16::try_from(port).ok());
    let ike_port = ike_port(section, port, findings);
    let listen = section.parsed_list("listen", parse_local_address, findings);
    for is_v4 in [true, false] {
        if let Some((second, place)) = listen.iter().flatten().filter(|(address, _)| address.is_ipv4() == is_v4).nth(1) {
            let problem = format!("{second} is a second IPv{} address", if is_v4 { 4 } else { 6 });
            findings
                .push(place.finding(problem, "leave listen out to receive on all addresses, and choose each peer's by its local_address"));
        }
    }
    let cores = section.integer("cores", 1..=cores_max(), findings).and_then(|cores| u16::try_from(cores).ok());
    let cpus = section.integers("cpus", 0..=4095, findings);
    if let Some(cpus) = cpus.as_ref().filter(|cpus| cpus.len() > penstock_uapi::CORES_MAX) {
        findings.push(
            section.place_of("cpus").finding(format!("names {} CPUs", cpus.len()), format!("name {} at most", penstock_uapi::CORES_MAX)),
        );
    }
    if section.has("cores") && section.has("cpus") {
        findings.push(section.place_of("cores").finding("cpus already says how many workers run", "keep cores or cpus"));
    }
    let poll_us = section.integer("poll_us", 0..=POLL_US_MAX, findings).and_then(|us| u32::try_from(us).ok());
    let persist = section.boolean("persist", findings);
    let mark = section.integer("mark", 1..=i64::from(u32::MAX), findings).and_then(|mark| u32::try_from(mark).ok());
    let table = section.integer("table", 1..=i64::from(u32::MAX), findings).and_then(|table| u32::try_from(table).ok());
    if table.is_some_and(|table| (253..=255).contains(&table)) {
        let remedy = "name a table that nothing else uses: marked packets are kept off all of it";
        findings.push(section.place_of("table").finding("253, 254 and 255 are the system's own tables", remedy));
    }
    (findings.len() == before).then(|| Site {
        name: name.unwrap_or_default(),
        port: port.unwrap_or(PORT),
        ike_port,
        listen: listen.unwrap_or_default().into_iter().map(|(address, _)| address).collect(),
        cores,
        cpus: cpus.map(|cpus| cpus.into_iter().filter_map(|(cpu, _)| u16::try_from(cpu).ok()).collect()),
        poll_us: poll_us.unwrap_or(0),
        persist: persist.unwrap_or(false),
        mark: mark.unwrap_or(MARK),
        table: table.unwrap_or(TABLE),
        port_place: section.place_of("port"),
        ike_port_place: section.place_of("ike_port"),
        listen_place: section.place_of("listen"),
        cores_place: section.place_of(if section.has("cpus") { "cpus" } else { "cores" }),
    })
}

fn cores_max() -> i64 {
    i64::try_from(penstock_uapi::CORES_MAX).unwrap_or(i64::MAX)
}

/// Reads `[interface.NAME]`; `None` if anything in it is wrong.
pub(super) fn interface(section: &Section<'_>, findings: &mut Vec<Finding>) -> Option<Interface> {
    let before = findings.len();
    section.refuse_unknown(findings);
    if let Err((problem, remedy)) = check_interface_name(section.name) {
        findings.push(section.place.finding(problem, remedy));
    }
    section.require("address", findings);
    let address = section.parsed_list("address", parse_interface_address, findings);
    let mtu = section.integer("mtu", MTU_MIN..=MTU_MAX, findings).and_then(|mtu| u16::try_from(mtu).ok());
    (findings.len() == before).then(|| Interface {
        name: section.name.to_owned(),
        address: address.unwrap_or_default().into_iter().map(|(net, _)| net).collect(),
        mtu,
        place: section.place.clone(),
    })
}

/// The names of sites and peers: they stand in logs, in the command line, and as default identities on the wire.
pub(super) fn parse_name(text: &str, what: &str) -> Result<String, Fault> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && !text.starts_with(['-', '.']);
    if fits {
        return Ok(text.to_owned());
    }
    Err((
        format!("\"{text}\" is no {what} name"),
        "use 1 to 63 letters, digits, '.', '_' and '-', and begin with a letter, a digit or '_'".into(),
    ))
}

/// What the kernel takes as a device name (net/core/dev.c, `dev_valid_name`), less what would confuse people; `%` is a
/// pattern to it.
fn check_interface_name(name: &str) -> Result<(), Fault> {
    let remedy = || "use 1 to 15 letters, digits, '.', '_' and '-', for example [interface.pen0]".to_owned();
    if name.len() > 15 {
        return Err((format!("\"{name}\" has {} bytes, and the kernel takes 15", name.len()), remedy()));
    }
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && name != "." && name != "..";
    if !fits || name.starts_with('-') {
        return Err((format!("\"{name}\" is no interface name"), remedy()));
    }
    if ["lo", "all", "default"].contains(&name) {
        return Err((format!("\"{name}\" means something else to the system"), remedy()));
    }
    Ok(())
}

/// An address of this machine's own.
pub(super) fn parse_local_address(text: &str) -> Result<IpAddr, Fault> {
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_multicast() => Err((format!("{ip} is a multicast address"), "write an address of this machine".into())),
        Ok(ip) => Ok(ip),
        Err(_) => Err((format!("\"{text}\" is no address"), "write an address of this machine, for example \"198.51.100.7\"".into())),
    }
}

fn parse_interface_address(text: &str) -> Result<IpNet, Fault> {
    let net = parse_cidr(text, false)?;
    let ip = net.addr();
    if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() {
        return Err((
            format!("{ip} cannot be an interface's address"),
            "write a private address with its prefix length, for example \"192.168.192.1/30\"".into(),
        ));
    }
    if let IpNet::V4(v4) = net
        && v4.prefix_len() < 31
        && (v4.addr() == v4.network() || v4.addr() == v4.broadcast())
    {
        let hosts = v4.hosts().next().map_or_else(String::new, |first| format!(", for example \"{first}/{}\"", v4.prefix_len()));
        return Err((
            format!("\"{text}\" is the network's own or broadcast address"),
            format!("write the address of this machine in it{hosts}"),
        ));
    }
    Ok(net)
}
