//! Numbered datagrams over UDP, paced, of any mix of sizes: not one may be lost, doubled, late or damaged unnoticed.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use super::checker::size_of_number;
use super::{Checker, Content, Direction, Verdict, stamp};
use crate::lab::Host;
use crate::sys;

/// The most that one UDP send can carry.
const SEND_BYTES_MAX: usize = 65_507;
/// How long a sender sleeps when it is ahead of its pace: short enough that a burst stays small.
const PACE: Duration = Duration::from_micros(200);
/// The receiver's buffer: a second of a fast sender, so that the generator itself loses nothing.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// A plan for datagrams.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Flows in each direction, each with ports of its own.
    pub flows: usize,
    /// Payload sizes, taken in turn. [`Self::every_size`] makes such a list.
    pub sizes: Vec<u16>,
    /// Datagrams a second of each flow; 0: as fast as it goes.
    pub rate: f64,
    /// How long each flow sends, unless `count` ends it first.
    pub duration: Duration,
    /// How many datagrams each flow sends at most.
    pub count: u64,
    /// Datagrams of one size handed to the kernel in one send (`UDP_SEGMENT`); 1: each by itself. At most 64.
    pub segments: u16,
    /// Whether the receiver takes merged buffers (`UDP_GRO`).
    pub merge: bool,
    /// Which way.
    pub direction: Direction,
    /// What the content is made from.
    pub seed: u64,
    /// How long nothing may come after the last send before what is missing counts as lost. Costs time only then.
    pub linger: Duration,
}

impl Default for Udp {
    fn default() -> Self {
        Self {
            flows: 1,
            sizes: vec![1200],
            rate: 10_000.0,
            duration: Duration::from_secs(2),
            count: u64::MAX,
            segments: 1,
            merge: false,
            direction: Direction::Forward,
            seed: 1,
            linger: Duration::from_secs(1),
        }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct UdpOutcome {
    /// Of all flows together.
    pub total: Verdict,
    /// Of each flow, forward ones first.
    pub flows: Vec<Verdict>,
    /// The longest time that a flow sent.
    pub seconds: f64,
    /// Sends that the kernel refused; they count as not sent.
    pub refused: u64,
    /// From send to receipt, in nanoseconds, of all flows.
    pub delay: Histogram<u64>,
}

impl UdpOutcome {
    /// Datagrams received a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.total.received as f64 / self.seconds
    }

    /// Bits of payload received a second, in units of 10^9.
    #[must_use]
    pub fn gigabits(&self) -> f64 {
        self.total.bytes as f64 * 8e-9 / self.seconds
    }
}

struct Flow {
    id: u32,
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: AtomicU64,
    done: AtomicBool,
}

impl Udp {
    /// Every payload size from 0 to what an IP packet of `mtu` bytes holds, small and large in turn.
    #[must_use]
    pub fn every_size(mtu: u16, v6: bool) -> Vec<u16> {
        let largest = mtu.saturating_sub(if v6 { 48 } else { 28 });
        let mut sizes: Vec<u16> = (0..=largest).collect();
        let (small, large) = sizes.split_at_mut(usize::from(largest) / 2);
        small.iter_mut().zip(large.iter_mut()).skip(1).step_by(2).for_each(|(small, large)| std::mem::swap(small, large));
        sizes
    }

    /// Runs the plan between two hosts.
    ///
    /// # Errors
    /// If sockets cannot be made, or a size does not fit the path.
    pub fn run(&self, first: &Host, second: &Host) -> Result<UdpOutcome> {
        self.run_watched(first, second, &AtomicU64::new(0))
    }

    /// As [`Self::run`]; meanwhile `received` counts the datagrams that have arrived, for a progress bar.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_watched(&self, first: &Host, second: &Host, received: &AtomicU64) -> Result<UdpOutcome> {
        let mut flows = Vec::new();
        for [from, to] in self.direction.flows([first, second]) {
            for _ in 0..self.flows {
                flows.push(self.flow(flows.len() as u32, from, to)?);
            }
        }
        let start = Instant::now();
        let halves = std::thread::scope(|scope| -> Result<Vec<_>> {
            let running: Vec<_> = flows
                .iter()
                .map(|flow| (scope.spawn(move || self.send(flow, start)), scope.spawn(move || self.receive(flow, start, received))))
                .collect();
            let join = |(send, receive): (std::thread::ScopedJoinHandle<'_, _>, std::thread::ScopedJoinHandle<'_, Result<_>>)| {
                let sent: Result<(f64, u64)> = send.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let received = receive.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok((sent?, received?))
            };
            running.into_iter().map(join).collect()
        })?;
        let mut outcome = UdpOutcome { total: Verdict::default(), flows: Vec::new(), seconds: 0.0, refused: 0, delay: Histogram::new(3)? };
        for ((seconds, refused), (verdict, delay)) in halves {
            outcome.seconds = outcome.seconds.max(seconds);
            outcome.refused += refused;
            outcome.total.add(&verdict);
            outcome.flows.push(verdict);
            outcome.delay.add(delay)?;
        }
        Ok(outcome)
    }

    fn flow(&self, id: u32, from: &Host, to: &Host) -> Result<Flow> {
        let (sender, receiver) = (from.udp(0)?, to.udp(0)?);
        sender.connect(receiver.local_addr()?)?;
        receiver.connect(sender.local_addr()?)?;
        sys::forbid_fragments(&sender)?;
        sys::force_receive_buffer(&receiver, RECEIVE_BUFFER_BYTES)?;
        receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
        if self.merge {
            sys::set_udp_gro(&receiver)?;
        }
        Ok(Flow { id, sender, receiver, sent: AtomicU64::new(0), done: AtomicBool::new(false) })
    }

    fn content(&self, flow: &Flow) -> Content {
        Content::new(self.seed.wrapping_add(u64::from(flow.id) << 32))
    }

    fn run_length(&self) -> u64 {
        u64::from(self.segments.clamp(1, 64))
    }

    /// Returns for how long it sent, and how many sends were refused.
    fn send(&self, flow: &Flow, start: Instant) -> Result<(f64, u64)> {
        let outcome = self.send_all(flow, start);
        flow.done.store(true, Ordering::Release);
        outcome
    }

    fn send_all(&self, flow: &Flow, start: Instant) -> Result<(f64, u64)> {
        let content = self.content(flow);
        let mut buffer = vec![0; SEND_BYTES_MAX];
        let (mut number, mut refused, mut segment) = (0, 0, 0);
        while number < self.count {
            let now = start.elapsed();
            if now >= self.duration {
                break;
            }
            if self.rate > 0.0 && number as f64 > now.as_secs_f64() * self.rate {
                std::thread::sleep(PACE);
                continue;
            }
            let size = size_of_number(&self.sizes, self.run_length(), number);
            let rest_of_run = self.run_length() - number % self.run_length();
            let fit = SEND_BYTES_MAX.checked_div(size).unwrap_or(1) as u64;
            let together = rest_of_run.min(fit).min(self.count - number).max(1) as usize;
            let segment_wanted = if together > 1 { size as u16 } else { 0 };
            if segment_wanted != segment {
                sys::set_udp_segment(&flow.sender, segment_wanted)?;
                segment = segment_wanted;
            }
            let time = now.as_nanos() as u64;
            for index in 0..together {
                stamp(&content, flow.id, number + index as u64, time, &mut buffer[index * size..(index + 1) * size]);
            }
            match flow.sender.send(&buffer[..together * size]) {
                Ok(_) => {
                    number += together as u64;
                    flow.sent.store(number, Ordering::Release);
                }
                Err(error) if fatal(&error) => {
                    return Err(error).with_context(|| format!("a send of {together} datagrams of {size} bytes"));
                }
                Err(_) => {
                    refused += 1;
                    std::thread::sleep(PACE);
                }
            }
        }
        Ok((start.elapsed().as_secs_f64(), refused))
    }

    fn receive(&self, flow: &Flow, start: Instant, total: &AtomicU64) -> Result<(Verdict, Histogram<u64>)> {
        let mut checker = Checker::new(self.content(flow), flow.id, &self.sizes, self.run_length());
        let mut delay = Histogram::new(3)?;
        let mut buffer = vec![0; 1 << 16];
        let mut last = Instant::now();
        loop {
            match receive(&flow.receiver, &mut buffer, self.merge) {
                Ok((length, stride)) => {
                    last = Instant::now();
                    let now = last.duration_since(start).as_nanos() as u64;
                    let whole = &buffer[..length];
                    let mut take = |datagram| {
                        if let Some(sent) = checker.take(datagram) {
                            let _ = delay.record(now.saturating_sub(sent)); // a histogram that grows takes any value
                        }
                        total.fetch_add(1, Ordering::Relaxed);
                    };
                    if whole.is_empty() { take(whole) } else { whole.chunks(stride).for_each(take) }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("UDP receive"),
            }
            let sent = flow.sent.load(Ordering::Acquire);
            if flow.done.load(Ordering::Acquire) && (checker.is_complete(sent) || last.elapsed() > self.linger) {
                break;
            }
        }
        let mut verdict = checker.verdict(flow.sent.load(Ordering::Acquire));
        verdict.receiver_overflows = sys::socket_drops(&flow.receiver)?;
        Ok((verdict, delay))
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8], merge: bool) -> io::Result<(usize, usize)> {
    if merge {
        return sys::receive_merged(socket, buffer);
    }
    let length = socket.recv(buffer)?;
    Ok((length, length.max(1)))
}

/// What trying again would not mend; everything else is the tunnel's or the wire's state at that moment.
fn fatal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL | libc::EBADF))
}
