//! A crowd: one real daemon with thousands of peers, whose far ends are state machines in this process, each with an address of its own. How
//! soon are all up, and what does each cost?
//!
//! ```text
//!   hub: penstockd, engine      wire0 10.0.0.0/24      crowd: one socket for 10.100.0.0/15,
//!   10.43.43.1               .1 ─────────────────── .2  an `Ike` behind each of its addresses
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use penstock_ike::{Config, Dpd, Host, Identity, Ike, IkeSuite, Output, PeerConfig, PeerId, Psk, Start, Suite, Upkeep};
use serde::Serialize;

use crate::lab::{Namespace, Site, SiteOptions, Wire, WireOptions};
use crate::soak::usage;
use crate::sys;

/// The most peers: as many as the networks below have addresses.
const PEERS_MAX: usize = 100_000;
/// The far ends' addresses and the networks behind them, by number.
const ENDPOINTS: u32 = u32::from_be_bytes([10, 100, 0, 0]);
const NETWORKS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
/// The crowd's buffer: all first messages may come at once.
const RECEIVE_BUFFER_BYTES: usize = 256 << 20;

/// A plan.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// How many peers.
    pub peers: usize,
    /// How long they may take.
    pub patience: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct CrowdReport {
    /// Peers.
    pub peers: usize,
    /// From the start of the daemon until the last far end had its SAs.
    pub up_seconds: f64,
    /// From its first message until then, for each second.
    pub handshakes_per_second: f64,
    /// Peers that the daemon shows as up.
    pub shown_up: usize,
    /// What each peer costs above the first one, in bytes of memory: control and engine.
    pub bytes_per_peer: [f64; 2],
}

impl Crowd {
    /// Runs the plan, after one with a single peer to compare with.
    ///
    /// # Errors
    /// If the daemon does not start, or not all are up in time.
    pub fn run(&self) -> Result<CrowdReport> {
        ensure!((2..=PEERS_MAX).contains(&self.peers), "2 to {PEERS_MAX} peers");
        let (alone, _) = self.gather(1)?;
        let (memory, mut report) = self.gather(self.peers)?;
        let more = (self.peers - 1) as f64;
        report.bytes_per_peer = [0, 1].map(|program: usize| (memory[program] - alone[program]) / more);
        Ok(report)
    }

    fn gather(&self, peers: usize) -> Result<([f64; 2], CrowdReport)> {
        let [hub, crowd] = [Namespace::new("hub")?, Namespace::new("crowd")?];
        let wire = Wire::new(&hub, &crowd, &WireOptions::default())?;
        hub.ip("addr add 10.43.43.1/32 dev lo")?;
        hub.ip(&format!("route add 10.100.0.0/15 via {}", wire.host_v4(1).address))?;
        crowd.ip("route add local 10.100.0.0/15 dev lo")?;
        let secret = random::<32>()?;
        let far = Far::start(&crowd, secret)?;
        let text = format!("0x{}", secret.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let options = SiteOptions { config: config(peers), secrets: vec![("all.psk".into(), text)], ..SiteOptions::default() };
        let mut site = Site::new("hub", &hub, options)?;
        let start = Instant::now();
        site.start()?;
        let mut first = None;
        while far.up.load(Ordering::Acquire) < peers {
            first = first.or_else(|| (far.heard.load(Ordering::Acquire) > 0).then(Instant::now));
            ensure!(start.elapsed() < self.patience, "{} of {peers} up\n{}", far.up.load(Ordering::Acquire), site.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        let (up, since_first) = (start.elapsed(), first.unwrap_or(start).elapsed());
        // The answers to the last of them are still on their way to the hub.
        let shown = site.wait_peers_up(peers, Duration::from_secs(30))?;
        let is_up = |peer: &&serde_json::Value| peer["state"] == "up";
        let shown_up = shown["peers"].as_array().map_or(0, |all| all.iter().filter(is_up).count());
        let memory = [memory(site.control_pid()?)?, memory(site.engine_pid()?)?];
        let report = CrowdReport {
            peers,
            up_seconds: up.as_secs_f64(),
            handshakes_per_second: peers as f64 / since_first.as_secs_f64(),
            shown_up,
            bytes_per_peer: [0.0; 2],
        };
        Ok((memory, report))
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn address(base: u32, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(base + number as u32 + 1)
}

fn config(peers: usize) -> String {
    let mut text = String::from("[site]\nname = \"hub\"\ncores = 2\n[interface.pen0]\naddress = [\"192.168.192.1/30\"]\n");
    for number in 0..peers {
        text += &format!(
            "[peer.p{number}]\nendpoint = \"{}\"\nlocal_subnets = [\"10.43.43.0/24\"]\nsubnets = [\"{}/32\"]\npsk_file = \"all.psk\"\n",
            address(ENDPOINTS, number),
            address(NETWORKS, number)
        );
    }
    text
}

/// Resident memory in bytes.
fn memory(pid: u32) -> Result<f64> {
    let [(_, bytes), ..] = usage(pid)?;
    Ok(bytes)
}

/// All far ends, and the thread that they live in.
struct Far {
    up: Arc<AtomicUsize>,
    heard: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Far {
    fn start(namespace: &Namespace, secret: [u8; 32]) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind("0.0.0.0:4500"))??;
        sys::force_receive_buffer(&socket, RECEIVE_BUFFER_BYTES)?;
        sys::tell_destination(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (up, heard, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut ends = Ends {
            socket,
            secret,
            up: Arc::clone(&up),
            all: HashMap::new(),
            source: Source { urandom: File::open("/dev/urandom")?, spi: 0x1_0000 },
            start: Instant::now(),
        };
        let (noted, stopped) = (Arc::clone(&heard), Arc::clone(&stop));
        let live = move || {
            let mut buffer = vec![0; 65_536];
            while !stopped.load(Ordering::Acquire) {
                // A time without a datagram is no fault.
                let Ok((length, from, to)) = sys::receive_with_destination(&ends.socket, &mut buffer) else { continue };
                noted.fetch_add(1, Ordering::AcqRel);
                // What has no non-ESP marker is a keepalive or ESP, and nobody here sends inner packets.
                if let Some(message) = buffer.get(4..length).filter(|_| buffer.starts_with(&[0; 4])) {
                    ends.hear(from, to, message);
                }
            }
        };
        let thread = std::thread::Builder::new().name("crowd".into()).spawn(live)?;
        Ok(Self { up, heard, stop, thread: Some(thread) })
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Ends {
    socket: UdpSocket,
    secret: [u8; 32],
    up: Arc<AtomicUsize>,
    all: HashMap<Ipv4Addr, Ike>,
    source: Source,
    start: Instant,
}

/// Chance and SPIs of all far ends: each SPI belongs to one.
struct Source {
    urandom: File,
    spi: u32,
}

impl Host for Source {
    fn random(&mut self, bytes: &mut [u8]) {
        self.urandom.read_exact(bytes).expect("the kernel's random numbers");
    }

    fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
        self.spi += 1 << 8;
        self.spi
    }
}

impl Ends {
    fn hear(&mut self, from: SocketAddr, to: Ipv4Addr, message: &[u8]) {
        let now = self.start.elapsed().as_millis() as u64;
        let Self { all, source, secret, .. } = self;
        let ike = all.entry(to).or_insert_with(|| far_end(to, secret, now, source));
        ike.receive(now, from, SocketAddr::new(to.into(), 4500), message, source);
        while let Some(output) = ike.poll() {
            match output {
                Output::Send { to: target, message, .. } => {
                    // A lost answer is asked for again.
                    let _ = sys::send_from(&self.socket, &[&[0; 4], message.as_slice()].concat(), to, target);
                }
                Output::Expect { child, .. } => ike.expected(now, child),
                Output::InstallInbound { child, .. } => ike.installed(now, child),
                Output::InstallOutbound { child, .. } => ike.activated(now, child),
                Output::Up { replaces: None, .. } => _ = self.up.fetch_add(1, Ordering::AcqRel),
                _ => {}
            }
        }
    }
}

/// The state machine behind an address: a Penstock that waits for the hub.
fn far_end(address: Ipv4Addr, secret: &[u8; 32], now: u64, source: &mut Source) -> Ike {
    let number = u32::from(address).wrapping_sub(ENDPOINTS).wrapping_sub(1);
    let mut ike = Ike::new(Config::default(), now, source);
    let net = |ip: IpAddr, length| ipnet::IpNet::new(ip, length).expect("a length");
    ike.set_peer(
        now,
        PeerConfig {
            id: PeerId(1),
            name: "hub".into(),
            local_id: Identity::Fqdn(format!("p{number}")),
            remote_id: Identity::Fqdn("hub".into()),
            psk: Psk::new(secret.to_vec()),
            local_subnets: vec![net(Ipv4Addr::from(NETWORKS + number + 1).into(), 32)],
            remote_subnets: vec![net([10, 43, 43, 0].into(), 24)],
            ike_suites: IkeSuite::DEFAULT.to_vec(),
            ml_kem: true,
            esp_suites: vec![Suite::Aes256Gcm16],
            endpoint: None,
            local: None,
            per_core: true,
            start: Start::Wait,
            upkeep: Upkeep::default(),
            dpd: Dpd { within_ms: 3_600_000, ..Dpd::default() },
            keepalive_ms: penstock_ike::KEEPALIVE_MS,
        },
    );
    ike
}
