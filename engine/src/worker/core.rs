//! What every round of a worker has, whatever carries its packets: errands of the admin thread, parcels of other cores, time, and
//! the path with its buffers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use penstock_uapi::{Counter, Drop};

use super::desk::{Desk, Errand, Spent};
use super::reporter::Reporter;
use super::{Files, Plan};
use crate::handoff::mail::{Content, Mailroom, Parcel};
use crate::limits;
use crate::path::{Io, Path, Receive};
use crate::slots::{Inbox, Outbox, SendSlot, WriteSlot};
use crate::udp::control::Told;

/// A core's path and all that surrounds it.
#[derive(Debug)]
pub struct Core {
    path: Path,
    /// Send buffers.
    pub outbox: Outbox,
    /// Write buffers.
    pub inbox: Inbox,
    mail: Mailroom,
    /// A parcel for which there was no more room.
    unpacking: Option<(usize, Box<Parcel>)>,
    reporter: Reporter,
    desk: Arc<Desk>,
    /// Descriptors.
    pub files: Files,
    epoch: Instant,
    now: Instant,
    now_ms: u64,
    ticked: Instant,
    /// Something came in this round.
    worked: bool,
    /// What found no room at the admin thread's.
    unspent: Option<Spent>,
    /// The last overflow count of each socket.
    overflows: [u32; 4],
    /// Cut sends by `UDP_SEGMENT`.
    pub gso: bool,
    /// Bytes of a packet's virtio header.
    pub vnet_header_bytes: usize,
    /// Sleep through packets that come one by one and often.
    pub gather: bool,
    /// How long to poll before sleeping.
    pub poll: Duration,
    /// Drop what waits in the TUN queue already.
    pub drop_stale: bool,
    /// The TUN queue is this engine's to read.
    pub reads_tun: bool,
}

/// Lends the path what it works with.
macro_rules! io {
    ($core:ident) => {
        &mut Io { outbox: &mut $core.outbox, inbox: &mut $core.inbox, mail: &mut $core.mail, events: &mut $core.reporter }
    };
}

impl Core {
    /// Makes a core from its plan.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let now = Instant::now();
        Self {
            path: Path::new(plan.path, Arc::clone(&plan.desk.tally)),
            outbox: Outbox::new(limits::SEND_SLOTS.into()),
            inbox: Inbox::new(limits::WRITE_SLOTS.into()),
            mail: plan.mail,
            unpacking: None,
            reporter: Reporter::new(Arc::clone(&plan.desk)),
            desk: plan.desk,
            files: plan.files,
            epoch: plan.epoch,
            now,
            now_ms: 0,
            ticked: now,
            worked: false,
            unspent: None,
            overflows: [0; 4],
            gso: plan.gso,
            vnet_header_bytes: plan.path.vnet_header_bytes,
            gather: plan.gather,
            poll: plan.poll.min(limits::POLL_MAX),
            drop_stale: plan.drop_stale,
            reads_tun: plan.reads_tun,
        }
    }

    /// The core's desk.
    #[must_use]
    pub fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// The time of this round.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Begins a round: reads the clock, does what is due, and what the admin thread and other cores ask.
    pub fn begin(&mut self) {
        self.now = Instant::now();
        self.now_ms = u64::try_from(self.now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX);
        self.worked = false;
        if self.now.saturating_duration_since(self.ticked) >= limits::TICK {
            self.ticked = self.now;
            self.path.tick(self.now_ms, io!(self));
        }
        self.errands();
        self.parcels();
    }

    /// Ends a round: what is ready can be carried out, what was counted is seen. Returns whether anything was done.
    pub fn finish(&mut self) -> bool {
        self.desk.parked.store(self.path.parked(), Ordering::Relaxed);
        self.desk.waiting.store(u32::try_from(self.path.waiting()).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.path.finish(io!(self));
        self.mail.flush();
        self.reporter.flush();
        self.worked
    }

    /// Says that this core is about to sleep; `false` if there is something to do after all.
    pub fn announce_sleep(&mut self) -> bool {
        self.desk.starved.store(!self.mail.has_room(limits::PARCELS_PER_READ), Ordering::Relaxed);
        self.desk.sleep.announce();
        let fed = self.desk.starved.load(Ordering::Relaxed) && self.mail.has_room(limits::PARCELS_PER_READ);
        if self.desk.errands.is_empty() && !self.mail.has_mail() && !fed {
            self.path.count(Counter::Sleeps, 1);
            return true;
        }
        self.end_sleep();
        false
    }

    /// The core is awake again.
    pub fn end_sleep(&self) {
        self.desk.sleep.end();
        self.desk.starved.store(false, Ordering::Relaxed);
    }

    fn errands(&mut self) {
        for _ in 0..limits::ERRANDS_PER_ROUND {
            // Parked and injected frames are opened here.
            if !self.can_open(limits::PARCEL_FRAMES) {
                return;
            }
            if let Some(spent) = self.unspent.take() {
                // The admin thread frees before it asks for more, so this passes.
                self.unspent = self.reporter.spend(spent).err();
                if self.unspent.is_some() {
                    return;
                }
            }
            let Some(errand) = self.desk.errands.pop() else { return };
            self.worked = true;
            match errand {
                Errand::Order(order) => {
                    self.path.apply(self.now_ms, order, io!(self));
                    self.obeyed();
                }
                Errand::ReadTun(reads) => {
                    self.reads_tun = reads;
                    self.desk.quiet.store(false, Ordering::Relaxed);
                    self.obeyed();
                }
                Errand::Inject(mut parcel) => {
                    // There is room for all of it.
                    let _ = self.unpack(&mut parcel);
                    self.unspent = self.reporter.spend(Spent::Parcel(parcel)).err();
                }
            }
        }
    }

    fn obeyed(&mut self) {
        let done = self.desk.done.load(Ordering::Relaxed).wrapping_add(1);
        self.desk.done.store(done, Ordering::Release);
        self.reporter.say();
    }

    /// Parcels of other cores, as long as there is room for what comes out of them.
    fn parcels(&mut self) {
        for _ in 0..limits::BUDGET {
            let Some((line, mut parcel)) = self.unpacking.take().or_else(|| self.mail.take()) else { return };
            if !self.unpack(&mut parcel) {
                self.unpacking = Some((line, parcel));
                return;
            }
            self.mail.give_back(line, parcel);
        }
    }

    /// Takes out of a parcel what there is room for; `false` if something is left in it.
    fn unpack(&mut self, parcel: &mut Parcel) -> bool {
        let Some(content) = parcel.content() else { return true };
        loop {
            let room = if matches!(content, Content::Outbound { .. }) { self.can_seal() } else { self.can_open(1) };
            if !room {
                return false;
            }
            let Some(frame) = parcel.take() else { return true };
            self.worked = true;
            match content {
                Content::Outbound { policy } => self.path.outbound_handed(policy, frame, io!(self)),
                Content::Inbound(receive) => self.path.inbound_handed(self.now_ms, &receive, frame, io!(self)),
            }
        }
    }

    /// The shell has read and sent all that it had of a TUN queue that it no longer reads. Once the other cores have taken what they were
    /// handed, the admin thread is told.
    pub fn note_quiet(&mut self) {
        if self.desk.quiet.load(Ordering::Relaxed) || !self.mail.is_idle() || self.outbox.ready_count() > 0 {
            return;
        }
        self.desk.quiet.store(true, Ordering::Release);
        self.reporter.say();
        self.reporter.flush();
    }

    /// Whether the admin thread waits for [`Self::note_quiet`]: packets wait with it, so nothing sleeps.
    #[must_use]
    pub fn is_leaving_tun(&self) -> bool {
        !self.reads_tun && !self.desk.quiet.load(Ordering::Relaxed)
    }

    /// Whether there is room for what a TUN read can become, here or on its way to another core.
    pub fn can_read(&mut self) -> bool {
        self.can_seal() && self.mail.has_room(limits::PARCELS_PER_READ)
    }

    /// Whether there is room for what a receive of `frames` datagrams can become, here or on its way to another core.
    pub fn can_receive(&mut self, frames: usize) -> bool {
        self.can_open(frames) && self.mail.has_room(limits::PARCELS_PER_READ)
    }

    /// Whether send buffers are free for one TUN read.
    fn can_seal(&self) -> bool {
        self.outbox.free_count() >= limits::SEND_SLOTS_PER_READ
    }

    /// Whether write buffers are free for so many frames.
    fn can_open(&self, frames: usize) -> bool {
        self.inbox.free_count() >= (frames + 2).min(limits::WRITE_SLOTS.into())
    }

    /// A TUN read.
    pub fn read(&mut self, read: &mut [u8]) {
        self.worked = true;
        self.path.outbound(self.now_ms, read, io!(self));
        if read.len() >= limits::WHOLE_READ_BYTES {
            self.outbox.close();
        }
    }

    /// A UDP receive through one of the four sockets.
    pub fn received(&mut self, socket: usize, from: Option<std::net::SocketAddr>, told: &Told, cut: Cut, datagrams: &[u8]) {
        self.worked = true;
        self.note_overflows(socket, told);
        if cut.control {
            self.path.count(Counter::ControlTruncations, 1);
        }
        // Without a sender it was cut so short that not even its address is whole.
        let Some(from) = from.filter(|_| !cut.payload) else {
            self.path.count(Counter::UdpReceives, 1);
            self.path.count(Counter::InboundFrames, 1);
            return self.path.drop(Drop::Truncated, 1);
        };
        let stride = told.segment.unwrap_or(datagrams.len());
        let receive = Receive { from, to: told.to, tos: told.tos, stride };
        self.path.inbound(self.now_ms, &receive, datagrams, io!(self));
    }

    /// The kernel's count is cumulative, modulo 2^32, and comes only with a datagram.
    fn note_overflows(&mut self, socket: usize, told: &Told) {
        let (Some(count), Some(last)) = (told.overflows, self.overflows.get_mut(socket)) else { return };
        let more = count.wrapping_sub(std::mem::replace(last, count));
        self.path.count(Counter::ReceiveQueueOverflows, more.into());
    }

    /// The kernel answered a send or a part of one.
    pub fn sent(&mut self, slot: &SendSlot, error: Option<i32>) {
        self.path.sent(slot, error, io!(self));
    }

    /// The kernel answered a write.
    pub fn written(&mut self, slot: Box<WriteSlot>, taken: bool) {
        self.path.written(&slot, taken);
        self.inbox.give_back(slot);
    }

    /// A multishot request ended because there was no buffer.
    pub fn note_shortage(&mut self) {
        self.path.count(Counter::BufferShortages, 1);
    }

    /// Drops what was read from the TUN queue because it had waited since before this engine.
    pub fn drop_as_stale(&mut self, packets: u64, bytes: u64) {
        self.path.count(Counter::TunReads, 1);
        self.path.count(Counter::OutboundPackets, packets);
        self.path.count(Counter::OutboundBytes, bytes);
        self.path.drop(Drop::Stale, packets);
    }
}

/// What the kernel cut off because it did not fit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Of the datagrams.
    pub payload: bool,
    /// Of the control messages.
    pub control: bool,
}
