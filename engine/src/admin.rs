//! The admin thread: answers control on `engine.sock`, keeps what the engine holds apart from keys, and passes on what the cores
//! have to say. It is the only one that allocates and frees after the start, so that no worker must.
//!
//! ```text
//!   clients ──frames──► admin ──orders──► desks of the cores ──► paths
//!           ◄─answers──       ◄─events, remains─┘
//! ```
//! Frames are hostile input: whatever comes is answered with a [`Status`] or ends that client's connection,
//! never the engine. When control dies its connection ends and the cores go on; the next writer gets everything back.

mod attach;
mod client;
mod policies;
mod prints;
mod relief;
mod requests;
mod sas;
mod state;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use penstock_uapi::event::{self, limit};
use penstock_uapi::frame::{self, Body};
use penstock_uapi::{CLIENTS_MAX, Endpoint, FRAME_BYTES_MAX, Status};
use socket2::SockRef;
use zerocopy::little_endian::{U16, U32};
use zeroize::Zeroize;

use crate::limits;
use crate::path::Event;
use crate::sandbox::Level;
use crate::sys::process;
use crate::sys::socket::peer_user;
use crate::sys::wait::{Bell, Interest, poll};
use crate::worker::desk::{Desk, Letter, Spent};
use attach::{Attached, Running};
use client::{Client, Input};
use policies::Master as Policies;
use relief::Credit;
use sas::Master as Sas;

/// What the engine was started with and knows of its kernel.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Features that can be used: what the kernel has, less what is masked.
    pub features: u16,
    /// What is in force of the sandbox; with one, the strict filter is laid over threads once they are set up.
    pub sandbox: Option<Level>,
}

/// The admin thread's state.
#[derive(Debug)]
pub struct Admin {
    options: Options,
    listener: OwnedFd,
    bell: Arc<Bell>,
    epoch: Instant,
    life: [u8; 16],
    clients: Vec<Client>,
    attached: Vec<Option<Attached>>,
    running: Option<Running>,
    policies: Policies,
    sas: Sas,
    ends: Option<Instant>,
    /// What engines before this one have counted.
    credit: Credit,
    /// Since when nobody is there and nothing runs.
    idle_since: Option<Instant>,
    idle_max: Duration,
}

impl Admin {
    /// For a listening `SOCK_SEQPACKET` socket.
    ///
    /// # Errors
    /// If descriptors or random numbers cannot be had.
    pub fn new(listener: OwnedFd, options: Options) -> io::Result<Self> {
        let mut life = [0; 16];
        aws_lc_rs::rand::fill(&mut life).map_err(|_| io::Error::other("no random numbers"))?;
        Ok(Self {
            options,
            listener,
            bell: Arc::new(Bell::new()?),
            epoch: Instant::now(),
            life,
            clients: Vec::new(),
            attached: Vec::new(),
            running: None,
            policies: Policies::default(),
            sas: Sas::new()?,
            ends: None,
            credit: Credit::default(),
            idle_since: None,
            idle_max: limits::IDLE,
        })
    }

    /// Serves until a shutdown was ordered and its time is over, or nobody has use for an engine that runs no core: who ordered it was refused, or
    /// died before the start. As the first of its process namespace it would not be ended by a signal either.
    ///
    /// # Errors
    /// If poll fails, which leaves nothing to do.
    pub fn run(mut self) -> io::Result<()> {
        let mut buffer = vec![0; FRAME_BYTES_MAX + 1];
        loop {
            // Who was to relieve another and is not told any more has no queue to read, and that other one goes on.
            if self.running.as_ref().is_some_and(Running::waits) && !self.clients.iter().any(Client::is_writer) {
                return Ok(());
            }
            let idle = self.clients.is_empty() && self.running.is_none();
            self.idle_since = self.idle_since.or_else(|| Some(Instant::now())).filter(|_| idle);
            let ends = self.ends.into_iter().chain(self.idle_since.map(|since| since + self.idle_max)).min();
            let timeout = ends.map(|ends| ends.saturating_duration_since(Instant::now()));
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return Ok(());
            }
            let (accept, ready) = self.wait(timeout)?;
            self.hear();
            for (at, (readable, writable)) in ready.into_iter().enumerate() {
                if writable && let Some(client) = self.clients.get_mut(at) {
                    client.flush();
                }
                if readable {
                    self.serve(at, &mut buffer);
                }
            }
            self.clients.retain(|client| !client.is_gone());
            if accept {
                self.accept();
            }
        }
    }

    /// Waits for a client, the listener or the bell; gives whether somebody wants in, and what each client can do.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<(bool, Vec<(bool, bool)>)> {
        let full = self.clients.len() >= CLIENTS_MAX;
        let listener = if full { Interest::nothing() } else { Interest::read(self.listener.as_fd()) };
        let mut interests = vec![Interest::read(self.bell.as_fd()), listener];
        interests.extend(self.clients.iter().map(Client::interest));
        poll(&mut interests, timeout)?;
        let ready = interests.get(2..).unwrap_or_default().iter().map(|interest| (interest.readable(), interest.writable())).collect();
        Ok((interests.get(1).is_some_and(Interest::readable), ready))
    }

    fn accept(&mut self) {
        // It may be gone again, or there may be no descriptor left: then the next turn tries anew.
        let Ok((socket, _)) = SockRef::from(&self.listener).accept() else { return };
        let socket: OwnedFd = socket.into();
        let user = peer_user(socket.as_fd());
        if user.is_ok_and(|user| user == 0 || user == process::user()) {
            self.clients.push(Client::new(socket));
        }
    }

    /// Requests of one client, a bounded number of them.
    fn serve(&mut self, at: usize, buffer: &mut [u8]) {
        for _ in 0..limits::CLIENT_REQUESTS_PER_ROUND {
            let Some(client) = self.clients.get_mut(at).filter(|client| client.may_ask()) else { return };
            let input = client.receive(buffer);
            let Some(Input { length, descriptors }) = input else { return };
            let received = buffer.get_mut(..length).unwrap_or_default();
            self.answer(at, received, descriptors);
            // It may have held a key.
            received.zeroize();
            self.hear();
        }
    }

    /// The engine's milliseconds.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn desks(&self) -> impl Iterator<Item = &Arc<Desk>> {
        self.running.iter().flat_map(|running| running.cores.iter().map(|core| &core.desk))
    }

    /// Takes in what the cores have put down, and tells the writer.
    fn hear(&mut self) {
        self.bell.hear();
        let desks: Vec<Arc<Desk>> = self.desks().cloned().collect();
        for (core, desk) in desks.iter().enumerate() {
            while let Some(spent) = desk.spent.pop() {
                if let Spent::Remains(remains) = spent {
                    self.sas.forget(&remains);
                }
            }
            while let Some(event) = desk.events.pop() {
                self.tell(core, &event);
            }
            while let Some(letter) = desk.letters.pop() {
                self.pass_on(&letter);
                let _ = desk.blank_letters.push(letter);
            }
        }
    }

    fn tell(&mut self, core: usize, event: &Event) {
        if let Event::PeerMoved { spi, from } = *event {
            self.followed(spi, from);
        }
        let Some(writer) = self.clients.iter_mut().find(|client| client.is_writer()) else { return };
        match *event {
            Event::UnknownSpi { spi, from } => {
                say(writer, &event::UnknownSpi { spi: U32::new(spi), from: Endpoint::from(from) }, &[]);
            }
            Event::Limit { spi, hard, outbound } => {
                let limit = if hard { limit::HARD } else { limit::SOFT };
                say(writer, &event::SaLimit { spi: U32::new(spi), limit, outbound: outbound.into(), reserved: [0; 2] }, &[]);
            }
            Event::PeerMoved { spi, from } => say(writer, &event::PeerMoved { spi: U32::new(spi), from: Endpoint::from(from) }, &[]),
            Event::Acquire { policy, per_core } => {
                let core = U16::new(u16::try_from(core).unwrap_or(u16::MAX));
                say(writer, &event::Acquire { policy: U32::new(policy), core, per_core: per_core.into(), reserved: 0 }, &[]);
            }
            Event::OutboundActive { spi } => say(writer, &event::OutboundActive { spi: U32::new(spi) }, &[]),
            Event::PathMtu { spi, refused } => {
                say(writer, &event::PathMtu { spi: U32::new(spi), refused: U16::new(refused), reserved: U16::ZERO }, &[]);
            }
        }
    }

    fn pass_on(&mut self, letter: &Letter) {
        let Some(writer) = self.clients.iter_mut().find(|client| client.is_writer()) else { return };
        let (Some(receive), Some(message)) = (letter.receive, letter.bytes.get(..letter.length)) else { return };
        let to = receive.to.map(|ip| std::net::SocketAddr::new(ip, 0));
        say(writer, &event::StrayIke { from: Endpoint::from(receive.from), to: Endpoint::from(to) }, message);
    }
}

fn say<B: Body>(writer: &mut Client, body: &B, tail: &[u8]) {
    writer.event(frame::encode(Status::Done, 0, body, tail));
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::{Duration, Instant};

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::{Admin, Options};

    #[test]
    fn an_engine_that_runs_nothing_ends_when_nobody_is_there() {
        const IDLE: Duration = Duration::from_millis(300);
        let path = std::env::temp_dir().join(format!("penstock-idle-{}.sock", std::process::id()));
        let address = SockAddr::unix(&path).expect("a path");
        let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        listener.bind(&address).expect("bound");
        listener.listen(1).expect("listening");
        let mut admin = Admin::new(OwnedFd::from(listener), Options { features: 0, sandbox: None }).expect("an engine");
        admin.idle_max = IDLE;
        let engine = std::thread::spawn(|| admin.run());
        // Given a client, it stays, for longer than it would stay alone
        let client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        client.connect(&address).expect("it listens");
        std::fs::remove_file(&path).expect("our own socket");
        std::thread::sleep(3 * IDLE);
        assert!(!engine.is_finished());
        // when that leaves, it ends.
        drop(client);
        let start = Instant::now();
        engine.join().expect("no panic").expect("a clean end");
        assert!(start.elapsed() >= IDLE / 2);
    }
}
