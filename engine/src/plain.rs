//! The plain twin of the ring shell: poll, read, recvmsg, sendmsg and write on the same path. For kernels that refuse rings, and as
//! an oracle for the ring in tests. A round is one poll and as many calls as there are buffers to move.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::limits;
use crate::slots::{SendSlot, Source};
use crate::sys::socket::{receive_datagram, send_datagram};
use crate::sys::uring::File;
use crate::sys::wait::{self, Interest, poll};
use crate::tun::queue;
use crate::udp::{ADDRESS_BYTES, CONTROL_BYTES, address, control};
use crate::worker::core::{Core, Cut};
use crate::worker::pace::Pace;

/// The pause after a file gave an error, so that a TUN device that was deleted does not keep a core busy.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// What leaves through one socket.
#[derive(Debug)]
struct Lane {
    pending: VecDeque<Box<SendSlot>>,
    /// Frames of the first run that have gone already, where it goes frame by frame.
    gone: usize,
    /// The first run goes frame by frame though others need not.
    singly: bool,
    /// The socket buffer is full: wait until it can be written.
    full: bool,
    whole: bool,
}

/// A worker on plain system calls.
#[derive(Debug)]
pub struct Shell {
    core: Core,
    buffer: Box<[u8]>,
    lanes: [Lane; File::UDP.len()],
    pace: Pace,
    worked: bool,
    failed: bool,
}

impl Shell {
    /// Around a core.
    #[must_use]
    pub fn new(core: Core) -> Self {
        let pending = || VecDeque::with_capacity(limits::SEND_SLOTS.into());
        let lane = |_| Lane { pending: pending(), gone: 0, singly: false, full: false, whole: core.gso };
        Self {
            buffer: vec![0; limits::BUFFER_BYTES].into(),
            lanes: File::UDP.map(lane),
            pace: Pace::new(core.poll, Instant::now()),
            core,
            worked: false,
            failed: false,
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
        let ready = self.wait(self.worked);
        self.core.begin();
        self.serve(ready);
        self.worked = self.core.finish();
        self.dispatch();
        if !self.core.reads_tun && self.lanes.iter().all(|lane| lane.pending.is_empty()) {
            self.core.note_quiet();
        }
        if std::mem::take(&mut self.failed) {
            std::thread::sleep(ERROR_PAUSE);
        }
    }

    /// Looks what can be read and written, and sleeps if that is nothing; gives a bit for each file.
    fn wait(&mut self, worked: bool) -> u8 {
        let now = Instant::now();
        if worked {
            self.pace.worked(now);
        }
        let asleep = !worked && !self.core.is_leaving_tun() && self.pace.may_sleep(now) && self.core.announce_sleep();
        let timeout = if asleep { limits::TICK } else { Duration::ZERO };
        let (can_read, can_receive) = (self.core.reads_tun && self.core.can_read(), self.core.can_receive(limits::PARCEL_FRAMES));
        let desk = self.core.desk();
        // A file that must not be read now is watched for nothing.
        let mut interests = File::ALL.map(|file| match (file, self.core.files.get(file)) {
            (File::Bell, _) => Interest::read(desk.bell.as_fd()),
            (File::Tun, Some(fd)) if can_read => Interest::read(fd),
            (File::Tun, _) | (_, None) => Interest::nothing(),
            (_, Some(fd)) => {
                let full = self.lanes.get(file.index()).is_some_and(|lane| lane.full);
                Interest::these(fd, can_receive, full)
            }
        });
        // An error here is as good as nothing ready: the next round tries again.
        let _ = poll(&mut interests, Some(timeout));
        if asleep {
            self.core.end_sleep();
        }
        let mut ready = 0;
        for (file, interest) in File::ALL.into_iter().zip(&interests) {
            ready |= u8::from(interest.readable()) << file.index();
            if let Some(lane) = self.lanes.get_mut(file.index()) {
                lane.full &= !interest.writable();
            }
        }
        if ready & 1 << File::Bell.index() != 0 {
            self.core.desk().bell.hear();
        }
        ready
    }

    fn serve(&mut self, mut ready: u8) {
        for _ in 0..limits::BUDGET {
            if ready & 1 << File::Tun.index() != 0 && !self.read() {
                ready &= !(1 << File::Tun.index());
            }
            for file in File::UDP {
                if ready & 1 << file.index() != 0 && !self.receive(file) {
                    ready &= !(1 << file.index());
                }
            }
            if ready & !(1 << File::Bell.index()) == 0 {
                return;
            }
        }
    }

    /// One TUN read; `false` if there is none, or no room for it.
    fn read(&mut self) -> bool {
        if !self.core.reads_tun || !self.core.can_read() {
            return false;
        }
        let Some(fd) = self.core.files.get(File::Tun) else { return false };
        let result = queue::read(fd, &mut self.buffer);
        self.failed |= result.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        let Ok(length) = result else { return false };
        self.core.read(self.buffer.get_mut(..length).unwrap_or_default());
        true
    }

    /// One UDP receive; `false` if there is none, or no room for it.
    fn receive(&mut self, file: File) -> bool {
        if !self.core.can_receive(limits::PARCEL_FRAMES) {
            return false;
        }
        let Some(fd) = self.core.files.get(file) else { return false };
        let (mut name, mut messages) = ([0; ADDRESS_BYTES], [0; CONTROL_BYTES]);
        let received = match receive_datagram(fd, &mut self.buffer, &mut name, &mut messages) {
            Ok(received) => received,
            Err(error) => {
                // Another peer's ICMP error (ECONNREFUSED) is reported here once, and there may be more behind it.
                return !matches!(error.kind(), io::ErrorKind::WouldBlock) && error.raw_os_error() == Some(libc::ECONNREFUSED);
            }
        };
        let from = address::decode(name.get(..received.name_length).unwrap_or_default());
        let told = control::read(messages.get(..received.control_length).unwrap_or_default());
        let cut = Cut { payload: received.truncated, control: received.control_truncated };
        let datagrams = self.buffer.get(..received.length).unwrap_or_default();
        self.core.received(file.index(), from, &told, cut, datagrams);
        true
    }

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
            while !self.lanes[file.index()].full && self.send_first(file) {}
        }
        while let Some(slot) = self.core.inbox.take_ready() {
            let packet = slot.data.get(..slot.len).unwrap_or_default();
            let taken = self.core.files.get(File::Tun).is_some_and(|fd| wait::write(fd, packet).is_ok());
            self.core.written(slot, taken);
        }
    }

    fn file_of(&self, slot: &SendSlot) -> Option<File> {
        let envelope = slot.envelope?;
        let file = match (envelope.source, envelope.remote.is_ipv6()) {
            (Source::Own, false) => File::Own4,
            (Source::Own, true) => File::Own6,
            (Source::Shared, false) => File::Shared4,
            (Source::Shared, true) => File::Shared6,
        };
        self.core.files.get(file).map(|_| file)
    }

    /// Sends the first run of a lane, or its next frame; `false` if there is none.
    fn send_first(&mut self, file: File) -> bool {
        let lane = &mut self.lanes[file.index()];
        let (Some(slot), Some(fd)) = (lane.pending.front(), self.core.files.get(file)) else { return false };
        let whole = slot.packets == 1 || lane.whole && !lane.singly;
        let end = slot.len.min(slot.data.len());
        let (from, to) = if whole {
            (0, end)
        } else {
            let from = (lane.gone * slot.segment).min(end);
            (from, (from + slot.segment).min(end))
        };
        let packets = if whole { slot.packets } else { 1 };
        let data = slot.data.get(from..to).unwrap_or_default();
        let error = send(fd, slot, data, packets).err().map(|error| error.raw_os_error().unwrap_or(libc::EIO));
        match error {
            Some(libc::EAGAIN) => {
                lane.full = true;
                return false;
            }
            Some(libc::EINVAL | libc::EIO) if packets > 1 => {
                // The kernel cannot cut here (EIO: the device has no checksums) or not this run (EINVAL): frame by frame, then.
                (lane.singly, lane.gone) = (true, 0);
                lane.whole &= error != Some(libc::EIO);
                return true;
            }
            _ => {}
        }
        let part =
            SendSlot { data: Box::default(), len: data.len(), segment: slot.segment.min(data.len()), packets, envelope: slot.envelope };
        lane.gone += 1;
        if to >= end {
            (lane.gone, lane.singly) = (0, false);
            if let Some(slot) = lane.pending.pop_front() {
                self.core.outbox.give_back(slot);
            }
        }
        self.core.sent(&part, error);
        true
    }
}

fn send(fd: std::os::fd::BorrowedFd<'_>, slot: &SendSlot, data: &[u8], packets: u32) -> io::Result<usize> {
    let envelope = slot.envelope.ok_or(io::ErrorKind::InvalidInput)?;
    let (mut name, mut messages) = ([0; ADDRESS_BYTES], [0; CONTROL_BYTES]);
    let name_length = address::encode(envelope.remote, &mut name);
    let mut writer = control::Writer::new(&mut messages);
    if packets > 1 {
        writer.segment(slot.segment as u16);
    }
    writer.tos(envelope.remote.is_ipv6(), envelope.tos);
    envelope.local.into_iter().for_each(|local| writer.source(local));
    let control_length = writer.len();
    send_datagram(fd, data, name.get(..name_length).unwrap_or_default(), messages.get(..control_length).unwrap_or_default())
}
