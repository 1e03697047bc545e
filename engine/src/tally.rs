//! What a core counts, and how others read it without stopping the core: one writer, no read-modify-write, and a version that is
//! odd while the writer publishes, so that a reader sees numbers of one moment whose sums hold.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use penstock_uapi::{Counter, Drop};

const COUNT: usize = Counter::COUNT + Drop::COUNT;

/// A core's published counters.
#[derive(Debug)]
pub struct Tally {
    version: AtomicU64,
    values: [AtomicU64; COUNT],
}

impl Default for Tally {
    fn default() -> Self {
        Self { version: AtomicU64::new(0), values: [const { AtomicU64::new(0) }; COUNT] }
    }
}

/// Counters and drops of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In the order of [`Counter::ALL`].
    pub counters: [u64; Counter::COUNT],
    /// In the order of [`Drop::ALL`].
    pub drops: [u64; Drop::COUNT],
}

impl Default for Moment {
    fn default() -> Self {
        Self { counters: [0; Counter::COUNT], drops: [0; Drop::COUNT] }
    }
}

impl Moment {
    /// Counts.
    pub fn add(&mut self, counter: Counter, amount: u64) {
        let value = &mut self.counters[counter.index()];
        *value = value.wrapping_add(amount);
    }

    /// Counts packets that died.
    pub fn drop(&mut self, reason: Drop, packets: u64) {
        let value = &mut self.drops[reason.index()];
        *value = value.wrapping_add(packets);
    }

    /// A counter.
    #[must_use]
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter.index()]
    }

    /// A drop reason.
    #[must_use]
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.drops[reason.index()]
    }
}

impl Tally {
    /// Makes `moment` visible. Called by the one thread that counts.
    pub fn publish(&self, moment: &Moment) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (value, new) in self.values.iter().zip(moment.counters.iter().chain(&moment.drops)) {
            value.store(*new, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The numbers of the last moment published.
    #[must_use]
    pub fn read(&self) -> Moment {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let mut moment = Moment::default();
            for (new, value) in moment.counters.iter_mut().chain(&mut moment.drops).zip(&self.values) {
                *new = value.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && before == self.version.load(Ordering::Relaxed) {
                return moment;
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use penstock_uapi::{Counter, Drop};

    use super::{Moment, Tally};

    #[test]
    fn a_reader_never_sees_half_a_moment() {
        let tally = Arc::new(Tally::default());
        let writer = Arc::clone(&tally);
        let thread = std::thread::spawn(move || {
            let mut moment = Moment::default();
            for _ in 0..50_000 {
                moment.add(Counter::TunReads, 1);
                moment.drop(Drop::TunRefused, 1);
                writer.publish(&moment);
            }
        });
        while !thread.is_finished() {
            let moment = tally.read();
            assert_eq!(moment.counter(Counter::TunReads), moment.dropped(Drop::TunRefused));
        }
        thread.join().expect("the writer ends");
        assert_eq!(tally.read().counter(Counter::TunReads), 50_000);
    }
}
