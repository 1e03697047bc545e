//! The report: one HTML file that needs nothing but itself, with the raw data inside.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::measure::Measure;
use super::plot::{self, STYLE, escape};
use super::record::{Line, Record, WireKind};
use super::summary::shown;
use super::table::{headlines, notes, ratio_words};

/// The page's own style, beside that of the plots.
const PAGE: &str = "\
body{background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',sans-serif;max-width:68rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}\
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .3rem;letter-spacing:-.01em}h2{font-size:1.25rem;margin:3rem 0 1rem}p,li{max-width:46rem}.muted,dt{color:var(--muted)}\
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:1.25rem;margin:2rem 0}.fact{border-top:3px solid var(--c0);padding-top:.6rem}\
.fact b{display:block;font-size:2rem;line-height:1.15;font-variant-numeric:tabular-nums}.fact span{color:var(--muted);font-size:.9rem}\
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(26rem,100%),1fr));gap:2rem 3rem}.plots svg{width:100%;height:auto;display:block}\
.wide{overflow-x:auto;margin-top:2rem}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;width:100%}th{text-align:left;font-weight:600;color:var(--muted)}\
td,th{padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--grid);white-space:nowrap}td.n,th.n{text-align:right}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1.2rem;font-size:.95rem}dd{margin:0;overflow-wrap:anywhere}.warn{border-left:3px solid var(--c1);padding-left:1rem}\
a{color:var(--c0)}footer{margin-top:3rem}";

/// Offers the embedded record as a file.
const SCRIPT: &str = "const data=document.getElementById('record').textContent,link=document.getElementById('save');\
link.href=URL.createObjectURL(new Blob([data],{type:'application/json'}));link.hidden=false;";

/// The page.
///
/// # Errors
/// If the record cannot be written as JSON.
pub fn report(record: &Record) -> Result<String> {
    let json = serde_json::to_string(record).context("the record")?.replace("</", "<\\/"); // no end of script in any string
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Penstock in turn with others</title><style>{STYLE}{PAGE}</style></head><body>"
    );
    page += &head(record);
    for wire in &record.plan.wires {
        page += &section(record, *wire);
    }
    page += &foot(record);
    let _ = write!(page, "<script type=\"application/json\" id=\"record\">{json}</script><script>{SCRIPT}</script></body></html>");
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

fn head(record: &Record) -> String {
    let disturbed = record.samples.iter().filter(|sample| sample.disturbed.is_some()).count();
    let mut text = format!(
        "<h1>Penstock in turn with others</h1><p class=\"muted\">{}, {} x {}, {} GiB. {} rounds of {} s. Commit {}.</p>",
        escape(&record.machine.kernel),
        record.machine.processors,
        escape(&record.machine.cpu),
        record.machine.memory_bytes >> 30,
        record.plan.rounds,
        record.plan.seconds,
        escape(if record.machine.commit.is_empty() { "unknown" } else { &record.machine.commit }),
    );
    if disturbed * 5 > record.samples.len() {
        let share = disturbed * 100 / record.samples.len().max(1);
        let _ = write!(
            text,
            "<p class=\"warn\">The machine was busy: {share} % of the measurements were disturbed. Penstock's engine runs at a higher priority than the \
             others do, so ratios from this run favour it. Take it as a hint, not as a figure.</p>"
        );
    }
    text += "<div class=\"facts\">";
    for line in headlines(record, "tcp-1", "goodput_gbps") {
        let Some(ratio) = &line.penstock_to_this else { continue };
        let _ = write!(
            text,
            "<div class=\"fact\"><b>{:.1} x</b>{}<br><span>TCP goodput, one stream, wire {}; {}</span></div>",
            ratio.median,
            escape(&line.subject),
            line.wire,
            escape(&ratio_words(ratio))
        );
    }
    text + "</div>"
}

fn section(record: &Record, wire: WireKind) -> String {
    let mut text = format!("<h2>Wire: {wire}</h2><div class=\"plots\">");
    of_wire(record, wire).into_iter().for_each(|(_, plot)| text += &plot);
    text += "</div><div class=\"wide\"><table><thead><tr><th>measure</th><th>subject</th><th class=\"n\">median</th><th class=\"n\">wire</th>\
             <th class=\"n\">to wire</th><th class=\"n\">Penstock to this</th><th class=\"n\">n</th><th class=\"n\">disturbed</th></tr></thead><tbody>";
    for measure in &record.plan.measures {
        for line in headlines(record, measure, Measure::headline(measure)).filter(|line| line.wire == wire) {
            text += &row(line);
        }
    }
    text + "</tbody></table></div>"
}

fn row(line: &Line) -> String {
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
    format!("<tr><td>{}</td><td>{}</td>{cells}</tr>", escape(&line.measure), escape(&line.subject))
}

fn foot(record: &Record) -> String {
    let mut text = format!("<h2>The machine meanwhile</h2><div class=\"plots\">{}</div><h2>Notes</h2><ul>", plot::noise(record));
    notes(record).iter().for_each(|note| text += &format!("<li>{}</li>", escape(note)));
    text += "<li>A dot is a measurement, a stroke the median; a hollow dot was disturbed by other programs or the hypervisor.</li></ul><h2>Versions</h2><dl>";
    record.subjects.iter().for_each(|(name, version)| text += &format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(version)));
    text + &format!(
        "</dl><footer class=\"muted\">Begun {}, took {:.0} s. <a id=\"save\" download=\"run.json\" hidden>Every sample as JSON</a></footer>",
        escape(&record.started),
        record.seconds
    )
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
        let page = report(&record).expect("plain data");
        let data = page.split("id=\"record\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("it is inside");
        assert_eq!(serde_json::from_str::<Record>(data).expect("it is whole"), record);
        assert!(page.contains("&lt;/script&gt;&lt;b&gt;") && page.contains("2.6 &lt;&amp;&gt;"));
        assert!(page.contains("<b>6.0 x</b>openvpn") && page.contains("nebula is not here"));
        assert!(!page.contains("src=") && !page.contains("https://"), "it needs something else");
    }

    #[test]
    fn a_busy_machine_is_said_at_the_top() {
        let mut record = record();
        assert!(!report(&record).expect("plain data").contains("The machine was busy"));
        record.samples.iter_mut().take(6).for_each(|sample| sample.disturbed = Some("a build".into()));
        assert!(report(&record).expect("plain data").contains("The machine was busy: 25 %"));
    }

    #[test]
    fn every_plot_is_a_file() {
        let names: Vec<String> = plots(&record()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["noise.svg", "whole-1500-tcp-1.svg"]);
    }
}
