//! The cryptography of IKE, all of it aws-lc-rs: the key schedule (RFC 7296 sections 2.13 to 2.18), and what it is made of.

use aws_lc_rs::{constant_time, digest};
use zeroize::Zeroizing;

use crate::config::{IkeSuite, Suite};
use crate::output::ChildKeys;

mod cipher;
mod group;
mod kem;
mod prf;

pub(crate) use cipher::Integrity;
pub(crate) use group::Exchange;
pub(crate) use kem::{Decapsulation, ML_KEM_768_NUMBER, encapsulate};
pub(crate) use prf::{Key, Prf, Secret};

use cipher::Cipher;

const SALT_OCTETS: usize = 4;

/// SHA-1, used only where RFC 7296 section 2.23 demands it: NAT detection protects nothing.
pub(crate) fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().to_vec()
}

/// SHA-256 of a message: how a retransmission is recognised.
pub(crate) fn sha256(message: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, message);
    digest.as_ref().try_into().unwrap_or([0; 32])
}

/// Whether two authenticators are equal, in a time that does not depend on where they differ.
pub(crate) fn equal(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

/// What was agreed for an IKE SA beside the key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithms {
    pub(crate) cipher: IkeSuite,
    /// `None` where the cipher authenticates as well.
    pub(crate) integrity: Option<Integrity>,
    pub(crate) prf: Prf,
}

/// What both sides put into the key schedule of an IKE SA, beside the shared secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds<'a> {
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
    pub(crate) spi_i: u64,
    pub(crate) spi_r: u64,
}

/// The keys of an IKE SA (RFC 7296 section 2.14), from the side of one of its ends.
pub(crate) struct IkeKeys {
    pub(crate) derive: Key,
    pub(crate) auth_i: Key,
    pub(crate) auth_r: Key,
    seal: Cipher,
    open: Cipher,
    /// What the next IV is made from: a counter, as RFC 5282 section 3.1 allows, so never used twice with one key.
    iv: u64,
}

impl std::fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IkeKeys(..)")
    }
}

impl IkeKeys {
    /// SKEYSEED and everything from it. `None` only if the cipher refuses its own key length.
    pub(crate) fn derive(algorithms: Algorithms, shared: &[u8], seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let skeyseed = algorithms.prf.over(&[seeds.nonce_i, seeds.nonce_r].concat(), &[shared]);
        Self::expand(algorithms, &skeyseed, seeds, initiator)
    }

    /// The keys of the IKE SA that takes over from the one with these: SKEYSEED by the old function, the rest by the new one
    /// (section 2.18). The same makes the keys after a further key exchange (RFC 9370 section 2.2.2).
    pub(crate) fn renew(&self, algorithms: Algorithms, shared: &[u8], seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let skeyseed = self.derive.over(&[shared, seeds.nonce_i, seeds.nonce_r]);
        Self::expand(algorithms, &skeyseed, seeds, initiator)
    }

    fn expand(algorithms: Algorithms, skeyseed: &Secret, seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let prf = algorithms.prf;
        let (sk_a, sk_e) = Cipher::key_octets(algorithms);
        let mut stream = Zeroizing::new(vec![0; 3 * prf.octets() + 2 * (sk_a + sk_e)]);
        let (spi_i, spi_r) = (seeds.spi_i.to_be_bytes(), seeds.spi_r.to_be_bytes());
        prf.fill(skeyseed, &[seeds.nonce_i, seeds.nonce_r, &spi_i, &spi_r], &mut stream);
        let mut rest = stream.as_slice();
        let mut cut = |octets: usize| {
            let (head, tail) = rest.split_at_checked(octets)?;
            rest = tail;
            Some(head)
        };
        // SK_d, SK_ai, SK_ar, SK_ei, SK_er, SK_pi, SK_pr.
        let derive = Key::new(prf, cut(prf.octets())?);
        let (sk_ai, sk_ar, sk_ei, sk_er) = (cut(sk_a)?, cut(sk_a)?, cut(sk_e)?, cut(sk_e)?);
        let (from_i, from_r) = (Cipher::new(algorithms, sk_ai, sk_ei)?, Cipher::new(algorithms, sk_ar, sk_er)?);
        let (auth_i, auth_r) = (Key::new(prf, cut(prf.octets())?), Key::new(prf, cut(prf.octets())?));
        let (seal, open) = if initiator { (from_i, from_r) } else { (from_r, from_i) };
        Some(Self { derive, auth_i, auth_r, seal, open, iv: 0 })
    }

    /// Octets of IV, ciphertext and ICV around so many octets of payloads.
    pub(crate) fn sealed_octets(&self, plain: usize) -> usize {
        self.seal.sealed_octets(plain)
    }

    /// How many octets of payloads leave no more than `sealed` of IV, ciphertext and ICV.
    pub(crate) fn plain_octets(&self, sealed: usize) -> usize {
        self.seal.plain_octets(sealed)
    }

    /// Appends IV, ciphertext and ICV of `plain` to `message`, all of which so far is authenticated.
    pub(crate) fn seal(&mut self, message: &mut Vec<u8>, plain: &[u8]) -> Option<()> {
        let count = self.iv;
        self.iv = self.iv.checked_add(1)?;
        self.seal.seal(count, message, plain)
    }

    /// Opens the body of an encrypted payload; `head` is everything in front of it. Returns the payloads without padding.
    pub(crate) fn open(&self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        self.open.open(head, body)
    }
}

/// The AUTH value of a pre-shared key (RFC 7296 section 2.15). `first` is the first message that its owner sent,
/// `nonce` the other side's, `auth` the owner's SK_p, `identity` the body of the owner's ID payload, `bound` what RFC 9242 adds.
pub(crate) fn psk_auth(psk: &[u8], (first, nonce, bound): (&[u8], &[u8], &[u8]), auth: &Key, identity: &[u8]) -> Secret {
    let padded = auth.prf().over(psk, &[b"Key Pad for IKEv2"]);
    auth.prf().over(&padded, &[first, nonce, &auth.over(&[identity]), bound])
}

/// What goes into the keys of a child: SK_d, the secret of a fresh key exchange (empty without one), and the two nonces of
/// the exchange that makes it, initiator's first.
#[derive(Clone, Copy)]
pub(crate) struct Material<'a> {
    pub(crate) derive: &'a Key,
    pub(crate) shared: &'a [u8],
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
}

/// The keys of a child (RFC 7296 section 2.17): from its initiator, then towards it.
pub(crate) fn child_keys(material: Material<'_>, suite: Suite, esn: bool) -> (ChildKeys, ChildKeys) {
    let each = suite.key_bytes() + SALT_OCTETS;
    let mut stream = Zeroizing::new(vec![0; 2 * each]);
    material.derive.fill(&[material.shared, material.nonce_i, material.nonce_r], &mut stream);
    let one = |material: &[u8]| {
        let mut keys = ChildKeys { suite, esn, key: Box::new([0; 32]), salt: [0; SALT_OCTETS] };
        let (key, salt) = material.split_at(suite.key_bytes().min(material.len()));
        keys.key.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
        keys.salt.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
        keys
    };
    let (from, towards) = stream.split_at(each);
    (one(from), one(towards))
}

impl Suite {
    /// Bytes of the AES key.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm16 => 16,
            Self::Aes256Gcm16 => 32,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use tests::vector;
