//! The event loop: everything that happens is told to the IKE state machine, and what it wants done is done.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use penstock_ike::{ChildId, Ike, PeerId};
use penstock_uapi::Role;
use penstock_uapi::reply::phase;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::admin::Asked;
use super::devices::Devices;
use super::host::Source;
use super::install::{Finished, Installer, Token};
use super::link::{Link, Word};
use super::policies::{Policies, is_first, peer_of};
use super::resolve::Resolved;
use super::setup::{Engine, Ready};
use super::{Stop, admin, kept, resolve, setup, site};
use crate::config::{Config, SourcePort, Start, Texts};
use crate::engine::{Event, PolicyOrder};
use crate::launcher::Options;
use crate::log;
use crate::netlink::{self, Netlink};
use crate::socket::ike::{Datagram, IkeSocket, Kind};
use crate::socket::intake::Endpoints;
use crate::sys;

mod deadline;
mod liveness;
mod orders;
mod outputs;
mod relief;
mod reload;
mod repair;
mod restart;
mod upgrade;

use deadline::Deadline;
use liveness::{Listening, Report};
use relief::{Home, Relief};
use reload::Reload;
use repair::Repair;
use restart::{Restart, Started};
use upgrade::Upgrade;

/// The most datagrams, results and requests that may wait for the loop.
const QUEUE_MAX: usize = 1024;

/// The most datagrams that are taken in one turn of the loop: in a flood its turns cost more than most of these.
const ROW_MAX: usize = 32;

/// How long peers may take to answer our DELETE when we end.
const FAREWELL: Duration = Duration::from_millis(1500);

/// How long control that is relieved waits for its last answer to be written.
const ANSWER_TIME: Duration = Duration::from_millis(20);

/// Between two lines about the same kind of unauthenticated event.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// Since when a peer is in its state, and what was the matter.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) since: Instant,
    pub(super) up: bool,
    pub(super) attempts: u64,
    pub(super) reason: Option<String>,
    /// The newest thing that went wrong, and when. It outlives being up.
    pub(super) last_error: Option<(Instant, String)>,
}

/// Something that happened.
#[derive(Debug)]
enum Happening {
    Word(Word),
    Datagram(Datagram),
    Engine(Event),
    Restarted(Started),
    Finished(Finished),
    Heard(Report),
    Resolved(Resolved),
    Asked(Asked),
    Reload(reload::Step),
    Repair(repair::Step),
    Relief(relief::Happening),
    Time,
    Signal,
}

/// The daemon at work.
#[derive(Debug)]
pub(super) struct Work {
    config: Rc<Config>,
    /// What that was read from.
    texts: Rc<Texts>,
    options: Options,
    link: Rc<Link>,
    engine: Option<Engine>,
    restart: Option<Restart>,
    engine_report: crate::admin::Engine,
    engine_started: Instant,
    installer: Installer,
    devices: Rc<Devices>,
    netlink: Netlink,
    plan: netlink::Plan,
    here: Vec<IpNet>,
    features: u16,

    ike: Ike,
    source: Source,
    started: Instant,
    /// When it wants to be called.
    deadline: Deadline,
    sockets: [Option<Rc<IkeSocket>>; 2],
    /// Those of port 500.
    first_sockets: [Option<Rc<IkeSocket>>; 2],
    ids: Vec<PeerId>,
    endpoints: Endpoints,
    statuses: HashMap<PeerId, Status>,
    tokens: HashMap<ChildId, Token>,
    /// SAs of an earlier control, to be retired once their peer has new ones.
    inherited: HashMap<PeerId, Vec<u32>>,
    /// Where peers without an endpoint are found again.
    last_seen: HashMap<PeerId, SocketAddr>,
    unknown_spis: u64,
    unknown_logged: Option<Instant>,
    /// Peers of which the engine is asked when they were heard.
    listening: Listening,
    /// A changed configuration on its way into force.
    reload: Reload,
    /// What is ours in the kernel, and is to stay there.
    repair: Repair,
    /// A newer program on its way to take over.
    upgrade: Upgrade,
    /// An engine on its way to relieve the one in use.
    relief: Relief,
    /// How many engine lives there were.
    epochs: u64,
    /// Told to end: what goes down now is no surprise.
    ending: bool,

    datagrams: mpsc::Receiver<Datagram>,
    finished: mpsc::Receiver<Finished>,
    resolved: mpsc::Receiver<Resolved>,
    resolver: mpsc::Sender<Resolved>,
    /// Names that are being looked up.
    resolving: HashMap<PeerId, AbortHandle>,
    asked: mpsc::Receiver<Asked>,
    signals: [Signal; 2],
}

fn failed(error: impl ToString) -> Stop {
    Stop::Failed(error.to_string())
}

/// Watches a socket and passes on what comes; a full queue leaves the rest in the kernel's buffer.
fn watch(socket: Rc<IkeSocket>, datagrams: mpsc::Sender<Datagram>) {
    tokio::task::spawn_local(async move { while datagrams.send(socket.receive().await).await.is_ok() {} });
}

/// A number for each peer: that of an adopted engine's policy of the same name, else a free one.
fn number_peers(config: &Config, known: &HashMap<String, u32>) -> Vec<PeerId> {
    let mut free = (0..).filter(|number| !known.values().any(|taken| taken == number));
    let number = |name: &String| known.get(name).copied().or_else(|| free.next()).unwrap_or_default();
    config.peers.iter().map(|peer| &peer.name).map(number).map(PeerId).collect()
}

fn policy_orders(config: &Config, ids: &[PeerId], here: &[IpNet]) -> Vec<PolicyOrder> {
    let order = |(peer, id): (&crate::config::Peer, &PeerId)| PolicyOrder {
        policy: id.0,
        name: peer.name.clone(),
        pairs: site::pairs(&penstock_ike::Selectors { local: site::offered(config, peer, here), remote: peer.subnets.clone() }),
        keep: false,
    };
    config.peers.iter().zip(ids).map(order).collect()
}

/// The SAs of an earlier control that have selectors of their own keep them.
fn keep_sets(policies: &mut Policies, running: &crate::engine::State, ids: &[PeerId]) {
    for policy in running.policies.iter().filter(|policy| !is_first(policy.policy.get())) {
        let number = policy.policy.get();
        let spis: Vec<u32> = running.sas.iter().filter(|sa| sa.policy.get() == number).map(|sa| sa.inbound_spi.get()).collect();
        if ids.contains(&peer_of(number)) && !spis.is_empty() {
            policies.keep(number, name_of(&policy.name), spis.into_iter());
        }
    }
}

/// Where each peer of an adopted engine is. One with several children is left out: only the peer itself can ask for each of them again,
/// and does so when it misses its IKE SA.
fn last_seen(running: &crate::engine::State) -> HashMap<PeerId, SocketAddr> {
    let mut found: HashMap<PeerId, (u32, SocketAddr, bool)> = HashMap::new();
    for sa in running.sas.iter().filter(|sa| sa.phase != phase::DRAINING) {
        let Some(remote) = sa.remote.to_socket() else { continue };
        let policy = sa.policy.get();
        let (first, _, one) = found.entry(peer_of(policy)).or_insert((policy, remote, true));
        *one &= *first == policy;
    }
    found.into_iter().filter(|(_, (_, _, one))| *one).map(|(peer, (_, remote, _))| (peer, remote)).collect()
}

impl Work {
    /// Takes over from the setup: policies, sockets, the state machine with all peers.
    pub(super) async fn new((config, texts): (Config, Texts), options: Options, link: Link, ready: Ready) -> Result<Self, Stop> {
        let config = Rc::new(config);
        let Ready { engine, devices, netlink, plan, here, adopted, features } = ready;
        let running = if adopted { engine.client.state().await.map_err(failed)? } else { crate::engine::State::default() };
        let firsts = running.policies.iter().filter(|policy| is_first(policy.policy.get()));
        let known = firsts.map(|policy| (name_of(&policy.name), policy.policy.get())).collect();
        let ids = number_peers(&config, &known);
        let orders = policy_orders(&config, &ids, &here);
        let mut policies = Policies::new(engine.welcome.policy_generation.get(), orders);
        keep_sets(&mut policies, &running, &ids);
        policies.commit(&engine.client).await.map_err(failed)?;
        let policies = Rc::new(policies);

        let mut inherited: HashMap<PeerId, Vec<u32>> = HashMap::new();
        for sa in running.sas.iter().filter(|sa| ids.contains(&peer_of(sa.policy.get()))) {
            let of_peer = inherited.entry(peer_of(sa.policy.get())).or_default();
            if sa.phase != phase::DRAINING {
                of_peer.push(sa.inbound_spi.get());
            }
        }
        let (datagram_sender, datagrams) = mpsc::channel(QUEUE_MAX);
        let (finished_sender, finished) = mpsc::channel(QUEUE_MAX);
        let (resolver, resolved) = mpsc::channel(QUEUE_MAX);
        let (asked_sender, asked) = mpsc::channel(QUEUE_MAX);
        let endpoints = Endpoints::default();
        let mut sockets = [None, None];
        for (place, role) in sockets.iter_mut().zip([Role::Ike4, Role::Ike6]) {
            let Some(fd) = devices.ike(role) else { continue };
            let socket = Rc::new(fd.and_then(|fd| IkeSocket::new(fd, config.site.port, endpoints.clone())).map_err(failed)?);
            watch(socket.clone(), datagram_sender.clone());
            *place = Some(socket);
        }
        let mut first_sockets = [None, None];
        for fd in setup::first_sockets(&config)? {
            let v4 = socket2::SockRef::from(&fd).local_addr().map_err(failed)?.is_ipv4();
            let socket = Rc::new(IkeSocket::new(fd, penstock_ike::FIRST_PORT, endpoints.clone()).map_err(failed)?);
            watch(socket.clone(), datagram_sender.clone());
            let [first_v4, first_v6] = &mut first_sockets;
            *(if v4 { first_v4 } else { first_v6 }) = Some(socket);
        }
        admin::serve(&options.control_socket(), asked_sender).map_err(|error| {
            Stop::Failed(format!("cannot listen on {}: {error}; choose another --run-dir", options.control_socket().display()))
        })?;
        let signals = [signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?];
        let index = netlink.link(&config.interface.name).await.map_err(failed)?.map_or(0, |link| link.index);
        let lost = netlink::watch::watch(config.interface.name.clone(), index).map_err(failed)?;
        let mut source = Source::new(engine.welcome.generation, devices.count());
        let started = Instant::now();
        let ike_config = penstock_ike::Config { port: config.site.port, ..penstock_ike::Config::default() };
        let ike = Ike::new(ike_config, 0, &mut source);
        let installer =
            Installer { client: engine.client.clone(), policies, epoch: 0, finished: finished_sender, installing: Rc::default() };
        let mut work = Self {
            engine_report: crate::admin::Engine { starts: u32::from(!adopted), ..crate::admin::Engine::default() },
            engine_started: started,
            engine: None,
            restart: None,
            installer,
            devices: Rc::new(devices),
            netlink,
            plan,
            here,
            features,
            ike,
            source,
            started,
            deadline: Deadline::default(),
            sockets,
            first_sockets,
            endpoints,
            statuses: HashMap::new(),
            tokens: HashMap::new(),
            inherited,
            last_seen: last_seen(&running),
            unknown_spis: 0,
            unknown_logged: None,
            listening: Listening::default(),
            ending: false,
            datagrams,
            finished,
            resolved,
            resolver,
            resolving: HashMap::new(),
            reload: Reload::default(),
            upgrade: Upgrade::default(),
            relief: Relief::default(),
            epochs: 0,
            repair: Repair::new(lost),
            asked,
            signals,
            config,
            texts: Rc::new(texts),
            options,
            link: Rc::new(link),
            ids,
        };
        tokio::task::spawn_local(work.netlink.clone().keep_super_packets_fit(work.plan.device.clone()));
        work.use_engine(engine);
        work.begin_peers();
        Ok(work)
    }

    /// A number for another engine life.
    fn new_epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Describes every peer to the state machine and lets it begin; names are looked up first.
    fn begin_peers(&mut self) {
        let config = self.config.clone();
        for warning in &config.warnings {
            log::warning("config", &[("text", warning)]);
        }
        for (peer, id) in config.peers.iter().zip(self.ids.clone()) {
            self.add_peer(id, peer);
        }
    }

    /// Looks up the name of a peer, if it has one and that is not under way.
    fn look_up(&mut self, id: PeerId) {
        let Some(peer) = self.peer(id).filter(|peer| resolve::literal(peer).is_none()).cloned() else { return };
        let (Some(endpoint), resolver) = (&peer.endpoint, &self.resolver) else { return };
        self.resolving.entry(id).or_insert_with(|| resolve::spawn(&peer, endpoint, id, resolver.clone()));
    }

    /// Nobody wants to know any more what the name of a peer leads to.
    fn forget_look_up(&mut self, id: PeerId) {
        if let Some(task) = self.resolving.remove(&id) {
            task.abort();
        }
    }

    /// A name was found: the first time the peer begins, later only a new address changes anything.
    fn resolved(&mut self, id: PeerId, endpoint: SocketAddr) {
        // What was under way when nobody wanted it any more leads nowhere.
        if self.resolving.remove(&id).is_none() {
            return;
        }
        if self.endpoints.get(id) != Some(endpoint) {
            log::info("name-resolved", &[("peer", &self.name(id)), ("address", &endpoint)]);
            self.begin_peer(id, Some(endpoint));
        }
    }

    fn begin_peer(&mut self, id: PeerId, endpoint: Option<SocketAddr>) {
        let config = self.config.clone();
        let Some(peer) = config.peers.iter().zip(&self.ids).find(|(_, other)| **other == id).map(|(peer, _)| peer) else { return };
        let now = self.now();
        let offered = site::offered(&config, peer, &self.here);
        // Who is given one port to send to uses one port too: it is set where a filter in between knows no other.
        self.source.set_shared(id, peer.source_port == SourcePort::Shared);
        self.ike.set_peer(now, site::ike_peer(peer, id, offered, endpoint));
        if let Some(endpoint) = endpoint {
            self.endpoints.insert(id, endpoint);
            // An adopted engine still holds SAs that the peer must not drop at once.
            let first_contact = !self.inherited.contains_key(&id);
            // What an adopted engine holds is to be had by the new IKE SA, whoever waits for whom.
            let wanted = peer.start == Start::Always || !first_contact;
            if wanted && !self.ike.is_closed(id) {
                self.ike.initiate(now, id, first_contact, &mut self.source);
            }
        }
    }

    /// Runs until told to end.
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        loop {
            self.carry_out();
            sys::wipe_stack();
            match self.next().await {
                Happening::Word(Word::End) | Happening::Signal => break,
                Happening::Word(Word::Gone) => return Err(failed("the launcher is gone; the engine goes on for the next start")),
                Happening::Word(Word::ProgramWorks) => return Err(self.relieved().await),
                Happening::Word(Word::ProgramFails) => self.not_upgraded(),
                Happening::Word(Word::Reload) => self.reload(reload::Asked::default()),
                Happening::Word(Word::NextGone) => self.not_relieved("it cannot be started, or has ended; the line above says why"),
                Happening::Word(Word::EngineRelieved) => self.engine_renamed(),
                Happening::Word(word) => self.engine_word(word),
                Happening::Datagram(datagram) => self.receive_all(datagram),
                Happening::Engine(Event::Lost) => self.engine_lost(),
                Happening::Restarted(started) => self.restarted(started),
                Happening::Engine(event) => self.engine_event(event),
                Happening::Finished(finished) => self.step_finished(finished),
                Happening::Heard(report) => self.heard(&report),
                Happening::Resolved((id, endpoint)) => self.resolved(id, endpoint),
                Happening::Asked((request, answer)) => self.order(request, answer),
                Happening::Reload(step) => self.reload_step(step),
                Happening::Repair(step) => self.repair(step),
                Happening::Relief(happening) => self.relief_happening(happening),
                Happening::Time => self.tick(),
            }
        }
        self.end().await
    }

    /// Lets time pass for the state machine, if it waits for that.
    fn tick(&mut self) {
        if self.deadline.take_due(Instant::now()) {
            let now = self.now();
            self.ike.tick(now, &mut self.source);
        }
    }

    async fn next(&mut self) -> Happening {
        let (ike, started) = (&self.ike, self.started);
        let wake = self.deadline.wake(Instant::now(), || ike.next_deadline().map(|at| started + Duration::from_millis(at)));
        let [terminate, interrupt] = &mut self.signals;
        tokio::select! {
            word = self.link.word() => Happening::Word(word),
            event = next_event(&mut self.engine) => Happening::Engine(event),
            started = next_start(&mut self.restart) => Happening::Restarted(started),
            report = self.listening.report() => Happening::Heard(report),
            step = self.reload.step() => Happening::Reload(step),
            step = self.repair.step() => Happening::Repair(step),
            happening = self.relief.happening() => Happening::Relief(happening),
            Some(finished) = self.finished.recv() => Happening::Finished(finished),
            Some(datagram) = self.datagrams.recv() => Happening::Datagram(datagram),
            Some(resolved) = self.resolved.recv() => Happening::Resolved(resolved),
            Some(asked) = self.asked.recv() => Happening::Asked(asked),
            _ = terminate.recv() => Happening::Signal,
            _ = interrupt.recv() => Happening::Signal,
            () = tokio::time::sleep_until(wake) => Happening::Time,
        }
    }

    /// Takes a datagram and those that wait behind it, but not for so long that anything else would have to wait.
    fn receive_all(&mut self, first: Datagram) {
        self.receive(first);
        for _ in 1..ROW_MAX {
            let Ok(datagram) = self.datagrams.try_recv() else { return };
            self.carry_out();
            self.receive(datagram);
        }
    }

    fn receive(&mut self, datagram: Datagram) {
        let Datagram { from, to, tos, kind } = datagram;
        match kind {
            Kind::Ike(message) => self.receive_ike(from, to, &message),
            // Merged behind an IKE message by the kernel: it belongs to the engine.
            Kind::Esp(packet) => {
                let client = self.client_for(packet.first_chunk().map_or(0, |spi| u32::from_be_bytes(*spi)));
                tokio::task::spawn_local(async move {
                    // ESP may be lost like any packet.
                    let _ = client.inject(from, to, tos, &packet).await;
                });
            }
            Kind::Other => (),
        }
    }

    fn receive_ike(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let now = self.now();
        self.ike.receive(now, from, to, message, &mut self.source);
    }

    /// Tells the peers, ends the engine, takes away what was made.
    async fn end(mut self) -> Result<(), Stop> {
        log::info("ending", &[("peers", &self.ids.len())]);
        self.ending = true;
        // An engine that is only being started has nothing to say to the peers.
        if let Some(restart) = self.restart.take() {
            restart.task.abort();
        }
        self.end_relief("penstockd is told to end");
        let now = self.now();
        for id in self.ids.clone() {
            self.ike.close(now, id);
        }
        let until = Instant::now() + FAREWELL;
        self.carry_out();
        while self.ike.closing() && Instant::now() < until {
            tokio::select! {
                happening = self.next() => match happening {
                    Happening::Datagram(datagram) => self.receive(datagram),
                    Happening::Engine(Event::Lost) => self.engine = None,
                    Happening::Engine(event) => self.engine_event(event),
                    Happening::Finished(finished) => self.step_finished(finished),
                    Happening::Time => self.tick(),
                    _ => (),
                },
                () = tokio::time::sleep_until(until) => (),
            }
            self.carry_out();
        }
        if self.engine.is_some()
            && let Err(error) = self.installer.client.shutdown(Duration::ZERO).await
        {
            log::warning("engine-not-ended", &[("reason", &error)]);
        }
        if !self.config.site.persist {
            self.netlink.remove(&self.plan).await.map_err(failed)?;
        }
        for socket in [self.options.control_socket(), self.options.engine_socket(), self.options.next_engine_socket()] {
            // It may be gone already.
            let _ = std::fs::remove_file(socket);
        }
        kept::forget(&self.options.run_dir);
        log::info("ended", &[]);
        Ok(())
    }
}

/// The engine's next event; never, without an engine.
async fn next_event(engine: &mut Option<Engine>) -> Event {
    match engine {
        Some(engine) => engine.events.recv().await.unwrap_or(Event::Lost),
        None => std::future::pending().await,
    }
}

/// The end of a try to start an engine; never, without one.
async fn next_start(restart: &mut Option<Restart>) -> Started {
    match restart {
        Some(restart) => restart.finished().await,
        None => std::future::pending().await,
    }
}

/// A name padded with zeros.
fn name_of(bytes: &[u8; 64]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// An address to send from, unless the kernel is to choose.
fn specified(ip: IpAddr) -> Option<IpAddr> {
    (!ip.is_unspecified()).then_some(ip)
}
