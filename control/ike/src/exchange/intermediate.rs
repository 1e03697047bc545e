//! IKE_INTERMEDIATE (RFC 9242): a second key exchange, ML-KEM-768, under the keys of the first one (RFC 9370).
//!
//! The keys that protect IKE_AUTH come from both secrets, so that whoever can break the curve one day still has nothing. Both
//! messages enter the AUTH values, as the first two do.

use crate::context::Context;
use crate::crypto::{Decapsulation, Key, ML_KEM_768_NUMBER, Secret, Seeds, encapsulate};
use crate::error::Fault;
use crate::exchange::{Came, End, auth};
use crate::fragment::Opened;
use crate::message::{Chain, Header, Ke, Payloads, exchange, header, kind, notify};
use crate::output::Host;
use crate::retransmit::Purpose;
use crate::sa::{IkeSa, Stage};

/// What an initiator keeps until IKE_INTERMEDIATE is answered.
#[derive(Debug)]
pub(crate) struct Mixing {
    key: Decapsulation,
    /// The responder's IKE_SA_INIT message, over which it authenticates.
    response: Vec<u8>,
}

/// The messages of IKE_INTERMEDIATE as they enter the AUTH values (RFC 9242 section 3.3.2); empty without that exchange.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    from_i: Secret,
    from_r: Secret,
}

impl Bound {
    /// As if other messages had been sent.
    #[cfg(test)]
    pub(crate) fn spoil(&mut self) {
        self.from_i = Secret::new(vec![1; 32]);
    }

    /// IntAuth: both directions and the message id of IKE_AUTH.
    pub(crate) fn octets(&self, auth_id: u32) -> Vec<u8> {
        if self.from_i.is_empty() {
            return Vec::new();
        }
        [self.from_i.as_slice(), &self.from_r, &auth_id.to_be_bytes()].concat()
    }
}

/// One message in one direction: its header and that of the encrypted payload as if the payloads stood there in clear and in one
/// piece, then the payloads. `key` is the sender's SK_p before the exchange.
fn bind(key: &Key, head: &[u8; header::BYTES], first: u8, inner: &[u8]) -> Option<Secret> {
    let payload = u16::try_from(inner.len() + 4).ok()?;
    let [spis @ .., _, _, _, _, _, _, _, _, _, _, _, _] = *head;
    let [.., _next, version, exchange, flags, id0, id1, id2, id3, _, _, _, _] = *head;
    let length = u32::try_from(header::BYTES + usize::from(payload)).ok()?;
    let tail = [kind::ENCRYPTED, version, exchange, flags, id0, id1, id2, id3];
    let inside = [[first, 0], payload.to_be_bytes()].concat();
    Some(key.over(&[&spis, &tail, &length.to_be_bytes(), &inside, inner]))
}

/// The same of a message that we send.
fn bind_own(key: &Key, header: Header, chain: &Chain) -> Option<Secret> {
    let mut head = Vec::new();
    header.write(0, &mut head);
    bind(key, head.first_chunk()?, chain.first(), chain.bytes())
}

/// The keys from here on: SKEYSEED is made of the old SK_d and the new secret (RFC 9370 section 2.2.2).
fn mix(sa: &mut IkeSa, shared: &Secret) -> Option<()> {
    let (spi_i, spi_r) = if sa.initiator { (sa.spi, sa.remote_spi) } else { (sa.remote_spi, sa.spi) };
    let seeds = Seeds { nonce_i: &sa.nonce_i, nonce_r: &sa.nonce_r, spi_i, spi_r };
    sa.keys = Some(sa.keys.as_ref()?.renew(sa.algorithms?, shared, seeds, sa.initiator)?);
    sa.suite.push_str("-mlkem768");
    Some(())
}

fn ours<'a>(payloads: &Payloads<'a>) -> Option<Ke<'a>> {
    payloads.ke.filter(|ke| ke.group == ML_KEM_768_NUMBER)
}

/// Initiator: asks, after IKE_SA_INIT has agreed on it.
pub(crate) fn request(cx: &mut Context, now: u64, sa: &mut IkeSa, response: Vec<u8>) -> Result<(), End> {
    let local = || End::Drop(Fault::Local("the random generator makes no key".to_owned()));
    let key = Decapsulation::new().ok_or_else(local)?;
    let mut chain = Chain::default();
    chain.ke(ML_KEM_768_NUMBER, &key.public);
    let header = sa.header(exchange::INTERMEDIATE, sa.requests.next);
    let bound = sa.keys.as_ref().and_then(|keys| bind_own(&keys.auth_i, header, &chain)).ok_or_else(local)?;
    let Stage::Starting(starting) = &mut sa.stage else { return Err(local()) };
    starting.mixing = Some(Mixing { key, response });
    sa.bound.from_i = bound;
    sa.send_request(cx, now, exchange::INTERMEDIATE, &chain, Purpose::Intermediate);
    Ok(())
}

/// Initiator: the answer; IKE_AUTH comes next.
pub(crate) fn on_response(
    cx: &mut Context,
    now: u64,
    sa: &mut IkeSa,
    opened: &Opened,
    payloads: &Payloads<'_>,
    host: &mut dyn Host,
) -> Result<(), End> {
    let drop = |what: &str| End::Drop(Fault::Misbehaved(what.to_owned()));
    if let Some(error) = payloads.error() {
        return Err(End::Drop(Fault::PeerRefused(format!("{} of our second key exchange", notify::name(error.kind)))));
    }
    let Stage::Starting(starting) = &mut sa.stage else { return Ok(()) };
    let Some(Mixing { key, response }) = starting.mixing.take() else { return Ok(()) };
    let shared =
        ours(payloads).and_then(|ke| key.agree(ke.public)).ok_or_else(|| drop("its second key exchange value is not a valid one"))?;
    let bound = sa.keys.as_ref().and_then(|keys| bind(&keys.auth_r, &opened.head, opened.first, &opened.inner));
    sa.bound.from_r = bound.ok_or_else(|| drop("a message that is too long"))?;
    mix(sa, &shared).ok_or_else(|| End::Drop(Fault::Local("the cipher takes no key".to_owned())))?;
    auth::prepare(cx, now, sa, response, host)
}

/// Responder: answers under the old keys, and goes on with the new ones.
pub(crate) fn on_request(cx: &mut Context, sa: &mut IkeSa, came: &Came, opened: &Opened, payloads: &Payloads<'_>) {
    let Some((ciphertext, shared)) = ours(payloads).and_then(|ke| encapsulate(ke.public)) else {
        sa.stage = Stage::Refused;
        return sa.reply(cx, came, Chain::default().notify(notify::INVALID_SYNTAX, &[]));
    };
    let mut chain = Chain::default();
    chain.ke(ML_KEM_768_NUMBER, &ciphertext);
    let Some(keys) = &sa.keys else { return };
    let from_i = bind(&keys.auth_i, &opened.head, opened.first, &opened.inner);
    let from_r = bind_own(&keys.auth_r, came.header.answer(came.header.spi_r), &chain);
    let (Some(from_i), Some(from_r)) = (from_i, from_r) else { return };
    sa.bound = Bound { from_i, from_r };
    sa.reply(cx, came, &chain);
    if mix(sa, &shared).is_none() {
        sa.stage = Stage::Refused;
    }
    if let Stage::HalfOpen(half) = &mut sa.stage {
        half.mixing = false;
    }
}

#[cfg(test)]
mod tests {
    use super::{Bound, bind, bind_own};
    use crate::crypto::{Key, Prf};
    use crate::message::{Chain, Header, exchange};

    /// RFC 9242 section 3.3.2, computed by `tests/vectors/keys.py`.
    #[test]
    fn a_message_enters_the_proof_as_computed_elsewhere() {
        let key = Key::new(Prf::Sha256, &[7; 32]);
        let header = Header {
            spi_i: 0x0123_4567_89ab_cdef,
            spi_r: 0xfedc_ba98_7654_3210,
            next: 0,
            major: 2,
            exchange: exchange::INTERMEDIATE,
            initiator: true,
            response: false,
            id: 1,
        };
        let mut chain = Chain::default();
        chain.ke(36, &[5; 1_184]);
        let expected = crate::crypto::vector("int_auth_i");
        let own = bind_own(&key, header, &chain).expect("short enough");
        assert_eq!(*own, expected);
        // It is the same out of a header that came, whatever length and next payload that has: one of a piece.
        let mut head = Vec::new();
        Header { next: 53, ..header }.write(500, &mut head);
        assert_eq!(*bind(&key, head.first_chunk().expect("a header"), chain.first(), chain.bytes()).expect("short enough"), expected);
        let bound = Bound { from_i: own, from_r: Key::new(Prf::Sha256, &[8; 32]).over(&[b"r"]) };
        let octets = bound.octets(2);
        assert_eq!((octets.len(), &octets[64..]), (68, [0, 0, 0, 2].as_slice()));
        assert!(Bound::default().octets(1).is_empty());
    }
}
