//! The Internet checksum (RFC 1071), summed in the machine's own byte order: the ones' complement sum does not care, and eight
//! lanes of 32 bits in 64 leave the compiler free to use vectors.

/// A running sum of 16-bit words in the machine's byte order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last piece added must be of even length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let mut lanes = [0u64; 8];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<4>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_ne_bytes(*word));
            }
        }
        let (words, rest) = rest.as_chunks::<2>();
        let mut sum = self.0 + lanes.iter().sum::<u64>() + words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
        if let [last] = rest {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Adds a 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(u16::from_ne_bytes(word.to_be_bytes())))
    }

    /// The sum as it stands in a packet, not inverted: what a pseudo-header leaves for the hardware to go on with.
    #[must_use]
    pub fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (sum as u16).to_ne_bytes()
    }

    /// The checksum as it stands in a packet.
    #[must_use]
    pub fn finish(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// Whether the sum over a packet with its checksum in place says that it is whole.
    #[must_use]
    pub fn holds(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

/// The pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 8200 section 8.1) without the length.
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
    }

    #[test]
    fn all_ones_do_not_overflow() {
        assert_eq!(u16::from_be_bytes(Sum::default().bytes(&[0xff; 65_536]).finish()), slow(&[0xff; 65_536]));
    }
}
