//! When the state machine wants to be called. To know that it looks at every IKE SA and peer, which with thousands of them costs more than what
//! most events need: so after an event it is asked only once in a few milliseconds, and is called at most that much late.

use std::time::Duration;

use tokio::time::Instant;

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(5);

/// For when there is nothing to wait for.
const LONG: Duration = Duration::from_secs(3600);

/// What it said last.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    known: Option<Instant>,
    looked: Option<Instant>,
}

impl Deadline {
    /// When to wake up at the latest; `ask` asks it.
    pub(super) fn wake(&mut self, now: Instant, ask: impl FnOnce() -> Option<Instant>) -> Instant {
        match self.looked.map(|looked| looked + LOOK) {
            // What happened since may have brought an earlier one.
            Some(next) if now < next => self.known.map_or(next, |known| known.min(next)),
            _ => {
                (self.known, self.looked) = (ask(), Some(now));
                self.known.unwrap_or(now + LONG)
            }
        }
    }

    /// Whether its time has come. Then it is called, and asked anew.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.known.is_some_and(|known| known <= now);
        if due {
            *self = Self::default();
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Deadline, LONG, LOOK};

    #[test]
    fn it_is_asked_once_in_a_while_and_called_in_time() {
        let (mut deadline, start, mut asked) = (Deadline::default(), Instant::now(), 0);
        let at = |ms| start + Duration::from_millis(ms);
        let mut wake = |deadline: &mut Deadline, now, says| {
            deadline.wake(at(now), || {
                asked += 1;
                says
            })
        };
        assert_eq!(wake(&mut deadline, 0, Some(at(100))), at(100));
        // Events in between: looked at again after a moment, and no more often.
        for now in 1..5 {
            assert_eq!(wake(&mut deadline, now, None), start + LOOK);
        }
        assert_eq!(wake(&mut deadline, 5, Some(at(7))), at(7), "an event has brought an earlier one");
        assert_eq!(wake(&mut deadline, 6, None), at(7));
        assert!(!deadline.take_due(at(6)) && deadline.take_due(at(7)));
        // Called: asked at once, and not called again for what is over.
        assert_eq!(wake(&mut deadline, 7, None), at(7) + LONG);
        assert!(!deadline.take_due(at(8)));
        assert_eq!(asked, 3);
    }
}
