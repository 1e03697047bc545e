//! Key exchange over elliptic curves (RFC 5903, RFC 8031).
//!
//! Private keys are made from the host's randomness and never from a generator of the library's own, which is what lets a
//! simulation replay from its seed.

use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519};
use zeroize::Zeroizing;

use super::Secret;
use crate::config::Group;
use crate::output::Host;

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
        let octets = if group == Group::P384 { 48 } else { 32 };
        let mut seed = Zeroizing::new(vec![0u8; octets]);
        for _ in 0..8 {
            host.random(seed.as_mut_slice());
            let Ok(private) = PrivateKey::from_private_key(algorithm(group), seed.as_slice()) else { continue };
            let public = private.compute_public_key().ok()?;
            // RFC 5903 section 7: the point's coordinates, without the octet that says "uncompressed".
            let public = match group {
                Group::X25519 => public.as_ref().to_vec(),
                Group::P256 | Group::P384 => public.as_ref().strip_prefix(&[4])?.to_vec(),
            };
            return Some(Self { group, private, public });
        }
        None
    }

    /// The shared secret. `None` for a public value of the wrong length, off the curve or of low order (RFC 8031 section 5).
    pub(crate) fn agree(&self, public: &[u8]) -> Option<Secret> {
        let encoded = match self.group {
            Group::X25519 => public.to_vec(),
            Group::P256 | Group::P384 => [&[4], public].concat(),
        };
        let peer = UnparsedPublicKey::new(algorithm(self.group), encoded);
        agreement::agree(&self.private, peer, (), |secret| Ok(Zeroizing::new(secret.to_vec()))).ok()
    }
}

fn algorithm(group: Group) -> &'static agreement::Algorithm {
    match group {
        Group::X25519 => &X25519,
        Group::P256 => &ECDH_P256,
        Group::P384 => &ECDH_P384,
    }
}
