//! A queue whose orders order nothing, to see that loom finds it.

/// Loom's parts, and no order.
mod atomics {
    pub(super) use loom::cell::UnsafeCell as Cell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::AtomicUsize;

    pub(super) use super::super::planted::Ordering;
}

#[path = "queue.rs"]
#[allow(unreachable_pub, dead_code, reason = "the same file, compiled once more for the test below")]
mod queue;

#[test]
#[should_panic(expected = "Causality violation")]
fn a_queue_without_its_orders_is_found() {
    loom::model(|| {
        let (mut producer, mut consumer) = queue::queue(2);
        let thread = loom::thread::spawn(move || producer.push(1).is_ok());
        let _ = consumer.pop();
        let _ = thread.join();
    });
}
