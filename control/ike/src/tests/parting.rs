//! Given a peer that closes one of two IKE SAs, when its DELETE is answered: behind what was sent on the old one's children.

use super::{PEER, Pair};
use crate::message::{Header, exchange};
use crate::sa::Stage;
use crate::{Output, PeerConfig, PeerState, Start};

/// Site 0 has authenticated anew, and its DELETE of the old IKE SA has come to site 1.
fn parting() -> Pair {
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[0];
    ike.initiate(0, PEER, false, host);
    pair.run();
    pair
}

/// Answers of site 1 to DELETE.
fn answers(pair: &Pair) -> usize {
    let answer =
        |message: &[u8]| Header::parse(message).is_ok_and(|(header, _)| header.response && header.exchange == exchange::INFORMATIONAL);
    let before = pair.sent.iter().position(|(who, message)| *who == 0 && delete(message)).expect("a DELETE");
    pair.sent[before..].iter().filter(|(who, message)| *who == 1 && answer(message)).count()
}

/// The only request that site 0 sends in an INFORMATIONAL.
fn delete(message: &[u8]) -> bool {
    Header::parse(message).is_ok_and(|(header, _)| !header.response && header.exchange == exchange::INFORMATIONAL)
}

fn tick(pair: &mut Pair, now: u64) {
    let (ike, host, _) = &mut pair.sites[1];
    ike.tick(now, host);
    pair.now = now;
    pair.run();
}

#[test]
fn the_answer_follows_a_while_after_the_last_packet_if_another_one_serves() {
    let mut pair = parting();
    assert_eq!((answers(&pair), pair.sites[1].0.next_deadline().map(|at| at <= 200)), (0, Some(true)), "{:?}", pair.said);
    let old: Vec<_> = pair.sites[1].0.sas.values().filter(|sa| matches!(sa.stage, Stage::Parting(_))).collect();
    assert_eq!((old.len(), old[0].children.len()), (1, 0), "nothing is sent on its children any more");
    assert_eq!((pair.children(1), pair.state(1)), (1, PeerState::Up));
    // Asked again it is no faster.
    let again = pair.sent.iter().rev().find(|(_, message)| delete(message)).cloned().expect("a DELETE");
    pair.deliver(0, &again.1);
    tick(&mut pair, 199);
    assert_eq!((answers(&pair), pair.sites[1].0.sas.len()), (0, 2));
    tick(&mut pair, 200);
    assert_eq!((answers(&pair), pair.sites[0].0.sas.len(), pair.sites[1].0.sas.len()), (1, 1, 1), "{:?}", pair.said);
    assert_eq!((pair.state(0), pair.state(1)), (PeerState::Up, PeerState::Up));
}

#[test]
fn the_children_are_retired_when_the_delete_comes() {
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[0];
    ike.initiate(0, PEER, false, host);
    pair.kept = Some(Vec::new());
    while !pair.kept.as_ref().is_some_and(|kept| kept.iter().any(|(who, message)| *who == 0 && delete(message))) {
        let kept = pair.kept.replace(Vec::new()).expect("messages");
        kept.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
    }
    let kept = pair.kept.take().expect("messages");
    kept.iter().for_each(|(from, message)| pair.deliver(*from, message));
    let outputs: Vec<Output> = std::iter::from_fn(|| pair.sites[1].0.poll()).collect();
    let retired = outputs.iter().filter(|output| matches!(output, Output::Retire { drain_ms: 5_000, .. })).count();
    let sent = outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    assert_eq!((retired, sent), (1, 0), "{outputs:?}");
}

#[test]
fn the_last_one_is_answered_at_once() {
    let mut pair = Pair::up();
    pair.sites[0].0.close(0, PEER);
    pair.run();
    assert_eq!((answers(&pair), pair.sites[0].0.sas.len(), pair.sites[1].0.sas.len()), (1, 0, 0));
}

#[test]
fn one_that_parts_is_answered_before_its_site_closes() {
    let mut pair = parting();
    pair.sites[1].0.close(0, PEER);
    pair.run();
    assert_eq!((answers(&pair), pair.sites[1].0.sas.len(), pair.sites[0].0.sas.len()), (1, 0, 0));
}

#[test]
fn an_ike_sa_that_parts_is_lost_once() {
    let mut pair = parting();
    let peer = pair.sites[1].0.cx.peers.get_mut(&PEER).expect("the peer");
    let config = PeerConfig { start: Start::Demand, ..PeerConfig::clone(&peer.config) };
    // Nothing is tried again when its answer leaves: that was decided when the DELETE came.
    (peer.config, peer.replacing, peer.try_from) = (config.into(), true, 0);
    tick(&mut pair, 200);
    assert_eq!((answers(&pair), pair.sites[1].0.cx.peers[&PEER].try_from), (1, 0));
}
