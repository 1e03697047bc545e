//! What stands between the admin thread and one core: bounded queues both ways and a bell for each side. Neither ever waits for
//! a lock of the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use crate::handoff::mail::Parcel;
use crate::handoff::sleep::Sleep;
use crate::limits;
use crate::path::{Event, Order, Receive, Remains};
use crate::sys::wait::Bell;
use crate::tally::Tally;

/// What the admin thread asks of a core.
#[derive(Debug)]
pub enum Errand {
    /// An order; counted in [`Desk::done`] when it was carried out.
    Order(Order),
    /// Whether the TUN queue is to be read; counted like an order. That what was read before has left is said in [`Desk::quiet`].
    ReadTun(bool),
    /// Frames that control's own socket received.
    Inject(Box<Parcel>),
}

/// What a core must not free itself.
#[derive(Debug)]
pub enum Spent {
    /// What an order replaced or a time ended.
    Remains(Remains),
    /// An injected parcel.
    Parcel(Box<Parcel>),
}

/// An IKE message that came to a core.
#[derive(Debug)]
pub struct Letter {
    /// Where from and where to.
    pub receive: Option<Receive>,
    /// Its bytes, in the first [`Self::length`].
    pub bytes: Box<[u8]>,
    /// Bytes in use.
    pub length: usize,
}

/// One core's desk.
#[derive(Debug)]
pub struct Desk {
    /// From the admin thread.
    pub errands: ArrayQueue<Errand>,
    /// Orders carried out so far.
    pub done: AtomicU64,
    /// To the admin thread: events.
    pub events: ArrayQueue<Event>,
    /// To the admin thread: IKE messages.
    pub letters: ArrayQueue<Box<Letter>>,
    /// Letters to write the next ones in.
    pub blank_letters: ArrayQueue<Box<Letter>>,
    /// To the admin thread: what it is to free.
    pub spent: ArrayQueue<Spent>,
    /// Frames parked now.
    pub parked: AtomicU32,
    /// Packets that wait for an SA now.
    pub waiting: AtomicU32,
    /// The TUN queue is not read, and everything that was read of it has left.
    pub quiet: AtomicBool,
    /// Whether the core sleeps.
    pub sleep: Sleep,
    /// Whether it waits for its parcels to come back.
    pub starved: AtomicBool,
    /// What it sleeps on.
    pub bell: Bell,
    /// What the admin thread sleeps on.
    pub admin: Arc<Bell>,
    /// The core's counters.
    pub tally: Arc<Tally>,
}

impl Desk {
    /// An empty one.
    ///
    /// # Errors
    /// If there is no descriptor left for its bell.
    pub fn new(admin: Arc<Bell>) -> std::io::Result<Self> {
        let blank_letters = ArrayQueue::new(limits::LETTERS);
        for _ in 0..limits::LETTERS {
            let letter = Letter { receive: None, bytes: vec![0; limits::BUFFER_BYTES].into(), length: 0 };
            let _ = blank_letters.push(Box::new(letter));
        }
        Ok(Self {
            errands: ArrayQueue::new(limits::ERRANDS),
            done: AtomicU64::new(0),
            events: ArrayQueue::new(limits::EVENTS),
            letters: ArrayQueue::new(limits::LETTERS),
            blank_letters,
            spent: ArrayQueue::new(limits::SPENT),
            parked: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            quiet: AtomicBool::new(false),
            sleep: Sleep::default(),
            starved: AtomicBool::new(false),
            bell: Bell::new()?,
            admin,
            tally: Arc::default(),
        })
    }

    /// Gives the core something to do; it comes back if the queue is full.
    ///
    /// # Errors
    /// The errand itself.
    pub fn ask(&self, errand: Errand) -> Result<(), Errand> {
        self.errands.push(errand)?;
        self.wake();
        Ok(())
    }

    /// Wakes the core if it sleeps. To be called after something was put down for it.
    pub fn wake(&self) {
        if self.sleep.must_wake() {
            self.bell.ring();
        }
    }

    /// Whether the core waits for parcels. To be asked after some were given back.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        // Pairs with the fence of `Sleep::announce`: the core looks for parcels after it, we gave some back before.
        fence(Ordering::SeqCst);
        self.starved.load(Ordering::Relaxed)
    }

    /// Orders carried out so far.
    #[must_use]
    pub fn orders_done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }
}
