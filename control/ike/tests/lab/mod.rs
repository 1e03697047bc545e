//! Two sites in memory: a virtual clock, a faulty wire, and an engine that only keeps books.
//!
//! ```text
//!   west ── Ike ── engine model          engine model ── Ike ── east
//!            │         │                      │            │
//!            └─ IKE ───┴── wire: loss, copies, delay ──────┘
//! ```
//! The data wire loses nothing, so that every packet that finds no SA is the fault of how SAs were handled.

#![allow(dead_code, unreachable_pub)] // each test binary uses its part

pub mod engine;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use engine::Engine;
use penstock_ike::{Config, Dpd, Host, Identity, Ike, Level, Output, PeerConfig, PeerId, PeerState, Psk, Suite, Upkeep};

pub const WEST: usize = 0;
pub const EAST: usize = 1;
/// Each site knows one peer: the other.
pub const PEER: PeerId = PeerId(7);
pub const KEY: &[u8] = b"a key that both sites have, long enough";

/// Chance that replays (xorshift64*).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Randomness and SPIs of one site.
pub struct Source {
    pub chance: Chance,
    pub next_spi: u32,
    pub dry: bool,
}

impl Host for Source {
    fn random(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| *byte = (self.chance.next() >> 24) as u8);
    }

    fn allocate_spi(&mut self, _: PeerId, core: Option<u16>) -> u32 {
        self.next_spi += 1 << 8;
        if self.dry { 0 } else { self.next_spi | u32::from(core.unwrap_or(0)) }
    }

    fn allocate_successor_spi(&mut self, peer: PeerId, inbound_spi: u32) -> u32 {
        self.allocate_spi(peer, u16::try_from(inbound_spi & 0xff).ok())
    }
}

pub struct Site {
    pub ike: Ike,
    pub source: Source,
    pub engine: Engine,
    pub address: SocketAddr,
    /// The NAT in front of it: as whom others see it, and where they reach it.
    pub outside: Option<SocketAddr>,
    /// Where its children were told to go on to: our address, the peer's, and what NAT detection said.
    pub redirects: Vec<(u32, SocketAddr, SocketAddr, penstock_ike::Nat)>,
    /// What NAT detection said when outbound SAs were installed.
    pub nats: Vec<penstock_ike::Nat>,
    /// When its NAT was reminded of it, and by which ends.
    pub keepalives: Vec<(u64, SocketAddr, SocketAddr)>,
    pub events: Vec<(Level, String)>,
    pub downs: Vec<String>,
    pub ups: usize,
    /// The daemon is not running: datagrams to it vanish.
    pub dead: bool,
}

impl Site {
    pub fn said(&self, text: &str) -> bool {
        self.events.iter().any(|(_, line)| line.contains(text))
    }
}

/// How bad the wire is.
#[derive(Clone, Copy, Default)]
pub struct Wire {
    pub loss_percent: u64,
    pub copy_percent: u64,
    pub delay_ms: u64,
    pub jitter_ms: u64,
}

pub struct Flight {
    pub to: usize,
    pub from: SocketAddr,
    pub at: SocketAddr,
    pub message: Vec<u8>,
}

pub type Tap = Box<dyn FnMut(&Flight) -> Vec<Vec<u8>>>;

pub struct World {
    pub now: u64,
    pub sites: [Site; 2],
    pub wire: Wire,
    /// Nothing passes the wire, packets of inner traffic neither.
    pub cut: bool,
    pub chance: Chance,
    pub flights: BTreeMap<(u64, u64), Flight>,
    sequence: u64,
    /// Milliseconds between two packets of inner traffic, each way and of each core.
    pub traffic_every: Option<u64>,
    /// How many cores of each site have traffic.
    pub cores: u32,
    /// How long a packet of inner traffic travels, and by how much more at most. Packets of one moment overtake each other.
    pub data_ms: (u64, u64),
    packets: BTreeMap<(u64, u64), (usize, engine::Packet)>,
    /// When inner traffic of a site's core was delivered last, where it does not travel for any time.
    pub arrived: BTreeMap<(usize, u32), u64>,
    /// Milliseconds that an engine step takes.
    pub engine_ms: u64,
    pub sent: Vec<(usize, Vec<u8>)>,
    /// Sees each IKE datagram; what it returns is delivered in front of it.
    pub tap: Option<Tap>,
}

pub fn peer_config(name: &str, us: &str, them: &str, ours: &str, theirs: &str, endpoint: SocketAddr) -> PeerConfig {
    PeerConfig {
        id: PEER,
        name: name.to_owned(),
        local_id: Identity::Fqdn(us.to_owned()),
        remote_id: Identity::Fqdn(them.to_owned()),
        psk: Psk::new(KEY.to_vec()),
        local_subnets: ours.split_whitespace().map(|net| net.parse().expect("a prefix")).collect(),
        remote_subnets: theirs.split_whitespace().map(|net| net.parse().expect("a prefix")).collect(),
        ike_suites: penstock_ike::IkeSuite::DEFAULT.to_vec(),
        ml_kem: false,
        esp_suites: vec![Suite::Aes256Gcm16, Suite::Aes128Gcm16],
        endpoint: Some(endpoint),
        local: None,
        per_core: true,
        start: penstock_ike::Start::Always,
        upkeep: Upkeep::default(),
        dpd: Dpd::default(),
        keepalive_ms: penstock_ike::KEEPALIVE_MS,
    }
}

pub fn west_config() -> PeerConfig {
    let east = "198.51.100.2:4500".parse().expect("an address");
    peer_config("east", "west.example", "east.example", "10.1.0.0/16 fd01::/64", "10.2.0.0/16 fd02::/64", east)
}

pub fn east_config() -> PeerConfig {
    let west = "192.0.2.1:4500".parse().expect("an address");
    peer_config("west", "east.example", "west.example", "10.2.0.0/16 fd02::/64", "10.1.0.0/16 fd01::/64", west)
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Config::default(), Config::default(), west_config(), east_config())
    }

    /// Two sites with ML-KEM beside the curve, as Penstocks have it by default.
    pub fn mixed(seed: u64) -> Self {
        let mixed = |config: PeerConfig| PeerConfig { ml_kem: true, ..config };
        Self::with(seed, Config::default(), Config::default(), mixed(west_config()), mixed(east_config()))
    }

    pub fn with(seed: u64, west: Config, east: Config, west_peer: PeerConfig, east_peer: PeerConfig) -> Self {
        let site = |config: Config, peer: PeerConfig, address: &str, salt: u64| {
            let mut source = Source { chance: Chance::new(seed * 2 + salt), next_spi: 0x1_0000 * (salt as u32 + 1), dry: false };
            let mut ike = Ike::new(config, 0, &mut source);
            ike.set_peer(0, peer);
            let address = address.parse().expect("an address");
            let (events, downs) = (vec![], vec![]);
            Site {
                ike,
                source,
                engine: Engine::default(),
                address,
                outside: None,
                redirects: vec![],
                nats: vec![],
                keepalives: vec![],
                events,
                downs,
                ups: 0,
                dead: false,
            }
        };
        let sites = [site(west, west_peer, "192.0.2.1:4500", 0), site(east, east_peer, "198.51.100.2:4500", 1)];
        Self {
            now: 0,
            sites,
            wire: Wire { delay_ms: 5, ..Wire::default() },
            cut: false,
            chance: Chance::new(seed ^ 0xfeed),
            flights: BTreeMap::new(),
            sequence: 0,
            traffic_every: None,
            cores: 1,
            data_ms: (0, 0),
            packets: BTreeMap::new(),
            arrived: BTreeMap::new(),
            engine_ms: 1,
            sent: Vec::new(),
            tap: None,
        }
    }

    /// Two sites that are up, with a child for each of two further cores, and traffic on all three.
    pub fn busy(seed: u64, west: PeerConfig, east: PeerConfig) -> Self {
        let mut world = Self::with(seed, Config::default(), Config::default(), west, east);
        world.initiate(WEST, true);
        world.until(100, "up", Self::both_up);
        for core in [1, 2] {
            world.create_child(WEST, core).expect("per core");
            world.run(100);
        }
        (world.traffic_every, world.cores, world.data_ms) = (Some(7), 3, (3, 30));
        world
    }

    pub fn initiate(&mut self, who: usize, initial_contact: bool) {
        let site = &mut self.sites[who];
        site.ike.initiate(self.now, PEER, initial_contact, &mut site.source);
        self.drain(who);
    }

    pub fn create_child(&mut self, who: usize, core: u16) -> Result<penstock_ike::ChildId, penstock_ike::CreateRefused> {
        let site = &mut self.sites[who];
        let result = site.ike.create_child(self.now, PEER, core, &mut site.source);
        self.drain(who);
        result
    }

    pub fn with_ike(&mut self, who: usize, act: impl FnOnce(u64, &mut Ike)) {
        act(self.now, &mut self.sites[who].ike);
        self.drain(who);
    }

    /// A new daemon beside the running engine: it knows nothing of the old IKE SAs. `keep`: the engine goes on.
    pub fn restart(&mut self, who: usize, config: PeerConfig, keep_engine: bool) {
        let (now, site) = (self.now, &mut self.sites[who]);
        site.ike = Ike::new(Config::default(), now, &mut site.source);
        site.ike.set_peer(now, config);
        if !keep_engine {
            site.engine = Engine::default();
        }
        site.engine.adopt();
    }

    pub fn inject(&mut self, to: usize, from: SocketAddr, message: &[u8]) {
        let at = self.sites[to].address;
        let site = &mut self.sites[to];
        site.ike.receive(self.now, from, at, message, &mut site.source);
        self.drain(to);
    }

    /// Does what a site's state machine asks.
    pub fn drain(&mut self, who: usize) {
        while let Some(output) = self.sites[who].ike.poll() {
            let site = &mut self.sites[who];
            match output {
                Output::Send { from, to, message } => {
                    let from = SocketAddr::new(site.address.ip(), from.port());
                    self.sent.push((who, message.clone()));
                    self.post(1 - who, from, to, message);
                }
                Output::Up { .. } => site.ups += 1,
                Output::Down { reason, .. } => site.downs.push(reason),
                Output::Event { level, text, .. } => site.events.push((level, text)),
                Output::Quiet { .. } => {
                    let idle = site.engine.opened_at.map(|at| self.now - at);
                    site.ike.heard(self.now, PEER, idle);
                }
                Output::Redirect { inbound_spi, local, remote, nat, .. } => site.redirects.push((inbound_spi, local, remote, nat)),
                Output::Keepalive { from, to } => site.keepalives.push((self.now, from, to)),
                step => {
                    if let Output::InstallOutbound { nat, .. } = &step {
                        site.nats.push(*nat);
                    }
                    site.engine.take(self.now + self.engine_ms, step);
                }
            }
        }
    }

    fn post(&mut self, to: usize, from: SocketAddr, at: SocketAddr, message: Vec<u8>) {
        // A NAT in front of the sender has its own address for it, and one in front of the receiver is the only way in.
        let from = self.sites[1 - to].outside.unwrap_or(from);
        // Without one every port leads in; who listens there is the daemon's affair.
        let address = self.sites[to].address;
        let reached = self.sites[to].outside.map_or(at.ip() == address.ip(), |outside| at == outside);
        let at = if self.sites[to].outside.is_some() { address } else { at };
        if !reached || self.cut || self.chance.percent(self.wire.loss_percent) {
            return;
        }
        let copies = if self.chance.percent(self.wire.copy_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = if self.wire.jitter_ms > 0 { self.chance.below(self.wire.jitter_ms) } else { 0 };
            self.sequence += 1;
            let flight = Flight { to, from, at, message: message.clone() };
            self.flights.insert((self.now + self.wire.delay_ms + jitter, self.sequence), flight);
        }
    }

    /// Runs the clock for so many milliseconds.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(next) = self.next_event(end) {
            self.now = next;
            self.step();
        }
        self.now = end;
    }

    /// Runs until the condition holds; fails if that takes longer than `ms`.
    pub fn until(&mut self, ms: u64, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + ms;
        while !done(self) {
            let next = self.next_event(end).unwrap_or_else(|| panic!("not within {ms} ms: {what}\n{}", self.describe()));
            self.now = next;
            self.step();
        }
    }

    fn next_event(&self, end: u64) -> Option<u64> {
        let flight = self.flights.keys().next().map(|(at, _)| *at);
        let timers = self.sites.iter().filter(|site| !site.dead).filter_map(|site| site.ike.next_deadline());
        let engines = self.sites.iter().filter_map(|site| site.engine.next());
        let traffic = self.traffic_every.map(|every| self.now / every * every + every);
        let packet = self.packets.keys().next().map(|(at, _)| *at);
        let next = flight.into_iter().chain(packet).chain(timers).chain(engines).chain(traffic).min()?;
        (next <= end).then(|| next.max(self.now))
    }

    fn step(&mut self) {
        while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let flight = entry.remove();
            let forged = self.tap.as_mut().map(|tap| tap(&flight)).unwrap_or_default();
            for message in forged.iter().chain([&flight.message]) {
                let site = &mut self.sites[flight.to];
                if !site.dead {
                    site.ike.receive(self.now, flight.from, flight.at, message, &mut site.source);
                    self.drain(flight.to);
                }
            }
        }
        for who in [WEST, EAST] {
            while let Some(done) = self.sites[who].engine.finish(self.now) {
                let site = &mut self.sites[who];
                if !site.dead {
                    done.acknowledge(&mut site.ike, self.now);
                    self.drain(who);
                }
            }
            let site = &mut self.sites[who];
            if !site.dead && site.ike.next_deadline().is_some_and(|at| at <= self.now) {
                site.ike.tick(self.now, &mut site.source);
                self.drain(who);
            }
        }
        while let Some(entry) = self.packets.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, packet) = entry.remove();
            self.sites[to].engine.open(self.now, packet);
        }
        if self.traffic_every.is_some_and(|every| self.now.is_multiple_of(every)) {
            self.pass_traffic();
        }
    }

    /// One inner packet of each core each way.
    fn pass_traffic(&mut self) {
        let now = self.now;
        for (who, core) in [WEST, EAST].into_iter().flat_map(|who| (0..self.cores).map(move |core| (who, core))) {
            let Some(packet) = self.sites[who].engine.seal(now, core) else { continue };
            if self.cut {
                continue;
            }
            if self.data_ms == (0, 0) {
                let engine = &mut self.sites[1 - who].engine;
                let before = engine.delivered;
                engine.open(now, packet);
                if engine.delivered > before {
                    self.arrived.insert((who, core), now);
                }
                continue;
            }
            let late = if self.data_ms.1 > 0 { self.chance.below(self.data_ms.1) } else { 0 };
            self.sequence += 1;
            self.packets.insert((now + self.data_ms.0 + late, self.sequence), (1 - who, packet));
        }
    }

    pub fn up(&self, who: usize) -> bool {
        self.sites[who].ike.snapshot(self.now)[0].state == PeerState::Up
    }

    /// Packets that were sealed and not delivered, or not sealed for want of an SA, on both sides.
    pub fn lost(&self) -> u64 {
        self.sites.iter().map(|site| site.engine.lost()).sum()
    }

    /// No key was ever given to an engine twice for sending, on whichever side.
    pub fn assert_keys_are_used_once(&self) {
        let all: Vec<_> = self.sites.iter().flat_map(|site| &site.engine.sealed_with).collect();
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), different.len(), "a key was used twice\n{}", self.describe());
    }

    pub fn both_up(&self) -> bool {
        self.up(WEST) && self.up(EAST)
    }

    /// IKE SAs of a site with its peer.
    pub fn ike_sas(&self, who: usize) -> Vec<penstock_ike::IkeSnapshot> {
        self.sites[who].ike.snapshot(self.now)[0].ike.clone()
    }

    /// Children of a site, as pairs of inbound and outbound SPI.
    pub fn children(&self, who: usize) -> Vec<(u32, u32)> {
        let sas = self.ike_sas(who).into_iter().flat_map(|sa| sa.children);
        sas.filter(|child| child.state == "up").map(|child| (child.inbound_spi, child.outbound_spi)).collect()
    }

    /// Both sites have the same single IKE SA, the same children, and the same keys for them.
    pub fn assert_agreed(&self) {
        let (west, east) = (self.ike_sas(WEST), self.ike_sas(EAST));
        assert_eq!((west.len(), east.len()), (1, 1), "one IKE SA each\n{}", self.describe());
        assert_eq!((west[0].local_spi, west[0].remote_spi), (east[0].remote_spi, east[0].local_spi));
        let mut mirrored: Vec<_> = self.children(EAST).into_iter().map(|(inbound, outbound)| (outbound, inbound)).collect();
        let mut children = self.children(WEST);
        mirrored.sort_unstable();
        children.sort_unstable();
        assert_eq!(children, mirrored, "the same children\n{}", self.describe());
        for who in [WEST, EAST] {
            for (inbound, outbound) in self.children(who) {
                let sealing = self.sites[who].engine.outbound_keys(inbound, outbound).expect("an outbound SA");
                let opening = self.sites[1 - who].engine.inbound_keys(outbound).expect("the peer's inbound SA");
                assert!(sealing == opening, "the same key for {outbound:x}");
            }
        }
    }

    pub fn describe(&self) -> String {
        let mut text = format!("at {}\n", self.now);
        for (name, who) in [("west", WEST), ("east", EAST)] {
            let site = &self.sites[who];
            let peer = &site.ike.snapshot(self.now)[0];
            let engine = &site.engine;
            text += &format!("{name}: {:?} {:?} no_sa {} unknown {}\n", peer.state, peer.last_error, engine.no_sa, engine.unknown_spi);
            for sa in &peer.ike {
                let role = if sa.initiator { "began" } else { "answered" };
                text += &format!("  {:016x} {role} {} {} ms:", sa.local_spi.min(sa.remote_spi), sa.state, sa.age_ms);
                sa.children.iter().for_each(|child| text += &format!(" {:x}/{:x} {}", child.inbound_spi, child.outbound_spi, child.state));
                text.push('\n');
            }
            site.events.iter().for_each(|(_, line)| text += &format!("  | {line}\n"));
        }
        text
    }
}
