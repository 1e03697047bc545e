//! Frames on the socket: an id for every request, a task that sorts what comes back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

use penstock_uapi::frame::{self, Body, Frame};
use penstock_uapi::{FRAME_BYTES_MAX, FrameError, Kind, Status};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::EngineError;
use super::event::Event;
use crate::log::{self, Level};
use crate::sys;

/// The most frames of one answer: every SA of the largest engine, and room.
const ANSWER_FRAMES_MAX: usize = 65_536;

/// One frame of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    status: Status,
    request: u64,
    bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Answer {
    /// The body as a fixed layout, in answer to `what`.
    pub(super) fn body<B: Body>(&self, what: Kind) -> Result<&B, EngineError> {
        let frame = Frame { kind: self.kind, status: self.status, request: self.request, body: &self.bytes };
        frame.body().map_err(|error| nonsense(what, error))
    }
}

/// What makes no sense about the answer to `what`.
pub(super) fn nonsense(what: Kind, reason: impl Display) -> EngineError {
    EngineError::Nonsense(format!("{what:?}: {reason}"))
}

/// The kinds of frames that answer a request.
fn answers_to(what: Kind) -> &'static [Kind] {
    match what {
        Kind::Hello => &[Kind::Welcome, Kind::HandBack],
        Kind::ReadState => &[Kind::CoreState, Kind::PolicyState, Kind::SaState, Kind::Answer],
        _ => &[Kind::Answer],
    }
}

/// The socket and who waits for which answer.
#[derive(Debug)]
pub(super) struct Connection {
    socket: AsyncFd<OwnedFd>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, mpsc::Sender<Answer>>>,
    lost: Cell<bool>,
}

/// Forgets a request whose asker gave up, so that an engine that never answers costs nothing.
struct Ticket<'a> {
    connection: &'a Connection,
    request: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.connection.waiting.borrow_mut().remove(&self.request);
    }
}

impl Connection {
    /// Connects and starts the reader in the current `LocalSet`.
    pub(super) fn open(path: &Path, events: mpsc::Sender<Event>) -> io::Result<Rc<Self>> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        let connection =
            Rc::new(Self { socket: sys::watch(socket.into())?, next: Cell::new(1), waiting: RefCell::default(), lost: Cell::new(false) });
        tokio::task::spawn_local(read(connection.clone(), events));
        Ok(connection)
    }

    /// The engine's process id here, where its own process namespace gives it another.
    pub(super) fn process(&self) -> io::Result<u32> {
        sys::peer_process(self.socket.get_ref().as_fd())
    }

    /// Sends one request and collects its answer.
    pub(super) async fn exchange<B: Body>(&self, body: &B, tail: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Vec<Answer>, EngineError> {
        let request = self.next.replace(self.next.get() + 1);
        let bytes = frame::encode(Status::Done, request, body, tail);
        let (sender, mut answers) = mpsc::channel(ANSWER_FRAMES_MAX);
        self.waiting.borrow_mut().insert(request, sender);
        let _ticket = Ticket { connection: self, request };
        let lost = EngineError::Lost { what: B::KIND };
        if self.lost.get() {
            return Err(lost);
        }
        let send = |fd: &OwnedFd| sys::send_with_descriptors(fd.as_fd(), &bytes, fds);
        if self.socket.async_io(Interest::WRITABLE, send).await.is_err() {
            return Err(lost);
        }
        let mut collected = Vec::new();
        while let Some(answer) = answers.recv().await {
            match answer.status {
                Status::More | Status::Done if !answers_to(B::KIND).contains(&answer.kind) => {
                    return Err(nonsense(B::KIND, format!("answered with {:?}", answer.kind)));
                }
                Status::More => collected.push(answer),
                Status::Done => {
                    collected.push(answer);
                    return Ok(collected);
                }
                status => return Err(EngineError::Refused { what: B::KIND, status }),
            }
        }
        Err(lost)
    }

    /// Sorts one datagram: to the one who waits for it, or into an event.
    fn sort(&self, bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Option<Event>, FrameError> {
        let frame = Frame::parse(bytes)?;
        if frame.request == 0 {
            return Event::read(&frame);
        }
        let answer = Answer { kind: frame.kind, status: frame.status, request: frame.request, bytes: frame.body.to_vec(), descriptors };
        let mut waiting = self.waiting.borrow_mut();
        let sender = if frame.status == Status::More { waiting.get(&frame.request).cloned() } else { waiting.remove(&frame.request) };
        // Nobody waits, or too many frames came: the answer is of no use.
        let _ = sender.map(|sender| sender.try_send(answer));
        Ok(None)
    }

    fn lose(&self) {
        self.lost.set(true);
        self.waiting.borrow_mut().clear();
    }
}

/// Reads until the connection ends; the last event is always [`Event::Lost`].
async fn read(connection: Rc<Connection>, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        let received = connection.socket.async_io(Interest::READABLE, |fd| sys::receive(fd.as_fd(), &mut buffer)).await;
        let Ok(received) = received else { break };
        if received.length == 0 || received.truncated {
            break;
        }
        match connection.sort(buffer.get(..received.length).unwrap_or_default(), received.descriptors) {
            // A full queue means that the daemon is busy: the engine's next event of the kind says the same.
            Ok(Some(event)) => drop(events.try_send(event)),
            Ok(None) => (),
            Err(error) => {
                log::line(Level::Error, "engine-nonsense", &[("reason", &error)]);
                break;
            }
        }
    }
    connection.lose();
    let _ = events.send(Event::Lost).await;
}
