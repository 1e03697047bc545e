//! Who sleeps says so first and then looks once more; who brings something puts it down first and then looks whether somebody
//! sleeps. A full fence between the two steps on both sides makes it impossible that both look before the other has acted, so
//! no wake-up is lost, and a consumer that is awake costs its producers one load.

use super::atomics::{AtomicBool, Ordering, fence};

/// Whether a consumer sleeps, or is about to.
#[derive(Debug)]
pub struct Sleep(AtomicBool);

impl Default for Sleep {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl Sleep {
    /// The consumer announces that it will sleep. It must look at all its queues after this, and sleep only if they are empty.
    pub fn announce(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The consumer is awake.
    pub fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// A producer has put something down; `true` if it must ring. Of several producers one is told to.
    pub fn must_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) && self.0.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Whether the consumer sleeps, for those who only show it.
    pub fn is_asleep(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
