//! Loops that are compiled a second and a third time for CPUs with wider vectors than the compiler may take for granted.
#![allow(unsafe_code)]

/// Bytes of a block: what the widest vectors add in one turn of the loop.
pub const BLOCK_BYTES: usize = 128;

/// The sum of 32-bit words in the machine's byte order.
#[inline]
#[must_use]
pub fn sum_words(blocks: &[[u8; BLOCK_BYTES]]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has what the function was compiled for.
            return unsafe { sum_words_avx512(blocks) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has what the function was compiled for.
            return unsafe { sum_words_avx2(blocks) };
        }
    }
    sum_words_anywhere(blocks)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_words_avx512(blocks: &[[u8; BLOCK_BYTES]]) -> u64 {
    sum_words_anywhere(blocks)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_words_avx2(blocks: &[[u8; BLOCK_BYTES]]) -> u64 {
    sum_words_anywhere(blocks)
}

/// One sum of 64 bits, which no packet can fill; a check for that would keep the compiler from using vectors, and so would lanes
/// written out.
#[inline(always)]
fn sum_words_anywhere(blocks: &[[u8; BLOCK_BYTES]]) -> u64 {
    let (words, _) = blocks.as_flattened().as_chunks::<4>();
    words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u32::from_ne_bytes(*word).into()))
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_BYTES, sum_words, sum_words_anywhere};

    #[test]
    fn every_way_gives_the_same_sum() {
        for count in 0..70 {
            let blocks: Vec<[u8; BLOCK_BYTES]> =
                (0..count).map(|block| std::array::from_fn(|at| (block * 89 + at * 37 + 200) as u8)).collect();
            let slow: u64 = blocks.as_flattened().chunks(4).map(|word| u64::from(u32::from_ne_bytes(word.try_into().expect("4")))).sum();
            assert_eq!(sum_words(&blocks), slow);
            assert_eq!(sum_words_anywhere(&blocks), slow);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: it was looked.
                assert_eq!(unsafe { super::sum_words_avx2(&blocks) }, slow);
            }
        }
    }
}
