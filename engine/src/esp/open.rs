//! Open: a frame becomes an authenticated packet (RFC 4303 section 3.4): look at the window, verify and decrypt out of place,
//! then, and only then, change the window.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use penstock_uapi::Drop;
use penstock_uapi::request::{Key, Limits};

use super::packet::{Parts, TRAILER_BYTES};
use super::replay::Window;
use super::{Associated, cipher, nonce};
use crate::sa::lifetime::Lifetime;

/// The receiving half of an SA: its key and its replay window.
pub struct Opener {
    key: LessSafeKey,
    salt: [u8; 4],
    esn: bool,
    window: Window,
    lifetime: Lifetime,
}

impl core::fmt::Debug for Opener {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Opener").field("top", &self.window.top()).finish_non_exhaustive()
    }
}

/// A packet whose ICV held. Nothing else can make one.
#[derive(Debug)]
pub struct Authenticated<'o> {
    plaintext: &'o mut [u8],
    sequence: u64,
    newest: bool,
}

impl Opener {
    /// `None` if the suite is unknown.
    #[must_use]
    pub fn new(key: &Key, window_bits: u32, limits: &Limits) -> Option<Self> {
        let esn = key.esn == 1;
        let (cipher, salt) = cipher(key)?;
        Some(Self { key: cipher, salt, esn, window: Window::new(window_bits), lifetime: Lifetime::new(limits, esn) })
    }

    /// Opens `frame` into the front of `out`, of which the bytes behind the plaintext are left alone. After an error the
    /// front of `out` may hold anything but clear text that is not authentic.
    ///
    /// # Errors
    /// Why the packet is dropped: `Runt`, `Replay`, `ReplayWindow`, `BadIcv`, `InboundKeyExhausted` or `InboundNoBuffer`.
    pub fn open<'o>(&mut self, frame: &[u8], out: &'o mut [u8]) -> Result<Authenticated<'o>, Drop> {
        let parts = Parts::of(frame).ok_or(Drop::Runt)?;
        let sequence = self.window.infer(parts.sequence_low, self.esn).ok_or(Drop::ReplayWindow)?;
        self.window.check(sequence)?;
        if !self.lifetime.allows(parts.ciphertext.len()) {
            return Err(Drop::InboundKeyExhausted);
        }
        let plaintext = out.get_mut(..parts.ciphertext.len()).ok_or(Drop::InboundNoBuffer)?;
        let aad = Aad::from(Associated::new(parts.spi, sequence, self.esn));
        let nonce = Nonce::assume_unique_for_key(nonce(self.salt, parts.iv));
        if self.key.open_separate_gather(nonce, aad, parts.ciphertext, parts.icv, plaintext).is_err() {
            self.lifetime.fail();
            return Err(Drop::BadIcv);
        }
        let newest = sequence > self.window.top();
        self.window.commit(sequence);
        self.lifetime.charge(parts.ciphertext.len());
        Ok(Authenticated { plaintext, sequence, newest })
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

impl<'o> Authenticated<'o> {
    /// The whole sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether no later packet of this SA came before it.
    #[must_use]
    pub fn is_newest(&self) -> bool {
        self.newest
    }

    /// Takes off the trailer; gives the next header and what stands before the padding.
    ///
    /// # Errors
    /// [`Drop::BadPadding`] if the padding is not 1, 2, 3 … (RFC 4303 section 2.4) or longer than the packet.
    pub fn decapsulate(self) -> Result<(u8, &'o mut [u8]), Drop> {
        let (body, trailer) = self.plaintext.split_last_chunk_mut::<TRAILER_BYTES>().ok_or(Drop::BadPadding)?;
        let [padding, next_header] = *trailer;
        let inner = body.len().checked_sub(padding.into()).ok_or(Drop::BadPadding)?;
        let (inner, padding) = body.split_at_mut(inner);
        if padding.iter().zip(1..=255u8).any(|(byte, expected)| *byte != expected) {
            return Err(Drop::BadPadding);
        }
        Ok((next_header, inner))
    }
}

#[cfg(test)]
mod tests;
