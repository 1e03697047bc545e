//! A datagram every few milliseconds each way, numbered, so that one can say for how long nothing came.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use penstock_perf::lab::Host;

/// Between two datagrams.
const EVERY: Duration = Duration::from_millis(5);

/// What goes from one host to another.
#[derive(Debug)]
pub struct Trickle {
    stop: Arc<AtomicBool>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Trickle {
    /// Begins to send from `from` to `to`. The receiver says nothing.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn start(from: &Host, to: &Host) -> Result<Self> {
        let (sender, receiver) = (from.udp(0)?, to.udp(0)?);
        receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
        let (stop, arrivals) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let target = receiver.local_addr()?;
        let ends = Arc::clone(&stop);
        let sending = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                // A refusal is a loss like any other, and shows as one.
                let _ = sender.send_to(b"drop by drop", target);
                std::thread::sleep(EVERY);
            }
        });
        let (ends, noted) = (Arc::clone(&stop), Arc::clone(&arrivals));
        let receiving = std::thread::spawn(move || note(&receiver, &ends, &noted));
        Ok(Self { stop, arrivals, threads: vec![sending, receiving] })
    }

    /// How long after `moment` the first datagram came; `None` if none has come yet. One that was on its way counts for no more
    /// than its journey.
    ///
    /// # Panics
    /// If the receiver panicked.
    #[must_use]
    pub fn back_after(&self, moment: Instant) -> Option<Duration> {
        let arrivals = self.arrivals.lock().expect("the receiver has not panicked");
        // What was on its way at that moment is no sign of life.
        let settled = moment + Duration::from_millis(20);
        arrivals.iter().find(|arrival| **arrival > settled).map(|arrival| *arrival - moment)
    }

    /// Waits until datagrams come again after `moment`; how long after it they did.
    ///
    /// # Panics
    /// If none comes within `patience`; `what` says why that is wrong.
    pub fn wait_back(&self, moment: Instant, patience: Duration, what: impl Fn() -> String) -> Duration {
        loop {
            if let Some(after) = self.back_after(moment) {
                return after;
            }
            assert!(moment.elapsed() < patience, "nothing for {patience:?}: {}", what());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn note(receiver: &UdpSocket, ends: &AtomicBool, arrivals: &Mutex<Vec<Instant>>) {
    let mut buffer = [0; 64];
    while !ends.load(Ordering::Relaxed) {
        if receiver.recv(&mut buffer).is_ok() {
            arrivals.lock().expect("nobody panics with it").push(Instant::now());
        }
    }
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
