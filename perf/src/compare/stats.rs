//! Medians and what they are worth. Every interval here comes from the sign test: the order statistics of the sample
//! between which its population's median lies with at least 95 % confidence, whatever the distribution. It needs six values
//! at least; fewer give no interval rather than one that promises too much.

use serde::{Deserialize, Serialize};

/// The confidence that an interval has at least.
const CONFIDENCE: f64 = 0.95;

/// A sample in short.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// The median; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The sign test's interval for the median, 95 % or a little more; none for fewer than six values.
    pub interval: Option<[f64; 2]>,
}

impl Summary {
    /// Of these values; `None` of none. Values that are not finite are left out.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let n = sorted.len();
        let median = f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]);
        let interval = rank(n).map(|rank| [sorted[rank], sorted[n - 1 - rank]]);
        Some(Self { n, median, min, max, interval })
    }
}

/// The largest `rank` (from 0) of which the values `rank` places from either end enclose the median with [`CONFIDENCE`]:
/// twice the chance that a fair coin shows at most `rank` heads in `n` throws is the chance that they do not.
fn rank(n: usize) -> Option<usize> {
    let mut chance = 0.5_f64.powi(i32::try_from(n).ok()?);
    let mut tail = 0.0;
    let mut found = None;
    for heads in 0..n / 2 {
        tail += chance;
        if 2.0 * tail > 1.0 - CONFIDENCE {
            break;
        }
        found = Some(heads);
        chance *= (n - heads) as f64 / (heads + 1) as f64;
    }
    found
}

/// Ratios of values that were measured next to each other. Pairs whose divisor is zero are left out.
#[must_use]
pub fn ratios(pairs: &[(f64, f64)]) -> Option<Summary> {
    let ratios: Vec<f64> = pairs.iter().map(|(value, divisor)| value / divisor).collect();
    Summary::of(&ratios)
}

/// The slope of a line through points (x, y) by Theil and Sen: the median of the slopes between all pairs, which a few wild
/// points do not bend. `None` without two different x.
#[must_use]
pub fn slope(points: &[(f64, f64)]) -> Option<Summary> {
    let mut slopes = Vec::new();
    for (index, (x, y)) in points.iter().enumerate() {
        slopes.extend(points[index + 1..].iter().filter(|later| later.0 > *x).map(|later| (later.1 - y) / (later.0 - x)));
    }
    // The slopes share points and so are no independent sample: an interval of them would promise too much.
    Summary::of(&slopes).map(|summary| Summary { interval: None, ..summary })
}

#[cfg(test)]
mod tests {
    use super::{Summary, rank, ratios, slope};

    #[test]
    fn a_median_stands_in_the_middle() {
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]).map(|summary| summary.median), Some(2.0));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 3.0]).map(|summary| summary.median), Some(2.5));
        assert_eq!(Summary::of(&[f64::NAN, f64::INFINITY]), None);
    }

    #[test]
    fn intervals_are_those_of_the_sign_test() {
        // Tables of the sign test give the ranks (from 1) 1 for 6 to 8 values, 2 for 9 to 11, 4 for 15, 6 for 20, 10 for 30.
        for (n, expected) in [(5, None), (6, Some(0)), (8, Some(0)), (9, Some(1)), (15, Some(3)), (20, Some(5)), (30, Some(9))] {
            assert_eq!(rank(n), expected, "{n}");
        }
        let values: Vec<f64> = (1..=15).map(f64::from).collect();
        assert_eq!(Summary::of(&values).and_then(|summary| summary.interval), Some([4.0, 12.0]));
    }

    #[test]
    fn an_interval_holds_the_median_as_often_as_it_says() {
        // Given samples of a skewed distribution whose median is ln 2, from a fixed sequence of numbers
        let mut state = 1_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
        };
        for n in [6, 7, 15] {
            let holds = (0..4000).filter(|_| {
                let values: Vec<f64> = (0..n).map(|_| -uniform().ln()).collect();
                let [low, high] = Summary::of(&values).and_then(|summary| summary.interval).expect("six or more");
                low <= 2.0_f64.ln() && 2.0_f64.ln() <= high
            });
            // then it holds at least 95 % of the time, less what chance allows 4000 trials
            assert!(holds.count() >= 3760, "{n}");
        }
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        // The machine became twice as fast in the middle: the medians' ratio would not be 2.
        let summary = ratios(&[(2.0, 1.0), (4.2, 2.0), (8.0, 4.0), (5.0, 0.0)]).expect("three pairs");
        assert_eq!((summary.n, summary.median), (3, 2.0));
    }

    #[test]
    fn one_wild_point_does_not_bend_a_slope() {
        let mut points: Vec<(f64, f64)> = (0..20).map(|x| (f64::from(x), 3.0 * f64::from(x) + 1.0)).collect();
        points[10].1 = 1e6;
        assert_eq!(slope(&points).map(|summary| summary.median), Some(3.0));
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0)]), None);
    }
}
