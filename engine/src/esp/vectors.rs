//! Vectors made elsewhere: whole frames against sealer and opener, and AES-GCM cases against the cipher that both use.
//! Where they come from stands in `engine/tests/vectors/README.md`.

use penstock_uapi::Drop;
use penstock_uapi::request::{Key, Limits, suite};
use serde_json::Value;

use super::cipher::Cipher;
use super::{Opener, Sealer};

fn load(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    serde_json::from_str(&text).expect("the vectors are a list")
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a text of hex digits");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits")).collect()
}

fn key(bytes: &[u8], salt: &[u8], esn: bool) -> Key {
    let suite = if bytes.len() == 16 { suite::AES_128_GCM_16 } else { suite::AES_256_GCM_16 };
    let mut key = Key { key: [0; 32], salt: salt.try_into().expect("4 bytes of salt"), suite, esn: esn.into(), reserved: [0; 2] };
    key.key[..bytes.len()].copy_from_slice(bytes);
    key
}

/// One association of `esp.json` or `ietf.json`.
struct Association {
    key: Key,
    spi: u32,
    frames: Vec<Frame>,
}

struct Frame {
    sequence: u64,
    own_iv: bool,
    next_header: u8,
    inner: Vec<u8>,
    frame: Vec<u8>,
}

fn associations(name: &str) -> impl Iterator<Item = Association> {
    load(name).into_iter().map(|sa| Association {
        key: key(&hex(&sa["key"]), &hex(&sa["salt"]), sa["esn"].as_bool().expect("a flag")),
        spi: u32::try_from(sa["spi"].as_u64().expect("a number")).expect("32 bits"),
        frames: sa["frames"].as_array().expect("a list").iter().map(frame).collect(),
    })
}

fn frame(value: &Value) -> Frame {
    Frame {
        sequence: value["sequence"].as_u64().expect("a number"),
        own_iv: value["own_iv"].as_bool().expect("a flag"),
        next_header: u8::try_from(value["next_header"].as_u64().expect("a number")).expect("8 bits"),
        inner: hex(&value["inner"]),
        frame: hex(&value["frame"]),
    }
}

#[test]
fn frames_made_elsewhere_open_in_order_and_once() {
    let mut opened = 0;
    for name in ["esp.json", "ietf.json"] {
        for Association { key, frames, .. } in associations(name) {
            let mut opener = Opener::new(&key, 16_384, &Limits::default()).expect("a known suite");
            if let Some(first) = frames.first().filter(|first| first.sequence >> 32 > 0) {
                opener.skip_to(first.sequence - 1);
            }
            for Frame { sequence, next_header, inner, frame, .. } in &frames {
                let mut out = vec![0; frame.len()];
                let packet = opener.open(frame, &mut out).expect("a frame of an independent sender");
                assert!(packet.is_newest());
                assert_eq!(packet.sequence(), *sequence);
                assert_eq!(
                    packet.decapsulate().map(|(next_header, inner)| (next_header, inner.to_vec())),
                    Ok((*next_header, inner.clone()))
                );
                assert_eq!(opener.open(frame, &mut out).map(|_| ()), Err(Drop::Replay));
                opened += 1;
            }
        }
    }
    assert_eq!(opened, 72 + 13);
}

#[test]
fn our_frames_are_those_made_elsewhere() {
    let mut sealed = 0;
    for Association { key, spi, frames } in associations("esp.json") {
        let mut sealer = Sealer::new(spi, &key, &Limits::default()).expect("a known suite");
        for Frame { sequence, next_header, inner, frame, .. } in frames.iter().filter(|frame| frame.own_iv) {
            sealer.skip_to(sequence - 1);
            let mut out = vec![0; frame.len()];
            assert_eq!(sealer.seal(inner, *next_header, &mut out), Ok(frame.len()));
            assert_eq!(&out, frame, "sequence {sequence}");
            sealed += 1;
        }
    }
    assert_eq!(sealed, 15 + 12 + 15 + 12);
}

#[test]
fn wycheproof_cases_come_out_as_they_should() {
    let (mut valid, mut invalid) = (0, 0);
    for case in load("wycheproof.json") {
        let name = format!("case {}", case["tcId"]);
        let (plain, ciphertext, additional) = (hex(&case["msg"]), hex(&case["ct"]), hex(&case["aad"]));
        let nonce = hex(&case["iv"]);
        let (salt, iv) = nonce.split_at(4);
        let iv = iv.try_into().expect("8 bytes of IV");
        let cipher = Cipher::new(&key(&hex(&case["key"]), salt, true)).expect("a known suite");
        let icv = hex(&case["tag"]).try_into().expect("16 bytes of tag");

        let mut opened = vec![0xee; ciphertext.len()];
        let authentic = cipher.open(iv, &additional, &ciphertext, &icv, &mut opened).is_ok();
        if case["result"] == "valid" {
            assert!(authentic, "{name}");
            assert_eq!(opened, plain, "{name}");
            valid += 1;
        } else {
            assert!(!authentic, "{name}");
            assert_ne!(opened, plain, "{name}: unauthenticated plaintext was left behind");
            invalid += 1;
        }
        // A sealer gives the plaintext in two pieces; the cut may be anywhere.
        for cut in 0..=plain.len() {
            let (inner, trailer) = plain.split_at(cut);
            let (mut body, mut rest) = (vec![0; cut], vec![0; trailer.len() + 16]);
            cipher.seal(iv, &additional, (inner, trailer), (&mut body, &mut rest)).expect("lengths are right");
            let sealed = [body, rest].concat();
            assert_eq!(sealed == [&ciphertext[..], &icv[..]].concat(), authentic, "{name}, cut at {cut}");
        }
    }
    assert_eq!((valid, invalid), (79, 54));
}
