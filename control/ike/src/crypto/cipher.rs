//! The protection of IKE's own messages, one direction of it: AES-GCM (RFC 5282), or AES-CBC with HMAC-SHA2 (RFC 7296
//! section 3.14, RFC 4868) for peers that are configured so.
//!
//! Everything of a message in front of the IV is authenticated. In CBC the ICV covers IV and ciphertext too, and is verified
//! before anything is decrypted.

use aws_lc_rs::cipher::{AES_128, AES_256, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::{aead, hmac};
use zeroize::Zeroize;

use super::{Algorithms, Prf, equal};
use crate::config::IkeSuite;

const SALT_OCTETS: usize = 4;
const GCM_IV_OCTETS: usize = 8;
const GCM_ICV_OCTETS: usize = 16;
const BLOCK_OCTETS: usize = 16;

/// An integrity algorithm beside CBC: HMAC, truncated to half of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integrity(pub(crate) Prf);

impl Integrity {
    pub(crate) const ALL: [Self; 3] = [Self(Prf::Sha256), Self(Prf::Sha384), Self(Prf::Sha512)];

    fn icv_octets(self) -> usize {
        self.0.octets() / 2
    }
}

/// One direction.
pub(super) enum Cipher {
    Gcm { key: aead::LessSafeKey, salt: [u8; SALT_OCTETS] },
    Cbc(Box<Cbc>),
}

/// The keys of CBC.
pub(super) struct Cbc {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
    integrity: hmac::Key,
    icv_octets: usize,
}

impl Cipher {
    /// How many octets of SK_a and SK_e the algorithms take (RFC 7296 section 2.14; RFC 5282 section 7: no SK_a, a salt).
    pub(super) fn key_octets(algorithms: Algorithms) -> (usize, usize) {
        let aes = usize::from(algorithms.cipher.key_bits() / 8);
        match algorithms.integrity {
            None => (0, aes + SALT_OCTETS),
            Some(integrity) => (integrity.0.octets(), aes),
        }
    }

    pub(super) fn new(algorithms: Algorithms, authentication: &[u8], encryption: &[u8]) -> Option<Self> {
        if let Some(integrity) = algorithms.integrity {
            let algorithm = if algorithms.cipher.key_bits() == 128 { &AES_128 } else { &AES_256 };
            let key = || UnboundCipherKey::new(algorithm, encryption).ok();
            return Some(Self::Cbc(Box::new(Cbc {
                encrypt: EncryptingKey::cbc(key()?).ok()?,
                decrypt: DecryptingKey::cbc(key()?).ok()?,
                integrity: hmac::Key::new(integrity.0.algorithm(), authentication),
                icv_octets: integrity.icv_octets(),
            })));
        }
        let (key, salt) = encryption.split_last_chunk::<SALT_OCTETS>()?;
        let algorithm = if algorithms.cipher == IkeSuite::Aes128Gcm16 { &aead::AES_128_GCM } else { &aead::AES_256_GCM };
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, key).ok()?);
        Some(Self::Gcm { key, salt: *salt })
    }

    /// Octets of IV, ciphertext and ICV around so many octets of payloads.
    pub(super) fn sealed_octets(&self, plain: usize) -> usize {
        match self {
            Self::Gcm { .. } => GCM_IV_OCTETS + plain + 1 + GCM_ICV_OCTETS,
            Self::Cbc(cbc) => BLOCK_OCTETS + (plain + 1).next_multiple_of(BLOCK_OCTETS) + cbc.icv_octets,
        }
    }

    /// How many octets of payloads leave no more than `sealed` of IV, ciphertext and ICV.
    pub(super) fn plain_octets(&self, sealed: usize) -> usize {
        let text = match self {
            Self::Gcm { .. } => sealed.saturating_sub(GCM_IV_OCTETS + GCM_ICV_OCTETS),
            Self::Cbc(cbc) => sealed.saturating_sub(BLOCK_OCTETS + cbc.icv_octets) / BLOCK_OCTETS * BLOCK_OCTETS,
        };
        text.saturating_sub(1)
    }

    /// Appends IV, ciphertext and ICV of `plain` to `message`, all of which so far is authenticated. `count` must never come
    /// twice with one key.
    pub(super) fn seal(&self, count: u64, message: &mut Vec<u8>, plain: &[u8]) -> Option<()> {
        match self {
            Self::Gcm { key, salt } => {
                let iv = count.to_be_bytes();
                // RFC 7296 section 3.14: padding may be absent, its length may not.
                let mut body = [plain, &[0]].concat();
                let tag = key.seal_in_place_separate_tag(nonce(*salt, iv), aead::Aad::from(&*message), &mut body).ok()?;
                message.extend_from_slice(&iv);
                message.extend_from_slice(&body);
                message.extend_from_slice(tag.as_ref());
            }
            Self::Cbc(cbc) => cbc.seal(count, message, plain)?,
        }
        Some(())
    }

    /// Opens IV, ciphertext and ICV; `head` is everything in front of them. Returns the payloads without padding.
    pub(super) fn open(&self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let mut plain = match self {
            Self::Gcm { key, salt } => {
                let (iv, sealed) = body.split_first_chunk::<GCM_IV_OCTETS>()?;
                let mut plain = sealed.to_vec();
                let length = key.open_in_place(nonce(*salt, *iv), aead::Aad::from(head), &mut plain).ok()?.len();
                plain.truncate(length);
                plain
            }
            Self::Cbc(cbc) => cbc.open(head, body)?,
        };
        let padding = usize::from(plain.pop()?);
        plain.truncate(plain.len().checked_sub(padding)?);
        Some(plain)
    }
}

impl Cbc {
    fn seal(&self, count: u64, message: &mut Vec<u8>, plain: &[u8]) -> Option<()> {
        // An IV that nobody can foretell, from a count: NIST SP 800-38A appendix C.
        let mut iv = [0; BLOCK_OCTETS];
        iv.iter_mut().zip(count.to_be_bytes()).for_each(|(to, from)| *to = from);
        self.encrypt.less_safe_encrypt(&mut iv, EncryptionContext::Iv128([0; BLOCK_OCTETS].into())).ok()?;
        let padding = (plain.len() + 1).next_multiple_of(BLOCK_OCTETS) - plain.len() - 1;
        let mut body = [plain, &vec![0; padding], &[u8::try_from(padding).ok()?]].concat();
        self.encrypt.less_safe_encrypt(&mut body, EncryptionContext::Iv128(iv.into())).ok()?;
        message.extend_from_slice(&iv);
        message.extend_from_slice(&body);
        let icv = hmac::sign(&self.integrity, message);
        message.extend_from_slice(icv.as_ref().get(..self.icv_octets)?);
        Some(())
    }

    fn open(&self, head: &[u8], body: &[u8]) -> Option<Vec<u8>> {
        let (sealed, icv) = body.split_at_checked(body.len().checked_sub(self.icv_octets)?)?;
        let mut context = hmac::Context::with_key(&self.integrity);
        context.update(head);
        context.update(sealed);
        if !equal(context.sign().as_ref().get(..self.icv_octets)?, icv) {
            return None;
        }
        let (iv, sealed) = sealed.split_first_chunk::<BLOCK_OCTETS>()?;
        let mut plain = sealed.to_vec();
        self.decrypt.decrypt(&mut plain, DecryptionContext::Iv128((*iv).into())).ok()?;
        Some(plain)
    }
}

fn nonce(salt: [u8; SALT_OCTETS], iv: [u8; GCM_IV_OCTETS]) -> aead::Nonce {
    let mut nonce = [0; aead::NONCE_LEN];
    nonce.iter_mut().zip(salt.iter().chain(&iv)).for_each(|(to, from)| *to = *from);
    aead::Nonce::assume_unique_for_key(nonce)
}

impl Drop for Cipher {
    fn drop(&mut self) {
        // The library wipes the keys.
        if let Self::Gcm { salt, .. } = self {
            salt.zeroize();
        }
    }
}
