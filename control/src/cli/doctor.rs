//! `penstock doctor`: what this machine lacks to run Penstock fast and tightly locked in. It looks and tries; it changes nothing.

use serde_json::json;

use super::{Failure, NO, Streams, YES};
use crate::admin::SCHEMA;

mod checks;

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Penstock runs, slower or less tightly locked in.
    Care,
    /// Penstock does not run.
    Bad,
    /// Only root can find out.
    Unknown,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Care => "care",
            Self::Bad => "bad",
            Self::Unknown => "unknown",
        }
    }
}

/// One line of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// Empty where nothing is to be done.
    remedy: String,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Good, found: found.into(), remedy: String::new() }
    }

    fn not_good(verdict: Verdict, what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, verdict, found: found.into(), remedy: remedy.into() }
    }
}

pub(super) fn run(json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    answer(&checks::all(), json, streams)
}

fn answer(checks: &[Check], json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let code = if checks.iter().any(|check| check.verdict == Verdict::Bad) { NO } else { YES };
    if json {
        let as_json =
            |check: &Check| json!({ "check": check.what, "verdict": check.verdict.word(), "found": check.found, "remedy": check.remedy });
        let all: Vec<_> = checks.iter().map(as_json).collect();
        streams.json(&json!({ "schema": SCHEMA, "ok": code == YES, "code": code, "checks": all }))?;
        return Ok(code);
    }
    for check in checks {
        let remedy = if check.remedy.is_empty() { String::new() } else { format!("; {}", check.remedy) };
        streams.answer_line(&format!("{:<7}  {:<14}  {}{remedy}", check.verdict.word(), check.what, check.found))?;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::{Check, Streams, Verdict, answer};

    fn said(checks: &[Check], json: bool) -> (u8, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = answer(checks, json, &mut Streams::new(&mut out, &mut err, false)).expect("it is written");
        (code, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn one_bad_check_makes_the_answer_no() {
        let good = Check::good("kernel", "Linux 6.18");
        let care = Check::not_good(Verdict::Care, "landlock", "none", "get one");
        assert_eq!(
            said(&[good.clone(), care.clone()], false),
            (0, "good     kernel          Linux 6.18\ncare     landlock        none; get one\n".into())
        );
        let bad = Check::not_good(Verdict::Bad, "tun", "gone", "modprobe tun");
        let (code, text) = said(&[good, care, bad], true);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((code, &value["ok"], &value["checks"][2]["remedy"]), (1, &false.into(), &"modprobe tun".into()));
    }
}
