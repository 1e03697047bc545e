//! Tables that answer one question from a whole run: what each feature does, and what it costs to have many peers. Each is made
//! once, from the record alone, and shown as Markdown or HTML.

use std::fmt::Write;

use super::plot::escape;
use super::record::{Purpose, Record, Sample, WireKind};
use super::stats::Summary;
use super::summary::{chosen, paired, shown};
use super::table::ratio_words;

/// The subject that the others of such a run are held against.
const BASE: &str = "penstock";
/// What stands in the table of features: measure, value, and what its column is called.
const EFFECTS: [(&str, &str, &str); 7] = [
    ("tcp-1", "goodput_gbps", "TCP goodput"),
    ("tcp-1", "tunnel_cpu_s_per_gb", "CPU per GB"),
    ("rtt-idle", "rtt_p50_us", "round trip, idle"),
    ("rtt-loaded", "rtt_p99_us", "round trip, loaded, 99 %"),
    ("udp-flood-64", "received_pps", "64-byte datagrams"),
    ("udp-uso-64", "received_pps", "as super-packets"),
    ("udp-uso-64", "tunnel_ns_per_packet", "CPU of such a one"),
];

/// A table and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// What stands above it.
    pub title: String,
    /// The columns' names.
    pub header: Vec<String>,
    /// Its rows, as long as the header.
    pub rows: Vec<Vec<String>>,
    /// How to read it.
    pub notes: Vec<String>,
}

/// The tables that follow from a record, by what it is to show.
#[must_use]
pub fn grids(record: &Record) -> Vec<Grid> {
    let of = |wire: &WireKind| match record.plan.purpose {
        Purpose::Comparison => None,
        Purpose::Features => Some(features(record, *wire)),
        Purpose::Scale => Some(scale(record, *wire)),
    };
    record.plan.wires.iter().filter_map(of).collect()
}

impl Grid {
    /// As Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("## {}\n\n{}|{}\n", self.title, line(&self.header), "---|".repeat(self.header.len()));
        self.rows.iter().for_each(|row| text += &line(row));
        text += "\n";
        for note in &self.notes {
            let _ = writeln!(text, "* {note}"); // a String takes anything
        }
        text
    }

    /// As HTML.
    #[must_use]
    pub(super) fn html(&self) -> String {
        let cell = |(index, text): (usize, &String), tag: &str| {
            let class = if index == 0 { "" } else { " class=\"n\"" };
            // A ratio's interval stands below it, so that the table fits.
            let end = text.find(['[', '(']).filter(|_| index > 0 && tag == "td").unwrap_or(text.len());
            let (value, interval) = text.split_at(end);
            let interval = if interval.is_empty() { String::new() } else { format!("<small>{}</small>", escape(interval)) };
            format!("<{tag}{class}>{}{interval}</{tag}>", escape(value.trim_end()))
        };
        let row = |cells: &[String], tag: &str| -> String {
            let cells: String = cells.iter().enumerate().map(|each| cell(each, tag)).collect();
            format!("<tr>{cells}</tr>")
        };
        let rows: String = self.rows.iter().map(|cells| row(cells, "td")).collect();
        let notes: String = self.notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
        format!(
            "<h3>{}</h3><div class=\"wide\"><table><thead>{}</thead><tbody>{rows}</tbody></table></div><ul class=\"muted\">{notes}</ul>",
            escape(&self.title),
            row(&self.header, "th")
        )
    }
}

fn features(record: &Record, wire: WireKind) -> Grid {
    let line = |subject: &str, measure: &str, value: &str| {
        record.summary.iter().find(|line| line.subject == subject && line.wire == wire && line.measure == measure && line.value == value)
    };
    let effects: Vec<_> = EFFECTS.iter().filter(|(measure, value, _)| line(BASE, measure, value).is_some()).collect();
    let mut header = vec!["without".to_owned()];
    header.extend(effects.iter().map(|(_, _, name)| (*name).to_owned()));
    let all = |(measure, value, _): &&(&str, &str, &str)| line(BASE, measure, value).map(|line| shown(value, line.tunnel.median));
    let mut rows = vec![std::iter::once("nothing".to_owned()).chain(effects.iter().filter_map(all)).collect::<Vec<_>>()];
    for subject in others(record) {
        let name = subject.strip_prefix("penstock-without-").unwrap_or(subject);
        let cell = |(measure, value, _): &&(&str, &str, &str)| {
            line(subject, measure, value).and_then(|line| line.penstock_to_this.as_ref()).map_or_else(|| "-".into(), ratio_words)
        };
        rows.push(std::iter::once(name.to_owned()).chain(effects.iter().map(cell)).collect());
    }
    let notes = vec![
        "The first row has the values with every feature. In the others stands the ratio of Penstock with the feature to Penstock without it, pair by pair: above 1 the \
         feature makes it more, below 1 less. Plain calls are \"ring\"."
            .into(),
        format!(
            "{} rounds, the subjects in another order each round. [low, high] holds the median ratio with at least 95 % confidence, and shows no effect if it contains 1; \
             (low to high) is the range seen in fewer than six rounds.",
            record.plan.rounds
        ),
    ];
    Grid { title: format!("What each feature does, wire {wire}"), header, rows, notes }
}

fn scale(record: &Record, wire: WireKind) -> Grid {
    let all = chosen(&record.samples);
    let of = |subject: &str| -> Vec<&Sample> {
        all.iter()
            .filter(|sample| sample.subject == subject && sample.wire == wire && !sample.beside && sample.measure == "tcp-1")
            .copied()
            .collect()
    };
    let base = of(BASE);
    let memory = |samples: &[&Sample], engine: bool| {
        let one = |sample: &&Sample| {
            let fits = sample.processes.iter().filter(|process| process.name.starts_with("penstock-engine") == engine);
            fits.map(|process| process.memory_bytes as f64).sum()
        };
        Summary::of(&samples.iter().map(one).collect::<Vec<f64>>()).map(|summary| summary.median)
    };
    let column = ["subject", "goodput", "to one peer", "contains 1, above 0.9", "engine, each", "control, each", "together, each"];
    let mut grid = Grid { title: format!("One peer and many, wire {wire}"), header: column.map(str::to_owned).to_vec(), ..Grid::default() };
    for subject in std::iter::once(BASE).chain(others(record)) {
        let samples = of(subject);
        let Some(goodput) =
            Summary::of(&samples.iter().filter_map(|sample| sample.values.get("goodput_gbps").copied()).collect::<Vec<_>>())
        else {
            continue;
        };
        let mut row = vec![subject.to_owned(), shown("goodput_gbps", goodput.median)];
        let count: f64 = subject.rsplit('-').next().and_then(|count| count.parse().ok()).unwrap_or_default();
        if subject != BASE && count > 0.0 {
            let ratio = paired(&samples, &base, "goodput_gbps");
            row.push(ratio.as_ref().map_or_else(|| "-".into(), ratio_words));
            row.push(match ratio.and_then(|ratio| ratio.interval) {
                Some([low, high]) => if low <= 1.0 && high >= 1.0 && low > 0.9 { "yes" } else { "no" }.into(),
                None => "too few pairs".into(),
            });
            // Both sites have as many.
            let each = |engine: bool| Some((memory(&samples, engine)? - memory(&base, engine)?) / (2.0 * count));
            let words = |bytes: Option<f64>| bytes.map_or_else(|| "-".into(), |bytes| format!("{:.2} KiB", bytes / 1024.0));
            let (engine, control) = (each(true), each(false));
            row.extend([words(engine), words(control), words(engine.zip(control).map(|(engine, control)| engine + control))]);
        }
        row.resize(grid.header.len(), String::new());
        grid.rows.push(row);
    }
    grid.notes = vec![
        "peers-N: N peers more on each site, configured and closed by order, so without SAs. peers-up-N: the same with an IKE SA and a pair of SAs each that \
         carry nothing. prefixes-N: N prefixes more, 128 to a peer without SAs. The one peer in use is the same for all."
            .into(),
        format!("{} pairs: the ratio is taken within a round. Memory is resident memory (VmRSS) above that of the site with one peer, over N.", record.plan.rounds),
    ];
    grid
}

fn others(record: &Record) -> impl Iterator<Item = &str> {
    record.subjects.keys().map(String::as_str).filter(|name| *name != BASE)
}

#[cfg(test)]
mod tests {
    use super::super::record::{Process, Purpose, Sample};
    use super::super::summary;
    use super::super::tests::{record, sample};
    use super::grids;

    #[test]
    fn a_feature_is_shown_by_what_it_changes() {
        let mut record = record();
        assert!(grids(&record).is_empty());
        record.plan.purpose = Purpose::Features;
        record.subjects = ["penstock", "penstock-without-ring"].map(|name| (name.to_owned(), String::new())).into();
        let both = |round| [sample("penstock", false, round, 6.0), sample("penstock-without-ring", false, round, 5.0)];
        record.samples = (1..=6).flat_map(both).collect();
        record.summary = summary::lines(&record.samples);
        let markdown = grids(&record)[0].markdown();
        let html = grids(&record)[0].html();
        assert!(html.contains("<td>ring</td><td class=\"n\">1.20<small>[1.20, 1.20]</small></td>"), "{html}");
        assert!(markdown.contains("| nothing | 6.00 Gb/s |") && markdown.contains("| ring | 1.20 [1.20, 1.20] |"), "{markdown}");
    }

    #[test]
    fn many_peers_are_paired_with_one() {
        // Given 100 peers that cost a tenth of the throughput and 64 KiB each in the engine
        let mut record = record();
        record.plan.purpose = Purpose::Scale;
        record.subjects = ["penstock", "penstock-peers-100"].map(|name| (name.to_owned(), String::new())).into();
        let engine = |bytes: u64| Process {
            name: "penstock-engine".into(),
            side: "left".into(),
            user_seconds: 0.0,
            system_seconds: 0.0,
            memory_bytes: 1_000_000 + bytes,
        };
        let both = |round: usize| {
            let (mut one, mut many) = (sample("penstock", false, round, 5.0), sample("penstock-peers-100", false, round, 4.5));
            one.processes = vec![engine(0)];
            many.processes = vec![engine(200 * 65_536)];
            [one, many]
        };
        record.samples = (1..=15).flat_map(both).collect();
        record.summary = summary::lines(&record.samples);
        let grid = &grids(&record)[0];
        assert_eq!(grid.rows[1][2..], ["0.90 [0.90, 0.90]", "no", "64.00 KiB", "0.00 KiB", "64.00 KiB"]);
        record.samples =
            record.samples.into_iter().map(|from| Sample { values: [("goodput_gbps".to_owned(), 5.0)].into(), ..from }).collect();
        assert_eq!(grids(&record)[0].rows[1][3], "yes");
    }
}
