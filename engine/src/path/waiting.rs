//! Packets that came before there was an SA for them: the first ones of a tunnel that is made on demand, or of one whose pair has
//! just gone. They wait a bounded time in bounded room that was made at the start.

/// The most bytes that wait on one core.
const BYTES_MAX: usize = 512 * 1024;
/// The most reads that wait on one core, and for one policy: a peer that is down for good does not take the others' room.
const READS_MAX: usize = 128;
const READS_PER_POLICY_MAX: usize = 32;
/// The most bytes that wait for one policy: a super-packet and to spare.
const BYTES_PER_POLICY_MAX: usize = 128 * 1024;
/// The longest time that a packet waits. Its sender has given it up, or sent it again, by then.
pub(super) const WAITING_MS_MAX: u64 = 1_000;

/// One read of the TUN queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    /// The policy that held it, by number.
    policy: u32,
    at: usize,
    length: usize,
    /// When it came.
    pub(super) since_ms: u64,
    /// How many packets it stands for.
    pub(super) packets: u64,
}

/// All of a core. The default one has no room.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: Box<[u8]>,
    waiters: Vec<Waiter>,
    used: usize,
    /// Something has changed that some of them may have waited for.
    pub(super) woken: bool,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; BYTES_MAX].into(), waiters: Vec::with_capacity(READS_MAX), used: 0, woken: false }
    }

    /// Keeps a read, or says that there is no room.
    pub(super) fn keep(&mut self, now_ms: u64, policy: u32, packets: u64, read: &[u8]) -> bool {
        let same = self.waiters.iter().filter(|waiter| waiter.policy == policy);
        let (reads, bytes) = same.fold((0, 0), |(reads, bytes), waiter| (reads + 1, bytes + waiter.length));
        let full = self.waiters.len() >= READS_MAX || reads >= READS_PER_POLICY_MAX || bytes + read.len() > BYTES_PER_POLICY_MAX;
        let Some(place) = self.bytes.get_mut(self.used..self.used + read.len()).filter(|_| !full) else { return false };
        place.copy_from_slice(read);
        self.waiters.push(Waiter { policy, at: self.used, length: read.len(), since_ms: now_ms, packets });
        self.used += read.len();
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many packets wait.
    pub(super) fn packets(&self) -> u64 {
        self.waiters.iter().map(|waiter| waiter.packets).sum()
    }

    /// Shows each read in its order; the ones for which `gone` says so wait no longer.
    pub(super) fn sift(&mut self, mut gone: impl FnMut(&Waiter, &mut [u8]) -> bool) {
        let Self { bytes, waiters, used, .. } = self;
        *used = 0;
        waiters.retain_mut(|waiter| {
            let (from, to) = (waiter.at, waiter.at + waiter.length);
            if bytes.get_mut(from..to).is_none_or(|read| gone(waiter, read)) {
                return false;
            }
            bytes.copy_within(from..to, *used);
            waiter.at = *used;
            *used += waiter.length;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES_MAX, READS_MAX, READS_PER_POLICY_MAX, Waiting};

    #[test]
    fn what_waits_keeps_its_order_and_its_bytes_when_others_go() {
        let mut waiting = Waiting::new();
        for number in 0..20u8 {
            assert!(waiting.keep(0, u32::from(number % 2), 1, &vec![number; 100 + usize::from(number)]));
        }
        for round in 0..3u8 {
            let mut seen = Vec::new();
            waiting.sift(|_, read| {
                assert!(read.iter().all(|byte| *byte == read[0]) && read.len() == 100 + usize::from(read[0]));
                seen.push(read[0]);
                read[0] % 3 == round
            });
            assert!(seen.is_sorted(), "{seen:?}");
        }
        assert!(waiting.is_empty() && waiting.used == 0);
    }

    #[test]
    fn no_policy_takes_all_the_room_and_all_of_it_is_bounded() {
        let mut waiting = Waiting::new();
        let kept = (0..1000).filter(|_| waiting.keep(0, 1, 1, &[0; 40])).count();
        assert_eq!(kept, READS_PER_POLICY_MAX);
        assert!(waiting.keep(0, 2, 1, &[0; 40]), "another one has room");
        let kept = (3..1000).filter(|policy| waiting.keep(0, *policy, 1, &[0; 40])).count();
        assert_eq!(kept, READS_MAX - READS_PER_POLICY_MAX - 1);
        assert_eq!(waiting.packets(), READS_MAX as u64);

        let mut large = Waiting::new();
        let kept = (0..1000).filter(|number| large.keep(0, number % 50, 44, &[0; 65_000])).count();
        assert_eq!(kept, BYTES_MAX / 65_000);
        let mut one = Waiting::new();
        assert_eq!((0..9).filter(|_| one.keep(0, 7, 44, &[0; 65_000])).count(), 2);
    }
}
