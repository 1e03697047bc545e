//! Inbound: an ESP frame becomes an inner packet, if it is fresh and authentic.
//!
//! The order is the whole of the safety (RFC 4303 section 3.4.3): look at the replay window, authenticate and decrypt,
//! and only then move the window. A frame that fails leaves nothing behind but a count.

use core::fmt;

use penstock_uapi::Drop;
use penstock_uapi::request::{Key, Limits};

use super::cipher::Cipher;
use super::packet::{Parts, TRAILER_BYTES_MIN};
use super::replay::Window;
use crate::sa::lifetime::Lifetime;

/// An inbound SA's key with its replay window.
pub struct Opener {
    cipher: Cipher,
    window: Window,
    lifetime: Lifetime,
}

impl Opener {
    /// An opener that has seen nothing; `None` for a suite that we do not know. The window is clamped to what
    /// [`Window::new`] offers: it is never off.
    #[must_use]
    pub fn new(key: &Key, window_bits: u32, limits: &Limits) -> Option<Self> {
        let cipher = Cipher::new(key)?;
        let lifetime = Lifetime::new(limits, cipher.esn());
        Some(Self { cipher, window: Window::new(window_bits), lifetime })
    }

    /// Authenticates and decrypts `frame` to the front of `out`, which must have room for the ciphertext.
    ///
    /// # Errors
    /// [`Drop::Runt`], [`Drop::InboundNoBuffer`], [`Drop::InboundKeyExhausted`], [`Drop::Replay`],
    /// [`Drop::ReplayWindow`] or [`Drop::BadIcv`]; after none of them has the window moved.
    #[inline]
    pub fn open<'o>(&mut self, frame: &[u8], out: &'o mut [u8]) -> Result<Authenticated<'o>, Drop> {
        let parts = Parts::of(frame).ok_or(Drop::Runt)?;
        let plain = out.get_mut(..parts.ciphertext.len()).ok_or(Drop::InboundNoBuffer)?;
        if !self.lifetime.allows(frame.len()) {
            return Err(Drop::InboundKeyExhausted);
        }
        let low = u32::from_be_bytes(parts.sequence_low);
        let sequence = match self.cipher.esn() {
            // RFC 4303 section 2.2.1: the high half is not in the packet.
            true => self.window.infer(low).ok_or(Drop::ReplayWindow)?,
            false => u64::from(low),
        };
        let slot = self.window.check(sequence)?;
        let additional = self.cipher.additional(parts.spi, sequence);
        if self.cipher.open(parts.iv, additional.as_ref(), parts.ciphertext, parts.icv, plain).is_err() {
            self.lifetime.fail();
            return Err(self.failure(low, parts.iv));
        }
        let newest = slot.commit();
        self.lifetime.spend(frame.len());
        Ok(Authenticated { plain, sequence, newest })
    }

    /// The name of a failed authentication.
    ///
    /// With extended numbers a packet from left of the window is taken for one of the next 2^32 (RFC 4303 appendix
    /// A2) and fails only here. Where the sender uses its number as IV, as Penstock does, the IV still tells that it
    /// is old. Nothing vouches for that IV; but it decides no more than under which name the packet is counted.
    #[cold]
    fn failure(&self, low: u32, iv: [u8; 8]) -> Drop {
        let claimed = u64::from_be_bytes(iv);
        let old = self.cipher.esn() && claimed & u64::from(u32::MAX) == u64::from(low) && self.window.is_left(claimed);
        if old { Drop::ReplayWindow } else { Drop::BadIcv }
    }

    /// The highest sequence number that was authenticated, 0 before the first.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.window.top()
    }

    /// As if this number had been received.
    #[cfg(test)]
    pub(super) fn skip_to(&mut self, sequence: u64) {
        self.window.check(sequence).expect("a number not received yet").commit();
    }

    /// Whether a soft limit is reached: a new key is wanted. Packets that were lost have used up numbers, too.
    #[must_use]
    pub fn soft(&self) -> bool {
        self.lifetime.soft() || self.window.top() >= self.lifetime.soft_packets()
    }

    /// Whether a hard limit is reached: nothing is opened any more.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.lifetime.exhausted()
    }

    /// Milliseconds after its installation at which the caller must stop using the key.
    #[must_use]
    pub fn hard_ms(&self) -> u64 {
        self.lifetime.hard_ms()
    }

    /// What the key has carried, how many packets failed, and the limits.
    #[must_use]
    pub fn lifetime(&self) -> &Lifetime {
        &self.lifetime
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener").field("window", &self.window).finish_non_exhaustive()
    }
}

/// The plaintext of a packet that was fresh and whose ICV matched. Only [`Opener::open`] makes one.
#[derive(Debug)]
pub struct Authenticated<'o> {
    plain: &'o mut [u8],
    sequence: u64,
    newest: bool,
}

impl<'o> Authenticated<'o> {
    /// Takes off the trailer: the next header, and the inner packet (possibly with traffic-flow padding behind it).
    ///
    /// # Errors
    /// [`Drop::BadPadding`] if the pad length does not fit, or the padding is not 1, 2, 3, … (RFC 4303 section 2.4).
    #[inline]
    pub fn decapsulate(self) -> Result<(u8, &'o mut [u8]), Drop> {
        let (padded, &mut [pad_length, next_header]) = self.plain.split_last_chunk_mut::<TRAILER_BYTES_MIN>().ok_or(Drop::BadPadding)?;
        let inner_bytes = padded.len().checked_sub(pad_length.into()).ok_or(Drop::BadPadding)?;
        let (inner, padding) = padded.split_at_mut_checked(inner_bytes).ok_or(Drop::BadPadding)?;
        if padding.iter().zip(1..=u8::MAX).any(|(&byte, expected)| byte != expected) {
            return Err(Drop::BadPadding);
        }
        Ok((next_header, inner))
    }

    /// The packet's 64-bit sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether it stood in front of all that came before: its outer source is where the peer is now.
    #[must_use]
    pub fn is_newest(&self) -> bool {
        self.newest
    }
}

#[cfg(test)]
mod tests;
