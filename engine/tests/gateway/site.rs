//! Two sites with an engine each, and keys from nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use penstock_perf::lab::{Host, Namespace, Wire, WireOptions};
use penstock_perf::load::PingPong;
use penstock_uapi::request::{
    AttachCore, InstallInbound, InstallOutbound, Key, Limits, Pair, Policy, PolicyBegin, PolicyCommit, PolicyPairs, Start, feature, source,
    suite, switch,
};
use penstock_uapi::{Counter, Endpoint, Prefix, Spi};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::client::{Client, State};
use super::device;

pub(crate) const POLICY: u32 = 7;
pub(crate) const PORT: u16 = 4500;
const MTU: u16 = 1418;

/// How the engines are run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) cores: usize,
    pub(crate) without: &'static str,
    pub(crate) sandbox: bool,
    pub(crate) wire: WireOptions,
    /// The outer family is IPv6.
    pub(crate) outer_v6: bool,
    /// All SAs on the first core.
    pub(crate) single_sa: bool,
    /// Everything leaves from the shared port.
    pub(crate) shared_port: bool,
    pub(crate) poll_us: u32,
    /// How many packets wait in the TUN queue when the engine starts, to be dropped as stale.
    pub(crate) stale: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: 1,
            without: "",
            sandbox: false,
            wire: WireOptions::default(),
            outer_v6: false,
            single_sa: false,
            shared_port: false,
            poll_us: 0,
            stale: 0,
        }
    }
}

/// An engine process that ends with the test.
#[derive(Debug)]
pub(crate) struct Engine {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Engine {
    pub(crate) fn start(directory: &Path, options: &Options) -> Self {
        std::fs::create_dir_all(directory).expect("a directory");
        let socket = directory.join("engine.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(env!("CARGO_BIN_EXE_penstock-engine"));
        command.arg("--socket").arg(&socket).stdin(Stdio::null());
        if options.sandbox {
            let jail = directory.join("jail");
            std::fs::create_dir_all(&jail).expect("a directory");
            command.args(["--user", "65534"]).arg("--jail").arg(jail);
        } else {
            command.arg("--no-sandbox");
        }
        if !options.without.is_empty() {
            command.args(["--without", options.without]);
        }
        Self { child: command.spawn().expect("the engine starts"), socket }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(self.socket.parent().expect("a directory"));
    }
}

/// A fresh directory for a socket.
pub(crate) fn directory(name: &str) -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("pen-engine-{}-{number}-{name}", std::process::id()))
}

/// One site.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) namespace: Namespace,
    pub(crate) engine: Engine,
    pub(crate) client: Client,
    side: usize,
}

/// Inner addresses of a side.
fn inner(side: usize) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 77, side as u8, 1).into(), Ipv6Addr::new(0xfd77, side as u16, 0, 0, 0, 0, 0, 1).into()]
}

/// Never the same bytes twice.
pub(crate) fn key() -> [u8; 36] {
    let mut bytes = [0; 36];
    aws_lc_rs::rand::fill(&mut bytes).expect("random numbers");
    bytes
}

pub(crate) fn key_of(bytes: &[u8; 36]) -> Key {
    let mut key = Key { key: [0; 32], salt: [0; 4], suite: suite::AES_128_GCM_16, esn: 1, reserved: [0; 2] };
    key.key[..16].copy_from_slice(&bytes[..16]);
    key.salt.copy_from_slice(&bytes[32..]);
    key
}

impl Site {
    fn new(side: usize, namespace: Namespace, options: &Options) -> Self {
        let engine = Engine::start(&directory(&format!("side{side}")), options);
        let mut client = Client::connect(&engine.socket);
        client.hello(true).expect("we are the writer");
        let gro = !options.without.contains("gro");
        let mut cores = namespace.enter(|| device::sockets(options.cores, PORT, gro)).expect("the namespace");
        for core in &mut cores {
            let tun = namespace.enter(|| device::tun("pen0")).expect("the namespace");
            core.0.push((penstock_uapi::Role::Tun, tun));
        }
        let other = 1 - side;
        for command in [
            format!("link set pen0 mtu {MTU} gso_max_size 60000 txqueuelen 20000 up"),
            format!("addr add 10.77.{side}.1/32 dev lo"),
            format!("addr add fd77:{side}::1/128 dev lo nodad"),
            format!("route add 10.77.{other}.0/24 dev pen0 src 10.77.{side}.1"),
            format!("route add fd77:{other}::/32 dev pen0 src fd77:{side}::1"),
        ] {
            namespace.ip(&command).expect("ip");
        }
        for (number, core) in cores.iter_mut().enumerate() {
            let (roles, descriptors) = core.in_order();
            let attach =
                AttachCore { core: U16::new(number as u16), cpu: U16::new((number as u16 + side as u16) % 2), roles: U32::new(roles) };
            client.ask_with(&attach, &[], &descriptors).expect("the core is attached");
        }
        let start = Start {
            cores: U16::new(options.cores as u16),
            mtu: U16::new(MTU),
            vnet_header_bytes: 10,
            generation: 1,
            features: U16::new(feature::ALL),
            poll_us: U32::new(options.poll_us),
            drop_stale: (options.stale > 0).into(),
            set: 0,
            waits: 0,
            reserved: 0,
        };
        let sender = namespace.enter(|| UdpSocket::bind(SocketAddr::new(inner(side)[0], 0))).expect("inside").expect("our address");
        for _ in 0..options.stale {
            sender.send_to(b"too late", SocketAddr::new(inner(other)[0], 9)).expect("the route leads into the device");
        }
        client.ask(&start).expect("it starts");
        let mut site = Self { namespace, engine, client, side };
        site.set_policies(1);
        site
    }

    /// One policy: our subnets, theirs.
    pub(crate) fn set_policies(&mut self, generation: u64) {
        let prefix = |side: usize, v6: bool| {
            if v6 {
                Prefix::new(Ipv6Addr::new(0xfd77, side as u16, 0, 0, 0, 0, 0, 0).into(), 32)
            } else {
                Prefix::new(Ipv4Addr::new(10, 77, side as u8, 0).into(), 24)
            }
        };
        let pairs = [false, true].map(|v6| Pair { local: prefix(self.side, v6), remote: prefix(1 - self.side, v6) });
        let generation = U64::new(generation);
        let mut name = [0; 64];
        name[..4].copy_from_slice(b"peer");
        let policy = U32::new(POLICY);
        self.client.ask(&PolicyBegin { generation }).expect("a table begins");
        self.client.ask(&Policy { policy, keep: U32::ZERO, name }).expect("a policy");
        self.client.ask_with(&PolicyPairs { policy, count: U32::new(2) }, pairs.as_bytes(), &[]).expect("its pairs");
        self.client.ask(&PolicyCommit { generation, policies: U32::new(1), pairs: U32::new(2) }).expect("the table is in force");
    }

    /// Waits until nothing is in flight, which is when the sums hold and nothing moves any more.
    pub(crate) fn settled(&mut self) -> State {
        let mut before = self.client.state();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let state = self.client.state();
            let same = Counter::ALL.iter().filter(|c| **c != Counter::Sleeps).all(|c| state.counter(*c) == before.counter(*c));
            let sums = state.sums();
            if same && sums.iter().all(|(left, right)| left == right) {
                return state;
            }
            assert!(Instant::now() < deadline, "{sums:?} {:?}", state.drops());
            before = state;
        }
    }
}

/// Two sites and the wire between them.
#[derive(Debug)]
pub(crate) struct Pairing {
    pub(crate) sites: [Site; 2],
    pub(crate) wire: Wire,
    options: Options,
    number: u32,
    /// Dropped last: two pairings at once would fight for the CPUs that their workers are pinned to.
    _alone: MutexGuard<'static, ()>,
}

/// Held by the one pairing that there is.
static ALONE: Mutex<()> = Mutex::new(());

impl Pairing {
    /// Both sites, with keys for every core.
    pub(crate) fn new(options: &Options) -> Self {
        // A test that failed has poisoned it, which is no reason for the others to fail.
        let alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let namespaces = ["a", "b"].map(|name| Namespace::new(&format!("shell-{name}")).expect("a namespace"));
        let wire = Wire::new(&namespaces[0], &namespaces[1], &options.wire).expect("a wire");
        // A fresh veth device speaks IPv6 only when its link was noticed, up to a second after it came up.
        let up = |wire: &Wire| {
            let echo = PingPong { duration: Duration::from_millis(20), ..PingPong::default() };
            echo.run(&wire.host_v6(0), &wire.host_v6(1)).is_ok_and(|latency| latency.lost == 0)
        };
        assert!(!options.outer_v6 || (0..50).any(|_| up(&wire)), "no IPv6 on the wire");
        let [a, b] = namespaces;
        let sites = [Site::new(0, a, options), Site::new(1, b, options)];
        let mut pairing = Self { sites, wire, options: options.clone(), number: 1, _alone: alone };
        pairing.install();
        pairing
    }

    /// Fresh keys in both directions, for each core or for the first only; the inbound halves first.
    pub(crate) fn install(&mut self) -> Vec<[u32; 2]> {
        let cores = if self.options.single_sa { 1 } else { self.options.cores };
        (0..cores).map(|core| self.install_core(core as u8)).collect()
    }

    fn install_core(&mut self, core: u8) -> [u32; 2] {
        let keys = [key(), key()];
        self.number += 1;
        let number = self.number;
        let spis = [0, 1].map(|side: u32| Spi::compose(number << 4 | side << 1 | 1, 1, core).expect("not zero").value());
        for (side, site) in self.sites.iter_mut().enumerate() {
            let request = InstallInbound {
                spi: U32::new(spis[side]),
                policy: U32::new(POLICY),
                window: U32::new(16_384),
                reserved: U32::ZERO,
                limits: Limits::default(),
                key: key_of(&keys[1 - side]),
            };
            site.client.ask(&request).expect("the inbound half is installed");
        }
        let v6 = self.options.outer_v6;
        for (side, site) in self.sites.iter_mut().enumerate() {
            let host = if v6 { self.wire.host_v6(1 - side) } else { self.wire.host_v4(1 - side) };
            let request = InstallOutbound {
                spi: U32::new(spis[1 - side]),
                inbound_spi: U32::new(spis[side]),
                policy: U32::new(POLICY),
                switch: switch::NOW,
                source: if self.options.shared_port { source::SHARED } else { source::OWN },
                fallback: (core == 0).into(),
                per_core: (self.options.cores > 1).into(),
                switch_ms: U32::ZERO,
                dscp: 255,
                reserved: [0; 3],
                local: Endpoint::NONE,
                remote: Endpoint::from(SocketAddr::new(host.address, PORT)),
                limits: Limits::default(),
                key: key_of(&keys[side]),
            };
            site.client.ask(&request).expect("the outbound half is installed");
        }
        spis
    }

    /// Everything that was counted, for whoever has to find out what went wrong.
    pub(crate) fn report(&mut self) -> String {
        let mut text = String::new();
        for site in &mut self.sites {
            let state = site.client.state();
            let counters = Counter::ALL.iter().map(|counter| (counter.name(), state.counter(*counter))).filter(|(_, count)| *count > 0);
            text += &format!("{:?}\n{:?}\n", counters.collect::<Vec<_>>(), state.drops());
            for device in ["pen0", "wire0"] {
                text += &format!("{device}: {:?}\n", site.namespace.device_counters(device).expect("a device"));
            }
            for thread in std::fs::read_dir(format!("/proc/{}/task", site.engine.pid())).expect("threads") {
                let thread = thread.expect("a thread").path();
                for file in ["comm", "syscall", "stack", "schedstat"] {
                    text += &std::fs::read_to_string(thread.join(file)).unwrap_or_default();
                }
            }
            for table in ["udp", "udp6", "snmp"] {
                let path = format!("/proc/thread-self/net/{table}");
                text += &site.namespace.enter(|| std::fs::read_to_string(path)).expect("inside").expect("a table");
            }
        }
        text
    }

    /// The inner host of a side.
    pub(crate) fn host(&self, side: usize, v6: bool) -> Host {
        Host { namespace: self.sites[side].namespace.clone(), address: inner(side)[usize::from(v6)] }
    }
}
