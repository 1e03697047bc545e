//! Outbound: an inner packet becomes an ESP frame under the next sequence number.
//!
//! The IV is the SA's 64-bit sequence number. A number is spent *before* the cipher runs, and nothing gives one back:
//! whatever fails afterwards, no (key, IV) is ever used twice (NIST SP 800-38D section 8).

use core::fmt;

use penstock_uapi::request::{Key, Limits};

use super::cipher::Cipher;
use super::packet::{HEADER_BYTES, frame_bytes};
use crate::sa::lifetime::Lifetime;

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key reached a hard limit, or its cipher failed: it seals nothing any more.
    #[error("the key reached its hard limit")]
    Exhausted,
    /// The output is shorter than [`frame_bytes`] asks. No sequence number was spent.
    #[error("the output buffer is too short for the frame")]
    NoRoom,
}

/// An outbound SA's key with its sequence counter, which is the count of packets in its [`Lifetime`]. There is one in the world for each key: it cannot be cloned.
pub struct Sealer {
    cipher: Cipher,
    spi: [u8; 4],
    lifetime: Lifetime,
}

impl Sealer {
    /// A sealer that starts with sequence number 1; `None` for a suite that we do not know.
    #[must_use]
    pub fn new(spi: u32, key: &Key, limits: &Limits) -> Option<Self> {
        let cipher = Cipher::new(key)?;
        let lifetime = Lifetime::new(limits, cipher.esn());
        Some(Self { cipher, spi: spi.to_be_bytes(), lifetime })
    }

    /// Seals one whole IP packet from `inner` to the front of `out`, and returns the frame's bytes.
    ///
    /// # Errors
    /// [`SealError::NoRoom`] if `out` is shorter than the frame, [`SealError::Exhausted`] from a hard limit on.
    #[inline]
    pub fn seal(&mut self, inner: &[u8], next_header: u8, out: &mut [u8]) -> Result<usize, SealError> {
        let bytes = frame_bytes(inner.len());
        let frame = out.get_mut(..bytes).ok_or(SealError::NoRoom)?;
        let (header, rest) = frame.split_first_chunk_mut::<HEADER_BYTES>().ok_or(SealError::NoRoom)?;
        let (body, trailer_and_icv) = rest.split_at_mut_checked(inner.len()).ok_or(SealError::NoRoom)?;

        // RFC 4303 section 3.3.3: the number grows by one with each packet and must not cycle; the first one is 1. That is
        // the count of packets itself, so what bounds the count bounds the number.
        if !self.lifetime.spend(bytes) {
            return Err(SealError::Exhausted);
        }
        let sequence = self.lifetime.packets();
        let iv = sequence.to_be_bytes();
        let [_, _, _, _, s0, s1, s2, s3] = iv;
        let [p0, p1, p2, p3] = self.spi;
        let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
        *header = [p0, p1, p2, p3, s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7];

        let trailer = Trailer::new(inner.len(), next_header);
        let additional = self.cipher.additional(self.spi, sequence);
        match self.cipher.seal(iv, additional.as_ref(), (inner, trailer.as_ref()), (body, trailer_and_icv)) {
            Ok(()) => Ok(bytes),
            // It cannot happen while lengths are right; if it does, the key is not trusted any further.
            Err(_) => {
                self.lifetime.burn();
                Err(SealError::Exhausted)
            }
        }
    }

    /// The SPI that the peer chose.
    #[must_use]
    pub fn spi(&self) -> u32 {
        u32::from_be_bytes(self.spi)
    }

    /// The sequence number of the newest packet, 0 before the first.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.lifetime.packets()
    }

    /// As if this many packets had been sealed.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.lifetime.skip_to(sequence);
    }

    /// Whether a soft limit is reached: a new key is wanted.
    #[must_use]
    pub fn soft(&self) -> bool {
        self.lifetime.soft()
    }

    /// Whether a hard limit is reached: nothing is sealed any more.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.lifetime.exhausted()
    }

    /// Milliseconds after its installation at which the caller must stop using the key.
    #[must_use]
    pub fn hard_ms(&self) -> u64 {
        self.lifetime.hard_ms()
    }

    /// What the key has carried, and its limits.
    #[must_use]
    pub fn lifetime(&self) -> &Lifetime {
        &self.lifetime
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("spi", &self.spi()).field("sequence", &self.sequence()).finish_non_exhaustive()
    }
}

/// Padding, pad length and next header.
struct Trailer {
    bytes: [u8; 5],
    length: usize,
}

impl Trailer {
    // RFC 4303 section 2.4: padding bytes are 1, 2, 3, …, and the trailer ends on a 4-byte boundary.
    #[inline]
    fn new(inner: usize, next_header: u8) -> Self {
        let (bytes, length) = match inner & 3 {
            0 => ([1, 2, 2, next_header, 0], 4),
            1 => ([1, 1, next_header, 0, 0], 3),
            2 => ([0, next_header, 0, 0, 0], 2),
            _ => ([1, 2, 3, 3, next_header], 5),
        };
        Self { bytes, length }
    }
}

impl AsRef<[u8]> for Trailer {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}
