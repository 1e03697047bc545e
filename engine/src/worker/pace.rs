//! When to sleep. Waking a sleeping thread costs microseconds, polling costs a CPU: so a core polls for a bounded time after its
//! last work, and only as long as polling keeps finding some.

use std::time::{Duration, Instant};

/// How often polling has paid lately, from 0 to this.
const SCORE_MAX: u8 = 16;
/// With a score of 0, one pause in so many is polled through, to see whether it pays again.
const TRY_EVERY: u32 = 64;

/// The pace of one core.
#[derive(Debug)]
pub struct Pace {
    poll: Duration,
    worked: Instant,
    polling: bool,
    score: u8,
    pauses: u32,
}

impl Pace {
    /// Polls for at most `poll` before each sleep; zero sleeps at once.
    #[must_use]
    pub fn new(poll: Duration, now: Instant) -> Self {
        Self { poll, worked: now, polling: false, score: SCORE_MAX, pauses: 0 }
    }

    /// Work was done in this round.
    pub fn worked(&mut self, now: Instant) {
        if self.polling {
            self.score = (self.score + 2).min(SCORE_MAX);
            self.polling = false;
        }
        self.worked = now;
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
}
