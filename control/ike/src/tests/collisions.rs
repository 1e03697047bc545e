//! Given two sites that want something of one IKE SA at once, or one after the other by less than a message takes, when any one message
//! is lost or comes late, then both end with the same SAs, and what each wanted has been done (RFC 7296 sections 2.8 and 2.25).
//!
//! | what meets | tested by |
//! |---|---|
//! | a rekey of a child, or of the IKE SA, and nothing: each of its messages lost, late | [`a_child_is_rekeyed_alone`], [`an_ike_sa_is_rekeyed_alone`] |
//! | child rekey and child rekey: late or lost request, response, DELETE | [`child_rekey_meets_child_rekey`] |
//! | ... each side wants another group | [`child_rekeys_meet_with_different_groups`] |
//! | ... whose nonce decides | `rekey::both_sides_at_once_and_the_lowest_of_the_four_nonces_goes` |
//! | ... the answer comes after the peer's successor was rekeyed again | `rekey::a_rival_that_has_gone_on_still_counts` |
//! | ... one side's engine fails | `rekey::a_rival_that_we_could_not_make_does_not_count` |
//! | ... the request comes while the old child is being deleted, or after that | [`a_late_request_is_refused_and_the_other_successor_stays`] |
//! | child rekey and DELETE of the child | [`child_rekey_meets_child_delete`], `rekey::a_delete_crosses_a_rekey` |
//! | child rekey and a further child | [`child_rekey_meets_child_create`] |
//! | child rekey and rekey of the IKE SA | [`child_rekey_meets_ike_rekey`], `renew::no_ike_sa_is_rekeyed_while_a_child_is_made_rekeyed_or_closed` |
//! | child rekey and DELETE of the IKE SA | [`child_rekey_meets_ike_delete`] |
//! | DELETE and DELETE of one child | [`child_delete_meets_child_delete`], `rekey::a_delete_of_what_we_delete_is_answered_without_a_delete` |
//! | DELETE of a child and a further child | [`child_delete_meets_child_create`] |
//! | DELETE of a child and rekey of the IKE SA | [`child_delete_meets_ike_rekey`] |
//! | DELETE of a child and DELETE of the IKE SA | [`child_delete_meets_ike_delete`] |
//! | further child and further child | [`child_create_meets_child_create`] |
//! | further child and rekey of the IKE SA | [`child_create_meets_ike_rekey`] |
//! | further child and DELETE of the IKE SA | [`child_create_meets_ike_delete`], `a_child_is_refused_while_the_ike_sa_is_leaving` |
//! | rekey and rekey of the IKE SA | [`ike_rekey_meets_ike_rekey`], `renew::both_sides_at_once_and_the_one_with_the_lowest_nonce_goes` |
//! | ... each side wants another group | [`ike_rekeys_meet_with_different_groups`] |
//! | ... the answer is lost and the old IKE SA deleted | `renew::a_delete_of_the_old_one_ends_our_own_rekey_and_the_peers_takes_over` |
//! | ... the heir is used before the answer comes | `renew::who_uses_the_heir_has_decided_for_it` |
//! | rekey and DELETE of the IKE SA | [`ike_rekey_meets_ike_delete`] |
//! | DELETE and DELETE of the IKE SA | [`ike_delete_meets_ike_delete`] |
//! | the peer's answer is on its way when we want something | `unheard` |
//! | two IKE SAs of one peer | `tests/rivals.rs` |
//! | all of it at random, on a bad wire, under traffic | `tests/rekey.rs`, `tests/simulator.rs` |

use std::collections::{BTreeMap, BTreeSet};

use super::rekey::{begin, only, sa};
use super::{PEER, Pair};
use crate::config::Group;
use crate::message::notify;
use crate::sa::IkeSa;

/// What a site wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    RekeyChildren,
    RekeyIke,
    /// One more child.
    Create,
    /// The child of core 3 goes.
    Delete,
    Close,
}

/// What happens to one message.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lost,
    /// It takes so many milliseconds instead of [`WAY_MS`].
    Late(u64),
}

/// What a message takes.
const WAY_MS: u64 = 10;
/// After which all that was begun has come to its end; a DELETE that nobody answers is given up after a minute.
const END_MS: u64 = 100_000;

/// Two sites and the messages between them, by the time when they come.
struct Course {
    pair: Pair,
    flights: BTreeMap<(u64, usize), (usize, Vec<u8>)>,
    /// How many messages were sent.
    count: usize,
    /// The message with this number has another fate than the others.
    fate: Option<(usize, Fate)>,
}

impl Course {
    /// Both up, with a child for all cores and one for core 3.
    fn new(variant: usize, fate: Option<(usize, Fate)>) -> Self {
        let mut pair = Pair::new();
        // Other nonces, so that either side wins.
        let (ike, host, _) = &mut pair.sites[0];
        crate::Host::random(host, &mut vec![0; variant + 1]);
        ike.initiate(0, PEER, true, host);
        pair.run();
        let (ike, host, _) = &mut pair.sites[0];
        ike.create_child(0, PEER, 3, host).expect("per core");
        pair.run();
        pair.kept = Some(Vec::new());
        Self { pair, flights: BTreeMap::new(), count: 0, fate }
    }

    /// Only `group` is taken by site `who`, and every rekey has a key exchange.
    fn prefer(&mut self, who: usize, groups: &[Group]) {
        let cx = &mut self.pair.sites[who].0.cx;
        cx.config.groups = groups.to_vec();
        let state = cx.peers.get_mut(&PEER).expect("configured");
        let mut config = (*state.config).clone();
        config.upkeep.pfs = true;
        state.config = config.into();
    }

    fn act(&mut self, who: usize, act: Act) {
        let (now, (ike, host, _)) = (self.pair.now, &mut self.pair.sites[who]);
        // What cannot be now is done later, or it is not wanted any more: the end tells.
        match act {
            Act::Nothing => {}
            Act::RekeyChildren => _ = ike.rekey(now, PEER, host),
            Act::RekeyIke => _ = ike.renew(now, PEER),
            Act::Create => _ = ike.create_child(now, PEER, 5 + who as u16, host),
            Act::Delete => {
                // Site 1 knows no core of it; it is not the one that any core may use.
                let further = ike.sas.values().flat_map(|sa| sa.children.values()).find(|child| !child.fallback).map(|child| child.id);
                further.into_iter().for_each(|child| ike.delete_child(now, child));
            }
            Act::Close => ike.close(now, PEER),
        }
        let (ike, host, _) = &mut self.pair.sites[who];
        ike.tick(now, host);
        self.send();
    }

    /// What the sites have sent is on its way.
    fn send(&mut self) {
        self.pair.run();
        for (from, message) in self.pair.kept.replace(Vec::new()).unwrap_or_default() {
            let takes = match self.fate {
                Some((number, Fate::Lost)) if number == self.count => None,
                Some((number, Fate::Late(ms))) if number == self.count => Some(ms),
                _ => Some(WAY_MS),
            };
            self.count += 1;
            takes.into_iter().for_each(|takes| _ = self.flights.insert((self.pair.now + takes, self.count), (from, message.clone())));
        }
    }

    fn until(&mut self, end: u64) {
        loop {
            let flight = self.flights.keys().next().map(|(at, _)| *at);
            let timers = self.pair.sites.iter().filter_map(|(ike, ..)| ike.next_deadline());
            let Some(next) = timers.chain(flight).min().filter(|next| *next <= end) else { break };
            self.pair.now = self.pair.now.max(next);
            while let Some(entry) = self.flights.first_entry().filter(|entry| entry.key().0 <= self.pair.now) {
                let (from, message) = entry.remove();
                self.pair.deliver(from, &message);
                self.send();
            }
            let now = self.pair.now;
            self.pair.sites.iter_mut().for_each(|(ike, host, _)| ike.tick(now, host));
            self.send();
        }
        self.pair.now = end;
    }

    /// A site's IKE SAs, by both SPIs, ours first.
    fn ike(&self, who: usize) -> Vec<&IkeSa> {
        self.pair.sites[who].0.sas.values().collect()
    }

    /// A site's children, by both SPIs.
    fn children(&self, who: usize) -> BTreeSet<(u32, u32)> {
        self.ike(who).iter().flat_map(|sa| sa.children.values()).map(|child| (child.spi, child.remote_spi)).collect()
    }
}

/// All ways in which two acts can meet: when the second one begins, and what happens to which message.
fn meet(one: Act, other: Act, groups: Option<[Group; 2]>) {
    let fates = |number| [Fate::Lost, Fate::Late(WAY_MS + 15), Fate::Late(300), Fate::Late(4_000)].map(|fate| Some((number, fate)));
    let fates: Vec<_> = (0..8).flat_map(fates).chain([None]).collect();
    for (first, gap, variant) in [0, 1].into_iter().flat_map(|first| [0, 5, 12, 22, 32].map(|gap| (first, gap, gap as usize * 2 + first))) {
        for fate in &fates {
            let mut course = Course::new(variant, *fate);
            if let Some([west, east]) = groups {
                course.prefer(0, &[west, east]);
                course.prefer(1, &[east]);
            }
            let (before, ike) = (course.children(0), course.ike(0)[0].spi);
            course.act(first, one);
            course.until(gap);
            course.act(1 - first, other);
            course.until(END_MS);
            let what = format!("{one:?} by {first}, {other:?} {gap} ms later, {fate:?}: {:?}", course.pair.said);
            ends_well(&course, [one, other], &before, ike, &what);
        }
    }
}

fn ends_well(course: &Course, acts: [Act; 2], before: &BTreeSet<(u32, u32)>, ike: u64, what: &str) {
    let count = |act| acts.iter().filter(|one| **one == act).count();
    let (here, there) = (course.ike(0), course.ike(1));
    if count(Act::Close) > 0 {
        assert!(here.is_empty() && there.is_empty(), "{what}");
        return;
    }
    assert_eq!((here.len(), there.len()), (1, 1), "{what}");
    assert_eq!((here[0].spi, here[0].remote_spi), (there[0].remote_spi, there[0].spi), "{what}");
    assert_eq!(here[0].spi != ike, count(Act::RekeyIke) > 0, "{what}");
    let children = course.children(0);
    let mirrored: BTreeSet<(u32, u32)> = course.children(1).into_iter().map(|(ours, theirs)| (theirs, ours)).collect();
    assert_eq!(children, mirrored, "{what}");
    for sa in [here[0], there[0]] {
        assert!(sa.children.values().all(|child| child.up() && !child.redundant), "{what}");
        assert_eq!(sa.children.values().filter(|child| child.fallback).count(), 1, "{what}");
        assert!(sa.requests.outstanding.is_none() && sa.heir.is_none() && !sa.renewing, "{what}");
    }
    let kept = children.intersection(before).count();
    if count(Act::RekeyChildren) > 0 {
        assert_eq!(kept, 0, "{what}");
    } else {
        assert_eq!(kept, 2 - count(Act::Delete).min(1), "{what}");
    }
    // A child is not made while the IKE SA is rekeyed, and its core asks again for it; one that is replaced is not deleted.
    let (fewest, most) = (
        2 + if count(Act::RekeyIke) > 0 { 0 } else { count(Act::Create) } - count(Act::Delete).min(1),
        2 + count(Act::Create) - if count(Act::RekeyChildren) > 0 { 0 } else { count(Act::Delete).min(1) },
    );
    assert!((fewest..=most).contains(&children.len()), "{}: {what}", children.len());
}

#[test]
fn a_child_is_rekeyed_alone() {
    meet(Act::RekeyChildren, Act::Nothing, None);
}

#[test]
fn an_ike_sa_is_rekeyed_alone() {
    meet(Act::RekeyIke, Act::Nothing, None);
}

#[test]
fn child_rekey_meets_child_rekey() {
    meet(Act::RekeyChildren, Act::RekeyChildren, None);
}

#[test]
fn child_rekeys_meet_with_different_groups() {
    meet(Act::RekeyChildren, Act::RekeyChildren, Some([Group::X25519, Group::P256]));
}

#[test]
fn child_rekey_meets_child_delete() {
    meet(Act::RekeyChildren, Act::Delete, None);
    meet(Act::Delete, Act::RekeyChildren, None);
}

#[test]
fn child_rekey_meets_child_create() {
    meet(Act::RekeyChildren, Act::Create, None);
    meet(Act::Create, Act::RekeyChildren, None);
}

#[test]
fn child_rekey_meets_ike_rekey() {
    meet(Act::RekeyChildren, Act::RekeyIke, None);
    meet(Act::RekeyIke, Act::RekeyChildren, None);
}

#[test]
fn child_rekey_meets_ike_delete() {
    meet(Act::RekeyChildren, Act::Close, None);
    meet(Act::Close, Act::RekeyChildren, None);
}

#[test]
fn child_delete_meets_child_delete() {
    meet(Act::Delete, Act::Delete, None);
}

#[test]
fn child_delete_meets_child_create() {
    meet(Act::Delete, Act::Create, None);
    meet(Act::Create, Act::Delete, None);
}

#[test]
fn child_delete_meets_ike_rekey() {
    meet(Act::Delete, Act::RekeyIke, None);
    meet(Act::RekeyIke, Act::Delete, None);
}

#[test]
fn child_delete_meets_ike_delete() {
    meet(Act::Delete, Act::Close, None);
    meet(Act::Close, Act::Delete, None);
}

#[test]
fn child_create_meets_child_create() {
    meet(Act::Create, Act::Create, None);
}

#[test]
fn child_create_meets_ike_rekey() {
    meet(Act::Create, Act::RekeyIke, None);
    meet(Act::RekeyIke, Act::Create, None);
}

#[test]
fn child_create_meets_ike_delete() {
    meet(Act::Create, Act::Close, None);
    meet(Act::Close, Act::Create, None);
}

#[test]
fn ike_rekey_meets_ike_rekey() {
    meet(Act::RekeyIke, Act::RekeyIke, None);
}

#[test]
fn ike_rekeys_meet_with_different_groups() {
    meet(Act::RekeyIke, Act::RekeyIke, Some([Group::X25519, Group::P256]));
}

#[test]
fn ike_rekey_meets_ike_delete() {
    meet(Act::RekeyIke, Act::Close, None);
    meet(Act::Close, Act::RekeyIke, None);
}

#[test]
fn ike_delete_meets_ike_delete() {
    meet(Act::Close, Act::Close, None);
}

/// Site 0's request stays on the way until site 1's own rekey is answered, or until its DELETE is.
#[test]
fn a_late_request_is_refused_and_the_other_successor_stays() {
    for (deleted, answer) in [(false, notify::TEMPORARY_FAILURE), (true, notify::CHILD_SA_NOT_FOUND)] {
        let mut pair = Pair::up();
        let pass = |pair: &mut Pair| {
            let kept = pair.kept.replace(Vec::new()).expect("messages");
            kept.iter().for_each(|(from, message)| pair.deliver(*from, message));
            pair.run();
        };
        pair.kept = Some(Vec::new());
        begin(&mut pair, 0);
        let late = pair.kept.replace(Vec::new()).expect("the request that is late");
        begin(&mut pair, 1);
        pass(&mut pair);
        pass(&mut pair);
        let delete = pair.kept.replace(Vec::new()).expect("DELETE of what site 1 has replaced");
        assert_eq!((late.len(), delete.len()), (1, 1));
        if deleted {
            pair.kept.replace(delete.clone());
            pass(&mut pair);
            pass(&mut pair);
        }
        pair.deliver(0, &late[0].1);
        pair.run();
        assert_eq!(pair.answer(1), [answer]);
        if !deleted {
            pair.kept.as_mut().expect("kept").extend(delete);
        }
        pass(&mut pair);
        pass(&mut pair);
        pair.kept = None;
        assert!(!only(&pair, 0).initiator && only(&pair, 1).initiator && only(&pair, 0).up());
        assert_eq!(only(&pair, 0).spi, only(&pair, 1).remote_spi);
        assert!(sa(&pair, 0).requests.outstanding.is_none() && sa(&pair, 0).requests.waiting.is_empty());
    }
}
