//! `penstock show [PEER]` and `penstock show peer NAME`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Client, require_peer};
use super::{Failure, NO, Streams, YES};
use crate::admin::PeerState;
use crate::show::{Options, remedy, render};

/// The time between the two looks from which rates are told. Short enough not to be felt, long enough for a steady figure.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn run(run_dir: &Path, words: &[String], json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
    let (peer, detail) = match words {
        [] => (None, false),
        [peer] => (Some(peer.as_str()), false),
        [what, peer] if what == "peer" => (Some(peer.as_str()), true),
        _ => return Err(Failure::error("show takes one peer: penstock show NAME, or penstock show peer NAME for everything about it")),
    };
    let mut client = Client::connect(run_dir)?;
    let mut state = client.state()?;
    require_peer(&state, peer)?;
    if json {
        // A script works out rates from the counters of its own two looks.
        state.peers.retain(|shown| peer.is_none_or(|name| name == shown.name));
        for shown in &mut state.peers {
            shown.remedy = remedy(shown);
        }
        streams.json(&state)?;
    } else {
        let first = Instant::now();
        std::thread::sleep(LOOK);
        let before = std::mem::replace(&mut state, client.state()?);
        let options = Options { peer, detail, before: Some((&before, first.elapsed())), colour: streams.colour };
        streams.answer(&render(&state, options))?;
    }
    let down = peer.is_some_and(|name| !state.peers.iter().any(|shown| shown.name == name && shown.state == PeerState::Up));
    Ok(if down { NO } else { YES })
}
