//! Faults on purpose, to see that the tools find them: the queue without its orders, an item read after it was freed, and a read beyond
//! the end. `cargo soundness` runs these first and goes on only if each is reported; nothing else runs the ignored ones.
#![allow(unsafe_code)]

/// Both orders that the queue asks for, taken away.
pub(super) struct Ordering;

#[allow(non_upper_case_globals, reason = "the names of the real orders")]
impl Ordering {
    pub(super) const Acquire: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;
    pub(super) const Release: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;
}

/// The parts of a queue without orders.
mod atomics {
    pub(super) use std::sync::Arc;
    pub(super) use std::sync::atomic::AtomicUsize;

    pub(super) use super::super::atomics::Cell;
    pub(super) use super::Ordering;
}

#[path = "queue.rs"]
#[allow(unreachable_pub, dead_code, reason = "the same file, compiled once more for the test below")]
mod disordered;

use super::queue::queue;

/// Items from one thread to another through a queue that fills.
fn passes(mut push: impl FnMut(u32) -> bool + Send + 'static, mut pop: impl FnMut() -> Option<u32>) {
    let thread = std::thread::spawn(move || {
        for item in 0..100 {
            while !push(item) {
                std::thread::yield_now();
            }
        }
    });
    for expected in 0..100 {
        let item = loop {
            match pop() {
                Some(item) => break item,
                None => std::thread::yield_now(),
            }
        };
        assert_eq!(item, expected);
    }
    thread.join().expect("the producer ends");
}

#[test]
fn items_pass_between_threads_in_order() {
    let (mut producer, mut consumer) = queue(2);
    passes(move |item| producer.push(item).is_ok(), || consumer.pop());
}

#[test]
#[ignore = "a planted fault"]
fn a_queue_without_its_orders() {
    let (mut producer, mut consumer) = disordered::queue(2);
    passes(move |item| producer.push(item).is_ok(), || consumer.pop());
}

#[test]
#[ignore = "a planted fault"]
fn an_item_read_after_it_was_freed() {
    let item = Box::new(std::hint::black_box(7_u8));
    let pointer: *const u8 = &raw const *item;
    drop(item);
    // SAFETY: none, it has been freed.
    std::hint::black_box(unsafe { pointer.read_volatile() });
}

#[test]
#[ignore = "a planted fault"]
fn a_read_beyond_the_end() {
    let items = vec![7_u8; std::hint::black_box(16)];
    let pointer = items.as_ptr().wrapping_add(16);
    // SAFETY: none, the last item is the one before.
    std::hint::black_box(unsafe { pointer.read_volatile() });
}
