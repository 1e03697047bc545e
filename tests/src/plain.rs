//! A peer that knows RFC 7296 and ESP in UDP, and nothing beyond: a second witness beside strongSwan. It says the truth in NAT
//! detection, sends no vendor ID, has one SA pair for all cores, and encapsulates only if it takes one side to be behind a NAT; else
//! it would need ESP without UDP, which it cannot send, and counts that. Every inner datagram goes back to where it came from.
//!
//! Its IKE is our own state machine in its plain form, its ESP stands in [`sas`]: one thread, one socket on port 4500.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use penstock_ike::{Config, Dpd, Host, Identity, Ike, IkeSuite, KEEPALIVE_MS, Nat, Output, PeerConfig, PeerId, Psk, Start, Suite, Upkeep};
use penstock_perf::lab::Namespace;

pub mod sas;

use sas::{Opened, Sas};

const PORT: u16 = 4500;
const PEER: PeerId = PeerId(1);
/// How long the thread waits for a datagram before it looks at the time.
const PATIENCE: Duration = Duration::from_millis(2);
/// What stands in front of a message of IKE (RFC 3948 section 2.2).
const MARKER: [u8; 4] = [0; 4];

/// Who it talks to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its own address.
    pub own: IpAddr,
    /// Where it finds the other side.
    pub other: IpAddr,
    /// The names of both, its own first.
    pub names: [&'static str; 2],
    /// The networks behind both, its own first.
    pub networks: [&'static str; 2],
    /// The key.
    pub psk: Vec<u8>,
}

/// What it is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Begin.
    Initiate,
    /// New keys for packets.
    RekeyChild,
    /// New keys for IKE.
    RekeyIke,
}

/// What has happened there.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pairs that carried traffic, successors included.
    pub pairs: u64,
    /// Successors.
    pub rekeyed: u64,
    /// What NAT detection said of the newest pair.
    pub nat: Nat,
    /// Inner packets that came and went back.
    pub echoed: u64,
    /// Packets for no SA.
    pub unknown: u64,
    /// Packets that could not be opened, or carried nothing that goes back.
    pub bad: u64,
    /// Packets that came twice.
    pub again: u64,
    /// Inner packets that it could not send back: no SA, or nothing that told it to encapsulate.
    pub unsent: u64,
    /// What its state machine said.
    pub log: Vec<String>,
}

/// A running one. Dropping it ends its thread; it says no goodbye.
pub struct Plain {
    orders: Sender<Order>,
    seen: Arc<Mutex<Seen>>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Plain {
    /// Starts it in a namespace. It waits until it is told to begin.
    ///
    /// # Errors
    /// If it gets no socket.
    pub fn start(namespace: &Namespace, options: &Options) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((options.own, PORT)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (orders, taken) = mpsc::channel();
        let (seen, ending) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let mut peer = Peer::new(socket, options, Arc::clone(&seen));
        let told = Arc::clone(&ending);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                peer.step(&taken);
            }
        });
        Ok(Self { orders, seen, ending, thread: Some(thread) })
    }

    /// Tells it to do something, as soon as it can.
    pub fn order(&self, order: Order) {
        // Its thread is gone only if it has panicked, which the drop shows.
        let _ = self.orders.send(order);
    }

    /// What has happened so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Random numbers, and SPIs of them.
struct Source;

impl Host for Source {
    fn random(&mut self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the kernel's generator");
    }

    fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
        let mut bytes = [0; 4];
        self.random(&mut bytes);
        u32::from_be_bytes(bytes) | 0x100
    }
}

/// What the thread has.
struct Peer {
    socket: UdpSocket,
    own: SocketAddr,
    ike: Ike,
    sas: Sas,
    encapsulates: bool,
    /// When the newest packet was opened.
    heard: Option<u64>,
    began: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Peer {
    fn new(socket: UdpSocket, options: &Options, seen: Arc<Mutex<Seen>>) -> Self {
        let name = |side: usize| options.names[side].to_owned();
        let network = |side: usize| vec![options.networks[side].parse().expect("a prefix")];
        let mut ike = Ike::new(Config { plain: true, ..Config::default() }, 0, &mut Source);
        ike.set_peer(
            0,
            PeerConfig {
                id: PEER,
                name: name(1),
                local_id: Identity::Fqdn(name(0)),
                remote_id: Identity::Fqdn(name(1)),
                psk: Psk::new(options.psk.clone()),
                local_subnets: network(0),
                remote_subnets: network(1),
                ike_suites: IkeSuite::DEFAULT.to_vec(),
                ml_kem: false,
                esp_suites: vec![Suite::Aes256Gcm16],
                endpoint: Some((options.other, PORT).into()),
                local: Some(options.own),
                per_core: false,
                start: Start::Wait,
                upkeep: Upkeep::default(),
                dpd: Dpd::default(),
                keepalive_ms: KEEPALIVE_MS,
            },
        );
        let own = (options.own, PORT).into();
        Self { socket, own, ike, sas: Sas::default(), encapsulates: false, heard: None, began: Instant::now(), seen }
    }

    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).expect("not for that long")
    }

    /// Takes one datagram, and does what is due.
    fn step(&mut self, orders: &Receiver<Order>) {
        let mut bytes = [0; 65_536];
        match self.socket.recv_from(&mut bytes) {
            Ok((length, from)) => self.datagram(from, &bytes[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The other side's port may be closed: that is a lost datagram.
            Err(error) => self.note(|seen| seen.log.push(format!("the socket: {error}"))),
        }
        let now = self.now();
        match orders.try_recv() {
            Ok(Order::Initiate) => self.ike.initiate(now, PEER, true, &mut Source),
            Ok(Order::RekeyChild) => _ = self.ike.rekey(now, PEER, &mut Source),
            Ok(Order::RekeyIke) => _ = self.ike.renew(now, PEER),
            Err(_) => {}
        }
        if self.ike.next_deadline().is_some_and(|at| at <= now) {
            self.ike.tick(now, &mut Source);
        }
        self.sas.time(now);
        while let Some(output) = self.ike.poll() {
            self.carry_out(now, output);
        }
    }

    fn datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        if let Some(message) = datagram.strip_prefix(&MARKER) {
            return self.ike.receive(self.now(), from, self.own, message, &mut Source);
        }
        // A keepalive.
        if datagram == [0xff] {
            return;
        }
        match self.sas.open(datagram) {
            Opened::Inner(inner) => {
                self.heard = Some(self.now());
                self.echo(inner);
            }
            Opened::Unknown => self.note(|seen| seen.unknown += 1),
            Opened::Bad => self.note(|seen| seen.bad += 1),
            Opened::Again => self.note(|seen| seen.again += 1),
        }
    }

    /// Sends an inner packet back. Addresses and ports change places, so that no checksum changes.
    fn echo(&mut self, mut inner: Vec<u8>) {
        const UDP: u8 = 17;
        if inner.len() < 28 || inner[0] != 0x45 || inner[9] != UDP {
            return self.note(|seen| seen.bad += 1);
        }
        for (at, length) in [(12, 4), (20, 2)] {
            inner[at..at + 2 * length].rotate_left(length);
        }
        let sealed = self.sas.seal(&inner).filter(|_| self.encapsulates);
        match sealed.map(|(packet, to)| self.socket.send_to(&packet, to)) {
            Some(Ok(_)) => self.note(|seen| seen.echoed += 1),
            _ => self.note(|seen| seen.unsent += 1),
        }
    }

    fn carry_out(&mut self, now: u64, output: Output) {
        match output {
            Output::Send { to, message, .. } => {
                // What is not sent is lost, and sent again in time.
                let _ = self.socket.send_to(&[&MARKER[..], &message].concat(), to);
            }
            Output::Keepalive { to, .. } => _ = self.socket.send_to(&[0xff], to),
            Output::Expect { child, .. } => self.ike.expected(now, child),
            Output::InstallInbound { child, spi, keys, .. } => {
                self.sas.receive_by(spi, &keys);
                self.ike.installed(now, child);
            }
            Output::InstallOutbound { child, inbound_spi, spi, keys, when, remote, nat, .. } => {
                self.sas.send_by(now, inbound_spi, spi, &keys, remote, when);
                self.encapsulates = nat.here || nat.there;
                self.note(|seen| seen.nat = nat);
                self.ike.activated(now, child);
            }
            Output::Redirect { inbound_spi, remote, .. } => self.sas.redirect(inbound_spi, remote),
            Output::Retire { inbound_spi, drain_ms, .. } => self.sas.retire(now, inbound_spi, drain_ms),
            Output::Up { replaces, .. } => self.note(|seen| {
                seen.pairs += 1;
                seen.rekeyed += u64::from(replaces.is_some());
            }),
            Output::Down { reason, .. } => self.note(|seen| seen.log.push(reason)),
            Output::Event { text, .. } => self.note(|seen| seen.log.push(text)),
            Output::Quiet { .. } => self.ike.heard(now, PEER, self.heard.map(|at| now - at)),
        }
    }
}
