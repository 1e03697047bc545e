//! Cutting a super-packet into the packets it stands for, where it lies.
//!
//! ```text
//!   read buffer   │ H │ payload 1      │ payload 2      │ payload 3 │
//!   first packet  └───────────────────┘
//!   second                          │ H │ payload 2      │             its header goes over the tail of payload 1, which is sealed by now
//!   third                                            │ H │ payload 3 │
//! ```

use penstock_uapi::Drop;

use super::vnet::{Gso, Header};
use crate::packet::checksum::{Sum, pseudo};
use crate::packet::ip::{self, Ip, TCP, UDP, finish_v4};

/// The longest run of headers that is cut: IPv4 with options and TCP with options take 120 bytes.
const HEADERS_BYTES_MAX: usize = 192;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The packets of one read, one after the other. Each is overwritten by the next call.
#[derive(Debug)]
pub struct Split<'a> {
    packet: &'a mut [u8],
    shape: Shape,
    done: u32,
    count: u32,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lives on the stack for the length of one read; a box would allocate")]
enum Shape {
    Whole { checksum: Option<(usize, usize)> },
    Cut(Cut),
}

/// What every segment of a super-packet shares.
#[derive(Debug)]
struct Cut {
    template: [u8; HEADERS_BYTES_MAX],
    headers: usize,
    l4: usize,
    v6: bool,
    tcp: bool,
    segment: usize,
    pseudo: Sum,
}

impl<'a> Split<'a> {
    /// Looks at a read; changes nothing yet.
    ///
    /// # Errors
    /// [`Drop::OutboundMalformed`] if header and packet contradict each other.
    pub fn new(header: &Header, packet: &'a mut [u8], ip: &Ip) -> Result<Self, Drop> {
        if header.gso == Gso::None {
            let checksum = header.checksum.map(|(start, offset)| (usize::from(start), usize::from(start) + usize::from(offset)));
            if checksum.is_some_and(|(start, field)| start < ip.header || field + 2 > ip.total) {
                return Err(Drop::OutboundMalformed);
            }
            let packet = packet.get_mut(..ip.total).ok_or(Drop::OutboundMalformed)?;
            return Ok(Self { packet, shape: Shape::Whole { checksum }, done: 0, count: 1 });
        }
        let cut = Cut::new(header, packet, ip).ok_or(Drop::OutboundMalformed)?;
        let payload = packet.len() - cut.headers;
        let count = u32::try_from(payload.div_ceil(cut.segment).max(1)).map_err(|_| Drop::OutboundMalformed)?;
        Ok(Self { packet, shape: Shape::Cut(cut), done: 0, count })
    }

    /// How many packets there are in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The next packet, whole, its checksums complete.
    #[expect(clippy::should_implement_trait, reason = "each packet borrows the buffer that the next one overwrites")]
    pub fn next(&mut self) -> Option<&mut [u8]> {
        if self.done == self.count {
            return None;
        }
        let index = self.done;
        self.done += 1;
        match &self.shape {
            Shape::Whole { checksum } => {
                if let Some((start, field)) = *checksum {
                    complete(self.packet, start, field)?;
                }
                Some(self.packet)
            }
            Shape::Cut(cut) => cut.segment(self.packet, index, self.done == self.count),
        }
    }
}

/// The field holds the sum of the pseudo-header; the rest is ours to add (Documentation/networking/checksum-offloads.rst).
fn complete(packet: &mut [u8], start: usize, field: usize) -> Option<()> {
    let sum = Sum::default().bytes(packet.get(start..)?).finish();
    // A UDP checksum of zero means "none" (RFC 768); for TCP both forms of zero are alike.
    let sum = if sum == [0, 0] { [0xff, 0xff] } else { sum };
    packet.get_mut(field..field + 2)?.copy_from_slice(&sum);
    Some(())
}

impl Cut {
    fn new(header: &Header, packet: &[u8], ip: &Ip) -> Option<Self> {
        let tcp = header.gso != Gso::Udp;
        let protocol = if tcp { TCP } else { UDP };
        let l4 = usize::from(header.checksum?.0);
        // Only IPv6 can have more headers in between.
        let placed = if l4 == ip.header { ip.protocol == protocol } else { ip.v6 && l4 > ip.header };
        let matches = match header.gso {
            Gso::TcpV4 => !ip.v6,
            Gso::TcpV6 => ip.v6,
            _ => true,
        };
        let l4_bytes = if tcp { usize::from(packet.get(l4 + 12)? >> 4) * 4 } else { 8 };
        let headers = l4 + l4_bytes;
        let sane = matches && placed && (!tcp || l4_bytes >= 20) && header.segment_bytes > 0;
        if !sane || ip.fragment {
            return None;
        }
        let mut template = [0; HEADERS_BYTES_MAX];
        template.get_mut(..headers)?.copy_from_slice(packet.get(..headers)?);
        let pseudo = pseudo(ip::addresses(packet, ip.v6), protocol);
        Some(Self { template, headers, l4, v6: ip.v6, tcp, segment: header.segment_bytes.into(), pseudo })
    }

    fn segment<'p>(&self, packet: &'p mut [u8], index: u32, last: bool) -> Option<&'p mut [u8]> {
        let start = index as usize * self.segment;
        let end = (start + self.headers + self.segment).min(packet.len());
        let whole = packet.get_mut(start..end)?;
        let total = whole.len();
        let (headers, payload) = whole.split_at_mut_checked(self.headers)?;
        headers.copy_from_slice(self.template.get(..self.headers)?);
        let (ip, l4) = headers.split_at_mut(self.l4);
        if self.v6 {
            ip.get_mut(4..6)?.copy_from_slice(&u16::try_from(total - 40).ok()?.to_be_bytes());
        } else {
            ip.get_mut(2..4)?.copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
            let id = u16::from_be_bytes(*ip.get(4..6)?.first_chunk()?).wrapping_add(index as u16);
            ip.get_mut(4..6)?.copy_from_slice(&id.to_be_bytes());
            finish_v4(ip);
        }
        let l4_total = u16::try_from(l4.len() + payload.len()).ok()?;
        let field = if self.tcp {
            let sequence = u32::from_be_bytes(*l4.get(4..8)?.first_chunk()?).wrapping_add(index.wrapping_mul(self.segment as u32));
            l4.get_mut(4..8)?.copy_from_slice(&sequence.to_be_bytes());
            let only_last = if last { 0 } else { FIN | PSH };
            let only_first = if index == 0 { 0 } else { CWR };
            *l4.get_mut(13)? &= !(only_last | only_first);
            16
        } else {
            l4.get_mut(4..6)?.copy_from_slice(&l4_total.to_be_bytes());
            6
        };
        l4.get_mut(field..field + 2)?.fill(0);
        let mut sum = self.pseudo.word(l4_total).bytes(l4).bytes(payload).finish();
        if !self.tcp && sum == [0, 0] {
            sum = [0xff, 0xff];
        }
        l4.get_mut(field..field + 2)?.copy_from_slice(&sum);
        Some(whole)
    }
}

#[cfg(test)]
mod tests;
