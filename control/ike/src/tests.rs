//! Given a peer that has proved who it is and then misbehaves: what only somebody with the keys can send.

use std::net::SocketAddr;

use crate::fragment::Opened;
use crate::message::{Chain, Header, Payloads, exchange, kind, notify};
use crate::output::Host;
use crate::proposal::{self, Proposal};
use crate::retransmit::Purpose;
use crate::sa::Stage;
use crate::{Config, Group, Identity, Ike, IkeSuite, Output, PeerConfig, PeerId, PeerState, Psk, Suite, selector};

mod answers;
mod collisions;
mod mixed;
mod parting;
mod pieces;
mod rekey;
mod renew;
mod unheard;

const PEER: PeerId = PeerId(1);

struct Draws(u64, u32);
impl Host for Draws {
    fn random(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
    fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
        self.1 += 1;
        self.1
    }
}

/// Two sites whose engines are instant, and what each has sent.
struct Pair {
    sites: [(Ike, Draws, SocketAddr); 2],
    sent: Vec<(usize, Vec<u8>)>,
    said: Vec<String>,
    /// The engine of site 0 takes its time with inbound SAs: the last one it was given.
    slow: bool,
    held: Option<Output>,
    /// Messages stay on the way until they are delivered by hand: sender and message.
    kept: Option<Vec<(usize, Vec<u8>)>>,
    /// When messages come and the engines answer.
    now: u64,
}

fn config(local: &str, remote: &str, ours: &str, theirs: &str, endpoint: SocketAddr) -> PeerConfig {
    PeerConfig {
        id: PEER,
        name: remote.to_owned(),
        local_id: Identity::Fqdn(local.to_owned()),
        remote_id: Identity::Fqdn(remote.to_owned()),
        psk: Psk::new(vec![7; 32]),
        local_subnets: vec![ours.parse().expect("a prefix")],
        remote_subnets: vec![theirs.parse().expect("a prefix")],
        ike_suites: IkeSuite::DEFAULT.to_vec(),
        ml_kem: false,
        esp_suites: vec![Suite::Aes256Gcm16],
        endpoint: Some(endpoint),
        local: None,
        per_core: true,
        start: crate::Start::Wait,
        upkeep: crate::Upkeep::default(),
        dpd: crate::Dpd::default(),
        keepalive_ms: crate::KEEPALIVE_MS,
    }
}

impl Pair {
    fn new() -> Self {
        let ends: [SocketAddr; 2] = ["192.0.2.1:4500", "192.0.2.2:4500"].map(|end| end.parse().expect("an address"));
        let site = |seed, peer| {
            let mut host = Draws(seed, 0x1000 * seed as u32);
            let mut ike = Ike::new(Config::default(), 0, &mut host);
            ike.set_peer(0, peer);
            (ike, host)
        };
        let (one, one_host) = site(1, config("a", "b", "10.1.0.0/16", "10.2.0.0/16", ends[1]));
        let (two, two_host) = site(2, config("b", "a", "10.2.0.0/16", "10.1.0.0/16", ends[0]));
        Self {
            sites: [(one, one_host, ends[0]), (two, two_host, ends[1])],
            sent: vec![],
            said: vec![],
            slow: false,
            held: None,
            kept: None,
            now: 0,
        }
    }

    /// Both up; site 0 has begun.
    fn up() -> Self {
        let mut pair = Self::new();
        let (ike, host, _) = &mut pair.sites[0];
        ike.initiate(0, PEER, true, host);
        pair.run();
        assert_eq!([pair.state(0), pair.state(1)], [PeerState::Up; 2]);
        pair.sent.clear();
        pair
    }

    /// The engine of site 0 expects whatever it was to expect.
    fn expect_then_run(&mut self) {
        let ike = &mut self.sites[0].0;
        let children: Vec<_> = ike.sas.values().flat_map(|sa| sa.children.keys().copied()).collect();
        children.into_iter().for_each(|child| ike.expected(0, child));
        self.run();
    }

    fn state(&self, who: usize) -> PeerState {
        self.sites[who].0.snapshot(0)[0].state
    }

    fn run(&mut self) {
        let mut quiet = 0;
        while quiet < 2 {
            quiet = 0;
            for who in [0, 1] {
                match self.sites[who].0.poll() {
                    None => quiet += 1,
                    Some(output) => self.carry_out(who, output),
                }
            }
        }
    }

    fn carry_out(&mut self, who: usize, output: Output) {
        match output {
            Output::Send { message, .. } => {
                self.sent.push((who, message.clone()));
                match &mut self.kept {
                    Some(kept) => kept.push((who, message)),
                    None => self.deliver(who, &message),
                }
            }
            Output::Expect { child, .. } => self.sites[who].0.expected(self.now, child),
            output @ Output::InstallInbound { .. } if self.slow && who == 0 => self.held = Some(output),
            Output::InstallInbound { child, .. } => self.sites[who].0.installed(self.now, child),
            Output::InstallOutbound { child, .. } => self.sites[who].0.activated(self.now, child),
            Output::Event { text, .. } => self.said.push(text),
            Output::Retire { .. }
            | Output::Redirect { .. }
            | Output::Keepalive { .. }
            | Output::Up { .. }
            | Output::Down { .. }
            | Output::Quiet { .. } => {}
        }
    }

    fn deliver(&mut self, from: usize, message: &[u8]) {
        let address = self.sites[from].2;
        let (ike, host, to) = &mut self.sites[1 - from];
        ike.receive(self.now, address, *to, message, host);
    }

    /// Sends a request of our making, sealed with the keys of site `who`.
    fn send(&mut self, who: usize, exchange: u8, chain: &Chain) {
        let ike = &mut self.sites[who].0;
        let sa = ike.sas.values_mut().next().expect("an IKE SA");
        sa.requests.outstanding = None;
        sa.send_request(&mut ike.cx, 0, exchange, chain, Purpose::Probe);
        self.run();
    }

    /// What site `who` answered last.
    fn answer(&self, who: usize) -> Vec<u16> {
        let (_, message) = self.sent.iter().rev().find(|(from, _)| *from == who).expect("an answer");
        let (header, _) = Header::parse(message).expect("well formed");
        assert!(header.response);
        let asker = self.sites[1 - who].0.sas.values().next().expect("an IKE SA");
        let Opened { first, inner, .. } = asker.whole(&header, message).expect("sealed for us");
        Payloads::parse(first, &inner).expect("well formed").notifies.iter().map(|notify| notify.kind).collect()
    }

    fn children(&self, who: usize) -> usize {
        self.sites[who].0.sas.values().map(|sa| sa.children.len()).sum()
    }
}

/// A request for a child, as site 0 would send it, with what `change` makes of it.
fn child_request(change: impl FnOnce(&mut Chain)) -> Chain {
    let mut chain = Chain::default();
    chain.nonce(&[1; 32]).push(kind::SA, &proposal::write(&Proposal::esp(&[Suite::Aes256Gcm16], 0x9000)));
    chain.push(kind::TS_I, &selector::write(&["10.1.0.0/16".parse().expect("a prefix")]));
    chain.push(kind::TS_R, &selector::write(&["10.2.0.0/16".parse().expect("a prefix")]));
    change(&mut chain);
    chain
}

#[test]
fn liveness_is_answered_by_an_empty_message() {
    for who in [0, 1] {
        let mut pair = Pair::up();
        pair.send(who, exchange::INFORMATIONAL, &Chain::default());
        assert_eq!(pair.answer(1 - who), [] as [u16; 0]);
        assert_eq!(pair.sent.len(), 2);
    }
}

#[test]
fn children_have_a_bound() {
    let mut pair = Pair::up();
    for _ in 1..super::exchange::child::CHILDREN_MAX {
        pair.send(
            0,
            exchange::CREATE_CHILD,
            &child_request(|chain| {
                chain.notify(notify::SA_RESOURCE_INFO, &[]);
            }),
        );
        assert!(!pair.answer(1).contains(&notify::TS_MAX_QUEUE));
    }
    assert_eq!(pair.children(1), super::exchange::child::CHILDREN_MAX);
    pair.send(
        0,
        exchange::CREATE_CHILD,
        &child_request(|chain| {
            chain.notify(notify::SA_RESOURCE_INFO, &[]);
        }),
    );
    assert_eq!(pair.answer(1), [notify::TS_MAX_QUEUE]);
    pair.send(0, exchange::CREATE_CHILD, &child_request(|_| ()));
    assert_eq!(pair.answer(1), [notify::NO_ADDITIONAL_SAS]);
    assert_eq!(pair.children(1), super::exchange::child::CHILDREN_MAX);
}

#[test]
fn a_marked_child_needs_an_agreement_on_marks() {
    let mut pair = Pair::up();
    pair.sites[1].0.sas.values_mut().for_each(|sa| sa.per_core = false);
    pair.send(
        0,
        exchange::CREATE_CHILD,
        &child_request(|chain| {
            chain.notify(notify::SA_RESOURCE_INFO, &[]);
        }),
    );
    assert_eq!(pair.answer(1), [notify::TS_MAX_QUEUE]);
    // What TS_MAX_QUEUE does to whoever gets it: it asks no more.
    let (ike, host, _) = &mut pair.sites[0];
    ike.create_child(0, PEER, 1, host).expect("not known yet");
    pair.run();
    let (ike, host, _) = &mut pair.sites[0];
    assert_eq!(ike.create_child(0, PEER, 2, host), Err(crate::CreateRefused::Full));
    assert_eq!(pair.children(0), 1);
}

#[test]
fn an_unmarked_child_is_one_that_any_core_may_use() {
    let mut pair = Pair::up();
    pair.send(0, exchange::CREATE_CHILD, &child_request(|_| ()));
    let children: Vec<bool> = pair.sites[1].0.snapshot(0)[0].ike[0].children.iter().map(|child| child.fallback).collect();
    assert_eq!(children, [true, true]);
}

#[test]
fn a_child_request_that_makes_no_sense_is_refused_and_costs_nothing() {
    let nets = |text: &str| selector::write(&[text.parse().expect("a prefix")]);
    let with = |spi: u32, ts_i: &str, suite: Suite| {
        let mut chain = Chain::default();
        chain.nonce(&[1; 32]).push(kind::SA, &proposal::write(&Proposal::esp(&[suite], spi)));
        chain.push(kind::TS_I, &nets(ts_i)).push(kind::TS_R, &nets("10.2.0.0/16"));
        chain
    };
    let mut no_nonce = Chain::default();
    no_nonce.push(kind::SA, &proposal::write(&Proposal::esp(&[Suite::Aes256Gcm16], 0x9000)));
    no_nonce.push(kind::TS_I, &nets("10.1.0.0/16")).push(kind::TS_R, &nets("10.2.0.0/16"));
    let mut no_sa = Chain::default();
    no_sa.nonce(&[1; 32]).push(kind::TS_I, &nets("10.1.0.0/16")).push(kind::TS_R, &nets("10.2.0.0/16"));
    for (chain, answer) in [
        (with(255, "10.1.0.0/16", Suite::Aes256Gcm16), notify::INVALID_SYNTAX),
        (with(256, "10.9.0.0/16", Suite::Aes256Gcm16), notify::TS_UNACCEPTABLE),
        (with(256, "fd00::/64", Suite::Aes256Gcm16), notify::TS_UNACCEPTABLE),
        (with(256, "10.1.0.0/16", Suite::Aes128Gcm16), notify::NO_PROPOSAL_CHOSEN),
        (no_nonce, notify::INVALID_SYNTAX),
        (no_sa, notify::INVALID_SYNTAX),
    ] {
        let mut pair = Pair::up();
        pair.send(0, exchange::CREATE_CHILD, &chain);
        assert_eq!(pair.answer(1), [answer]);
        assert_eq!((pair.children(1), pair.state(1)), (1, PeerState::Up));
    }
}

#[test]
fn an_unknown_critical_payload_inside_is_answered_and_the_ike_sa_stays() {
    let mut pair = Pair::up();
    let mut chain = Chain::default();
    chain.push(200, b"?");
    pair.send(0, exchange::INFORMATIONAL, &chain);
    assert_eq!(pair.answer(1), [] as [u16; 0], "not critical: skipped");
    pair.send(0, exchange::INFORMATIONAL, &critical());
    assert_eq!(pair.answer(1), [notify::UNSUPPORTED_CRITICAL_PAYLOAD]);
    assert_eq!(pair.state(1), PeerState::Up);
}

fn critical() -> Chain {
    let mut chain = Chain::default();
    chain.push(200, b"?");
    chain.set_critical();
    chain
}

#[test]
fn a_message_that_cannot_be_read_inside_ends_the_ike_sa() {
    let mut pair = Pair::up();
    let mut chain = Chain::default();
    chain.push(kind::DELETE, &[1, 0]);
    pair.send(0, exchange::INFORMATIONAL, &chain);
    assert_eq!(pair.answer(1), [notify::INVALID_SYNTAX]);
    assert_eq!(pair.state(1), PeerState::Down);
    assert!(pair.said.iter().any(|line| line == "a misbehaved: a message that cannot be read"), "{:?}", pair.said);
}

#[test]
fn an_exchange_out_of_place_is_answered_and_changes_nothing() {
    for exchange in [exchange::AUTH, 38, 255] {
        let mut pair = Pair::up();
        pair.send(0, exchange, &Chain::default());
        assert_eq!(pair.answer(1), [notify::INVALID_SYNTAX]);
        assert_eq!((pair.children(1), pair.state(1)), (1, PeerState::Up));
    }
}

#[test]
fn a_message_id_ahead_of_its_turn_is_not_read() {
    let mut pair = Pair::up();
    pair.sites[0].0.sas.values_mut().for_each(|sa| sa.requests.next += 1);
    pair.send(0, exchange::INFORMATIONAL, &Chain::default());
    assert_eq!(pair.sent.len(), 1, "no answer");
}

#[test]
fn a_delete_of_children_that_are_none_removes_none() {
    let mut pair = Pair::up();
    let mut chain = Chain::default();
    chain.delete(3, &[0x7777_7777]).delete(2, &[pair.sites[0].0.snapshot(0)[0].ike[0].children[0].inbound_spi]);
    pair.send(0, exchange::INFORMATIONAL, &chain);
    assert_eq!((pair.children(1), pair.state(1)), (1, PeerState::Up), "protocol 2 is AH, which nobody has");
}

#[test]
fn an_initiator_that_does_not_believe_us_ends_the_ike_sa() {
    let mut pair = Pair::up();
    let mut chain = Chain::default();
    chain.notify(notify::AUTHENTICATION_FAILED, &[]);
    pair.send(0, exchange::INFORMATIONAL, &chain);
    assert_eq!((pair.children(1), pair.state(1)), (0, PeerState::Down));
}

#[test]
fn a_message_does_not_count_for_both_directions() {
    // A request of site 0 turned around is not one of site 1: the flags say who began, and the keys differ.
    let mut pair = Pair::up();
    pair.send(0, exchange::INFORMATIONAL, &Chain::default());
    let mut mirrored = pair.sent[0].1.clone();
    let count = pair.sent.len();
    let (ike, host, to) = &mut pair.sites[0];
    ike.receive(0, "192.0.2.2:4500".parse().expect("an address"), *to, &mirrored, host);
    mirrored[19] ^= 0x08;
    let (ike, host, to) = &mut pair.sites[0];
    ike.receive(0, "192.0.2.2:4500".parse().expect("an address"), *to, &mirrored, host);
    pair.run();
    assert_eq!(pair.sent.len(), count);
}

#[test]
fn a_responder_that_answers_beyond_the_offer_is_told_to_delete() {
    // Site 1's configuration changes behind its back to one that takes more than was offered.
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[0];
    let id = ike.create_child(0, PEER, 3, host).expect("per core");
    let Some(Output::Expect { child, .. }) = ike.poll() else { panic!("the engine comes first") };
    assert_eq!(child, id);
    ike.expected(0, id);
    let sa = ike.sas.values_mut().next().expect("an IKE SA");
    let spi = sa.children[&id].spi;
    let mut chain = Chain::default();
    chain.nonce(&[1; 32]).push(kind::SA, &proposal::write(&Proposal { number: 1, ..chosen() }));
    chain.push(kind::TS_I, &selector::write(&["0.0.0.0/0".parse().expect("a prefix")]));
    chain.push(kind::TS_R, &selector::write(&["10.2.0.0/16".parse().expect("a prefix")]));
    let inner = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
    sa.requests.outstanding = None;
    let (ike, host, _) = &mut pair.sites[0];
    let sa = ike.sas.values_mut().next().expect("an IKE SA");
    crate::exchange::create::on_response(&mut ike.cx, 0, sa, (id, spi), &inner, host);
    assert!(!sa.children.contains_key(&id));
    assert_eq!(sa.requests.waiting, [crate::sa::Task::DeleteChild(vec![crate::sa::Doomed { ours: spi, theirs: 0x9000 }])]);
    assert!(matches!(sa.stage, Stage::Established));
    assert!(ike.cx.peers[&PEER].last_error.as_ref().is_some_and(|text| text.contains("its selectors are not within our offer")));
}

/// The one proposal of ciphers that authenticate as well.
fn ike_offer(suites: &[IkeSuite], groups: &[Group]) -> Proposal {
    Proposal::ike(suites, groups).remove(0)
}

/// What is chosen from that offer.
fn ike_choice(suite: IkeSuite, group: Group) -> Proposal {
    let offer = [ike_offer(&[suite], &[group])];
    proposal::choose(&offer, &offer).expect("common")
}

/// A choice that is fine in itself.
fn chosen() -> Proposal {
    proposal::choose(&[Proposal::esp(&[Suite::Aes256Gcm16], 0)], &[Proposal::esp(&[Suite::Aes256Gcm16], 0x9000)]).expect("common")
}

/// Both sites before IKE_AUTH: site 0 holds its request back, site 1 has a half-open handshake.
fn before_auth() -> Pair {
    let mut pair = Pair::new();
    let (ike, host, _) = &mut pair.sites[0];
    ike.initiate(0, PEER, true, host);
    // The first exchange, and no more: the engine has not said yet that it expects the child.
    for who in [0, 1, 0] {
        while let Some(output) = pair.sites[who].0.poll() {
            if matches!(output, Output::Send { .. }) {
                pair.carry_out(who, output);
            }
        }
    }
    pair
}

/// What site 0 has to say in IKE_AUTH, with another AUTH payload.
fn with_proof(pair: &mut Pair, identity: &[u8], method: u8, proof: impl FnOnce(&[u8]) -> Vec<u8>) {
    let sa = pair.sites[0].0.sas.values_mut().next().expect("an IKE SA");
    let Stage::Authenticating(stage) = &mut sa.stage else { panic!("at the door") };
    let held = stage.held.take().expect("held back");
    let read = Payloads::parse(held.first(), held.bytes()).expect("well formed");
    let mut chain = Chain::default();
    chain.id(kind::ID_I, 2, identity).auth(method, &proof(read.auth.expect("a proof").data));
    for (kind, body) in [(kind::SA, read.sa), (kind::TS_I, read.ts_i), (kind::TS_R, read.ts_r)] {
        chain.push(kind, body.expect("there"));
    }
    stage.held = Some(chain);
    pair.run();
}

#[test]
fn what_is_begun_and_unproven_goes_when_the_peer_was_faster() {
    // Site 0 waits for its engine; meanwhile site 1 has called and is done.
    let mut pair = before_auth();
    let (ike, host, _) = &mut pair.sites[1];
    ike.initiate(0, PEER, true, host);
    pair.run();
    assert_eq!([pair.state(0), pair.state(1)], [PeerState::Up; 2]);
    assert_eq!(pair.sites[0].0.snapshot(0)[0].ike.len(), 1);
}

#[test]
fn an_initiator_is_silent_until_its_first_child_is_in_use() {
    // An answer tells the peer that it may close another IKE SA in favour of this one.
    let mut pair = before_auth();
    pair.slow = true;
    pair.expect_then_run();
    let held = pair.held.take().expect("the engine of site 0 has not answered");
    let count = pair.sent.len() + 1;
    pair.send(1, exchange::INFORMATIONAL, &Chain::default());
    assert_eq!(pair.sent.len(), count, "the question and no answer");
    let asked = pair.sent.last().expect("the question").1.clone();
    pair.slow = false;
    pair.carry_out(0, held);
    pair.run();
    assert_eq!(pair.sent.len(), count, "no answer before");
    let (ike, host, to) = &mut pair.sites[0];
    ike.receive(0, "192.0.2.2:4500".parse().expect("an address"), *to, &asked, host);
    pair.run();
    assert_eq!(pair.answer(0), [] as [u16; 0], "and the same question is answered then");
}

#[test]
fn a_child_is_refused_while_the_ike_sa_is_leaving() {
    let mut pair = Pair::up();
    pair.sites[1].0.sas.values_mut().for_each(|sa| sa.stage = Stage::Leaving);
    pair.send(0, exchange::CREATE_CHILD, &child_request(|_| ()));
    assert_eq!(pair.answer(1), [notify::TEMPORARY_FAILURE]);
}

#[test]
fn a_responder_believes_the_right_proof_by_the_right_method_only() {
    let right = |data: &[u8]| data.to_vec();
    let mut pair = before_auth();
    with_proof(&mut pair, b"a", 2, right);
    pair.expect_then_run();
    assert_eq!(pair.state(1), PeerState::Up, "nothing was changed: the way there is right");
    for (identity, method, cut) in [(b"a".as_slice(), 1, 0), (b"a", 2, 1), (b"b", 2, 0), (b"", 2, 0)] {
        let mut pair = before_auth();
        with_proof(&mut pair, identity, method, |data| data[cut..].to_vec());
        pair.expect_then_run();
        assert_eq!((pair.state(1), pair.children(1)), (PeerState::Down, 0), "{identity:?} {method} {cut}");
    }
}

#[test]
fn an_initiator_believes_the_right_proof_of_the_right_name_only() {
    // What the responder would say, and with which proof.
    let answer = |identity: &[u8], method: u8, change: u8| {
        let mut pair = before_auth();
        let responder = pair.sites[1].0.sas.values().next().expect("half open");
        let Stage::HalfOpen(half) = &responder.stage else { panic!("half open") };
        let keys = responder.keys.as_ref().expect("keys");
        let body = [&[2, 0, 0, 0], identity].concat();
        let mut proof = crate::crypto::psk_auth(&[7; 32], (&half.response, &responder.nonce_i, &[]), &keys.auth_r, &body).to_vec();
        proof[5] ^= change;
        let mut chain = Chain::default();
        chain.id(kind::ID_R, 2, identity).auth(method, &proof);
        chain.push(kind::SA, &proposal::write(&chosen()));
        chain.push(kind::TS_I, &selector::write(&["10.1.0.0/16".parse().expect("a prefix")]));
        chain.push(kind::TS_R, &selector::write(&["10.2.0.0/16".parse().expect("a prefix")]));
        let ike = &mut pair.sites[0].0;
        let sa = ike.sas.values_mut().next().expect("an IKE SA");
        let payloads = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
        crate::exchange::auth::on_response(&mut ike.cx, 0, sa, &payloads)
    };
    answer(b"b", 2, 0).expect("the right one");
    for (identity, method, change) in [(b"b", 2, 1), (b"b", 1, 0), (b"c", 2, 0)] {
        let end = answer(identity, method, change).expect_err("refused");
        assert!(matches!(end, crate::exchange::End::Delete(crate::error::Fault::WeRefused(_))), "{end:?}");
    }
}
