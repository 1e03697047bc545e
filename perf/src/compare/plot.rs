//! Plots as SVG. Each is a fragment that takes its colours from classes, so that a page can show it in light and dark;
//! [`file`] makes one stand alone. A subject is told by its label, its colour only helps.

use std::fmt::Write;

use super::measure::{Measure, PERCENTILES};
use super::record::{Record, Sample, WireKind};
use super::stats::Summary;
use super::summary::{chosen, shown};

/// The colours and lines of every plot, for both kinds of page.
pub(super) const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1d21;--muted:#6a6f78;--grid:#e3e5e9;--paper:#fff;--c0:#0b62d6;--c1:#b3541e;--c2:#7a3fa0;--c3:#1c7a52;--c4:#a02c56;--wire:#8a9099}\
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--muted:#9aa0aa;--grid:#31353c;--paper:#16181c;--c0:#6aa8ff;--c1:#f0955c;--c2:#c394e6;--c3:#5fcf9b;--c4:#f07ba4;--wire:#7d838d}}\
.plot text{font:12px system-ui,sans-serif;fill:var(--ink)}.plot .small{font-size:11px;fill:var(--muted)}.plot .title{font-weight:600;font-size:13px}\
.plot .grid{stroke:var(--grid);stroke-width:1}.plot .mid{stroke-width:2.5}.plot .curve{fill:none;stroke-width:2}\
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.wire{--c:var(--wire)}\
.plot .dot{fill:var(--c);fill-opacity:.55}.plot .hollow{fill:none;stroke:var(--c);stroke-width:1.2}.plot .mid,.plot .curve{stroke:var(--c)}.plot .bar,.plot .key{fill:var(--c)}.plot .faint{fill:var(--c);fill-opacity:.45}";

const WIDTH: f64 = 420.0;
const LEFT: f64 = 138.0;
const RIGHT: f64 = 84.0;
const ROW: f64 = 26.0;
const TOP: f64 = 30.0;

/// A plot as a file of its own.
#[must_use]
pub(super) fn file(plot: &str) -> String {
    let open = plot.find('>').map_or(0, |end| end + 1);
    let (head, rest) = plot.split_at(open);
    format!("{head}<style>{STYLE}svg{{background:var(--paper)}}</style>{rest}")
}

/// Text as it may stand in markup.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The class that colours a subject: its place among the names.
fn colour(record: &Record, subject: &str) -> String {
    // Penstock first, the others in the order of their names.
    let others = record.subjects.keys().filter(|name| *name != "penstock");
    let place = std::iter::once("penstock").chain(others.map(String::as_str)).position(|name| name == subject);
    format!("c{}", place.unwrap_or(0) % 5)
}

fn open(height: f64, label: &str) -> String {
    let label = escape(label);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{label}\">"
    )
}

fn text(x: f64, y: f64, class: &str, anchor: &str, words: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{}</text>", escape(words))
}

/// Every sample of a measure's headline, one row a subject and one for the wire; a stroke marks the median. Hollow: disturbed.
/// `None` if there is none.
#[must_use]
pub(super) fn strip(record: &Record, measure: &str, wire: WireKind) -> Option<String> {
    let headline = Measure::headline(measure);
    let all = chosen(&record.samples);
    let of = |beside: bool, subject: Option<&str>| -> Vec<&Sample> {
        let fits = |sample: &&&Sample| {
            sample.measure == measure
                && sample.wire == wire
                && sample.beside == beside
                && subject.is_none_or(|subject| sample.subject == subject)
                && sample.values.contains_key(headline)
        };
        all.iter().filter(fits).copied().collect()
    };
    let mut names: Vec<&str> = of(false, None).iter().map(|sample| sample.subject.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let mut rows = vec![("plain wire".to_owned(), "wire".to_owned(), of(true, None))];
    rows.extend(names.iter().map(|name| ((*name).to_owned(), colour(record, name), of(false, Some(name)))));
    rows.retain(|(_, _, samples)| !samples.is_empty());
    if names.is_empty() {
        return None;
    }
    let value = |sample: &Sample| sample.values.get(headline).copied().unwrap_or_default();
    let max = rows.iter().flat_map(|row| &row.2).map(|sample| value(sample)).fold(0.0, f64::max);
    let across = |value: f64| LEFT + value / max.max(f64::MIN_POSITIVE) * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * rows.len() as f64 + 8.0;
    let mut plot = open(height, &format!("{measure}, wire {wire}"));
    plot += &text(0.0, 14.0, "title", "start", &format!("{measure}, {}", meaning(headline)));
    for (index, (name, class, samples)) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64 + ROW / 2.0;
        let _ = write!(plot, "<g class=\"{class}\"><line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y}\" y2=\"{y}\"/>", WIDTH - RIGHT);
        for sample in samples {
            let class = if sample.disturbed.is_some() { "hollow" } else { "dot" };
            let x = across(value(sample));
            let title = format!("round {}: {}", sample.round, shown(headline, value(sample)));
            let _ = write!(plot, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y}\" r=\"4\"><title>{}</title></circle>", escape(&title));
        }
        if let Some(summary) = Summary::of(&samples.iter().map(|sample| value(sample)).collect::<Vec<_>>()) {
            let x = across(summary.median);
            let _ = write!(plot, "<line class=\"mid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>", y - 9.0, y + 9.0);
            plot += &text(WIDTH, y + 4.0, "", "end", &shown(headline, summary.median));
        }
        plot += &text(LEFT - 10.0, y + 4.0, "", "end", name);
        plot += "</g>";
    }
    Some(plot + "</svg>")
}

/// What a value is, in words.
pub(super) fn meaning(value: &str) -> &'static str {
    match value {
        "goodput_gbps" => "goodput",
        "rtt_p50_us" => "median round trip, less is better",
        "rtt_p99_us" => "99 % of round trips, less is better",
        "idle_core_share" => "CPU of the idle tunnel, less is better",
        "tunnel_cpu_s_per_gb" => "CPU of the tunnel, less is better",
        "tunnel_ns_per_packet" => "CPU of the tunnel a datagram",
        "lost_share" => "lost",
        "retransmits" => "segments sent again",
        "out_of_order" => "segments out of order",
        _ => "datagrams received",
    }
}

/// CPU seconds per GB of each tunnel in the TCP measure: user space full, kernel faint. `None` if nothing is known of it.
#[must_use]
pub(super) fn cost(record: &Record, wire: WireKind) -> Option<String> {
    let value = |subject: &str, name: &str| {
        let line = record.summary.iter().find(|line| {
            line.subject == subject && line.wire == wire && line.measure == "tcp-1" && line.value == name && line.tunnel.median.is_finite()
        });
        line.map(|line| line.tunnel.median)
    };
    let rows: Vec<(&String, f64, f64)> = record
        .subjects
        .keys()
        .filter_map(|name| Some((name, value(name, "tunnel_user_s_per_gb")?, value(name, "tunnel_system_s_per_gb")?)))
        .collect();
    let max = rows.iter().map(|(_, user, system)| user + system).fold(0.0, f64::max);
    if max <= 0.0 {
        return None;
    }
    let mut plot = open(TOP + ROW * rows.len() as f64 + 8.0, "CPU seconds per GB");
    plot += &text(0.0, 14.0, "title", "start", "tcp-1, CPU of the tunnel per GB: user space, then kernel");
    for (index, (name, user, system)) in rows.iter().enumerate() {
        let y = TOP + ROW * index as f64;
        let scale = (WIDTH - LEFT - RIGHT) / max;
        let _ = write!(
            plot,
            "<g class=\"{}\"><rect class=\"bar\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\"/><rect class=\"faint\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\"/></g>",
            colour(record, name),
            y + 6.0,
            user * scale,
            LEFT + user * scale,
            y + 6.0,
            system * scale
        );
        plot += &text(LEFT - 10.0, y + 17.0, "", "end", name);
        plot += &text(WIDTH, y + 17.0, "", "end", &shown("_s_per_gb", user + system));
    }
    Some(plot + "</svg>")
}

/// Round trips by percentile, all rounds together, on a logarithmic scale. `None` if there are none.
#[must_use]
pub(super) fn percentiles(record: &Record, measure: &str, wire: WireKind) -> Option<String> {
    let all = chosen(&record.samples);
    let mut curves: Vec<(String, String, Vec<f64>)> = Vec::new();
    for (name, beside) in std::iter::once(("plain wire", true)).chain(record.subjects.keys().map(|name| (name.as_str(), false))) {
        let mut buckets: Vec<(f64, u64)> = all
            .iter()
            .filter(|sample| sample.measure == measure && sample.wire == wire && sample.beside == beside)
            .filter(|sample| beside || sample.subject == name)
            .flat_map(|sample| sample.histogram.iter().copied())
            .collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        if !buckets.is_empty() {
            let class = if beside { "wire".into() } else { colour(record, name) };
            curves.push((name.into(), class, PERCENTILES.iter().map(|(percentile, _)| at(&buckets, *percentile)).collect()));
        }
    }
    let values = || curves.iter().flat_map(|curve| curve.2.iter().copied()).filter(|value| *value > 0.0);
    let (low, high) = (values().fold(f64::INFINITY, f64::min).log10().floor(), values().fold(0.0, f64::max).log10().ceil());
    if curves.is_empty() || !low.is_finite() || !high.is_finite() {
        return None;
    }
    let (left, right, bottom) = (52.0, 130.0, 214.0);
    let x = |index: usize| left + index as f64 * (WIDTH - left - right) / (PERCENTILES.len() - 1) as f64;
    let y = |value: f64| bottom - (value.max(1e-3).log10() - low) / (high - low).max(1.0) * (bottom - TOP);
    let mut plot = open(240.0, &format!("{measure} by percentile, wire {wire}"));
    plot += &text(0.0, 14.0, "title", "start", &format!("{measure} by percentile"));
    for power in low as i32..=high as i32 {
        let y = y(10_f64.powi(power));
        let _ = write!(plot, "<line class=\"grid\" x1=\"{left}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>", WIDTH - right);
        plot += &text(left - 6.0, y + 4.0, "small", "end", &decade(power));
    }
    for (index, (percentile, _)) in PERCENTILES.iter().enumerate() {
        plot +=
            &text(x(index), bottom + 18.0, "small", "middle", &if *percentile >= 100.0 { "max".into() } else { percentile.to_string() });
    }
    let mut labels: Vec<f64> = Vec::new();
    curves.sort_by(|one, other| other.2.last().unwrap_or(&0.0).total_cmp(one.2.last().unwrap_or(&0.0)));
    for (name, class, values) in &curves {
        let points: Vec<String> = values.iter().enumerate().map(|(index, value)| format!("{:.1},{:.1}", x(index), y(*value))).collect();
        let _ = write!(plot, "<g class=\"{class}\"><polyline class=\"curve\" points=\"{}\"/></g>", points.join(" "));
        let wanted = y(values.last().copied().unwrap_or_default()) + 4.0;
        let place = labels.last().map_or(wanted, |last| wanted.max(last + 14.0));
        labels.push(place);
        let _ = write!(plot, "<g class=\"{class}\">{}</g>", text(WIDTH - right + 8.0, place, "small key", "start", name));
    }
    Some(plot + "</svg>")
}

fn decade(power: i32) -> String {
    if power < 3 { format!("{} us", 10_f64.powi(power)) } else { format!("{} ms", 10_f64.powi(power - 3)) }
}

/// The value below which `percentile` of all counts lie, from buckets in rising order.
fn at(buckets: &[(f64, u64)], percentile: f64) -> f64 {
    let total: u64 = buckets.iter().map(|bucket| bucket.1).sum();
    let wanted = (total as f64 * percentile / 100.0).ceil();
    let mut sum = 0;
    for (value, count) in buckets {
        sum += count;
        if sum as f64 >= wanted {
            return *value;
        }
    }
    buckets.last().map(|bucket| bucket.0).unwrap_or_default()
}

/// How disturbed the machine was over the run: a bar for each measurement, foreign time full and stolen time above it.
#[must_use]
pub(super) fn noise(record: &Record) -> String {
    let (height, bottom) = (110.0, 92.0);
    let mut plot = open(height, "noise over the run");
    plot += &text(0.0, 14.0, "title", "start", "other programs, share of all processors, over the run");
    let end = record.samples.last().map_or(1.0, |sample| sample.at_seconds).max(1.0);
    for share in [0.0, 0.5, 1.0] {
        let y = bottom - share * 64.0;
        let _ = write!(plot, "<line class=\"grid\" x1=\"40\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        plot += &text(34.0, y + 4.0, "small", "end", &format!("{:.0} %", share * 100.0));
    }
    let width = ((WIDTH - 40.0) / record.samples.len().max(1) as f64).clamp(0.5, 6.0);
    for sample in &record.samples {
        let x = 40.0 + sample.at_seconds / end * (WIDTH - 40.0 - width);
        let foreign = sample.noise.foreign_share.clamp(0.0, 1.0) * 64.0;
        let stolen = sample.noise.steal_share.clamp(0.0, 1.0) * 64.0;
        let _ = write!(
            plot,
            "<g class=\"c1\"><rect class=\"faint\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{foreign:.1}\"/><rect class=\"bar\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{stolen:.1}\"/></g>",
            bottom - foreign,
            bottom - foreign - stolen
        );
    }
    plot + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::{at, cost, file, noise, percentiles, strip};

    #[test]
    fn a_strip_has_a_dot_a_sample_and_a_stroke_a_row() {
        let mut record = record();
        record.samples[1].disturbed = Some("a build".into());
        let plot = strip(&record, "tcp-1", record.plan.wires[0]).expect("it was measured");
        let count = |what: &str| plot.matches(what).count();
        assert_eq!((count("class=\"dot\""), count("class=\"hollow\""), count("class=\"mid\"")), (23, 1, 3));
        assert!(plot.contains("plain wire") && plot.contains("6.00 Gb/s"));
        assert_eq!(strip(&record, "tcp-4", record.plan.wires[0]), None);
    }

    #[test]
    fn percentiles_come_from_the_buckets() {
        let buckets = [(10.0, 50), (20.0, 49), (900.0, 1)];
        assert_eq!([50.0, 51.0, 99.0, 99.9, 100.0].map(|percentile| at(&buckets, percentile)), [10.0, 20.0, 20.0, 900.0, 900.0]);
        let mut record = record();
        assert_eq!(percentiles(&record, "tcp-1", record.plan.wires[0]), None);
        record.samples.iter_mut().for_each(|sample| sample.histogram = buckets.to_vec());
        let plot = percentiles(&record, "tcp-1", record.plan.wires[0]).expect("there are some");
        assert_eq!(plot.matches("<polyline").count(), 3);
    }

    #[test]
    fn a_plot_stands_alone_and_says_what_is_not_known() {
        let record = record();
        assert_eq!(cost(&record, record.plan.wires[0]), None);
        let file = file(&noise(&record));
        assert!(file.starts_with("<svg xmlns") && file.contains("<style>") && file.ends_with("</svg>"));
        assert_eq!(file.matches("class=\"faint\"").count(), 24);
    }
}
