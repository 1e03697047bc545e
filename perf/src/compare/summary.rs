//! From samples to what a reader wants to know: medians, and ratios of what was measured next to each other.

use std::collections::BTreeMap;

use super::record::{Line, Sample, WireKind};
use super::stats::{Summary, ratios};

/// The subject that the others are held against.
const PENSTOCK: &str = "penstock";

/// A line for every subject, wire, measure and value, in that order of time in which they first occur.
pub(super) fn lines(samples: &[Sample]) -> Vec<Line> {
    let chosen = chosen(samples);
    let mut keys: Vec<(WireKind, &str, &str)> = Vec::new();
    for sample in samples.iter().filter(|sample| !sample.beside) {
        let key = (sample.wire, sample.measure.as_str(), sample.subject.as_str());
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut lines = Vec::new();
    for (wire, measure, subject) in keys {
        let series = |subject: &str, beside: bool| -> Vec<&Sample> {
            let same = |sample: &&&Sample| {
                sample.subject == subject && sample.beside == beside && sample.wire == wire && sample.measure == measure
            };
            chosen.iter().filter(same).copied().collect()
        };
        let (tunnel, beside, penstock) = (series(subject, false), series(subject, true), series(PENSTOCK, false));
        let mut values: Vec<&String> = tunnel.iter().flat_map(|sample| sample.values.keys()).collect();
        values.sort_unstable();
        values.dedup();
        for value in values {
            let Some(summary) = Summary::of(&of(&tunnel, value)) else { continue };
            lines.push(Line {
                subject: subject.to_owned(),
                wire,
                measure: measure.to_owned(),
                value: value.clone(),
                tunnel: summary,
                beside: Summary::of(&of(&beside, value)),
                to_wire: paired(&tunnel, &beside, value),
                penstock_to_this: if subject == PENSTOCK { None } else { paired(&penstock, &tunnel, value) },
                disturbed: tunnel.iter().filter(|sample| sample.disturbed.is_some()).count(),
            });
        }
    }
    lines
}

/// Of the tries at one measurement the calm one, else the least disturbed.
pub(super) fn chosen(samples: &[Sample]) -> Vec<&Sample> {
    let noise = |sample: &Sample| sample.noise.steal_share + sample.noise.foreign_share;
    let mut best: BTreeMap<_, (usize, &Sample)> = BTreeMap::new();
    for (index, sample) in samples.iter().enumerate() {
        let key = (&sample.subject, sample.beside, sample.wire, &sample.measure, sample.round);
        let place = best.entry(key).or_insert((index, sample));
        let better = match (&sample.disturbed, &place.1.disturbed) {
            (None, Some(_)) => true,
            (Some(_), Some(_)) => noise(sample) < noise(place.1),
            (_, None) => false,
        };
        if better {
            place.1 = sample;
        }
    }
    let mut chosen: Vec<(usize, &Sample)> = best.into_values().collect();
    chosen.sort_unstable_by_key(|(index, _)| *index);
    chosen.into_iter().map(|(_, sample)| sample).collect()
}

fn of(samples: &[&Sample], value: &str) -> Vec<f64> {
    samples.iter().filter_map(|sample| sample.values.get(value).copied()).collect()
}

/// Ratios of one subject's samples to another's of the same round.
pub(super) fn paired(samples: &[&Sample], divisors: &[&Sample], value: &str) -> Option<Summary> {
    ratios(&pairs(samples, divisors, value))
}

fn pairs(samples: &[&Sample], divisors: &[&Sample], value: &str) -> Vec<(f64, f64)> {
    let pair = |sample: &&Sample| {
        let divisor = divisors.iter().find(|divisor| divisor.round == sample.round)?;
        Some((*sample.values.get(value)?, *divisor.values.get(value)?))
    };
    samples.iter().filter_map(pair).collect()
}

/// A value with its unit, which its name ends in.
#[must_use]
pub(super) fn shown(name: &str, value: f64) -> String {
    let (value, unit) = match name {
        _ if name.ends_with("_gbps") => return format!("{value:.2} Gb/s"),
        _ if name.ends_with("_us") => (value, " us"),
        _ if name.ends_with("_ns_per_packet") => (value, " ns"),
        _ if name.ends_with("_core_share") => return format!("{:.3} %", value * 100.0),
        _ if name.ends_with("_pps") => (value / 1000.0, " k/s"),
        _ if name.ends_with("_s_per_gb") => return format!("{value:.2} s/GB"),
        _ if name.ends_with("_bytes") => (value / f64::from(1 << 20), " MiB"),
        _ if name.ends_with("_share") => return format!("{:.2} %", value * 100.0),
        _ => (value, ""),
    };
    if value.fract() == 0.0 && unit.is_empty() {
        return format!("{value:.0}");
    }
    let digits = if value.abs() < 10.0 { 2 } else { usize::from(value.abs() < 1000.0) };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::{lines, shown};

    #[test]
    fn tunnels_are_held_against_their_own_wire_and_round() {
        let mut samples = Vec::new();
        for round in 1..=6 {
            let speed = round as f64; // the machine gets faster all the time
            samples.push(sample("penstock", true, round, 10.0 * speed));
            samples.push(sample("penstock", false, round, 6.0 * speed));
            samples.push(sample("openvpn", true, round, 8.0 * speed));
            samples.push(sample("openvpn", false, round, 1.0 * speed));
        }
        let lines = lines(&samples);
        assert_eq!(lines.iter().map(|line| line.subject.as_str()).collect::<Vec<_>>(), ["penstock", "openvpn"]);
        let ratio = |of: Option<super::Summary>| of.map(|summary| (summary.median, summary.interval));
        assert_eq!(ratio(lines[0].to_wire), Some((0.6, Some([0.6, 0.6]))));
        assert_eq!(ratio(lines[1].to_wire), Some((0.125, Some([0.125, 0.125]))));
        assert_eq!(ratio(lines[1].penstock_to_this), Some((6.0, Some([6.0, 6.0]))));
        assert_eq!((lines[0].penstock_to_this, lines[0].tunnel.median), (None, 21.0));
    }

    #[test]
    fn a_calm_repetition_takes_the_place_of_a_disturbed_one() {
        let mut disturbed = sample("penstock", false, 1, 1.0);
        disturbed.disturbed = Some("a build".into());
        disturbed.noise.foreign_share = 0.5;
        let mut less = disturbed.clone();
        less.noise.foreign_share = 0.2;
        less.values.insert("goodput_gbps".into(), 2.0);
        let one = lines(&[disturbed.clone(), less.clone()]);
        assert_eq!((one[0].tunnel.median, one[0].tunnel.n, one[0].disturbed), (2.0, 1, 1));
        let two = lines(&[disturbed, less, sample("penstock", false, 1, 3.0)]);
        assert_eq!((two[0].tunnel.median, two[0].disturbed), (3.0, 0));
    }

    #[test]
    fn values_are_shown_with_their_unit() {
        for (name, value, text) in [
            ("goodput_gbps", 8.126, "8.13 Gb/s"),
            ("rtt_p50_us", 41.26, "41.3 us"),
            ("received_pps", 1_234_567.0, "1235 k/s"),
            ("received_pps", 64_250.0, "64.2 k/s"),
            ("lost_share", 0.0125, "1.25 %"),
            ("left_ns_per_packet", 247.33, "247.3 ns"),
            ("idle_core_share", 0.00123, "0.123 %"),
            ("memory_bytes", 3_145_728.0, "3.00 MiB"),
            ("lost", 7.0, "7"),
        ] {
            assert_eq!(shown(name, value), text);
        }
    }
}
