//! A client of the engine's socket that waits for each answer.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use penstock_engine::sys::socket::{receive_frame, send_frame};
use penstock_engine::sys::wait::{Interest, poll};
use penstock_uapi::frame::{self, Body, Frame};
use penstock_uapi::reply::{CoreState, PolicyState, SaState};
use penstock_uapi::request::{Hello, MAGIC, ReadState};
use penstock_uapi::{Counter, Drop, FRAME_BYTES_MAX, Kind, Status, VERSION};
use socket2::{Domain, SockAddr, Socket, Type};
use zerocopy::little_endian::{U16, U32};

const PATIENCE: Duration = Duration::from_secs(10);

/// One frame that came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) kind: Kind,
    pub(crate) status: Status,
    pub(crate) request: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl Answer {
    pub(crate) fn body<B: Body>(&self) -> &B {
        let frame = Frame { kind: self.kind, status: self.status, request: self.request, body: &self.bytes };
        frame.body().expect("the body of its kind")
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    next: u64,
    pub(crate) events: VecDeque<Answer>,
}

/// Counters and SAs of one moment.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) cores: Vec<CoreState>,
    pub(crate) policies: Vec<PolicyState>,
    pub(crate) sas: Vec<SaState>,
}

impl State {
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        self.cores.iter().map(|core| core.counters[counter.index()].get()).sum()
    }

    pub(crate) fn dropped(&self, drop: Drop) -> u64 {
        self.cores.iter().map(|core| core.drops[drop.index()].get()).sum()
    }

    /// The drops that are not zero, by name.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        Drop::ALL.iter().map(|drop| (drop.name(), self.dropped(*drop))).filter(|(_, count)| *count > 0).collect()
    }

    fn dropped_in(&self, stage: penstock_uapi::counter::Stage) -> u64 {
        Drop::ALL.iter().filter(|drop| drop.stage() == stage).map(|drop| self.dropped(*drop)).sum()
    }

    /// Both sides of the sums of [`Counter`]'s documentation. They are equal once nothing is in flight.
    pub(crate) fn sums(&self) -> [(u64, u64); 4] {
        use penstock_uapi::counter::Stage;
        let of = |counter| self.counter(counter);
        let parked: u64 = self.cores.iter().map(|core| u64::from(core.parked.get())).sum();
        let opened = of(Counter::OpenedPackets);
        let elsewhere = of(Counter::InboundHandoffOut) + of(Counter::Keepalives) + of(Counter::StrayIke) + parked;
        [
            (
                of(Counter::OutboundPackets) + of(Counter::OutboundHandoffIn),
                of(Counter::SealedPackets) + of(Counter::OutboundHandoffOut) + self.dropped_in(Stage::Outbound),
            ),
            (of(Counter::SealedPackets), of(Counter::SentPackets) + self.dropped_in(Stage::Send)),
            (of(Counter::InboundFrames) + of(Counter::InboundHandoffIn), opened + elsewhere + self.dropped_in(Stage::Inbound)),
            (opened, of(Counter::DeliveredPackets) + self.dropped_in(Stage::Deliver)),
        ]
    }
}

impl Client {
    /// Connects, as soon as the engine listens.
    pub(crate) fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("a socket");
        let address = SockAddr::unix(path).expect("a path");
        while let Err(error) = socket.connect(&address) {
            assert!(Instant::now() < deadline, "nobody listens at {}: {error}", path.display());
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { socket, next: 1, events: VecDeque::new() }
    }

    /// Introduces itself.
    pub(crate) fn hello(&mut self, writer: bool) -> Result<Vec<Answer>, Status> {
        self.ask(&Hello { magic: U32::new(MAGIC), version: U16::new(VERSION), writer: writer.into(), reserved: 0 })
    }

    pub(crate) fn ask<B: Body>(&mut self, body: &B) -> Result<Vec<Answer>, Status> {
        self.ask_with(body, &[], &[])
    }

    /// Sends a request and collects its answer.
    pub(crate) fn ask_with<B: Body>(&mut self, body: &B, tail: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<Answer>, Status> {
        let request = self.next;
        self.next += 1;
        let bytes = frame::encode(Status::Done, request, body, tail);
        send_frame(self.socket.as_fd(), &bytes, fds).expect("the engine takes requests");
        let mut answers = Vec::new();
        loop {
            let answer = self.receive(PATIENCE).expect("an answer in time");
            if answer.request == 0 {
                self.events.push_back(answer);
                continue;
            }
            assert_eq!(answer.request, request);
            match answer.status {
                Status::More => answers.push(answer),
                Status::Done => {
                    answers.push(answer);
                    return Ok(answers);
                }
                status => return Err(status),
            }
        }
    }

    /// Sends any bytes at all.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> std::io::Result<usize> {
        send_frame(self.socket.as_fd(), bytes, &[])
    }

    /// The next frame; `None` if none comes in time or the connection ended.
    pub(crate) fn receive(&self, patience: Duration) -> Option<Answer> {
        let mut interests = [Interest::read(self.socket.as_fd())];
        poll(&mut interests, Some(patience)).expect("poll works");
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        let mut descriptors = Vec::new();
        let received = receive_frame(self.socket.as_fd(), &mut buffer, &mut descriptors).ok()?;
        if received.length == 0 {
            return None;
        }
        let frame = Frame::parse(&buffer[..received.length]).expect("the engine sends frames");
        Some(Answer { kind: frame.kind, status: frame.status, request: frame.request, bytes: frame.body.to_vec(), descriptors })
    }

    /// Everything there is to read.
    pub(crate) fn state(&mut self) -> State {
        let mut state = State::default();
        for answer in self.ask(&ReadState { reserved: U32::ZERO }).expect("anybody may read") {
            match answer.kind {
                Kind::CoreState => state.cores.push(*answer.body()),
                Kind::PolicyState => state.policies.push(*answer.body()),
                Kind::SaState => state.sas.push(*answer.body()),
                _ => {}
            }
        }
        state
    }
}
