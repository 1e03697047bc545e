//! The replay window (RFC 4303 section 3.4.3) as a ring of words (RFC 6479), and the high half of an extended sequence
//! number, which is not sent (RFC 4303 appendix A2).
//!
//! [`Window::check`] changes nothing; [`Window::commit`] is called only after the ICV held, so that nobody without the key
//! can move the window. It cannot be switched off.

use penstock_uapi::Drop;

/// The smallest window in bits.
pub const WINDOW_BITS_MIN: u32 = 1024;
/// The largest window in bits.
pub const WINDOW_BITS_MAX: u32 = 65_536;

/// Which sequence numbers have been received.
#[derive(Debug)]
pub struct Window {
    /// A power of two of words, at least one more than the window has, so that a word can be cleared ahead (RFC 6479 section 2).
    words: Box<[u64]>,
    bits: u64,
    top: u64,
}

impl Window {
    /// An empty window of `bits`, rounded up to a multiple of 64 and held within the bounds.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX).next_multiple_of(64);
        let words = (bits as usize / 64 + 1).next_power_of_two();
        Self { words: vec![0; words].into_boxed_slice(), bits: bits.into(), top: 0 }
    }

    /// The highest sequence number received; 0 if none was.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.top
    }

    /// The whole number whose low half was received; `None` where none can be meant.
    #[must_use]
    pub fn infer(&self, low: u32, esn: bool) -> Option<u64> {
        if !esn {
            return Some(low.into());
        }
        let half = |number: u64| number as u32;
        let high = self.top & !0xffff_ffff;
        // Appendix A2.2: the window lies in one subspace (case A) or spans two (case B).
        let bottom = self.top.wrapping_sub(self.bits - 1);
        if u64::from(half(self.top)) >= self.bits - 1 {
            if low >= half(bottom) { Some(high | u64::from(low)) } else { high.checked_add(1 << 32).map(|next| next | u64::from(low)) }
        } else if low >= half(bottom) {
            high.checked_sub(1 << 32).map(|previous| previous | u64::from(low))
        } else {
            Some(high | u64::from(low))
        }
    }

    /// Whether a number may be accepted. Nothing changes.
    ///
    /// # Errors
    /// [`Drop::Replay`] if it was received, [`Drop::ReplayWindow`] if it is zero or lies left of the window.
    pub fn check(&self, sequence: u64) -> Result<(), Drop> {
        if sequence > self.top {
            return Ok(());
        }
        if sequence == 0 || self.top - sequence >= self.bits {
            return Err(Drop::ReplayWindow);
        }
        let (word, bit) = self.place(sequence);
        if self.words[word] & bit == 0 { Ok(()) } else { Err(Drop::Replay) }
    }

    /// Notes a number whose packet was authenticated, after [`Self::check`] allowed it.
    pub fn commit(&mut self, sequence: u64) {
        if sequence > self.top {
            let (old, new) = (self.top / 64, sequence / 64);
            let fresh = (new - old).min(self.words.len() as u64);
            for word in (new - fresh + 1)..=new {
                self.words[word as usize & (self.words.len() - 1)] = 0;
            }
            self.top = sequence;
        }
        let (word, bit) = self.place(sequence);
        self.words[word] |= bit;
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        ((sequence / 64) as usize & (self.words.len() - 1), 1 << (sequence % 64))
    }
}

#[cfg(test)]
mod tests;
