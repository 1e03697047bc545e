//! Given a rekey of the IKE SA that meets something else, what each side answers and which IKE SA has the children
//! (RFC 7296 sections 2.8.2, 2.18 and 2.25.2).

use super::{PEER, Pair, child_request, ike_choice, ike_offer};
use crate::config::Group;
use crate::crypto::{Algorithms, Exchange, Prf};
use crate::message::{Chain, Header, Payloads, exchange, kind, notify};
use crate::output::Host;
use crate::proposal::{self, Proposal};
use crate::sa::{IkeSa, Stage};
use crate::{IkeSuite, Output, PeerState};

/// The IKE SA that has children, and nothing else is left beside it.
fn only(pair: &Pair, who: usize) -> &IkeSa {
    assert_eq!(pair.sites[who].0.sas.len(), 1, "{:?}", pair.said);
    pair.sites[who].0.sas.values().next().expect("an IKE SA")
}

fn first(pair: &mut Pair, who: usize) -> &mut IkeSa {
    pair.sites[who].0.sas.values_mut().next().expect("an IKE SA")
}

/// Time for a rekey of the IKE SA has come for site `who`.
fn begin(pair: &mut Pair, who: usize) {
    let (ike, host, _) = &mut pair.sites[who];
    ike.sas.values_mut().filter(|sa| sa.live()).for_each(|sa| sa.rekey_at = Some(0));
    ike.tick(0, host);
    pair.run();
}

fn agreed(pair: &Pair) {
    assert_eq!((only(pair, 0).spi, only(pair, 0).remote_spi), (only(pair, 1).remote_spi, only(pair, 1).spi));
    assert!([0, 1].iter().all(|who| only(pair, *who).live() && only(pair, *who).up()), "established, with the child");
    assert_eq!([pair.state(0), pair.state(1)], [PeerState::Up; 2]);
}

/// A request of site 0 for a new IKE SA, with what `change` makes of the proposal.
fn renewal(pair: &mut Pair, group: Group, change: impl FnOnce(&mut Proposal)) -> Chain {
    let mut proposal = Proposal { spi: 77_u64.to_be_bytes().to_vec(), ..ike_offer(&[IkeSuite::Aes256Gcm16], &[group]) };
    change(&mut proposal);
    let public = Exchange::new(group, &mut pair.sites[0].1).expect("a key").public;
    let mut chain = Chain::default();
    chain.push(kind::SA, &proposal::write(&proposal)).nonce(&[1; 32]).ke(group.number(), &public);
    chain
}

#[test]
fn a_rekey_moves_the_children_and_starts_counting_anew() {
    for who in [0, 1] {
        let mut pair = Pair::up();
        pair.send(who, exchange::INFORMATIONAL, &Chain::default());
        let (spis, children) =
            ([0, 1].map(|who| only(&pair, who).spi), [0, 1].map(|who| only(&pair, who).children.keys().copied().collect::<Vec<_>>()));
        begin(&mut pair, who);
        agreed(&pair);
        for side in [0, 1] {
            let sa = only(&pair, side);
            assert!(sa.spi != spis[side] && sa.initiator == (side == who) && sa.founder == (side == 0));
            assert_eq!(sa.children.keys().copied().collect::<Vec<_>>(), children[side]);
            assert_eq!((sa.requests.next, sa.replies.expected), (0, 0), "message ids begin at 0");
            assert!(sa.rekey_at.is_some_and(|at| (12_960_000..=14_400_000).contains(&at)), "{:?}", sa.rekey_at);
        }
        // And it works: children can be made and liveness asked, both ways, and once more all over again.
        for side in [0, 1] {
            pair.send(side, exchange::INFORMATIONAL, &Chain::default());
            let (ike, host, _) = &mut pair.sites[side];
            assert_eq!(ike.rekey(0, PEER, host), Ok(1));
            pair.run();
            begin(&mut pair, side);
            agreed(&pair);
        }
    }
}

#[test]
fn a_rekey_waits_until_nothing_is_under_way_and_nothing_begins_meanwhile() {
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    let (ike, host, _) = &mut pair.sites[0];
    ike.rekey(0, PEER, host).expect("up");
    pair.run();
    begin(&mut pair, 0);
    assert_eq!(pair.kept.as_ref().map(Vec::len), Some(1), "only the rekey of the child is on its way");
    let (ike, host, _) = &mut pair.sites[0];
    assert_eq!(ike.create_child(0, PEER, 5, host), Err(crate::CreateRefused::NotUp));
    let kept = pair.kept.take().expect("messages");
    kept.iter().for_each(|(from, message)| pair.deliver(*from, message));
    pair.run();
    let spi = only(&pair, 0).spi;
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| at < 1_000), "soon again");
    begin(&mut pair, 0);
    agreed(&pair);
    assert_ne!(only(&pair, 0).spi, spi);
}

#[test]
fn no_ike_sa_is_rekeyed_while_a_child_is_made_rekeyed_or_closed() {
    type Act = fn(&mut Pair);
    let make: Act = |pair| {
        let (ike, host, _) = &mut pair.sites[1];
        ike.create_child(0, PEER, 3, host).expect("per core");
    };
    let rekey: Act = |pair| {
        let (ike, host, _) = &mut pair.sites[1];
        ike.rekey(0, PEER, host).expect("up");
    };
    let close: Act = |pair| {
        first(pair, 1).confirmed = true;
        first(pair, 1).deadline = Some(1 << 40);
        let child = only(pair, 1).children.keys().next().copied().expect("a child");
        pair.sites[1].0.delete_child(0, child);
    };
    for act in [make, rekey, close] {
        let mut pair = Pair::up();
        let request = renewal(&mut pair, Group::X25519, |_| ());
        pair.kept = Some(Vec::new());
        act(&mut pair);
        pair.run();
        pair.kept = None;
        pair.send(0, exchange::CREATE_CHILD, &request);
        assert_eq!((pair.answer(1), pair.sites[1].0.sas.len()), (vec![notify::TEMPORARY_FAILURE], 1));
    }
    let mut pair = Pair::up();
    let request = renewal(&mut pair, Group::X25519, |_| ());
    first(&mut pair, 1).stage = Stage::Leaving;
    pair.send(0, exchange::CREATE_CHILD, &request);
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn no_child_is_made_or_rekeyed_while_we_rekey_the_ike_sa_but_it_may_be_deleted() {
    for rekey in [false, true] {
        let mut pair = Pair::up();
        pair.kept = Some(Vec::new());
        begin(&mut pair, 1);
        pair.kept = None;
        let spi = only(&pair, 0).children.values().next().map(|child| child.spi).expect("a child");
        let request = child_request(|chain| {
            if rekey {
                chain.notify_child(notify::REKEY_SA, spi);
            }
        });
        pair.send(0, exchange::CREATE_CHILD, &request);
        assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
        first(&mut pair, 1).deadline = Some(1 << 40);
        let mut chain = Chain::default();
        chain.delete(3, &[spi]);
        pair.send(0, exchange::INFORMATIONAL, &chain);
        assert_eq!(pair.children(1), 0);
    }
}

#[test]
fn both_sides_at_once_and_the_one_with_the_lowest_nonce_goes() {
    let mut kept_of = [0; 2];
    for variant in 0..24 {
        let mut pair = Pair::up();
        pair.sites[0].1.random(&mut vec![0; variant + 1]);
        pair.kept = Some(Vec::new());
        begin(&mut pair, 0);
        begin(&mut pair, 1);
        let requests = pair.kept.replace(Vec::new()).expect("messages");
        assert_eq!(requests.len(), 2);
        requests.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        let of = |who: usize| pair.sites[who].0.sas.values().find_map(|sa| sa.heir.clone()).expect("an heir");
        let winner = usize::from(of(1).1 < of(0).1);
        kept_of[winner] += 1;
        assert!([0, 1].iter().all(|who| pair.sites[*who].0.sas.values().any(|sa| sa.up() && sa.heir.is_some())), "children have not moved");
        pair.kept.take().expect("answers").iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        agreed(&pair);
        assert_eq!([0, 1].map(|who| only(&pair, who).initiator), [winner == 0, winner == 1], "variant {variant}");
    }
    assert!(kept_of.iter().all(|kept| *kept > 3), "{kept_of:?}");
}

#[test]
fn a_delete_of_the_old_one_ends_our_own_rekey_and_the_peers_takes_over() {
    let mut seen = 0;
    for variant in 0..16 {
        let mut pair = Pair::up();
        pair.sites[0].1.random(&mut vec![0; variant + 1]);
        pair.kept = Some(Vec::new());
        begin(&mut pair, 0);
        begin(&mut pair, 1);
        let requests = pair.kept.replace(Vec::new()).expect("messages");
        requests.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        // The answer to site 0 never comes; site 1 has won and deletes the old one.
        let of = |who: usize| pair.sites[who].0.sas.values().find_map(|sa| sa.heir.clone()).expect("an heir");
        if of(1).1 > of(0).1 {
            continue;
        }
        seen += 1;
        let answers = pair.kept.take().expect("answers");
        answers.iter().filter(|(from, _)| *from == 0).for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        assert_eq!(pair.state(0), PeerState::Up);
        assert!(pair.sites[0].0.sas.values().all(|sa| sa.live() && sa.up() && !sa.initiator), "the peer's has the children");
        // What site 1 keeps of the one that went is forgotten after a while, because nobody else knows it.
        let spare = pair.sites[1].0.sas.values().find(|sa| sa.live() && !sa.up()).map(|sa| sa.deadline);
        assert_eq!(spare, Some(Some(30_000)));
        pair.sent.clear();
        let (ike, host, _) = &mut pair.sites[1];
        ike.tick(30_000, host);
        pair.run();
        agreed(&pair);
    }
    assert!(seen > 3);
}

#[test]
fn who_uses_the_heir_has_decided_for_it() {
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    begin(&mut pair, 0);
    begin(&mut pair, 1);
    let requests = pair.kept.replace(Vec::new()).expect("messages");
    // Only site 0 hears of the other's request, and site 1 uses what it has made of the answer.
    pair.deliver(requests[1].0, &requests[1].1);
    pair.run();
    let answers = pair.kept.take().expect("the answer");
    pair.kept = Some(Vec::new());
    answers.iter().for_each(|(from, message)| pair.deliver(*from, message));
    pair.run();
    let (ike, host, _) = &mut pair.sites[1];
    ike.rekey(0, PEER, host).expect("up");
    pair.run();
    let sent = pair.kept.replace(Vec::new()).expect("messages");
    let rekey = sent.iter().find(|(_, message)| message[18] == exchange::CREATE_CHILD).expect("a rekey of the child");
    assert!(pair.sites[0].0.sas.values().any(|sa| sa.up() && sa.heir.is_some()), "undecided");
    pair.deliver(rekey.0, &rekey.1);
    pair.run();
    assert!(pair.sites[0].0.sas.values().any(|sa| !sa.initiator && sa.children.len() == 2), "the child is there, and its successor");
}

#[test]
fn an_unused_heir_does_not_outlive_its_time_nor_an_old_one_that_nobody_deletes() {
    let mut pair = Pair::up();
    let request = renewal(&mut pair, Group::X25519, |_| ());
    pair.send(0, exchange::CREATE_CHILD, &request);
    assert!(pair.sites[1].0.sas.values().any(|sa| matches!(sa.stage, Stage::Replaced) && sa.children.is_empty()));
    assert_eq!(pair.state(1), PeerState::Up);
    let (ike, host, _) = &mut pair.sites[1];
    ike.tick(30_000, host);
    assert!(ike.sas.values().any(|sa| matches!(sa.stage, Stage::Leaving)), "we delete it ourselves");
}

#[test]
fn a_rekey_of_the_ike_sa_that_makes_no_sense_is_refused_and_costs_nothing() {
    type Change = fn(&mut Proposal);
    let cases: [(Change, u16); 4] = [
        (|offer| offer.spi = vec![0; 8], notify::INVALID_SYNTAX),
        (|offer| offer.spi = vec![1; 4], notify::INVALID_SYNTAX),
        (|offer| offer.transforms.truncate(1), notify::NO_PROPOSAL_CHOSEN),
        (|offer| *offer = Proposal { spi: vec![1; 8], ..ike_offer(&[IkeSuite::Aes256Gcm16], &[Group::P256]) }, notify::INVALID_KE_PAYLOAD),
    ];
    for (change, answer) in cases {
        let mut pair = Pair::up();
        let request = renewal(&mut pair, Group::X25519, change);
        pair.send(0, exchange::CREATE_CHILD, &request);
        assert_eq!((pair.answer(1), pair.sites[1].0.sas.len(), pair.state(1)), (vec![answer], 1, PeerState::Up));
    }
    for (nonce, ke) in [(false, Some(32)), (true, None), (true, Some(31))] {
        let mut pair = Pair::up();
        let mut chain = Chain::default();
        chain.push(kind::SA, &proposal::write(&Proposal { spi: vec![1; 8], ..ike_offer(&[IkeSuite::Aes256Gcm16], &[Group::X25519]) }));
        if nonce {
            chain.nonce(&[1; 32]);
        }
        ke.into_iter().for_each(|bytes| _ = chain.ke(31, &vec![9; bytes]));
        pair.send(0, exchange::CREATE_CHILD, &chain);
        assert_eq!((pair.answer(1), pair.sites[1].0.sas.len()), (vec![notify::INVALID_SYNTAX], 1), "{nonce} {ke:?}");
    }
}

/// Site 0 asks for a rekey of the IKE SA and gets this for an answer, which need not be one of ours.
fn answered(pair: &mut Pair, answer: impl FnOnce(&mut Pair) -> Chain) {
    pair.kept = Some(Vec::new());
    begin(pair, 0);
    pair.kept = None;
    let chain = answer(pair);
    let (ike, host, _) = &mut pair.sites[0];
    let spi = *ike.sas.keys().next().expect("an IKE SA");
    let sa = ike.sas.get_mut(&spi).expect("there");
    (sa.requests.outstanding, sa.requests.next) = (None, sa.requests.next - 1);
    let payloads = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
    ike.renewal_answered(0, spi, &payloads, host);
    ike.after(0, spi);
}

#[test]
fn refusals_are_tried_again_each_in_its_time() {
    let error = |kind: u16| {
        move |_: &mut Pair| {
            let mut chain = Chain::default();
            chain.notify(kind, &[]);
            chain
        }
    };
    for (kind, soonest, told) in [(notify::TEMPORARY_FAILURE, 800, false), (notify::NO_PROPOSAL_CHOSEN, 24_000, true)] {
        let mut pair = Pair::up();
        answered(&mut pair, error(kind));
        assert!(only(&pair, 0).rekey_at.is_some_and(|at| (soonest..=soonest * 3 / 2).contains(&at)), "{:?}", only(&pair, 0).rekey_at);
        assert_eq!((pair.sites[0].0.cx.peers[&PEER].last_error.is_some(), only(&pair, 0).renewing), (told, false));
        begin(&mut pair, 0);
        agreed(&pair);
    }
    // Again and again, less and less often, each for itself.
    let mut pair = Pair::up();
    let refused = [30_000, 60_000, 120_000, 240_000, 300_000, 300_000].map(|ideal| (notify::NO_PROPOSAL_CHOSEN, ideal));
    let moments = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].map(|ideal| (notify::TEMPORARY_FAILURE, ideal));
    for (kind, ideal) in refused.into_iter().chain(moments) {
        answered(&mut pair, error(kind));
        assert!(only(&pair, 0).rekey_at.is_some_and(|at| (ideal * 79 / 100..=ideal * 121 / 100).contains(&at)), "{kind} {ideal}");
    }
    // The heir begins anew.
    begin(&mut pair, 0);
    answered(&mut pair, error(notify::TEMPORARY_FAILURE));
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| at <= 1_200), "{:?}", only(&pair, 0).rekey_at);
    // A peer that rekeys nothing gets a fresh IKE SA beside the old one.
    let mut pair = Pair::up();
    answered(&mut pair, error(notify::NO_ADDITIONAL_SAS));
    let (ike, host, _) = &mut pair.sites[0];
    ike.tick(0, host);
    assert_eq!(ike.sas.values().filter(|sa| sa.starting() && !sa.initial_contact).count(), 1);
}

#[test]
fn the_group_that_the_peer_wants_is_tried_once() {
    let wants = |group: Group| {
        move |_: &mut Pair| {
            let mut chain = Chain::default();
            chain.notify(notify::INVALID_KE_PAYLOAD, &group.number().to_be_bytes());
            chain
        }
    };
    let mut pair = Pair::up();
    pair.sites[1].0.cx.config.groups = vec![Group::P256];
    begin(&mut pair, 0);
    agreed(&pair);
    assert_eq!(only(&pair, 0).suite, "aes256gcm16-prfsha256-p256");
    let mut pair = Pair::up();
    answered(&mut pair, wants(Group::P256));
    assert!(first(&mut pair, 0).renewal.is_some(), "again with the other group");
    first(&mut pair, 0).renewal = None;
    pair.sites[0].0.cx.config.groups = vec![Group::X25519];
    first(&mut pair, 0).requests.outstanding = None;
    answered(&mut pair, wants(Group::P256));
    assert!(first(&mut pair, 0).renewal.is_none(), "one that we did not offer is not");
}

#[test]
fn an_answer_that_was_not_asked_for_is_not_taken() {
    let offer = Proposal { spi: 77_u64.to_be_bytes().to_vec(), ..ike_choice(IkeSuite::Aes256Gcm16, Group::X25519) };
    let other = Proposal { spi: vec![1; 8], ..ike_choice(IkeSuite::Aes256Gcm16, Group::P256) };
    let cases =
        [(offer.clone(), 31, true), (other, 31, false), (offer.clone(), 19, false), (Proposal { spi: vec![0; 8], ..offer }, 31, false)];
    for (chosen, group, taken) in cases {
        let mut pair = Pair::up();
        let spi = only(&pair, 0).spi;
        answered(&mut pair, |pair| {
            let public = Exchange::new(Group::X25519, &mut pair.sites[1].1).expect("a key").public;
            let mut chain = Chain::default();
            chain.push(kind::SA, &proposal::write(&chosen)).nonce(&[2; 32]).ke(group, &public);
            chain
        });
        let moved = pair.sites[0].0.sas.values().any(|sa| sa.spi != spi && sa.up());
        assert_eq!(moved, taken, "{group}");
    }
}

#[test]
fn an_heir_that_the_peer_has_deleted_takes_no_children_with_it() {
    // Both asked; the peer's own IKE SA lost and is gone, our answer never came, and then the peer begins anew.
    let mut pair = Pair::up();
    let (ike, ..) = &mut pair.sites[0];
    let spi = *ike.sas.keys().next().expect("an IKE SA");
    ike.sas.get_mut(&spi).expect("an IKE SA").heir = Some((77, vec![1]));
    ike.remove(0, spi, None);
    assert!(std::iter::from_fn(|| ike.poll()).any(|output| matches!(output, Output::Retire { .. })), "the engine is told");
}

#[test]
fn the_new_keys_are_not_the_old_ones() {
    let mut pair = Pair::up();
    let old = pair.sites[0].0.sas.pop_first().map(|(_, sa)| sa).expect("an IKE SA");
    let seal = |pair: &Pair| {
        let (_, message) = pair.sent.last().expect("a message").clone();
        message
    };
    pair.sites[0].0.sas.insert(old.spi, old);
    begin(&mut pair, 0);
    pair.send(0, exchange::INFORMATIONAL, &Chain::default());
    let message = seal(&pair);
    let (header, _) = Header::parse(&message).expect("well formed");
    assert!(only(&pair, 0).whole(&header, &message).is_some());
    assert_ne!(header.spi_i, 0);
    // Both ends derive from the old SK_d, the fresh secret and the nonces: another secret gives other keys.
    let seeds = || crate::crypto::Seeds { nonce_i: &[1; 32], nonce_r: &[2; 32], spi_i: 1, spi_r: 2 };
    let keys = only(&pair, 0).keys.as_ref().expect("keys");
    let algorithms = Algorithms { cipher: IkeSuite::Aes256Gcm16, integrity: None, prf: Prf::Sha256 };
    let derive = |shared: &[u8]| keys.renew(algorithms, shared, seeds(), true).expect("keys").derive.to_vec();
    assert_ne!(derive(&[1; 32]), derive(&[2; 32]));
    assert_ne!(derive(&[1; 32]), keys.derive.to_vec());
}
