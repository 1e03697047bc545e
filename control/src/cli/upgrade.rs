//! `penstock upgrade`: another control and the same engine, or another engine and the same control.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Client;
use super::{Failure, NO, Streams, YES};
use crate::admin::{Command, PeerState, Relieved, SCHEMA, State};

/// What is to be upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// penstockd
    Control,
    /// penstock-engine
    Engine,
}

/// How often to look whether the new one is there.
const LOOK: Duration = Duration::from_millis(100);

/// The peers that are up by an IKE SA of the control that answers, and not only by SAs of one before it.
fn held(state: &State) -> BTreeSet<&str> {
    state.peers.iter().filter(|peer| peer.state == PeerState::Up && peer.ike.is_some()).map(|peer| peer.name.as_str()).collect()
}

pub(super) fn control(run_dir: &Path, wait: u16, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let mut client = Client::connect(run_dir)?;
    let before = client.state()?;
    client.ask(Command::Upgrade)?;
    let end = Instant::now() + Duration::from_secs(wait.into());
    let after = loop {
        // Until the new one listens nobody answers.
        let state = Client::connect(run_dir).and_then(|mut client| client.state()).ok().filter(|state| state.site.pid != before.site.pid);
        if state.as_ref().is_some_and(|state| held(state).is_superset(&held(&before))) || Instant::now() >= end {
            break state;
        }
        std::thread::sleep(LOOK);
    };
    let Some(after) = after else {
        return Err(Failure::Because(NO, format!("the new penstockd has not answered for {wait} s; look at its log")));
    };
    let missing: Vec<&str> = held(&before).difference(&held(&after)).copied().collect();
    let (old, new) = (&before.site, &after.site);
    let done = missing.is_empty();
    if json {
        streams.json(&json!({
            "schema": SCHEMA, "ok": done, "from": { "version": old.version, "pid": old.pid },
            "to": { "version": new.version, "pid": new.pid }, "engine": after.engine.pid, "missing": missing,
        }))?;
    } else {
        let (from, to) = (format!("{} (process {})", old.version, old.pid), format!("{} (process {})", new.version, new.pid));
        streams.answer_line(&format!("penstockd {from} is relieved by {to}; the engine, process {}, goes on", after.engine.pid))?;
        if !done {
            streams.answer_line(&format!("not up again after {wait} s: {}", missing.join(", ")))?;
        }
    }
    Ok(if done { YES } else { NO })
}

/// The daemon answers when the queues have changed hands.
pub(super) fn engine(run_dir: &Path, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let mut client = Client::connect(run_dir)?;
    let relieved = client.ask(Command::UpgradeEngine)?.relieved.unwrap_or_default();
    let Relieved { from, to, pause_us, sas } = &relieved;
    if json {
        let (from, to) = (json!({ "pid": from }), json!({ "pid": to }));
        streams.json(&json!({ "schema": SCHEMA, "ok": true, "from": from, "to": to, "pause_us": pause_us, "sas": sas }))?;
    } else {
        let pause = Duration::from_micros(*pause_us);
        streams.answer_line(&format!("engine {from} is relieved by {to}: packets waited {pause:.1?}, {sas} SA pairs have successors"))?;
    }
    Ok(YES)
}
