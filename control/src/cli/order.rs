//! `penstock up [PEER]`, `penstock down [PEER]`, `penstock wait PEER` and `penstock peer rekey PEER`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Client, require_peer};
use super::{Failure, NO, Streams, YES};
use crate::admin::{Command, Peer, PeerState, SCHEMA, State};
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
    until_up(&mut client, peer, Duration::from_secs(wait.into()), json, streams)
}

/// `penstock wait`: only looks.
pub(super) fn wait(run_dir: &Path, peer: &str, timeout: Duration, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let mut client = Client::connect(run_dir)?;
    require_peer(&*client.state()?, Some(peer))?;
    until_up(&mut client, Some(peer), timeout, json, streams)
}

/// Looks until this peer, or all, are up, or the time is over; then says how it stands.
fn until_up(client: &mut Client, peer: Option<&str>, wait: Duration, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let end = Instant::now() + wait;
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
            streams.answer_line(&outcome(peer, wait.as_secs()))?;
        }
    }
    Ok(if all_up { YES } else { NO })
}

fn outcome(peer: &Peer, wait: u64) -> String {
    let clean = |text: &str| text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    match peer.state {
        PeerState::Up => format!("{}: up", peer.name),
        _ => {
            let remedy = remedy(peer).map(|remedy| format!("; {}", clean(&remedy))).unwrap_or_default();
            format!("{}: not up after {wait} s: {}{remedy}", peer.name, clean(peer.reason.as_deref().unwrap_or("no reason known")))
        }
    }
}

/// The keys of a peer, by the SPIs that they came with: of the pairs that are in use or about to be, and of the IKE SA.
fn keys(peer: &Peer) -> (BTreeSet<&str>, Option<&str>) {
    let used = peer.sas.iter().filter(|sa| sa.phase != "draining" && sa.phase != "expected");
    (used.map(|sa| sa.inbound_spi.as_str()).collect(), peer.ike.as_ref().map(|ike| ike.initiator_spi.as_str()))
}

pub(super) fn rekey(run_dir: &Path, name: &str, wait: u16, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let mut client = Client::connect(run_dir)?;
    let before = client.state()?;
    require_peer(&before, Some(name))?;
    let of = |state: &State| state.peers.iter().find(|peer| peer.name == name).cloned().unwrap_or_default();
    let before = of(&before);
    let began = Instant::now();
    let message = client.ask(Command::Rekey { peer: name.to_owned() })?.message.unwrap_or_default();
    if wait == 0 {
        done(&message, json, streams)?;
        return Ok(YES);
    }
    let (old_pairs, old_ike) = keys(&before);
    let (peer, all) = loop {
        let peer = of(&*client.state()?);
        let (pairs, ike) = keys(&peer);
        let all = !pairs.is_empty() && pairs.is_disjoint(&old_pairs) && ike.is_some() && ike != old_ike;
        if all || began.elapsed() >= Duration::from_secs(wait.into()) {
            break (peer, all);
        }
        std::thread::sleep(LOOK);
    };
    let pairs = keys(&peer).0;
    let left = pairs.intersection(&old_pairs).count();
    if json {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        streams.json(
            &json!({ "schema": SCHEMA, "ok": all, "peer": name, "pairs": pairs.len(), "pairs_with_old_keys": left, "after_ms": ms }),
        )?;
    } else if all {
        streams.answer_line(&format!("{name}: {} pairs and the IKE SA have new keys", pairs.len()))?;
    } else {
        let ike = if keys(&peer).1 == old_ike { " and the IKE SA" } else { "" };
        streams.answer_line(&format!("{name}: after {wait} s {left} pairs{ike} still have old keys; it goes on, and the log says why"))?;
    }
    Ok(if all { YES } else { NO })
}

pub(super) fn down(run_dir: &Path, peer: Option<&str>, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let message = Client::connect(run_dir)?.ask(Command::Down { peer: peer.map(str::to_owned) })?.message.unwrap_or_default();
    done(&message, json, streams)?;
    Ok(YES)
}

fn done(message: &str, json: bool, streams: &mut Streams<'_>) -> Result<(), Failure> {
    if json { streams.json(&json!({ "schema": SCHEMA, "ok": true, "message": message })) } else { streams.answer_line(message) }
}
