//! What a multishot receive puts into a buffer (`struct io_uring_recvmsg_out`): four lengths, then address and control messages
//! in rooms of fixed size, then the payload.

use std::net::SocketAddr;

use crate::udp::control::{self, Told};
use crate::udp::{ADDRESS_BYTES, CONTROL_BYTES, address};

const LENGTHS_BYTES: usize = 16;

/// One receive.
#[derive(Debug, Default)]
pub(super) struct Message<'a> {
    pub(super) from: Option<SocketAddr>,
    pub(super) told: Told,
    pub(super) payload: &'a [u8],
    pub(super) payload_cut: bool,
    pub(super) control_cut: bool,
}

impl Message<'_> {
    /// How many datagrams it holds.
    pub(super) fn frames(&self) -> usize {
        self.told.segment.map_or(1, |segment| self.payload.len().div_ceil(segment))
    }
}

/// Takes a filled buffer apart; one that is too short is a message from nobody.
pub(super) fn parse(buffer: &[u8]) -> Message<'_> {
    take_apart(buffer).unwrap_or_default()
}

fn take_apart(buffer: &[u8]) -> Option<Message<'_>> {
    let (lengths, rest) = buffer.split_first_chunk::<LENGTHS_BYTES>()?;
    let (name, rest) = rest.split_at_checked(ADDRESS_BYTES)?;
    let (control, payload) = rest.split_at_checked(CONTROL_BYTES)?;
    let word = |at: usize| lengths.get(at..at + 4).and_then(<[u8]>::first_chunk).map(|word| u32::from_ne_bytes(*word));
    let (name_length, control_length, flags) = (word(0)? as usize, word(4)? as usize, word(12)?.cast_signed());
    Some(Message {
        from: address::decode(name.get(..name_length.min(ADDRESS_BYTES))?),
        told: control::read(control.get(..control_length.min(CONTROL_BYTES))?),
        payload,
        payload_cut: flags & libc::MSG_TRUNC != 0,
        control_cut: flags & libc::MSG_CTRUNC != 0,
    })
}
