//! The pseudo-random functions of the key schedule: HMAC with SHA-2 (RFC 4868), and prf+ (RFC 7296 section 2.13).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// A pseudo-random function. Its preferred key has as many octets as its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prf {
    Sha256,
    Sha384,
    Sha512,
}

impl Prf {
    /// All of them, the preferred one first.
    pub(crate) const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    pub(crate) fn algorithm(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha384 => hmac::HMAC_SHA384,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// Octets of a key and of an output.
    pub(crate) fn octets(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The function over the parts, one behind the other.
    pub(crate) fn over(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let mut context = hmac::Context::with_key(&hmac::Key::new(self.algorithm(), key));
        parts.iter().for_each(|part| context.update(part));
        Zeroizing::new(context.sign().as_ref().to_vec())
    }

    /// prf+: fills `out`, at most 255 blocks of it.
    pub(crate) fn fill(self, key: &[u8], seed: &[&[u8]], out: &mut [u8]) {
        let mut block = Secret::default();
        for (index, chunk) in (1..=u8::MAX).zip(out.chunks_mut(self.octets())) {
            let number = [index];
            let parts: Vec<&[u8]> = std::iter::once(block.as_slice()).chain(seed.iter().copied()).chain([number.as_slice()]).collect();
            let next = self.over(key, &parts);
            block = next;
            chunk.iter_mut().zip(block.iter()).for_each(|(to, from)| *to = *from);
        }
    }
}

/// Octets of the key schedule. Wiped when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// A key for the function that was agreed.
#[derive(Clone)]
pub(crate) struct Key {
    prf: Prf,
    octets: Secret,
}

impl Key {
    pub(crate) fn new(prf: Prf, octets: &[u8]) -> Self {
        Self { prf, octets: Zeroizing::new(octets.to_vec()) }
    }

    pub(crate) fn prf(&self) -> Prf {
        self.prf
    }

    /// The function over the parts, one behind the other.
    pub(crate) fn over(&self, parts: &[&[u8]]) -> Secret {
        self.prf.over(&self.octets, parts)
    }

    /// prf+ with this key.
    pub(crate) fn fill(&self, seed: &[&[u8]], out: &mut [u8]) {
        self.prf.fill(&self.octets, seed, out);
    }

    #[cfg(test)]
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        self.octets.to_vec()
    }
}
