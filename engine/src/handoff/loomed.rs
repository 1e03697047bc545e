//! The queue and the bell under loom, which runs them in every order that the memory model allows.

/// Loom's parts under the names that the files ask for.
mod atomics {
    pub(super) use loom::cell::UnsafeCell as Cell;
    pub(super) use loom::sync::Arc;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

#[path = "queue.rs"]
#[allow(unreachable_pub, dead_code, reason = "the same file, compiled a second time for the tests below")]
mod queue;
#[path = "sleep.rs"]
#[allow(unreachable_pub, dead_code, reason = "the same file, compiled a second time for the tests below")]
mod sleep;

use loom::sync::{Arc, Condvar, Mutex};

use self::queue::queue;
use self::sleep::Sleep;

/// Every order with at most three switches that no thread asked for; more of them find nothing new and take minutes.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

#[test]
fn items_arrive_once_and_in_order_through_a_ring_that_fills() {
    model(|| {
        // Two places and three items: the ring is full and empty and goes round.
        let (mut producer, mut consumer) = queue(2);
        let thread = loom::thread::spawn(move || {
            for item in 0..3 {
                while let Err(_full) = producer.push(item) {
                    loom::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < 3 {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                None => loom::thread::yield_now(),
            }
        }
        assert!(consumer.pop().is_none());
        thread.join().expect("the producer ends");
    });
}

#[test]
fn what_is_left_in_a_ring_is_dropped_once() {
    model(|| {
        let (mut producer, mut consumer) = queue(2);
        let item = Arc::new(());
        let held = Arc::clone(&item);
        let thread = loom::thread::spawn(move || producer.push(held).is_ok());
        let taken = consumer.pop();
        assert!(thread.join().expect("the producer ends"));
        drop((taken, consumer));
        assert_eq!(Arc::strong_count(&item), 1);
    });
}

/// An eventfd: it stays rung until somebody hears it.
struct Bell(Mutex<bool>, Condvar);

#[test]
fn no_wake_up_is_lost() {
    model(|| {
        let (mut producer, mut consumer) = queue(2);
        let sleep = Arc::new(Sleep::default());
        let bell = Arc::new(Bell(Mutex::new(false), Condvar::new()));
        let (their_sleep, their_bell) = (Arc::clone(&sleep), Arc::clone(&bell));
        let thread = loom::thread::spawn(move || {
            for item in 0..2 {
                assert!(producer.push(item).is_ok());
                if their_sleep.must_wake() {
                    *their_bell.0.lock().expect("the lock") = true;
                    their_bell.1.notify_one();
                }
            }
        });
        let mut seen = 0;
        while seen < 2 {
            if consumer.pop().is_some() {
                seen += 1;
                continue;
            }
            sleep.announce();
            if consumer.is_empty() {
                // Loom reports a deadlock if this waits for a ring that never comes.
                let mut rung = bell.0.lock().expect("the lock");
                while !*rung {
                    rung = bell.1.wait(rung).expect("the lock");
                }
                *rung = false;
            }
            sleep.end();
        }
        thread.join().expect("the producer ends");
    });
}
