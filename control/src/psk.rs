//! Pre-shared keys: how they are made, written down, read, and judged.
//!
//! A PSK only authenticates a fresh key exchange, but whoever guesses it can pretend to be the peer, and an active
//! attacker can test guesses offline. So a key that could be guessed is refused unless the configuration insists
//! ([`strength`] has the rule).

use std::fmt;

use zeroize::Zeroizing;

/// The octets of a pre-shared key. Wiped when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    /// The octets for the AUTH payload's prf (RFC 7296 section 2.15).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Psk {
    fn from(octets: Zeroizing<Vec<u8>>) -> Self {
        Self(octets)
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Psk(hidden)")
    }
}

/// Decodes pairs of hex digits; `None` where something else stands between, or one digit is left over.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}
