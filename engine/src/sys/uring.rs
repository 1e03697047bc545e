//! A core's io_uring and all the memory that it shares with the kernel, behind a face that is safe to use: a buffer is either
//! the kernel's or ours, and what is being sent or written is owned by the ring until its completion.
//!
//! The ring is created disabled, restricted to six operations on registered files, and then enabled by its thread: whoever takes
//! over this process cannot open, connect or create anything through it (a system call filter does not see ring operations).
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::register::{Probe, Restriction};
use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, cqueue, opcode, types};

use crate::slots::{SendSlot, WriteSlot};
use crate::udp::{ADDRESS_BYTES, CONTROL_BYTES, address, control};

mod buffers;
#[cfg(test)]
pub(crate) mod faults;

pub use buffers::Buffers;

/// Submission entries: more than all requests that can be in flight (parts of sends, writes, reads), so that it is never full and
/// a chain never spans two submissions.
const ENTRIES: u32 = 1024;
/// Completion entries: every buffer and every slot once, and room.
const COMPLETIONS: u32 = 4096;
/// `IORING_ENTER_GETEVENTS`: deferred work runs only in a call that asks for it.
const GETEVENTS: u32 = 1;
/// `IORING_ENTER_EXT_ARG`: the argument is a [`WaitArgument`].
const EXT_ARG: u32 = 8;

/// A core's registered files, by their place in the ring's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum File {
    /// The IPv4 socket with the core's own source port.
    Own4,
    /// The IPv6 socket with the core's own source port.
    Own6,
    /// The member of the IPv4 group.
    Shared4,
    /// The member of the IPv6 group.
    Shared6,
    /// The TUN queue.
    Tun,
    /// The core's bell.
    Bell,
}

impl File {
    /// All of them, in the order of their places.
    pub const ALL: [Self; 6] = [Self::Own4, Self::Own6, Self::Shared4, Self::Shared6, Self::Tun, Self::Bell];
    /// Those that are UDP sockets.
    pub const UDP: [Self; 4] = [Self::Own4, Self::Own6, Self::Shared4, Self::Shared6];

    /// Its place.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }

    fn fixed(self) -> types::Fixed {
        types::Fixed(self as u32)
    }
}

/// What the kernel has done.
#[derive(Debug)]
pub enum Completion {
    /// A buffer was filled from a file; it is ours until it is given back.
    Filled {
        /// From where.
        file: File,
        /// Which buffer of the file's [`Buffers`].
        buffer: u16,
        /// Bytes in it.
        length: usize,
        /// Whether it was the last of its request, which must be asked for again.
        last: bool,
    },
    /// Reading from a file has ended and must be asked for again; the errno, or 0.
    Ended {
        /// The file.
        file: File,
        /// Why.
        errno: i32,
    },
    /// A send, or a part of one, is done: bytes or a negative errno.
    Sent {
        /// Through which socket.
        file: File,
        /// What this part was: packets, sizes and envelope, without data.
        part: SendSlot,
        /// How it went.
        result: i32,
        /// The slot, once all its parts are done.
        slot: Option<Box<SendSlot>>,
    },
    /// A write is done: bytes or a negative errno.
    Written {
        /// What was written.
        slot: Box<WriteSlot>,
        /// How it went.
        result: i32,
    },
    /// The kernel has answered [`Uring::cancel_read`]. A read that it could not end goes on.
    Cancelled,
}

/// A completion as the kernel gives it: tag, result and flags.
type Answer = (u64, i32, u32);

/// The parts of a send that must stay in place while the kernel has it.
#[repr(C)]
struct Header {
    message: libc::msghdr,
    vector: libc::iovec,
    /// Whose part it is, and of how many packets.
    slot: u16,
    packets: u32,
    name: [u8; ADDRESS_BYTES],
    control: Control,
}

#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// A slot whose parts are with the kernel.
struct Flight {
    slot: Box<SendSlot>,
    parts: u32,
}

/// What a request was, as it travels through the kernel.
enum Tag {
    Read(File),
    Send(File, u16),
    Write(u16),
    Cancel,
}

impl Tag {
    fn pack(self) -> u64 {
        let (kind, file, index) = match self {
            Self::Read(file) => (1, file as u8, 0),
            Self::Send(file, index) => (2, file as u8, index),
            Self::Write(index) => (3, File::Tun as u8, index),
            Self::Cancel => (4, File::Tun as u8, 0),
        };
        kind << 32 | u64::from(file) << 16 | u64::from(index)
    }

    fn unpack(tag: u64) -> Option<Self> {
        let file = *File::ALL.get(usize::from((tag >> 16) as u8))?;
        match tag >> 32 {
            1 => Some(Self::Read(file)),
            2 => Some(Self::Send(file, tag as u16)),
            3 => Some(Self::Write(tag as u16)),
            4 => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// What this kernel can do.
#[derive(Clone, Copy, Debug)]
pub struct Abilities {
    /// `IORING_OP_READ_MULTISHOT`, Linux 6.7.
    pub read_multishot: bool,
    /// A least time to wait, Linux 6.12.
    pub gather: bool,
}

/// `struct io_uring_getevents_arg` of linux/io_uring.h, whose `min_wait_usec` was padding before Linux 6.12.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_us: u32,
    timeout: u64,
}

/// How to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long at most.
    pub timeout: Duration,
    /// How long at least, however many there are: what comes meanwhile is found together, and wakes nobody (needs
    /// [`Abilities::gather`] unless zero).
    pub least: Duration,
}

/// Asks the kernel, by making a ring as a worker's would be.
///
/// # Errors
/// If rings are refused here.
pub fn probe() -> io::Result<Abilities> {
    let ring = builder().build(8)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    ring.submitter().register_enable_rings()?;
    let soon = Wait { timeout: Duration::from_micros(2), least: Duration::from_micros(1) };
    let gather = match wait(&ring.submitter(), 0, &soon) {
        Ok(_) => true,
        Err(error) => error.raw_os_error() == Some(libc::ETIME),
    };
    Ok(Abilities { read_multishot: probe.is_supported(opcode::ReadMulti::CODE), gather })
}

/// How the ring of a worker is made: disabled, until [`restrict`] has narrowed it.
#[must_use]
pub fn builder() -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_submit_all().setup_r_disabled();
    builder.setup_cqsize(COMPLETIONS);
    builder
}

/// Narrows a disabled ring for good to receiving, sending, reading and writing on its registered files and to ending such a request,
/// with nothing left to register, and enables it.
///
/// # Errors
/// If the kernel refuses.
pub fn restrict(submitter: &io_uring::Submitter<'_>, multishot: bool) -> io::Result<()> {
    let operations = [
        opcode::RecvMsg::CODE,
        opcode::SendMsg::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::AsyncCancel::CODE,
        opcode::ReadMulti::CODE,
    ];
    let known = operations.into_iter().filter(|code| multishot || *code != opcode::ReadMulti::CODE);
    let mut allowed: Vec<Restriction> = known.map(Restriction::sqe_op).collect();
    allowed.push(Restriction::sqe_flags_required(Flags::FIXED_FILE.bits()));
    allowed.push(Restriction::sqe_flags_allowed((Flags::FIXED_FILE | Flags::BUFFER_SELECT | Flags::IO_HARDLINK).bits()));
    submitter.register_restrictions(&mut allowed)?;
    submitter.register_enable_rings()
}

/// The ring of one core.
pub struct Uring {
    ring: IoUring,
    /// Super-packets from the TUN queue are read into these.
    pub tun: Buffers,
    /// Datagrams are received into these, with their address and control messages in front.
    pub udp: Buffers,
    bell: ManuallyDrop<Box<[u8; 8]>>,
    shape: Box<libc::msghdr>,
    headers: ManuallyDrop<Box<[Header]>>,
    sends: ManuallyDrop<Box<[Option<Flight>]>>,
    writes: ManuallyDrop<Box<[Option<Box<WriteSlot>>]>>,
    idle_headers: Vec<u16>,
    idle_sends: Vec<u16>,
    idle_writes: Vec<u16>,
    multishot: bool,
    /// What goes wrong in a test.
    #[cfg(test)]
    pub(crate) faults: faults::Faults,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("tun", &self.tun).field("udp", &self.udp).finish_non_exhaustive()
    }
}

/// How large a ring's parts are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Buffers for the TUN queue, a power of two.
    pub tun_buffers: u16,
    /// How many of them are in use at first.
    pub tun_offered: u16,
    /// Bytes of each.
    pub tun_bytes: usize,
    /// Buffers for the UDP sockets, a power of two.
    pub udp_buffers: u16,
    /// Bytes of each.
    pub udp_bytes: usize,
    /// Slots whose sends are in flight.
    pub sends: u16,
    /// Parts of sends in flight.
    pub parts: u16,
    /// Writes in flight.
    pub writes: u16,
}

impl Uring {
    /// Makes, restricts and enables a ring for the calling thread, which alone may use it. `files` stand in the order of
    /// [`File::ALL`].
    ///
    /// # Errors
    /// If the kernel refuses rings, or a part of this one.
    pub fn new(files: [Option<BorrowedFd<'_>>; File::ALL.len()], sizes: &Sizes, multishot: bool) -> io::Result<Self> {
        let ring = builder().build(ENTRIES)?;
        let submitter = ring.submitter();
        let numbers: Vec<RawFd> = files.iter().map(|file| file.map_or(-1, |fd| fd.as_raw_fd())).collect();
        submitter.register_files(&numbers)?;
        let tun = Buffers::new(&submitter, 0, sizes.tun_buffers, sizes.tun_offered, sizes.tun_bytes)?;
        let udp = Buffers::new(&submitter, 1, sizes.udp_buffers, sizes.udp_buffers, sizes.udp_bytes)?;
        restrict(&submitter, multishot)?;
        // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and zero lengths.
        let mut shape: Box<libc::msghdr> = Box::new(unsafe { std::mem::zeroed() });
        shape.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
        shape.msg_controllen = CONTROL_BYTES;
        Ok(Self {
            ring,
            tun,
            udp,
            bell: ManuallyDrop::new(Box::new([0; 8])),
            shape,
            headers: ManuallyDrop::new((0..sizes.parts).map(|_| empty_header()).collect()),
            sends: ManuallyDrop::new((0..sizes.sends).map(|_| None).collect()),
            writes: ManuallyDrop::new((0..sizes.writes).map(|_| None).collect()),
            idle_headers: (0..sizes.parts).rev().collect(),
            idle_sends: (0..sizes.sends).rev().collect(),
            idle_writes: (0..sizes.writes).rev().collect(),
            multishot,
            #[cfg(test)]
            faults: faults::Faults::default(),
        })
    }

    /// Asks for everything that comes to a file, until [`Completion::Ended`].
    pub fn read(&mut self, file: File) {
        let entry = match file {
            File::Bell => opcode::Read::new(file.fixed(), self.bell.as_mut_ptr(), 8).build(),
            // The crate's ReadMulti forgets the flag of a fixed file.
            File::Tun if self.multishot => {
                let entry = opcode::ReadMulti::new(file.fixed(), 0, self.tun.group()).offset(u64::MAX).build();
                entry.flags(Flags::BUFFER_SELECT | Flags::FIXED_FILE)
            }
            File::Tun => {
                let length = self.tun.buffer_bytes() as u32;
                let read = opcode::Read::new(file.fixed(), std::ptr::null_mut(), length).offset(u64::MAX);
                read.buf_group(self.tun.group()).build().flags(Flags::BUFFER_SELECT)
            }
            _ => opcode::RecvMsgMulti::new(file.fixed(), &raw const *self.shape, self.udp.group()).build(),
        };
        self.push(entry.user_data(Tag::Read(file).pack()));
    }

    /// Ends what [`Self::read`] asked for: [`Completion::Ended`] comes with `ECANCELED`, or with whatever came first.
    pub fn cancel_read(&mut self, file: File) {
        // The flag of a fixed file means nothing here, but the ring takes no request without it.
        let entry = opcode::AsyncCancel::new(Tag::Read(file).pack()).build().flags(Flags::FIXED_FILE);
        self.push(entry.user_data(Tag::Cancel.pack()));
    }

    /// Whether so many slots with so many parts can go now.
    #[must_use]
    pub fn has_room(&self, slots: usize, parts: usize) -> bool {
        self.idle_sends.len() >= slots && self.idle_headers.len() >= parts
    }

    /// How many more writes can be in flight.
    #[must_use]
    pub fn idle_writes(&self) -> usize {
        self.idle_writes.len()
    }

    /// Sends a slot's frames, all at once or, unless `whole`, each by itself; with `chained`, the next request starts only when the
    /// last of them is done. A slot that cannot go now (no envelope, too much in flight) comes back.
    ///
    /// # Errors
    /// The slot itself.
    pub fn send(&mut self, file: File, slot: Box<SendSlot>, whole: bool, chained: bool) -> Result<(), Box<SendSlot>> {
        let parts = if whole { 1 } else { slot.packets };
        if slot.envelope.is_none() || parts == 0 || self.idle_headers.len() < parts as usize {
            return Err(slot);
        }
        let Some(index) = self.idle_sends.pop() else { return Err(slot) };
        self.sends[usize::from(index)] = Some(Flight { slot, parts });
        for part in 0..parts {
            // Parts of one slot keep their order too.
            self.send_part(file, index, (!whole).then_some(part), chained || part + 1 < parts);
        }
        Ok(())
    }

    /// Sends one frame of a flight, or all of them.
    fn send_part(&mut self, file: File, index: u16, part: Option<u32>, chained: bool) {
        let Some(Flight { slot, .. }) = &mut self.sends[usize::from(index)] else { return };
        let (Some(envelope), Some(number)) = (slot.envelope, self.idle_headers.pop()) else { return };
        let length = slot.len.min(slot.data.len());
        let (start, end) = part.map_or((0, length), |part| {
            let start = (part as usize * slot.segment).min(length);
            (start, (start + slot.segment).min(length))
        });
        let data = &mut slot.data[start..end];
        let header = &mut self.headers[usize::from(number)];
        (header.slot, header.packets) = (index, if part.is_some() { 1 } else { slot.packets });
        let name_length = address::encode(envelope.remote, &mut header.name);
        let mut writer = control::Writer::new(&mut header.control.0);
        if header.packets > 1 {
            writer.segment(slot.segment as u16);
        }
        writer.tos(envelope.remote.is_ipv6(), envelope.tos);
        envelope.local.into_iter().for_each(|local| writer.source(local));
        let control_length = writer.len();
        header.vector = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
        header.message.msg_name = header.name.as_mut_ptr().cast();
        header.message.msg_namelen = name_length as libc::socklen_t;
        header.message.msg_iov = &raw mut header.vector;
        header.message.msg_iovlen = 1;
        header.message.msg_control = header.control.0.as_mut_ptr().cast();
        header.message.msg_controllen = control_length;
        let entry = opcode::SendMsg::new(file.fixed(), &raw const header.message).build();
        self.push(entry.flags(link(chained)).user_data(Tag::Send(file, number).pack()));
    }

    /// A part of a flight is done.
    fn landed(&mut self, file: File, number: u16, result: i32) -> Option<Completion> {
        let header = self.headers.get(usize::from(number))?;
        let (index, packets) = (header.slot, header.packets);
        let length = header.vector.iov_len;
        self.idle_headers.push(number);
        let place = self.sends.get_mut(usize::from(index))?;
        let flight = place.as_mut()?;
        flight.parts = flight.parts.saturating_sub(1);
        let segment = flight.slot.segment.min(length);
        let part = SendSlot { data: Box::default(), len: length, segment, packets, envelope: flight.slot.envelope };
        let slot = if flight.parts == 0 { place.take().map(|flight| flight.slot) } else { None };
        if slot.is_some() {
            self.idle_sends.push(index);
        }
        Some(Completion::Sent { file, part, result, slot })
    }

    /// Writes a slot to the TUN queue; with `chained`, the next request starts only when this one is done.
    ///
    /// # Errors
    /// The slot itself, if nothing is idle.
    pub fn write(&mut self, slot: Box<WriteSlot>, chained: bool) -> Result<(), Box<WriteSlot>> {
        let Some(index) = self.idle_writes.pop() else { return Err(slot) };
        let slot = self.writes[usize::from(index)].insert(slot);
        let length = slot.len.min(slot.data.len()) as u32;
        let entry = opcode::Write::new(File::Tun.fixed(), slot.data.as_ptr(), length).offset(u64::MAX).build();
        self.push(entry.flags(link(chained)).user_data(Tag::Write(index).pack()));
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        #[cfg(test)]
        if self.faults.refuses(entry.get_user_data()) {
            return;
        }
        // SAFETY: every pointer in an entry made by this module leads into memory that this ring owns, in place until the entry's
        // completion: `headers`, `sends`, `writes`, `bell`, `shape`. None of it is freed even when the ring is.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        // It has room for everything that can be in flight, and is emptied by every call.
        debug_assert!(pushed.is_ok(), "the submission queue is larger than all slots");
    }

    /// Submits what was pushed, lets the kernel finish what is ready, and if told how to wait, sleeps until there is a completion.
    ///
    /// # Errors
    /// Only such as make the ring unusable.
    pub fn enter(&mut self, how: Option<&Wait>) -> io::Result<()> {
        #[cfg(test)]
        let how = self.faults.enter(how)?;
        let count = self.ring.submission().len() as u32;
        let result = match how {
            Some(how) => wait(&self.ring.submitter(), count, how),
            None => {
                // SAFETY: no argument is passed, and `count` entries stand in the queue.
                unsafe { self.ring.submitter().enter::<libc::sigset_t>(count, 0, GETEVENTS, None) }
            }
        };
        match result.map_err(|error| (error.raw_os_error(), error)) {
            // Nothing came in time, a signal came, or completions must be reaped first.
            Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// The next completion.
    pub fn reap(&mut self) -> Option<Completion> {
        loop {
            let (tag, result, flags) = self.answer()?;
            match Tag::unpack(tag) {
                Some(Tag::Send(file, number)) => {
                    if let Some(completion) = self.landed(file, number, result) {
                        return Some(completion);
                    }
                }
                Some(Tag::Write(index)) => {
                    let slot = self.writes.get_mut(usize::from(index)).and_then(Option::take);
                    if let Some(slot) = slot {
                        self.idle_writes.push(index);
                        return Some(Completion::Written { slot, result });
                    }
                }
                Some(Tag::Read(file)) => {
                    if let Some(completion) = self.filled(file, result, flags) {
                        return Some(completion);
                    }
                }
                Some(Tag::Cancel) => return Some(Completion::Cancelled),
                None => (),
            }
        }
    }

    #[cfg(not(test))]
    fn answer(&mut self) -> Option<Answer> {
        self.ring.completion().next().map(|entry| (entry.user_data(), entry.result(), entry.flags()))
    }

    #[cfg(test)]
    fn answer(&mut self) -> Option<Answer> {
        let Self { ring, faults, .. } = self;
        ring.completion().for_each(|entry| faults.came((entry.user_data(), entry.result(), entry.flags())));
        faults.next()
    }

    /// What a completion of a reading request says; `None` if nothing that anybody must act on.
    fn filled(&mut self, file: File, result: i32, flags: u32) -> Option<Completion> {
        let more = cqueue::more(flags);
        let buffers = if file == File::Tun { &mut self.tun } else { &mut self.udp };
        let buffer = cqueue::buffer_select(flags).filter(|buffer| file != File::Bell && buffers.lend(*buffer));
        match (buffer, usize::try_from(result)) {
            (Some(buffer), Ok(length)) => {
                Some(Completion::Filled { file, buffer, length: length.min(buffers.buffer_bytes()), last: !more })
            }
            (Some(buffer), Err(_)) => {
                buffers.give_back(buffer);
                (!more).then_some(Completion::Ended { file, errno: -result })
            }
            (None, _) => (!more).then_some(Completion::Ended { file, errno: if result < 0 { -result } else { 0 } }),
        }
    }

    /// The buffers that a file is read into.
    pub fn buffers(&mut self, file: File) -> &mut Buffers {
        if file == File::Tun { &mut self.tun } else { &mut self.udp }
    }
}

/// Submits `count` entries and sleeps.
fn wait(submitter: &io_uring::Submitter<'_>, count: u32, how: &Wait) -> io::Result<usize> {
    let timeout = types::Timespec::from(how.timeout);
    let gathers = !how.least.is_zero();
    let argument = WaitArgument {
        sigmask: 0,
        sigmask_size: 0,
        min_wait_us: how.least.as_micros() as u32,
        timeout: (&raw const timeout).addr() as u64,
    };
    // More than there can be, so that none of them ends the least time.
    let completions = if gathers { COMPLETIONS } else { 1 };
    // SAFETY: `count` entries stand in the queue; the argument is what the flag says, and it and the timeout outlive the call.
    unsafe { submitter.enter(count, completions, GETEVENTS | EXT_ARG, Some(&argument)) }
}

fn link(chained: bool) -> Flags {
    // Hard: a request that fails does not cancel those behind it.
    if chained { Flags::IO_HARDLINK | Flags::FIXED_FILE } else { Flags::FIXED_FILE }
}

fn empty_header() -> Header {
    // SAFETY: all-zero bytes are a valid `Header`: null pointers, zero lengths and bytes.
    unsafe { std::mem::zeroed() }
}
