//! ML-KEM-768 (FIPS 203), the second key exchange beside an elliptic curve (draft-ietf-ipsecme-ikev2-mlkem, RFC 9370).
//!
//! The library draws its keys from its own generator and takes no other, so that what depends on them does not replay from a
//! seed: values, never lengths or steps.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::Secret;

/// Its number among the key exchange methods.
pub(crate) const ML_KEM_768_NUMBER: u16 = 36;

/// The initiator's half.
pub(crate) struct Decapsulation {
    private: DecapsulationKey,
    /// The encapsulation key: 1,184 octets.
    pub(crate) public: Vec<u8>,
}

impl std::fmt::Debug for Decapsulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decapsulation(..)")
    }
}

impl Decapsulation {
    /// `None` if the library has no randomness.
    pub(crate) fn new() -> Option<Self> {
        let private = DecapsulationKey::generate(&ML_KEM_768).ok()?;
        let public = private.encapsulation_key().ok()?.key_bytes().ok()?.as_ref().to_vec();
        Some(Self { private, public })
    }

    /// The shared secret out of the responder's ciphertext. `None` for one of the wrong length; any other gives a secret, which
    /// is the responder's only if nobody has changed it.
    pub(crate) fn agree(&self, ciphertext: &[u8]) -> Option<Secret> {
        let secret = self.private.decapsulate(Ciphertext::from(ciphertext)).ok()?;
        Some(Zeroizing::new(secret.as_ref().to_vec()))
    }
}

/// The responder's half: a ciphertext of 1,088 octets for this encapsulation key, and the shared secret. `None` for what is no key.
pub(crate) fn encapsulate(public: &[u8]) -> Option<(Vec<u8>, Secret)> {
    let (ciphertext, secret) = EncapsulationKey::new(&ML_KEM_768, public).ok()?.encapsulate().ok()?;
    Some((ciphertext.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
}

#[cfg(test)]
mod tests {
    use super::{Decapsulation, encapsulate};

    #[test]
    fn both_sides_have_the_secret_and_nobody_else() {
        let key = Decapsulation::new().expect("a key");
        let (ciphertext, secret) = encapsulate(&key.public).expect("a key");
        assert_eq!((key.public.len(), ciphertext.len(), secret.len()), (1_184, 1_088, 32));
        assert_eq!(key.agree(&ciphertext).expect("agreed"), secret);
        assert_ne!(Decapsulation::new().expect("a key").agree(&ciphertext).expect("another one"), secret);
        let mut changed = ciphertext.clone();
        changed[0] ^= 1;
        assert_ne!(key.agree(&changed).expect("another one"), secret);
    }

    #[test]
    fn what_is_no_key_and_no_ciphertext_is_refused() {
        let key = Decapsulation::new().expect("a key");
        for length in [0, 1_087, 1_089] {
            assert!(key.agree(&vec![1; length]).is_none(), "{length}");
        }
        // FIPS 203 section 7.2: the length, and each coefficient below the modulus.
        for public in [vec![], key.public[1..].to_vec(), vec![0xff; 1_184]] {
            assert!(encapsulate(&public).is_none());
        }
    }
}
