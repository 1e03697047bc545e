//! What flows carry: a pseudo-random stream of which every byte is known from the seed and its place. A table of random
//! words is repeated, each lap of it under another key: two loads and an exclusive-or a word, so that checking costs less
//! than the kernel's copy, and yet no two places of a stream that could be confused hold the same bytes.

/// Words in the table: 64 KiB, which stays in the second-level cache.
const TABLE_WORDS: usize = 8192;
const WORD_BYTES: u64 = 8;

/// A pseudo-random stream.
#[derive(Clone, Debug)]
pub struct Content {
    seed: u64,
    table: Box<[u64]>,
}

/// The output function of splitmix64: every bit of the input reaches every bit of the output.
pub(super) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Content {
    /// The stream of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, table: (0..TABLE_WORDS as u64).map(|word| mix(mix(seed).wrapping_add(word))).collect() }
    }

    fn lap_key(&self, lap: u64) -> u64 {
        mix(self.seed ^ lap.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }

    fn byte(&self, place: u64) -> u8 {
        let word = place / WORD_BYTES;
        let value = self.table[word as usize % TABLE_WORDS] ^ self.lap_key(word / TABLE_WORDS as u64);
        value.to_le_bytes()[(place % WORD_BYTES) as usize]
    }

    /// Calls `whole` for every run of whole words of one lap (the table's part, the lap's key, where the run begins in the
    /// buffer) and `single` for the bytes before and after them.
    fn pieces(&self, place: u64, length: usize, mut whole: impl FnMut(&[u64], u64, usize), mut single: impl FnMut(u8, usize)) {
        let head = length.min(place.wrapping_neg() as usize % WORD_BYTES as usize);
        (0..head).for_each(|at| single(self.byte(place + at as u64), at));
        let mut at = head;
        while length - at >= WORD_BYTES as usize {
            let word = (place + at as u64) / WORD_BYTES;
            let first = word as usize % TABLE_WORDS;
            let count = ((length - at) / WORD_BYTES as usize).min(TABLE_WORDS - first);
            whole(&self.table[first..first + count], self.lap_key(word / TABLE_WORDS as u64), at);
            at += count * WORD_BYTES as usize;
        }
        (at..length).for_each(|at| single(self.byte(place + at as u64), at));
    }

    /// Writes the stream's bytes from `place` on.
    pub fn fill(&self, place: u64, buffer: &mut [u8]) {
        let length = buffer.len();
        let buffer = std::cell::RefCell::new(buffer);
        self.pieces(
            place,
            length,
            |words, key, at| {
                let mut buffer = buffer.borrow_mut();
                for (to, word) in buffer[at..].as_chunks_mut::<8>().0.iter_mut().zip(words) {
                    *to = (word ^ key).to_le_bytes();
                }
            },
            |byte, at| buffer.borrow_mut()[at] = byte,
        );
    }

    /// The index of the first byte that is not the stream's at `place`, or `None` if all are.
    #[must_use]
    pub fn first_difference(&self, place: u64, buffer: &[u8]) -> Option<usize> {
        let mut difference = 0;
        let single = std::cell::Cell::new(0);
        self.pieces(
            place,
            buffer.len(),
            |words, key, at| {
                let pairs = buffer[at..].as_chunks::<8>().0.iter().zip(words);
                difference |= pairs.fold(0, |sum, (bytes, word)| sum | (u64::from_le_bytes(*bytes) ^ word ^ key));
            },
            |byte, at| single.set(single.get() | (byte ^ buffer[at])),
        );
        if difference == 0 && single.get() == 0 {
            return None;
        }
        (0..buffer.len()).find(|at| buffer[*at] != self.byte(place + *at as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::{Content, TABLE_WORDS, WORD_BYTES};

    #[test]
    fn any_cut_of_the_stream_is_the_same_stream() {
        let content = Content::new(7);
        let lap = TABLE_WORDS as u64 * WORD_BYTES;
        let start = lap - 1000;
        let mut whole = vec![0; 3000];
        content.fill(start, &mut whole);
        for (from, to) in [(0, 3000), (1, 9), (3, 3), (7, 2999), (995, 1010), (1000, 1001), (2991, 3000)] {
            let mut part = vec![0; to - from];
            content.fill(start + from as u64, &mut part);
            assert_eq!(part, whole[from..to], "{from}..{to}");
            assert_eq!(content.first_difference(start + from as u64, &part), None);
        }
    }

    #[test]
    fn one_flipped_bit_is_found_where_it_is() {
        let content = Content::new(8);
        let mut bytes = vec![0; 70_000];
        content.fill(5, &mut bytes);
        for at in [0, 2, 3, 4_000, 65_530, 65_531, 69_999] {
            bytes[at] ^= 0x10;
            assert_eq!(content.first_difference(5, &bytes), Some(at));
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn neither_a_lap_nor_a_seed_repeats() {
        let (content, other) = (Content::new(9), Content::new(10));
        let mut bytes = vec![0; 4096];
        content.fill(0, &mut bytes);
        assert!(content.first_difference(TABLE_WORDS as u64 * WORD_BYTES, &bytes).is_some());
        assert!(content.first_difference(1448, &bytes).is_some());
        assert!(other.first_difference(0, &bytes).is_some());
    }
}
