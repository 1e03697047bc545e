//! The other end of an IKE SA, made for hostility: it has the right keys and writes whatever it is told to.
//!
//! It shares no code with `penstock-ike`, so that both are read against RFC 7296 and not against each other. One suite only:
//! AES-256-GCM-16, PRF_HMAC_SHA2_256, X25519.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::hmac;

/// Payload kinds (RFC 7296 section 3.2).
pub mod kind {
    /// Security association.
    pub const SA: u8 = 33;
    /// Key exchange.
    pub const KE: u8 = 34;
    /// Identification of the initiator.
    pub const ID_I: u8 = 35;
    /// Identification of the responder.
    pub const ID_R: u8 = 36;
    /// Authentication.
    pub const AUTH: u8 = 39;
    /// Nonce.
    pub const NONCE: u8 = 40;
    /// Notification.
    pub const NOTIFY: u8 = 41;
    /// DELETE.
    pub const DELETE: u8 = 42;
    /// Vendor ID.
    pub const VENDOR: u8 = 43;
    /// Traffic selectors of the initiator.
    pub const TS_I: u8 = 44;
    /// Traffic selectors of the responder.
    pub const TS_R: u8 = 45;
    /// Encrypted and authenticated.
    pub const ENCRYPTED: u8 = 46;
    /// The same, a piece of a message (RFC 7383).
    pub const FRAGMENT: u8 = 53;
}

/// Exchange types (RFC 7296 section 3.1).
pub mod exchange {
    /// IKE_SA_INIT.
    pub const INIT: u8 = 34;
    /// IKE_AUTH.
    pub const AUTH: u8 = 35;
    /// CREATE_CHILD_SA.
    pub const CREATE_CHILD: u8 = 36;
    /// INFORMATIONAL.
    pub const INFORMATIONAL: u8 = 37;
    /// IKE_INTERMEDIATE (RFC 9242).
    pub const INTERMEDIATE: u8 = 43;
}

/// One proposal for the IKE SA: ENCR_AES_GCM_16 with 256 bits, PRF_HMAC_SHA2_256, Curve25519.
pub const IKE_PROPOSAL: [u8; 36] = [
    0, 0, 0, 36, 1, 1, 0, 3, // the last proposal, number 1, IKE, no SPI, three transforms
    3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0, // key length 256
    3, 0, 0, 8, 2, 0, 0, 5, //
    0, 0, 0, 8, 4, 0, 0, 31,
];

/// The same with ML-KEM-768 as a second key exchange (RFC 9370).
const MIXED_PROPOSAL: [u8; 44] = [
    0, 0, 0, 44, 1, 1, 0, 4, //
    3, 0, 0, 12, 1, 0, 0, 20, 0x80, 14, 1, 0, //
    3, 0, 0, 8, 2, 0, 0, 5, //
    3, 0, 0, 8, 4, 0, 0, 31, //
    0, 0, 0, 8, 6, 0, 0, 36,
];

/// What this end can do beside the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Able {
    /// Nothing.
    Plain,
    /// A second key exchange in IKE_INTERMEDIATE.
    Mixed,
    /// Messages in pieces.
    Fragments,
}

const NONCE: [u8; 32] = [0x5a; 32];
const SPI: u64 = 0x7065_6572_7065_6572;

/// A payload: its kind, whether it is critical, its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Its kind.
    pub kind: u8,
    /// The octet with the critical bit.
    pub flags: u8,
    /// What stands behind its header.
    pub body: Vec<u8>,
}

impl Payload {
    /// One that is not critical.
    #[must_use]
    pub fn new(kind: u8, body: impl Into<Vec<u8>>) -> Self {
        Self { kind, flags: 0, body: body.into() }
    }
}

/// A chain of payloads: the kind of the first, and the octets.
#[must_use]
pub fn chain(payloads: &[Payload]) -> (u8, Vec<u8>) {
    let mut bytes = Vec::new();
    for (at, payload) in payloads.iter().enumerate() {
        let next = payloads.get(at + 1).map_or(0, |next| next.kind);
        let length = u16::try_from(payload.body.len() + 4).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&[next, payload.flags]);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&payload.body);
    }
    (payloads.first().map_or(0, |first| first.kind), bytes)
}

/// Splits a chain; `None` if it is not one. An encrypted payload is its last.
#[must_use]
pub fn unchain(mut kind: u8, mut bytes: &[u8]) -> Option<Vec<Payload>> {
    let mut payloads = Vec::new();
    while kind != 0 {
        let ([next, flags, high, low], rest) = bytes.split_first_chunk::<4>()?;
        let (body, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low])).checked_sub(4)?)?;
        payloads.push(Payload { kind, flags: *flags, body: body.to_vec() });
        if kind == kind::ENCRYPTED {
            break;
        }
        (kind, bytes) = (*next, rest);
    }
    Some(payloads)
}

/// The header of RFC 7296 section 3.1 in front of a body.
#[must_use]
pub fn message(spis: [u64; 2], first: u8, exchange: u8, flags: u8, id: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    spis.iter().for_each(|spi| bytes.extend_from_slice(&spi.to_be_bytes()));
    bytes.extend_from_slice(&[first, 0x20, exchange, flags]);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(28 + body.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn prf(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &parts.concat()).as_ref().to_vec()
}

/// prf+ of RFC 7296 section 2.13.
fn prf_plus(key: &[u8], seed: &[u8], length: usize) -> Vec<u8> {
    let (mut stream, mut block) = (Vec::new(), Vec::new());
    for number in 1..=u8::MAX {
        block = prf(key, &[&block, seed, &[number]]);
        stream.extend_from_slice(&block);
        if stream.len() >= length {
            break;
        }
    }
    stream.truncate(length);
    stream
}

struct Cipher(LessSafeKey, [u8; 4]);

impl Cipher {
    fn new(material: &[u8]) -> Self {
        let (key, salt) = material.split_at(32);
        let key = UnboundKey::new(&AES_256_GCM, key).expect("32 octets");
        Self(LessSafeKey::new(key), salt.try_into().expect("4 octets"))
    }

    fn nonce(&self, iv: &[u8]) -> Nonce {
        Nonce::try_assume_unique_for_key(&[&self.1, iv].concat()).expect("12 octets")
    }
}

/// The peer, once both first messages are known.
pub struct Peer {
    initiator: bool,
    spis: [u64; 2],
    ours: Cipher,
    theirs: Cipher,
    /// SK_p of this end, and of the other.
    proofs: [Vec<u8>; 2],
    /// The first message of this end, and of the other.
    firsts: [Vec<u8>; 2],
    /// The nonce of the other end.
    nonce: Vec<u8>,
    iv: u64,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("initiator", &self.initiator).finish_non_exhaustive()
    }
}

fn private() -> PrivateKey {
    PrivateKey::from_private_key(&X25519, &[0x42; 32]).expect("any 32 octets are a key")
}

fn first_chain(able: Able) -> Vec<Payload> {
    let public = private().compute_public_key().expect("a key pair");
    let exchange = [&[0, 31, 0, 0], public.as_ref()].concat();
    let proposal = if able == Able::Mixed { MIXED_PROPOSAL.to_vec() } else { IKE_PROPOSAL.to_vec() };
    let mut payloads = vec![Payload::new(kind::SA, proposal), Payload::new(kind::KE, exchange), Payload::new(kind::NONCE, NONCE)];
    match able {
        Able::Plain => {}
        // INTERMEDIATE_EXCHANGE_SUPPORTED, IKEV2_FRAGMENTATION_SUPPORTED.
        Able::Mixed => payloads.push(Payload::new(kind::NOTIFY, [0, 0, 0x40, 0x36])),
        Able::Fragments => payloads.push(Payload::new(kind::NOTIFY, [0, 0, 0x40, 0x2e])),
    }
    payloads
}

/// A first message as the initiator sends it; behind the nonce stands a vendor ID so long that the answer is not longer.
#[must_use]
pub fn first_request() -> Vec<u8> {
    first_request_of(Able::Plain)
}

/// The same from somebody who is able to do more.
#[must_use]
pub fn first_request_of(able: Able) -> Vec<u8> {
    let mut payloads = first_chain(able);
    payloads.push(Payload::new(kind::VENDOR, [0; 128]));
    let (first, body) = chain(&payloads);
    message([SPI, 0], first, exchange::INIT, 0x08, 0, &body)
}

/// The answer to a first message.
#[must_use]
pub fn first_response(request: &[u8]) -> Vec<u8> {
    first_response_of(Able::Plain, request)
}

/// The same from somebody who is able to do more.
#[must_use]
pub fn first_response_of(able: Able, request: &[u8]) -> Vec<u8> {
    let spi = request.first_chunk().map_or(0, |spi| u64::from_be_bytes(*spi));
    let (first, body) = chain(&first_chain(able));
    message([spi, SPI], first, exchange::INIT, 0x20, 0, &body)
}

impl Peer {
    /// After both first messages, of which one is ours. `None` if theirs is no first message.
    #[must_use]
    pub fn new(request: &[u8], response: &[u8], initiator: bool) -> Option<Self> {
        let (ours, theirs) = if initiator { (request, response) } else { (response, request) };
        let payloads = unchain(*theirs.get(16)?, theirs.get(28..)?)?;
        let find = |kind| payloads.iter().find(|payload| payload.kind == kind);
        let public = UnparsedPublicKey::new(&X25519, find(kind::KE)?.body.get(4..)?.to_vec());
        let nonce = find(kind::NONCE)?.body.clone();
        let shared = agree(&private(), public, (), |secret| Ok(secret.to_vec())).ok()?;
        let nonces = if initiator { [&NONCE, nonce.as_slice()] } else { [nonce.as_slice(), &NONCE] }.concat();
        let spis = response.get(..16)?;
        let seed = prf(&nonces, &[&shared]);
        // SK_d, SK_ei, SK_er, SK_pi, SK_pr (section 2.14); an AEAD has no SK_a (RFC 5282 section 7).
        let stream = prf_plus(&seed, &[&nonces, spis].concat(), 32 + 36 + 36 + 32 + 32);
        let part = |from: usize, length: usize| stream.get(from..from + length);
        let (from_i, from_r, proof_i, proof_r) = (part(32, 36)?, part(68, 36)?, part(104, 32)?.to_vec(), part(136, 32)?.to_vec());
        let (ours_key, theirs_key) = if initiator { (from_i, from_r) } else { (from_r, from_i) };
        let word = |at: usize| spis.get(at..at + 8)?.first_chunk().map(|spi| u64::from_be_bytes(*spi));
        Some(Self {
            initiator,
            spis: [word(0)?, word(8)?],
            ours: Cipher::new(ours_key),
            theirs: Cipher::new(theirs_key),
            proofs: if initiator { [proof_i, proof_r] } else { [proof_r, proof_i] },
            firsts: [ours.to_vec(), theirs.to_vec()],
            nonce,
            iv: 0,
        })
    }

    /// The AUTH body that proves this end's identity (section 2.15).
    #[must_use]
    pub fn proof(&self, psk: &[u8], identity: &[u8]) -> Vec<u8> {
        let padded = prf(psk, &[b"Key Pad for IKEv2"]);
        let identity = prf(&self.proofs[0], &[identity]);
        [[2, 0, 0, 0].as_slice(), &prf(&padded, &[&self.firsts[0], &self.nonce, &identity])].concat()
    }

    /// A protected message (section 3.14).
    pub fn seal(&mut self, exchange: u8, response: bool, id: u32, first: u8, plain: &[u8]) -> Vec<u8> {
        self.sealed((exchange, response, id), (kind::ENCRYPTED, first, &[]), plain)
    }

    /// A piece of a protected message (RFC 7383 section 2.5): its number and how many there are.
    pub fn seal_piece(&mut self, (exchange, response, id): (u8, bool, u32), piece: [u16; 2], first: u8, plain: &[u8]) -> Vec<u8> {
        let [number, total] = piece.map(u16::to_be_bytes);
        self.sealed((exchange, response, id), (kind::FRAGMENT, first, &[number, total].concat()), plain)
    }

    fn sealed(&mut self, (exchange, response, id): (u8, bool, u32), (kind, first, head): (u8, u8, &[u8]), plain: &[u8]) -> Vec<u8> {
        self.iv += 1;
        let flags = if self.initiator { 0x08 } else { 0 } | if response { 0x20 } else { 0 };
        let mut body = [plain, &[0]].concat();
        let length = u16::try_from(4 + head.len() + 8 + body.len() + 16).unwrap_or(u16::MAX);
        let [high, low] = length.to_be_bytes();
        let iv = self.iv.to_be_bytes();
        let placeholder = [[first, 0, high, low].as_slice(), head, &vec![0; usize::from(length) - 4 - head.len()]].concat();
        let mut bytes = message(self.spis, kind, exchange, flags, id, &placeholder);
        bytes.truncate(32 + head.len());
        let tag =
            self.ours.0.seal_in_place_separate_tag(self.ours.nonce(&iv), Aad::from(bytes.clone()), &mut body).expect("the length fits");
        [bytes.as_slice(), &iv, &body, tag.as_ref()].concat()
    }

    /// Opens a protected message of the other end: its exchange, whether it is a response, its id, its payloads.
    #[must_use]
    pub fn open(&self, bytes: &[u8]) -> Option<(u8, bool, u32, Vec<Payload>)> {
        let (head, body) = bytes.split_at_checked(32)?;
        let (iv, sealed) = body.split_at_checked(8)?;
        let mut plain = sealed.to_vec();
        let opened = self.theirs.0.open_in_place(self.theirs.nonce(iv), Aad::from(head), &mut plain).ok()?;
        let (padding, rest) = opened.split_last()?;
        let payloads = unchain(*head.get(28)?, rest.get(..rest.len().checked_sub(usize::from(*padding))?)?)?;
        let id = head.get(20..24)?.first_chunk().map(|id| u32::from_be_bytes(*id))?;
        Some((*head.get(18)?, head.get(19)? & 0x20 != 0, id, payloads))
    }
}
