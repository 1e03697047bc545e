//! `penstock show [PEER]`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::client::{Client, require_peer};
use super::{Failure, NO, Streams, YES};
use crate::admin::PeerState;
use crate::show::{Options, remedy, render};

/// The time between the two looks from which rates are told. Short enough not to be felt, long enough for a steady figure.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn run(run_dir: &Path, peer: Option<&str>, json: bool, streams: &mut Streams<'_>) -> Result<u8, Failure> {
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
        let options = Options { peer, before: Some((&before, first.elapsed())), colour: streams.colour };
        streams.answer(&render(&state, options))?;
    }
    let down = peer.is_some_and(|name| !state.peers.iter().any(|shown| shown.name == name && shown.state == PeerState::Up));
    Ok(if down { NO } else { YES })
}
