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
const TRIES: usize = 8;
/// How far above what arrived of a flood the search begins at most.
const ABOVE_FLOOD: f64 = 4.0;
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
    /// Datagrams, as fast as they can be sent.
    Flood {
        /// Payload bytes.
        bytes: u16,
        /// As super-packets: 64 datagrams a send (`UDP_SEGMENT`), taken merged by the receiver (`UDP_GRO`). Else one by one.
        super_packets: bool,
    },
    /// The highest rate of datagrams at which none is lost.
    NoLoss {
        /// Payload bytes.
        bytes: u16,
        /// As super-packets.
        super_packets: bool,
    },
    /// Round trips.
    RoundTrip {
        /// Beside a TCP stream.
        loaded: bool,
    },
    /// What the tunnel's processes use while nothing is sent.
    Idle,
}

/// What came of one measurement.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) values: BTreeMap<String, f64>,
    /// Bytes of payload that arrived, where cost per byte means something.
    pub(super) bytes: Option<u64>,
    /// Datagrams that arrived, where cost per datagram means something.
    pub(super) datagrams: Option<u64>,
    pub(super) histogram: Vec<(f64, u64)>,
}

impl Measure {
    /// All of them, in the order in which they are taken.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let tcp = [(1, false), (4, false), (8, false), (1, true), (4, true)].map(|(streams, reverse)| Self::Tcp { streams, reverse });
        let sizes = [(64, false), (256, false), (512, false), (1400, false), (64, true)];
        let flood = sizes.map(|(bytes, super_packets)| Self::Flood { bytes, super_packets });
        let no_loss = sizes.map(|(bytes, super_packets)| Self::NoLoss { bytes, super_packets });
        let trips = [false, true].map(|loaded| Self::RoundTrip { loaded });
        tcp.into_iter().chain(trips).chain(flood).chain(no_loss).chain([Self::Idle]).collect()
    }

    /// Its name, as `--only` takes it.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Tcp { streams, reverse } => format!("tcp-{streams}{}", if reverse { "-reversed" } else { "" }),
            Self::Flood { bytes, super_packets: false } => format!("udp-flood-{bytes}"),
            Self::Flood { bytes, super_packets: true } => format!("udp-uso-{bytes}"),
            Self::NoLoss { bytes, super_packets: false } => format!("udp-no-loss-{bytes}"),
            Self::NoLoss { bytes, super_packets: true } => format!("udp-uso-no-loss-{bytes}"),
            Self::RoundTrip { loaded: false } => "rtt-idle".into(),
            Self::RoundTrip { loaded: true } => "rtt-loaded".into(),
            Self::Idle => "cpu-idle".into(),
        }
    }

    /// The value that the table and the plots show first.
    #[must_use]
    pub fn headline(name: &str) -> &'static str {
        match name {
            "rtt-idle" => "rtt_p50_us",
            "rtt-loaded" => "rtt_p99_us",
            "cpu-idle" => "idle_core_share",
            _ if name.starts_with("udp") => "received_pps",
            _ => "goodput_gbps",
        }
    }

    /// Whether a larger headline is a better one.
    #[must_use]
    pub fn more_is_better(name: &str) -> bool {
        !name.starts_with("rtt") && name != "cpu-idle"
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
                    ("out_of_order", outcome.out_of_order() as f64),
                ];
                Ok(Outcome { values: named(values), bytes: Some(outcome.bytes()), ..Outcome::default() })
            }
            Self::Flood { bytes, super_packets } => {
                let outcome = datagrams(hosts, bytes, super_packets, 0.0, each)?;
                let (bytes, datagrams) = (Some(outcome.total.bytes), Some(outcome.total.received));
                Ok(Outcome { values: named(counts(&outcome)), bytes, datagrams, ..Outcome::default() })
            }
            Self::NoLoss { bytes, super_packets } => no_loss(hosts, bytes, super_packets, each, loss_max),
            Self::RoundTrip { loaded } => round_trips(hosts, each, loaded),
            Self::Idle => {
                std::thread::sleep(each);
                Ok(Outcome::default())
            }
        }
    }
}

fn named<const N: usize>(values: [(&str, f64); N]) -> BTreeMap<String, f64> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Datagrams in a super-packet.
const SEGMENTS: u16 = 64;
/// How long nothing may come before what is missing counts as lost: longer than any queue on the way holds a datagram.
const LINGER: Duration = Duration::from_millis(250);

fn datagrams(hosts: &[Host; 2], bytes: u16, super_packets: bool, rate: f64, duration: Duration) -> Result<UdpOutcome> {
    let segments = if super_packets { SEGMENTS } else { 1 };
    let plan = Udp { sizes: vec![bytes], segments, merge: super_packets, rate, duration, linger: LINGER, ..Udp::default() };
    plan.run(&hosts[0], &hosts[1])
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

/// Halves the range between a rate that lost nothing and one that did. It begins with what a flood was sent at, if that is not
/// far from what arrived of it: in a flood the generator takes the processors from the tunnel, which may carry more of less.
fn no_loss(hosts: &[Host; 2], bytes: u16, super_packets: bool, each: Duration, loss_max: f64) -> Result<Outcome> {
    let step = (each / 3).max(Duration::from_millis(200));
    let flood = datagrams(hosts, bytes, super_packets, 0.0, step)?;
    let (mut tried, mut all) = (0, flood.total.received);
    let mut best: Option<UdpOutcome> = None;
    search((flood.total.sent as f64 / flood.seconds).min(flood.rate() * ABOVE_FLOOD), |rate| {
        let outcome = datagrams(hosts, bytes, super_packets, rate, step)?;
        (tried, all) = (tried + 1, all + outcome.total.received);
        let well = outcome.total.lost as f64 <= loss_max * outcome.total.sent as f64;
        if well {
            best = Some(outcome);
        }
        Ok(well)
    })?;
    let mut values = best.as_ref().map(|outcome| named(counts(outcome))).unwrap_or_else(|| named([("received_pps", 0.0)]));
    values.insert("rates_tried".into(), f64::from(tried));
    Ok(Outcome { values, datagrams: Some(all), ..Outcome::default() })
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
        for name in ["tcp-4-reversed", "udp-no-loss-1400", "udp-uso-64", "udp-uso-no-loss-64", "cpu-idle"] {
            assert!(names.contains(name), "{name}");
        }
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
