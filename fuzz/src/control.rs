//! What an engine says, as control hears it: an engine that was taken over may say anything.

use penstock::admin::{Core, Engine, Peer, Response, Sa, State};
use penstock::engine::Event;
use penstock::show::{Options, render};
use penstock_uapi::Frame;
use penstock_uapi::reply::{CoreState, HandBack, PolicyState, SaState, Welcome};

use crate::records;

/// Frames, one a record. What they say is put into the state, shown, and sent to the command.
///
/// # Panics
/// If the command could not read what the daemon writes.
pub fn answers(bytes: &[u8]) {
    let mut state = State::default();
    let mut peer = Peer::default();
    for part in records::split(bytes).take(256) {
        let Ok(frame) = Frame::parse(part) else { continue };
        // A frame is an event of a known kind, or it ends the connection.
        let _ = Event::read(&frame);
        let _ = frame.body::<HandBack>();
        if let Ok(welcome) = frame.body::<Welcome>() {
            let mut engine = Engine::default();
            engine.set_features(welcome.features.get());
            state.engine = engine;
        }
        if let Ok(core) = frame.body::<CoreState>() {
            state.cores.push(Core::new(core, 0));
        }
        if let Ok(policy) = frame.body::<PolicyState>() {
            peer.set_traffic(policy);
        }
        if let Ok(sa) = frame.body::<SaState>() {
            peer.sas.push(Sa::from(sa));
        }
    }
    state.peers.push(peer);
    state.sum_drops();
    assert!(!render(&state, Options::default()).is_empty());
    let line = Response::show(1, state.clone()).to_line();
    assert_eq!(Response::parse(&line).expect("the daemon's own words"), Response::show(1, state));
}
