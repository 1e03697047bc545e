//! Round trips: one datagram at a time there and back, so that nothing but the way itself is measured. Asking and answering thread
//! are preferred on their processors: beside a bulk stream they would otherwise wait milliseconds for its sender's turn to end, and
//! that time would be taken for the way's. Without the right to it (CAP_SYS_NICE) they wait as others do.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;

use crate::lab::Host;
use crate::sys;

/// How long an answer may take before it counts as lost.
const ANSWER: Duration = Duration::from_millis(250);

/// A plan for round trips.
#[derive(Clone, Debug)]
pub struct PingPong {
    /// Payload bytes, at least 8.
    pub size: usize,
    /// How long.
    pub duration: Duration,
    /// The pause between an answer and the next question; zero: none.
    pub pause: Duration,
}

impl Default for PingPong {
    fn default() -> Self {
        Self { size: 64, duration: Duration::from_secs(1), pause: Duration::ZERO }
    }
}

/// Round-trip times.
#[derive(Clone, Debug)]
pub struct Latency {
    /// In nanoseconds.
    pub times: Histogram<u64>,
    /// Questions without an answer in time.
    pub lost: u64,
}

impl Latency {
    /// A percentile in microseconds: 50.0 is the median, 100.0 the longest.
    #[must_use]
    pub fn micros(&self, percentile: f64) -> f64 {
        self.times.value_at_percentile(percentile) as f64 / 1000.0
    }

    /// Adds another run's times.
    ///
    /// # Errors
    /// Never in practice: all histograms here have one shape.
    pub fn add(&mut self, other: &Self) -> Result<()> {
        self.lost += other.lost;
        self.times.add(&other.times).context("histograms of different shapes")
    }
}

impl PingPong {
    /// Runs the plan: the first host asks, the second answers.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn run(&self, first: &Host, second: &Host) -> Result<Latency> {
        let (asking, answering) = (first.udp(0)?, second.udp(0)?);
        asking.connect(answering.local_addr()?)?;
        answering.connect(asking.local_addr()?)?;
        asking.set_read_timeout(Some(ANSWER))?;
        answering.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = sys::come_soon();
                let mut buffer = vec![0; 1 << 16];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(length) = answering.recv(&mut buffer) {
                        let _ = answering.send(&buffer[..length]); // an answer that is not sent is missed by the asker
                    }
                }
            });
            // A thread of its own, which is preferred: the caller goes on as it was.
            let asker = scope.spawn(|| {
                let _ = sys::come_soon();
                self.ask(&asking)
            });
            let outcome = asker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            stop.store(true, Ordering::Relaxed);
            outcome
        })
    }

    fn ask(&self, socket: &std::net::UdpSocket) -> Result<Latency> {
        let mut latency = Latency { times: Histogram::new(3)?, lost: 0 };
        let mut question = vec![0; self.size.max(8)];
        let mut answer = vec![0; 1 << 16];
        let start = Instant::now();
        let mut number = 0_u64;
        while start.elapsed() < self.duration {
            number += 1;
            question[..8].copy_from_slice(&number.to_le_bytes());
            let asked = Instant::now();
            if socket.send(&question).is_err() {
                latency.lost += 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            loop {
                match socket.recv(&mut answer) {
                    Ok(length) if answer.get(..length) == Some(&question[..]) => {
                        latency.times.record(asked.elapsed().as_nanos() as u64)?;
                        break;
                    }
                    Ok(_) => {} // an earlier question's answer, too late
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused) => {
                        latency.lost += 1;
                        break;
                    }
                    Err(error) => bail!("UDP receive: {error}"),
                }
                if asked.elapsed() > ANSWER {
                    latency.lost += 1;
                    break;
                }
            }
            if !self.pause.is_zero() {
                std::thread::sleep(self.pause);
            }
        }
        Ok(latency)
    }
}
