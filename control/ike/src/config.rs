//! What the daemon tells the state machine: limits and times of the site, and who the peers are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The port of IKE without the non-ESP marker (RFC 7296 section 3.1): for first messages only, because whoever finds a NAT, and we
/// always pretend one, goes on to [`Config::port`].
pub const FIRST_PORT: u16 = 500;

/// Names a peer to the daemon; its own choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u32);

/// Times and bounds that hold for the whole site. [`Config::default`] is right outside tests.
#[derive(Clone, Debug)]
pub struct Config {
    /// The UDP port that IKE and ESP leave from where a peer's configuration names no local address.
    pub port: u16,
    /// The first retransmission of a request comes after so many milliseconds, give or take the jitter.
    pub retransmit_first_ms: u64,
    /// Each further wait is the last one times this, in percent.
    pub retransmit_growth_percent: u64,
    /// The longest wait, give or take the jitter: a path that heals is found healed within it.
    pub retransmit_last_ms: u64,
    /// The same for a request that packets wait for: its responder sends on a further child after [`Config::switch_ms`] although its
    /// response may be lost.
    pub retransmit_child_last_ms: u64,
    /// How long a request is repeated before its IKE SA is given up.
    pub retransmit_for_ms: u64,
    /// The pause before a failed peer is tried again, at first.
    pub retry_first_ms: u64,
    /// The longest such pause.
    pub retry_last_ms: u64,
    /// The pause before a peer is tried again that fell silent: that is no refusal, and an attempt lasts long enough by itself.
    pub retry_silent_ms: u64,
    /// Half-open IKE SAs over which a cookie is demanded (RFC 7296 section 2.6).
    pub cookie_over_half_open: usize,
    /// How long a half-open IKE SA of an initiator that falls silent is kept.
    pub half_open_ms: u64,
    /// How long an unauthenticated refusal may be put right by a better answer before it is believed.
    pub doubt_ms: u64,
    /// How long the inbound SA of a replaced or deleted pair goes on receiving.
    pub drain_ms: u32,
    /// After how long a responder's additional child is sent on even if nothing came in by it.
    pub switch_ms: u32,
    /// Key exchange groups, the preferred one first; the initiator sends its public value in the first one.
    pub groups: Vec<Group>,
    /// How long an engine step may take before it counts as failed.
    pub engine_ms: u64,
    /// After how long a rekey is tried again that came at a bad moment (TEMPORARY_FAILURE, RFC 7296 section 2.25); each time in a row
    /// doubles it.
    pub rekey_again_ms: u64,
    /// The longest such pause.
    pub rekey_again_last_ms: u64,
    /// After how long a rekey is tried again that was refused or failed; each time in a row doubles it.
    pub rekey_retry_ms: u64,
    /// The longest such pause.
    pub rekey_retry_last_ms: u64,
    /// How long an endpoint where a peer was heard, and which did not confirm itself, is not asked again.
    pub confirm_pause_ms: u64,
    /// Behave like a peer that knows RFC 7296 alone: true hashes in NAT detection, no vendor ID, no pieces of messages, no second key exchange. A
    /// witness for tests; with [`PeerConfig::per_core`] and [`PeerConfig::ml_kem`] off it is a plain standard peer.
    pub plain: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 4500,
            retransmit_first_ms: 500,
            retransmit_growth_percent: 180,
            // The longest wait and the pause between two attempts, both with jitter, are together less than five seconds.
            retransmit_last_ms: 3_300,
            retransmit_child_last_ms: 700,
            retransmit_for_ms: 60_000,
            retry_first_ms: 1_000,
            retry_last_ms: 60_000,
            retry_silent_ms: 800,
            cookie_over_half_open: 30,
            half_open_ms: 30_000,
            doubt_ms: 2_000,
            drain_ms: 5_000,
            switch_ms: 1_000,
            groups: vec![Group::X25519, Group::P256, Group::P384],
            engine_ms: 5_000,
            rekey_again_ms: 1_000,
            rekey_again_last_ms: 30_000,
            rekey_retry_ms: 30_000,
            rekey_retry_last_ms: 300_000,
            confirm_pause_ms: 5_000,
            plain: false,
        }
    }
}

impl Config {
    /// The group of this number, if it may be used.
    pub(crate) fn group(&self, number: u16) -> Option<Group> {
        Group::from_number(number).filter(|group| self.groups.contains(group))
    }
}

/// Who somebody is (RFC 7296 section 3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// ID_FQDN: a name such as `berlin` or `gw.example.org`; no trailing dot.
    Fqdn(String),
    /// ID_IPV4_ADDR or ID_IPV6_ADDR.
    Address(IpAddr),
    /// ID_RFC822_ADDR.
    Email(String),
    /// ID_KEY_ID: opaque bytes.
    KeyId(Vec<u8>),
}

/// A group for the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Group {
    /// Curve25519 (RFC 8031).
    X25519,
    /// The NIST curve P-256 (RFC 5903).
    P256,
    /// The NIST curve P-384 (RFC 5903).
    P384,
}

/// A cipher for IKE's own messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IkeSuite {
    /// AES-GCM with a 16-byte ICV and a 256-bit key (RFC 5282).
    Aes256Gcm16,
    /// The same with a 128-bit key.
    Aes128Gcm16,
    /// AES-CBC with a 256-bit key (RFC 3602) and HMAC-SHA2 (RFC 4868): for peers that know no AEAD.
    Aes256Cbc,
    /// The same with a 128-bit key.
    Aes128Cbc,
}

impl IkeSuite {
    /// What is offered and taken unless a peer's configuration says otherwise, the preferred one first.
    pub const DEFAULT: [Self; 2] = [Self::Aes256Gcm16, Self::Aes128Gcm16];

    /// Bits of the AES key.
    pub(crate) fn key_bits(self) -> u16 {
        match self {
            Self::Aes128Gcm16 | Self::Aes128Cbc => 128,
            Self::Aes256Gcm16 | Self::Aes256Cbc => 256,
        }
    }

    /// It encrypts and authenticates in one, and so stands in a proposal without an integrity algorithm.
    pub(crate) fn aead(self) -> bool {
        matches!(self, Self::Aes128Gcm16 | Self::Aes256Gcm16)
    }
}

/// A cipher for ESP: AES-GCM with a 16-byte ICV (RFC 4106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// 128-bit key.
    Aes128Gcm16,
    /// 256-bit key.
    Aes256Gcm16,
}

impl Identity {
    /// Type and data as they go on the wire.
    pub(crate) fn parts(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Address(IpAddr::V4(address)) => (1, address.octets().to_vec()),
            Self::Fqdn(name) => (2, name.as_bytes().to_vec()),
            Self::Email(name) => (3, name.as_bytes().to_vec()),
            Self::Address(IpAddr::V6(address)) => (5, address.octets().to_vec()),
            Self::KeyId(bytes) => (11, bytes.clone()),
        }
    }

    /// The body of its identification payload.
    pub(crate) fn body(&self) -> Vec<u8> {
        let (kind, data) = self.parts();
        [&[kind, 0, 0, 0], data.as_slice()].concat()
    }

    /// Whether type and data from the wire are this identity.
    pub(crate) fn is(&self, kind: u8, data: &[u8]) -> bool {
        let own = self.parts();
        (own.0, own.1.as_slice()) == (kind, data)
    }
}

/// An identity from the wire for a message to people: printable, and cut to a length that fits a line.
pub(crate) fn describe_identity(kind: u8, data: &[u8]) -> String {
    let name = match (kind, data.len()) {
        (1, 4) => <[u8; 4]>::try_from(data).map(|v4| IpAddr::from(v4).to_string()).unwrap_or_default(),
        (5, 16) => <[u8; 16]>::try_from(data).map(|v6| IpAddr::from(v6).to_string()).unwrap_or_default(),
        (2 | 3, _) => String::from_utf8_lossy(data.get(..64).unwrap_or(data)).escape_debug().to_string(),
        _ => data.iter().take(32).map(|byte| format!("{byte:02x}")).collect(),
    };
    let kind = match kind {
        1 | 5 => "address",
        2 => "name",
        3 => "email",
        11 => "key id",
        _ => "identity of an unknown type",
    };
    format!("{kind} {name}")
}

/// A pre-shared key. Wiped when dropped; never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Psk(Vec<u8>);

impl Psk {
    /// Takes the key over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// One peer, as configured.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The daemon's number for it.
    pub id: PeerId,
    /// Its name, for messages to people.
    pub name: String,
    /// Who we say we are.
    pub local_id: Identity,
    /// Who the peer must say it is.
    pub remote_id: Identity,
    /// The key shared with it.
    pub psk: Psk,
    /// Our subnets, in order of preference.
    pub local_subnets: Vec<IpNet>,
    /// Its subnets.
    pub remote_subnets: Vec<IpNet>,
    /// Ciphers that may be used for IKE's own messages, the preferred one first.
    pub ike_suites: Vec<IkeSuite>,
    /// ML-KEM-768 beside the curve (RFC 9370): offered by us, and taken where the peer offers it.
    pub ml_kem: bool,
    /// ESP ciphers that may be used, the preferred one first.
    pub esp_suites: Vec<Suite>,
    /// Where it listens; `None`: it comes to us.
    pub endpoint: Option<SocketAddr>,
    /// The local address to use with it; `None`: the kernel's choice.
    pub local: Option<IpAddr>,
    /// One child a core where the peer can (RFC 9611).
    pub per_core: bool,
    /// When it is tried.
    pub start: Start,
    /// When its keys are renewed.
    pub upkeep: Upkeep,
    /// How it is found to have vanished.
    pub dpd: Dpd,
    /// Milliseconds between two keepalives where a NAT stands in front of us (RFC 3948 section 2.3).
    pub keepalive_ms: u64,
}

/// The time between two keepalives that RFC 3948 section 2.3 proposes.
pub const KEEPALIVE_MS: u64 = 20_000;

/// When a peer is tried beside [`crate::Ike::initiate`]. It may come by itself in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Again and again, after a failure and when it goes away; the first try is [`crate::Ike::initiate`]'s.
    #[default]
    Always,
    /// When a packet wants to go there ([`crate::Ike::acquire`]); after a failure not before a pause that grows.
    Demand,
    /// Never.
    Wait,
}

/// Dead peer detection (RFC 7296 section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dpd {
    /// Milliseconds after its last authenticated message or packet within which a vanished peer is found. It is asked after
    /// half of them.
    pub within_ms: u64,
    /// What then happens.
    pub action: DpdAction,
}

impl Default for Dpd {
    fn default() -> Self {
        Self { within_ms: 30_000, action: DpdAction::Restart }
    }
}

/// What happens once a peer has vanished and its SAs are gone. It may come back by itself in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DpdAction {
    /// Try again, after a pause that grows.
    #[default]
    Restart,
    /// Try again when a packet wants the tunnel ([`crate::Ike::acquire`]).
    Hold,
    /// Wait for the peer, or for [`crate::Ike::initiate`].
    Clear,
}

/// When keys are renewed. Each time is shortened by up to a tenth by chance, so that the two sides, and many peers, do not
/// all ask at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// The age at which a child is rekeyed, in milliseconds.
    pub rekey_child_ms: u64,
    /// The age at which the IKE SA itself is rekeyed, in milliseconds.
    pub rekey_ike_ms: u64,
    /// A fresh key exchange with each rekey of a child and for each further child: offered by us, demanded of the peer.
    pub pfs: bool,
}

impl Default for Upkeep {
    fn default() -> Self {
        Self { rekey_child_ms: 3_600_000, rekey_ike_ms: 14_400_000, pfs: false }
    }
}

impl PeerConfig {
    /// Whether an IKE SA made under this configuration would be made alike under the other one. An endpoint that has
    /// become known changes nothing.
    pub(crate) fn negotiates_as(&self, other: &Self) -> bool {
        self.local_id == other.local_id
            && self.remote_id == other.remote_id
            && self.psk.expose() == other.psk.expose()
            && self.local_subnets == other.local_subnets
            && self.remote_subnets == other.remote_subnets
            && self.ike_suites == other.ike_suites
            && self.ml_kem == other.ml_kem
            && self.esp_suites == other.esp_suites
            && (self.endpoint.is_none() || self.endpoint == other.endpoint)
            && self.local == other.local
            && self.per_core == other.per_core
    }
}
