//! The ring shell: one `io_uring_enter` a round moves everything. The kernel fills buffers by itself (multishot reads), and what a
//! round made is submitted with the call that waits for the next.
//!
//! ```text
//!   reap ─► queues of filled buffers ─► path (a budget each) ─► lanes ─► submit and wait
//! ```
//!
//! **Back pressure.** A filled buffer stays in its queue until there is room for what comes out of it. The kernel then runs out of
//! buffers, ends its multishot request, and packets wait where they are bounded in time: in the socket and in the TUN queue.
//!
//! **Order.** What leaves through one file is a lane: its requests of one round are chained (`IOSQE_IO_HARDLINK`: each starts when
//! the one before is done, failed or not), and the next round's wait until the chain is done. Without a chain a send that found
//! the socket buffer full would wait to be woken while a later one finds room and overtakes it; and before Linux 6.4, where a TUN
//! queue does not know non-blocking writes, writes would be carried out by several kernel threads at once.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::limits;
use crate::slots::{SendSlot, Source};
use crate::sys::uring::{Completion, File, Sizes, Uring, Wait};
use crate::tun::queue;
use crate::worker::Plan;
use crate::worker::core::{Core, Cut};
use crate::worker::pace::{Pace, Sleep};

mod message;
mod reads;
#[cfg(test)]
mod tests;

use reads::{Filled, Reads};

/// The pause before a file that gave an error is read again, once it has given several in a row: a TUN device that was deleted
/// fails each read at once.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Errors in a row before that pause.
const ERRORS_PATIENT: u32 = 8;

/// Makes the ring of a worker's thread.
///
/// # Errors
/// If the kernel refuses it.
pub fn open(plan: &Plan) -> io::Result<Uring> {
    let files = File::ALL.map(|file| match file {
        File::Bell => Some(std::os::fd::AsFd::as_fd(&plan.desk.bell)),
        _ => plan.files.get(file),
    });
    let sizes = Sizes {
        tun_buffers: limits::TUN_BUFFERS,
        tun_offered: limits::TUN_BUFFERS_OFFERED,
        tun_bytes: limits::BUFFER_BYTES,
        udp_buffers: limits::UDP_BUFFERS,
        udp_bytes: limits::BUFFER_BYTES,
        sends: limits::SEND_SLOTS,
        parts: limits::SEND_PARTS,
        writes: limits::WRITE_SLOTS,
    };
    Uring::new(files, &sizes, plan.read_multishot)
}

/// Whether a file is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    there: bool,
    armed: bool,
    errors: u32,
    not_before: Option<Instant>,
}

/// What leaves through one socket.
#[derive(Debug)]
struct Lane {
    /// Runs that the kernel would not cut, to be sent frame by frame, before all others.
    again: VecDeque<Box<SendSlot>>,
    pending: VecDeque<Box<SendSlot>>,
    in_flight: usize,
    whole: bool,
}

/// A worker on a ring.
#[derive(Debug)]
pub struct Shell {
    uring: Uring,
    core: Core,
    reading: [Reading; File::ALL.len()],
    reads: Reads,
    receives: VecDeque<(File, u16, usize)>,
    lanes: [Lane; File::UDP.len()],
    writes_in_flight: usize,
    pace: Pace,
    gather: bool,
    /// A reading request found no buffer since the last sleep.
    short: bool,
    /// The TUN queue's reading request was told to end.
    cancelled: bool,
}

impl Shell {
    /// Puts ring and core together.
    #[must_use]
    pub fn new(uring: Uring, core: Core) -> Self {
        let slots = usize::from(limits::SEND_SLOTS);
        let lane =
            |_| Lane { again: VecDeque::with_capacity(slots), pending: VecDeque::with_capacity(slots), in_flight: 0, whole: core.gso };
        let there = |file| file == File::Bell || core.files.get(file).is_some();
        Self {
            reading: File::ALL.map(|file| Reading { there: there(file), ..Reading::default() }),
            reads: Reads::new(limits::TUN_BUFFERS.into(), core.vnet_header_bytes),
            receives: VecDeque::with_capacity(limits::UDP_BUFFERS.into()),
            lanes: File::UDP.map(lane),
            writes_in_flight: 0,
            pace: Pace::new(core.poll, Instant::now()),
            gather: core.gather,
            short: false,
            cancelled: false,
            uring,
            core,
        }
    }

    /// Moves packets for ever.
    pub fn run(mut self) {
        queue::drop_stale(&mut self.core);
        loop {
            self.round();
        }
    }

    /// One round: what is there is moved, and if that was nothing, the thread sleeps until there is something or time has passed.
    pub fn round(&mut self) {
        // Buffers that come back first make room for the errands of this round.
        self.reap();
        self.core.begin();
        self.serve();
        let worked = self.core.finish();
        self.dispatch();
        self.rearm();
        if !self.core.reads_tun {
            self.leave_tun();
        }
        if self.wait(worked).is_err() {
            // The ring cannot be entered for a moment (no memory): packets wait in their queues.
            std::thread::sleep(ERROR_PAUSE);
        }
    }

    /// Submits, and sleeps if there is nothing to do.
    fn wait(&mut self, worked: bool) -> io::Result<()> {
        let now = self.core.now();
        if worked {
            self.pace.worked(now);
        }
        let more = self.can_read() || self.can_receive() || self.core.is_leaving_tun();
        if !more && self.pace.may_sleep(now) && self.core.announce_sleep() {
            let least = self.least(now);
            let result = self.uring.enter(Some(&Wait { timeout: limits::TICK, least }));
            self.core.end_sleep();
            return result;
        }
        self.uring.enter(None)
    }

    /// The least time to sleep now. One that ended for want of buffers has left packets behind.
    fn least(&mut self, now: Instant) -> Duration {
        if !self.gather {
            return Duration::ZERO;
        }
        let Sleep { least, many } = self.pace.gather(now);
        self.uring.tun.offer(if many { limits::TUN_BUFFERS } else { limits::TUN_BUFFERS_OFFERED });
        if std::mem::take(&mut self.short) { Duration::ZERO } else { least }
    }

    fn reap(&mut self) {
        while let Some(completion) = self.uring.reap() {
            match completion {
                Completion::Filled { file, buffer, length, last } => {
                    self.pace.came(length);
                    let reading = &mut self.reading[file.index()];
                    (reading.armed, reading.errors) = (!last, 0);
                    if file == File::Tun {
                        self.reads.push((buffer, length), self.uring.tun.bytes(buffer, length));
                    } else {
                        self.receives.push_back((file, buffer, length));
                    }
                }
                Completion::Ended { file, errno } => self.note_end(file, errno),
                Completion::Sent { file, part, result, slot } => self.note_sent(file, &part, result, slot),
                Completion::Written { slot, result } => {
                    self.writes_in_flight = self.writes_in_flight.saturating_sub(1);
                    // A queue takes all of a packet or nothing.
                    let taken = usize::try_from(result) == Ok(slot.len);
                    self.core.written(slot, taken);
                }
                Completion::Cancelled => self.cancelled = false,
            }
        }
    }

    fn note_end(&mut self, file: File, errno: i32) {
        let reading = &mut self.reading[file.index()];
        reading.armed = false;
        if file == File::Bell && errno == 0 {
            reading.errors = 0;
            return;
        }
        // Whatever the reason, what ends again and again without bringing anything must not keep the core busy.
        reading.errors = reading.errors.saturating_add(1);
        if reading.errors > ERRORS_PATIENT {
            reading.not_before = Some(self.core.now() + ERROR_PAUSE);
        }
        if errno == libc::ENOBUFS {
            self.short = true;
            self.core.note_shortage();
        }
    }

    fn note_sent(&mut self, file: File, part: &SendSlot, result: i32, slot: Option<Box<SendSlot>>) {
        let lane = &mut self.lanes[file.index()];
        lane.in_flight -= usize::from(slot.is_some());
        if part.packets > 1 && matches!(-result, libc::EINVAL | libc::EIO) {
            // The kernel cannot cut here (EIO: the device has no checksums) or not this run (EINVAL): frame by frame, then.
            lane.whole &= -result != libc::EIO;
            lane.again.extend(slot);
            return;
        }
        // So does a socket.
        let sent = usize::try_from(result) == Ok(part.len);
        self.core.sent(part, (!sent).then_some(result.min(0).wrapping_neg()));
        if let Some(slot) = slot {
            self.core.outbox.give_back(slot);
        }
    }

    fn can_read(&mut self) -> bool {
        !self.reads.is_empty() && self.core.can_read()
    }

    fn can_receive(&mut self) -> bool {
        let Some((_, buffer, length)) = self.receives.front() else { return false };
        let message = message::parse(self.uring.udp.bytes(*buffer, *length));
        self.core.can_receive(message.frames())
    }

    /// Filled buffers to the path, from both sides in turn, as long as there is room for what comes out.
    fn serve(&mut self) {
        while let Some(filled) = self.can_read().then(|| self.reads.pop_small()).flatten() {
            self.read(filled);
        }
        let mut bytes = 0;
        while bytes < limits::ROUND_BYTES {
            let read = self.can_read().then(|| self.reads.pop()).flatten();
            if let Some(filled) = read {
                bytes += filled.1;
                self.read(filled);
            }
            let receive = self.can_receive().then(|| self.receives.pop_front()).flatten();
            if let Some((file, buffer, length)) = receive {
                bytes += length;
                let message = message::parse(self.uring.udp.bytes(buffer, length));
                let cut = Cut { payload: message.payload_cut, control: message.control_cut };
                self.core.received(file.index(), message.from, &message.told, cut, message.payload);
                self.uring.udp.give_back(buffer);
            }
            if read.is_none() && receive.is_none() {
                return;
            }
        }
    }

    fn read(&mut self, (buffer, length): Filled) {
        self.core.read(self.uring.tun.bytes(buffer, length));
        self.uring.tun.give_back(buffer);
    }

    /// What the path made ready to the ring.
    fn dispatch(&mut self) {
        while let Some(slot) = self.core.outbox.take_ready() {
            match self.file_of(&slot) {
                Some(file) => self.lanes[file.index()].pending.push_back(slot),
                None => {
                    self.core.sent(&slot, Some(libc::ENETUNREACH));
                    self.core.outbox.give_back(slot);
                }
            }
        }
        for file in File::UDP {
            self.send_lane(file);
        }
        if self.writes_in_flight == 0 {
            while let Some(slot) = self.core.inbox.take_ready() {
                let chained = self.core.inbox.ready_count() > 0 && self.uring.idle_writes() > 1;
                match self.uring.write(slot, chained) {
                    Ok(()) => self.writes_in_flight += 1,
                    Err(slot) => self.core.inbox.put_back(slot),
                }
                if !chained {
                    break;
                }
            }
        }
    }

    /// The socket that a run leaves through, if this core has it.
    fn file_of(&self, slot: &SendSlot) -> Option<File> {
        let envelope = slot.envelope?;
        let file = match (envelope.source, envelope.remote.is_ipv6()) {
            (Source::Own, false) => File::Own4,
            (Source::Own, true) => File::Own6,
            (Source::Shared, false) => File::Shared4,
            (Source::Shared, true) => File::Shared6,
        };
        self.reading[file.index()].there.then_some(file)
    }

    fn send_lane(&mut self, file: File) {
        let Self { uring, lanes, .. } = self;
        let lane = &mut lanes[file.index()];
        if lane.in_flight > 0 {
            return;
        }
        while let Some((slot, whole)) = lane.next() {
            if !uring.has_room(1, lane_parts(&slot, whole)) {
                lane.put_back(slot, whole);
                return;
            }
            let behind = lane.peek_parts();
            let chained = behind.is_some_and(|parts| uring.has_room(2, lane_parts(&slot, whole) + parts));
            match uring.send(file, slot, whole, chained) {
                Ok(()) => lane.in_flight += 1,
                Err(slot) => return lane.put_back(slot, whole),
            }
            if !chained {
                return;
            }
        }
    }

    /// Ends the reading of the TUN queue, which is another engine's now or not ours yet, and says when all that was read has left.
    fn leave_tun(&mut self) {
        if self.reading[File::Tun.index()].armed {
            if !std::mem::replace(&mut self.cancelled, true) {
                self.uring.cancel_read(File::Tun);
            }
            return;
        }
        let idle = |lane: &Lane| lane.in_flight == 0 && lane.again.is_empty() && lane.pending.is_empty();
        if self.reads.is_empty() && self.lanes.iter().all(idle) {
            self.core.note_quiet();
        }
    }

    /// Asks again for what is no longer being read.
    fn rearm(&mut self) {
        let now = self.core.now();
        for file in File::ALL {
            if file == File::Tun && !self.core.reads_tun {
                continue;
            }
            let reading = &mut self.reading[file.index()];
            let waits = reading.not_before.is_some_and(|at| now < at);
            if !reading.there || reading.armed || waits {
                continue;
            }
            let dry = file != File::Bell && self.uring.buffers(file).is_dry();
            if !dry {
                (reading.armed, reading.not_before) = (true, None);
                self.uring.read(file);
            }
        }
    }
}

/// How many requests a run is.
fn lane_parts(slot: &SendSlot, whole: bool) -> usize {
    if whole { 1 } else { slot.packets as usize }
}

impl Lane {
    /// The next run, and whether it goes in one send.
    fn next(&mut self) -> Option<(Box<SendSlot>, bool)> {
        if let Some(slot) = self.again.pop_front() {
            return Some((slot, false));
        }
        let whole = self.whole;
        self.pending.pop_front().map(|slot| (slot, whole))
    }

    fn put_back(&mut self, slot: Box<SendSlot>, whole: bool) {
        if whole || self.again.is_empty() && !self.whole {
            self.pending.push_front(slot);
        } else {
            self.again.push_front(slot);
        }
    }

    fn peek_parts(&self) -> Option<usize> {
        let again = self.again.front().map(|slot| lane_parts(slot, false));
        again.or_else(|| self.pending.front().map(|slot| lane_parts(slot, self.whole)))
    }
}
