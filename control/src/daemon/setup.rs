//! The start: adopt an engine that runs, or make device and sockets and order one. Until it is known that no engine
//! runs, nothing is opened: a second set of queues would be read by nobody.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use penstock_uapi::Status;
use penstock_uapi::reply::Welcome;
use penstock_uapi::request::{Start, feature};
use tokio::sync::mpsc;
use zerocopy::little_endian::{U16, U32};

use super::devices::Devices;
use super::link::{Link, Word};
use super::{Stop, site};
use crate::config::{Config, IkePort};
use crate::engine::{Client, EngineError, Event};
use crate::launcher::Options;
use crate::netlink::{self, Netlink};
use crate::socket::SocketError;
use crate::tun::TunError;
use crate::{log, private, socket, tun};

/// How long an engine that was ordered may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// How long an earlier control may hold the running engine: its socket closes when it is dead.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// Between two tries to reach an engine that starts.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);

/// An engine that answers.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) client: Client,
    pub(super) welcome: Welcome,
    pub(super) events: mpsc::Receiver<Event>,
}

/// All that the work needs.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) engine: Engine,
    pub(super) devices: Devices,
    pub(super) netlink: Netlink,
    pub(super) plan: netlink::Plan,
    /// The addresses of this machine at the start.
    pub(super) here: Vec<IpNet>,
    /// Whether the engine ran before, with SAs.
    pub(super) adopted: bool,
    /// [`feature`] bits that may be used.
    pub(super) features: u16,
}

fn failed(error: impl ToString) -> Stop {
    Stop::Failed(error.to_string())
}

/// Makes everything ready, or says in one line why not; then nothing is left behind.
pub(super) async fn prepare(config: &Config, options: &Options, link: &Link) -> Result<Ready, Stop> {
    let netlink = Netlink::connect().map_err(failed)?;
    let here = addresses_of_others(config, &netlink).await?;
    refuse_connected(config, &netlink).await?;
    let (features, found) = (features(options), find(&options.engine_socket()).await?);
    if let Some((engine, cores)) = found {
        if cores.is_empty() {
            return fresh(config, options, link, netlink, here, features, Some(engine)).await;
        }
        let devices = Devices::adopt(cores, engine.welcome.set, &config.interface.name, config.site.port)?;
        let plan = site::netlink(config, engine.welcome.mtu.get(), &here);
        netlink.apply(&plan).await.map_err(failed)?;
        log::info("engine-adopted", &[("pid", &engine.welcome.pid), ("cores", &devices.count()), ("age_ms", &engine.welcome.age_ms)]);
        return Ok(Ready { engine, devices, netlink, plan, here, adopted: true, features });
    }
    fresh(config, options, link, netlink, here, features, None).await
}

fn features(options: &Options) -> u16 {
    let masked = feature::NAMES.iter().filter(|(_, name)| options.without.iter().any(|without| without == name));
    feature::ALL & !masked.fold(0, |bits, (bit, _)| bits | bit)
}

/// This machine's addresses; those of our own device come from the configuration.
pub(super) async fn addresses_of_others(config: &Config, netlink: &Netlink) -> Result<Vec<IpNet>, Stop> {
    let all = netlink.addresses().await.map_err(failed)?;
    Ok(all.into_iter().filter(|net| !config.interface.address.contains(net) && !net.addr().is_loopback()).collect())
}

/// A peer's subnet that is this machine's own network would take its neighbours away.
pub(super) async fn refuse_connected(config: &Config, netlink: &Netlink) -> Result<(), Stop> {
    let mut findings = Vec::new();
    let connected = netlink.connected(&config.interface.name).await.map_err(failed)?;
    for peer in &config.peers {
        for subnet in peer.subnets.iter().filter(|subnet| connected.contains(subnet)) {
            let problem = format!("{subnet} is a network that this machine itself is connected to");
            findings.push(peer.place.finding(problem, "name only networks behind the peer, or the parts of it that are there"));
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(Stop::Misuse(findings)) }
}

type Found = (Engine, Vec<crate::engine::HandedBack>);

/// Looks for a running engine.
async fn find(path: &Path) -> Result<Option<Found>, Stop> {
    let start = Instant::now();
    loop {
        match Client::connect(path).await {
            Ok((client, welcome, cores, events)) => return Ok(Some((Engine { client, welcome, events }, cores))),
            Err(EngineError::Unreachable { .. } | EngineError::Lost { .. }) => return Ok(None),
            Err(EngineError::Refused { status: Status::NotWriter, .. }) if start.elapsed() < WRITER_PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(EngineError::Refused { status: Status::NotWriter, .. }) => {
                return Err(failed(format!(
                    "another penstockd runs with {}; end it first: one network namespace has one penstockd",
                    path.display()
                )));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// A peer's subnet may cover its own endpoint. But a kernel with a strict reverse path filter then drops what the peer
/// sends, because the way back to it, for packets without our mark, leads into the tunnel.
fn warn_of_strict_filter(config: &Config) {
    let covers = |peer: &&crate::config::Peer| {
        let endpoint = peer.endpoint.as_ref().and_then(crate::config::Endpoint::address);
        endpoint.is_some_and(|ip| peer.subnets.iter().any(|subnet| subnet.contains(&ip)))
    };
    let Some(peer) = config.peers.iter().find(covers) else { return };
    let filter = |device: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter")).unwrap_or_default();
    let strict = |device: &String| filter("all").trim().max(filter(device).trim()) == "1";
    let devices = std::fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = devices.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let real = |name: &String| !["all", "default", "lo", config.interface.name.as_str()].contains(&name.as_str());
    let strict: Vec<String> = names.filter(real).filter(strict).collect();
    if !strict.is_empty() {
        let remedy = format!("sysctl net.ipv4.conf.{}.rp_filter=2", strict.join(".rp_filter=2 net.ipv4.conf."));
        log::warning("strict-rp-filter", &[("peer", &peer.name), ("reason", &"a subnet covers the endpoint"), ("try", &remedy)]);
    }
}

/// Opens everything and starts an engine with it.
async fn fresh(
    config: &Config,
    options: &Options,
    link: &Link,
    netlink: Netlink,
    here: Vec<IpNet>,
    mut features: u16,
    running: Option<Engine>,
) -> Result<Ready, Stop> {
    let cpus = site::cpus(config);
    let sockets = site::sockets(config, cpus.len(), features & feature::GRO != 0);
    let families = socket::open(&sockets, &mut |note| log::info("note", &[("text", &note)])).map_err(|error| socket_stop(config, error))?;
    let device = &config.interface.name;
    let is_new = netlink.link(device).await.map_err(failed)?.is_none();
    let queues = tun::open(device, cpus.len(), features & feature::USO != 0).map_err(|error| tun_stop(config, error))?;
    if !queues.uso {
        features &= !feature::USO;
    }
    let planned = async {
        if is_new {
            netlink.claim(device, &config.site.name).await.map_err(failed)?;
        }
        Ok(site::netlink(config, site::mtu(config, &paths(config, &netlink).await?), &here))
    };
    let plan = match planned.await {
        Ok(plan) => plan,
        Err(stop) => {
            // It may not be known as ours yet; made just now, it goes with its queues.
            if let Some(queue) = queues.queues.first().filter(|_| is_new) {
                let _ = tun::persist(device, queue, false);
            }
            return Err(stop);
        }
    };
    let devices = Devices::new(&cpus, queues, families);
    let started = async {
        netlink.apply(&plan).await.map_err(failed)?;
        let engine = match running {
            Some(engine) => engine,
            None => order(options, link).await?,
        };
        hand_over(config, &engine, &devices, plan.mtu, features, 0, Begin::AtOnce).await?;
        warn_of_strict_filter(config);
        Ok(engine)
    };
    match started.await {
        Ok(engine) => Ok(Ready { engine, devices, netlink, plan, here, adopted: false, features }),
        Err(stop) => {
            // The reason for the stop matters more than that something could not be taken away.
            let _ = netlink.remove(&plan).await;
            Err(stop)
        }
    }
}

async fn paths(config: &Config, netlink: &Netlink) -> Result<Vec<(IpAddr, Option<u32>)>, Stop> {
    let mut paths = Vec::new();
    for ip in site::literal_endpoints(config) {
        paths.push((ip, netlink.path_mtu(ip, config.site.mark).await.map_err(failed)?));
    }
    Ok(paths)
}

/// The sockets of port 500, as the configuration wants them.
pub(super) fn first_sockets(config: &Config) -> Result<Vec<OwnedFd>, Stop> {
    if config.site.ike_port == IkePort::None {
        return Ok(Vec::new());
    }
    match socket::open_first(&site::sockets(config, 0, false)) {
        Ok(sockets) => Ok(sockets),
        Err(error) if config.site.ike_port == IkePort::IfFree => {
            let remedy = "end that program, or write ike_port = 0 in [site] if no peer begins there";
            log::warning("port-500-not-listened-on", &[("reason", &error), ("try", &remedy)]);
            Ok(Vec::new())
        }
        Err(error @ SocketError::InUse(_)) => {
            let remedy = "end that program (another IKE daemon?), or write ike_port = 0: peers that begin on 4500 need no more";
            Err(Stop::misuse(config.site.ike_port_place.finding(error.to_string(), remedy)))
        }
        Err(error) => Err(socket_stop(config, error)),
    }
}

fn socket_stop(config: &Config, error: SocketError) -> Stop {
    let site = &config.site;
    let problem = error.to_string();
    Stop::misuse(match error {
        SocketError::InUse(_) => {
            site.port_place.finding(problem, "end that program (another IKE daemon?), or choose another port here and at the peers")
        }
        SocketError::NotHere(_) => site.listen_place.finding(problem, "name an address that `ip address` shows"),
        SocketError::NotPermitted => {
            config.interface.place.finding("a TUN device and marked sockets are not permitted", "run as root or with CAP_NET_ADMIN")
        }
        _ => return Stop::Failed(problem),
    })
}

fn tun_stop(config: &Config, error: TunError) -> Stop {
    let text = error.to_string();
    // Our errors end in their remedy.
    let (problem, remedy) = text.split_once("; ").unwrap_or((&text, "look at the kernel log"));
    Stop::misuse(config.interface.place.finding(problem, remedy))
}

/// Orders an engine from the launcher and waits until it answers.
async fn order(options: &Options, link: &Link) -> Result<Engine, Stop> {
    private::directory(&options.run_dir).map_err(failed)?;
    link.start_engine().map_err(failed)?;
    let path = options.engine_socket();
    tokio::select! {
        connected = connect(&path) => connected,
        stop = no_engine(link) => Err(stop),
    }
}

/// Waits until an engine that was ordered answers.
pub(super) async fn connect(path: &Path) -> Result<Engine, Stop> {
    let connected = async {
        loop {
            match Client::connect(path).await {
                Ok((client, welcome, _, events)) => return Ok(Engine { client, welcome, events }),
                // Gone again: a start that failed, of which the launcher is about to tell.
                Err(EngineError::Unreachable { .. } | EngineError::Lost { .. }) => tokio::time::sleep(CONNECT_PAUSE).await,
                Err(error) => return Err(failed(error)),
            }
        }
    };
    tokio::time::timeout(START_PATIENCE, connected).await.unwrap_or_else(|_| Err(failed("the engine does not answer")))
}

/// Waits for a reason why the ordered engine will never answer.
async fn no_engine(link: &Link) -> Stop {
    let mut started = false;
    loop {
        match link.word().await {
            Word::End => return Stop::Ended,
            Word::Gone => return failed("the launcher is gone"),
            Word::EngineFailed => return failed("the engine cannot be started; the line above says why"),
            Word::EngineStarted => started = true,
            Word::EngineEnded if started => return failed("the engine ended at its start; its own line above says why"),
            // The last word about the engine before this one.
            Word::EngineEnded => (),
            // The configuration was read a moment ago, and nobody has asked about programs.
            Word::Reload | Word::ProgramWorks | Word::ProgramFails | Word::NextGone | Word::EngineRelieved => (),
        }
    }
}

/// When an engine reads the TUN queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once.
    AtOnce,
    /// At once, but for what has waited there for too long.
    WithoutStale,
    /// When it is told that no other one reads them.
    WhenTold,
}

/// Gives an engine all descriptors and starts its cores.
pub(super) async fn hand_over(
    config: &Config,
    engine: &Engine,
    devices: &Devices,
    mtu: u16,
    features: u16,
    generation: u8,
    begin: Begin,
) -> Result<(), Stop> {
    devices.attach(&engine.client).await.map_err(failed)?;
    let start = Start {
        cores: U16::new(devices.count()),
        mtu: U16::new(mtu),
        vnet_header_bytes: tun::HEADER_BYTES,
        generation,
        features: U16::new(features),
        poll_us: U32::new(config.site.poll_us),
        drop_stale: (begin == Begin::WithoutStale).into(),
        set: devices.set(),
        waits: (begin == Begin::WhenTold).into(),
        reserved: 0,
    };
    engine.client.start(&start).await.map_err(failed)?;
    log::info("engine-started", &[("pid", &engine.welcome.pid), ("cores", &devices.count()), ("generation", &generation)]);
    Ok(())
}
