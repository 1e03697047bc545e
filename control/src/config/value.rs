//! Values with a syntax of their own: endpoints, identities, suites, prefixes. Each parser says what is wrong and
//! what to do, and the caller says where.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::PORT;

/// What is wrong with a value, and what to do about it.
pub(super) type Fault = (String, String);

/// Where a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address (without brackets) or a host name.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

impl Endpoint {
    /// The address, if the host is one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Reads `host`, `host:port`, an IPv6 address, or `[v6]:port`.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        if let Ok(v6) = text.parse::<Ipv6Addr>() {
            return Ok(Self { host: v6.to_string(), port: PORT });
        }
        if let Some(rest) = text.strip_prefix('[') {
            let bracket = || (format!("\"{text}\" is no endpoint"), "write an IPv6 address with a port as \"[2001:db8::1]:4500\"".into());
            let (host, port) = rest.split_once(']').ok_or_else(bracket)?;
            let v6 = host.parse::<Ipv6Addr>().map_err(|_| bracket())?;
            let port = match port.strip_prefix(':') {
                Some(port) => parse_port(port)?,
                None if port.is_empty() => PORT,
                None => return Err(bracket()),
            };
            return Ok(Self { host: v6.to_string(), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, parse_port(port)?),
            None => (text, PORT),
        };
        if !is_host(host) {
            return Err((
                format!("\"{host}\" is neither an address nor a host name"),
                "write \"203.0.113.7\", \"vpn.example.net\" or \"vpn.example.net:4500\"".into(),
            ));
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// An IKE identity (RFC 7296 section 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// ID_IPV4_ADDR.
    Ipv4(Ipv4Addr),
    /// ID_IPV6_ADDR.
    Ipv6(Ipv6Addr),
    /// ID_FQDN: any name; it need not resolve.
    Fqdn(String),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_KEY_ID: octets that mean something to the two sites only.
    KeyId(Vec<u8>),
}

impl Identity {
    /// Reads an address, `user@fqdn`, `keyid:...` (`keyid:0x...` for octets in hex), or else a name.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(match ip {
                IpAddr::V4(v4) => Self::Ipv4(v4),
                IpAddr::V6(v6) => Self::Ipv6(v6),
            });
        }
        if let Some(key) = text.strip_prefix("keyid:") {
            let octets = match key.strip_prefix("0x") {
                Some(hex) => crate::psk::decode_hex(hex),
                None => Some(key.as_bytes().to_vec()),
            };
            return match octets {
                Some(octets) if !octets.is_empty() && octets.len() <= 255 => Ok(Self::KeyId(octets)),
                _ => Err((
                    format!("\"{text}\" is no key id"),
                    "write \"keyid:\" and 1 to 255 characters, or \"keyid:0x\" and pairs of hex digits".into(),
                )),
            };
        }
        if text.is_empty() || text.len() > 255 || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err((
                format!("\"{text}\" is no identity"),
                "write a name, an address, \"user@name\" or \"keyid:...\" without spaces, at most 255 bytes".into(),
            ));
        }
        Ok(match text.contains('@') {
            true => Self::Email(text.into()),
            false => Self::Fqdn(text.into()),
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ipv4(ip) => ip.fmt(f),
            Self::Ipv6(ip) => ip.fmt(f),
            Self::Fqdn(name) | Self::Email(name) => f.write_str(name),
            Self::KeyId(octets) => match std::str::from_utf8(octets) {
                Ok(text) if !text.starts_with("0x") && !text.chars().any(char::is_control) => write!(f, "keyid:{text}"),
                _ => {
                    f.write_str("keyid:0x")?;
                    octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
                }
            },
        }
    }
}

/// An ESP suite that may be offered (RFC 4106, 16-byte ICV).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-GCM with a 128-bit key.
    Aes128Gcm,
    /// AES-GCM with a 256-bit key.
    Aes256Gcm,
}

impl Suite {
    /// Every suite, in the order in which they are offered by default.
    pub const ALL: [Self; 2] = [Self::Aes256Gcm, Self::Aes128Gcm];

    /// The name in the configuration and in `penstock show`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes128-gcm",
            Self::Aes256Gcm => "aes256-gcm",
        }
    }

    /// The number in [`penstock_uapi::request::suite`].
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Aes128Gcm => penstock_uapi::request::suite::AES_128_GCM_16,
            Self::Aes256Gcm => penstock_uapi::request::suite::AES_256_GCM_16,
        }
    }
}

/// A cipher for IKE's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IkeSuite {
    /// AES-GCM with a 256-bit key (RFC 5282).
    Aes256Gcm,
    /// AES-GCM with a 128-bit key.
    Aes128Gcm,
    /// AES-CBC with a 256-bit key, and HMAC-SHA2 (RFC 4868).
    Aes256Cbc,
    /// AES-CBC with a 128-bit key, and HMAC-SHA2.
    Aes128Cbc,
}

impl IkeSuite {
    /// Every suite.
    pub const ALL: [Self; 4] = [Self::Aes256Gcm, Self::Aes128Gcm, Self::Aes256Cbc, Self::Aes128Cbc];
    /// What is offered and taken by default, best first.
    pub const DEFAULT: [Self; 2] = [Self::Aes256Gcm, Self::Aes128Gcm];

    /// The name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes256-gcm",
            Self::Aes128Gcm => "aes128-gcm",
            Self::Aes256Cbc => "aes256-cbc",
            Self::Aes128Cbc => "aes128-cbc",
        }
    }
}

/// Which UDP source port ESP leaves from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourcePort {
    /// Each core's own port, which spreads the cores over the network's hashing.
    Own,
    /// The shared IKE and ESP port: for peers behind a NAT or a stateful firewall.
    Shared,
}

fn parse_port(text: &str) -> Result<u16, Fault> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => {
            Err((format!("\"{text}\" is no port"), "write a number from 1 to 65535, and an IPv6 address as \"[2001:db8::1]:4500\"".into()))
        }
    }
}

/// An IPv4 address or a host name (RFC 1123 section 2.1; underscores occur in practice). What looks like a mistyped
/// address is no name: all labels of digits.
fn is_host(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.parse::<Ipv4Addr>().is_ok() || (!numeric && name.len() <= 253 && name.split('.').all(label))
}

/// Reads a whole number of seconds, minutes or hours: `90s`, `45m`, `1h`; from one second to `longest`.
pub(crate) fn parse_duration(text: &str, longest: Duration) -> Result<Duration, Fault> {
    let unit = [("s", 1), ("m", 60), ("h", 3600)].into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let digits = unit.filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    let Some((number, seconds)) = digits else {
        return Err((format!("\"{text}\" is no time"), "write seconds, minutes or hours, for example \"90s\", \"45m\" or \"1h\"".into()));
    };
    let time = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).map(Duration::from_secs);
    time.filter(|time| !time.is_zero() && *time <= longest)
        .ok_or_else(|| (format!("{text} is out of range"), format!("write a time from 1s to {}s", longest.as_secs())))
}

/// Reads `address/length`; an address alone is a host prefix. Host bits must be zero.
pub(super) fn parse_prefix(text: &str) -> Result<IpNet, Fault> {
    let net = parse_cidr(text, true)?;
    if net.trunc() != net {
        return Err((
            format!("\"{text}\" has host bits set"),
            format!("write \"{}\" for the network, or \"{}\" for the one address", net.trunc(), IpNet::from(net.addr())),
        ));
    }
    Ok(net)
}

/// Reads `address/length` and keeps the host bits: an interface's address in its network.
pub(super) fn parse_cidr(text: &str, length_optional: bool) -> Result<IpNet, Fault> {
    let bad = |why: &str| Err((format!("\"{text}\" {why}"), "write for example \"10.43.0.0/24\" or \"2001:db8:43::/64\"".to_owned()));
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None if length_optional => (text, None),
        None => return bad("has no prefix length"),
    };
    let Ok(ip) = address.parse::<IpAddr>() else { return bad("is no address prefix") };
    let Some(length) = length else { return Ok(IpNet::from(ip)) };
    let max = if ip.is_ipv4() { 32 } else { 128 };
    match length.parse::<u8>().ok().filter(|_| length.bytes().all(|b| b.is_ascii_digit())).and_then(|length| IpNet::new(ip, length).ok()) {
        Some(net) => Ok(net),
        None => bad(&format!("has a prefix length that is not 0 to {max}")),
    }
}
