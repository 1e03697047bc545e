//! A steady beat of numbered datagrams both ways, from one thread, for as long as a campaign lasts: it tells what was lost, and how long after
//! a blow the last flow came back.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::lab::Host;
use crate::load::{Checker, Content, Verdict, stamp};
use crate::sys;

/// Payload bytes of each datagram.
const BYTES: u16 = 200;
/// How long the thread sleeps between two looks.
const PACE: Duration = Duration::from_micros(500);
/// The receivers' buffers: the beat itself loses nothing.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// What the thread and its owner share.
struct Shared {
    /// Nanoseconds since the start, when [`Beat::mark`] was called last.
    marked: u64,
    flows: Vec<Flow>,
}

struct Flow {
    id: u32,
    sender: UdpSocket,
    receiver: UdpSocket,
    content: Content,
    checker: Checker,
    sent: u64,
    /// How long after the mark the first datagram came that was sent after it.
    back: Option<Duration>,
}

/// A running beat; it ends when this is dropped.
pub struct Beat {
    start: Instant,
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Beat {
    /// Starts `flows` flows each way, each of `rate` datagrams a second.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn start(ends: [&Host; 2], flows: usize, rate: f64) -> Result<Self> {
        let pairs = [[ends[0], ends[1]], [ends[1], ends[0]]];
        let made: Result<Vec<Flow>> = (0..2 * flows).map(|id| Flow::new(id, pairs[id % 2])).collect();
        let shared = Arc::new(Mutex::new(Shared { marked: 0, flows: made? }));
        let (start, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let (to_run, to_stop) = (Arc::clone(&shared), Arc::clone(&stop));
        let run = move || -> Result<()> {
            // A kernel that cannot do it measures a little less sharply.
            let _ = sys::come_soon();
            while !to_stop.load(Ordering::Acquire) {
                let mut shared = lock(&to_run);
                let now = start.elapsed();
                let (due, marked) = ((now.as_secs_f64() * rate) as u64, shared.marked);
                for flow in &mut shared.flows {
                    flow.send(due, now)?;
                    flow.receive(start, marked)?;
                }
                drop(shared);
                std::thread::sleep(PACE);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("beat".into()).spawn(run)?;
        Ok(Self { start, shared, stop, thread: Some(thread) })
    }

    /// From now on [`Self::back`] counts.
    pub fn mark(&self) {
        let mut shared = lock(&self.shared);
        shared.marked = self.start.elapsed().as_nanos() as u64;
        shared.flows.iter_mut().for_each(|flow| flow.back = None);
    }

    /// How long after the mark the last flow delivered a datagram that was sent after it; `None` while one has not.
    #[must_use]
    pub fn back(&self) -> Option<Duration> {
        let backs: Option<Vec<Duration>> = lock(&self.shared).flows.iter().map(|flow| flow.back).collect();
        backs?.into_iter().max()
    }

    /// Waits until every flow is back, and says how long that took since the mark.
    ///
    /// # Errors
    /// If that lasts longer than `patience`.
    pub fn wait_back(&self, patience: Duration) -> Result<Duration> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(back) = self.back() {
                return Ok(back);
            }
            if Instant::now() > deadline {
                let back: Vec<_> = lock(&self.shared).flows.iter().map(|flow| flow.back).collect();
                return Err(anyhow!("some flows carry nothing {patience:?} after: {back:?}"));
            }
            std::thread::sleep(PACE);
        }
    }

    /// What was sent and received so far. What is on its way counts as lost.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut total = Verdict::default();
        lock(&self.shared).flows.iter().for_each(|flow| total.add(&flow.checker.verdict(flow.sent)));
        total
    }

    /// Ends the beat: sends no more, takes what comes within `linger`, and judges.
    ///
    /// # Errors
    /// If a socket failed meanwhile.
    pub fn finish(mut self, linger: Duration) -> Result<Verdict> {
        self.end()?;
        let deadline = Instant::now() + linger;
        while Instant::now() < deadline && self.verdict().lost > 0 {
            let mut shared = lock(&self.shared);
            let marked = shared.marked;
            shared.flows.iter_mut().try_for_each(|flow| flow.receive(self.start, marked))?;
            drop(shared);
            std::thread::sleep(PACE);
        }
        let mut verdict = self.verdict();
        for flow in &lock(&self.shared).flows {
            verdict.receiver_overflows += sys::socket_drops(&flow.receiver)?;
        }
        Ok(verdict)
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(anyhow!("the beat panicked"))))
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the beat: {error:#}");
        }
    }
}

impl Flow {
    fn new(id: usize, [from, to]: [&Host; 2]) -> Result<Self> {
        let (sender, receiver) = (from.udp(0)?, to.udp(0)?);
        sender.connect(receiver.local_addr()?)?;
        receiver.connect(sender.local_addr()?)?;
        sys::force_receive_buffer(&receiver, RECEIVE_BUFFER_BYTES)?;
        sender.set_nonblocking(true)?;
        receiver.set_nonblocking(true)?;
        let content = Content::new(id as u64);
        let id = id as u32;
        let checker = Checker::new(content.clone(), id, &[BYTES], 1);
        Ok(Self { id, sender, receiver, content, checker, sent: 0, back: None })
    }

    /// Sends what is due, one datagram at a time so that a late thread makes no burst.
    fn send(&mut self, due: u64, now: Duration) -> Result<()> {
        if self.sent >= due {
            return Ok(());
        }
        let mut datagram = [0; BYTES as usize];
        stamp(&self.content, self.id, self.sent, now.as_nanos() as u64, &mut datagram);
        match self.sender.send(&datagram) {
            Ok(_) => self.sent += 1,
            // The next look tries the same number again.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EBADF | libc::EMSGSIZE)) => {}
            Err(error) => return Err(error).context("the beat cannot be sent"),
        }
        Ok(())
    }

    fn receive(&mut self, start: Instant, marked: u64) -> Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match self.receiver.recv(&mut buffer) {
                Ok(length) => {
                    let Some(sent) = self.checker.take(&buffer[..length]) else { continue };
                    if sent > marked && self.back.is_none() {
                        self.back = Some(start.elapsed().saturating_sub(Duration::from_nanos(marked)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("the beat cannot be received"),
            }
        }
    }
}
