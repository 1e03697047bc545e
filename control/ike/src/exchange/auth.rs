//! IKE_AUTH: who is it? And the first child (RFC 7296 sections 1.2, 2.15, 2.16, 2.19).
//!
//! An identity that is not configured takes the same steps as a wrong key: its proof is verified against a random key,
//! and the same answer leaves. Certificates and EAP will find their place beside [`psk_auth`].

use std::sync::Arc;

use crate::config::{FIRST_PORT, Identity, PeerConfig, Psk, describe_identity};
use crate::context::Context;
use crate::crypto::{Material, equal, psk_auth};
use crate::error::Fault;
use crate::exchange::child::{self, Place, Refusal, Terms, nonce};
use crate::exchange::{Came, End, nat};
use crate::message::{Chain, Payloads, exchange, kind, notify};
use crate::output::Host;
use crate::proposal::{self, Proposal};
use crate::retransmit::Purpose;
use crate::sa::{Authenticating, Held, IkeSa, Stage};

/// "Shared Key Message Integrity Code" (section 3.8).
const METHOD_PSK: u8 = 2;

/// Initiator: prepares IKE_AUTH; it leaves once the engine expects the first child's SPI.
pub(crate) fn prepare(cx: &mut Context, now: u64, sa: &mut IkeSa, response: Vec<u8>, host: &mut dyn Host) -> Result<(), End> {
    let local = |what: &str| End::Drop(Fault::Local(what.to_owned()));
    let Stage::Starting(starting) = &sa.stage else { return Err(local("IKE_AUTH out of turn")) };
    let config = sa.peer.and_then(|peer| cx.peer(peer)).ok_or_else(|| local("its configuration is gone"))?;
    let keys = sa.keys.as_ref().ok_or_else(|| local("IKE_AUTH without keys"))?;
    let (identity, bound) = (config.local_id.body(), sa.bound.octets(sa.requests.next));
    let proof = psk_auth(config.psk.expose(), (&starting.request, &sa.nonce_r, &bound), &keys.auth_i, &identity);

    let spi = host.allocate_spi(config.id, None);
    let child = child::prepare(cx, now, config.id, spi, nonce(host)).ok_or_else(|| local("no SPI to give"))?;
    let mut chain = Chain::default();
    chain.push(kind::ID_I, &identity);
    if sa.initial_contact {
        chain.notify(notify::INITIAL_CONTACT, &[]);
    }
    chain.push(kind::ID_R, &config.remote_id.body()).auth(METHOD_PSK, proof.as_slice());
    child::offer(&mut chain, &config, child.spi, &[], config.per_core);
    nat::tell(&mut chain, sa, sa.local, sa.remote);
    sa.stage = Stage::Authenticating(Box::new(Authenticating { response, bound, child: child.id, held: Some(chain) }));
    sa.children.insert(child.id, child);
    Ok(())
}

/// Initiator: the engine expects the SPI; IKE_AUTH goes out.
pub(crate) fn request(cx: &mut Context, now: u64, sa: &mut IkeSa) {
    let Stage::Authenticating(stage) = &mut sa.stage else { return };
    let Some(chain) = stage.held.take() else { return };
    sa.send_request(cx, now, exchange::AUTH, &chain, Purpose::Auth);
}

/// Initiator: the answer. On `Ok` the IKE SA is established and its child goes to the engine.
pub(crate) fn on_response(cx: &mut Context, now: u64, sa: &mut IkeSa, payloads: &Payloads<'_>) -> Result<(), End> {
    let misbehaved = |what: &str| Fault::Misbehaved(what.to_owned());
    let Stage::Authenticating(stage) = &sa.stage else { return Ok(()) };
    let (Some(config), Some(keys)) = (sa.peer.and_then(|peer| cx.peer(peer)), sa.keys.as_ref()) else { return Ok(()) };
    let (Some(identity), Some(proof)) = (payloads.id_r, payloads.auth) else {
        // Section 2.21.2: without a proof there is only an error in it, and the responder keeps nothing.
        let fault = payloads
            .error()
            .map_or_else(|| misbehaved("it did not prove who it is"), |error| Fault::PeerRefused(unproven(&config, sa, error.kind)));
        return Err(End::Drop(fault));
    };
    let expected = psk_auth(config.psk.expose(), (&stage.response, &sa.nonce_i, &stage.bound), &keys.auth_r, identity.body);
    let proven = proof.method == METHOD_PSK && equal(proof.data, expected.as_slice());
    if !proven || !config.remote_id.is(identity.kind, identity.data) {
        let who = describe_identity(identity.kind, identity.data);
        let why = if proven { "which is not the configured one" } else { "but its proof does not fit our key" };
        return Err(End::Delete(Fault::WeRefused(format!("it says it is {who}, {why}"))));
    }
    let child = stage.child;
    sa.per_core = config.per_core && payloads.notify(notify::SA_RESOURCE_INFO).is_some();
    sa.stage = Stage::Established;
    sa.established = Some(cx.tick());
    if let Some(error) = payloads.error() {
        let text = child::refused(&config, error.kind, "the first child", &[]);
        return Err(End::Delete(Fault::PeerRefused(text)));
    }
    let Some(child) = sa.children.get_mut(&child) else { return Err(End::Delete(Fault::Local("the first child was given up".to_owned()))) };
    let material = Material { derive: &keys.derive, shared: &[], nonce_i: &sa.nonce_i, nonce_r: &sa.nonce_r };
    child::complete(cx, now, child, &config, payloads, material).map_err(End::Delete)
}

/// What a refusal without a proof can mean: the responder does not say, so everything that the operator can compare is named.
fn unproven(config: &PeerConfig, sa: &IkeSa, error: u16) -> String {
    let who = |identity: &Identity| {
        let (kind, data) = identity.parts();
        describe_identity(kind, &data)
    };
    match error {
        notify::AUTHENTICATION_FAILED => {
            let (local, remote) = (who(&config.local_id), who(&config.remote_id));
            format!("AUTHENTICATION_FAILED: it does not know us as {local}, is not {remote} itself, or has another key")
        }
        notify::NO_PROPOSAL_CHOSEN => format!("NO_PROPOSAL_CHOSEN: it does not take {} from us for IKE", sa.suite),
        error => format!("{} of our identity, key or offer", notify::name(error)),
    }
}

/// What a responder found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Authentic {
    No,
    /// The peer is who it says; whether it has said that it has no other IKE SA with us.
    Yes {
        initial_contact: bool,
    },
}

/// Responder: the request. The response to an authentic peer waits until its child is installed.
pub(crate) fn on_request(
    cx: &mut Context,
    now: u64,
    sa: &mut IkeSa,
    came: &Came,
    payloads: &Payloads<'_>,
    decoy: &Psk,
    host: &mut dyn Host,
) -> Authentic {
    let Some(config) = verify(cx, now, sa, came, payloads, decoy) else {
        sa.stage = Stage::Refused;
        sa.reply(cx, came, Chain::default().notify(notify::AUTHENTICATION_FAILED, &[]));
        return Authentic::No;
    };
    if let Some(cipher) = sa.algorithms.map(|agreed| agreed.cipher).filter(|cipher| !config.ike_suites.contains(cipher)) {
        // Only now is it known whose configuration counts.
        let (asked, ours) = (Proposal::ike(&[cipher], &[]), Proposal::ike(&config.ike_suites, &[]));
        let text =
            format!("no common IKE proposal: ours [{}], it has chosen from [{}]", proposal::describe(&ours), proposal::describe(&asked));
        cx.fault(config.id, &Fault::Incompatible(text));
        sa.stage = Stage::Refused;
        sa.reply(cx, came, Chain::default().notify(notify::NO_PROPOSAL_CHOSEN, &[]));
        return Authentic::No;
    }
    if came.to.port() == FIRST_PORT {
        let text = "it stays on port 500, and so will not send ESP in UDP, which is all that is read here; turn NAT traversal on there";
        cx.fault(config.id, &Fault::Incompatible(text.to_owned()));
        sa.stage = Stage::Refused;
        sa.reply(cx, came, Chain::default().notify(notify::NO_PROPOSAL_CHOSEN, &[]));
        return Authentic::No;
    }
    // Section 2.23: the peer is where this authentic message came from.
    (sa.remote, sa.local, sa.peer, sa.deadline) = (came.from, came.to, Some(config.id), None);
    sa.per_core = config.per_core && payloads.notify(notify::SA_RESOURCE_INFO).is_some();
    let Stage::HalfOpen(half) = std::mem::replace(&mut sa.stage, Stage::Answering) else { return Authentic::No };
    let Some(keys) = sa.keys.as_ref() else { return Authentic::No };
    let (identity, bound) = (config.local_id.body(), sa.bound.octets(came.header.id));
    let proof = psk_auth(config.psk.expose(), (&half.response, &sa.nonce_i, &bound), &keys.auth_r, &identity);
    let mut base = Chain::default();
    base.push(kind::ID_R, &identity).auth(METHOD_PSK, proof.as_slice());
    nat::tell(&mut base, sa, came.to, came.from);
    answer(cx, now, sa, came, payloads, base, host);
    Authentic::Yes { initial_contact: payloads.notify(notify::INITIAL_CONTACT).is_some() }
}

/// The configuration of whoever has proved to be who it says.
fn verify(cx: &mut Context, now: u64, sa: &IkeSa, came: &Came, payloads: &Payloads<'_>, decoy: &Psk) -> Option<Arc<PeerConfig>> {
    let from = came.from;
    let (Stage::HalfOpen(half), Some(keys)) = (&sa.stage, sa.keys.as_ref()) else { return None };
    let (Some(identity), Some(proof)) = (payloads.id_i, payloads.auth) else {
        cx.stranger(now, format!("{from} did not say who it is"));
        return None;
    };
    let asked = |config: &PeerConfig| payloads.id_r.is_none_or(|id| config.local_id.is(id.kind, id.data));
    let named = |config: &PeerConfig| config.remote_id.is(identity.kind, identity.data);
    // Nobody is left out once a name is found: how many peers are looked at must not show who is one.
    let (mut known, mut misnamed) = (None, None);
    for peer in cx.peers.values().filter(|peer| named(&peer.config)) {
        let slot = if asked(&peer.config) { &mut known } else { &mut misnamed };
        slot.get_or_insert(peer);
    }
    let misnamed = misnamed.map(|peer| peer.config.id);
    let open = known.filter(|peer| !peer.closed).map(|peer| Arc::clone(&peer.config));
    let known = known.map(|peer| (peer.config.id, peer.closed));
    // One way for all: a stranger's proof is computed too, with a key that nobody has.
    let psk = open.as_ref().map_or(decoy, |config| &config.psk);
    let bound = sa.bound.octets(came.header.id);
    let expected = psk_auth(psk.expose(), (&half.request, &sa.nonce_r, &bound), &keys.auth_i, identity.body);
    let proven = proof.method == METHOD_PSK && equal(proof.data, expected.as_slice());
    if let (true, Some(config)) = (proven, open) {
        return Some(config);
    }
    let who = describe_identity(identity.kind, identity.data);
    let why = match (known, payloads.id_r) {
        (Some((_, true)), _) => "this peer is closed".to_owned(),
        (Some((_, false)), _) if proof.method != METHOD_PSK => "it proves itself otherwise than by a pre-shared key".to_owned(),
        (Some((_, false)), _) => "its proof does not fit the key that we share with it".to_owned(),
        (None, Some(id)) if misnamed.is_some() => {
            format!("it wants to talk to {}, and that is not our name for it", describe_identity(id.kind, id.data))
        }
        (None, _) => "no such peer is configured".to_owned(),
    };
    let text = format!("we refused {from}, which says it is {who}: {why}");
    // For everybody alike, so that a stranger cannot tell by the time whether it has named a peer.
    cx.suspect(from.ip(), &text);
    let meant = known.map(|(id, _)| id).or(misnamed);
    if let Some(peer) = meant.and_then(|id| cx.peers.get_mut(&id)).filter(|peer| !peer.up) {
        peer.last_error = Some(text.clone());
    }
    cx.stranger(now, text);
    None
}

/// Negotiates the first child and holds the response until it is installed, or says at once why there is none.
fn answer(cx: &mut Context, now: u64, sa: &mut IkeSa, came: &Came, payloads: &Payloads<'_>, base: Chain, host: &mut dyn Host) {
    let (Some(config), Some(keys)) = (sa.peer.and_then(|peer| cx.peer(peer)), sa.keys.as_ref()) else { return };
    let material = Material { derive: &keys.derive, shared: &[], nonce_i: &sa.nonce_i, nonce_r: &sa.nonce_r };
    match child::accept(cx, now, &config, payloads, material, Terms { groups: &[], place: Place::First }, host) {
        Ok((child, chain)) => {
            let (mut success, mut failure) = (base.clone(), base);
            success.append(&chain);
            child::notices(&mut success, sa.per_core);
            failure.notify(notify::TEMPORARY_FAILURE, &[]);
            sa.replies.held = Some(Held { child: child.id, came: *came, success, failure });
            sa.children.insert(child.id, child);
        }
        Err(Refusal { notify, data, fault }) => {
            // Section 1.2: the IKE SA is made all the same; the initiator may ask for another child.
            let mut chain = base;
            sa.reply(cx, came, chain.notify(notify, &data));
            established(cx, now, sa);
            fault.into_iter().for_each(|fault| _ = cx.fault(config.id, &fault));
        }
    }
}

/// Responder: the answer has left.
pub(crate) fn established(cx: &mut Context, now: u64, sa: &mut IkeSa) {
    sa.stage = Stage::Established;
    sa.established = Some(cx.tick());
    // One that stays without a child is of no use to anybody.
    sa.deadline = Some(now.saturating_add(cx.config.half_open_ms));
}
