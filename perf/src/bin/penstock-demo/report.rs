//! The table at the end: wire and tunnel side by side.

use crate::measure::{Seen, Way};

/// Words, then the wire's value, then the tunnel's.
type Row = (String, String, String);

/// The table as text, without a newline at the end.
pub(crate) fn table(seen: &Seen) -> String {
    let rows = rows(seen);
    let width = |column: fn(&Row) -> &String| rows.iter().map(|row| column(row).chars().count()).max().unwrap_or_default();
    let (words, wire, tunnel) = (width(|row| &row.0), width(|row| &row.1), width(|row| &row.2));
    let mut lines: Vec<String> = rows.iter().map(|row| format!("{:<words$}   {:>wire$}   {:>tunnel$}", row.0, row.1, row.2)).collect();
    lines.insert(1, "-".repeat(words + wire + tunnel + 6));
    lines.push(match seen.drops.is_empty() {
        true => "named drops, queue overflows, drops at the TUN queue: none".into(),
        false => seen.drops.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join("\n"),
    });
    lines.join("\n")
}

fn rows(seen: &Seen) -> Vec<Row> {
    let (wire, tunnel) = (&seen.wire, &seen.tunnel);
    let both = |words: &str, value: &dyn Fn(&Way) -> String| (words.to_owned(), value(wire), value(tunnel));
    let ratio = if wire.median() > 0.0 { tunnel.median() / wire.median() } else { 0.0 };
    let per_gigabyte = |seconds: f64, way: &Way| format!("{:.2}", seconds / (way.bytes.max(1) as f64 / 1e9));
    let micros = |percentile: f64| move |way: &Way| format!("{:.0}", way.latency.micros(percentile));
    vec![
        ("1500-byte wire between two namespaces".into(), "plain wire".into(), format!("tunnel ({})", seen.how)),
        both("TCP, 1 stream, median of the rounds, Gb/s", &|way| format!("{:.2}", way.median())),
        ("  ratio to the wire".into(), "1".into(), format!("{ratio:.2}")),
        both("  segments sent again", &|way| way.retransmits.to_string()),
        both("    of these needless: the first copy had arrived", &|way| way.needless.to_string()),
        both("  CPU s per GB, the whole machine", &|way| per_gigabyte(way.usage.machine, way)),
        ("  CPU s per GB, the two engines".into(), "-".into(), per_gigabyte(tunnel.usage.processes, tunnel)),
        both("  CPU s of interrupts and other programs", &|way| format!("{:.2} of {:.1}", way.usage.others, way.usage.wall)),
        both("  CPU s that the hypervisor took meanwhile", &|way| format!("{:.2} of {:.1}", way.usage.steal, way.usage.wall)),
        both("UDP, every size: sent", &|way| way.datagrams.sent.to_string()),
        both("  lost / twice / late / damaged", &|way| {
            let datagrams = &way.datagrams;
            format!("{} / {} / {} / {}", datagrams.lost, datagrams.duplicate, datagrams.reordered, datagrams.corrupt)
        }),
        both("round trip, 64 bytes, median, us", &micros(50.0)),
        both("  99 %", &micros(99.0)),
        both("  99.9 %", &micros(99.9)),
        both("  longest", &micros(100.0)),
    ]
}
