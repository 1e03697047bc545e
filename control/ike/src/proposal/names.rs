//! Transforms by the names that people use for them (IANA's, without the prefix of the type).

use super::{Transform, kind};

/// A list of alternatives.
pub(super) fn list<'a>(transforms: impl Iterator<Item = &'a Transform>) -> String {
    let names: Vec<String> = transforms.take(16).map(name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join("/") }
}

/// A protocol.
pub(super) fn protocol(protocol: u8) -> &'static str {
    if protocol == super::protocol::IKE { "IKE" } else { "ESP" }
}

/// A transform type.
pub(super) fn kind(number: u8) -> String {
    match number {
        kind::ENCR => "encryption".to_owned(),
        kind::PRF => "PRF".to_owned(),
        kind::INTEG => "integrity".to_owned(),
        kind::KE => "key exchange".to_owned(),
        kind::ESN => "sequence numbers".to_owned(),
        kind::ADDKE_1..=kind::ADDKE_7 => "additional key exchange".to_owned(),
        other => format!("transform type {other}"),
    }
}

/// Whether it is a group that nobody should use any more (RFC 8247 section 2.4: MUST NOT and SHOULD NOT).
pub(super) fn weak(transform: &Transform) -> bool {
    matches!((transform.kind, transform.id), (kind::KE, 1 | 2 | 5 | 22..=24))
}

fn name(transform: &Transform) -> String {
    let known = match (transform.kind, transform.id) {
        (kind::ENCR, 3) => "3DES",
        (kind::ENCR, 12) => "AES_CBC",
        (kind::ENCR, 13) => "AES_CTR",
        (kind::ENCR, 14..=16) => "AES_CCM",
        (kind::ENCR, 18) => "AES_GCM_8",
        (kind::ENCR, 19) => "AES_GCM_12",
        (kind::ENCR, 20) => "AES_GCM_16",
        (kind::ENCR, 28) => "CHACHA20_POLY1305",
        (kind::ENCR, 30) => "AES_GCM_16_IIV",
        (kind::PRF, 1) => "PRF_HMAC_MD5",
        (kind::PRF, 2) => "PRF_HMAC_SHA1",
        (kind::PRF, 4) => "PRF_AES128_XCBC",
        (kind::PRF, 5) => "PRF_HMAC_SHA2_256",
        (kind::PRF, 6) => "PRF_HMAC_SHA2_384",
        (kind::PRF, 7) => "PRF_HMAC_SHA2_512",
        (kind::INTEG, 2) => "HMAC_SHA1_96",
        (kind::INTEG, 12) => "HMAC_SHA2_256_128",
        (kind::INTEG, 13) => "HMAC_SHA2_384_192",
        (kind::INTEG, 14) => "HMAC_SHA2_512_256",
        (kind::INTEG | kind::KE | kind::ADDKE_1..=kind::ADDKE_7, 0) => "NONE",
        (kind::KE, 1) => "MODP_768",
        (kind::KE, 2) => "MODP_1024",
        (kind::KE, 5) => "MODP_1536",
        (kind::KE, 14) => "MODP_2048",
        (kind::KE, 15) => "MODP_3072",
        (kind::KE, 16) => "MODP_4096",
        (kind::KE, 19) => "P256",
        (kind::KE, 20) => "P384",
        (kind::KE, 21) => "P521",
        (kind::KE, 22) => "MODP_1024_S160",
        (kind::KE, 23) => "MODP_2048_S224",
        (kind::KE, 24) => "MODP_2048_S256",
        (kind::KE, 31) => "X25519",
        (kind::KE, 32) => "X448",
        (kind::KE | kind::ADDKE_1..=kind::ADDKE_7, 35) => "ML_KEM_512",
        (kind::KE | kind::ADDKE_1..=kind::ADDKE_7, 36) => "ML_KEM_768",
        (kind::KE | kind::ADDKE_1..=kind::ADDKE_7, 37) => "ML_KEM_1024",
        (kind::ESN, 0) => "NO_ESN",
        (kind::ESN, 1) => "ESN",
        (_, id) => return format!("#{id}"),
    };
    match transform.key_bits {
        Some(bits) => format!("{known}_{bits}"),
        None => known.to_owned(),
    }
}
