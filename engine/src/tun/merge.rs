//! Merging packets of one flow into a super-packet, where they are decrypted.
//!
//! ```text
//!   write buffer  │ vnet │ H │ payload 1      │ payload 2      │
//!   landing of the next packet               │ H │ payload 3 │      its header overlaps the end of payload 2:
//!                                                                   those bytes are saved before and put back after
//! ```
//!
//! Only what can be cut again into the very same packets is merged: equal headers, consecutive numbers, equal sizes but a
//! shorter last, and a checksum that holds for each, so that a packet damaged before it was sealed is not given a good one.

use super::vnet::{Gso, Header};
use crate::packet::checksum::{Sum, pseudo};
use crate::packet::ip::{self, Ip, TCP, UDP, finish_v4};

/// The longest run of headers of a packet that is merged: IPv4 and TCP, both with all their options.
const HEADERS_BYTES_MAX: usize = 120;
/// The largest IP packet.
const PACKET_BYTES_MAX: usize = 65_535;
/// The most UDP datagrams in one super-packet: half of what the kernel cuts (include/linux/udp.h: UDP_MAX_SEGMENTS).
const DATAGRAMS_MAX: u32 = 64;

/// In the byte of an IPv4 header that holds its flags.
const DONT_FRAGMENT: u8 = 0x40;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Merges into one buffer at a time.
#[derive(Debug)]
pub struct Merge {
    vnet: usize,
    uso: bool,
    group: Option<Group>,
    landing: usize,
    saved: [u8; HEADERS_BYTES_MAX],
    saved_bytes: usize,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is part of the buffer now.
    Taken,
    /// It does not belong to the group: take it out with [`Merge::take_apart`], close the group, land it in another buffer.
    Apart,
}

/// The packets in the buffer.
#[derive(Debug)]
struct Group {
    /// `None`: one packet that nothing can join.
    flow: Option<Flow>,
    /// Where the last payload ends, counted from the start of the buffer.
    end: usize,
    packets: u32,
}

/// A group that may grow.
#[derive(Debug)]
struct Flow {
    /// The first packet's headers, whole: a small payload's successor may lie on top of them.
    first: [u8; HEADERS_BYTES_MAX],
    shape: Shape,
    segment: usize,
    next_sequence: u32,
    next_id: u16,
    /// Whether IPv4 ids count up; `None` while there is one packet.
    counts: Option<bool>,
    push: bool,
    full: bool,
}

/// Where the parts of a packet lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    v6: bool,
    tcp: bool,
    l4: usize,
    headers: usize,
}

impl Merge {
    /// For buffers that start with `vnet` bytes of virtio header; `uso`: whether the kernel takes UDP super-packets.
    #[must_use]
    pub fn new(vnet: usize, uso: bool) -> Self {
        Self { vnet, uso, group: None, landing: vnet, saved: [0; HEADERS_BYTES_MAX], saved_bytes: 0 }
    }

    /// Whether the buffer holds a packet.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.group.is_some()
    }

    /// Where the next packet is to be opened, if it needs at most `room` bytes there. `None`: nothing can join what is in the
    /// buffer, so close it first.
    pub fn landing(&mut self, buffer: &[u8], room: usize) -> Option<usize> {
        self.saved_bytes = 0;
        self.landing = match &self.group {
            None => self.vnet,
            Some(Group { flow: Some(flow), end, .. }) if !flow.full => {
                let at = end.checked_sub(flow.shape.headers)?;
                let overlapped = buffer.get(at..*end)?;
                self.saved.get_mut(..overlapped.len())?.copy_from_slice(overlapped);
                self.saved_bytes = overlapped.len();
                at
            }
            Some(_) => return None,
        };
        (self.landing + room <= buffer.len()).then_some(self.landing)
    }

    /// What lies at the landing is to be forgotten.
    pub fn undo(&mut self, buffer: &mut [u8]) {
        let (at, saved) = (self.landing, self.saved_bytes);
        if let Some((place, saved)) = buffer.get_mut(at..at + saved).zip(self.saved.get(..saved)) {
            place.copy_from_slice(saved);
        }
        self.saved_bytes = 0;
    }

    /// A packet of `ip.total` bytes, checked, lies at the landing.
    pub fn settle(&mut self, buffer: &mut [u8], ip: &Ip) -> Settled {
        let Some(packet) = buffer.get(self.landing..self.landing + ip.total) else { return Settled::Apart };
        let Some(group) = &mut self.group else {
            let flow = Flow::start(packet, ip, self.uso);
            self.group = Some(Group { flow, end: self.landing + ip.total, packets: 1 });
            return Settled::Taken;
        };
        let joined = group.flow.as_mut().is_some_and(|flow| flow.join(packet, ip, group.end - self.vnet, group.packets));
        if !joined {
            return Settled::Apart;
        }
        group.end = self.landing + ip.total;
        group.packets += 1;
        self.undo(buffer);
        Settled::Taken
    }

    /// Copies the packet of `length` bytes at the landing to the front of `out` behind its virtio header, and puts back what it
    /// overlapped. The one copy that a packet of another flow costs.
    pub fn take_apart(&mut self, buffer: &mut [u8], length: usize, out: &mut [u8]) {
        let packet = buffer.get(self.landing..self.landing + length);
        if let Some((packet, place)) = packet.zip(out.get_mut(self.vnet..self.vnet + length)) {
            place.copy_from_slice(packet);
        }
        self.undo(buffer);
    }

    /// Finishes the buffer: virtio header, lengths, checksums. Gives its bytes and how many packets it holds; `None` if none.
    pub fn close(&mut self, buffer: &mut [u8]) -> Option<(usize, u32)> {
        let group = self.group.take()?;
        let (vnet, packet) = buffer.get_mut(..group.end)?.split_at_mut_checked(self.vnet)?;
        let header = match group.flow {
            Some(flow) if group.packets > 1 => flow.finish(packet)?,
            _ => Header::default(),
        };
        header.write(vnet);
        Some((group.end, group.packets))
    }
}

impl Shape {
    /// The shape of a packet that could be part of a super-packet.
    fn of(packet: &[u8], ip: &Ip, uso: bool) -> Option<Self> {
        let l4 = ip.header;
        let (tcp, l4_bytes) = match ip.protocol {
            TCP => (true, usize::from(packet.get(l4 + 12)? >> 4) * 4),
            UDP if uso => (false, 8),
            _ => return None,
        };
        let shape = Self { v6: ip.v6, tcp, l4, headers: l4 + l4_bytes };
        let payload = ip.total.checked_sub(shape.headers)?;
        let whole = if tcp {
            // Nothing but ACK and PSH: a segment that opens, closes or resets a connection passes as it is.
            l4_bytes >= 20 && packet.get(l4 + 13)? & !PSH == ACK
        } else {
            // A length of its own, and a checksum that was sent at all (RFC 768).
            packet.get(l4 + 4..l4 + 6)? == u16::try_from(ip.total - l4).ok()?.to_be_bytes() && packet.get(l4 + 6..l4 + 8)? != [0, 0]
        };
        (payload > 0 && whole && !ip.fragment).then_some(shape)
    }

    /// Whether the packet's own checksums hold, the one of its IPv4 header too: both are made anew when it is cut out again.
    fn checksums_hold(&self, packet: &[u8], total: usize) -> bool {
        let Some((l4, length)) = packet.get(self.l4..total).zip(u16::try_from(total - self.l4).ok()) else { return false };
        if !self.v6 && !packet.get(..self.l4).is_some_and(|header| Sum::default().bytes(header).holds()) {
            return false;
        }
        pseudo(ip::addresses(packet, self.v6), if self.tcp { TCP } else { UDP }).word(length).bytes(l4).holds()
    }
}

impl Flow {
    fn start(packet: &[u8], ip: &Ip, uso: bool) -> Option<Self> {
        let shape = Shape::of(packet, ip, uso)?;
        if !shape.checksums_hold(packet, ip.total) {
            return None;
        }
        let mut first = [0; HEADERS_BYTES_MAX];
        first.get_mut(..shape.headers)?.copy_from_slice(packet.get(..shape.headers)?);
        let segment = ip.total - shape.headers;
        let push = shape.tcp && packet.get(shape.l4 + 13)? & PSH != 0;
        let next_sequence = sequence(packet, &shape)?.wrapping_add(u32::try_from(segment).ok()?);
        Some(Self { first, shape, segment, next_sequence, next_id: id(packet).wrapping_add(1), counts: None, push, full: push })
    }

    /// Takes the packet in if it is the next of this flow. `so_far`: bytes of the merged IP packet.
    fn join(&mut self, packet: &[u8], ip: &Ip, so_far: usize, packets: u32) -> bool {
        self.try_join(packet, ip, so_far, packets).is_some()
    }

    fn try_join(&mut self, packet: &[u8], ip: &Ip, so_far: usize, packets: u32) -> Option<()> {
        let shape = Shape::of(packet, ip, true)?;
        let payload = ip.total - shape.headers;
        let fits = shape == self.shape
            && payload <= self.segment
            && so_far + payload <= PACKET_BYTES_MAX
            && (shape.tcp || packets < DATAGRAMS_MAX);
        let counts = shape.v6 || self.counts_with(packet)?;
        if !fits || !self.same_headers(packet)? || shape.tcp && sequence(packet, &shape)? != self.next_sequence {
            return None;
        }
        if !shape.checksums_hold(packet, ip.total) {
            return None;
        }
        self.push = shape.tcp && packet.get(shape.l4 + 13)? & PSH != 0;
        self.full = self.push || payload < self.segment;
        self.next_sequence = self.next_sequence.wrapping_add(u32::try_from(payload).ok()?);
        self.next_id = id(packet).wrapping_add(1);
        self.counts = Some(counts);
        Some(())
    }

    /// IPv4 ids count up, as a kernel that cuts makes them, or are all zero: then they mean nothing, if the packets may not be
    /// fragmented (RFC 6864 section 4.1; TCP only). A group keeps to one way.
    fn counts_with(&self, packet: &[u8]) -> Option<bool> {
        let counting = id(packet) == self.next_id && self.counts != Some(false);
        let atomic = packet.get(6)? & DONT_FRAGMENT != 0;
        let constant = self.shape.tcp && atomic && self.counts != Some(true) && id(packet) == id(&self.first) && id(packet) == 0;
        (counting || constant).then_some(counting)
    }

    /// All of both headers but lengths, ids, checksums, sequence numbers and PSH.
    fn same_headers(&self, packet: &[u8]) -> Option<bool> {
        let Shape { v6, tcp, l4, headers } = self.shape;
        let same = |from: usize, to: usize| -> Option<bool> { Some(self.first.get(from..to)? == packet.get(from..to)?) };
        let ip = if v6 { same(0, 4)? && same(6, l4)? } else { same(0, 2)? && same(6, 10)? && same(12, l4)? };
        let transport = if tcp {
            let flags = (self.first.get(l4 + 13)? ^ packet.get(l4 + 13)?) & !PSH == 0;
            same(l4, l4 + 4)? && same(l4 + 8, l4 + 13)? && flags && same(l4 + 14, l4 + 16)? && same(l4 + 18, headers)?
        } else {
            same(l4, l4 + 4)?
        };
        Some(ip && transport)
    }

    /// Writes the merged packet's own headers; the kernel fills in each part's checksum when it cuts.
    fn finish(&self, packet: &mut [u8]) -> Option<Header> {
        let Shape { v6, tcp, l4, headers } = self.shape;
        let total = packet.len();
        packet.get_mut(..headers)?.copy_from_slice(self.first.get(..headers)?);
        let (ip, transport) = packet.split_at_mut_checked(l4)?;
        let l4_total = u16::try_from(total - l4).ok()?;
        if v6 {
            ip.get_mut(4..6)?.copy_from_slice(&u16::try_from(total - 40).ok()?.to_be_bytes());
        } else {
            ip.get_mut(2..4)?.copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
            finish_v4(ip);
        }
        let field = if tcp { 16 } else { 6 };
        if tcp && self.push {
            *transport.get_mut(13)? |= PSH;
        }
        if !tcp {
            transport.get_mut(4..6)?.copy_from_slice(&l4_total.to_be_bytes());
        }
        let sum = pseudo(ip::addresses(ip, v6), if tcp { TCP } else { UDP }).word(l4_total).folded();
        transport.get_mut(field..field + 2)?.copy_from_slice(&sum);
        let gso = match (tcp, v6) {
            (false, _) => Gso::Udp,
            (true, false) => Gso::TcpV4,
            (true, true) => Gso::TcpV6,
        };
        let word = |number: usize| u16::try_from(number).ok();
        Some(Header { checksum: Some((word(l4)?, word(field)?)), gso, header_bytes: word(headers)?, segment_bytes: word(self.segment)? })
    }
}

/// The TCP sequence number; 0 for UDP, which has none.
fn sequence(packet: &[u8], shape: &Shape) -> Option<u32> {
    if !shape.tcp {
        return Some(0);
    }
    packet.get(shape.l4 + 4..shape.l4 + 8)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The IPv4 identification; meaningless for IPv6, where it is not looked at.
fn id(packet: &[u8]) -> u16 {
    packet.get(4..6).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
