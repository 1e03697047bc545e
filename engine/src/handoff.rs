//! How cores and the admin thread hand things to each other without locks: a bounded ring with one producer and one consumer, and
//! a bell that wakes a sleeping consumer without ever losing a ring.
//!
//! ```text
//!   producer ── push ──► [ ring ] ── pop ──► consumer
//!       └─ notify: asleep? ── eventfd ──►──────┘
//! ```
//! Both are checked by loom over every order in which two threads can run; the tests compile the same files a second time
//! against loom's atomics.

#[cfg(test)]
#[allow(clippy::duplicate_mod, clippy::unsafe_removed_from_name, reason = "the same files a second time, against loom's parts")]
mod loomed;
#[cfg(test)]
#[allow(clippy::duplicate_mod, clippy::unsafe_removed_from_name, reason = "the queue once more, without its orders")]
mod loomed_planted;
pub mod mail;
#[cfg(test)]
#[allow(clippy::duplicate_mod, reason = "the queue once more, without its orders")]
mod planted;
pub mod queue;
pub mod sleep;

/// What the queue and the bell are made of; loom has its own.
mod atomics {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

    /// `UnsafeCell` with loom's face.
    #[derive(Debug)]
    pub(super) struct Cell<T>(std::cell::UnsafeCell<T>);

    impl<T> Cell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}
