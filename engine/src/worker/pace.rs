//! When to sleep, and how deep. Waking a sleeping thread costs microseconds, polling costs a CPU: so a core polls for a bounded time
//! after its last work, and only as long as polling keeps finding some. And where buffers come so often that each would wake it, it
//! sleeps for a bounded time whatever comes, and finds a batch then, as network cards do with their interrupts.

use std::time::{Duration, Instant};

/// How often polling has paid lately, from 0 to this.
const SCORE_MAX: u8 = 16;
/// With a score of 0, one pause in so many is polled through, to see whether it pays again.
const TRY_EVERY: u32 = 64;

/// Buffers that a sleep should gather: enough that what each wake-up costs is little to each of them.
const GATHER: u64 = 32;
/// The longest sleep to gather them, in nanoseconds: so much later can a packet be.
const GATHER_NS_MAX: u64 = 80_000;
/// Buffers that must be expected within that time for it to pay.
const GATHER_MIN: u64 = 2;
/// How often the rate of buffers is taken.
const RATE_EVERY: Duration = Duration::from_millis(1);
/// The largest buffer that costs less to move than a wake-up does.
const SMALL_BYTES: u64 = 4096;

/// How to sleep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sleep {
    /// The least time; zero: until anything comes.
    pub least: Duration,
    /// What comes meanwhile is many small buffers.
    pub many: bool,
}

/// The pace of one core.
#[derive(Debug)]
pub struct Pace {
    poll: Duration,
    worked: Instant,
    polling: bool,
    score: u8,
    pauses: u32,
    /// Buffers and their bytes since the rate was taken.
    came: u32,
    bytes: u64,
    since: Instant,
    /// Nanoseconds between buffers, lately; the longest there is when there were hardly any.
    apart_ns: u64,
    /// Those buffers were small.
    small: bool,
}

impl Pace {
    /// Polls for at most `poll` before each sleep; zero sleeps at once.
    #[must_use]
    pub fn new(poll: Duration, now: Instant) -> Self {
        Self {
            poll,
            worked: now,
            polling: false,
            score: SCORE_MAX,
            pauses: 0,
            came: 0,
            bytes: 0,
            since: now,
            apart_ns: u64::MAX,
            small: false,
        }
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
        // The rate is taken before a sleep, and a core that always has work may not come to that for days.
        self.came = self.came.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// How to sleep now.
    pub fn gather(&mut self, now: Instant) -> Sleep {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= RATE_EVERY {
            let elapsed = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            let came = u64::from(self.came);
            self.apart_ns = elapsed.checked_div(came).unwrap_or(u64::MAX);
            self.small = self.bytes <= came * SMALL_BYTES;
            (self.came, self.bytes, self.since) = (0, 0, now);
        }
        if self.apart_ns.saturating_mul(GATHER_MIN) > GATHER_NS_MAX {
            return Sleep::default();
        }
        Sleep { least: Duration::from_nanos((self.apart_ns * GATHER).min(GATHER_NS_MAX)), many: self.small }
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

    use super::{Pace, SCORE_MAX, Sleep, TRY_EVERY};

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
    fn buffers_that_come_often_are_slept_through() {
        let start = Instant::now();
        let after = |buffers: u32, bytes: usize| {
            let mut pace = Pace::new(Duration::ZERO, start);
            (0..buffers).for_each(|_| pace.came(bytes));
            pace.gather(start + Duration::from_millis(1))
        };
        let sleep = |least, many| Sleep { least: Duration::from_micros(least), many };
        assert_eq!(after(24, 100), sleep(0, false));
        assert_eq!(after(25, 100), sleep(80, true));
        assert_eq!(after(1000, 100), sleep(32, true));
        assert_eq!(after(25, 65_536), sleep(80, false));
        assert_eq!(after(0, 0), sleep(0, false));
    }

    #[test]
    fn a_core_that_never_sleeps_counts_on() {
        let start = Instant::now();
        let mut pace = Pace { came: u32::MAX, bytes: u64::MAX, ..Pace::new(Duration::ZERO, start) };
        pace.came(65_536);
        assert!(!pace.gather(start + Duration::from_secs(3600)).least.is_zero());
    }

    #[test]
    fn a_core_that_has_become_quiet_wakes_at_once_again() {
        let mut now = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, now);
        (0..1000).for_each(|_| pace.came(100));
        now += Duration::from_millis(1);
        assert!(!pace.gather(now).least.is_zero());
        // The rate is kept for a millisecond.
        assert!(!pace.gather(now + Duration::from_micros(500)).least.is_zero());
        pace.came(100);
        assert!(pace.gather(now + Duration::from_secs(1)).least.is_zero());
    }
}
