//! Buffers that the kernel reads from: made once, boxed so that their addresses hold while a ring has them, reused last in first
//! out so that they stay in cache.
//!
//! ```text
//!   free ──► open (being filled) ──► ready (to be submitted) ──► with the kernel ──► free
//! ```
#![allow(clippy::vec_box, reason = "a slot wanders between queues and the kernel; boxed, it moves as one word")]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use penstock_uapi::request::source;

/// The most packets of one `UDP_SEGMENT` send (include/linux/udp.h: UDP_MAX_SEGMENTS).
pub const RUN_PACKETS_MAX: u32 = 128;
/// The most bytes of one UDP send: 65,535 less an IPv4 and a UDP header.
pub const RUN_BYTES_MAX: usize = 65_507;
/// The largest IP packet that a TUN device takes.
const PACKET_BYTES_MAX: usize = 65_535;
/// Room behind a full super-packet for one more to be opened into: a packet of a 9,000-byte path and to spare.
const LANDING_BYTES: usize = 16 * 1024;

/// From which of a core's sockets a run leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The core's own source port.
    #[default]
    Own,
    /// The port shared by all cores.
    Shared,
}

impl Source {
    /// A [`source`] of a request.
    #[must_use]
    pub fn from_request(number: u8) -> Self {
        if number == source::SHARED { Self::Shared } else { Self::Own }
    }
}

/// What all packets of one run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where to.
    pub remote: SocketAddr,
    /// From which address; `None`: the kernel chooses.
    pub local: Option<IpAddr>,
    /// The outer type of service or traffic class.
    pub tos: u8,
    /// From which socket.
    pub source: Source,
    /// Our inbound SPI of the pair, for events about this send.
    pub spi: u32,
}

/// One UDP send: frames of one length, the last one perhaps shorter.
#[derive(Debug)]
pub struct SendSlot {
    /// The frames, one behind the other, in the first [`Self::len`] bytes.
    pub data: Box<[u8]>,
    /// Bytes in use.
    pub len: usize,
    /// Bytes of each frame but the last.
    pub segment: usize,
    /// How many frames.
    pub packets: u32,
    /// Where it goes, and how.
    pub envelope: Option<Envelope>,
}

/// A core's send buffers.
#[derive(Debug)]
pub struct Outbox {
    free: Vec<Box<SendSlot>>,
    open: Option<Box<SendSlot>>,
    ready: VecDeque<Box<SendSlot>>,
}

impl Outbox {
    /// Makes `slots` buffers.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slot = || Box::new(SendSlot { data: vec![0; RUN_BYTES_MAX].into(), len: 0, segment: 0, packets: 0, envelope: None });
        Self { free: (0..slots).map(|_| slot()).collect(), open: None, ready: VecDeque::with_capacity(slots) }
    }

    /// Buffers that can still be opened.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Room for one frame in the run that fits it: the open one or a new one. `None` if no buffer is free or the frame is larger than any.
    pub fn reserve(&mut self, envelope: &Envelope, frame: usize) -> Option<&mut [u8]> {
        let fits = |slot: &SendSlot| {
            slot.envelope == Some(*envelope) && frame <= slot.segment && slot.packets < RUN_PACKETS_MAX && slot.len + frame <= RUN_BYTES_MAX
        };
        if !self.open.as_deref().is_some_and(fits) {
            self.close();
            if frame > RUN_BYTES_MAX {
                return None;
            }
            let mut slot = self.free.pop()?;
            (slot.len, slot.segment, slot.packets, slot.envelope) = (0, frame, 0, Some(*envelope));
            self.open = Some(slot);
        }
        let slot = self.open.as_deref_mut()?;
        slot.data.get_mut(slot.len..slot.len + frame)
    }

    /// The reserved room holds a frame now. A shorter one than the run's ends the run.
    pub fn commit(&mut self, frame: usize) {
        let Some(slot) = self.open.as_deref_mut() else { return };
        slot.len += frame;
        slot.packets += 1;
        if frame < slot.segment {
            self.close();
        }
    }

    /// Ends the open run. One that was reserved and never filled goes back.
    pub fn close(&mut self) {
        if let Some(slot) = self.open.take() {
            if slot.packets == 0 { self.free.push(slot) } else { self.ready.push_back(slot) }
        }
    }

    /// The next run to submit, in order.
    pub fn take_ready(&mut self) -> Option<Box<SendSlot>> {
        self.ready.pop_front()
    }

    /// Puts a run back in front: it could not be submitted yet.
    pub fn put_back(&mut self, slot: Box<SendSlot>) {
        self.ready.push_front(slot);
    }

    /// Runs that wait to be submitted.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The kernel is done with a buffer.
    pub fn give_back(&mut self, slot: Box<SendSlot>) {
        self.free.push(slot);
    }
}

/// One TUN write: a virtio header and a packet or merged super-packet.
#[derive(Debug)]
pub struct WriteSlot {
    /// Header and packet, in the first [`Self::len`] bytes.
    pub data: Box<[u8]>,
    /// Bytes in use.
    pub len: usize,
    /// How many packets were merged.
    pub packets: u32,
}

/// A core's write buffers.
#[derive(Debug)]
pub struct Inbox {
    free: Vec<Box<WriteSlot>>,
    open: Option<Box<WriteSlot>>,
    ready: VecDeque<Box<WriteSlot>>,
}

impl Inbox {
    /// Makes `slots` buffers.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let bytes = crate::tun::vnet::HEADER_BYTES_MAX + PACKET_BYTES_MAX + LANDING_BYTES;
        let slot = || Box::new(WriteSlot { data: vec![0; bytes].into(), len: 0, packets: 0 });
        Self { free: (0..slots).map(|_| slot()).collect(), open: None, ready: VecDeque::with_capacity(slots) }
    }

    /// Buffers that can still be opened.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// The buffer that packets are opened into; taken from the free ones if none is open.
    pub fn open(&mut self) -> Option<&mut WriteSlot> {
        if self.open.is_none() {
            self.open = self.free.pop();
        }
        self.open.as_deref_mut()
    }

    /// Ends the open buffer with `len` bytes that hold `packets`, and opens another.
    pub fn close(&mut self, len: usize, packets: u32) {
        if let Some(mut slot) = self.open.take() {
            (slot.len, slot.packets) = (len, packets);
            self.ready.push_back(slot);
        }
    }

    /// Takes the open buffer out, so that another can be opened beside it. Give it back with [`Self::close_taken`].
    pub fn take_open(&mut self) -> Option<Box<WriteSlot>> {
        self.open.take()
    }

    /// Ends a buffer that was taken out.
    pub fn close_taken(&mut self, mut slot: Box<WriteSlot>, len: usize, packets: u32) {
        (slot.len, slot.packets) = (len, packets);
        self.ready.push_back(slot);
    }

    /// The next write to submit, in order.
    pub fn take_ready(&mut self) -> Option<Box<WriteSlot>> {
        self.ready.pop_front()
    }

    /// Puts a write back in front: it could not be submitted yet.
    pub fn put_back(&mut self, slot: Box<WriteSlot>) {
        self.ready.push_front(slot);
    }

    /// Writes that wait to be submitted.
    #[must_use]
    pub fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// The kernel is done with a buffer.
    pub fn give_back(&mut self, slot: Box<WriteSlot>) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::{Envelope, Outbox, RUN_BYTES_MAX, Source};

    fn envelope(tos: u8) -> Envelope {
        Envelope { remote: "192.0.2.1:4500".parse().expect("an address"), local: None, tos, source: Source::Own, spi: 1 }
    }

    fn runs(outbox: &mut Outbox, frames: &[(u8, usize)]) -> Vec<(usize, u32)> {
        for (tos, frame) in frames {
            assert_eq!(outbox.reserve(&envelope(*tos), *frame).expect("room").len(), *frame);
            outbox.commit(*frame);
        }
        outbox.close();
        let mut runs = Vec::new();
        while let Some(slot) = outbox.take_ready() {
            runs.push((slot.segment, slot.packets));
            outbox.give_back(slot);
        }
        runs
    }

    #[test]
    fn a_run_ends_at_a_shorter_frame_a_longer_one_and_another_envelope() {
        let mut outbox = Outbox::new(8);
        assert_eq!(runs(&mut outbox, &[(0, 100), (0, 100), (0, 60), (0, 60)]), [(100, 3), (60, 1)]);
        assert_eq!(runs(&mut outbox, &[(0, 60), (0, 100)]), [(60, 1), (100, 1)]);
        assert_eq!(runs(&mut outbox, &[(0, 60), (1, 60)]), [(60, 1), (60, 1)]);
        assert_eq!(outbox.free_count(), 8);
    }

    #[test]
    fn a_run_ends_where_one_send_does() {
        let mut outbox = Outbox::new(8);
        assert_eq!(runs(&mut outbox, &[(0, 36); 130]), [(36, 128), (36, 2)]);
        assert_eq!(runs(&mut outbox, &[(0, 1472); 45]), [(1472, 44), (1472, 1)]);
        assert!(outbox.reserve(&envelope(0), RUN_BYTES_MAX + 1).is_none());
    }

    #[test]
    fn an_unfilled_reservation_is_no_send() {
        let mut outbox = Outbox::new(1);
        assert!(outbox.reserve(&envelope(0), 100).is_some());
        outbox.close();
        assert!(outbox.take_ready().is_none() && outbox.free_count() == 1);
        assert!(outbox.reserve(&envelope(0), 100).is_some() && outbox.reserve(&envelope(1), 100).is_some());
        outbox.commit(100);
        assert!(outbox.reserve(&envelope(0), 100).is_none());
    }
}
