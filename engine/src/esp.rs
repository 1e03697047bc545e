//! ESP (RFC 4303) with AES-GCM (RFC 4106): pure functions from inner packets to frames and back. A frame is what stands
//! behind the UDP header.
//!
//! Only [`open::Opener::open`] can make an [`open::Authenticated`] packet, and only from one can an inner packet be taken:
//! unauthenticated bytes cannot reach the TUN device by mistake.

pub mod open;
pub mod packet;
pub mod replay;
pub mod seal;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey};
use penstock_uapi::request::{Key, suite};

/// The cipher and salt of a key; `None` for an unknown suite.
fn cipher(key: &Key) -> Option<(LessSafeKey, [u8; 4])> {
    let (algorithm, bytes) = match key.suite {
        suite::AES_128_GCM_16 => (&AES_128_GCM, &key.key[..16]),
        suite::AES_256_GCM_16 => (&AES_256_GCM, &key.key[..]),
        _ => return None,
    };
    let unbound = UnboundKey::new(algorithm, bytes).ok()?;
    Some((LessSafeKey::new(unbound), key.salt))
}

/// RFC 4106 section 4: salt, then IV.
fn nonce(salt: [u8; 4], iv: [u8; 8]) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&salt);
    nonce[4..].copy_from_slice(&iv);
    nonce
}

/// RFC 4106 section 5: SPI and sequence number, with ESN all 64 bits of it.
struct Associated {
    bytes: [u8; 12],
    length: usize,
}

impl Associated {
    fn new(spi: [u8; 4], sequence: u64, esn: bool) -> Self {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&spi);
        if esn {
            bytes[4..].copy_from_slice(&sequence.to_be_bytes());
            Self { bytes, length: 12 }
        } else {
            bytes[4..8].copy_from_slice(&sequence.to_be_bytes()[4..]);
            Self { bytes, length: 8 }
        }
    }
}

impl AsRef<[u8]> for Associated {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
