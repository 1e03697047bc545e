//! When to sleep, and how deep. Waking a sleeping thread costs microseconds, polling costs a CPU: so a core polls for a bounded time
//! after its last work, and only as long as polling keeps finding some. And where small packets come so often that each would wake
//! it, it sleeps for a bounded time whatever comes, and finds a batch then, as network cards do with their interrupts.

use std::time::{Duration, Instant};

/// How often polling has paid lately, from 0 to this.
const SCORE_MAX: u8 = 16;
/// With a score of 0, one pause in so many is polled through, to see whether it pays again.
const TRY_EVERY: u32 = 64;

/// Small buffers that a sleep should gather: enough that what each wake-up costs is little to each of them.
const GATHER: u64 = 32;
/// The longest sleep to gather them, in nanoseconds: so much later can a packet be.
const GATHER_NS_MAX: u64 = 100_000;
/// Buffers that must be expected within that time for it to pay.
const GATHER_MIN: u64 = 4;
/// How often the rate of small buffers is taken.
const RATE_EVERY: Duration = Duration::from_millis(1);
/// The largest buffer that costs less to move than a wake-up does.
const SMALL_BYTES: usize = 4096;

/// The pace of one core.
#[derive(Debug)]
pub struct Pace {
    poll: Duration,
    worked: Instant,
    polling: bool,
    score: u8,
    pauses: u32,
    /// Small buffers since the rate was taken.
    small: u32,
    since: Instant,
    /// Nanoseconds between small buffers, lately; the longest there is when there were hardly any.
    apart_ns: u64,
}

impl Pace {
    /// Polls for at most `poll` before each sleep; zero sleeps at once.
    #[must_use]
    pub fn new(poll: Duration, now: Instant) -> Self {
        Self { poll, worked: now, polling: false, score: SCORE_MAX, pauses: 0, small: 0, since: now, apart_ns: u64::MAX }
    }

    /// Work was done in this round.
    pub fn worked(&mut self, now: Instant) {
        if self.polling {
            self.score = (self.score + 2).min(SCORE_MAX);
            self.polling = false;
        }
        self.worked = now;
    }

    /// A buffer of so many bytes came.
    pub fn came(&mut self, bytes: usize) {
        self.small += u32::from(bytes <= SMALL_BYTES);
    }

    /// The least time to sleep now; zero: until anything comes.
    pub fn gather(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= RATE_EVERY {
            let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            self.apart_ns = elapsed.checked_div(self.small.into()).unwrap_or(u64::MAX);
            (self.small, self.since) = (0, now);
        }
        if self.apart_ns.saturating_mul(GATHER_MIN) > GATHER_NS_MAX {
            return Duration::ZERO;
        }
        Duration::from_nanos((self.apart_ns * GATHER).min(GATHER_NS_MAX))
    }

    /// Whether to sleep now, rather than look once more.
    pub fn may_sleep(&mut self, now: Instant) -> bool {
        if self.poll.is_zero() {
            return true;
        }
        if !self.polling {
            self.pauses = self.pauses.wrapping_add(1);
            if self.score == 0 && !self.pauses.is_multiple_of(TRY_EVERY) {
                return true;
            }
            self.polling = true;
        }
        if now.saturating_duration_since(self.worked) < self.poll {
            return false;
        }
        self.polling = false;
        self.score = self.score.saturating_sub(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Pace, SCORE_MAX, TRY_EVERY};

    const POLL: Duration = Duration::from_micros(50);

    #[test]
    fn polls_for_its_time_and_then_sleeps() {
        let start = Instant::now();
        let mut pace = Pace::new(POLL, start);
        assert!(!pace.may_sleep(start) && !pace.may_sleep(start + POLL / 2));
        assert!(pace.may_sleep(start + POLL));
        assert!(Pace::new(Duration::ZERO, start).may_sleep(start));
    }

    #[test]
    fn stops_polling_that_finds_nothing_and_tries_again_now_and_then() {
        let mut now = Instant::now();
        let mut pace = Pace::new(POLL, now);
        let mut pause = |pace: &mut Pace, after: Duration| {
            now += Duration::from_secs(1);
            pace.worked(now);
            let polled = !pace.may_sleep(now);
            now += after;
            if polled && after >= POLL {
                assert!(pace.may_sleep(now));
            }
            polled
        };
        for _ in 0..SCORE_MAX {
            assert!(pause(&mut pace, POLL));
        }
        let polled = (0..TRY_EVERY * 4).filter(|_| pause(&mut pace, POLL)).count();
        assert_eq!(polled, 4);
        // Work that comes soon makes it poll again.
        let first = (0..TRY_EVERY).position(|_| pause(&mut pace, POLL / 2)).expect("one is tried");
        assert!(first < TRY_EVERY as usize);
        assert!(pause(&mut pace, POLL / 2) && pause(&mut pace, POLL / 2));
    }

    #[test]
    fn many_small_buffers_are_slept_through_and_few_or_large_ones_are_not() {
        let start = Instant::now();
        let after = |buffers: u32, bytes: usize| {
            let mut pace = Pace::new(Duration::ZERO, start);
            (0..buffers).for_each(|_| pace.came(bytes));
            pace.gather(start + Duration::from_millis(1))
        };
        assert_eq!(after(39, 100), Duration::ZERO);
        assert_eq!(after(40, 100), Duration::from_micros(100));
        assert_eq!(after(1000, 100), Duration::from_micros(32));
        assert_eq!(after(1000, 65_536), Duration::ZERO);
        assert_eq!(after(0, 0), Duration::ZERO);
    }

    #[test]
    fn a_core_that_has_become_quiet_wakes_at_once_again() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, now);
        (0..1000).for_each(|_| pace.came(100));
        now += Duration::from_millis(1);
        assert!(!pace.gather(now).is_zero());
        // The rate is kept for a millisecond.
        assert!(!pace.gather(now + Duration::from_micros(500)).is_zero());
        pace.came(100);
        assert!(pace.gather(now + Duration::from_secs(1)).is_zero());
    }
}
