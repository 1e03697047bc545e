//! The layout of a frame: SPI, sequence number, IV, ciphertext, ICV (RFC 4303 section 2, RFC 4106 section 3).

/// SPI, low half of the sequence number, IV.
pub const HEADER_BYTES: usize = 16;
/// The integrity check value.
pub const ICV_BYTES: usize = 16;
/// Pad length and next header, the last two bytes that are encrypted.
pub const TRAILER_BYTES: usize = 2;
/// What the ciphertext is a multiple of (RFC 4303 section 2.4).
pub const ALIGNMENT: usize = 4;

/// The next header of an inner IPv4 packet.
pub const NEXT_HEADER_IPV4: u8 = 4;
/// The next header of an inner IPv6 packet.
pub const NEXT_HEADER_IPV6: u8 = 41;
/// The next header of a dummy packet (RFC 4303 section 2.6).
pub const NEXT_HEADER_NONE: u8 = 59;

/// Bytes of the frame that carries `inner` bytes.
#[must_use]
pub const fn frame_bytes(inner: usize) -> usize {
    HEADER_BYTES + (inner + TRAILER_BYTES).next_multiple_of(ALIGNMENT) + ICV_BYTES
}

/// Bytes of the largest inner packet that a frame of `frame` bytes carries.
#[must_use]
pub const fn inner_bytes_max(frame: usize) -> usize {
    let ciphertext = frame.saturating_sub(HEADER_BYTES + ICV_BYTES) / ALIGNMENT * ALIGNMENT;
    ciphertext.saturating_sub(TRAILER_BYTES)
}

/// The SPI; `None` if the frame is shorter than one.
#[must_use]
pub fn spi(frame: &[u8]) -> Option<u32> {
    frame.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// The parts of a frame whose lengths can be right.
pub(super) struct Parts<'a> {
    pub(super) spi: [u8; 4],
    pub(super) sequence_low: u32,
    pub(super) iv: [u8; 8],
    pub(super) ciphertext: &'a [u8],
    pub(super) icv: &'a [u8],
}

impl<'a> Parts<'a> {
    /// `None` if the frame is too short for a trailer and an ICV, or its ciphertext is not aligned.
    pub(super) fn of(frame: &'a [u8]) -> Option<Self> {
        let (spi, rest) = frame.split_first_chunk()?;
        let (sequence, rest) = rest.split_first_chunk()?;
        let (iv, rest) = rest.split_first_chunk()?;
        let (ciphertext, icv) = rest.split_at_checked(rest.len().checked_sub(ICV_BYTES)?)?;
        if ciphertext.is_empty() || !ciphertext.len().is_multiple_of(ALIGNMENT) {
            return None;
        }
        Some(Self { spi: *spi, sequence_low: u32::from_be_bytes(*sequence), iv: *iv, ciphertext, icv })
    }
}

#[cfg(test)]
mod tests {
    use super::{frame_bytes, inner_bytes_max};

    #[test]
    fn the_largest_inner_packet_fits_and_one_byte_more_does_not() {
        for frame in 36..3000 {
            let inner = inner_bytes_max(frame);
            assert!(frame_bytes(inner) <= frame && frame_bytes(inner + 1) > frame, "{frame}");
        }
        // A path of 1500 bytes: 20 of IPv4 or 40 of IPv6, and 8 of UDP.
        assert_eq!(inner_bytes_max(1500 - 28), 1438);
        assert_eq!(inner_bytes_max(1500 - 48), 1418);
    }
}
