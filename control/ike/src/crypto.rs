//! The cryptography of IKE, all of it aws-lc-rs: PRF, key derivation, key exchange, and the encrypted payload.
//!
//! PRF_HMAC_SHA2_256 is the only PRF, AES-GCM with a 16-byte ICV the only cipher (RFC 5282), so that a key schedule
//! has one shape. Private keys are made from the host's randomness and never from a generator of the library's own,
//! which is what lets a simulation replay from its seed.

use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::{aead, constant_time, digest, hmac};
use zeroize::{Zeroize, Zeroizing};

use crate::config::{Group, Suite};
use crate::output::{ChildKeys, Host};

/// Bytes of a PRF key and of a PRF output.
pub(crate) const PRF_BYTES: usize = 32;
/// Bytes of the explicit IV of the encrypted payload (RFC 5282 section 3.1).
pub(crate) const IV_BYTES: usize = 8;
/// Bytes of its ICV.
pub(crate) const ICV_BYTES: usize = 16;
const SALT_BYTES: usize = 4;

/// A secret of the key schedule. Wiped when dropped.
pub(crate) type Secret = Zeroizing<[u8; PRF_BYTES]>;

/// PRF_HMAC_SHA2_256 (RFC 4868) over the parts, one behind the other.
pub(crate) fn prf(key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    parts.iter().for_each(|part| context.update(part));
    let mut output = Zeroizing::new([0; PRF_BYTES]);
    for (to, from) in output.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    output
}

/// prf+ (RFC 7296 section 2.13): fills `out`, at most 255 blocks of it.
pub(crate) fn prf_plus(key: &[u8], seed: &[&[u8]], out: &mut [u8]) {
    let mut block = Zeroizing::new([0; PRF_BYTES]);
    for (index, chunk) in (1..=u8::MAX).zip(out.chunks_mut(PRF_BYTES)) {
        let previous = if index == 1 { &[] } else { block.as_slice() };
        let number = [index];
        let parts: Vec<&[u8]> = std::iter::once(previous).chain(seed.iter().copied()).chain([number.as_slice()]).collect();
        let next = prf(key, &parts);
        block = next;
        for (to, from) in chunk.iter_mut().zip(block.iter()) {
            *to = *from;
        }
    }
}

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

/// Our half of a key exchange.
pub(crate) struct Exchange {
    pub(crate) group: Group,
    private: PrivateKey,
    pub(crate) public: Vec<u8>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Makes a key pair. `None` if the host's randomness is so broken that no draw is a valid key.
    pub(crate) fn new(group: Group, host: &mut dyn Host) -> Option<Self> {
        let mut seed = Zeroizing::new([0u8; 32]);
        for _ in 0..8 {
            host.random(seed.as_mut_slice());
            let Ok(private) = PrivateKey::from_private_key(algorithm(group), seed.as_slice()) else { continue };
            let public = private.compute_public_key().ok()?;
            // RFC 5903 section 7: the point's coordinates, without the octet that says "uncompressed".
            let public = match group {
                Group::X25519 => public.as_ref().to_vec(),
                Group::P256 => public.as_ref().strip_prefix(&[4])?.to_vec(),
            };
            return Some(Self { group, private, public });
        }
        None
    }

    /// The shared secret. `None` for a public value of the wrong length, off the curve or of low order (RFC 8031 section 5).
    pub(crate) fn agree(&self, public: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let encoded = match self.group {
            Group::X25519 => public.to_vec(),
            Group::P256 => [&[4], public].concat(),
        };
        let peer = UnparsedPublicKey::new(algorithm(self.group), encoded);
        agreement::agree(&self.private, peer, (), |secret| Ok(Zeroizing::new(secret.to_vec()))).ok()
    }
}

fn algorithm(group: Group) -> &'static agreement::Algorithm {
    match group {
        Group::X25519 => &X25519,
        Group::P256 => &ECDH_P256,
    }
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
    pub(crate) derive: Secret,
    pub(crate) auth_i: Secret,
    pub(crate) auth_r: Secret,
    seal: Cipher,
    open: Cipher,
    /// The next IV: a counter, as RFC 5282 section 3.1 allows, so never used twice with one key.
    iv: u64,
}

impl std::fmt::Debug for IkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IkeKeys(..)")
    }
}

impl IkeKeys {
    /// SKEYSEED and everything from it. `None` only if the cipher refuses its own key length.
    pub(crate) fn derive(suite: Suite, shared: &[u8], seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let skeyseed = prf(&[seeds.nonce_i, seeds.nonce_r].concat(), &[shared]);
        Self::expand(suite, &skeyseed, seeds, initiator)
    }

    /// The keys of the IKE SA that takes over from the one with these (section 2.18).
    pub(crate) fn renew(&self, suite: Suite, shared: &[u8], seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let skeyseed = prf(self.derive.as_slice(), &[shared, seeds.nonce_i, seeds.nonce_r]);
        Self::expand(suite, &skeyseed, seeds, initiator)
    }

    fn expand(suite: Suite, skeyseed: &Secret, seeds: Seeds<'_>, initiator: bool) -> Option<Self> {
        let cipher_bytes = suite.key_bytes() + SALT_BYTES;
        let mut stream = Zeroizing::new(vec![0; 3 * PRF_BYTES + 2 * cipher_bytes]);
        let (spi_i, spi_r) = (seeds.spi_i.to_be_bytes(), seeds.spi_r.to_be_bytes());
        prf_plus(skeyseed.as_slice(), &[seeds.nonce_i, seeds.nonce_r, &spi_i, &spi_r], &mut stream);
        // The order of section 2.14; SK_ai and SK_ar are empty with an AEAD (RFC 5282 section 7).
        let mut rest = stream.as_slice();
        let mut cut = |bytes: usize| {
            let (head, tail) = rest.split_at_checked(bytes)?;
            rest = tail;
            Some(head)
        };
        let derive = secret(cut(PRF_BYTES)?);
        let from_i = Cipher::new(suite, cut(cipher_bytes)?)?;
        let from_r = Cipher::new(suite, cut(cipher_bytes)?)?;
        let (auth_i, auth_r) = (secret(cut(PRF_BYTES)?), secret(cut(PRF_BYTES)?));
        let (seal, open) = if initiator { (from_i, from_r) } else { (from_r, from_i) };
        Some(Self { derive, auth_i, auth_r, seal, open, iv: 0 })
    }

    /// Appends IV, ciphertext and ICV of `plain` to `message`, all of which so far is authenticated.
    pub(crate) fn seal(&mut self, message: &mut Vec<u8>, plain: &[u8]) -> Option<()> {
        let iv = self.iv.to_be_bytes();
        self.iv = self.iv.checked_add(1)?;
        // RFC 7296 section 3.14: padding may be absent, its length may not.
        let mut body = [plain, &[0]].concat();
        let tag = self.seal.key.seal_in_place_separate_tag(self.seal.nonce(iv), aead::Aad::from(&*message), &mut body).ok()?;
        message.extend_from_slice(&iv);
        message.extend_from_slice(&body);
        message.extend_from_slice(tag.as_ref());
        Some(())
    }

    /// Opens the body of an encrypted payload; `head` is everything in front of it. Returns the payloads without padding.
    pub(crate) fn open(&self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (iv, sealed) = body.split_first_chunk::<IV_BYTES>()?;
        let mut plain = sealed.to_vec();
        let length = self.open.key.open_in_place(self.open.nonce(*iv), aead::Aad::from(head), &mut plain).ok()?.len();
        plain.truncate(length);
        let padding = usize::from(plain.pop()?);
        plain.truncate(plain.len().checked_sub(padding)?);
        Some(plain)
    }
}

struct Cipher {
    key: aead::LessSafeKey,
    salt: [u8; SALT_BYTES],
}

impl Cipher {
    fn new(suite: Suite, material: &[u8]) -> Option<Self> {
        let (key, salt) = material.split_at_checked(suite.key_bytes())?;
        let algorithm = match suite {
            Suite::Aes128Gcm16 => &aead::AES_128_GCM,
            Suite::Aes256Gcm16 => &aead::AES_256_GCM,
        };
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).ok()?);
        Some(Self { key, salt: salt.try_into().ok()? })
    }

    fn nonce(&self, iv: [u8; IV_BYTES]) -> aead::Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        for (to, from) in nonce.iter_mut().zip(self.salt.iter().chain(&iv)) {
            *to = *from;
        }
        aead::Nonce::assume_unique_for_key(nonce)
    }
}

impl Drop for Cipher {
    fn drop(&mut self) {
        self.salt.zeroize(); // the library wipes the key
    }
}

fn secret(bytes: &[u8]) -> Secret {
    let mut secret = Zeroizing::new([0; PRF_BYTES]);
    for (to, from) in secret.iter_mut().zip(bytes) {
        *to = *from;
    }
    secret
}

/// The AUTH value of a pre-shared key (RFC 7296 section 2.15). `first` is the first message that its owner sent,
/// `nonce` the other side's, `auth` the owner's SK_p, `identity` the body of the owner's ID payload.
pub(crate) fn psk_auth(psk: &[u8], first: &[u8], nonce: &[u8], auth: &Secret, identity: &[u8]) -> Secret {
    let padded = prf(psk, &[b"Key Pad for IKEv2"]);
    let identity = prf(auth.as_slice(), &[identity]);
    prf(padded.as_slice(), &[first, nonce, identity.as_slice()])
}

/// What goes into the keys of a child: SK_d, the secret of a fresh key exchange (empty without one), and the two nonces of
/// the exchange that makes it, initiator's first.
#[derive(Clone, Copy)]
pub(crate) struct Material<'a> {
    pub(crate) derive: &'a Secret,
    pub(crate) shared: &'a [u8],
    pub(crate) nonce_i: &'a [u8],
    pub(crate) nonce_r: &'a [u8],
}

/// The keys of a child (RFC 7296 section 2.17): from its initiator, then towards it.
pub(crate) fn child_keys(material: Material<'_>, suite: Suite, esn: bool) -> (ChildKeys, ChildKeys) {
    let each = suite.key_bytes() + SALT_BYTES;
    let mut stream = Zeroizing::new(vec![0; 2 * each]);
    prf_plus(material.derive.as_slice(), &[material.shared, material.nonce_i, material.nonce_r], &mut stream);
    let one = |material: &[u8]| {
        let mut keys = ChildKeys { suite, esn, key: [0; 32], salt: [0; SALT_BYTES] };
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
