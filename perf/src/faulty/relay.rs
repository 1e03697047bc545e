//! The thread that carries frames from one link to the other, and the handle that its owner holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use socket2::Socket;

use super::audit::{Audit, Findings};
use super::frame::{Datagram, arp_answer};
use super::script::Script;
use super::treat::{Counts, Direction, Outgoing};
use crate::lab::{INNER_ENDS, Namespace, Wire, WireOptions};
use crate::sys;

/// Frames read from one side before the other has its turn.
const TURN_FRAMES: usize = 64;
/// The longest wait for a frame: then the owner's wishes are looked at.
const WAIT_MAX: Duration = Duration::from_millis(5);
/// After such a silence what was held back goes.
const SILENCE: Duration = Duration::from_millis(500);

/// What a relay is told at its start.
#[derive(Clone, Debug, Default)]
pub struct RelayOptions {
    /// What it does to frames.
    pub script: Script,
    /// Texts that must not be seen in clear.
    pub markers: Vec<Vec<u8>>,
    /// How many ESP packets of each direction are kept to be sent again, the first ones.
    pub keep: usize,
}

/// What a relay did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// From left to right.
    pub forward: Counts,
    /// From right to left.
    pub backward: Counts,
    /// Of both.
    pub findings: Findings,
}

impl Report {
    /// Whether no audit found anything.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let found = &self.findings;
        found.repeated_nonces + found.clear_frames + found.amplified == 0
    }
}

/// Everything that was kept of one direction, sent again.
#[derive(Clone, Copy, Debug)]
pub struct Playback {
    /// 0: what went from left to right. 1: what went from right to left.
    pub direction: usize,
    /// Each so many times.
    pub times: u32,
    /// With source and destination exchanged, to its own sender.
    pub reflect: bool,
    /// Frames a second.
    pub rate: f64,
}

enum Wish {
    Script(Box<Script>),
    Cut(bool),
    Play(Playback, Sender<u64>),
    Report(Sender<Report>),
}

/// A running relay; it ends when this is dropped.
pub struct Relay {
    wishes: Option<Sender<Wish>>,
    thread: Option<JoinHandle<Result<()>>>,
    /// The namespace that its links end in, if the relay laid it.
    middle: Option<Namespace>,
}

impl Relay {
    /// Joins two devices of the calling thread's namespace.
    ///
    /// # Errors
    /// If there is no such device, or no right to read it.
    pub fn start(devices: [&str; 2], options: RelayOptions) -> Result<Self> {
        let open = |device: &str| sys::packet_socket(device).with_context(|| format!("device {device}"));
        let sockets = [open(devices[0])?, open(devices[1])?];
        let (sender, receiver) = channel();
        let carrier = Carrier::new(sockets, options);
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || carrier.run(&receiver))?;
        Ok(Self { wishes: Some(sender), thread: Some(thread), middle: None })
    }

    /// Lays a wire again in two pieces ([`Wire::open_in`]) and joins them.
    ///
    /// # Errors
    /// As [`Wire::open_in`] and [`Self::start`].
    pub fn on(wire: &Wire, wire_options: &WireOptions, options: RelayOptions) -> Result<Self> {
        let middle = Namespace::new("wire")?;
        wire.open_in(&middle, wire_options)?;
        let mut relay = middle.enter(|| Self::start(INNER_ENDS, options))??;
        relay.middle = Some(middle);
        Ok(relay)
    }

    fn wish(&self, wish: Wish) -> Result<()> {
        let sender = self.wishes.as_ref().context("the relay has ended")?;
        sender.send(wish).map_err(|_| anyhow!("the relay has ended"))
    }

    fn ask<T>(&self, wish: impl FnOnce(Sender<T>) -> Wish) -> Result<T> {
        let (sender, receiver) = channel();
        self.wish(wish(sender))?;
        receiver.recv().context("the relay has ended")
    }

    /// From now on another script. Datagrams are counted on, what is on its way stays so.
    ///
    /// # Errors
    /// If the relay has ended.
    pub fn set_script(&self, script: Script) -> Result<()> {
        self.wish(Wish::Script(Box::new(script)))
    }

    /// Cuts the wire, or mends it. What is on its way arrives.
    ///
    /// # Errors
    /// If the relay has ended.
    pub fn cut(&self, cut: bool) -> Result<()> {
        self.wish(Wish::Cut(cut))
    }

    /// Sends again what was kept so far, beside what passes, and waits for the end. Gives the number of packets.
    ///
    /// # Errors
    /// If the relay has ended.
    pub fn play(&self, playback: Playback) -> Result<u64> {
        self.ask(|sender| Wish::Play(playback, sender))
    }

    /// What happened so far.
    ///
    /// # Errors
    /// If the relay has ended.
    pub fn report(&self) -> Result<Report> {
        self.ask(Wish::Report)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.wishes = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => eprintln!("the relay: {error:#}"),
            Some(Err(_)) => eprintln!("the relay panicked"),
            _ => {}
        }
    }
}

/// A frame that waits for its time: when, in which order among equals, in which direction.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// A playback under way.
struct Playing {
    plan: Playback,
    frames: Vec<Arc<[u8]>>,
    since: Instant,
    done: u64,
    tell: Sender<u64>,
}

struct Carrier {
    sockets: [Socket; 2],
    script: Script,
    audit: Audit,
    directions: [Direction; 2],
    kept: [Vec<Arc<[u8]>>; 2],
    keep: usize,
    start: Instant,
    cut: bool,
    waiting: BinaryHeap<Waiting>,
    order: u64,
    free_at: [Instant; 2],
    heard: [Instant; 2],
    playing: Option<Playing>,
    buffer: Vec<u8>,
}

impl Carrier {
    fn new(sockets: [Socket; 2], options: RelayOptions) -> Self {
        let now = Instant::now();
        Self {
            sockets,
            script: options.script,
            audit: Audit::new(options.markers),
            directions: Default::default(),
            kept: Default::default(),
            keep: options.keep,
            start: now,
            cut: false,
            waiting: BinaryHeap::new(),
            order: 0,
            free_at: [now; 2],
            heard: [now; 2],
            playing: None,
            buffer: vec![0; 1 << 17],
        }
    }

    fn run(mut self, wishes: &Receiver<Wish>) -> Result<()> {
        loop {
            loop {
                match wishes.try_recv() {
                    Ok(wish) => self.fulfil(wish),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            }
            let mut busy = false;
            for side in 0..2 {
                busy |= self.read(side)?;
            }
            self.release();
            self.play();
            if !busy {
                let next = self.waiting.peek().map(|Reverse((when, ..))| when.saturating_duration_since(Instant::now()));
                let pace = if self.playing.is_some() { Duration::from_micros(200) } else { WAIT_MAX };
                sys::wait_readable(&self.sockets, next.unwrap_or(pace).min(pace))?;
            }
        }
    }

    fn fulfil(&mut self, wish: Wish) {
        match wish {
            Wish::Script(script) => self.script = *script,
            Wish::Cut(cut) => self.cut = cut,
            Wish::Play(plan, tell) => {
                let frames = self.kept[plan.direction & 1].clone();
                self.playing = Some(Playing { plan, frames, since: Instant::now(), done: 0, tell });
            }
            Wish::Report(sender) => {
                for (direction, socket) in self.directions.iter_mut().zip(&self.sockets) {
                    direction.counts.overflowed += sys::overflows(socket).unwrap_or_default();
                }
                let [forward, backward] = self.directions.each_ref().map(|direction| direction.counts.clone());
                // Who asked may be gone.
                let _ = sender.send(Report { seed: self.script.seed, forward, backward, findings: self.audit.findings() });
            }
        }
    }

    /// Reads what came from one end. Gives whether there may be more.
    fn read(&mut self, side: usize) -> Result<bool> {
        for _ in 0..TURN_FRAMES {
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = (&self.sockets[side]).read(&mut buffer);
            if let Ok(length) = read {
                self.arrive(side, &buffer[..length]);
            }
            self.buffer = buffer;
            match read {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // A link that goes down says so once.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENETDOWN | libc::EINTR)) => return Ok(false),
                Err(error) => return Err(error).context("a frame cannot be read"),
            }
        }
        Ok(true)
    }

    fn arrive(&mut self, side: usize, frame: &[u8]) {
        let now = Instant::now();
        self.heard[side] = now;
        self.directions[side].counts.frames += 1;
        if let Some(hardware) = frame.get(6..12).and_then(|bytes| bytes.try_into().ok()) {
            self.directions[side].hardware = hardware;
        }
        let home = self.directions[1 - side].moves.lead_home(frame);
        self.audit.sent(frame, home.as_ref().map(|(_, address)| *address), Instant::now());
        let frame = home.as_ref().map_or(frame, |(frame, _)| frame.as_slice());
        self.directions[side].counts.ike += u64::from(Datagram::find(frame).is_some_and(|datagram| datagram.is_ike(frame)));
        let faults = self.script.faults(side);
        let at = now.duration_since(self.start).as_millis() as u64;
        if self.cut || faults.black_outs_ms.iter().any(|[from, length]| at >= *from && at - from < *length) {
            self.directions[side].counts.blacked_out += 1;
            return;
        }
        // Somebody asks where the other end is, which may seem to be elsewhere.
        let elsewhere = &self.script.faults(1 - side).move_to;
        if let Some(answer) = arp_answer(frame, elsewhere, self.directions[1 - side].hardware) {
            return self.send(1 - side, &answer);
        }
        let Some(datagram) = Datagram::find(frame) else {
            return self.queue(side, Outgoing { frame: frame.to_vec(), after: Duration::ZERO, held_for: 0 });
        };
        if self.kept[side].len() < self.keep && datagram.esp(frame).is_some() {
            self.kept[side].push(frame.into());
        }
        let treatment = self.directions[side].treat(frame, &datagram, self.script.seed, side, faults);
        if let Some(answer) = treatment.back {
            self.send(1 - side, &answer);
        }
        if let Some(seen) = treatment.moved {
            self.audit.credit(&seen, true);
        }
        for outgoing in treatment.forward {
            if outgoing.held_for > 0 { self.directions[side].hold(outgoing) } else { self.queue(side, outgoing) }
        }
        for outgoing in self.directions[side].overtaken(false) {
            self.queue(side, outgoing);
        }
    }

    /// Sends a frame at its time, or later where the rate asks for it.
    fn queue(&mut self, side: usize, outgoing: Outgoing) {
        let faults = self.script.faults(side);
        let now = Instant::now();
        let mut due = now + outgoing.after;
        if faults.rate_mbit > 0.0 {
            due = due.max(self.free_at[side]);
            if due.duration_since(now) > outgoing.after + Duration::from_secs_f64(faults.queue_ms / 1e3) {
                self.directions[side].counts.queue_full += 1;
                return;
            }
            self.free_at[side] = due + Duration::from_secs_f64(outgoing.frame.len() as f64 * 8e-6 / faults.rate_mbit);
        }
        if due <= now {
            return self.send(side, &outgoing.frame);
        }
        self.order += 1;
        self.waiting.push(Reverse((due, self.order, side, outgoing.frame)));
    }

    /// Sends what is due, and after a silence what was held back.
    fn release(&mut self) {
        let now = Instant::now();
        for side in 0..2 {
            if now.duration_since(self.heard[side]) > SILENCE {
                for outgoing in self.directions[side].overtaken(true) {
                    self.queue(side, outgoing);
                }
            }
        }
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, side, frame))) = self.waiting.pop() {
                self.send(side, &frame);
            }
        }
    }

    /// Sends as much of a playback as its rate allows by now.
    fn play(&mut self) {
        let Some(mut playing) = self.playing.take() else { return };
        let total = playing.frames.len() as u64 * u64::from(playing.plan.times);
        let allowed = (playing.since.elapsed().as_secs_f64() * playing.plan.rate) as u64;
        let side = if playing.plan.reflect { 1 - (playing.plan.direction & 1) } else { playing.plan.direction & 1 };
        for _ in playing.done..total.min(allowed).min(playing.done + TURN_FRAMES as u64) {
            let at = (playing.done / u64::from(playing.plan.times.max(1))) as usize;
            if let Some(frame) = playing.frames.get(at) {
                let frame = if playing.plan.reflect { reflected(frame) } else { frame.to_vec() };
                self.audit.credit(&frame, false);
                self.send(side, &frame);
                self.directions[side].counts.replayed += 1;
            }
            playing.done += 1;
        }
        if playing.done < total {
            self.playing = Some(playing);
        } else {
            let _ = playing.tell.send(total); // who asked may be gone
        }
    }

    /// Sends a frame on its way in a direction.
    fn send(&mut self, side: usize, frame: &[u8]) {
        let counts = &mut self.directions[side].counts;
        match self.sockets[1 - side].send(frame) {
            Ok(_) => counts.sent += 1,
            Err(_) => counts.refused += 1,
        }
    }
}

/// The frame from its destination to its source.
fn reflected(frame: &[u8]) -> Vec<u8> {
    let Some(datagram) = Datagram::find(frame) else { return frame.to_vec() };
    let [from, to] = datagram.ports;
    let mut new = datagram.readdressed(frame, [datagram.destination, datagram.source], [to, from]);
    if let Some(ends) = new.get_mut(..12) {
        ends.rotate_left(6);
    }
    new
}
