//! Given an initiator, what it makes of answers that a responder should not send.

use super::rekey::{begin, sa, sa_mut};
use super::{PEER, Pair, chosen, ike_choice, ike_offer};
use crate::config::Group;
use crate::crypto::Exchange;
use crate::crypto::Material;
use crate::error::Fault;
use crate::exchange::child::complete;
use crate::exchange::{Came, init};
use crate::message::{Chain, Header, Payloads, exchange, kind, notify};
use crate::proposal::{self, Proposal};
use crate::sa::plain;
use crate::{IkeSuite, Output, PeerState, Suite, selector};

/// A started initiator, and a responder's honest parts to build answers from.
struct Called {
    pair: Pair,
    spi: u64,
    public: Vec<u8>,
}

impl Called {
    fn new() -> Self {
        let mut pair = Pair::new();
        let (ike, host, _) = &mut pair.sites[0];
        ike.initiate(0, PEER, true, host);
        let spi = *ike.sas.keys().next().expect("an IKE SA");
        let public = Exchange::new(Group::X25519, &mut pair.sites[1].1).expect("a key").public;
        pair.sites[0].0.poll();
        Self { pair, spi, public }
    }

    fn chosen(&self) -> Proposal {
        ike_choice(IkeSuite::Aes256Gcm16, Group::X25519)
    }

    /// Gives the initiator an answer; `true` if it went on to IKE_AUTH.
    fn answer(&mut self, spi_r: u64, from: &str, chain: &Chain) -> bool {
        let (exchange, (id, next)) = (exchange::INIT, (0, chain.first()));
        let header = Header { spi_i: self.spi, spi_r, next, major: 2, exchange, initiator: false, response: true, id };
        let (ike, host, to) = &mut self.pair.sites[0];
        let sa = ike.sas.get_mut(&self.spi).expect("started");
        let came = Came { header, from: from.parse().expect("an address"), to: *to };
        matches!(init::on_response(&mut ike.cx, 0, sa, &came, &plain(&header, chain), host), init::Next::Authenticate(_))
    }

    /// The refusal that it would give up with.
    fn doubt(&mut self) -> String {
        let ike = &mut self.pair.sites[0].0;
        let sa = ike.sas.get_mut(&self.spi).expect("started");
        let request = sa.requests.outstanding.as_mut().expect("waiting");
        match request.fire(ike.cx.config.doubt_ms, &ike.cx.config, &mut ike.cx.jitter) {
            crate::retransmit::Due::GiveUp(fault) => fault.told("b"),
            crate::retransmit::Due::Again => "no doubt".to_owned(),
        }
    }

    /// How many messages left since the last count.
    fn sent(&mut self) -> usize {
        std::iter::from_fn(|| self.pair.sites[0].0.poll()).filter(|output| matches!(output, Output::Send { .. })).count()
    }
}

fn answer(sa: &[u8], group: u16, public: &[u8]) -> Chain {
    let mut chain = Chain::default();
    chain.push(kind::SA, sa).ke(group, public).nonce(&[5; 32]);
    chain
}

const FROM: &str = "192.0.2.2:4500";

#[test]
fn the_honest_answer_is_taken() {
    let mut called = Called::new();
    let chain = answer(&proposal::write(&called.chosen()), 31, &called.public.clone());
    assert!(called.answer(9, FROM, &chain));
}

#[test]
fn answers_that_break_a_rule_are_doubted() {
    let other = ike_choice(IkeSuite::Aes256Gcm16, Group::P256);
    let several = ike_offer(&[IkeSuite::Aes256Gcm16, IkeSuite::Aes128Gcm16], &[Group::X25519]);
    let right = proposal::write(&Called::new().chosen());
    let mut doubled = right.clone();
    doubled[0] = 2;
    doubled.extend_from_slice(&right);
    let public = Called::new().public;
    let mut critical = answer(&right, 31, &public);
    critical.push(200, &[]).set_critical();
    let mut bare = Chain::default();
    bare.push(kind::SA, &right).nonce(&[5; 32]);
    for (what, spi_r, chain, reason) in [
        ("no SPI", 0, answer(&right, 31, &public), "an answer without an SPI"),
        ("a key of another group", 9, answer(&right, 19, &public), "its key exchange value is not a valid one"),
        ("a key of no group", 9, answer(&right, 31, &[0; 32]), "its key exchange value is not a valid one"),
        ("another group chosen", 9, answer(&proposal::write(&other), 31, &public), "it chose what was not offered"),
        ("two ciphers chosen", 9, answer(&proposal::write(&several), 31, &public), "it chose what was not offered"),
        ("two proposals", 9, answer(&doubled, 31, &public), "it chose what was not offered"),
        ("a critical payload", 9, critical, "it needs payload 200"),
        ("no key", 9, bare, "an answer without proposal, key exchange or nonce"),
    ] {
        let mut called = Called::new();
        assert!(!called.answer(spi_r, FROM, &chain), "{what}");
        let doubt = called.doubt();
        assert!(doubt.contains(reason), "{what}: {doubt}");
    }
}

#[test]
fn an_answer_from_another_address_is_none() {
    let mut called = Called::new();
    let chain = answer(&proposal::write(&called.chosen()), 31, &called.public.clone());
    assert!(!called.answer(9, "192.0.2.3:4500", &chain));
    assert_eq!(called.doubt(), "no doubt");
}

#[test]
fn cookies_are_followed_a_few_times_and_only_of_a_lawful_size() {
    let cookie = |octets: usize| {
        let mut chain = Chain::default();
        chain.notify(notify::COOKIE, &vec![1; octets]);
        chain
    };
    for (octets, followed) in [(0, 0), (1, 1), (64, 1), (65, 0)] {
        let mut called = Called::new();
        called.answer(0, FROM, &cookie(octets));
        assert_eq!(called.sent(), followed, "{octets}");
    }
    let mut called = Called::new();
    for _ in 0..10 {
        called.answer(0, FROM, &cookie(8));
    }
    assert_eq!(called.sent(), 4);
    assert!(called.doubt().contains("again and again"));
}

#[test]
fn only_a_group_that_was_offered_and_not_yet_sent_is_followed() {
    for (group, followed) in [(19u16, 1), (31, 0), (14, 0)] {
        let mut called = Called::new();
        let mut chain = Chain::default();
        chain.notify(notify::INVALID_KE_PAYLOAD, &group.to_be_bytes());
        called.answer(0, FROM, &chain);
        assert_eq!(called.sent(), followed, "{group}");
    }
    let mut called = Called::new();
    called.pair.sites[0].0.cx.config.groups = vec![Group::X25519];
    let mut chain = Chain::default();
    chain.notify(notify::INVALID_KE_PAYLOAD, &19u16.to_be_bytes());
    called.answer(0, FROM, &chain);
    assert!(called.doubt().contains("it wants key exchange group 19, which we did not offer"));
}

#[test]
fn a_choice_about_a_child_that_breaks_a_rule_is_not_taken() {
    let nets = |text: &str| selector::write(&[text.parse().expect("a prefix")]);
    let both = proposal::write(&Proposal::esp(&[Suite::Aes256Gcm16], 0x9000));
    let right = proposal::write(&chosen());
    let weak = Proposal::esp(&[Suite::Aes128Gcm16], 0x9000);
    let weak = proposal::write(&proposal::choose(std::slice::from_ref(&weak), std::slice::from_ref(&weak)).expect("common"));
    let mut doubled = right.clone();
    doubled[0] = 2;
    doubled.extend_from_slice(&right);
    let reserved = proposal::write(&Proposal { spi: vec![0, 0, 0, 255], ..chosen() });
    for (choice, ts_i, ts_r, reason) in [
        (&right, "10.1.0.0/16", "10.2.0.0/16", None),
        (&right, "10.1.5.0/24", "10.2.0.0/16", None),
        (&both, "10.1.0.0/16", "10.2.0.0/16", Some("it chose what was not offered")),
        (&weak, "10.1.0.0/16", "10.2.0.0/16", Some("it chose what was not offered")),
        (&doubled, "10.1.0.0/16", "10.2.0.0/16", Some("it chose more than one proposal")),
        (&reserved, "10.1.0.0/16", "10.2.0.0/16", Some("without a usable SPI")),
        (&right, "10.0.0.0/8", "10.2.0.0/16", Some("not within our offer")),
        (&right, "10.1.0.0/16", "0.0.0.0/0", Some("not within our offer")),
        (&right, "10.1.0.0/16", "fd00::/64", Some("no family common")),
    ] {
        let mut pair = Pair::up();
        let (ike, host, _) = &mut pair.sites[0];
        let id = ike.create_child(0, PEER, 1, host).expect("per core");
        let sa = ike.sas.values_mut().next().expect("an IKE SA");
        let mut config = (*ike.cx.peer(PEER).expect("configured")).clone();
        config.remote_subnets.push("fd00::/64".parse().expect("a prefix"));
        let mut chain = Chain::default();
        chain.push(kind::SA, choice).push(kind::TS_I, &nets(ts_i)).push(kind::TS_R, &nets(ts_r));
        let payloads = Payloads::parse(chain.first(), chain.bytes()).expect("well formed");
        let child = sa.children.get_mut(&id).expect("asked for");
        let material = Material { derive: &sa.keys.as_ref().expect("keys").derive, shared: &[], nonce_i: &[1; 32], nonce_r: &[2; 32] };
        let result = complete(&mut ike.cx, 0, child, &config, &payloads, material);
        match (result, reason) {
            (Ok(()), None) => {}
            (Err(Fault::Misbehaved(text) | Fault::Incompatible(text)), Some(reason)) => assert!(text.contains(reason), "{text}"),
            (result, reason) => panic!("{ts_i} {ts_r}: {result:?} instead of {reason:?}"),
        }
    }
}

#[test]
fn a_critical_payload_in_an_answer_ends_the_ike_sa() {
    let mut pair = Pair::up();
    let (ike, host, _) = &mut pair.sites[0];
    ike.create_child(0, PEER, 1, host).expect("per core");
    // The answer of site 1, made by hand: site 0 waits for it under this message id.
    let Some(Output::Expect { child, .. }) = ike.poll() else { panic!("the engine comes first") };
    ike.expected(0, child);
    let Some(Output::Send { message, .. }) = ike.poll() else { panic!("the request") };
    let (header, _) = Header::parse(&message).expect("well formed");
    let (ike, host, to) = &mut pair.sites[1];
    let sa = ike.sas.values_mut().next().expect("an IKE SA");
    let mut chain = Chain::default();
    chain.push(200, &[]).set_critical();
    sa.accept_request(crate::crypto::sha256(&message));
    sa.reply(&mut ike.cx, &Came { header, from: FROM.parse().expect("an address"), to: *to }, &chain);
    let _ = host;
    pair.run();
    assert_eq!([pair.state(0), pair.state(1)], [PeerState::Down; 2]);
    assert!(pair.said.iter().any(|line| line.contains("b is incompatible: it needs payload 200")), "{:?}", pair.said);
}

#[test]
fn a_sealed_answer_to_another_request_is_none() {
    let mut pair = Pair::up();
    pair.kept = Some(Vec::new());
    begin(&mut pair, 0);
    let asked = |pair: &Pair| sa(pair, 0).requests.outstanding.as_ref().map(|request| request.id);
    let id = asked(&pair).expect("a request");
    for (other, taken) in [(id - 1, false), (id + 1, false), (id, true)] {
        let header = sa(&pair, 0).header(exchange::CREATE_CHILD, other);
        let header = header.answer(header.spi_r);
        let mut chain = Chain::default();
        chain.notify(notify::TEMPORARY_FAILURE, &[]);
        let message = sa_mut(&mut pair, 1).seal(header, &chain).expect("keys");
        pair.deliver(1, &message[0]);
        assert_eq!(asked(&pair) != Some(id), taken, "{other} for {id}");
    }
}
