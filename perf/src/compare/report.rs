//! The report: one HTML file that needs nothing but itself, with the raw data inside.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::grid::grids;
use super::measure::Measure;
use super::plot::{self, STYLE, escape, meaning};
use super::record::{Line, Mode, Purpose, Record, WireKind};
use super::summary::shown;
use super::table::{beside, headlines, notes, ratio_words};

/// The page's own style, beside that of the plots.
const PAGE: &str = "\
body{background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;max-width:72rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\
h1{font-size:2.1rem;line-height:1.2;margin:0 0 .8rem;letter-spacing:-.015em}h2{font-size:1.4rem;margin:3.5rem 0 .3rem;border-top:1px solid var(--grid);padding-top:1.5rem}\
h3{font-size:1.05rem;margin:2rem 0 .8rem}p,li{max-width:48rem}.muted,dt,small{color:var(--muted)}small{display:block;font-size:.75rem;line-height:1.3}\
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1.6rem 1.5rem;margin:2rem 0}.fact{border-top:3px solid var(--c0);padding-top:.6rem}\
.fact b{display:block;font-size:2rem;line-height:1.15;font-variant-numeric:tabular-nums}.fact span{color:var(--muted);font-size:.9rem;line-height:1.4;display:block;margin-top:.2rem}\
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(28rem,100%),1fr));gap:2.2rem 3rem;margin:1.8rem 0}.plots svg{width:100%;height:auto;display:block}figure{margin:0}\
.wide{overflow-x:auto;margin-top:1rem}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}th{text-align:left;font-weight:600;color:var(--muted);vertical-align:bottom}\
td,th{padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--grid);white-space:nowrap;vertical-align:top}td.n,th.n{text-align:right}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;font-size:.95rem}dd{margin:0;overflow-wrap:anywhere}.warn{border-left:3px solid var(--c1);padding-left:1rem}\
pre{background:var(--grid);padding:.8rem 1rem;border-radius:.4rem;overflow-x:auto;font-size:.85rem}summary{cursor:pointer;color:var(--c0);margin:.8rem 0}a{color:var(--c0)}footer{margin-top:3rem}";

/// Offers the embedded records as a file.
const SCRIPT: &str = "const data=document.getElementById('records').textContent,link=document.getElementById('save');\
link.href=URL.createObjectURL(new Blob([data],{type:'application/json'}));link.hidden=false;";

/// The page of one run or several.
///
/// # Errors
/// If a record cannot be written as JSON.
pub fn report(records: &[Record]) -> Result<String> {
    let json = serde_json::to_string(records).context("the records")?.replace("</", "<\\/"); // no end of script in any string
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Penstock, measured</title><style>{STYLE}{PAGE}</style></head><body>"
    );
    page += &head(records);
    for record in records {
        page += &part(record, records.len() > 1);
    }
    page += &foot(records);
    let _ = write!(page, "<script type=\"application/json\" id=\"records\">{json}</script><script>{SCRIPT}</script></body></html>");
    Ok(page)
}

/// Every plot as a file of its own: name and content.
#[must_use]
pub fn plots(record: &Record) -> Vec<(String, String)> {
    let mut files = vec![("noise.svg".to_owned(), plot::file(&plot::noise(record)))];
    for wire in &record.plan.wires {
        for (name, plot) in of_wire(record, *wire) {
            let wire = wire.to_string().replace(", ", "-");
            files.push((format!("{wire}-{name}.svg"), plot::file(&plot)));
        }
    }
    files
}

fn of_wire(record: &Record, wire: WireKind) -> Vec<(String, String)> {
    let strips = record.plan.measures.iter().filter_map(|measure| Some((measure.clone(), plot::strip(record, measure, wire)?)));
    let mut plots: Vec<(String, String)> = strips.collect();
    let curves = record.plan.measures.iter().filter(|measure| measure.starts_with("rtt"));
    plots.extend(curves.filter_map(|measure| Some((format!("{measure}-percentiles"), plot::percentiles(record, measure, wire)?))));
    plots.extend(plot::cost(record, wire).map(|plot| ("cost".to_owned(), plot)));
    plots
}

/// The line of a subject in the first run that has one.
fn found<'a>(records: &'a [Record], subject: &str, measure: &str, value: &str) -> Option<&'a Line> {
    let fits = |line: &&Line| line.subject == subject && line.measure == measure && line.value == value;
    records.iter().find_map(|record| record.summary.iter().find(fits))
}

fn head(records: &[Record]) -> String {
    let samples = || records.iter().flat_map(|record| &record.samples);
    let (count, disturbed) = (samples().count(), samples().filter(|sample| sample.disturbed.is_some()).count());
    let mut text = String::from("<h1>Penstock, measured</h1>");
    if let Some(record) = records.first() {
        let machine = &record.machine;
        let _ = write!(
            text,
            "<p>Penstock joins two networks through an encrypted tunnel that runs in user space. Here both sites, the networks behind them and the load share one \
             machine: {} x {}, {} GiB, {}. Everything was measured in turn, again and again, each tunnel next to the plain wire under it, so that what the \
             machine did meanwhile happened to all alike.</p>",
            machine.processors,
            escape(&machine.cpu),
            (machine.memory_bytes + (1 << 29)) >> 30,
            escape(&machine.kernel),
        );
    }
    if disturbed * 5 > count {
        let share = disturbed * 100 / count.max(1);
        let _ = write!(
            text,
            "<p class=\"warn\">The machine was busy: {share} % of the measurements were disturbed. Penstock's engine runs at a higher priority than the \
             others do, so ratios from this run favour it. Take it as a hint, not as a figure.</p>"
        );
    }
    text += "<div class=\"facts\">";
    for (big, small) in facts(records) {
        let _ = write!(text, "<div class=\"fact\"><b>{}</b><span>{}</span></div>", escape(&big), escape(&small));
    }
    text + "</div>"
}

/// What a reader who reads nothing else should know: a figure and what it is.
fn facts(records: &[Record]) -> Vec<(String, String)> {
    let mut facts = Vec::new();
    let first = records.iter().find(|record| record.summary.iter().any(|line| line.measure == "tcp-1"));
    let Some((record, wire)) = first.and_then(|record| Some((record, *record.plan.wires.first()?))) else { return facts };
    for line in headlines(record, "tcp-1", "goodput_gbps").filter(|line| line.wire == wire && !line.subject.starts_with("penstock")) {
        let Some(ratio) = &line.penstock_to_this else { continue };
        let what = format!("the TCP goodput of {}, one stream, wire {wire}; {}", line.subject, ratio_words(ratio));
        facts.push((format!("{:.1} x", ratio.median), what));
    }
    let own = |measure: &str, value: &str| found(records, "penstock", measure, value);
    if let Some((line, ratio)) = own("tcp-1", "goodput_gbps").and_then(|line| Some((line, line.to_wire.as_ref()?))) {
        let what = format!("of the plain wire: {} through the tunnel, one TCP stream", shown(&line.value, line.tunnel.median));
        facts.push((format!("{:.0} %", ratio.median * 100.0), what));
    }
    if let Some(line) = own("tcp-1", "tunnel_cpu_s_per_gb") {
        facts.push((shown(&line.value, line.tunnel.median), "CPU time of all processes of both sites for a GB over TCP".into()));
    }
    for (measure, what) in
        [("udp-no-loss-64", "64-byte datagrams a second, one by one"), ("udp-uso-no-loss-64", "the same as super-packets")]
    {
        if let Some(line) = own(measure, "received_pps") {
            let loss = record.plan.loss_max * 100.0;
            facts.push((shown(&line.value, line.tunnel.median), format!("{what}, at no more than {loss} % loss")));
        }
    }
    for (subject, what) in [("penstock", "median round trip, idle"), ("penstock-poll", "the same with polling on")] {
        let Some(line) = found(records, subject, "rtt-idle", "rtt_p50_us") else { continue };
        let wire = line.beside.map(|wire| format!("; the wire alone {}", shown(&line.value, wire.median))).unwrap_or_default();
        facts.push((shown(&line.value, line.tunnel.median), format!("{what}{wire}")));
    }
    facts
}

/// One run: its tables and plots, wire by wire.
fn part(record: &Record, titled: bool) -> String {
    let plan = &record.plan;
    let mut text = String::new();
    if titled && !plan.title.is_empty() {
        let _ = write!(text, "<h2>{}</h2><p class=\"muted\">{} rounds of {} s.</p>", escape(&plan.title), plan.rounds, plan.seconds);
    }
    let grids = grids(record);
    grids.iter().for_each(|grid| text += &grid.html());
    let sections: String = plan.wires.iter().map(|wire| section(record, *wire)).collect();
    let folded = if grids.is_empty() { sections } else { format!("<details><summary>Every measurement</summary>{sections}</details>") };
    text + &folded
}

fn section(record: &Record, wire: WireKind) -> String {
    let mut text = format!("<h3>{}</h3>", escape(&wire_words(wire)));
    text += &overview(record, wire);
    text += "<div class=\"plots\">";
    of_wire(record, wire).into_iter().for_each(|(_, plot)| text += &plot);
    text += "</div><details><summary>Every value</summary><div class=\"wide\"><table><thead><tr><th>measure</th><th>subject</th><th class=\"n\">median</th>\
             <th class=\"n\">wire</th><th class=\"n\">to wire</th><th class=\"n\">Penstock to this</th><th class=\"n\">n</th><th class=\"n\">disturbed</th>\
             <th>beside</th></tr></thead><tbody>";
    for measure in &record.plan.measures {
        for line in headlines(record, measure, Measure::headline(measure)).filter(|line| line.wire == wire) {
            text += &row(record, line);
        }
    }
    text + "</tbody></table></div></details>"
}

fn wire_words(wire: WireKind) -> String {
    let what = match wire.mode {
        Mode::Whole => "super-packets pass whole",
        Mode::Gro => "the sender's kernel cuts super-packets, the receiver's merges",
        Mode::Plain => "the sender's kernel cuts super-packets, nothing merges",
    };
    format!("Wire of {} bytes, {what}", wire.mtu)
}

/// Medians at a glance: a row for each measure, a column for the wire and each subject.
fn overview(record: &Record, wire: WireKind) -> String {
    let mut names: Vec<&str> = Vec::new();
    for line in record.summary.iter().filter(|line| line.wire == wire) {
        if !names.contains(&line.subject.as_str()) {
            names.push(&line.subject);
        }
    }
    let head: String = names.iter().map(|name| format!("<th class=\"n\">{}</th>", escape(name))).collect();
    let wired = if record.plan.no_wire { "" } else { "<th class=\"n\">plain wire</th>" };
    let mut text = format!("<div class=\"wide\"><table><thead><tr><th>median</th>{wired}{head}</tr></thead><tbody>");
    for (measure, value) in record.plan.measures.iter().flat_map(|measure| values_of(measure).iter().map(move |value| (measure, *value))) {
        let lines: Vec<&Line> = headlines(record, measure, value).filter(|line| line.wire == wire).collect();
        if lines.is_empty() {
            continue;
        }
        let cell = |name: &&str| {
            let line = lines.iter().find(|line| line.subject == *name);
            let words = line.map(|line| shown(value, line.tunnel.median)).unwrap_or_default();
            let mark = line.filter(|line| line.disturbed * 2 > line.tunnel.n).map_or("", |_| " *");
            let ratio = line
                .filter(|_| !COUNTS.contains(&value))
                .and_then(|line| line.penstock_to_this.as_ref())
                .map(|ratio| format!("<small>{}</small>", escape(&ratio_words(ratio))));
            format!("<td class=\"n\">{}{mark}{}</td>", escape(&words), ratio.unwrap_or_default())
        };
        let beside = lines.iter().find_map(|line| line.beside).map(|beside| escape(&shown(value, beside.median))).unwrap_or_default();
        let beside = if record.plan.no_wire { String::new() } else { format!("<td class=\"n\">{beside}</td>") };
        let cells: String = names.iter().map(cell).collect();
        let _ = write!(text, "<tr><td>{}<small>{}</small></td>{beside}{cells}</tr>", escape(measure), meaning(value));
    }
    text + "</tbody></table></div><p class=\"muted\">Below each value: the ratio of Penstock to it, pair by pair. * most of its measurements were disturbed.</p>"
}

/// Counts of what ought to be zero: no ratio of them says anything.
const COUNTS: [&str; 3] = ["retransmits", "out_of_order", "lost_share"];

/// The values that the overview has for a measure: the headline, and what else belongs into one look.
fn values_of(measure: &str) -> &'static [&'static str] {
    match measure {
        "rtt-loaded" | "rtt-idle" => &["rtt_p50_us", "rtt_p99_us"],
        "tcp-1" => &["goodput_gbps", "tunnel_cpu_s_per_gb", "retransmits"],
        "cpu-idle" => &["idle_core_share"],
        _ if measure.starts_with("udp-flood") || measure == "udp-uso-64" => &["received_pps", "tunnel_ns_per_packet", "lost_share"],
        _ if measure.starts_with("udp") => &["received_pps"],
        _ => &["goodput_gbps", "out_of_order"],
    }
}

fn row(record: &Record, line: &Line) -> String {
    let ratio = |ratio: &Option<super::Summary>| ratio.as_ref().map(ratio_words).unwrap_or_default();
    let cells = [
        shown(&line.value, line.tunnel.median),
        line.beside.map(|beside| shown(&line.value, beside.median)).unwrap_or_default(),
        ratio(&line.to_wire),
        ratio(&line.penstock_to_this),
        line.tunnel.n.to_string(),
        line.disturbed.to_string(),
    ];
    let cells: String = cells.iter().map(|cell| format!("<td class=\"n\">{}</td>", escape(cell))).collect();
    let more = escape(&beside(record, line).join(", "));
    format!("<tr><td>{}</td><td>{}</td>{cells}<td>{more}</td></tr>", escape(&line.measure), escape(&line.subject))
}

fn foot(records: &[Record]) -> String {
    let mut text = String::from("<h2>The machine meanwhile</h2><div class=\"plots\">");
    for record in records {
        let title = if record.plan.title.is_empty() { "the run" } else { &record.plan.title };
        let _ = write!(text, "<figure>{}<figcaption class=\"muted\">{}</figcaption></figure>", plot::noise(record), escape(title));
    }
    text += "</div><h2>Notes</h2><ul>";
    let mut all: Vec<String> = Vec::new();
    for note in records.iter().flat_map(notes) {
        if !all.contains(&note) {
            all.push(note);
        }
    }
    all.iter().for_each(|note| text += &format!("<li>{}</li>", escape(note)));
    text += "<li>A dot is a measurement, a stroke the median; a hollow dot was disturbed by other programs or the hypervisor, and stands for the calmest of its tries.</li></ul>";
    text += &format!(
        "<h2>How to make it again</h2><p>As root, in the source tree{}:</p><pre>apt-get install --no-install-recommends openvpn wireguard-go wireguard-tools \\\n    \
         charon-systemd strongswan-swanctl libcharon-extra-plugins nftables\ncargo perf {}</pre><h2>Versions</h2><dl>",
        records
            .first()
            .filter(|record| !record.machine.commit.is_empty())
            .map(|record| format!(" at {}", escape(&record.machine.commit)))
            .unwrap_or_default(),
        escape(&again(records)),
    );
    let mut versions: Vec<(&String, &String)> = Vec::new();
    for each in records.iter().flat_map(|record| record.daemons.iter().chain(&record.subjects)) {
        if !versions.contains(&each) {
            versions.push(each);
        }
    }
    versions.iter().for_each(|(name, version)| text += &format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(version)));
    let (begun, took) = (
        records.first().map(|record| record.started.clone()).unwrap_or_default(),
        records.iter().map(|record| record.seconds).sum::<f64>(),
    );
    text + &format!(
        "</dl><footer class=\"muted\">Begun {}, took {:.0} minutes. <a id=\"save\" download=\"runs.json\" hidden>Every sample as JSON</a></footer>",
        escape(&begun),
        took / 60.0
    )
}

/// The words behind `cargo perf` that measure this again.
fn again(records: &[Record]) -> String {
    let [record] = records else { return "run --preset report".into() };
    let plan = &record.plan;
    match plan.purpose {
        Purpose::Features => format!("features --rounds {}", plan.rounds),
        Purpose::Scale => format!("scale --pairs {}", plan.rounds),
        Purpose::Comparison => {
            let subjects: Vec<&str> = record.subjects.keys().map(String::as_str).collect();
            let (measures, subjects) = (plan.measures.join(","), subjects.join(","));
            format!("run --rounds {} --seconds {} --only {measures} --subjects {subjects}", plan.rounds, plan.seconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::{plots, report};
    use crate::compare::Record;

    #[test]
    fn the_report_carries_its_own_data() {
        let mut record = record();
        record.subjects.insert("evil".into(), "</script><b>".into());
        let page = report(std::slice::from_ref(&record)).expect("plain data");
        let data = page.split("id=\"records\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("it is inside");
        assert_eq!(serde_json::from_str::<Vec<Record>>(data).expect("it is whole"), [record]);
        assert!(page.contains("&lt;/script&gt;&lt;b&gt;") && page.contains("2.6 &lt;&amp;&gt;"));
        assert!(page.contains("<b>6.0 x</b><span>the TCP goodput of openvpn, one stream") && page.contains("nebula is not here"));
        assert!(!page.contains("src=") && !page.contains("https://"), "it needs something else");
    }

    #[test]
    fn a_busy_machine_is_said_at_the_top() {
        let mut record = record();
        let page = |record: &Record| report(std::slice::from_ref(record)).expect("plain data");
        assert!(!page(&record).contains("The machine was busy"));
        record.samples.iter_mut().take(6).for_each(|sample| sample.disturbed = Some("a build".into()));
        assert!(page(&record).contains("The machine was busy: 25 %"));
    }

    #[test]
    fn several_runs_make_one_page() {
        let (mut first, mut second) = (record(), record());
        (first.plan.title, second.plan.title) = ("One & all".into(), "Two".into());
        let page = report(&[first, second]).expect("plain data");
        assert!(
            page.contains("<h2>One &amp; all</h2>") && page.contains("<h2>Two</h2>") && page.contains("cargo perf run --preset report")
        );
        assert_eq!(page.matches("<td>tcp-1<small>goodput</small></td>").count(), 2);
        assert_eq!(page.matches("nebula is not here").count(), 1, "a note is said once");
    }

    #[test]
    fn every_plot_is_a_file() {
        let names: Vec<String> = plots(&record()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["noise.svg", "whole-1500-tcp-1.svg"]);
    }
}
