//! The replay window of an inbound SA: which sequence numbers were received, and what the high half of one must be.
//!
//! A ring of bits that is addressed by the number itself, after RFC 6479, so that moving the window clears words
//! instead of shifting them. Where RFC 6479 keeps one word spare and clears whole words, this one clears exactly the
//! bits between the old and the new top: the ring is as small as the window, and the window exactly as wide as asked.

use core::fmt;

use penstock_uapi::Drop;

/// The smallest window, in packets.
pub const BITS_MIN: u32 = 1 << 10;
/// The largest window: 8 KiB of bits.
pub const BITS_MAX: u32 = 1 << 16;

const WORD_BITS: u64 = u64::BITS as u64;

/// The window: it holds the numbers from `top - bits + 1` to `top`.
pub struct Window {
    /// Bit `n % 64` of word `n / 64 % words` tells whether `n` was received. The count of words is a power of two.
    words: Box<[u64]>,
    bits: u32,
    top: u64,
}

impl Window {
    /// An empty window of `bits` packets, clamped to [`BITS_MIN`] and [`BITS_MAX`] and rounded up to a multiple of 64.
    #[must_use]
    pub fn new(bits: u32) -> Self {
        let bits = bits.clamp(BITS_MIN, BITS_MAX).next_multiple_of(u64::BITS);
        let words = (bits / u64::BITS).next_power_of_two() as usize;
        Self { words: vec![0; words].into_boxed_slice(), bits, top: 0 }
    }

    /// How many numbers the window holds.
    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The highest number received, 0 before the first.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.top
    }

    /// The 64-bit number of a packet that shows `low`; `None` if it could only lie before the first or after the last
    /// number there is.
    // RFC 4303 appendix A2.2.
    #[inline]
    #[must_use]
    pub fn infer(&self, low: u32) -> Option<u64> {
        let (top_high, top_low) = ((self.top >> 32) as u32, self.top as u32);
        let bottom = top_low.wrapping_sub(self.bits - 1);
        let high = match (top_low >= self.bits - 1, low >= bottom) {
            // Case A: the window lies within one subspace; what is left of it must belong to the next.
            (true, true) => top_high,
            (true, false) => top_high.checked_add(1)?,
            // Case B: the window reaches back into the subspace before.
            (false, true) => top_high.checked_sub(1)?,
            (false, false) => top_high,
        };
        Some(u64::from(high) << 32 | u64::from(low))
    }

    /// Whether `number` is too old for this window to know.
    #[inline]
    #[must_use]
    pub fn is_left(&self, number: u64) -> bool {
        number == 0 || self.top.saturating_sub(number) >= u64::from(self.bits)
    }

    /// Finds the place of a number not yet received, and changes nothing. The place holds the window until it is
    /// committed or dropped, so what was checked is still true when it is committed.
    ///
    /// # Errors
    /// [`Drop::Replay`] if it was received, [`Drop::ReplayWindow`] if it lies left of the window. Number 0, which no
    /// sender uses (RFC 4303 section 3.3.3), always does.
    #[inline]
    pub fn check(&mut self, number: u64) -> Result<Slot<'_>, Drop> {
        if self.is_left(number) {
            return Err(Drop::ReplayWindow);
        }
        if number <= self.top && self.word(number).is_some_and(|word| *word & bit(number) != 0) {
            return Err(Drop::Replay);
        }
        Ok(Slot { window: self, number })
    }

    #[inline]
    fn word(&mut self, number: u64) -> Option<&mut u64> {
        let mask = self.words.len().wrapping_sub(1);
        self.words.get_mut((number / WORD_BITS) as usize & mask)
    }

    /// Makes `number` the top: every number between the old top and it has not been received.
    #[inline]
    fn advance(&mut self, number: u64) {
        let ring_bits = self.words.len() as u64 * WORD_BITS;
        if number - self.top >= ring_bits {
            self.words.fill(0);
        } else {
            self.clear(self.top + 1, number);
        }
        self.top = number;
    }

    /// Clears the bits of `first` to `last`, which are fewer than the ring holds.
    #[inline]
    fn clear(&mut self, first: u64, last: u64) {
        let mut from = first;
        loop {
            let word_last = from | (WORD_BITS - 1);
            let to = word_last.min(last);
            let mask = (u64::MAX << (from % WORD_BITS)) & (u64::MAX >> (WORD_BITS - 1 - to % WORD_BITS));
            if let Some(word) = self.word(from) {
                *word &= !mask;
            }
            if to == last {
                return;
            }
            from = to + 1;
        }
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window").field("bits", &self.bits).field("top", &self.top).finish_non_exhaustive()
    }
}

#[inline]
fn bit(number: u64) -> u64 {
    1 << (number % WORD_BITS)
}

/// The place of a number that was not received yet. Dropping it leaves the window as it is.
#[derive(Debug)]
#[must_use = "the number counts as received only after `commit`"]
pub struct Slot<'w> {
    window: &'w mut Window,
    number: u64,
}

impl Slot<'_> {
    /// Notes the number as received, and tells whether it is the new top. For authenticated packets only.
    #[inline]
    pub fn commit(self) -> bool {
        let newest = self.number > self.window.top;
        if newest {
            self.window.advance(self.number);
        }
        if let Some(word) = self.window.word(self.number) {
            *word |= bit(self.number);
        }
        newest
    }
}

#[cfg(test)]
mod tests;
