//! A bounded ring for one producer and one consumer. Each side keeps its own index and a copy of the other's, which it reads
//! again only when the copy says full or empty: in a busy ring the two cores do not touch each other's cache lines for every item.
#![allow(unsafe_code)]

use crossbeam_utils::CachePadded;

use super::atomics::{Arc, AtomicUsize, Cell, Ordering};

struct Ring<T> {
    places: Box<[Cell<Option<T>>]>,
    /// The next place to take from; written by the consumer only.
    head: CachePadded<AtomicUsize>,
    /// The next place to put into; written by the producer only.
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: a place is touched by the producer only while `tail - head < places`, and by the consumer only while `head < tail`;
// the release store of one index and the acquire load of it by the other side order the two. `T` itself crosses threads.
unsafe impl<T: Send> Sync for Ring<T> {}
// SAFETY: as above; moving the ring moves the items.
unsafe impl<T: Send> Send for Ring<T> {}

/// The end that puts in.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    tail: usize,
    head_seen: usize,
}

/// The end that takes out.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    head: usize,
    tail_seen: usize,
}

impl<T> std::fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl<T> std::fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).finish_non_exhaustive()
    }
}

/// A ring for `places` items, rounded up to a power of two.
#[must_use]
pub fn queue<T>(places: usize) -> (Producer<T>, Consumer<T>) {
    let places = (0..places.next_power_of_two()).map(|_| Cell::new(None)).collect();
    let index = || CachePadded::new(AtomicUsize::new(0));
    let ring = Arc::new(Ring { places, head: index(), tail: index() });
    (Producer { ring: Arc::clone(&ring), tail: 0, head_seen: 0 }, Consumer { ring, head: 0, tail_seen: 0 })
}

impl<T> Producer<T> {
    /// Puts an item in.
    ///
    /// # Errors
    /// The item itself, if the ring is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        let place = self.tail & (self.ring.places.len() - 1);
        // SAFETY: `tail - head < places`, so the consumer is done with this place (its release of `head` was acquired) and does
        // not come back to it before `tail` is stored; there is one producer, because pushing needs `&mut self`.
        self.ring.places[place].with_mut(|place| unsafe { *place = Some(item) });
        self.tail = self.tail.wrapping_add(1);
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Whether the next item would find no place.
    pub fn is_full(&mut self) -> bool {
        let full = |producer: &Self| producer.tail.wrapping_sub(producer.head_seen) >= producer.ring.places.len();
        if full(self) {
            self.head_seen = self.ring.head.load(Ordering::Acquire);
        }
        full(self)
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest item out.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let place = self.head & (self.ring.places.len() - 1);
        // SAFETY: `head < tail`, so the producer is done with this place (its release of `tail` was acquired) and does not come
        // back to it before `head` is stored; there is one consumer, because popping needs `&mut self`.
        let item = self.ring.places[place].with_mut(|place| unsafe { (*place).take() });
        self.head = self.head.wrapping_add(1);
        self.ring.head.store(self.head, Ordering::Release);
        item
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail_seen {
            self.tail_seen = self.ring.tail.load(Ordering::Acquire);
        }
        self.head == self.tail_seen
    }
}
