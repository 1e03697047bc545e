//! The measures: what each does to two hosts, and which values come of it. The same load goes through a tunnel and beside
//! it, and nothing in here knows which of the two it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;

use crate::lab::Host;
use crate::load::{Direction, Latency, PingPong, Tcp, Udp, UdpOutcome};

/// Percentiles of round trips, and what their values are called.
pub(super) const PERCENTILES: [(f64, &str); 6] = [
    (50.0, "rtt_p50_us"),
    (90.0, "rtt_p90_us"),
    (99.0, "rtt_p99_us"),
    (99.9, "rtt_p99_9_us"),
    (99.99, "rtt_p99_99_us"),
    (100.0, "rtt_max_us"),
];
/// Rates that the search for one without loss tries, at most.
const TRIES: usize = 7;
/// The largest share of the last rate without loss that the search leaves open.
const NEAR: f64 = 0.03;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Bulk over TCP.
    Tcp {
        /// Connections.
        streams: usize,
        /// From right to left.
        reverse: bool,
    },
    /// Datagrams, as fast as they can be sent one by one.
    Flood {
        /// Payload bytes.
        bytes: u16,
    },
    /// The highest rate of datagrams at which none is lost.
    NoLoss {
        /// Payload bytes.
        bytes: u16,
    },
    /// Round trips.
    RoundTrip {
        /// Beside a TCP stream.
        loaded: bool,
    },
}

/// What came of one measurement.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) values: BTreeMap<String, f64>,
    /// Bytes of payload that arrived, where cost per byte means something.
    pub(super) bytes: Option<u64>,
    pub(super) histogram: Vec<(f64, u64)>,
}

impl Measure {
    /// All of them, in the order in which they are taken.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let tcp = [(1, false), (4, false), (1, true), (4, true)].map(|(streams, reverse)| Self::Tcp { streams, reverse });
        let sizes = [64, 256, 512, 1400];
        let flood = sizes.map(|bytes| Self::Flood { bytes });
        let no_loss = sizes.map(|bytes| Self::NoLoss { bytes });
        let trips = [false, true].map(|loaded| Self::RoundTrip { loaded });
        tcp.into_iter().chain(trips).chain(flood).chain(no_loss).collect()
    }

    /// Its name, as `--only` takes it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Tcp { streams, reverse } => format!("tcp-{streams}{}", if reverse { "-reversed" } else { "" }),
            Self::Flood { bytes } => format!("udp-flood-{bytes}"),
            Self::NoLoss { bytes } => format!("udp-no-loss-{bytes}"),
            Self::RoundTrip { loaded: false } => "rtt-idle".into(),
            Self::RoundTrip { loaded: true } => "rtt-loaded".into(),
        }
    }

    /// The value that the table and the plots show first.
    #[must_use]
    pub fn headline(name: &str) -> &'static str {
        match name {
            "rtt-idle" => "rtt_p50_us",
            "rtt-loaded" => "rtt_p99_us",
            _ if name.starts_with("udp") => "received_pps",
            _ => "goodput_gbps",
        }
    }

    pub(super) fn run(self, hosts: &[Host; 2], each: Duration, loss_max: f64) -> Result<Outcome> {
        let [left, right] = hosts;
        match self {
            Self::Tcp { streams, reverse } => {
                let direction = if reverse { Direction::Reverse } else { Direction::Forward };
                let outcome = Tcp { streams, duration: each, check: false, direction, ..Tcp::default() }.run(left, right)?;
                let values = [
                    ("goodput_gbps", outcome.gigabits()),
                    ("retransmits", outcome.retransmits() as f64),
                    ("retransmits_needless", outcome.needless() as f64),
                ];
                Ok(Outcome { values: named(values), bytes: Some(outcome.bytes()), ..Outcome::default() })
            }
            Self::Flood { bytes } => {
                let outcome = datagrams(hosts, bytes, 0.0, each)?;
                Ok(Outcome { values: named(counts(&outcome)), bytes: Some(outcome.total.bytes), ..Outcome::default() })
            }
            Self::NoLoss { bytes } => no_loss(hosts, bytes, each, loss_max),
            Self::RoundTrip { loaded } => round_trips(hosts, each, loaded),
        }
    }
}

fn named<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn datagrams(hosts: &[Host; 2], bytes: u16, rate: f64, duration: Duration) -> Result<UdpOutcome> {
    Udp { sizes: vec![bytes], rate, duration, linger: Duration::from_millis(400), ..Udp::default() }.run(&hosts[0], &hosts[1])
}

fn counts(outcome: &UdpOutcome) -> [(&'static str, f64); 6] {
    let total = &outcome.total;
    [
        ("sent_pps", total.sent as f64 / outcome.seconds),
        ("received_pps", outcome.rate()),
        ("lost", total.lost as f64),
        ("lost_share", total.lost as f64 / total.sent.max(1) as f64),
        ("reordered", total.reordered as f64),
        ("lost_in_generator", total.receiver_overflows as f64),
    ]
}

/// Halves the range between a rate that lost nothing and one that did, from a flood's rate down.
fn no_loss(hosts: &[Host; 2], bytes: u16, each: Duration, loss_max: f64) -> Result<Outcome> {
    let step = (each / 3).max(Duration::from_millis(200));
    let mut best: Option<UdpOutcome> = None;
    let mut tried = 0;
    search(datagrams(hosts, bytes, 0.0, step)?.rate() * 1.1, |rate| {
        let outcome = datagrams(hosts, bytes, rate, step)?;
        tried += 1;
        let well = outcome.total.lost as f64 <= loss_max * outcome.total.sent as f64;
        if well {
            best = Some(outcome);
        }
        Ok(well)
    })?;
    let mut values = best.as_ref().map(|outcome| named(counts(outcome))).unwrap_or_else(|| named([("received_pps", 0.0)]));
    values.insert("rates_tried".into(), f64::from(tried));
    let bytes = best.map(|outcome| outcome.total.bytes);
    Ok(Outcome { values, bytes, ..Outcome::default() })
}

/// Tries rates from `high` down until the highest that goes `well` is known to within [`NEAR`], or [`TRIES`] are used up.
/// Returns it, or 0 if none went well.
fn search(mut high: f64, mut well: impl FnMut(f64) -> Result<bool>) -> Result<f64> {
    let mut low = 0.0;
    let mut rate = high;
    for _ in 0..TRIES {
        if well(rate)? {
            low = rate;
        } else {
            high = rate;
        }
        if high - low <= NEAR * high {
            break;
        }
        rate = f64::midpoint(low, high);
    }
    Ok(low)
}

fn round_trips(hosts: &[Host; 2], each: Duration, loaded: bool) -> Result<Outcome> {
    // A pause between questions, so that the answer to each finds the machine as it is and not still warm from the last.
    let trips = PingPong { duration: each, pause: Duration::from_micros(200), ..PingPong::default() };
    let [left, right] = hosts;
    if !loaded {
        return Ok(of_trips(&trips.run(left, right)?));
    }
    let warm = Duration::from_millis(200);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let outcome = Tcp { duration: each + 2 * warm, check: false, ..Tcp::default() }.run(left, right);
            done.store(true, Ordering::Release);
            outcome
        });
        std::thread::sleep(warm);
        let latency = trips.run(left, right);
        let outlived = !done.load(Ordering::Acquire);
        let stream = load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let mut outcome = of_trips(&latency?);
        outcome.values.insert("goodput_gbps".into(), stream.gigabits());
        outcome.values.insert("loaded_throughout".into(), f64::from(u8::from(outlived)));
        Ok(outcome)
    })
}

fn of_trips(latency: &Latency) -> Outcome {
    let mut values: BTreeMap<String, f64> =
        PERCENTILES.iter().map(|(percentile, name)| ((*name).to_owned(), latency.micros(*percentile))).collect();
    values.insert("round_trips".into(), latency.times.len() as f64);
    values.insert("lost".into(), latency.lost as f64);
    let histogram = latency.times.iter_recorded().map(|bucket| (bucket.value_iterated_to() as f64 / 1000.0, bucket.count_at_value()));
    Outcome { values, histogram: histogram.collect(), ..Outcome::default() }
}

#[cfg(test)]
mod tests {
    use super::{Measure, search};

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::BTreeSet<String> = Measure::all().into_iter().map(Measure::name).collect();
        assert_eq!(names.len(), Measure::all().len());
        assert!(names.contains("tcp-4-reversed") && names.contains("udp-no-loss-1400"));
    }

    #[test]
    fn a_search_comes_near_the_edge_from_below() {
        for edge in [3_000.0, 70_000.0, 99_000.0] {
            let found = search(100_000.0, |rate| Ok(rate <= edge)).expect("nothing fails");
            assert!(found <= edge && found >= edge - 100_000.0 / 64.0, "{edge}: {found}");
        }
        assert!((search(500.0, |_| Ok(true)).expect("nothing fails") - 500.0).abs() < 1e-9);
        assert!(search(500.0, |_| Ok(false)).expect("nothing fails") < 1e-9);
    }
}
