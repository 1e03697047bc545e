//! Hours of traffic, and what grows meanwhile: memory, descriptors, threads, round trips, losses.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::compare::{Subject, Tunnel, slope};
use crate::lab::WireOptions;
use crate::lab::name_of;
use crate::load::{Direction, PingPong, Tcp, Udp};

/// Datagrams a second each way: enough to keep every queue in use, little enough that a busy machine loses none.
const RATE: f64 = 2_000.0;
/// The largest payload that fits into the tunnel on a wire of 1500.
const PAYLOAD_MAX: u16 = 1400;

/// What was seen at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Since the start.
    pub at_seconds: f64,
    /// `NAME memory_bytes`, `NAME descriptors` and `NAME threads` of each program, both sides together; `rtt_p50_us`, `rtt_p99_us`;
    /// `goodput_gbps`; and, since the start, `lost`, `duplicate`, `reordered`, `corrupt`, `dropped`, `rekeys`.
    pub values: BTreeMap<String, f64>,
}

/// Runs a subject for `length`, taking a point every `every` (at least three seconds), and hands each to `seen`.
///
/// # Errors
/// If the sites do not come up or stop answering, or `seen` fails.
pub fn soak(subject: &Subject, length: Duration, every: Duration, mut seen: impl FnMut(&[Point]) -> Result<()>) -> Result<Vec<Point>> {
    let tunnel = subject.start(&WireOptions::default())?;
    let [left, right] = &tunnel.inner;
    let start = Instant::now();
    let mut points: Vec<Point> = Vec::new();
    let mut total = crate::load::Verdict::default();
    while points.is_empty() || start.elapsed() < length {
        let rest = every.saturating_sub(Duration::from_secs(2)).max(Duration::from_secs(1));
        let sizes = Udp::every_size(PAYLOAD_MAX, false);
        let plan = Udp { rate: RATE, sizes, duration: rest, direction: Direction::Both, seed: points.len() as u64, ..Udp::default() };
        total.add(&plan.run(left, right)?.total);
        let second = Duration::from_secs(1);
        let bulk = Tcp { duration: second, direction: Direction::Both, ..Tcp::default() }.run(left, right)?;
        let trips = PingPong { duration: second, pause: Duration::from_micros(500), ..PingPong::default() }.run(left, right)?;
        let mut values = processes(&tunnel)?;
        let mut note = |name: &str, value: f64| values.insert(name.to_owned(), value);
        note("rtt_p50_us", trips.micros(50.0));
        note("rtt_p99_us", trips.micros(99.0));
        note("goodput_gbps", bulk.gigabits());
        note("lost", total.lost as f64);
        note("duplicate", total.duplicate as f64);
        note("reordered", total.reordered as f64);
        note("corrupt", total.corrupt as f64 + f64::from(u8::from(!bulk.is_intact())));
        note("dropped", tunnel.counts()?.unwrap_or_default().drops.values().sum::<u64>() as f64);
        note("rekeys", tunnel.rekeys().unwrap_or_default() as f64);
        points.push(Point { at_seconds: start.elapsed().as_secs_f64(), values });
        seen(&points)?;
    }
    Ok(points)
}

fn processes(tunnel: &Tunnel) -> Result<BTreeMap<String, f64>> {
    let mut values: BTreeMap<String, f64> = BTreeMap::new();
    for (_, pid) in tunnel.processes()? {
        let name = name_of(pid).with_context(|| format!("process {pid} has ended"))?;
        for (what, value) in usage(pid).with_context(|| format!("{name} has ended"))? {
            *values.entry(format!("{name} {what}")).or_default() += value;
        }
    }
    Ok(values)
}

/// What a process uses, each with its name.
///
/// # Errors
/// If it has ended.
pub(crate) fn usage(pid: u32) -> Result<[(&'static str, f64); 3]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    let memory = number(&status, "VmRSS:") * 1024.0;
    Ok([("memory_bytes", memory), ("threads", number(&status, "Threads:")), ("descriptors", descriptors as f64)])
}

/// The number behind a key of `/proc/PID/status`.
fn number(status: &str, key: &str) -> f64 {
    let rest = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    rest.split_ascii_whitespace().next().and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// How a value went.
#[derive(Clone, Debug, PartialEq)]
pub struct Trend {
    /// Its name.
    pub name: String,
    /// At the first point.
    pub first: f64,
    /// At the last point.
    pub last: f64,
    /// How much it grows in an hour: the median of the slopes between all points (Theil and Sen). `None` for a single point.
    pub an_hour: Option<f64>,
}

/// The trend of every value.
#[must_use]
pub fn trends(points: &[Point]) -> Vec<Trend> {
    let mut names: Vec<&String> = points.iter().flat_map(|point| point.values.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let trend = |name: &String| {
        let series: Vec<(f64, f64)> =
            points.iter().filter_map(|point| Some((point.at_seconds / 3600.0, *point.values.get(name)?))).collect();
        let (first, last) = (series.first()?.1, series.last()?.1);
        Some(Trend { name: name.clone(), first, last, an_hour: slope(&series).map(|slope| slope.median) })
    };
    names.into_iter().filter_map(trend).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Point, number, trends};

    #[test]
    fn growth_is_told_by_the_hour() {
        // Given memory that grows by a megabyte in half an hour and round trips that stay
        let point = |minutes: f64| {
            let values = BTreeMap::from([("engine memory_bytes".into(), 1e7 + minutes / 30.0 * 1e6), ("rtt_p50_us".into(), 40.0)]);
            Point { at_seconds: minutes * 60.0, values }
        };
        let points: Vec<Point> = (0..10).map(|minutes| point(f64::from(minutes))).collect();
        let trends = trends(&points);
        assert_eq!(trends.iter().map(|trend| trend.name.as_str()).collect::<Vec<_>>(), ["engine memory_bytes", "rtt_p50_us"]);
        assert!(trends[0].an_hour.is_some_and(|growth| (growth - 2e6).abs() < 1.0), "{trends:?}");
        assert_eq!((trends[1].an_hour, trends[1].last), (Some(0.0), 40.0));
    }

    #[test]
    fn numbers_are_read_from_the_status() {
        let status = "Threads:\t7\nVmRSS:\t   123 kB\n";
        assert!((number(status, "Threads:") - 7.0).abs() < 1e-9 && (number(status, "VmRSS:") - 123.0).abs() < 1e-9);
        assert!(number(status, "VmPTE:") < 1e-9);
    }
}
