//! `penstock up [PEER]` and `penstock down [PEER]`.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Client;
use super::{Failure, NO, Streams, YES};
use crate::admin::{Command, Peer, PeerState, SCHEMA};
use crate::show::remedy;

/// How often to look whether a peer is up.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn up(run_dir: &Path, peer: Option<&str>, wait: u16, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let mut client = Client::connect(run_dir)?;
    let message = client.ask(Command::Up { peer: peer.map(str::to_owned) })?.message.unwrap_or_default();
    if wait == 0 {
        done(&message, json, streams)?;
        return Ok(YES);
    }
    let end = Instant::now() + Duration::from_secs(wait.into());
    let peers = loop {
        let mut peers = client.state()?.peers;
        peers.retain(|shown| peer.is_none_or(|name| name == shown.name));
        if peers.iter().all(|peer| peer.state == PeerState::Up) || Instant::now() >= end {
            break peers;
        }
        std::thread::sleep(LOOK);
    };
    let all_up = peers.iter().all(|peer| peer.state == PeerState::Up);
    if json {
        let peers: Vec<_> = peers
            .iter()
            .map(|peer| json!({ "name": peer.name, "state": peer.state, "reason": peer.reason, "remedy": remedy(peer) }))
            .collect();
        streams.json(&json!({ "schema": SCHEMA, "ok": all_up, "peers": peers }))?;
    } else {
        for peer in &peers {
            streams.answer_line(&outcome(peer, wait))?;
        }
    }
    Ok(if all_up { YES } else { NO })
}

fn outcome(peer: &Peer, wait: u16) -> String {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    match peer.state {
        PeerState::Up => format!("{}: up", peer.name),
        _ => {
            let remedy = remedy(peer).map(|remedy| format!("; {}", clean(&remedy))).unwrap_or_default();
            format!("{}: not up after {wait} s: {}{remedy}", peer.name, clean(peer.reason.as_deref().unwrap_or("no reason known")))
        }
    }
}

pub(super) fn down(run_dir: &Path, peer: Option<&str>, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let message = Client::connect(run_dir)?.ask(Command::Down { peer: peer.map(str::to_owned) })?.message.unwrap_or_default();
    done(&message, json, streams)?;
    Ok(YES)
}

fn done(message: &str, json: bool, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if json { streams.json(&json!({ "schema": SCHEMA, "ok": true, "message": message })) } else { streams.answer_line(message) }
}
