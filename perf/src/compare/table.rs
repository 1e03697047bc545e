//! The table for people: for each wire and measure one line a subject.

use std::fmt::Write;

use super::measure::Measure;
use super::record::{Line, Record};
use super::stats::Summary;
use super::summary::shown;

/// Values that stand beside the headline, where a measure has them. Those that count what ought not to be are left out where they are
/// zero in all rounds (`false`).
const BESIDE: [(&str, &str, bool); 16] = [
    ("rtt_p50_us", "median", true),
    ("rtt_p99_us", "99 %", true),
    ("rtt_p99_9_us", "99.9 %", true),
    ("tunnel_cpu_s_per_gb", "tunnel", true),
    ("machine_cpu_s_per_gb", "machine", true),
    ("tunnel_ns_per_packet", "tunnel a packet", true),
    ("left_ns_per_packet", "left", true),
    ("right_ns_per_packet", "right", true),
    ("lost_share", "lost", true),
    ("retransmits", "sent again", true),
    ("retransmits_needless", "of them needless", false),
    ("out_of_order", "out of order", true),
    ("flow_moves", "flow moves", false),
    ("outbound_handoff_out", "handed over outbound", false),
    ("inbound_handoff_out", "handed over inbound", false),
    ("dropped", "dropped", false),
];

/// The whole run as text.
#[must_use]
pub fn table(record: &Record) -> String {
    let mut text = String::new();
    let machine = &record.machine;
    line(&mut text, &format!("{}, {} x {}", machine.kernel, machine.processors, machine.cpu));
    record.daemons.values().for_each(|daemon| line(&mut text, daemon));
    for wire in &record.plan.wires {
        for measure in &record.plan.measures {
            let headline = Measure::headline(measure);
            let rows: Vec<&Line> = headlines(record, measure, headline).filter(|row| row.wire == *wire).collect();
            if rows.is_empty() {
                continue;
            }
            line(&mut text, &format!("\n{measure}, wire {wire}"));
            for row in rows {
                line(&mut text, &format!("  {}", one(record, row)));
            }
        }
    }
    line(&mut text, "");
    notes(record).iter().for_each(|note| line(&mut text, note));
    text
}

/// The lines of one measure's headline.
pub(super) fn headlines<'a>(record: &'a Record, measure: &'a str, headline: &'a str) -> impl Iterator<Item = &'a Line> {
    record.summary.iter().filter(move |line| line.measure == measure && line.value == headline)
}

fn line(text: &mut String, words: &str) {
    let _ = writeln!(text, "{}", words.trim_end()); // a String takes anything
}

fn one(record: &Record, row: &Line) -> String {
    let mut words = format!("{:<26} {:>12}", row.subject, shown(&row.value, row.tunnel.median));
    if let Some(beside) = &row.beside {
        words += &format!("   wire {:>12}", shown(&row.value, beside.median));
    }
    if let Some(ratio) = &row.to_wire {
        words += &format!("   to wire {}", ratio_words(ratio));
    }
    if let Some(ratio) = &row.penstock_to_this {
        words += &format!("   penstock to this {}", ratio_words(ratio));
    }
    for words_beside in beside(record, row) {
        words += &format!("   {words_beside}");
    }
    if row.disturbed > 0 {
        words += &format!("   ({} of {} disturbed)", row.disturbed, row.tunnel.n);
    }
    words
}

/// What else a reader of this line wants to know, in a few words each.
pub(super) fn beside(record: &Record, row: &Line) -> Vec<String> {
    let find = |value: &str| {
        record.summary.iter().find(|line| {
            line.subject == row.subject && line.wire == row.wire && line.measure == row.measure && line.value == value && value != row.value
        })
    };
    let wanted = |(value, name, always): &(&str, &str, bool)| {
        let found = find(value).filter(|line| *always || line.tunnel.max > 0.0)?;
        Some(format!("{name} {}", shown(value, found.tunnel.median)))
    };
    BESIDE.iter().filter_map(wanted).collect()
}

/// A ratio with its interval, or with its range where there are too few pairs for one.
pub(super) fn ratio_words(ratio: &Summary) -> String {
    let digits = if ratio.median >= 10.0 { 1 } else { 2 + usize::from(ratio.median < 0.1) };
    match ratio.interval {
        Some([low, high]) => format!("{:.digits$} [{low:.digits$}, {high:.digits$}]", ratio.median),
        None if ratio.n > 1 => format!("{:.digits$} ({:.digits$} to {:.digits$})", ratio.median, ratio.min, ratio.max),
        None => format!("{:.digits$}", ratio.median),
    }
}

/// What a reader must know before believing a figure, one sentence each.
pub(super) fn notes(record: &Record) -> Vec<String> {
    let mut notes = vec![format!(
        "{} rounds of {} s each, subjects in turn, the plain wire before each. Values are medians; ratios are medians of pairs measured in one round.",
        record.plan.rounds, record.plan.seconds
    )];
    notes.push(if record.plan.rounds >= 6 {
        "[low, high]: at least 95 % sure to hold the median ratio (sign test).".into()
    } else {
        "(low to high): the range seen; fewer than six rounds give no 95 % interval.".into()
    });
    let disturbed = record.samples.iter().filter(|sample| sample.disturbed.is_some()).count();
    let load = record.machine.load_before;
    notes.push(format!(
        "Load before the run: {load:.2}. Disturbed by other programs or the hypervisor: {disturbed} of {} measurements.",
        record.samples.len()
    ));
    if !record.complete {
        notes.push("The run was cut short.".into());
    }
    notes.extend(record.missing.iter().map(|(name, why)| format!("{name} is not here: {}", why.lines().next().unwrap_or_default())));
    notes.extend(record.failures.iter().map(|failure| format!("FAILED: {failure}")));
    notes
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::table;

    #[test]
    fn the_table_says_what_was_seen_and_what_was_not() {
        let text = table(&record());
        for words in [
            "tcp-1, wire whole, 1500",
            "penstock",
            "6.00 Gb/s",
            "penstock to this 6.00 [6.00, 6.00]",
            "nebula is not here: not installed: nebula",
        ] {
            assert!(text.contains(words), "{words}\n{text}");
        }
        assert!(!text.contains("cut short") && text.contains("0 of 24"));
    }

    #[test]
    fn too_few_rounds_promise_no_interval() {
        let mut record = record();
        record.plan.rounds = 2;
        record.samples.retain(|sample| sample.round <= 2);
        record.summary = super::super::summary::lines(&record.samples);
        let text = table(&record);
        assert!(text.contains("to wire 0.60 (0.60 to 0.60)") && text.contains("no 95 % interval"), "{text}");
    }
}
