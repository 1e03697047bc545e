//! The receiver's judgement of one flow of numbered datagrams: how many are lost, came twice, came late or are damaged.
//! A bitmap holds every number, so the counts are exact and not estimates from gaps.
//!
//! ```text
//!   0        8       16     20      24
//!   | number | time  | flow | check | content of that place …
//! ```
//! A datagram too short for the header is known by its length alone: such ones are counted by length, and their bytes are
//! the content of place 0. Then a loss or a duplicate is still counted, but order is not seen.

use super::content::{Content, mix};

/// The length of the header.
pub const HEADER_BYTES: usize = 24;
/// Content is taken from `number` times this, so that neighbours share nothing.
const STEP_BYTES: u64 = 65_536 + 8;

/// What a flow's datagrams are like, and which of them have come.
#[derive(Debug)]
pub struct Checker {
    content: Content,
    flow: u32,
    sizes: Vec<u16>,
    run: u64,
    seen: Vec<u64>,
    next: u64,
    short: Vec<u64>,
    verdict: Verdict,
}

/// What became of a flow's datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Sent.
    pub sent: u64,
    /// Received whole, each number counted once.
    pub received: u64,
    /// Never received whole.
    pub lost: u64,
    /// Received again.
    pub duplicate: u64,
    /// Received after one with a higher number.
    pub reordered: u64,
    /// Received damaged: wrong length, flow, number or content. Such a one counts as lost too.
    pub corrupt: u64,
    /// Bytes of UDP payload received whole.
    pub bytes: u64,
    /// Thrown away because the *generator's* receiver was too slow; part of `lost`, and not the tunnel's doing.
    pub receiver_overflows: u64,
}

impl Verdict {
    /// Whether every datagram came exactly once, in order and undamaged.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.received == self.sent && self.lost + self.duplicate + self.reordered + self.corrupt == 0
    }

    /// Adds another flow's counts.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.bytes += other.bytes;
        self.receiver_overflows += other.receiver_overflows;
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, received, lost, duplicate, reordered, corrupt, receiver_overflows, .. } = self;
        write!(f, "{sent} sent, {received} received, {lost} lost, {duplicate} twice, {reordered} late, {corrupt} damaged")?;
        if *receiver_overflows > 0 {
            write!(f, " ({receiver_overflows} of the lost at the generator's own receiver)")?;
        }
        Ok(())
    }
}

/// Writes datagram `number` of a flow over the whole of `datagram`, whose length is the datagram's.
pub fn stamp(content: &Content, flow: u32, number: u64, time: u64, datagram: &mut [u8]) {
    let length = datagram.len();
    let Some((header, rest)) = datagram.split_at_mut_checked(HEADER_BYTES) else {
        return content.fill(0, datagram);
    };
    header[..8].copy_from_slice(&number.to_le_bytes());
    header[8..16].copy_from_slice(&time.to_le_bytes());
    header[16..20].copy_from_slice(&flow.to_le_bytes());
    header[20..].copy_from_slice(&check(flow, number, time, length).to_le_bytes());
    content.fill(number.wrapping_mul(STEP_BYTES), rest);
}

fn check(flow: u32, number: u64, time: u64, length: usize) -> u32 {
    (mix(mix(number ^ (u64::from(flow) << 32)) ^ mix(time) ^ length as u64) >> 32) as u32
}

/// The length of datagram `number`: each of `sizes` in turn, `run` datagrams long.
pub(super) fn size_of_number(sizes: &[u16], run: u64, number: u64) -> usize {
    sizes.get((number / run.max(1)) as usize % sizes.len().max(1)).copied().unwrap_or_default().into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl Checker {
    /// For a flow whose datagrams have each of these `sizes` in turn, `run` of them at a time.
    #[must_use]
    pub fn new(content: Content, flow: u32, sizes: &[u16], run: u64) -> Self {
        let (sizes, short) = (sizes.to_vec(), vec![0; HEADER_BYTES]);
        Self { content, flow, sizes, run, seen: Vec::new(), next: 0, short, verdict: Verdict::default() }
    }

    /// Takes one datagram as it was received. Returns the time in its header, if it is whole, new and has one.
    pub fn take(&mut self, datagram: &[u8]) -> Option<u64> {
        if datagram.len() < HEADER_BYTES {
            self.take_short(datagram);
            return None;
        }
        let (number, time) = (u64_at(datagram, 0), u64_at(datagram, 8));
        let right_header = u32_at(datagram, 16) == self.flow
            && u32_at(datagram, 20) == check(self.flow, number, time, datagram.len())
            && datagram.len() == size_of_number(&self.sizes, self.run, number);
        let whole = right_header && self.content.first_difference(number.wrapping_mul(STEP_BYTES), &datagram[HEADER_BYTES..]).is_none();
        if !whole {
            self.verdict.corrupt += 1;
            return None;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if self.seen[word] & bit != 0 {
            self.verdict.duplicate += 1;
            return None;
        }
        self.seen[word] |= bit;
        if number < self.next {
            self.verdict.reordered += 1;
        }
        self.next = self.next.max(number + 1);
        self.verdict.received += 1;
        self.verdict.bytes += datagram.len() as u64;
        Some(time)
    }

    fn take_short(&mut self, datagram: &[u8]) {
        let expected = self.sizes.iter().any(|size| usize::from(*size) == datagram.len());
        if !expected || self.content.first_difference(0, datagram).is_some() {
            self.verdict.corrupt += 1;
        } else if let Some(count) = self.short.get_mut(datagram.len()) {
            *count += 1;
            self.verdict.received += 1;
            self.verdict.bytes += datagram.len() as u64;
        }
    }

    /// Whether there is nothing to wait for: as many have come as were sent.
    pub(super) fn is_complete(&self, sent: u64) -> bool {
        self.verdict.received >= sent
    }

    /// The judgement, given that numbers 0 to `sent` - 1 were sent.
    #[must_use]
    pub fn verdict(&self, sent: u64) -> Verdict {
        let mut verdict = Verdict { sent, ..self.verdict };
        let mut short_sent = [0; HEADER_BYTES];
        let any_short = self.sizes.iter().any(|size| usize::from(*size) < HEADER_BYTES);
        for number in (0..sent).filter(|_| any_short) {
            if let Some(count) = short_sent.get_mut(size_of_number(&self.sizes, self.run, number)) {
                *count += 1;
            }
        }
        for (size, (&sent, &received)) in (0..).zip(short_sent.iter().zip(&self.short)) {
            let again = u64::saturating_sub(received, sent);
            verdict.duplicate += again;
            verdict.received -= again;
            verdict.bytes -= again * size;
        }
        verdict.lost = sent.saturating_sub(verdict.received);
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::{Checker, HEADER_BYTES, Verdict, size_of_number, stamp};
    use crate::load::Content;

    const SIZES: [u16; 5] = [100, 1400, 24, 0, 7];

    fn datagrams(count: u64) -> Vec<Vec<u8>> {
        let content = Content::new(3);
        let make = |number| {
            let mut datagram = vec![0; size_of_number(&SIZES, 1, number)];
            stamp(&content, 5, number, 1_000 + number, &mut datagram);
            datagram
        };
        (0..count).map(make).collect()
    }

    fn judge(received: &[Vec<u8>], sent: u64) -> Verdict {
        let mut checker = Checker::new(Content::new(3), 5, &SIZES, 1);
        for datagram in received {
            checker.take(datagram);
        }
        checker.verdict(sent)
    }

    #[test]
    fn all_in_order_is_perfect() {
        let verdict = judge(&datagrams(1000), 1000);
        assert!(verdict.is_perfect(), "{verdict}");
        assert_eq!(verdict.bytes, 200 * (100 + 1400 + 24 + 7));
    }

    #[test]
    fn each_fault_is_counted_once_and_as_what_it_is() {
        for victim in [0, 1, 2, 995, 996, 3, 4, 998, 999] {
            let tiny = datagrams(1000)[victim].len() < HEADER_BYTES;
            let mut lost = datagrams(1000);
            lost.remove(victim);
            assert_eq!((judge(&lost, 1000).lost, judge(&lost, 1000).reordered), (1, 0));

            let mut twice = datagrams(1000);
            twice.push(twice[victim].clone());
            assert_eq!(judge(&twice, 1000), Verdict { duplicate: 1, ..judge(&datagrams(1000), 1000) });

            let mut late = datagrams(1005);
            let moved = late.remove(victim);
            late.push(moved);
            let expected = if tiny { 0 } else { 1 };
            assert_eq!(judge(&late, 1005), Verdict { reordered: expected, ..judge(&datagrams(1005), 1005) });
        }
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        for victim in [0, 1, 2, 4] {
            for at in 0..datagrams(5)[victim].len() {
                let mut damaged = datagrams(5);
                damaged[victim][at] ^= 1;
                let verdict = judge(&damaged, 5);
                assert_eq!((verdict.corrupt, verdict.lost, verdict.received), (1, 1, 4), "byte {at} of datagram {victim}");
            }
        }
    }

    #[test]
    fn a_wrong_length_is_noticed() {
        for (victim, length) in [(0, 99), (0, 101), (1, 100), (2, 23), (4, 6), (3, 1)] {
            let mut damaged = datagrams(5);
            damaged[victim].resize(length, 0);
            assert_eq!(judge(&damaged, 5).corrupt, 1, "datagram {victim} with {length} bytes");
        }
    }
}
