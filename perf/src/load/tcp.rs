//! Bulk over TCP: how fast, how many segments sent again, and whether every byte is the right one.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Content;
use crate::lab::Host;
use crate::sys;

/// What one `write` hands over: the largest super-packet.
const WRITE_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;

/// Which way bytes flow between the two hosts of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// From the first host to the second.
    #[default]
    Forward,
    /// From the second host to the first.
    Reverse,
    /// Both at once.
    Both,
}

impl Direction {
    /// The (from, to) pairs of flows, for hosts given in order.
    pub(super) fn flows(self, hosts: [&Host; 2]) -> Vec<[&Host; 2]> {
        let [first, second] = hosts;
        match self {
            Self::Forward => vec![[first, second]],
            Self::Reverse => vec![[second, first]],
            Self::Both => vec![[first, second], [second, first]],
        }
    }
}

/// A plan for bulk over TCP.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Connections in each direction.
    pub streams: usize,
    /// How long they send.
    pub duration: Duration,
    /// Whether every byte is computed and compared. Without it the same 64 KiB are sent again and again and only counted, which is faster.
    pub check: bool,
    /// Which way.
    pub direction: Direction,
    /// What the content is made from.
    pub seed: u64,
    /// After how long without a byte a stream is given up.
    pub patience: Duration,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            streams: 1,
            duration: Duration::from_secs(2),
            check: true,
            direction: Direction::Forward,
            seed: 1,
            patience: Duration::from_secs(10),
        }
    }
}

/// What one connection did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpStreamOutcome {
    /// Whether it went from the first host to the second.
    pub forward: bool,
    /// Bytes written.
    pub sent: u64,
    /// Bytes read.
    pub received: u64,
    /// From the start of the run until the receiver had read everything.
    pub seconds: f64,
    /// Segments sent again.
    pub retransmits: u64,
    /// How many of those were needless: the receiver had the first copy. A sender that waits too long for an answer, because
    /// nobody had a processor to give one, sends its last segment again to find out.
    pub needless: u64,
    /// Segments that reached the receiver before one that belongs in front of them.
    pub out_of_order: u64,
    /// Place of the first wrong byte.
    pub wrong_at: Option<u64>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TcpOutcome {
    /// Every connection.
    pub streams: Vec<TcpStreamOutcome>,
}

impl TcpOutcome {
    /// Bytes received, of all streams.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.received).sum()
    }

    /// The time of the slowest stream.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.streams.iter().map(|stream| stream.seconds).fold(0.0, f64::max)
    }

    /// Bits of content received a second, in units of 10^9, of all streams.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        if self.streams.is_empty() { 0.0 } else { self.bytes() as f64 * 8e-9 / self.seconds() }
    }

    /// Segments sent again, of all streams.
    #[must_use]
    pub fn retransmits(&self) -> u64 {
        self.streams.iter().map(|stream| stream.retransmits).sum()
    }

    /// Those of them that were needless, of all streams.
    #[must_use]
    pub fn needless(&self) -> u64 {
        self.streams.iter().map(|stream| stream.needless.min(stream.retransmits)).sum()
    }

    /// Segments that arrived before one that belongs in front of them, of all streams.
    #[must_use]
    pub fn out_of_order(&self) -> u64 {
        self.streams.iter().map(|stream| stream.out_of_order).sum()
    }

    /// Whether every byte arrived and, if that was checked, is the right one.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.streams.iter().all(|stream| stream.sent == stream.received && stream.wrong_at.is_none())
    }
}

impl Tcp {
    /// Runs the plan between two hosts.
    ///
    /// # Errors
    /// If they cannot connect, or a stream stands still or breaks.
    pub fn run(&self, first: &Host, second: &Host) -> Result<TcpOutcome> {
        self.run_watched(first, second, &AtomicU64::new(0))
    }

    /// As [`Self::run`]; meanwhile `received` counts the bytes that have arrived, for a progress bar.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_watched(&self, first: &Host, second: &Host, received: &AtomicU64) -> Result<TcpOutcome> {
        let mut connections = Vec::new();
        for [from, to] in self.direction.flows([first, second]) {
            let listener = to.listen()?;
            for _ in 0..self.streams {
                let sender = from.connect(listener.local_addr()?)?;
                let (receiver, _) = listener.accept()?;
                sender.set_write_timeout(Some(self.patience))?;
                receiver.set_read_timeout(Some(self.patience))?;
                connections.push((std::ptr::eq(from, first), sender, receiver));
            }
        }
        let start = Instant::now();
        let streams = std::thread::scope(|scope| -> Result<Vec<_>> {
            let mut running = Vec::new();
            for (index, (forward, sender, receiver)) in connections.iter().enumerate() {
                let content = Content::new(self.seed.wrapping_add(index as u64));
                let copy = content.clone();
                let send = scope.spawn(move || self.send(sender, &content, start));
                let receive = scope.spawn(move || self.receive(receiver, &copy, start, received));
                running.push((*forward, [sender, receiver], send, receive));
            }
            running
                .into_iter()
                .map(|(forward, [sender, receiver], send, receive)| {
                    let sent = send.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                    let (read, seconds, wrong_at) = receive.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                    let sys::TcpCounts { retransmits, needless, .. } = sys::tcp_counts(sender)?;
                    let sys::TcpCounts { out_of_order, .. } = sys::tcp_counts(receiver)?;
                    Ok(TcpStreamOutcome { forward, sent: sent?, received: read, seconds, retransmits, needless, out_of_order, wrong_at })
                })
                .collect()
        })?;
        Ok(TcpOutcome { streams })
    }

    fn send(&self, mut stream: &TcpStream, content: &Content, start: Instant) -> Result<u64> {
        let mut buffer = vec![0; WRITE_BYTES];
        content.fill(0, &mut buffer);
        let mut sent = 0;
        while start.elapsed() < self.duration {
            if self.check {
                content.fill(sent, &mut buffer);
            }
            if let Err(error) = stream.write_all(&buffer) {
                return Err(stalled(error, "sent", sent, self.patience));
            }
            sent += buffer.len() as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        Ok(sent)
    }

    fn receive(&self, mut stream: &TcpStream, content: &Content, start: Instant, total: &AtomicU64) -> Result<(u64, f64, Option<u64>)> {
        let mut buffer = vec![0; READ_BYTES];
        let (mut received, mut wrong_at) = (0, None);
        loop {
            let count = match stream.read(&mut buffer) {
                Ok(0) => return Ok((received, start.elapsed().as_secs_f64(), wrong_at)),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(stalled(error, "received", received, self.patience)),
            };
            if self.check && wrong_at.is_none() {
                wrong_at = content.first_difference(received, &buffer[..count]).map(|at| received + at as u64);
            }
            received += count as u64;
            total.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

fn stalled(error: std::io::Error, verb: &str, bytes: u64, patience: Duration) -> anyhow::Error {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
        return anyhow::anyhow!("a TCP stream stood still for {patience:?} after {bytes} bytes were {verb}");
    }
    anyhow::Error::new(error).context(format!("a TCP stream broke after {bytes} bytes were {verb}"))
}
