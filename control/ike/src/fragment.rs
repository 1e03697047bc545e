//! Encrypted messages in pieces (RFC 7383), so that no router has to cut them and no filter that drops IP fragments eats them.
//!
//! A piece is authentic before it is kept. What one IKE SA keeps is bounded by [`OCTETS_MAX`] for each direction, so strangers,
//! of whom there are 512 half-open ones at most, hold 16 MiB at most.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::crypto::sha256;
use crate::message::header;

/// More pieces of one message than any exchange needs are refused.
const PIECES_MAX: u16 = 128;
/// More octets of payloads in one message than any exchange needs are refused.
const OCTETS_MAX: usize = 32 * 1024;

/// The longest IKE message that every path takes in one piece: what every link of the family carries (576 octets in IPv4, 1,280 in
/// IPv6; RFC 7383 section 2.5.1) without the headers of IP and UDP and the non-ESP marker.
pub(crate) fn whole_octets_max(remote: IpAddr) -> usize {
    match remote {
        IpAddr::V4(_) => 576 - 20 - 8 - 4,
        IpAddr::V6(_) => 1_280 - 40 - 8 - 4,
    }
}

/// The payloads of a message, and how it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The kind of the first payload inside.
    pub(crate) first: u8,
    pub(crate) inner: Vec<u8>,
    /// By what a repetition is recognised: SHA-256 of the datagram, of the first piece's where there are several.
    pub(crate) digest: [u8; 32],
    /// The header of that datagram.
    pub(crate) head: [u8; header::BYTES],
}

/// An authentic piece.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    pub(crate) id: u32,
    pub(crate) number: u16,
    pub(crate) total: u16,
    pub(crate) first: u8,
    pub(crate) inner: Vec<u8>,
    /// The whole datagram.
    pub(crate) message: &'a [u8],
}

/// The pieces of one message that have come so far.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    id: u32,
    total: u16,
    octets: usize,
    pieces: BTreeMap<u16, Vec<u8>>,
    /// The kind of the first payload, digest and header: what the first piece tells.
    start: Option<(u8, [u8; 32], [u8; header::BYTES])>,
}

impl Assembly {
    /// Adds a piece; gives the payloads once none is missing. Each piece counts once. A sender that cuts smaller than before has
    /// begun anew (section 2.5.2), so more pieces replace fewer.
    pub(crate) fn add(&mut self, piece: Piece<'_>) -> Option<Opened> {
        let Piece { id, number, total, first, inner, message } = piece;
        if number == 0 || number > total || total > PIECES_MAX || (id == self.id && total < self.total) {
            return None;
        }
        if id != self.id || total > self.total {
            *self = Self { id, total, ..Self::default() };
        }
        let octets = self.octets.saturating_add(inner.len());
        if self.pieces.contains_key(&number) || octets > OCTETS_MAX {
            return None;
        }
        if number == 1 {
            self.start = Some((first, sha256(message), *message.first_chunk()?));
        }
        self.octets = octets;
        self.pieces.insert(number, inner);
        if self.pieces.len() < usize::from(total) {
            return None;
        }
        let (first, digest, head) = self.start?;
        let inner = std::mem::take(&mut self.pieces).into_values().flatten().collect();
        *self = Self::default();
        Some(Opened { first, inner, digest, head })
    }
}

#[cfg(test)]
mod tests {
    use super::{Assembly, OCTETS_MAX, PIECES_MAX, Piece};

    const DATAGRAM: [u8; 40] = [9; 40];

    fn piece(id: u32, number: u16, total: u16, octets: &[u8]) -> Piece<'static> {
        Piece { id, number, total, first: if number == 1 { 33 } else { 0 }, inner: octets.to_vec(), message: &DATAGRAM }
    }

    #[test]
    fn pieces_in_any_order_make_the_message() {
        for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1]] {
            let mut assembly = Assembly::default();
            let mut opened = None;
            for number in order {
                assert!(opened.is_none());
                opened = assembly.add(piece(7, number, 3, &[number as u8; 2]));
            }
            let opened = opened.expect("whole");
            assert_eq!((opened.first, opened.inner), (33, vec![1, 1, 2, 2, 3, 3]));
        }
    }

    #[test]
    fn a_piece_counts_once_and_the_first_one_of_its_number_stays() {
        let mut assembly = Assembly::default();
        assert!(assembly.add(piece(1, 1, 2, b"a")).is_none());
        assert!(assembly.add(piece(1, 1, 2, b"x")).is_none());
        assert_eq!(assembly.add(piece(1, 2, 2, b"b")).expect("whole").inner, b"ab");
        // A message that is whole leaves nothing behind.
        assert!(assembly.add(piece(1, 2, 2, b"b")).is_none());
    }

    #[test]
    fn smaller_pieces_begin_anew_and_larger_ones_are_late() {
        let mut assembly = Assembly::default();
        assert!(assembly.add(piece(1, 1, 2, b"ab")).is_none());
        assert!(assembly.add(piece(1, 1, 3, b"a")).is_none());
        assert!(assembly.add(piece(1, 2, 2, b"cd")).is_none(), "of the first cut");
        assert!(assembly.add(piece(1, 2, 3, b"b")).is_none());
        assert_eq!(assembly.add(piece(1, 3, 3, b"c")).expect("whole").inner, b"abc");
    }

    #[test]
    fn another_message_takes_the_place_of_one_that_never_became_whole() {
        let mut assembly = Assembly::default();
        assert!(assembly.add(piece(1, 1, 2, b"a")).is_none());
        assert!(assembly.add(piece(2, 2, 2, b"d")).is_none());
        assert_eq!(assembly.add(piece(2, 1, 2, b"c")).expect("whole").inner, b"cd");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut assembly = Assembly::default();
        for (number, total) in [(0, 2), (3, 2), (0, 0), (1, PIECES_MAX + 1)] {
            assert!(assembly.add(piece(1, number, total, b"a")).is_none());
        }
        assert_eq!(assembly.octets, 0);
        for number in 1..PIECES_MAX {
            assembly.add(piece(1, number, PIECES_MAX, &[0; 1_500]));
        }
        assert!(assembly.octets <= OCTETS_MAX && assembly.octets > OCTETS_MAX - 1_500, "{}", assembly.octets);
        assert_eq!(assembly.add(piece(2, 1, 1, b"one")).expect("one piece is enough").inner, b"one");
    }
}
