//! A provided buffer ring: buffers that the kernel picks from and fills by itself, and the ring of entries in which they are
//! given back to it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// Bytes between buffers: without them all would begin at the same place of a page, and so share the few lines of the first level of
/// cache that belong to it.
const STAGGER_BYTES: usize = 320;

/// Who has a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The kernel, to fill it.
    Kernel,
    /// Whoever acts on the completion that brought it.
    Lent,
    /// Nobody: there are more than are offered now.
    Kept,
}

/// Buffers of one size, each either the kernel's or lent to us by a completion.
///
/// The memory is never given back to the system: the kernel may write to it until the process ends.
pub struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    holders: Box<[Holder]>,
    kept: Vec<u16>,
    /// How many may be in use.
    offered: usize,
    buffer_bytes: usize,
    stride: usize,
    group: u16,
    tail: u16,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").field("count", &self.holders.len()).field("dry", &self.is_dry()).finish_non_exhaustive()
    }
}

/// Fresh zeroed pages, in memory at once so that no first touch falls into traffic.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let pointer = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if pointer == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(pointer.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Buffers {
    /// Makes `count` buffers (a power of two) and registers them as `group`; `offered` of them are the kernel's.
    pub(super) fn new(submitter: &Submitter<'_>, group: u16, count: u16, offered: u16, buffer_bytes: usize) -> io::Result<Self> {
        if !count.is_power_of_two() || u32::try_from(buffer_bytes).is_err() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let entries = map(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        let stride = buffer_bytes + STAGGER_BYTES;
        let memory = map(usize::from(count) * stride)?;
        // SAFETY: `entries` leads to `count` entries on a page of their own, which stay mapped for ever.
        unsafe { submitter.register_buf_ring_with_flags(entries.as_ptr() as u64, count, group, 0) }?;
        let (holders, kept) = (vec![Holder::Kept; count.into()].into(), (0..count).rev().collect());
        let mut buffers = Self { entries, memory, holders, kept, offered: 0, buffer_bytes, stride, group, tail: 0 };
        buffers.offer(offered);
        Ok(buffers)
    }

    /// Sets how many buffers may be in use. A few that are used again and again stay in cache, which pays where each is filled; many
    /// take a burst of small packets.
    pub fn offer(&mut self, buffers: u16) {
        self.offered = usize::from(buffers).min(self.holders.len());
        while self.holders.len() - self.kept.len() < self.offered {
            let Some(buffer) = self.kept.pop() else { return };
            self.hand_out(buffer);
        }
    }

    /// The number by which requests name this group.
    #[must_use]
    pub fn group(&self) -> u16 {
        self.group
    }

    /// Bytes of one buffer.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Whether the kernel has no buffer left.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        !self.holders.contains(&Holder::Kernel)
    }

    /// How many are lent to us.
    #[cfg(test)]
    pub(crate) fn lent(&self) -> usize {
        self.holders.iter().filter(|holder| **holder == Holder::Lent).count()
    }

    /// Notes that a completion brought a buffer; `false` if it could not.
    pub(super) fn lend(&mut self, buffer: u16) -> bool {
        let holder = self.holders.get_mut(usize::from(buffer)).filter(|holder| **holder == Holder::Kernel);
        holder.map(|holder| *holder = Holder::Lent).is_some()
    }

    /// The first `length` bytes of a buffer that was lent; empty if it was not.
    pub fn bytes(&mut self, buffer: u16, length: usize) -> &mut [u8] {
        let place = usize::from(buffer);
        if self.holders.get(place) != Some(&Holder::Lent) {
            return &mut [];
        }
        // SAFETY: `place` is below the number of buffers, so the offset lies within the mapping.
        let start = unsafe { self.memory.add(place * self.stride) };
        // SAFETY: the bytes are mapped and initialised; the kernel does not write to a buffer that it lent, and the borrow of
        // `self` keeps it from being given back.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), length.min(self.buffer_bytes)) }
    }

    /// Gives a lent buffer back to the kernel; nothing happens to one that was not.
    pub fn give_back(&mut self, buffer: u16) {
        let in_use = self.holders.len() - self.kept.len();
        let Some(holder) = self.holders.get_mut(usize::from(buffer)).filter(|holder| **holder == Holder::Lent) else { return };
        if in_use > self.offered {
            *holder = Holder::Kept;
            self.kept.push(buffer);
        } else {
            self.hand_out(buffer);
        }
    }

    fn hand_out(&mut self, buffer: u16) {
        let place = usize::from(buffer);
        let Some(holder) = self.holders.get_mut(place) else { return };
        *holder = Holder::Kernel;
        let slot = usize::from(self.tail) & (self.holders.len() - 1);
        // SAFETY: `place` is below the number of buffers, so the offset lies within the mapping.
        let address = unsafe { self.memory.add(place * self.stride) };
        // SAFETY: `slot` is below the number of entries.
        let mut entry = unsafe { self.entries.add(slot) };
        // SAFETY: the kernel reads no entry at or behind the tail, which is published below. The setters leave the entry's last
        // two bytes alone, because in the first entry these are the tail.
        let entry = unsafe { entry.as_mut() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(self.buffer_bytes as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the first entry of a registered ring.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is two aligned bytes that the kernel only reads, and atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
