//! `penstock check [FILE]`: the configuration's mistakes, with the exit codes of monitoring plugins.

use std::path::Path;

use serde_json::{Value, json};

use super::{Failure, Streams};
use crate::admin::SCHEMA;
use crate::config::{Config, Finding};

const GOOD: u8 = 0;
const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

pub(super) fn run(file: &Path, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let (code, status, mistakes, warnings, notes) = match Config::load(file) {
        Ok(config) if config.warnings.is_empty() => (GOOD, summary(&config, file), Vec::new(), Vec::new(), config.notes),
        Ok(config) => (WARNING, summary(&config, file), Vec::new(), config.warnings, config.notes),
        Err(mistakes) => {
            // A file that is not there at all says nothing about its content.
            let unread = mistakes.iter().any(|mistake| mistake.place.line == 0 && mistake.place.file == file);
            (if unread { UNKNOWN } else { CRITICAL }, String::new(), mistakes, Vec::new(), Vec::new())
        }
    };
    if json {
        let name = ["ok", "warning", "critical", "unknown"].get(usize::from(code)).copied().unwrap_or("unknown");
        let all =
            mistakes.iter().map(|finding| as_json(finding, "mistake")).chain(warnings.iter().map(|finding| as_json(finding, "warning")));
        let findings: Vec<Value> = all.collect();
        streams
            .json(&json!({ "schema": SCHEMA, "ok": code == GOOD, "status": name, "code": code, "findings": findings, "notes": notes }))?;
        return Ok(code);
    }
    for mistake in &mistakes {
        streams.answer_line(&mistake.to_string())?;
    }
    for warning in &warnings {
        streams.answer_line(&format!("warning: {warning}"))?;
    }
    if mistakes.is_empty() {
        streams.answer_line(&status)?;
    }
    for note in &notes {
        streams.answer_line(&format!("note: {note}"))?;
    }
    Ok(code)
}

fn summary(config: &Config, file: &Path) -> String {
    let judged = if config.warnings.is_empty() { "good" } else { "usable" };
    let peers = match config.peers.len() {
        1 => "1 peer".to_owned(),
        many => format!("{many} peers"),
    };
    format!("{}: {judged}: site {}, interface {}, {peers}", file.display(), config.site.name, config.interface.name)
}

fn as_json(finding: &Finding, severity: &str) -> Value {
    json!({
        "severity": severity,
        "file": finding.place.file.display().to_string(),
        "line": finding.place.line,
        "key": finding.place.key,
        "problem": finding.problem,
        "remedy": finding.remedy,
    })
}
