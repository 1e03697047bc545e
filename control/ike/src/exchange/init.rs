//! IKE_SA_INIT: algorithms, key exchange, nonces, NAT detection; everything before anybody is known
//! (RFC 7296 sections 1.2, 2.6, 2.7, 2.10, 2.14, 2.23).
//!
//! Encapsulation in UDP is forced: the source hash that we send matches no address, so that every peer takes us to be
//! behind a NAT. The vendor ID tells another Penstock that this NAT is pretended; the destination hash is true, and IKE_AUTH says
//! under protection what the source really is ([`nat`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::{Config, FIRST_PORT, Group, IkeSuite, PeerConfig};
use crate::context::Context;
use crate::crypto::{Algorithms, Exchange, IkeKeys, Prf, Seeds, equal};
use crate::error::Fault;
use crate::exchange::child::{NONCE_BYTES, nonce};
use crate::exchange::{Came, nat};
use crate::message::{Chain, Header, Payloads, kind, notify};
use crate::output::{Host, Nat};
use crate::proposal::{self, Proposal};
use crate::sa::{HalfOpen, IkeSa, Stage, Starting, plain};

/// Our vendor ID: "the NAT in front of me is pretended". The last octet counts versions of what that implies.
const VENDOR: &[u8; 16] = b"penstock-ike\x00\x00\x00\x01";
/// Where every peer listens for IKE behind the non-ESP marker, and for ESP (RFC 3948).
const NAT_PORT: u16 = 4500;
/// How often an initiator starts over for a cookie or another group before it stops believing the answers.
const ROUNDS_MAX: u32 = 4;

/// Initiator: the first message. `None` only if the host's randomness makes no key.
pub(crate) fn start(
    cx: &mut Context,
    now: u64,
    config: &Arc<PeerConfig>,
    spi: u64,
    remote: SocketAddr,
    host: &mut dyn Host,
) -> Option<IkeSa> {
    let group = cx.config.groups.first().copied().unwrap_or(Group::X25519);
    let exchange = Exchange::new(group, host)?;
    let any = if remote.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let port = if remote.port() == FIRST_PORT { FIRST_PORT } else { cx.config.port };
    let local = SocketAddr::new(config.local.unwrap_or(any), port);
    let mut sa = IkeSa::empty(cx, now, spi, true, (local, remote));
    sa.peer = Some(config.id);
    sa.nonce_i = nonce(host);
    let offer = Proposal::ike_mixed(&config.ike_suites, &cx.config.groups, config.ml_kem);
    let starting = Starting { exchange, offer, cookie: Vec::new(), rounds: 0, request: Vec::new(), mixing: None };
    send(cx, now, &mut sa, starting, host);
    Some(sa)
}

fn send(cx: &mut Context, now: u64, sa: &mut IkeSa, mut starting: Starting, host: &mut dyn Host) {
    let mut chain = Chain::default();
    // Section 2.6: the cookie comes first, everything behind it unchanged.
    if !starting.cookie.is_empty() {
        chain.notify(notify::COOKIE, &starting.cookie);
    }
    chain.push(kind::SA, &proposal::write_all(&starting.offer));
    chain.ke(starting.exchange.group.number(), &starting.exchange.public).nonce(&sa.nonce_i);
    abilities(cx, &mut chain, (sa.spi, 0), (sa.local, sa.remote), &pretended(host));
    starting.request = sa.send_init(cx, now, &chain);
    sa.stage = Stage::Starting(Box::new(starting));
}

/// A source hash that matches no address.
fn pretended(host: &mut dyn Host) -> [u8; 20] {
    let mut pretended = [0; 20];
    host.random(&mut pretended);
    pretended
}

/// NAT detection notifications (section 2.23), what else we can do, and our vendor ID.
fn abilities(cx: &Context, chain: &mut Chain, spis: (u64, u64), (local, remote): (SocketAddr, SocketAddr), pretended: &[u8; 20]) {
    if cx.config.plain {
        chain.notify(notify::NAT_DETECTION_SOURCE_IP, &nat::hash(spis, local));
        chain.notify(notify::NAT_DETECTION_DESTINATION_IP, &nat::hash(spis, remote));
        return;
    }
    chain.notify(notify::NAT_DETECTION_SOURCE_IP, pretended);
    chain.notify(notify::NAT_DETECTION_DESTINATION_IP, &nat::hash(spis, remote));
    chain.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED, &[]).notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED, &[]);
    chain.push(kind::VENDOR, VENDOR);
}

/// What the peer's notifications say, and whether it is a Penstock.
fn detect(cx: &Context, payloads: &Payloads<'_>, came: &Came) -> (Nat, bool) {
    let penstock = !cx.config.plain && payloads.vendors.iter().any(|vendor| equal(vendor, VENDOR));
    let said = nat::said(payloads, came);
    // A Penstock's source hash is pretended here; the true one comes in IKE_AUTH.
    let there = !penstock && said.there.unwrap_or_default();
    (Nat { here: said.here.unwrap_or_default(), there }, penstock)
}

/// What an initiator does after an answer to its first message.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing: the answer was no answer, or is doubted.
    Wait,
    /// The keys are there; here is the responder's message. IKE_AUTH comes next.
    Authenticate(Vec<u8>),
    /// The same, but a second key exchange comes before it.
    Mix(Vec<u8>),
}

/// Initiator: an answer to IKE_SA_INIT. Nobody vouches for it, so a refusal is only doubted (section 2.21.1).
pub(crate) fn on_response(cx: &mut Context, now: u64, sa: &mut IkeSa, came: &Came, message: &[u8], host: &mut dyn Host) -> Next {
    let Came { header, from, to } = *came;
    let Some(body) = message.get(crate::message::header::BYTES..) else { return Next::Wait };
    let Ok(payloads) = Payloads::parse(header.next, body) else { return Next::Wait };
    let Stage::Starting(starting) = &mut sa.stage else { return Next::Wait };
    // Once there are keys an answer is late.
    if header.id != 0 || header.initiator || from.ip() != sa.remote.ip() || sa.keys.is_some() {
        return Next::Wait;
    }
    if let Some(cookie) = payloads.notify(notify::COOKIE) {
        return follow(cx, now, sa, Follow::Cookie(cookie.data.to_vec()), host);
    }
    if let Some(error) = payloads.error() {
        let group = <[u8; 2]>::try_from(error.data).ok().map(u16::from_be_bytes);
        if let (notify::INVALID_KE_PAYLOAD, Some(group)) = (error.kind, group) {
            return follow(cx, now, sa, Follow::Group(group), host);
        }
        let ours = proposal::describe(&starting.offer);
        return doubt(
            cx,
            now,
            sa,
            Fault::PeerRefused(match error.kind {
                notify::NO_PROPOSAL_CHOSEN => format!("NO_PROPOSAL_CHOSEN: it takes nothing of our offer [{ours}] for IKE"),
                kind => format!("{} of our offer [{ours}]", notify::name(kind)),
            }),
        );
    }
    match agree(starting, sa.spi, &sa.nonce_i, &header, &payloads) {
        Err(fault) => doubt(cx, now, sa, fault),
        Ok(Agreed { keys, algorithms, group, mixed, nonce_r }) => {
            (sa.remote_spi, sa.keys, sa.nonce_r) = (header.spi_r, Some(keys), nonce_r);
            (sa.algorithms, sa.suite) = (Some(algorithms), described(algorithms, group));
            (sa.nat, sa.penstock) = detect(cx, &payloads, came);
            sa.fragments = !cx.config.plain && payloads.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED).is_some();
            (sa.remote, sa.local) = if from.port() == FIRST_PORT {
                // Section 2.23: from here on between the ports of NAT traversal.
                (SocketAddr::new(from.ip(), NAT_PORT), SocketAddr::new(to.ip(), cx.config.port))
            } else {
                (from, to)
            };
            sa.requests.outstanding = None;
            if mixed { Next::Mix(message.to_vec()) } else { Next::Authenticate(message.to_vec()) }
        }
    }
}

fn doubt(cx: &mut Context, now: u64, sa: &mut IkeSa, fault: Fault) -> Next {
    if let Some(request) = &mut sa.requests.outstanding {
        request.doubt(now, &cx.config, fault);
    }
    Next::Wait
}

enum Follow {
    Cookie(Vec<u8>),
    Group(u16),
}

/// Starts over with the cookie, or with a group that we offered and the peer prefers.
fn follow(cx: &mut Context, now: u64, sa: &mut IkeSa, what: Follow, host: &mut dyn Host) -> Next {
    let Stage::Starting(starting) = &sa.stage else { return Next::Wait };
    let (rounds, current) = (starting.rounds, starting.exchange.group);
    if rounds >= ROUNDS_MAX {
        return doubt(cx, now, sa, Fault::Misbehaved("it asks for another cookie or group again and again".to_owned()));
    }
    let (cookie, exchange) = match what {
        // Section 2.6: 1 to 64 octets.
        Follow::Cookie(cookie) if (1..=64).contains(&cookie.len()) => (Some(cookie), None),
        Follow::Cookie(_) => return doubt(cx, now, sa, Fault::Misbehaved("a cookie not of 1 to 64 octets".to_owned())),
        Follow::Group(number) => {
            let group = Group::from_number(number).filter(|group| cx.config.groups.contains(group) && *group != current);
            let Some(group) = group else {
                return doubt(cx, now, sa, Fault::Incompatible(format!("it wants key exchange group {number}, which we did not offer")));
            };
            (None, Exchange::new(group, host))
        }
    };
    let Stage::Starting(starting) = std::mem::replace(&mut sa.stage, Stage::Refused) else { return Next::Wait };
    let mut starting = *starting;
    starting.rounds = rounds.saturating_add(1);
    starting.cookie = cookie.unwrap_or(starting.cookie);
    starting.exchange = exchange.unwrap_or(starting.exchange);
    send(cx, now, sa, starting, host);
    Next::Wait
}

struct Agreed {
    keys: IkeKeys,
    algorithms: Algorithms,
    group: Group,
    /// A second key exchange comes next.
    mixed: bool,
    nonce_r: Vec<u8>,
}

/// Checks the answer against the offer and derives the keys.
fn agree(starting: &Starting, spi: u64, nonce_i: &[u8], header: &Header, payloads: &Payloads<'_>) -> Result<Agreed, Fault> {
    let misbehaved = |what: &str| Fault::Misbehaved(what.to_owned());
    if let Some(kind) = payloads.unknown_critical {
        return Err(Fault::Incompatible(format!("it needs payload {kind}, which we do not know")));
    }
    let (Some(sa), Some(ke), Some(nonce_r)) = (payloads.sa, payloads.ke, payloads.nonce) else {
        return Err(misbehaved("an answer without proposal, key exchange or nonce"));
    };
    if header.spi_r == 0 {
        return Err(misbehaved("an answer without an SPI"));
    }
    let chosen = proposal::parse(sa).map_err(|malformed| misbehaved(malformed.0))?;
    let group = starting.exchange.group;
    let chosen = proposal::chosen_from(&starting.offer, &chosen).filter(|chosen| chosen.group() == Some(group));
    let Some((algorithms, mixed)) = chosen.and_then(|chosen| Some((chosen.algorithms()?, chosen.mixed()))) else {
        return Err(misbehaved("it chose what was not offered"));
    };
    if mixed && payloads.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED).is_none() {
        return Err(misbehaved("it chose a second key exchange and has no exchange for it"));
    }
    let shared = starting.exchange.agree(ke.public).filter(|_| ke.group == group.number());
    let shared = shared.ok_or_else(|| misbehaved("its key exchange value is not a valid one"))?;
    let seeds = Seeds { nonce_i, nonce_r, spi_i: spi, spi_r: header.spi_r };
    let keys = IkeKeys::derive(algorithms, &shared, seeds, true).ok_or_else(|| Fault::Local("the cipher takes no key".to_owned()))?;
    Ok(Agreed { keys, algorithms, group, mixed, nonce_r: nonce_r.to_vec() })
}

/// What was agreed for an IKE SA as one word.
pub(crate) fn described(algorithms: Algorithms, group: Group) -> String {
    let cipher = match algorithms.cipher {
        IkeSuite::Aes256Gcm16 => "aes256gcm16",
        IkeSuite::Aes128Gcm16 => "aes128gcm16",
        IkeSuite::Aes256Cbc => "aes256",
        IkeSuite::Aes128Cbc => "aes128",
    };
    let sha = |prf: Prf| prf.octets() * 8;
    let integrity = algorithms.integrity.map(|integrity| format!("-sha{}", sha(integrity.0))).unwrap_or_default();
    let group = match group {
        Group::X25519 => "x25519",
        Group::P256 => "p256",
        Group::P384 => "p384",
    };
    format!("{cipher}{integrity}-prfsha{}-{group}", sha(algorithms.prf))
}

/// Why a responder opens no handshake.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Nothing that deserves an answer.
    Ignore,
    /// An error notification, and a line for people.
    Notify(u16, Vec<u8>, Option<String>),
}

/// What a responder takes of a first message.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    proposal: Proposal,
    algorithms: Algorithms,
    group: Group,
    public: &'a [u8],
    nonce: &'a [u8],
}

/// Responder: whether a first message can be answered by a handshake. Costs nothing but to read it.
pub(crate) fn choose<'a>(cx: &mut Context, came: &Came, payloads: &Payloads<'a>) -> Result<Choice<'a>, Refusal> {
    let (Some(sa), Some(ke), Some(nonce)) = (payloads.sa, payloads.ke, payloads.nonce) else { return Err(Refusal::Ignore) };
    let Ok(offers) = proposal::parse(sa) else { return Err(Refusal::Ignore) };
    let intermediate = payloads.notify(notify::INTERMEDIATE_EXCHANGE_SUPPORTED).is_some();
    let own = Proposal::ike_mixed(&cx.ike_suites(), &preferring(&cx.config, ke.group), cx.ml_kem() && intermediate);
    let proposal = proposal::choose(&own, &offers).map_err(|reason| {
        let text = format!("we refused {}: no common IKE proposal: {reason}", came.from);
        cx.suspect(came.from.ip(), &text);
        Refusal::Notify(notify::NO_PROPOSAL_CHOSEN, Vec::new(), Some(text))
    })?;
    let (Some(group), Some(algorithms)) = (proposal.group(), proposal.algorithms()) else { return Err(Refusal::Ignore) };
    if group.number() != ke.group {
        // Section 1.3: the group we want, for the initiator to start over with.
        return Err(Refusal::Notify(notify::INVALID_KE_PAYLOAD, group.number().to_be_bytes().to_vec(), None));
    }
    Ok(Choice { proposal, algorithms, group, public: ke.public, nonce })
}

impl Choice<'_> {
    /// How long the answer will be: of one group both key exchange values are of one length.
    pub(crate) fn answer_octets(&self, cx: &Context, came: &Came) -> usize {
        self.answer(cx, came, 0, (self.public, &[0; NONCE_BYTES], &[0; 20])).len()
    }

    /// The responder's message with its key exchange value, its nonce and the source hash that it pretends.
    fn answer(&self, cx: &Context, came: &Came, spi: u64, (public, nonce, pretended): (&[u8], &[u8], &[u8; 20])) -> Vec<u8> {
        let Came { header, from, to } = *came;
        let mut chain = Chain::default();
        chain.push(kind::SA, &proposal::write(&self.proposal)).ke(self.group.number(), public).nonce(nonce);
        abilities(cx, &mut chain, (header.spi_i, spi), (to, from), pretended);
        plain(&header.answer(spi), &chain)
    }

    /// Responder: the key exchange, which costs, for a sender that has shown that it receives, or need not. A half-open IKE SA and its
    /// answer, still to be sent; `None` for a value that no secret can be agreed with.
    pub(crate) fn open(
        self,
        cx: &mut Context,
        now: u64,
        spi: u64,
        (came, payloads, message): Message<'_>,
        host: &mut dyn Host,
    ) -> Option<(IkeSa, Vec<u8>)> {
        let Came { header, from, to } = *came;
        let exchange = Exchange::new(self.group, host)?;
        let shared = exchange.agree(self.public)?;
        let mut sa = IkeSa::empty(cx, now, spi, false, (to, from));
        (sa.remote_spi, sa.nonce_i, sa.nonce_r) = (header.spi_i, self.nonce.to_vec(), nonce(host));
        let seeds = Seeds { nonce_i: self.nonce, nonce_r: &sa.nonce_r, spi_i: header.spi_i, spi_r: spi };
        let keys = IkeKeys::derive(self.algorithms, &shared, seeds, false)?;

        let response = self.answer(cx, came, spi, (&exchange.public, &sa.nonce_r, &pretended(host)));
        (sa.nat, sa.penstock) = detect(cx, payloads, came);
        sa.fragments = !cx.config.plain && payloads.notify(notify::IKEV2_FRAGMENTATION_SUPPORTED).is_some();
        (sa.keys, sa.algorithms, sa.suite) = (Some(keys), Some(self.algorithms), described(self.algorithms, self.group));
        sa.replies.expected = 1;
        sa.deadline = Some(now.saturating_add(cx.config.half_open_ms));
        let mixing = self.proposal.mixed();
        sa.stage = Stage::HalfOpen(Box::new(HalfOpen { request: message.to_vec(), response: response.clone(), mixing }));
        Some((sa, response))
    }
}

/// A first message: its header and way, its payloads, its octets.
type Message<'a> = (&'a Came, &'a Payloads<'a>, &'a [u8]);

/// Our groups, with the one that the initiator already computed in front: that saves a round trip.
pub(crate) fn preferring(config: &Config, number: u16) -> Vec<Group> {
    let sent = config.groups.iter().filter(|group| group.number() == number);
    sent.chain(config.groups.iter().filter(|group| group.number() != number)).copied().collect()
}
