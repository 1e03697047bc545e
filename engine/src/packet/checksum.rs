//! The Internet checksum (RFC 1071), summed in the machine's own byte order, which the ones' complement sum does not care about:
//! short pieces in words of 64 bits whose carry goes round, long ones in as many lanes as the CPU's vectors have.

use crate::sys::vectors::{BLOCK_BYTES, sum_words};

/// A running ones' complement sum of 16-bit words in the machine's byte order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last piece added must be of even length.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
        if blocks.is_empty() { self.few(rest) } else { self.add(sum_words(blocks)).few(rest) }
    }

    #[inline]
    fn few(self, bytes: &[u8]) -> Self {
        let (words, mut rest) = bytes.as_chunks::<8>();
        let mut sum = words.iter().fold(self, |sum, word| sum.add(u64::from_ne_bytes(*word)));
        if let Some((word, behind)) = rest.split_first_chunk::<4>() {
            (sum, rest) = (sum.add(u32::from_ne_bytes(*word).into()), behind);
        }
        if let Some((word, behind)) = rest.split_first_chunk::<2>() {
            (sum, rest) = (sum.add(u16::from_ne_bytes(*word).into()), behind);
        }
        if let [last] = rest { sum.add(u16::from_ne_bytes([*last, 0]).into()) } else { sum }
    }

    /// Adds with the carry going round: 2^64 is 1 modulo 2^16 - 1.
    #[inline]
    fn add(self, number: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(number);
        Self(sum.wrapping_add(carry.into()))
    }

    /// Adds a 16-bit word.
    #[inline]
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        self.add(u16::from_ne_bytes(word.to_be_bytes()).into())
    }

    /// The sum as it stands in a packet, not inverted: what a pseudo-header leaves for the hardware to go on with.
    #[inline]
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        let halves = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        // At most 33, 18, 17 and 16 bits.
        let sum = (0..3).fold(halves, |sum, _| (sum & 0xffff) + (sum >> 16));
        (sum as u16).to_ne_bytes()
    }

    /// The checksum as it stands in a packet.
    #[inline]
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether the sum over a packet with its checksum in place says that it is whole.
    #[inline]
    #[must_use]
    pub fn holds(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

/// The pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 8200 section 8.1) without the length.
#[inline]
#[must_use]
pub fn pseudo(addresses: &[u8], protocol: u8) -> Sum {
    Sum::default().bytes(addresses).word(protocol.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Sum;

    /// RFC 1071 section 4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_way(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(u16::from_be_bytes(Sum::default().bytes(&bytes).finish()), slow(&bytes));
        }

        #[test]
        fn pieces_add_up(bytes in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..400), at in 0..200usize, word: u16) {
            let (first, second) = bytes.split_at((at * 2).min(bytes.len() & !1));
            let whole = [&word.to_be_bytes(), bytes.as_slice()].concat();
            let sum = Sum::default().word(word).bytes(first).bytes(second);
            prop_assert_eq!(u16::from_be_bytes(sum.finish()), slow(&whole));
        }
    }

    #[test]
    fn all_ones_do_not_overflow() {
        for bytes in 0..300 {
            let ones = vec![0xff; bytes];
            assert_eq!(u16::from_be_bytes(Sum(u64::MAX).bytes(&ones).finish()), slow(&[&[0xff; 8], ones.as_slice()].concat()));
        }
        assert_eq!(u16::from_be_bytes(Sum::default().bytes(&[0xff; 65_536]).finish()), slow(&[0xff; 65_536]));
    }
}
