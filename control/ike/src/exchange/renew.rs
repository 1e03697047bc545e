//! CREATE_CHILD_SA for the IKE SA itself (RFC 7296 sections 1.3.2 and 2.18): a new one with fresh keys, which takes over the
//! children of the old one. Who takes over from whom when both sides ask at once stands in [`crate::renew`].

use std::net::SocketAddr;

use crate::config::{Group, IkeSuite};
use crate::context::Context;
use crate::crypto::{Algorithms, Exchange, IkeKeys, Seeds};
use crate::error::Fault;
use crate::exchange::Came;
use crate::exchange::child::{Refusal, nonce};
use crate::exchange::init::{described, preferring};
use crate::message::{Chain, Payloads, exchange, kind, notify};
use crate::output::Host;
use crate::proposal::{self, Proposal};
use crate::retransmit::Purpose;
use crate::sa::{IkeSa, Stage};

/// What an initiator keeps until its request to rekey the IKE SA is answered.
#[derive(Debug)]
pub(crate) struct Renewal {
    exchange: Exchange,
    nonce: Vec<u8>,
    /// Our SPI of the new one.
    spi: u64,
}

/// A new IKE SA and the lower one of the two nonces that made it.
#[derive(Debug)]
pub(crate) struct Heir {
    pub(crate) sa: IkeSa,
    pub(crate) lowest_nonce: Vec<u8>,
}

/// Why an initiator has no new IKE SA.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The peer said no, by this notification.
    Refused(u16),
    /// The peer wants another group, and has been asked again.
    Again,
    /// The answer makes no sense.
    Fault(Fault),
}

/// Initiator: asks. `spi` is ours for the new IKE SA. The window must be free.
pub(crate) fn request(cx: &mut Context, now: u64, sa: &mut IkeSa, spi: u64, group: Group, host: &mut dyn Host) {
    let Some(exchange) = Exchange::new(group, host) else { return };
    let renewal = Renewal { exchange, nonce: nonce(host), spi };
    let mut chain = Chain::default();
    chain.push(kind::SA, &proposal::write_all(&offer(cx, sa, &cx.config.groups, spi)));
    chain.nonce(&renewal.nonce).ke(group.number(), &renewal.exchange.public);
    sa.renewal = Some(Box::new(renewal));
    sa.send_request(cx, now, exchange::CREATE_CHILD, &chain, Purpose::RekeyIke);
}

/// What the peer's configuration says, with our SPI.
fn offer(cx: &Context, sa: &IkeSa, groups: &[Group], spi: u64) -> Vec<Proposal> {
    let suites = sa.peer.and_then(|peer| cx.peer(peer)).map_or_else(|| IkeSuite::DEFAULT.to_vec(), |config| config.ike_suites.clone());
    Proposal::ike(&suites, groups).into_iter().map(|proposal| Proposal { spi: spi.to_be_bytes().to_vec(), ..proposal }).collect()
}

/// Responder: answers. `None` where the answer is no.
pub(crate) fn on_request(
    cx: &mut Context,
    now: u64,
    sa: &mut IkeSa,
    spi: u64,
    came: &Came,
    payloads: &Payloads<'_>,
    host: &mut dyn Host,
) -> Option<Heir> {
    match accept(cx, now, sa, spi, payloads, host) {
        Ok((heir, answer)) => {
            sa.reply(cx, came, &answer);
            Some(heir)
        }
        Err(Refusal { notify, data, fault }) => {
            if let Some((fault, peer)) = fault.zip(sa.peer) {
                cx.fault(peer, &fault);
            }
            sa.reply(cx, came, Chain::default().notify(notify, &data));
            None
        }
    }
}

fn accept(
    cx: &mut Context,
    now: u64,
    sa: &IkeSa,
    spi: u64,
    payloads: &Payloads<'_>,
    host: &mut dyn Host,
) -> Result<(Heir, Chain), Refusal> {
    let quiet = |notify: u16| Refusal { notify, data: Vec::new(), fault: None };
    // Section 2.25.2: not while it is being closed, and not while a child is being made, rekeyed or closed.
    let busy =
        sa.requests.outstanding.as_ref().is_some_and(|sent| matches!(sent.purpose, Purpose::CreateChild(..) | Purpose::DeleteChild(_)));
    if busy || sa.replies.held.is_some() || sa.heir.is_some() || !matches!(sa.stage, Stage::Established) {
        return Err(quiet(notify::TEMPORARY_FAILURE));
    }
    let misbehaved = |what: &str| Refusal { fault: Some(Fault::Misbehaved(what.to_owned())), ..quiet(notify::INVALID_SYNTAX) };
    let (Some(offered), Some(ke), Some(nonce_i)) = (payloads.sa, payloads.ke, payloads.nonce) else {
        return Err(misbehaved("a rekey of the IKE SA without proposal, key exchange or nonce"));
    };
    let offers = proposal::parse(offered).map_err(|malformed| misbehaved(malformed.0))?;
    let own = offer(cx, sa, &preferring(&cx.config, ke.group), spi);
    let chosen = proposal::choose(&own, &offers).map_err(|reason| Refusal {
        fault: Some(Fault::Incompatible(format!("no common IKE proposal for a rekey: {reason}"))),
        ..quiet(notify::NO_PROPOSAL_CHOSEN)
    })?;
    let (Some(group), Some(remote_spi)) = (chosen.group(), chosen.ike_spi()) else { return Err(misbehaved("a proposal without an SPI")) };
    if group.number() != ke.group {
        return Err(Refusal::group(group));
    }
    let (exchange, nonce_r) = (Exchange::new(group, host), nonce(host));
    let shared = exchange.as_ref().and_then(|exchange| exchange.agree(ke.public));
    let ((Some(exchange), Some(shared)), Some(algorithms), Some(old)) = ((exchange, shared), chosen.algorithms(), &sa.keys) else {
        return Err(misbehaved("its key exchange value is not a valid one"));
    };
    let seeds = Seeds { nonce_i, nonce_r: &nonce_r, spi_i: remote_spi, spi_r: spi };
    let Some(keys) = old.renew(algorithms, &shared, seeds, false) else { return Err(misbehaved("the cipher takes no key")) };
    let heir = sa.heir(cx, now, Line { spi, remote_spi, initiator: false, keys, algorithms, group });
    let mut answer = Chain::default();
    answer.push(kind::SA, &proposal::write(&Proposal { spi: spi.to_be_bytes().to_vec(), ..chosen }));
    answer.nonce(&nonce_r).ke(group.number(), &exchange.public);
    Ok((Heir { sa: heir, lowest_nonce: nonce_i.min(&nonce_r).to_vec() }, answer))
}

/// Initiator: the answer.
pub(crate) fn on_response(
    cx: &mut Context,
    now: u64,
    sa: &mut IkeSa,
    renewal: &Renewal,
    payloads: &Payloads<'_>,
    host: &mut dyn Host,
) -> Result<Heir, Failed> {
    if let Some(error) = payloads.error() {
        let other = <[u8; 2]>::try_from(error.data).ok().and_then(|number| cx.config.group(u16::from_be_bytes(number)));
        let first = cx.config.groups.first() == Some(&renewal.exchange.group);
        return match other.filter(|group| error.kind == notify::INVALID_KE_PAYLOAD && *group != renewal.exchange.group) {
            // Section 1.3: once more, with the group that the peer wants.
            Some(group) if first => {
                request(cx, now, sa, renewal.spi, group, host);
                Err(Failed::Again)
            }
            _ => Err(Failed::Refused(error.kind)),
        };
    }
    let misbehaved = |what: &str| Failed::Fault(Fault::Misbehaved(what.to_owned()));
    let (Some(chosen), Some(ke), Some(nonce_r)) = (payloads.sa, payloads.ke, payloads.nonce) else {
        return Err(misbehaved("an answer about the IKE SA without proposal, key exchange or nonce"));
    };
    let chosen = proposal::parse(chosen).map_err(|malformed| misbehaved(malformed.0))?;
    let group = renewal.exchange.group;
    let offer = offer(cx, sa, &cx.config.groups, renewal.spi);
    let one = proposal::chosen_from(&offer, &chosen).filter(|one| one.group() == Some(group));
    let Some((remote_spi, algorithms)) = one.and_then(|one| one.ike_spi().zip(one.algorithms())) else {
        return Err(misbehaved("it chose what was not offered"));
    };
    let shared = renewal.exchange.agree(ke.public).filter(|_| ke.group == group.number());
    let (Some(shared), Some(old)) = (shared, &sa.keys) else { return Err(misbehaved("its key exchange value is not a valid one")) };
    let seeds = Seeds { nonce_i: &renewal.nonce, nonce_r, spi_i: renewal.spi, spi_r: remote_spi };
    let Some(keys) = old.renew(algorithms, &shared, seeds, true) else { return Err(misbehaved("the cipher takes no key")) };
    let heir = sa.heir(cx, now, Line { spi: renewal.spi, remote_spi, initiator: true, keys, algorithms, group });
    Ok(Heir { sa: heir, lowest_nonce: renewal.nonce.as_slice().min(nonce_r).to_vec() })
}

/// What is new in an heir.
#[derive(Debug)]
struct Line {
    spi: u64,
    remote_spi: u64,
    initiator: bool,
    keys: IkeKeys,
    algorithms: Algorithms,
    group: Group,
}

impl IkeSa {
    /// The IKE SA that takes over from this one: other keys and SPIs, message ids from 0 (section 2.18), all else the same. Its
    /// place among the IKE SAs of the peer is that of this one, so that a rekey never changes which of two stays.
    fn heir(&self, cx: &mut Context, now: u64, line: Line) -> Self {
        let ends: (SocketAddr, SocketAddr) = (self.local, self.remote);
        Self {
            remote_spi: line.remote_spi,
            peer: self.peer,
            stage: Stage::Established,
            founder: self.founder,
            began: self.began,
            established: self.established,
            nonce_i: self.nonce_i.clone(),
            nonce_r: self.nonce_r.clone(),
            keys: Some(line.keys),
            algorithms: Some(line.algorithms),
            suite: described(line.algorithms, line.group),
            nat: self.nat,
            candidate: self.candidate,
            confirm_from: self.confirm_from,
            kept_alive: self.kept_alive,
            keepalive_ms: self.keepalive_ms,
            penstock: self.penstock,
            fragments: self.fragments,
            per_core: self.per_core,
            full: self.full,
            confirmed: true,
            // One that takes over nothing is of no use.
            deadline: Some(now.saturating_add(cx.config.half_open_ms)),
            ..Self::empty(cx, now, line.spi, line.initiator, ends)
        }
    }
}
