//! Given a rekey of a child that meets something else, what each side answers and what stays (RFC 7296 sections 2.8.1 and 2.25.1).

use super::{PEER, Pair, child_request};
use crate::child::{Child, Step};
use crate::config::Group;
use crate::crypto::Exchange;
use crate::fragment::Opened;
use crate::message::{Chain, Header, Payloads, exchange, kind, notify};
use crate::output::{ChildId, Host};
use crate::proposal::{self, Proposal};
use crate::sa::{IkeSa, Task};
use crate::{Output, PeerState, Suite};

pub(super) fn sa(pair: &Pair, who: usize) -> &IkeSa {
    pair.sites[who].0.sas.values().next().expect("an IKE SA")
}

pub(super) fn sa_mut(pair: &mut Pair, who: usize) -> &mut IkeSa {
    pair.sites[who].0.sas.values_mut().next().expect("an IKE SA")
}

pub(super) fn only(pair: &Pair, who: usize) -> &Child {
    assert_eq!(sa(pair, who).children.len(), 1);
    sa(pair, who).children.values().next().expect("a child")
}

/// The request of site 0 to rekey its child with this SPI.
fn rekey_request(spi: u32) -> Chain {
    child_request(|chain| _ = chain.notify_child(notify::REKEY_SA, spi))
}

pub(super) fn begin(pair: &mut Pair, who: usize) {
    let (ike, host, _) = &mut pair.sites[who];
    assert_eq!(ike.rekey(0, PEER, host), Ok(1));
    pair.run();
}

/// Site 0 asks for a rekey, and gets this for an answer.
pub(super) fn refuse(pair: &mut Pair, answer: &Chain) {
    pair.kept = Some(Vec::new());
    begin(pair, 0);
    pair.kept = None;
    let (spi, ike, host) = (sa(pair, 0).spi, &mut pair.sites[0].0, &mut pair.sites[0].1);
    let sa = ike.sas.get_mut(&spi).expect("there");
    let Some(crate::retransmit::Purpose::CreateChild(id, child)) = sa.requests.outstanding.take().map(|request| request.purpose) else {
        panic!("a request for a child")
    };
    sa.requests.next -= 1; // the peer has never seen it
    let payloads = Payloads::parse(answer.first(), answer.bytes()).expect("well formed");
    let then = crate::exchange::create::on_response(&mut ike.cx, 0, sa, (id, child), &payloads, host);
    ike.created(0, spi, then);
    while ike.poll().is_some() {}
}

pub(super) fn error(kind: u16) -> Chain {
    let mut chain = Chain::default();
    chain.notify(kind, &[]);
    chain
}

/// What site `who` sent last, opened by the other one.
fn with_last<T>(pair: &Pair, who: usize, look: impl FnOnce(&Payloads<'_>) -> T) -> T {
    let (_, message) = pair.sent.iter().rev().find(|(from, _)| *from == who).expect("a message");
    let (header, _) = Header::parse(message).expect("well formed");
    let Opened { first, inner, .. } = sa(pair, 1 - who).whole(&header, message).expect("sealed for the other");
    look(&Payloads::parse(first, &inner).expect("well formed"))
}

#[test]
fn a_rekey_names_the_child_by_our_spi_and_the_successor_takes_its_place() {
    for who in [0, 1] {
        let mut pair = Pair::up();
        let (old, theirs) = (only(&pair, who).spi, only(&pair, who).remote_spi);
        pair.kept = Some(Vec::new());
        begin(&mut pair, who);
        with_last(&pair, who, |payloads| {
            assert_eq!(payloads.notify(notify::REKEY_SA).expect("named").spi, old.to_be_bytes());
            assert!(payloads.ke.is_none() && payloads.nonce.is_some() && payloads.ts_r.is_some());
        });
        let (_, request) = pair.kept.take().and_then(|mut kept| kept.pop()).expect("a request");
        pair.deliver(who, &request);
        pair.run();
        for (side, gone) in [(who, old), (1 - who, theirs)] {
            let child = only(&pair, side);
            assert!(child.up() && child.fallback && child.spi != gone && child.initiator == (side == who));
            assert_eq!(child.rekey_at.map(|at| (3_240_000..=3_600_000).contains(&at)), Some(true), "it is rekeyed in its time");
        }
        assert_eq!(only(&pair, 0).remote_spi, only(&pair, 1).spi);
    }
}

#[test]
fn a_child_that_is_not_there_is_not_found() {
    let mut pair = Pair::up();
    for spi in [0, 0x7777_7777] {
        pair.send(0, exchange::CREATE_CHILD, &rekey_request(spi));
        assert_eq!(pair.answer(1), [notify::CHILD_SA_NOT_FOUND]);
        assert_eq!(with_last(&pair, 1, |answer| answer.notifies[0].spi.to_vec()), spi.to_be_bytes());
    }
    assert_eq!(pair.children(1), 1);
}

#[test]
fn a_child_that_may_be_there_soon_is_not_called_missing() {
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    begin(&mut pair, 1);
    pair.kept = None;
    pair.send(0, exchange::CREATE_CHILD, &rekey_request(0x7777_7777));
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn a_child_that_we_delete_is_rekeyed_by_nobody() {
    let mut pair = Pair::up();
    let spi = only(&pair, 0).spi;
    sa_mut(&mut pair, 1).children.values_mut().for_each(|child| child.step = Step::Deleting);
    pair.send(0, exchange::CREATE_CHILD, &rekey_request(spi));
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
    // The same for one that is out of our books while our DELETE waits or is on its way.
    let mut pair = Pair::up();
    let spi = only(&pair, 0).spi;
    let doomed = sa_mut(&mut pair, 1).children.pop_first().map(|(_, child)| crate::sa::Doomed::new(&child)).expect("a child");
    sa_mut(&mut pair, 1).requests.waiting.push_back(Task::DeleteChild(vec![doomed]));
    pair.kept = Some(Vec::new());
    pair.send(0, exchange::CREATE_CHILD, &rekey_request(spi));
    let (_, request) = pair.kept.as_mut().and_then(Vec::pop).expect("a request");
    pair.deliver(0, &request);
    pair.run();
    let kept = pair.kept.take().expect("messages");
    assert_eq!(kept.len(), 2, "the answer, and the DELETE behind it");
    pair.sent.truncate(pair.sent.len() - 1);
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn a_child_has_one_successor() {
    let mut pair = Pair::up();
    let spi = only(&pair, 0).spi;
    pair.send(0, exchange::CREATE_CHILD, &rekey_request(spi));
    assert!(!pair.answer(1).contains(&notify::TEMPORARY_FAILURE));
    pair.send(0, exchange::CREATE_CHILD, &rekey_request(spi));
    assert_eq!((pair.answer(1), pair.children(1)), (vec![notify::TEMPORARY_FAILURE], 2));
    // And we ask for none where the peer has made one.
    let (ike, host, _) = &mut pair.sites[1];
    let old = ike.sas.values().next().and_then(|sa| sa.children.values().next()).map(|child| child.spi).expect("the old one");
    assert_eq!(ike.rekey_child(0, old, host), Err(crate::RekeyRefused::UnderWay));
}

/// The peer has agreed to our successor, and asks for one of its own before our engine has ours.
fn agreed_and_asked() -> (Pair, ChildId) {
    let mut pair = Pair::up();
    let old = only(&pair, 1).spi;
    pair.slow = true;
    begin(&mut pair, 0);
    pair.slow = false;
    pair.sent.clear();
    pair.send(1, exchange::CREATE_CHILD, &rekey_request(old));
    assert_eq!(pair.sent.len(), 1, "no answer yet");
    let (_, request) = pair.sent[0].clone();
    pair.deliver(1, &request);
    pair.run();
    assert_eq!(pair.sent.len(), 1, "nor when asked again");
    let Some(Output::InstallInbound { child, .. }) = pair.held.take() else { panic!("the engine of site 0 is asked") };
    (pair, child)
}

/// What site 0 has sent: whether each was an answer, and of which exchange.
fn sent_by_site_0(pair: &Pair) -> Vec<(bool, u8)> {
    let header = |message: &[u8]| Header::parse(message).map(|(header, _)| (header.response, header.exchange)).expect("well formed");
    pair.sent.iter().filter(|(who, _)| *who == 0).map(|(_, message)| header(message)).collect()
}

#[test]
fn the_refusal_to_rekey_what_our_successor_has_replaced_follows_our_delete() {
    let (mut pair, child) = agreed_and_asked();
    pair.kept = Some(Vec::new());
    pair.sites[0].0.installed(0, child);
    pair.run();
    assert_eq!(sent_by_site_0(&pair), [(false, exchange::INFORMATIONAL), (true, exchange::CREATE_CHILD)], "DELETE goes first");
    with_last(&pair, 0, |answer| assert_eq!(answer.notifies[0].kind, notify::TEMPORARY_FAILURE));
    pair.kept.take().expect("both").iter().for_each(|(from, message)| pair.deliver(*from, message));
    pair.run();
    assert_eq!((only(&pair, 0).spi, only(&pair, 0).remote_spi), (only(&pair, 1).remote_spi, only(&pair, 1).spi));
    // While our DELETE is on its way the refusal waits for nothing.
    pair.kept = Some(Vec::new());
    let old = only(&pair, 1).spi;
    begin(&mut pair, 0);
    let (_, request) = pair.kept.as_mut().and_then(Vec::pop).expect("a request");
    pair.deliver(0, &request);
    pair.run();
    let (_, answer) = pair.kept.as_mut().and_then(Vec::pop).expect("an answer");
    pair.deliver(1, &answer);
    pair.run();
    assert_eq!(pair.kept.replace(Vec::new()).map(|kept| kept.len()), Some(1), "DELETE");
    pair.send(1, exchange::CREATE_CHILD, &rekey_request(old));
    let (_, request) = pair.kept.take().and_then(|mut kept| kept.pop()).expect("a request");
    pair.deliver(1, &request);
    pair.run();
    assert_eq!(sent_by_site_0(&pair).last(), Some(&(true, exchange::CREATE_CHILD)));
}

#[test]
fn the_refusal_waits_while_another_delete_is_in_front_of_ours() {
    let (mut pair, child) = agreed_and_asked();
    pair.kept = Some(Vec::new());
    let ike = &mut pair.sites[0].0;
    let sa = ike.sas.values_mut().next().expect("an IKE SA");
    let other = crate::retransmit::Purpose::DeleteChild(vec![crate::sa::Doomed { ours: 1, theirs: 2 }]);
    sa.send_request(&mut ike.cx, 0, exchange::INFORMATIONAL, &Chain::default(), other);
    ike.installed(0, child);
    pair.run();
    assert_eq!(sent_by_site_0(&pair), [(false, exchange::INFORMATIONAL)]);
    pair.kept.take().expect("the other one").iter().for_each(|(from, message)| pair.deliver(*from, message));
    pair.run();
    assert_eq!(sent_by_site_0(&pair)[1..], [(false, exchange::INFORMATIONAL), (true, exchange::CREATE_CHILD)]);
}

#[test]
fn the_refusal_does_not_wait_for_a_delete_that_will_not_come() {
    let (mut pair, child) = agreed_and_asked();
    pair.sites[0].0.install_failed(0, child, "told to fail");
    pair.run();
    assert_eq!(sent_by_site_0(&pair).iter().filter(|sent| **sent == (true, exchange::CREATE_CHILD)).count(), 1);
    let (mut pair, _) = agreed_and_asked();
    pair.sites[0].0.hold();
    let (ike, host, _) = &mut pair.sites[0];
    let spi = ike.sas.values().next().map(|sa| sa.spi).expect("an IKE SA");
    ike.tick(0, host);
    ike.after(0, spi);
    pair.run();
    assert_eq!(pair.answer(0), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn both_sides_at_once_and_the_lowest_of_the_four_nonces_goes() {
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
        let lowest = |who: usize| {
            let theirs = sa(&pair, who).children.values().find(|child| child.replaces.is_some() && !child.initiator).expect("accepted");
            theirs.lowest_nonce.clone()
        };
        // What site 1 accepted was begun by site 0, and the other way round.
        let winner = usize::from(lowest(1) < lowest(0));
        kept_of[winner] += 1;
        pair.kept.take().expect("answers").iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        assert!(only(&pair, winner).initiator && !only(&pair, 1 - winner).initiator, "variant {variant}");
        assert_eq!((only(&pair, 0).spi, only(&pair, 0).remote_spi), (only(&pair, 1).remote_spi, only(&pair, 1).spi));
    }
    assert!(kept_of.iter().all(|kept| *kept > 3), "{kept_of:?}");
}

#[test]
fn a_rival_that_has_gone_on_still_counts() {
    for variant in 0..8 {
        let mut pair = Pair::up();
        pair.sites[0].1.random(&mut vec![0; variant + 1]);
        pair.kept = Some(Vec::new());
        begin(&mut pair, 0);
        begin(&mut pair, 1);
        let requests = pair.kept.replace(Vec::new()).expect("messages");
        requests.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        // The answer to site 1 comes; that to site 0 stays behind. Site 1 deletes what its successor replaced, or the successor.
        let answers = pair.kept.replace(Vec::new()).expect("answers");
        let late: Vec<_> = answers
            .into_iter()
            .filter(|(from, message)| {
                if *from == 0 {
                    pair.deliver(0, message);
                    false
                } else {
                    true
                }
            })
            .collect();
        pair.run();
        pair.kept.take().expect("DELETE").iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        // Site 1 rekeys what it has once more, if that is its own.
        let own = sa(&pair, 1).children.values().find(|child| child.initiator && child.up()).map(|child| child.spi);
        if let Some(spi) = own {
            let (ike, host, _) = &mut pair.sites[1];
            ike.rekey_child(0, spi, host).expect("up");
            pair.run();
        }
        late.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        assert_eq!((only(&pair, 0).spi, only(&pair, 0).remote_spi), (only(&pair, 1).remote_spi, only(&pair, 1).spi), "variant {variant}");
    }
}

#[test]
fn a_rival_that_we_could_not_make_does_not_count() {
    for variant in 0..8 {
        let mut pair = Pair::up();
        pair.sites[0].1.random(&mut vec![0; variant + 1]);
        pair.slow = true;
        pair.kept = Some(Vec::new());
        begin(&mut pair, 0);
        begin(&mut pair, 1);
        let requests = pair.kept.replace(Vec::new()).expect("messages");
        requests.iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        let Some(Output::InstallInbound { child, .. }) = pair.held.take() else { panic!("the engine of site 0 is asked") };
        pair.slow = false;
        pair.sites[0].0.install_failed(0, child, "told to fail");
        pair.run();
        pair.kept.take().expect("answers").iter().for_each(|(from, message)| pair.deliver(*from, message));
        pair.run();
        assert!(only(&pair, 0).initiator && only(&pair, 0).replaces.is_some(), "variant {variant}: ours is the only one");
        assert_eq!(only(&pair, 1).remote_spi, only(&pair, 0).spi);
    }
}

#[test]
fn a_successor_that_was_not_asked_for_yet_gives_way() {
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[1];
    assert_eq!(ike.rekey(0, PEER, host), Ok(1));
    let Some(Output::Expect { child, .. }) = ike.poll() else { panic!("the engine comes first") };
    begin(&mut pair, 0);
    assert!(only(&pair, 0).initiator && !only(&pair, 1).initiator);
    assert!(!sa(&pair, 1).children.contains_key(&child));
    pair.sites[1].0.expected(0, child);
    pair.run();
    assert_eq!(pair.children(1), 1, "the engine's late answer is nobody's");
}

#[test]
fn a_delete_crosses_a_rekey() {
    // Site 0 rekeys what site 1 deletes: site 0 deletes it too, site 1 makes no successor.
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    begin(&mut pair, 0);
    let (ike, _, _) = &mut pair.sites[1];
    let child = ike.sas.values().next().and_then(|sa| sa.children.keys().next().copied()).expect("a child");
    sa_mut(&mut pair, 1).deadline = Some(1 << 40); // without a child for a moment
    sa_mut(&mut pair, 1).confirmed = true;
    pair.sites[1].0.delete_child(0, child);
    pair.run();
    let crossed = pair.kept.replace(Vec::new()).expect("messages");
    assert_eq!(crossed.len(), 2);
    pair.deliver(crossed[1].0, &crossed[1].1);
    pair.run();
    let answered = with_last(&pair, 0, |answer| answer.deletes.iter().map(|delete| delete.spis.len()).sum::<usize>());
    assert_eq!(answered, 1, "as usual, with DELETE of the other direction");
    pair.deliver(crossed[0].0, &crossed[0].1);
    pair.run();
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn a_delete_of_what_we_delete_is_answered_without_a_delete() {
    let mut pair = Pair::up();
    sa_mut(&mut pair, 1).children.values_mut().for_each(|child| child.step = Step::Deleting);
    sa_mut(&mut pair, 1).deadline = Some(1 << 40);
    let mut chain = Chain::default();
    chain.delete(3, &[only(&pair, 0).spi]);
    pair.kept = Some(Vec::new());
    pair.send(0, exchange::INFORMATIONAL, &chain);
    let (_, request) = pair.kept.take().and_then(|mut kept| kept.pop()).expect("a request");
    pair.deliver(0, &request);
    pair.run();
    assert!(with_last(&pair, 1, |answer| answer.deletes.is_empty()));
    assert_eq!(pair.children(1), 0);
}

#[test]
fn a_bad_moment_is_tried_again_and_told_nobody() {
    let mut pair = Pair::up();
    let old = only(&pair, 0).spi;
    refuse(&mut pair, &error(notify::TEMPORARY_FAILURE));
    assert_eq!(only(&pair, 0).spi, old);
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| (800..=1_200).contains(&at)));
    assert!(pair.sites[0].0.cx.peers[&PEER].last_error.is_none());
    // A refusal is an error, and not repeated at once.
    refuse(&mut pair, &error(notify::NO_PROPOSAL_CHOSEN));
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| at >= 24_000));
    assert!(pair.sites[0].0.cx.peers[&PEER].last_error.as_ref().is_some_and(|text| text.contains("NO_PROPOSAL_CHOSEN for a rekey")));
}

#[test]
fn a_rekey_that_is_refused_again_and_again_is_tried_less_and_less_often() {
    let mut pair = Pair::up();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        refuse(&mut pair, &error(notify::NO_PROPOSAL_CHOSEN));
        pauses.push(only(&pair, 0).rekey_at.expect("it is tried again"));
    }
    for (pause, ideal) in pauses.into_iter().zip([30_000, 60_000, 120_000, 240_000, 300_000, 300_000]) {
        assert!((ideal * 79 / 100..=ideal * 121 / 100).contains(&pause), "{pause} is not about {ideal}");
    }
    // A bad moment is another matter, and a peer that has nothing else to say is asked less and less often too.
    for ideal in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        refuse(&mut pair, &error(notify::TEMPORARY_FAILURE));
        let pause = only(&pair, 0).rekey_at.expect("it is tried again");
        assert!((ideal * 79 / 100..=ideal * 121 / 100).contains(&pause), "{pause} is not about {ideal}");
    }
    // Its successor begins anew.
    begin(&mut pair, 0);
    refuse(&mut pair, &error(notify::TEMPORARY_FAILURE));
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| at <= 1_200));
    refuse(&mut pair, &error(notify::NO_PROPOSAL_CHOSEN));
    assert!(only(&pair, 0).rekey_at.is_some_and(|at| (24_000..=36_000).contains(&at)));
}

#[test]
fn a_child_that_the_peer_has_lost_is_made_anew() {
    let mut pair = Pair::up();
    let old = only(&pair, 0).id;
    refuse(&mut pair, &error(notify::CHILD_SA_NOT_FOUND));
    let child = only(&pair, 0);
    assert!(child.id != old && child.step == Step::Expecting && child.replaces.is_none() && child.fallback);
    let id: ChildId = child.id;
    pair.sites[0].0.expected(0, id);
    pair.run();
    assert!(only(&pair, 0).up());
}

#[test]
fn a_peer_that_rekeys_no_child_gets_a_fresh_ike_sa_without_a_gap() {
    let mut pair = Pair::up();
    refuse(&mut pair, &error(notify::NO_ADDITIONAL_SAS));
    let (ike, host, _) = &mut pair.sites[0];
    assert!(!ike.sas.values().any(|sa| sa.full), "further children are another matter");
    ike.tick(0, host);
    assert_eq!(ike.sas.values().filter(|sa| sa.starting() && !sa.initial_contact).count(), 1);
    assert_eq!(pair.state(0), PeerState::Up);
    pair.run();
    assert_eq!((pair.state(0), pair.state(1)), (PeerState::Up, PeerState::Up));
}

/// Sets whether each side wants a fresh key exchange.
fn wanting(pfs: [bool; 2]) -> Pair {
    let mut pair = Pair::up();
    for (who, pfs) in pfs.into_iter().enumerate() {
        let mut config = (*pair.sites[who].0.cx.peer(PEER).expect("configured")).clone();
        config.upkeep.pfs = pfs;
        pair.sites[who].0.set_peer(0, config);
    }
    pair
}

#[test]
fn a_fresh_key_exchange_is_made_where_it_is_wanted_and_taken_where_it_is_offered() {
    for (pfs, who, fresh) in [([true, true], 0, true), ([true, false], 0, true), ([false, true], 1, true), ([false, false], 1, false)] {
        let mut pair = wanting(pfs);
        let old = only(&pair, 0).spi;
        begin(&mut pair, who);
        assert!(only(&pair, 0).up() && only(&pair, 0).spi != old, "{pfs:?}");
        let with_ke = pair.sent.iter().filter(|(from, message)| {
            let (header, _) = Header::parse(message).expect("well formed");
            let Opened { first, inner, .. } = sa(&pair, 1 - *from).whole(&header, message).expect("sealed");
            Payloads::parse(first, &inner).expect("well formed").ke.is_some()
        });
        assert_eq!(with_ke.count(), if fresh { 2 } else { 0 }, "{pfs:?}");
    }
}

#[test]
fn a_fresh_key_exchange_that_is_demanded_and_not_offered_is_a_refusal_that_says_so() {
    let mut pair = wanting([false, true]);
    let old = only(&pair, 0).spi;
    begin(&mut pair, 0);
    assert_eq!((pair.answer(1), only(&pair, 0).spi), (vec![notify::NO_PROPOSAL_CHOSEN], old));
    assert!(
        pair.said.iter().any(|line| line.contains("first difference: key exchange: ours X25519/P256/P384, theirs none")),
        "{:?}",
        pair.said
    );
}

#[test]
fn an_answer_without_the_fresh_key_exchange_that_we_asked_for_is_not_taken() {
    let group = Proposal::esp(&[Suite::Aes256Gcm16], 0x9000).with_groups(&[Group::X25519]);
    let plain = Proposal::esp(&[Suite::Aes256Gcm16], 0x9000);
    for (offer, ke, taken) in [(&group, true, true), (&group, false, false), (&plain, true, false), (&plain, false, false)] {
        let mut pair = wanting([true, false]);
        let public = Exchange::new(Group::X25519, &mut pair.sites[1].1).expect("a key").public;
        let chosen = proposal::choose(std::slice::from_ref(offer), std::slice::from_ref(offer)).expect("common");
        let mut chain = child_request(|_| ());
        let read = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
        let (ts_i, ts_r) = (read.ts_i.expect("there").to_vec(), read.ts_r.expect("there").to_vec());
        chain = Chain::default();
        chain.nonce(&[1; 32]).push(kind::SA, &proposal::write(&chosen)).push(kind::TS_I, &ts_i).push(kind::TS_R, &ts_r);
        if ke {
            chain.ke(31, &public);
        }
        refuse(&mut pair, &chain);
        let installing = sa(&pair, 0).children.values().any(|child| child.step == Step::Installing);
        assert_eq!(installing, taken, "{ke}");
    }
}

#[test]
fn another_group_is_tried_if_the_peer_prefers_it() {
    let mut pair = wanting([true, true]);
    pair.sites[1].0.cx.config.groups = vec![Group::P256];
    let old = only(&pair, 0).spi;
    begin(&mut pair, 0);
    assert_ne!(only(&pair, 0).spi, old);
    assert!(pair.said.iter().all(|line| !line.contains("INVALID_KE_PAYLOAD")), "{:?}", pair.said);
    // One that we did not offer is not.
    let mut pair = wanting([true, true]);
    pair.sites[0].0.cx.config.groups = vec![Group::X25519];
    let mut chain = Chain::default();
    chain.notify(notify::INVALID_KE_PAYLOAD, &19u16.to_be_bytes());
    refuse(&mut pair, &chain);
    assert_eq!(sa(&pair, 0).children.len(), 1);
}
