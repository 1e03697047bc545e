//! Given a second key exchange that was agreed, what each side makes of it when it goes wrong (RFC 9242, RFC 9370).

use super::{PEER, Pair};
use crate::PeerState;
use crate::message::{Chain, exchange, notify};
use crate::sa::Stage;

/// Both sites with ML-KEM, their first exchange done, and the request of IKE_INTERMEDIATE on its way, in pieces.
fn before_mixing() -> (Pair, Vec<Vec<u8>>) {
    let mut pair = Pair::new();
    for (ike, ..) in &mut pair.sites {
        let state = ike.cx.peers.get_mut(&PEER).expect("configured");
        let mut config = (*state.config).clone();
        config.ml_kem = true;
        state.config = config.into();
    }
    let (ike, host, _) = &mut pair.sites[0];
    ike.initiate(0, PEER, true, host);
    for _ in 0..2 {
        pair.kept = Some(vec![]);
        pair.run();
        for (from, message) in pair.kept.take().expect("kept") {
            pair.deliver(from, &message);
        }
    }
    pair.kept = Some(vec![]);
    pair.run();
    let pieces = pair.kept.take().expect("kept").into_iter().map(|(_, message)| message).collect();
    (pair, pieces)
}

/// Site 0 sends something of its own instead of IKE_INTERMEDIATE, under the same message id.
fn instead(pair: &mut Pair, exchange: u8, chain: &Chain) {
    let sa = pair.sites[0].0.sas.values_mut().next().expect("begun");
    sa.requests.next = 1;
    let purpose = sa.requests.outstanding.take().expect("asked").purpose;
    let ike = &mut pair.sites[0].0;
    let sa = ike.sas.values_mut().next().expect("begun");
    sa.send_request(&mut ike.cx, 0, exchange, chain, purpose);
    pair.run();
}

#[test]
fn the_honest_course_ends_with_both_up() {
    let (mut pair, pieces) = before_mixing();
    assert_eq!(pieces.len(), 3);
    pieces.iter().for_each(|piece| pair.deliver(0, piece));
    pair.run();
    assert_eq!([pair.state(0), pair.state(1)], [PeerState::Up; 2]);
}

#[test]
fn a_value_that_is_none_is_refused_and_the_handshake_ends() {
    for (group, octets) in [(36, 1_183), (36, 0), (31, 32), (37, 1_568)] {
        let (mut pair, _) = before_mixing();
        let mut chain = Chain::default();
        chain.ke(group, &vec![9; octets]);
        instead(&mut pair, exchange::INTERMEDIATE, &chain);
        assert!(matches!(pair.sites[1].0.sas.values().next().expect("kept").stage, Stage::Refused), "{group} {octets}");
        assert!(pair.said.iter().any(|line| line == "b refused us: INVALID_SYNTAX of our second key exchange"), "{:?}", pair.said);
        assert_eq!(pair.state(0), PeerState::Down);
    }
}

#[test]
fn nobody_is_authenticated_before_the_second_key_exchange() {
    let (mut pair, _) = before_mixing();
    let before = pair.sent.len();
    instead(&mut pair, exchange::AUTH, &Chain::default());
    assert_eq!(pair.sent.len(), before + 1, "no answer");
    assert!(matches!(pair.sites[1].0.sas.values().next().expect("kept").stage, Stage::HalfOpen(_)));
}

#[test]
fn an_error_instead_of_the_answer_ends_the_try() {
    let (mut pair, _) = before_mixing();
    let mut chain = Chain::default();
    chain.notify(notify::TEMPORARY_FAILURE, &[]);
    let sa = pair.sites[1].0.sas.values_mut().next().expect("half open");
    sa.accept_request([0; 32]);
    let (spi_i, spi_r) = (sa.remote_spi, sa.spi);
    let header = crate::message::Header {
        spi_i,
        spi_r,
        next: 0,
        major: 2,
        exchange: exchange::INTERMEDIATE,
        initiator: true,
        response: false,
        id: 1,
    };
    let came = crate::exchange::Came { header, from: pair.sites[0].2, to: pair.sites[1].2 };
    let ike = &mut pair.sites[1].0;
    let sa = ike.sas.values_mut().next().expect("half open");
    sa.reply(&mut ike.cx, &came, &chain);
    pair.run();
    assert!(pair.said.iter().any(|line| line == "b refused us: TEMPORARY_FAILURE of our second key exchange"), "{:?}", pair.said);
}

#[test]
fn what_was_said_before_belongs_to_the_proof() {
    for who in [0, 1] {
        let (mut pair, pieces) = before_mixing();
        pair.kept = Some(vec![]);
        pieces.iter().for_each(|piece| pair.deliver(0, piece));
        pair.run();
        // One side has another idea of what IKE_INTERMEDIATE was.
        let answer = pair.kept.take().expect("kept");
        pair.sites[who].0.sas.values_mut().for_each(|sa| sa.bound.spoil());
        answer.into_iter().for_each(|(from, message)| pair.deliver(from, &message));
        pair.run();
        assert_eq!([pair.state(0), pair.state(1)], [PeerState::Down; 2], "{who}");
        assert!(pair.said.iter().any(|line| line.contains("AUTHENTICATION_FAILED")), "{:?}", pair.said);
    }
}
