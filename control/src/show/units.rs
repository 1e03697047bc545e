//! Numbers for people: ages, sizes, counts, rates.

use std::time::Duration;

/// `250 ms`, `12 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h`.
#[must_use]
pub fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    let two = |big: u64, big_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        _ => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// `999 B`, `1.5 kB`, `20.0 GB`: decimal, as links are rated.
#[must_use]
pub fn bytes(value: u64) -> String {
    scaled(value as f64, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `0 bit/s`, `9.8 Mbit/s`.
#[must_use]
pub fn rate(bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return "- bit/s".into();
    }
    scaled((bytes as f64 * 8.0 / seconds).round(), ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s", "Pbit/s", "Ebit/s"])
}

fn scaled(value: f64, units: [&str; 7]) -> String {
    let (mut value, mut place) = (value, 0);
    // What would be shown as 1000.0 is shown in the next unit.
    while value >= if place == 0 { 1000.0 } else { 999.95 } && place + 1 < units.len() {
        value /= 1000.0;
        place += 1;
    }
    let unit = units.get(place).copied().unwrap_or_default();
    if place == 0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// `1,234,567`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{age, bytes, count, rate};
    use std::time::Duration;

    #[test]
    fn numbers_read_as_people_write_them() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1000, "1 s"),
            (60_000, "1 min"),
            (184_000, "3 min 4 s"),
            (7_500_000, "2 h 5 min"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(age(ms), text);
        }
        for (value, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (u64::MAX, "18.4 EB")]
        {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(value), text);
        }
        assert_eq!(rate(1_250_000, Duration::from_secs(1)), "10.0 Mbit/s");
        assert_eq!(rate(1, Duration::from_millis(250)), "32 bit/s");
        assert_eq!(rate(1, Duration::ZERO), "- bit/s");
    }
}
