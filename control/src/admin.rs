//! The conversation over `control.sock`: one JSON object a line, each way.
//!
//! ```text
//! {"id":1,"command":"show"}                 {"id":1,"ok":true,"state":{"schema":1,…}}
//! {"id":2,"command":"up","peer":"london"}   {"id":2,"ok":true,"message":"london: connecting"}
//! {"id":3,"command":"dance"}                {"id":3,"ok":false,"error":"…","code":2}
//! ```
//!
//! JSON because scripts read it without a library of ours. Only types and text live here; sockets belong to the
//! daemon and to the command, so that both are tested from plain strings.

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use plan::{Change, Cost, Kind, Plan};
pub use state::{Core, Engine, Ike, Interface, Peer, PeerState, Sa, Sandbox, Site, State, Traffic};

pub mod plan;
pub mod state;

/// The most bytes of one request line, its newline included. A longer one is answered with an error and the
/// connection is closed, because its rest cannot be told from a next request.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The most bytes that the command accepts in one response: thousands of peers with hundreds of cores fit.
pub const RESPONSE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The number of the JSON schema. Adding fields keeps it; changing or removing one raises it.
pub const SCHEMA: u32 = 1;

/// What the command asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The answer carries the same number.
    pub id: u64,
    /// The order.
    pub command: Command,
}

/// The orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Describe everything; answered by [`Response::show`].
    Show,
    /// Let a peer (or all) connect, at once.
    Up {
        /// The peer's name; `None`: all.
        peer: Option<String>,
    },
    /// Close a peer's tunnel (or all) and keep it closed. Routes stay, so nothing leaks in clear.
    Down {
        /// The peer's name; `None`: all.
        peer: Option<String>,
    },
    /// Give a peer's SAs new keys, now.
    Rekey {
        /// The peer's name.
        peer: String,
    },
    /// Bring what the files say into force; answered by [`Response::plan`].
    Apply {
        /// Only say what would change.
        dry_run: bool,
        /// Go back unless [`Command::Confirm`] comes within this time, of whole seconds.
        confirm: Option<Duration>,
    },
    /// Keep what was applied for a time.
    Confirm,
    /// Let the program on disk take control's place, while packets go on.
    Upgrade,
    /// Let the engine on disk relieve the one that runs.
    UpgradeEngine,
}

impl Command {
    /// How long an answer may take: ten seconds, or as long as thousands of peers may take to agree to new keys.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if *self == Self::UpgradeEngine { Duration::from_secs(180) } else { Duration::from_secs(10) }
    }

    /// The names of all of them.
    pub const NAMES: [&str; 8] = ["show", "up", "down", "rekey", "apply", "confirm", "upgrade", "upgrade-engine"];
}

/// A request as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: u64,
    command: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    confirm_s: Option<u32>,
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// The refusal to send back; its id is the request's where it could be read, else 0.
    pub fn parse(line: &str) -> Result<Self, Response> {
        if line.len() > REQUEST_BYTES_MAX {
            return Err(Response::refused(0, MISUSE, format!("a request has at most {REQUEST_BYTES_MAX} bytes")));
        }
        let written: Written = serde_json::from_str(line).map_err(|error| {
            let id = serde_json::from_str::<serde_json::Value>(line).ok().and_then(|value| value.get("id")?.as_u64()).unwrap_or(0);
            Response::refused(id, MISUSE, format!("no request: {error}; send for example {{\"id\":1,\"command\":\"show\"}}"))
        })?;
        let misuse = |reason: String| Err(Response::refused(written.id, MISUSE, reason));
        if written.command != "apply" && (written.dry_run || written.confirm_s.is_some()) {
            return misuse("only apply takes dry_run and confirm_s".into());
        }
        let command = match (written.command.as_str(), written.peer) {
            ("show", None) => Command::Show,
            ("apply", None) => {
                let confirm = written.confirm_s.map(|seconds| Duration::from_secs(seconds.into()));
                Command::Apply { dry_run: written.dry_run, confirm }
            }
            ("confirm", None) => Command::Confirm,
            ("upgrade", None) => Command::Upgrade,
            ("upgrade-engine", None) => Command::UpgradeEngine,
            ("show", Some(_)) => return misuse("show takes no peer; it always answers with the whole state".into()),
            ("apply" | "confirm" | "upgrade" | "upgrade-engine", Some(_)) => {
                return misuse("apply, confirm and upgrades take no peer; they are about the whole daemon".into());
            }
            ("up", peer) => Command::Up { peer },
            ("down", peer) => Command::Down { peer },
            ("rekey", Some(peer)) => Command::Rekey { peer },
            ("rekey", None) => return misuse("rekey needs a peer".into()),
            (other, _) => return misuse(format!("unknown command {other:?}; there are {}", Command::NAMES.join(", "))),
        };
        Ok(Self { id: written.id, command })
    }

    /// The line to send, its newline included.
    #[must_use]
    pub fn to_line(&self) -> String {
        let (command, peer) = match &self.command {
            Command::Show => ("show", None),
            Command::Up { peer } => ("up", peer.clone()),
            Command::Down { peer } => ("down", peer.clone()),
            Command::Rekey { peer } => ("rekey", Some(peer.clone())),
            Command::Apply { .. } => ("apply", None),
            Command::Confirm => ("confirm", None),
            Command::Upgrade => ("upgrade", None),
            Command::UpgradeEngine => ("upgrade-engine", None),
        };
        let (dry_run, confirm) = match self.command {
            Command::Apply { dry_run, confirm } => (dry_run, confirm),
            _ => (false, None),
        };
        let confirm_s = confirm.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        to_line(&Written { id: self.id, command: command.into(), peer, dry_run, confirm_s })
    }
}

/// The `code` of a refusal: what was asked makes no sense. Codes are those that the command exits with.
pub const MISUSE: u8 = 2;

/// The `code` of a refusal: the answer is no.
pub const NO: u8 = 1;

/// One engine has relieved another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relieved {
    /// The process that ran.
    pub from: u32,
    /// The process that runs.
    pub to: u32,
    /// How long nobody read the TUN queues, in microseconds; packets waited there.
    pub pause_us: u64,
    /// SA pairs that got a successor.
    pub sas: usize,
}

/// What the daemon answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The request's number.
    pub id: u64,
    /// Whether it was done.
    pub ok: bool,
    /// The answer to `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<State>>,
    /// The answer to `apply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Box<Plan>>,
    /// The answer to `upgrade-engine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relieved: Option<Relieved>,
    /// One line for people: what was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// One line for people: why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The exit code that the command ends with: [`NO`] or [`MISUSE`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

impl Response {
    /// The answer to `show`.
    #[must_use]
    pub fn show(id: u64, state: State) -> Self {
        Self { id, ok: true, state: Some(Box::new(state)), ..Self::default() }
    }

    /// The answer to `apply`.
    #[must_use]
    pub fn plan(id: u64, plan: Plan) -> Self {
        Self { id, ok: true, plan: Some(Box::new(plan)), ..Self::default() }
    }

    /// The answer to `upgrade-engine`.
    #[must_use]
    pub fn relieved(id: u64, relieved: Relieved) -> Self {
        Self { id, ok: true, relieved: Some(relieved), ..Self::default() }
    }

    /// Done.
    #[must_use]
    pub fn done(id: u64, message: impl Into<String>) -> Self {
        Self { id, ok: true, message: Some(message.into()), ..Self::default() }
    }

    /// Not done.
    #[must_use]
    pub fn refused(id: u64, code: u8, error: impl Into<String>) -> Self {
        Self { id, ok: false, error: Some(error.into()), code: Some(code), ..Self::default() }
    }

    /// The line to send, its newline included.
    #[must_use]
    pub fn to_line(&self) -> String {
        to_line(self)
    }

    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(line)
    }
}

fn to_line(value: &impl Serialize) -> String {
    // These types have string keys and no failing serializer, the only two reasons for an error.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Command, REQUEST_BYTES_MAX, Request, Response};

    #[test]
    fn every_request_is_read_as_it_was_written() {
        let peer = Some("london".to_owned());
        for command in [
            Command::Show,
            Command::Up { peer: None },
            Command::Up { peer: peer.clone() },
            Command::Down { peer: None },
            Command::Down { peer },
            Command::Rekey { peer: "london".to_owned() },
            Command::Apply { dry_run: true, confirm: None },
            Command::Apply { dry_run: false, confirm: Some(Duration::from_secs(30)) },
            Command::Confirm,
            Command::Upgrade,
            Command::UpgradeEngine,
        ] {
            let request = Request { id: 7, command };
            let line = request.to_line();
            assert!(line.ends_with('\n') && line.trim_end().lines().count() == 1, "{line:?}");
            assert_eq!(Request::parse(line.trim_end()), Ok(request));
        }
        assert_eq!(Request { id: 1, command: Command::Show }.to_line(), "{\"id\":1,\"command\":\"show\"}\n");
    }

    #[test]
    fn a_bad_request_is_answered_with_its_id_and_a_reason() {
        let long = format!("{{\"id\":4,\"command\":\"{}\"}}", "x".repeat(REQUEST_BYTES_MAX));
        for (line, id, part) in [
            ("", 0, "no request"),
            ("[]", 0, "no request"),
            ("{\"id\":5}", 5, "command"),
            ("{\"id\":5,\"command\":\"show\",\"pear\":\"x\"}", 5, "pear"),
            ("{\"id\":5,\"command\":\"show\",\"peer\":\"x\"}", 5, "takes no peer"),
            ("{\"id\":5,\"command\":\"rekey\"}", 5, "needs a peer"),
            ("{\"id\":5,\"command\":\"apply\",\"peer\":\"x\"}", 5, "whole daemon"),
            ("{\"id\":5,\"command\":\"up\",\"dry_run\":true}", 5, "only apply"),
            ("{\"id\":6,\"command\":\"dance\"}", 6, "unknown command \"dance\""),
            ("{\"id\":-6,\"command\":\"show\"}", 0, "no request"),
            (long.as_str(), 0, "at most 65536 bytes"),
        ] {
            let response = Request::parse(line).expect_err("a refusal");
            assert_eq!((response.id, response.ok, response.code), (id, false, Some(2)), "{line}");
            assert!(response.error.as_deref().is_some_and(|error| error.contains(part)), "{line}: {response:?}");
        }
    }

    #[test]
    fn responses_hold_only_what_they_say() {
        assert_eq!(Response::done(2, "london: connecting").to_line(), "{\"id\":2,\"ok\":true,\"message\":\"london: connecting\"}\n");
        assert_eq!(
            Response::refused(3, 1, "no peer \"x\"").to_line(),
            "{\"id\":3,\"ok\":false,\"error\":\"no peer \\\"x\\\"\",\"code\":1}\n"
        );
        let shown = Response::show(1, super::State::default());
        assert_eq!(Response::parse(&shown.to_line()).expect("a response"), shown);
    }
}
