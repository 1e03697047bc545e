//! What `show` answers: the whole state of one site, as JSON and as the source of the text for people.
//!
//! Counters and drop reasons carry the names of [`penstock_uapi::Counter`] and [`penstock_uapi::Drop`]; SPIs are
//! written as eight hex digits; ages are milliseconds, because clocks jump and ages do not. A number never goes
//! down while its owner lives: counters of a peer outlive its SAs.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use penstock_uapi::reply::{CoreState, PolicyState, SaState, phase, protection};
use penstock_uapi::request::{feature, source, suite};
use penstock_uapi::{Counter, Drop};
use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// [`super::SCHEMA`].
    pub schema: u32,
    /// This machine.
    pub site: Site,
    /// The data plane's process.
    pub engine: Engine,
    /// The TUN device.
    pub interface: Interface,
    /// Every configured peer, up or not, sorted by name.
    pub peers: Vec<Peer>,
    /// Every core that runs.
    pub cores: Vec<Core>,
    /// The sums of all cores' drops; reasons that never occurred stand with 0.
    pub drops: BTreeMap<String, u64>,
}

/// This machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// The UDP port of IKE and ESP.
    pub port: u16,
    /// The addresses received on; empty: all.
    pub listen: Vec<IpAddr>,
    /// The daemon's process id.
    pub pid: u32,
    /// Milliseconds since the daemon started.
    pub age_ms: u64,
    /// The configuration file.
    pub config: String,
    /// Milliseconds until the last `apply --confirm` is rolled back unless it is confirmed; absent where nothing waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_in_ms: Option<u64>,
    /// The version of the daemon.
    pub version: String,
}

/// The data plane's process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Engine {
    /// Whether it runs and answers.
    pub running: bool,
    /// Its process id; 0 if it does not run.
    pub pid: u32,
    /// Milliseconds since it started.
    pub age_ms: u64,
    /// The generation in its SPIs, 0 to 3.
    pub generation: u8,
    /// Features in use, by the names that `--without` takes.
    pub features: Vec<String>,
    /// Features not in use, because the kernel lacks them or `--without` said so.
    pub features_off: Vec<String>,
    /// How tightly it is locked in.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// How often an engine was started in this daemon's life.
    pub starts: u32,
    /// Why it does not run, or the last reason why one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How tightly the engine is locked in: [`penstock_uapi::reply::protection`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sandbox {
    /// `full`, `reduced` or `none`.
    pub level: String,
    /// The protections in force, by name.
    pub protections: Vec<String>,
    /// Those that are not, and what each takes.
    pub missing: BTreeMap<String, String>,
    /// The kernel's Landlock ABI; 0: it has none.
    pub landlock_abi: u8,
}

/// The TUN device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<String>,
    /// Its MTU.
    pub mtu: u16,
}

/// Whether a peer's tunnel carries packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Not, and it is not tried either: closed by order, or refused.
    #[default]
    Down,
    /// Not yet, and it is not tried either: the first packet, or the peer, has to come.
    Waiting,
    /// Not yet; it is being tried.
    Connecting,
    /// Packets pass.
    Up,
}

/// Another site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether packets pass.
    pub state: PeerState,
    /// Milliseconds since the state was entered.
    pub since_ms: u64,
    /// Why it is not up, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The newest thing that went wrong with it, also where it is up again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How many milliseconds ago that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_ms: Option<u64>,
    /// What to try, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Milliseconds until the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_ms: Option<u64>,
    /// Attempts since it was last up.
    pub attempts: u64,
    /// As configured, with the port.
    pub endpoint: String,
    /// The address and port in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Our address in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Who we say we are.
    pub local_id: String,
    /// Who the peer must be.
    pub remote_id: String,
    /// Our inner subnets.
    pub local_subnets: Vec<String>,
    /// The peer's inner subnets.
    pub subnets: Vec<String>,
    /// Why its key is weak, where the configuration accepts that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psk_weak: Option<String>,
    /// Inner packets to the peer, sealed.
    pub outbound: Traffic,
    /// Inner packets from the peer, opened.
    pub inbound: Traffic,
    /// Milliseconds since the last authenticated packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_ms: Option<u64>,
    /// The IKE SA that keeps the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ike: Option<Ike>,
    /// The SAs that carry packets.
    pub sas: Vec<Sa>,
}

/// Totals of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Inner packets.
    pub packets: u64,
    /// Inner bytes.
    pub bytes: u64,
}

/// An IKE SA.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ike {
    /// The initiator's SPI, 16 hex digits.
    pub initiator_spi: String,
    /// The responder's SPI, 16 hex digits.
    pub responder_spi: String,
    /// Whether this site started it.
    pub initiated: bool,
    /// What was agreed.
    pub proposal: String,
    /// Milliseconds since it was established.
    pub age_ms: u64,
    /// Milliseconds until this site renews its keys; the peer may be earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_in_ms: Option<u64>,
    /// A NAT stands in front of us.
    #[serde(default)]
    pub nat_here: bool,
    /// A NAT stands in front of the peer.
    #[serde(default)]
    pub nat_there: bool,
}

/// An SA pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sa {
    /// The core that owns it.
    pub core: u16,
    /// Our SPI, 8 hex digits.
    pub inbound_spi: String,
    /// The peer's SPI; empty while there is none.
    pub outbound_spi: String,
    /// For example `aes256-gcm`; empty while there is no key.
    pub suite: String,
    /// Extended sequence numbers (RFC 4303 section 2.2.1).
    pub esn: bool,
    /// `expected`, `inbound`, `waiting`, `active` or `draining`.
    pub phase: String,
    /// Takes the packets of cores without an SA of their own (RFC 9611).
    pub fallback: bool,
    /// `own` or `shared`: the UDP source port.
    pub source_port: String,
    /// Milliseconds since its inbound half was installed.
    pub age_ms: u64,
    /// Sealed.
    pub outbound: Traffic,
    /// Opened.
    pub inbound: Traffic,
    /// Where packets go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<SocketAddr>,
    /// Milliseconds until this site renews its keys; the peer may be earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rekey_in_ms: Option<u64>,
    /// Our subnets that it carries, as agreed; empty where control does not know it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_subnets: Vec<String>,
    /// The peer's subnets that it carries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<String>,
}

/// A core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// Its number.
    pub core: u16,
    /// The CPU it is pinned to.
    pub cpu: u16,
    /// Whether it uses io_uring; else plain system calls.
    pub ring: bool,
    /// Whether it sleeps now.
    pub asleep: bool,
    /// Packets of a peer's that wait for a key now.
    pub parked: u32,
    /// Packets of ours that wait for a tunnel now.
    #[serde(default)]
    pub waiting: u32,
    /// By the names of [`penstock_uapi::Counter`].
    pub counters: BTreeMap<String, u64>,
    /// By the names of [`penstock_uapi::Drop`].
    pub drops: BTreeMap<String, u64>,
}

impl State {
    /// Sums the cores' drops; call it when [`Self::cores`] is filled.
    pub fn sum_drops(&mut self) {
        self.drops = Drop::ALL.iter().map(|reason| (reason.name().to_owned(), 0)).collect();
        for (reason, count) in self.cores.iter().flat_map(|core| &core.drops) {
            let sum = self.drops.entry(reason.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }
}

impl Engine {
    /// Sets the features in use and those that are not, from the mask in the engine's welcome.
    pub fn set_features(&mut self, mask: u16) {
        let named =
            |on: bool| feature::NAMES.iter().filter(|(bit, _)| (mask & bit != 0) == on).map(|(_, name)| (*name).to_owned()).collect();
        self.features = named(true);
        self.features_off = named(false);
    }
}

impl Sandbox {
    /// From the mask and the ABI in the engine's welcome.
    #[must_use]
    pub fn new(protections: u16, landlock_abi: u8) -> Self {
        let missing: BTreeMap<_, _> = protection::NAMES
            .iter()
            .filter(|(bit, ..)| protections & bit == 0)
            .map(|(_, name, takes)| ((*name).into(), (*takes).into()))
            .collect();
        let level = match (protections & protection::CALLS, missing.len()) {
            (0, _) => "none",
            (_, 0) => "full",
            _ => "reduced",
        };
        let in_force = protection::NAMES.iter().filter(|(bit, ..)| protections & bit != 0).map(|(_, name, _)| (*name).into());
        Self { level: level.into(), protections: in_force.collect(), missing, landlock_abi }
    }
}

impl Core {
    /// From what the engine answers; `cpu` is known from the attach.
    #[must_use]
    pub fn new(state: &CoreState, cpu: u16) -> Self {
        Self {
            core: state.core.get(),
            cpu,
            ring: state.ring != 0,
            asleep: state.asleep != 0,
            parked: state.parked.get(),
            waiting: state.waiting.get(),
            counters: Counter::ALL.iter().zip(&state.counters).map(|(counter, value)| (counter.name().to_owned(), value.get())).collect(),
            drops: Drop::ALL.iter().zip(&state.drops).map(|(reason, value)| (reason.name().to_owned(), value.get())).collect(),
        }
    }
}

impl From<&SaState> for Sa {
    fn from(sa: &SaState) -> Self {
        let spi = |value: u32| if value == 0 { String::new() } else { format!("{value:08x}") };
        Self {
            core: sa.core.get(),
            inbound_spi: spi(sa.inbound_spi.get()),
            outbound_spi: spi(sa.outbound_spi.get()),
            suite: match sa.suite {
                suite::AES_128_GCM_16 => "aes128-gcm".into(),
                suite::AES_256_GCM_16 => "aes256-gcm".into(),
                _ => String::new(),
            },
            esn: sa.esn != 0,
            phase: match sa.phase {
                phase::EXPECTED => "expected",
                phase::INBOUND => "inbound",
                phase::WAITING => "waiting",
                phase::ACTIVE => "active",
                phase::DRAINING => "draining",
                _ => "unknown",
            }
            .into(),
            fallback: sa.fallback != 0,
            source_port: if sa.source == source::OWN { "own" } else { "shared" }.into(),
            age_ms: sa.age_ms.get(),
            outbound: Traffic { packets: sa.outbound_packets.get(), bytes: sa.outbound_bytes.get() },
            inbound: Traffic { packets: sa.inbound_packets.get(), bytes: sa.inbound_bytes.get() },
            remote: sa.remote.to_socket(),
            ..Self::default()
        }
    }
}

impl Peer {
    /// Takes over the engine's totals of this peer's policy.
    pub fn set_traffic(&mut self, policy: &PolicyState) {
        self.outbound = Traffic { packets: policy.outbound_packets.get(), bytes: policy.outbound_bytes.get() };
        self.inbound = Traffic { packets: policy.inbound_packets.get(), bytes: policy.inbound_bytes.get() };
        self.idle_ms = Some(policy.idle_ms.get()).filter(|idle| *idle != u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::{Core, Peer, Sa, State, Traffic};
    use penstock_uapi::reply::{CoreState, PolicyState, SaState};
    use penstock_uapi::{Counter, Drop};
    use zerocopy::FromZeros;

    #[test]
    fn counters_and_drops_keep_their_names_and_sum_up() {
        let mut engine = CoreState::new_zeroed();
        engine.core = 1.into();
        engine.ring = 1;
        for (place, value) in engine.counters.iter_mut().enumerate() {
            *value = (place as u64 + 100).into();
        }
        engine.drops[Drop::Replay.index()] = 7.into();
        let core = Core::new(&engine, 3);
        assert_eq!((core.core, core.cpu, core.ring, core.asleep), (1, 3, true, false));
        assert_eq!(core.counters.len(), Counter::COUNT);
        assert_eq!(core.counters[Counter::EventsLost.name()], Counter::EventsLost.index() as u64 + 100);
        let mut state = State { cores: vec![core.clone(), core], ..State::default() };
        state.sum_drops();
        assert_eq!((state.drops["replay"], state.drops["loop"], state.drops.len()), (14, 0, Drop::COUNT));
    }

    #[test]
    fn an_sa_without_a_key_is_shown_without_one() {
        let mut engine = SaState::new_zeroed();
        engine.inbound_spi = 0x1a_2b00.into();
        let sa = Sa::from(&engine);
        assert_eq!((sa.inbound_spi.as_str(), sa.outbound_spi.as_str(), sa.suite.as_str()), ("001a2b00", "", ""));
        assert_eq!((sa.phase.as_str(), sa.source_port.as_str(), sa.remote), ("expected", "own", None));
        engine.phase = penstock_uapi::reply::phase::ACTIVE;
        engine.suite = penstock_uapi::request::suite::AES_256_GCM_16;
        engine.source = penstock_uapi::request::source::SHARED;
        engine.outbound_packets = 5.into();
        let sa = Sa::from(&engine);
        assert_eq!(
            (sa.phase.as_str(), sa.suite.as_str(), sa.source_port.as_str(), sa.outbound.packets),
            ("active", "aes256-gcm", "shared", 5)
        );
    }

    #[test]
    fn a_peer_that_never_sent_has_no_idle_time() {
        let mut policy = PolicyState::new_zeroed();
        policy.inbound_bytes = 9.into();
        policy.idle_ms = u64::MAX.into();
        let mut peer = Peer::default();
        peer.set_traffic(&policy);
        assert_eq!((peer.idle_ms, peer.inbound), (None, Traffic { packets: 0, bytes: 9 }));
        policy.idle_ms = 12.into();
        peer.set_traffic(&policy);
        assert_eq!(peer.idle_ms, Some(12));
    }

    #[test]
    fn features_are_named_on_both_sides() {
        let mut engine = super::Engine::default();
        engine.set_features(penstock_uapi::request::feature::RING);
        assert_eq!((engine.features.join(" "), engine.features_off.join(" ")), ("ring".into(), "read-multishot gather gro gso uso".into()));
    }

    #[test]
    fn a_sandbox_is_full_only_when_nothing_is_missing() {
        let all = penstock_uapi::reply::protection::NAMES.iter().fold(0, |mask, (bit, ..)| mask | bit);
        let full = super::Sandbox::new(all, 7);
        assert_eq!((full.level.as_str(), full.missing.len(), full.landlock_abi), ("full", 0, 7));
        let reduced = super::Sandbox::new(all & !penstock_uapi::reply::protection::SIGNALS, 4);
        assert_eq!((reduced.level.as_str(), reduced.missing.keys().cloned().collect::<Vec<_>>()), ("reduced", vec!["signals".into()]));
        let none = super::Sandbox::new(0, 0);
        assert_eq!((none.level.as_str(), none.protections.len()), ("none", 0));
    }
}
