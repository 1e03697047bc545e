//! AES-GCM as ESP uses it (RFC 4106): key and salt, and how nonce and additional data are made from a packet.
//!
//! Sealer and opener share this one place, so that what the test vectors prove here is what packets go through.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use penstock_uapi::request::{Key, suite};
use zeroize::Zeroizing;

use super::packet::ICV_BYTES;

/// An expanded key with its salt. The expanded key lives in aws-lc's heap and is wiped there when dropped.
pub(super) struct Cipher {
    key: LessSafeKey,
    salt: Zeroizing<[u8; 4]>,
    esn: bool,
}

/// What is authenticated but not encrypted; 8 bytes, or 12 with extended sequence numbers.
pub(super) struct AdditionalData {
    bytes: [u8; 12],
    length: usize,
}

impl AdditionalData {
    // RFC 4106 section 5: SPI and sequence number; with ESN the whole 64-bit number, high half first.
    #[inline]
    fn new(spi: [u8; 4], sequence: u64, esn: bool) -> Self {
        let [a, b, c, d] = spi;
        let [h0, h1, h2, h3, l0, l1, l2, l3] = sequence.to_be_bytes();
        if esn {
            Self { bytes: [a, b, c, d, h0, h1, h2, h3, l0, l1, l2, l3], length: 12 }
        } else {
            Self { bytes: [a, b, c, d, l0, l1, l2, l3, 0, 0, 0, 0], length: 8 }
        }
    }
}

impl AsRef<[u8]> for AdditionalData {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl Cipher {
    /// `None` for a suite or an ESN flag that we do not know.
    pub(super) fn new(key: &Key) -> Option<Self> {
        let algorithm = match key.suite {
            suite::AES_128_GCM_16 => &AES_128_GCM,
            suite::AES_256_GCM_16 => &AES_256_GCM,
            _ => return None,
        };
        let esn = match key.esn {
            0 => false,
            1 => true,
            _ => return None,
        };
        let unbound = UnboundKey::new(algorithm, key.key.get(..algorithm.key_len())?).ok()?;
        Some(Self { key: LessSafeKey::new(unbound), salt: Zeroizing::new(key.salt), esn })
    }

    #[inline]
    pub(super) fn esn(&self) -> bool {
        self.esn
    }

    // RFC 4106 section 4: the nonce is the salt and the IV that stands in the packet.
    #[inline]
    fn nonce(&self, iv: [u8; 8]) -> Nonce {
        let [a, b, c, d] = *self.salt;
        let [e, f, g, h, i, j, k, l] = iv;
        Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
    }

    /// What is authenticated along with a packet.
    #[inline]
    pub(super) fn additional(&self, spi: [u8; 4], sequence: u64) -> AdditionalData {
        AdditionalData::new(spi, sequence, self.esn)
    }

    /// Encrypts two pieces of plaintext, an inner packet and its trailer, into two pieces of a frame; the second of
    /// them takes the ICV, too.
    #[inline]
    pub(super) fn seal(
        &self,
        iv: [u8; 8],
        additional: &[u8],
        (inner, trailer): (&[u8], &[u8]),
        (body, trailer_and_icv): (&mut [u8], &mut [u8]),
    ) -> Result<(), Unspecified> {
        self.key.seal_out_of_place_scatter(self.nonce(iv), Aad::from(additional), inner, body, trailer, trailer_and_icv)
    }

    /// Decrypts `ciphertext` into `plain` of the same length. When the ICV does not match, `plain` holds zeros.
    #[inline]
    pub(super) fn open(
        &self,
        iv: [u8; 8],
        additional: &[u8],
        ciphertext: &[u8],
        icv: &[u8; ICV_BYTES],
        plain: &mut [u8],
    ) -> Result<(), Unspecified> {
        self.key.open_separate_gather(self.nonce(iv), Aad::from(additional), ciphertext, icv, plain)
    }
}
