//! Known answers, computed elsewhere: `tests/vectors/keys.py` is the recipe.

use super::{Algorithms, Cipher, Exchange, IkeKeys, Integrity, Key, Material, Prf, Seeds, child_keys, equal, psk_auth};

use aws_lc_rs::aead;

use crate::config::{Group, IkeSuite, PeerId, Suite};
use crate::output::{ChildKeys, Host};

const VECTORS: &str = include_str!("../../tests/vectors/keys.txt");

pub(crate) fn vector(name: &str) -> Vec<u8> {
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

const GCM_256: Algorithms = Algorithms { cipher: IkeSuite::Aes256Gcm16, integrity: None, prf: Prf::Sha256 };

/// What can be agreed for an IKE SA, by the name in the vectors.
const ALGORITHMS: [(Algorithms, &str); 7] = [
    (GCM_256, "256"),
    (Algorithms { cipher: IkeSuite::Aes128Gcm16, ..GCM_256 }, "128"),
    (Algorithms { prf: Prf::Sha384, ..GCM_256 }, "256_prf384"),
    (Algorithms { cipher: IkeSuite::Aes128Gcm16, integrity: None, prf: Prf::Sha512 }, "128_prf512"),
    (cbc(IkeSuite::Aes256Cbc, Prf::Sha256), "cbc256_sha256"),
    (cbc(IkeSuite::Aes128Cbc, Prf::Sha384), "cbc128_sha384"),
    (cbc(IkeSuite::Aes256Cbc, Prf::Sha512), "cbc256_sha512"),
];

const fn cbc(cipher: IkeSuite, sha: Prf) -> Algorithms {
    Algorithms { cipher, integrity: Some(Integrity(sha)), prf: sha }
}

fn with_seeds<T>(use_them: impl FnOnce(Seeds<'_>) -> T) -> T {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (150..174).collect());
    use_them(Seeds { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: 0x0123_4567_89ab_cdef, spi_r: 0xfedc_ba98_7654_3210 })
}

fn keys(algorithms: Algorithms, initiator: bool) -> IkeKeys {
    with_seeds(|seeds| IkeKeys::derive(algorithms, &vector("x25519_shared"), seeds, initiator)).expect("keys")
}

const HEAD: &[u8] = b"the header and what precedes the IV";

/// RFC 4231 section 4: key, data, and the PRF's outputs with SHA-256, SHA-384 and SHA-512. The same section of RFC 4868 (2.7.1)
/// has these cases for the PRF.
const RFC_4231: [(&[u8], &[u8], [&str; 3]); 2] = [
    (
        b"Jefe",
        b"what do ya want for nothing?",
        [
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
             caeab1a34d4a6b4b636e070a38bce737",
        ],
    ),
    (
        &[0x0b; 20],
        b"Hi There",
        [
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
            "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4\
             be9d914eeb61f1702e696c203a126854",
        ],
    ),
];

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn the_prfs_are_those_of_rfc_4231() {
    for (key, data, outputs) in RFC_4231 {
        for (prf, output) in Prf::ALL.into_iter().zip(outputs) {
            let (head, tail) = data.split_at(3);
            assert_eq!(hex(&prf.over(key, &[head, tail])), output);
            assert_eq!(prf.octets(), output.len() / 2);
        }
    }
}

#[test]
fn shared_secrets_are_those_computed_elsewhere() {
    let x25519 = Exchange::new(Group::X25519, &mut Fixed((0..32).collect())).expect("a key");
    assert_eq!(*x25519.agree(&vector("x25519_bob")).expect("agreed"), vector("x25519_shared"));
    for (group, octets, name) in [(Group::P256, 32, "p256"), (Group::P384, 48, "p384")] {
        let one = Exchange::new(group, &mut Fixed((1..=octets).collect())).expect("a key");
        assert_eq!(*one.agree(&vector(&format!("{name}_two"))).expect("agreed"), vector(&format!("{name}_shared")));
        assert_eq!(one.public.len(), 2 * usize::from(octets));
    }
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
    for off_curve in [vec![1; 64], vec![0; 64], vec![], vector("p256_two")[..63].to_vec(), vector("p384_two")] {
        assert!(p256.agree(&off_curve).is_none());
    }
    let p384 = Exchange::new(Group::P384, &mut Fixed((1..49).collect())).expect("a key");
    for off_curve in [vec![1; 96], vec![0; 96], vec![], vector("p384_two")[..95].to_vec(), vector("p256_two")] {
        assert!(p384.agree(&off_curve).is_none());
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
    for (algorithms, name) in ALGORITHMS {
        let keys = keys(algorithms, true);
        assert_eq!(keys.derive.to_vec(), vector(&format!("sk_d_{name}")));
        assert_eq!(keys.auth_i.to_vec(), vector(&format!("sk_pi_{name}")));
        assert_eq!(keys.auth_r.to_vec(), vector(&format!("sk_pr_{name}")));
        let renewed = with_seeds(|seeds| keys.renew(algorithms, &vector("x25519_shared"), seeds, true)).expect("keys");
        assert_eq!(renewed.derive.to_vec(), vector(&format!("sk_d_renewed_{name}")));
    }
}

#[test]
fn messages_are_sealed_and_opened_as_elsewhere() {
    for (algorithms, name) in ALGORITHMS {
        let (mut initiator, responder) = (keys(algorithms, true), keys(algorithms, false));
        let mut message = HEAD.to_vec();
        initiator.seal(&mut message, b"payloads").expect("sealed");
        assert_eq!(message[HEAD.len()..], vector(&format!("sealed_by_i_{name}")));
        assert_eq!(message.len(), HEAD.len() + initiator.sealed_octets(b"payloads".len()));
        for sealed in 80..200 {
            let plain = initiator.plain_octets(sealed);
            assert!(initiator.sealed_octets(plain) <= sealed && initiator.sealed_octets(plain + 1) > sealed, "{name} {sealed}");
        }
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
    for (algorithms, octets) in [(GCM_256, 8), (cbc(IkeSuite::Aes256Cbc, Prf::Sha256), 16)] {
        let mut keys = keys(algorithms, true);
        let ivs: std::collections::BTreeSet<Vec<u8>> = (0..100)
            .map(|_| {
                let mut message = Vec::new();
                keys.seal(&mut message, b"same").expect("sealed");
                message[..octets].to_vec()
            })
            .collect();
        assert_eq!(ivs.len(), 100);
        keys.iv = u64::MAX;
        assert!(keys.seal(&mut Vec::new(), b"the counter would wrap").is_none());
    }
}

#[test]
fn padding_longer_than_the_message_is_refused() {
    let (initiator, responder) = (keys(GCM_256, true), keys(GCM_256, false));
    let Cipher::Gcm { key, salt } = &initiator.seal else { panic!("another cipher") };
    for (plain, opens) in [(vec![0], true), (vec![7, 1], true), (vec![1], false), (vec![7, 2], false), (vec![], false)] {
        let mut body = plain.clone();
        let iv = [1; 8];
        let nonce = aead::Nonce::assume_unique_for_key([salt.as_slice(), &iv].concat().try_into().expect("12 octets"));
        let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(HEAD), &mut body).expect("sealed");
        let wire = [iv.as_slice(), &body, tag.as_ref()].concat();
        assert_eq!(responder.open(HEAD, &wire).is_some(), opens, "{plain:?}");
    }
}

#[test]
fn auth_values_and_child_keys_are_those_computed_elsewhere() {
    let (nonce_i, nonce_r): (Vec<u8>, Vec<u8>) = ((100..132).collect(), (150..174).collect());
    for (algorithms, name) in ALGORITHMS {
        let keys = keys(algorithms, true);
        let auth = psk_auth(b"an example of a pre-shared key", (b"first message", &nonce_r, &[]), &keys.auth_i, b"\x02\0\0\0name");
        assert_eq!(*auth, vector(&format!("auth_i_{name}")));
        let auth = psk_auth(b"an example of a pre-shared key", (b"first message", &nonce_r, b"IntAuth"), &keys.auth_i, b"\x02\0\0\0name");
        assert_eq!(*auth, vector(&format!("auth_i_bound_{name}")));
        let material = Material { derive: &keys.derive, shared: &[], nonce_i: &nonce_i, nonce_r: &nonce_r };
        let (from, towards) = child_keys(material, Suite::Aes256Gcm16, true);
        for (key, side) in [(from, "i"), (towards, "r")] {
            let expected = vector(&format!("child_from_{side}_{name}"));
            assert_eq!([key.key.as_slice(), &key.salt].concat(), expected);
        }
        // A shorter key is cut from the same stream: all from the initiator first.
        let (from, towards) = child_keys(material, Suite::Aes128Gcm16, true);
        let stream = [vector(&format!("child_from_i_{name}")), vector(&format!("child_from_r_{name}"))].concat();
        assert_eq!([&from.key[..16], &from.salt, &towards.key[..16], &towards.salt].concat(), stream[..40]);
        assert!(from.key[16..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn prf_plus_goes_on_over_many_blocks() {
    for prf in Prf::ALL {
        let (mut long, mut short) = ([0; 1_000], [0; 65]);
        prf.fill(b"key", &[b"seed"], &mut long);
        Key::new(prf, b"key").fill(&[b"se", b"ed"], &mut short);
        assert_eq!(long[..65], short);
        assert_eq!(prf.over(b"key", &[b"seed", &[1]])[..], short[..prf.octets()]);
    }
}

#[test]
fn equality_is_of_length_and_content() {
    assert!(equal(b"same", b"same"));
    assert!(!equal(b"same", b"some") && !equal(b"same", b"sam") && !equal(b"", b"x"));
}

#[test]
fn keys_do_not_print() {
    let keys = keys(GCM_256, true);
    assert_eq!(format!("{keys:?}"), "IkeKeys(..)");
    let child = ChildKeys { suite: Suite::Aes256Gcm16, esn: true, key: Box::new([0xaa; 32]), salt: [0xbb; 4] };
    assert_eq!(format!("{child:?}"), "ChildKeys { suite: Aes256Gcm16, esn: true, .. }");
    assert_eq!(format!("{:?}", crate::Psk::new(vec![1, 2, 3])), "Psk(..)");
    let exchange = Exchange::new(Group::X25519, &mut Fixed((0..32).collect())).expect("a key");
    assert_eq!(format!("{exchange:?}"), "Exchange { group: X25519, .. }");
}
