//! `penstock apply` and `penstock confirm`: what the files say comes into force, and only the difference is touched.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::client::Client;
use super::{Failure, Streams, YES};
use crate::admin::{Change, Command, Cost, Kind, Plan, SCHEMA};
use crate::config::parse_duration;

/// The longest time that an apply may stand unconfirmed.
const CONFIRM_MAX: Duration = Duration::from_secs(3600);

/// Reads the time of `--confirm`.
pub(super) fn confirm_time(text: &str) -> Result<Duration, String> {
    parse_duration(text, CONFIRM_MAX).map_err(|(problem, remedy)| format!("{problem}; {remedy}"))
}

pub(super) fn apply(
    run_dir: &Path,
    dry_run: bool,
    confirm: Option<Duration>,
    json: bool,
    streams: &mut Streams<'_>,
) -> Result<u8, Failure> {
    let response = Client::connect(run_dir)?.exchange(Command::Apply { dry_run, confirm })?;
    let plan = response.plan.unwrap_or_default();
    if !response.ok {
        for finding in &plan.findings {
            streams.complain(finding);
        }
        let reason = response.error.unwrap_or_else(|| "penstockd refuses and gives no reason".into());
        return Err(Failure::Because(response.code.unwrap_or(super::ERROR), reason));
    }
    if json {
        streams.json(&json!({ "schema": SCHEMA, "ok": true, "plan": plan }))?;
        return Ok(YES);
    }
    for line in describe(&plan) {
        streams.answer_line(&line)?;
    }
    for finding in &plan.findings {
        streams.complain(&format!("warning: {finding}"));
    }
    Ok(YES)
}

pub(super) fn confirm(run_dir: &Path, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let message = Client::connect(run_dir)?.ask(Command::Confirm)?.message.unwrap_or_default();
    if json {
        streams.json(&json!({ "schema": SCHEMA, "ok": true, "message": message }))?
    } else {
        streams.answer_line(&message)?
    }
    Ok(YES)
}

/// The plan in lines for people.
fn describe(plan: &Plan) -> Vec<String> {
    if plan.changes.is_empty() {
        return vec![format!("nothing differs; {} peers go on as they are", plan.untouched)];
    }
    let mut lines: Vec<String> = plan.changes.iter().map(line).collect();
    let waits = plan.changes.iter().filter(|change| change.cost == Cost::Restart).count();
    lines.push(match plan.applied {
        true => format!("applied; {} peers not touched", plan.untouched),
        false => format!("nothing is changed yet; {} peers would not be touched", plan.untouched),
    });
    if waits > 0 {
        lines.push("what waits for a restart goes on as it was until then".into());
    }
    if let Some(within) = plan.confirm_within_ms {
        lines.push(format!("rolled back in {} s unless you confirm it: penstock confirm", within / 1000));
    }
    lines
}

fn line(change: &Change) -> String {
    let section = &change.section;
    match change.kind {
        Kind::Added => format!("+ {section}: its tunnel is made"),
        Kind::Removed => format!("- {section}: its tunnel is closed, its routes go"),
        Kind::Changed => format!("~ {section}: {}; {}", change.keys.join(", "), change.cost.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::{confirm_time, describe};
    use crate::admin::{Change, Cost, Kind, Plan};

    fn change(section: &str, kind: Kind, keys: &[&str], cost: Cost) -> Change {
        Change { section: section.into(), kind, keys: keys.iter().map(|key| (*key).to_owned()).collect(), cost }
    }

    #[test]
    fn each_change_is_a_line_with_its_cost() {
        let mut plan = Plan {
            changes: vec![
                change("site", Kind::Changed, &["port"], Cost::Restart),
                change("peer.oslo", Kind::Removed, &[], Cost::Tunnel),
                change("peer.paris", Kind::Added, &[], Cost::Tunnel),
                change("peer.rome", Kind::Changed, &["pfs", "window"], Cost::Rekey),
            ],
            untouched: 7,
            ..Plan::default()
        };
        let lines = describe(&plan);
        assert_eq!(
            lines,
            [
                "~ site: port; waits for a restart of penstockd",
                "- peer.oslo: its tunnel is closed, its routes go",
                "+ peer.paris: its tunnel is made",
                "~ peer.rome: pfs, window; its SAs get new keys, without loss",
                "nothing is changed yet; 7 peers would not be touched",
                "what waits for a restart goes on as it was until then",
            ]
        );
        (plan.applied, plan.confirm_within_ms) = (true, Some(30_000));
        let lines = describe(&plan);
        assert_eq!(lines[4], "applied; 7 peers not touched");
        assert_eq!(lines[6], "rolled back in 30 s unless you confirm it: penstock confirm");
        assert_eq!(describe(&Plan { untouched: 3, ..Plan::default() }), ["nothing differs; 3 peers go on as they are"]);
    }

    #[test]
    fn the_time_to_confirm_has_a_unit_and_a_bound() {
        assert_eq!(confirm_time("30s").map(|time| time.as_secs()), Ok(30));
        assert_eq!(confirm_time("5m").map(|time| time.as_secs()), Ok(300));
        assert!(confirm_time("30").is_err() && confirm_time("0s").is_err() && confirm_time("2h").is_err());
    }
}
