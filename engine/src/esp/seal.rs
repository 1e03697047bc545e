//! Seal: an inner packet becomes a frame (RFC 4303 section 3.3), out of place, so that no payload is copied.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use penstock_uapi::request::{Key, Limits};

use super::packet::{ALIGNMENT, HEADER_BYTES, ICV_BYTES, TRAILER_BYTES, frame_bytes};
use super::{Associated, cipher, nonce};
use crate::sa::lifetime::Lifetime;

/// Why a packet was not sealed. Nothing was written that could be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealError {
    /// The key reached a hard limit.
    Exhausted,
    /// The frame does not fit.
    NoRoom,
}

/// The sending half of an SA: its key and the counter that makes each nonce.
///
/// It cannot be cloned, and its counter moves before each use, so that no (key, nonce) pair is used twice.
pub struct Sealer {
    key: LessSafeKey,
    salt: [u8; 4],
    spi: [u8; 4],
    esn: bool,
    pub(super) sequence: u64,
    lifetime: Lifetime,
}

impl core::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sealer").field("spi", &u32::from_be_bytes(self.spi)).field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Sealer {
    /// `None` if the suite is unknown.
    #[must_use]
    pub fn new(spi: u32, key: &Key, limits: &Limits) -> Option<Self> {
        let esn = key.esn == 1;
        let (cipher, salt) = cipher(key)?;
        Some(Self { key: cipher, salt, spi: spi.to_be_bytes(), esn, sequence: 0, lifetime: Lifetime::new(limits, esn) })
    }

    /// Seals `inner`, a whole IP packet, into the front of `out`; returns the frame's bytes.
    ///
    /// # Errors
    /// If the key is used up or `out` too small.
    pub fn seal(&mut self, inner: &[u8], next_header: u8, out: &mut [u8]) -> Result<usize, SealError> {
        let total = frame_bytes(inner.len());
        let frame = out.get_mut(..total).ok_or(SealError::NoRoom)?;
        if !self.lifetime.allows(inner.len()) {
            return Err(SealError::Exhausted);
        }
        // The lifetime bounds the counter, so it cannot wrap (RFC 4303 section 3.3.3). It moves before the key is used.
        self.sequence += 1;
        self.lifetime.charge(inner.len());
        let iv = self.sequence.to_be_bytes();
        let (header, rest) = frame.split_at_mut(HEADER_BYTES);
        header[..4].copy_from_slice(&self.spi);
        header[4..8].copy_from_slice(&iv[4..]);
        header[8..].copy_from_slice(&iv);
        let (ciphertext, trailer_and_icv) = rest.split_at_mut(inner.len());
        // Padding 1, 2, 3 …, pad length, next header (RFC 4303 section 2.4).
        let padding = (inner.len() + TRAILER_BYTES).next_multiple_of(ALIGNMENT) - inner.len() - TRAILER_BYTES;
        let mut trailer = [1, 2, 3, 0, 0];
        trailer[padding] = padding as u8;
        trailer[padding + 1] = next_header;
        let trailer = &trailer[..padding + TRAILER_BYTES];
        debug_assert_eq!(trailer_and_icv.len(), trailer.len() + ICV_BYTES);
        let aad = Aad::from(Associated::new(self.spi, self.sequence, self.esn));
        let nonce = Nonce::assume_unique_for_key(nonce(self.salt, iv));
        self.key.seal_out_of_place_scatter(nonce, aad, inner, ciphertext, trailer, trailer_and_icv).map_err(|_| SealError::NoRoom)?;
        Ok(total)
    }

    /// The sequence number used last; 0 before the first packet.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether a new key is wanted.
    #[must_use]
    pub fn soft(&self) -> bool {
        self.lifetime.is_soft()
    }

    /// Whether the key is used up.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.lifetime.is_hard()
    }

    /// Milliseconds after its installation at which the key ends.
    #[must_use]
    pub fn hard_ms(&self) -> u64 {
        self.lifetime.hard_ms()
    }
}
