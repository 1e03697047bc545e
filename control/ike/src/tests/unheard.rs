//! Given a peer that has rekeyed a child and may not have our answer yet, when we could ask about its successor, then we do not: it
//! would not find what it makes a moment later (RFC 7296 section 2.3; strongSwan answers CHILD_SA_NOT_FOUND).

use super::rekey::{begin, error, only, refuse, sa};
use super::{PEER, Pair};
use crate::RekeyRefused;
use crate::exchange::rekey::UNHEARD_MS;
use crate::message::notify;
use crate::sa::IkeSa;

/// Site `who` has rekeyed the child, and the other side's answer is on its way. Both keep what they send.
fn answer_on_its_way(who: usize) -> Pair {
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    begin(&mut pair, who);
    pass(&mut pair);
    let kept = pair.kept.as_ref().expect("messages");
    assert!(kept.len() == 1 && kept[0].0 == 1 - who, "the answer: {}", kept.len());
    pair
}

/// Delivers what was kept, and keeps what comes of it.
fn pass(pair: &mut Pair) {
    let kept = pair.kept.replace(Vec::new()).expect("messages");
    kept.iter().for_each(|(from, message)| pair.deliver(*from, message));
    pair.run();
}

/// Sends what waits at site 1, and says how many messages are on their way then.
fn on_their_way(pair: &mut Pair, now: u64) -> usize {
    let (ike, host, _) = &mut pair.sites[1];
    ike.tick(now, host);
    pair.run();
    pair.kept.as_ref().map_or(0, Vec::len)
}

#[test]
fn its_child_is_not_rekeyed_before_it_has_our_answer() {
    let mut pair = answer_on_its_way(0);
    let (ike, host, _) = &mut pair.sites[1];
    assert_eq!(ike.rekey(0, PEER, host), Err(RekeyRefused::UnderWay));
    // It is wanted again in a second, and not before the peer asks for something, which it does first of all with its DELETE.
    assert_eq!(on_their_way(&mut pair, 1_000), 1);
    pass(&mut pair);
    assert_eq!(sa(&pair, 1).children.len(), 2, "its DELETE is on its way");
    pass(&mut pair);
    let rekeyed = only(&pair, 1).spi;
    pass(&mut pair);
    pair.kept = None;
    on_their_way(&mut pair, 2_000);
    assert_ne!(only(&pair, 1).spi, rekeyed);
}

#[test]
fn a_peer_that_never_asks_for_anything_again_is_not_waited_for_for_ever() {
    let mut pair = answer_on_its_way(0);
    let (ike, host, _) = &mut pair.sites[1];
    assert_eq!(ike.rekey(UNHEARD_MS - 1, PEER, host), Err(RekeyRefused::UnderWay));
    assert_eq!(ike.rekey(UNHEARD_MS, PEER, host), Ok(1));
}

#[test]
fn the_ike_sa_is_not_rekeyed_under_a_rekey_of_the_peers() {
    let mut pair = answer_on_its_way(0);
    pair.sites[1].0.renew(0, PEER).expect("up");
    assert_eq!(on_their_way(&mut pair, 0), 1, "only our answer");
    pass(&mut pair);
    assert_eq!(on_their_way(&mut pair, 100), 1, "only its DELETE");
    pass(&mut pair);
    let asked = |sa: &IkeSa| sa.renewal.is_some();
    assert!(!asked(sa(&pair, 1)));
    on_their_way(&mut pair, 200);
    assert!(asked(sa(&pair, 1)));
}

#[test]
fn a_child_that_the_peer_has_lost_is_not_made_anew_beside_one_that_serves() {
    let mut pair = answer_on_its_way(1);
    pair.kept = None;
    let kept = |pair: &Pair| sa(pair, 0).children.values().find(|child| child.replaces.is_none()).map(|child| child.spi);
    let old = kept(&pair).expect("the old one");
    // It never came back to us, and its successor is rekeyed as any other.
    pair.sites[0].0.sas.values_mut().flat_map(|sa| sa.children.values_mut()).for_each(|child| child.unheard_until = None);
    refuse(&mut pair, &error(notify::CHILD_SA_NOT_FOUND));
    assert_eq!((only(&pair, 0).spi, only(&pair, 0).up()), (old, true));
    assert!(pair.said.is_empty(), "{:?}", pair.said);
}
