//! One connection: frames in, frames out, and a bounded queue for a client that reads slowly.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use zeroize::Zeroizing;

use crate::limits;
use crate::sys::socket::{receive_frame, send_frame};
use crate::sys::wait::Interest;

/// A frame that came.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) length: usize,
    pub(super) descriptors: Vec<OwnedFd>,
}

type Frame = Zeroizing<Vec<u8>>;

/// What a client has said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Unknown,
    Reader,
    Writer,
}

#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    standing: Standing,
    waiting: VecDeque<(Frame, Vec<OwnedFd>)>,
    gone: bool,
}

impl Client {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, standing: Standing::Unknown, waiting: VecDeque::new(), gone: false }
    }

    pub(super) fn interest(&self) -> Interest<'_> {
        Interest::these(self.socket.as_fd(), self.may_ask(), !self.waiting.is_empty())
    }

    /// Whether its requests are read: one that does not take its answers gets no more of them.
    pub(super) fn may_ask(&self) -> bool {
        self.waiting.is_empty() && !self.gone
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    pub(super) fn is_known(&self) -> bool {
        self.standing != Standing::Unknown
    }

    pub(super) fn is_writer(&self) -> bool {
        self.standing == Standing::Writer && !self.gone
    }

    pub(super) fn introduce(&mut self, writer: bool) {
        self.standing = if writer { Standing::Writer } else { Standing::Reader };
    }

    /// The connection ends.
    pub(super) fn dismiss(&mut self) {
        self.gone = true;
    }

    /// The next frame, if there is one. An empty one is the end, and so is one that was cut.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<Input> {
        let mut descriptors = Vec::new();
        match receive_frame(self.socket.as_fd(), buffer, &mut descriptors) {
            Ok(received) if received.length > 0 && !received.truncated && !received.control_truncated => {
                Some(Input { length: received.length, descriptors })
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            _ => {
                self.gone = true;
                None
            }
        }
    }

    /// Sends an answer, or keeps it until the client reads.
    pub(super) fn send(&mut self, frame: Frame, descriptors: &[BorrowedFd<'_>]) {
        if self.waiting.is_empty() {
            match send_frame(self.socket.as_fd(), &frame, descriptors) {
                Ok(_) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return self.dismiss(),
            }
        }
        match descriptors.iter().map(BorrowedFd::try_clone_to_owned).collect() {
            Ok(kept) => self.waiting.push_back((frame, kept)),
            Err(_) => self.dismiss(),
        }
    }

    /// Sends an event; one too many is lost, because answers matter more and the next event of its kind says the same.
    pub(super) fn event(&mut self, frame: Frame) {
        if self.waiting.len() < limits::CLIENT_FRAMES {
            self.send(frame, &[]);
        }
    }

    /// Sends what waits.
    pub(super) fn flush(&mut self) {
        while let Some((frame, descriptors)) = self.waiting.front() {
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            match send_frame(self.socket.as_fd(), frame, &borrowed) {
                Ok(_) => drop(self.waiting.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => return self.dismiss(),
            }
        }
    }
}
