//! Known answers, computed elsewhere: `tests/vectors/keys.py` is the recipe.

use super::{Exchange, IkeKeys, Material, Seeds, child_keys, equal, prf, prf_plus, psk_auth};
use aws_lc_rs::aead;

use crate::config::{Group, PeerId, Suite};
use crate::output::{ChildKeys, Host};

const VECTORS: &str = include_str!("../../tests/vectors/keys.txt");

fn vector(name: &str) -> Vec<u8> {
    let line = VECTORS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = ")).expect(name);
    (0..line.len() / 2).map(|at| u8::from_str_radix(&line[2 * at..2 * at + 2], 16).expect("hex")).collect()
}

/// Gives the octets that it was made with, one draw after the other.
struct Fixed(Vec<u8>);
impl Host for Fixed {
    fn random(&mut self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.drain(..bytes.len()).collect::<Vec<_>>());
    }
    fn allocate_spi(&mut self, _: PeerId, _: Option<u16>) -> u32 {
        0
    }
}

const SUITES: [(Suite, &str); 2] = [(Suite::Aes256Gcm16, "256"), (Suite::Aes128Gcm16, "128")];

fn keys(suite: Suite, initiator: bool) -> IkeKeys {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (150..174).collect());
    let seeds = Seeds { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: 0x0123_4567_89ab_cdef, spi_r: 0xfedc_ba98_7654_3210 };
    IkeKeys::derive(suite, &vector("x25519_shared"), seeds, initiator).expect("keys")
}

const HEAD: &[u8] = b"the header and what precedes the IV";

#[test]
fn hmac_sha256_is_that_of_rfc_4231() {
    // Test case 2.
    let expected = [
        0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e, 0x6a, 0x04, 0x24, 0x26, 0x08, 0x95, 0x75, 0xc7, 0x5a, 0x00, 0x3f, 0x08, 0x9d, 0x27,
        0x39, 0x83, 0x9d, 0xec, 0x58, 0xb9, 0x64, 0xec, 0x38, 0x43,
    ];
    assert_eq!(*prf(b"Jefe", &[b"what do ya ", b"want for nothing?"]), expected);
}

#[test]
fn shared_secrets_are_those_computed_elsewhere() {
    let x25519 = Exchange::new(Group::X25519, &mut Fixed((0..32).collect())).expect("a key");
    assert_eq!(*x25519.agree(&vector("x25519_bob")).expect("agreed"), vector("x25519_shared"));
    let p256 = Exchange::new(Group::P256, &mut Fixed((1..33).collect())).expect("a key");
    assert_eq!(*p256.agree(&vector("p256_two")).expect("agreed"), vector("p256_shared"));
}

#[test]
fn public_values_that_are_none_are_refused() {
    let x25519 = Exchange::new(Group::X25519, &mut Fixed((0..32).collect())).expect("a key");
    // RFC 7748 section 6.1: the all-zero value and the other points of low order.
    let one = [&[1], [0; 31].as_slice()].concat();
    for low in [vec![0; 32], one, vec![0; 31], vec![9; 33], vec![]] {
        assert!(x25519.agree(&low).is_none(), "{low:?}");
    }
    let p256 = Exchange::new(Group::P256, &mut Fixed((1..33).collect())).expect("a key");
    for off_curve in [vec![1; 64], vec![0; 64], vec![], vector("p256_two")[..63].to_vec()] {
        assert!(p256.agree(&off_curve).is_none());
    }
}

#[test]
fn a_draw_that_is_no_key_is_drawn_again() {
    // For P-256 zero is none.
    let draws = [vec![0; 32], (1..33).collect()].concat();
    let p256 = Exchange::new(Group::P256, &mut Fixed(draws)).expect("the second draw");
    assert_eq!(*p256.agree(&vector("p256_two")).expect("agreed"), vector("p256_shared"));
}

#[test]
fn the_key_schedule_is_that_computed_elsewhere() {
    for (suite, name) in SUITES {
        let keys = keys(suite, true);
        assert_eq!(keys.derive.to_vec(), vector(&format!("sk_d_{name}")));
        assert_eq!(keys.auth_i.to_vec(), vector(&format!("sk_pi_{name}")));
        assert_eq!(keys.auth_r.to_vec(), vector(&format!("sk_pr_{name}")));
    }
}

#[test]
fn messages_are_sealed_and_opened_as_elsewhere() {
    for (suite, name) in SUITES {
        let (mut initiator, responder) = (keys(suite, true), keys(suite, false));
        let mut message = HEAD.to_vec();
        initiator.seal(&mut message, b"payloads").expect("sealed");
        assert_eq!(message[HEAD.len()..], vector(&format!("sealed_by_i_{name}")));
        assert_eq!(responder.open(HEAD, &message[HEAD.len()..]).expect("opened"), b"payloads");
        // Padding of the other side's choice is taken off.
        let padded = vector(&format!("sealed_by_r_{name}"));
        assert_eq!(initiator.open(HEAD, &padded).expect("opened"), b"payloads");
        // No octet of it, nor of its head, may change; nor may it be opened by its own sealer.
        for at in 0..padded.len() {
            let mut changed = padded.clone();
            changed[at] ^= 1;
            assert!(initiator.open(HEAD, &changed).is_none(), "{at}");
            assert!(initiator.open(HEAD, &padded[..at]).is_none(), "{at}");
        }
        assert!(initiator.open(&HEAD[1..], &padded).is_none());
        assert!(responder.open(HEAD, &padded).is_none());
    }
}

#[test]
fn an_iv_is_never_used_twice() {
    let mut keys = keys(Suite::Aes256Gcm16, true);
    let ivs: std::collections::BTreeSet<Vec<u8>> = (0..100)
        .map(|_| {
            let mut message = Vec::new();
            keys.seal(&mut message, b"same").expect("sealed");
            message[..8].to_vec()
        })
        .collect();
    assert_eq!(ivs.len(), 100);
    keys.iv = u64::MAX;
    assert!(keys.seal(&mut Vec::new(), b"the counter would wrap").is_none());
}

#[test]
fn padding_longer_than_the_message_is_refused() {
    let (initiator, responder) = (keys(Suite::Aes256Gcm16, true), keys(Suite::Aes256Gcm16, false));
    for (plain, opens) in [(vec![0], true), (vec![7, 1], true), (vec![1], false), (vec![7, 2], false), (vec![], false)] {
        let mut body = plain.clone();
        let (key, iv) = (&initiator.seal, [1; 8]);
        let tag = key.key.seal_in_place_separate_tag(key.nonce(iv), aead::Aad::from(HEAD), &mut body).expect("sealed");
        let wire = [iv.as_slice(), &body, tag.as_ref()].concat();
        assert_eq!(responder.open(HEAD, &wire).is_some(), opens, "{plain:?}");
    }
}

#[test]
fn auth_values_and_child_keys_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (150..174).collect());
    for (suite, name) in SUITES {
        let keys = keys(suite, true);
        let auth = psk_auth(b"an example of a pre-shared key", b"first message", &nonce_r, &keys.auth_i, b"\x02\0\0\0name");
        assert_eq!(auth.to_vec(), vector(&format!("auth_i_{name}")));
        let (from, towards) = child_keys(Material { derive: &keys.derive, shared: &[], nonce_i: &nonce_i, nonce_r: &nonce_r }, suite, true);
        for (key, side) in [(from, "i"), (towards, "r")] {
            let expected = vector(&format!("child_from_{side}_{name}"));
            let (bytes, salt) = expected.split_at(suite.key_bytes());
            assert_eq!((&key.key[..suite.key_bytes()], &key.salt[..]), (bytes, salt));
            assert!(key.key[suite.key_bytes()..].iter().all(|byte| *byte == 0));
        }
    }
}

#[test]
fn prf_plus_goes_on_over_many_blocks() {
    let (mut long, mut short) = ([0; 1_000], [0; 33]);
    prf_plus(b"key", &[b"seed"], &mut long);
    prf_plus(b"key", &[b"se", b"ed"], &mut short);
    assert_eq!(long[..33], short);
    assert_eq!(prf(b"key", &[b"seed", &[1]])[..], short[..32]);
}

#[test]
fn equality_is_of_length_and_content() {
    assert!(equal(b"same", b"same"));
    assert!(!equal(b"same", b"some") && !equal(b"same", b"sam") && !equal(b"", b"x"));
}

#[test]
fn keys_do_not_print() {
    let keys = keys(Suite::Aes256Gcm16, true);
    assert_eq!(format!("{keys:?}"), "IkeKeys(..)");
    let child = ChildKeys { suite: Suite::Aes256Gcm16, esn: true, key: [0xaa; 32], salt: [0xbb; 4] };
    assert_eq!(format!("{child:?}"), "ChildKeys { suite: Aes256Gcm16, esn: true, .. }");
    assert_eq!(format!("{:?}", crate::Psk::new(vec![1, 2, 3])), "Psk(..)");
    let exchange = Exchange::new(Group::X25519, &mut Fixed((0..32).collect())).expect("a key");
    assert_eq!(format!("{exchange:?}"), "Exchange { group: X25519, .. }");
}
