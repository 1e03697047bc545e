//! The layout of an ESP frame (RFC 4303 section 2, RFC 4106 section 3): where each part stands and how long it is.
//!
//! ```text
//!   0         4            8          16                        16 + align4(inner + 2)
//!   ┌─────────┬────────────┬──────────┬───────────────────────────────────────┬─────────┐
//!   │ SPI     │ sequence   │ IV       │ inner packet │ 1 2 3 │ pad len │ next │ ICV  16 │
//!   └─────────┴────────────┴──────────┴───────────────────────────────────────┴─────────┘
//!   └─ authenticated, in clear ─┘     └───────────── encrypted ───────────────┘
//! ```
//! With extended sequence numbers the high half is authenticated too, but not sent.

/// SPI 4, sequence number 4, IV 8.
pub const HEADER_BYTES: usize = 16;
/// The ICV is the whole tag of AES-GCM (RFC 4106 section 6: 16 is the length all support).
pub const ICV_BYTES: usize = 16;
/// Pad length and next header, which end every plaintext.
pub const TRAILER_BYTES_MIN: usize = 2;
/// The shortest frame there is: an empty inner packet.
pub const FRAME_BYTES_MIN: usize = frame_bytes(0);

/// Next header of an inner IPv4 packet (RFC 4303 section 2.6).
pub const NEXT_HEADER_IPV4: u8 = 4;
/// Next header of an inner IPv6 packet.
pub const NEXT_HEADER_IPV6: u8 = 41;
/// Next header of a dummy packet, to be thrown away by the receiver (RFC 4303 section 2.6).
pub const NEXT_HEADER_NONE: u8 = 59;

/// The bytes of the frame that carries an inner packet of `inner` bytes.
#[must_use]
pub const fn frame_bytes(inner: usize) -> usize {
    // RFC 4303 section 2.4: the trailer ends on a 4-byte boundary.
    (inner.saturating_add(TRAILER_BYTES_MIN + 3) & !3).saturating_add(HEADER_BYTES + ICV_BYTES)
}

/// The largest inner packet whose frame takes at most `frame` bytes; 0 where not even an empty one fits.
#[must_use]
pub const fn inner_bytes_max(frame: usize) -> usize {
    (frame.saturating_sub(HEADER_BYTES + ICV_BYTES) & !3).saturating_sub(TRAILER_BYTES_MIN)
}

/// The SPI of a frame; `None` where it is too short to have one.
#[must_use]
pub fn spi(frame: &[u8]) -> Option<u32> {
    frame.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// A received frame, cut into its parts. Lengths are checked; nothing else is.
pub(super) struct Parts<'f> {
    pub(super) spi: [u8; 4],
    pub(super) sequence_low: [u8; 4],
    pub(super) iv: [u8; 8],
    pub(super) ciphertext: &'f [u8],
    pub(super) icv: &'f [u8; ICV_BYTES],
}

impl<'f> Parts<'f> {
    /// `None` for what cannot be a frame: too short, or a ciphertext that ends off a 4-byte boundary.
    pub(super) fn of(frame: &'f [u8]) -> Option<Self> {
        if frame.len() < FRAME_BYTES_MIN || !frame.len().is_multiple_of(4) {
            return None;
        }
        let (spi, rest) = frame.split_first_chunk()?;
        let (sequence_low, rest) = rest.split_first_chunk()?;
        let (iv, rest) = rest.split_first_chunk()?;
        let (ciphertext, icv) = rest.split_last_chunk()?;
        Some(Self { spi: *spi, sequence_low: *sequence_low, iv: *iv, ciphertext, icv })
    }
}

#[cfg(test)]
mod tests {
    use super::{FRAME_BYTES_MIN, Parts, frame_bytes, inner_bytes_max, spi};

    #[test]
    fn a_frame_holds_what_it_should_and_not_a_byte_more() {
        assert_eq!(frame_bytes(0), 36);
        // The inner MTU of a 1500-byte path: 1500 - 20 IPv4 - 8 UDP = 1472, and 20 less for IPv6.
        assert_eq!(inner_bytes_max(1472), 1438);
        assert_eq!(inner_bytes_max(1452), 1418);
        for inner in 0..5000 {
            let frame = frame_bytes(inner);
            assert!(frame.is_multiple_of(4) && frame >= inner + 34 && frame <= inner + 37);
            assert!(inner_bytes_max(frame) >= inner && inner_bytes_max(frame) < inner + 4);
            assert!(inner_bytes_max(frame - 1) < inner || inner == 0);
        }
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        let bytes = [1_u8; 128];
        for length in 0..bytes.len() {
            let frame = &bytes[..length];
            assert_eq!(Parts::of(frame).is_some(), length >= FRAME_BYTES_MIN && length % 4 == 0, "{length}");
            assert_eq!(spi(frame).is_some(), length >= 4);
        }
        assert_eq!(frame_bytes(usize::MAX), usize::MAX);
        assert_eq!(inner_bytes_max(0), 0);
    }
}
