//! Given messages longer than a path takes, they travel in pieces (RFC 7383), and no piece that is not the peer's counts.

use super::{PEER, Pair, child_request};
use crate::fragment::whole_octets_max;
use crate::message::{Chain, Header, exchange, kind};

/// A request for liveness that is longer than one datagram may be: its padding is a vendor ID.
fn long(octets: usize) -> Chain {
    let mut chain = Chain::default();
    chain.push(kind::VENDOR, &vec![5; octets]);
    chain
}

/// The pieces of one long request of site 0, which are still on their way.
fn pieces(pair: &mut Pair, octets: usize) -> Vec<Vec<u8>> {
    pair.kept = Some(vec![]);
    pair.send(0, exchange::INFORMATIONAL, &long(octets));
    pair.kept.take().expect("kept").into_iter().map(|(_, message)| message).collect()
}

/// How many answers site 1 has sent.
fn answers(pair: &Pair) -> usize {
    pair.sent.iter().filter(|(who, _)| *who == 1).count()
}

#[test]
fn a_long_message_is_cut_to_what_every_path_takes_and_put_together_again() {
    for (octets, count) in [(400, 1), (500, 2), (3_000, 7)] {
        let mut pair = Pair::up();
        let pieces = pieces(&mut pair, octets);
        assert_eq!(pieces.len(), count, "{octets}");
        let most = whole_octets_max(pair.sites[0].2.ip());
        assert!(pieces.iter().all(|piece| piece.len() <= most));
        for (index, piece) in pieces.iter().enumerate() {
            assert_eq!(answers(&pair), 0, "before piece {index}");
            pair.deliver(0, piece);
            pair.run();
        }
        assert_eq!(answers(&pair), 1);
    }
}

#[test]
fn the_limit_is_that_of_the_family() {
    let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|address| whole_octets_max(address.parse().expect("an address")));
    assert_eq!((v4, v6), (544, 1_228));
}

#[test]
fn pieces_come_in_any_order_and_more_than_once() {
    let mut pair = Pair::up();
    let mut pieces = pieces(&mut pair, 1_500);
    pieces.reverse();
    let last = pieces.pop().expect("the first one");
    for piece in pieces.iter().chain(&pieces) {
        pair.deliver(0, piece);
    }
    pair.run();
    assert_eq!(answers(&pair), 0);
    pair.deliver(0, &last);
    pair.run();
    assert_eq!(answers(&pair), 1);
    // A repetition is answered once: to its first piece.
    for piece in pieces.iter().chain([&last]) {
        pair.deliver(0, piece);
    }
    pair.run();
    assert_eq!(answers(&pair), 2);
}

#[test]
fn a_forged_piece_neither_counts_nor_takes_the_place_of_a_true_one() {
    let mut pair = Pair::up();
    let pieces = pieces(&mut pair, 1_500);
    for piece in &pieces {
        // Number, total, octets inside, next payload: each belongs to what is authenticated.
        for at in [28, 33, 35, 60, piece.len() - 1] {
            let mut forged = piece.clone();
            forged[at] ^= 1;
            pair.deliver(0, &forged);
        }
        assert!(pair.sites[1].0.poll().is_none());
    }
    for piece in &pieces {
        pair.deliver(0, piece);
    }
    pair.run();
    assert_eq!(answers(&pair), 1);
}

#[test]
fn a_peer_that_takes_no_pieces_gets_none_and_none_are_taken_from_it() {
    let mut pair = Pair::up();
    pair.sites[0].0.sas.values_mut().for_each(|sa| sa.fragments = false);
    assert_eq!(pieces(&mut pair, 3_000).len(), 1);
    let mut pair = Pair::up();
    pair.sites[1].0.sas.values_mut().for_each(|sa| sa.fragments = false);
    for piece in pieces(&mut pair, 1_500) {
        pair.deliver(0, &piece);
    }
    pair.run();
    assert_eq!(answers(&pair), 0);
}

#[test]
fn a_repetition_that_is_cut_smaller_is_put_together_and_answered_again() {
    let mut pair = Pair::up();
    let request = pair.sites[0].0.sas.values().next().expect("an IKE SA").requests.next;
    let large = pieces(&mut pair, 1_100);
    // The same message once more, as a sender does that doubts the path: more pieces of the same message id.
    let smaller: Vec<Vec<u8>> = {
        let sa = pair.sites[0].0.sas.values_mut().next().expect("an IKE SA");
        sa.requests.next = request;
        pieces(&mut pair, 1_600)
    };
    assert!(smaller.len() > large.len());
    pair.deliver(0, &large[0]);
    for piece in &smaller {
        pair.deliver(0, piece);
    }
    pair.run();
    assert_eq!(answers(&pair), 1);
    // It is cut otherwise than what was answered: the first piece is known by its key.
    pair.deliver(0, &large[0]);
    pair.run();
    assert_eq!(answers(&pair), 2);
}

#[test]
fn all_pieces_are_sent_again_until_they_are_answered() {
    let mut pair = Pair::up();
    let before = pieces(&mut pair, 1_500);
    let (ike, host, _) = &mut pair.sites[0];
    let due = ike.sas.values().next().and_then(|sa| sa.requests.outstanding.as_ref()).expect("outstanding").due;
    ike.tick(due, host);
    pair.kept = Some(vec![]);
    pair.run();
    let again: Vec<Vec<u8>> = pair.kept.take().expect("kept").into_iter().map(|(_, message)| message).collect();
    assert_eq!(again, before);
}

#[test]
fn an_answer_comes_in_pieces_as_well() {
    // Many selectors make both the request and the answer long.
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[0];
    let mut config = (*ike.cx.peer(PEER).expect("configured")).clone();
    config.local_subnets = (0..60).map(|third| format!("10.1.{third}.0/24").parse().expect("a prefix")).collect();
    ike.cx.peers.get_mut(&PEER).expect("configured").config = config.into();
    ike.create_child(0, PEER, 1, host).expect("per core");
    pair.run();
    assert_eq!((pair.children(0), pair.children(1)), (2, 2));
    let of = |who: usize| pair.sent.iter().filter(|(from, _)| *from == who).count();
    assert!(of(0) > 1 && of(1) > 1, "{} and {}", of(0), of(1));
    assert!(pair.sent.iter().all(|(_, message)| Header::parse(message).is_ok_and(|(header, _)| header.next == kind::FRAGMENT)));
    // And a further request is read as before.
    pair.send(0, exchange::CREATE_CHILD, &child_request(|_| ()));
    assert_eq!(pair.children(1), 3);
}
