//! Sealed packets opened, and everything that must not open.

use penstock_uapi::Drop;
use penstock_uapi::request::{Key, Limits, suite};
use zerocopy::little_endian::U64;

use super::{Authenticated, Opener};
use crate::esp::packet::{FRAME_BYTES_MIN, NEXT_HEADER_IPV4, frame_bytes};
use crate::esp::seal::{SealError, Sealer};

fn key(suite: u8, esn: bool) -> Key {
    Key { key: core::array::from_fn(|at| at as u8), salt: [9, 8, 7, 6], suite, esn: esn.into(), reserved: [0; 2] }
}

fn pair(suite: u8, esn: bool, limits: &Limits) -> (Sealer, Opener) {
    let sealer = Sealer::new(0x1234_5678, &key(suite, esn), limits).expect("a known suite");
    (sealer, Opener::new(&key(suite, esn), 16_384, limits).expect("a known suite"))
}

fn sealed(sealer: &mut Sealer, inner: &[u8]) -> Vec<u8> {
    let mut out = vec![0; frame_bytes(inner.len())];
    assert_eq!(sealer.seal(inner, NEXT_HEADER_IPV4, &mut out), Ok(out.len()));
    out
}

#[test]
fn every_length_comes_back() {
    for (suite, esn) in KINDS {
        let (mut sealer, mut opener) = pair(suite, esn, &Limits::default());
        for length in (0..2048).chain([8900, 65_535]) {
            let inner: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
            let frame = sealed(&mut sealer, &inner);
            let mut out = vec![0xee; frame.len()];
            let packet = opener.open(&frame, &mut out).expect("authentic");
            assert!(packet.is_newest());
            let (next_header, opened) = packet.decapsulate().expect("our own padding");
            assert_eq!((next_header, &*opened), (NEXT_HEADER_IPV4, &inner[..]));
            assert_eq!(opener.open(&frame, &mut out).map(|_| ()), Err(Drop::Replay));
        }
    }
}

const KINDS: [(u8, bool); 4] =
    [(suite::AES_128_GCM_16, true), (suite::AES_128_GCM_16, false), (suite::AES_256_GCM_16, true), (suite::AES_256_GCM_16, false)];

#[test]
fn a_damaged_frame_never_opens_and_never_moves_the_window() {
    for (suite, esn) in KINDS {
        // Given a window that has seen 17 and 30, and frame 16 on its way.
        let (mut sealer, mut opener) = pair(suite, esn, &Limits::default());
        let frames: Vec<Vec<u8>> = (1..=40).map(|number| sealed(&mut sealer, &vec![0x45; 61 + number % 4])).collect();
        let mut out = [0; 128];
        for number in [30, 17] {
            assert!(opener.open(&frames[number - 1], &mut out).is_ok());
        }
        let frame = &frames[15];
        // When any bit of it is flipped.
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let expected = match u32::from_be_bytes([damaged[4], damaged[5], damaged[6], damaged[7]]) {
                0 => Drop::ReplayWindow,
                17 => Drop::Replay,
                _ => Drop::BadIcv,
            };
            assert_eq!(opener.open(&damaged, &mut out).map(|_| ()), Err(expected), "bit {bit}");
        }
        assert_eq!(opener.lifetime().failures(), frame.len() as u64 * 8 - 2);
        // Or it is cut short, or followed by other bytes.
        for length in 0..frame.len() {
            let expected = if length < FRAME_BYTES_MIN || length % 4 != 0 { Drop::Runt } else { Drop::BadIcv };
            assert_eq!(opener.open(&frame[..length], &mut out).map(|_| ()), Err(expected), "length {length}");
        }
        for more in 1..=8 {
            let expected = if more % 4 != 0 { Drop::Runt } else { Drop::BadIcv };
            assert_eq!(opener.open(&[&frame[..], &vec![0; more]].concat(), &mut out).map(|_| ()), Err(expected), "{more} more");
        }
        // Then the window stands where it stood: every number that was not received is still free.
        assert_eq!(opener.sequence(), 30);
        for (number, frame) in (1..).zip(&frames) {
            let expected = if [17, 30].contains(&number) { Err(Drop::Replay) } else { Ok(number) };
            assert_eq!(opener.open(frame, &mut out).map(|packet| packet.sequence()), expected);
        }
    }
}

#[test]
fn without_esn_the_last_number_ends_the_key() {
    let (mut sealer, mut opener) = pair(suite::AES_128_GCM_16, false, &Limits::default());
    let mut out = [0; 64];
    sealer.skip_to((1 << 31) - 2);
    for soft in [false, true] {
        let frame = sealed(&mut sealer, b"x");
        assert_eq!(opener.open(&frame, &mut out).map(|packet| packet.sequence()), Ok(sealer.sequence()));
        assert_eq!((sealer.soft(), opener.soft()), (soft, soft), "though the opener has seen two packets only");
    }
    sealer.skip_to(u64::from(u32::MAX) - 1);
    let frame = sealed(&mut sealer, b"x");
    assert_eq!(frame[4..8], [0xff; 4]);
    assert_eq!(opener.open(&frame, &mut out).map(|packet| packet.sequence()), Ok(u64::from(u32::MAX)));
    assert!(sealer.exhausted());
    assert_eq!(sealer.seal(b"x", NEXT_HEADER_IPV4, &mut out), Err(SealError::Exhausted));
    assert_eq!(sealer.sequence(), u64::from(u32::MAX), "no number beyond the last was ever used");
}

#[test]
fn a_key_of_an_unknown_kind_is_refused() {
    for (suite, esn) in [(0, 0), (3, 0), (suite::AES_128_GCM_16, 2)] {
        let key = Key { key: [1; 32], salt: [2; 4], suite, esn, reserved: [0; 2] };
        assert!(Sealer::new(1, &key, &Limits::default()).is_none() && Opener::new(&key, 1024, &Limits::default()).is_none());
    }
}

#[test]
fn the_window_is_never_off() {
    let key = key(suite::AES_128_GCM_16, true);
    let mut sealer = Sealer::new(1, &key, &Limits::default()).expect("a known suite");
    let mut opener = Opener::new(&key, 0, &Limits::default()).expect("a known suite");
    let frames: Vec<Vec<u8>> = (0..1025).map(|_| sealed(&mut sealer, b"x")).collect();
    let mut out = [0; 64];
    assert!(opener.open(&frames[1024], &mut out).is_ok());
    assert!(opener.open(&frames[1], &mut out).is_ok(), "1,024 numbers are held at least");
    assert_eq!(opener.open(&frames[0], &mut out).map(|_| ()), Err(Drop::ReplayWindow));
}

/// What a peer with the key may send that we must not pass on.
fn forged(plaintext: &[u8]) -> Result<(u8, usize), Drop> {
    let mut bytes = plaintext.to_vec();
    Authenticated { plain: &mut bytes, sequence: 1, newest: true }.decapsulate().map(|(next_header, inner)| (next_header, inner.len()))
}

#[test]
fn padding_must_count_up_from_one() {
    assert_eq!(forged(&[7, 7, 0, 4]), Ok((4, 2)));
    assert_eq!(forged(&[7, 1, 2, 3, 3, 41]), Ok((41, 1)));
    assert_eq!(forged(&[7, 1, 2, 4, 3, 41]), Err(Drop::BadPadding));
    assert_eq!(forged(&[7, 0, 1, 2, 3, 41]), Err(Drop::BadPadding));
    assert_eq!(forged(&[1, 2, 2, 59]), Ok((59, 0)));
    assert_eq!(forged(&[1, 2, 3, 59]), Err(Drop::BadPadding));
    assert_eq!(forged(&[59]), Err(Drop::BadPadding));
    let long: Vec<u8> = (1..=255).chain([255, 4]).collect();
    assert_eq!(forged(&long), Ok((4, 0)));
}

#[test]
fn limits_stop_both_halves_to_the_packet() {
    let limits = Limits { soft_packets: U64::new(3), hard_packets: U64::new(5), ..Limits::default() };
    let (mut sealer, mut opener) = pair(suite::AES_256_GCM_16, true, &limits);
    let (mut more, _) = pair(suite::AES_256_GCM_16, true, &Limits::default());
    let mut out = [0; 256];
    for number in 1..=5 {
        assert!(!sealer.exhausted());
        let frame = sealed(&mut sealer, b"x");
        assert_eq!(more.seal(b"x", NEXT_HEADER_IPV4, &mut out), Ok(frame.len()));
        assert!(opener.open(&frame, &mut out).is_ok());
        assert_eq!((sealer.soft(), opener.soft()), (number >= 3, number >= 3));
    }
    assert_eq!(sealer.seal(b"x", NEXT_HEADER_IPV4, &mut out), Err(SealError::Exhausted));
    assert_eq!(sealer.sequence(), 5);
    let frame = sealed(&mut more, b"x");
    assert_eq!(opener.open(&frame, &mut out).map(|_| ()), Err(Drop::InboundKeyExhausted));
}

#[test]
fn forgeries_use_up_a_key() {
    let limits = Limits { failures: U64::new(10), ..Limits::default() };
    let (mut sealer, mut opener) = pair(suite::AES_128_GCM_16, true, &limits);
    let frame = sealed(&mut sealer, b"x");
    let mut bad = frame.clone();
    *bad.last_mut().expect("bytes") ^= 1;
    let mut out = [0; 64];
    for _ in 0..10 {
        assert_eq!(opener.open(&bad, &mut out).map(|_| ()), Err(Drop::BadIcv));
    }
    assert_eq!(opener.open(&frame, &mut out).map(|_| ()), Err(Drop::InboundKeyExhausted));
}

#[test]
fn the_high_half_is_authenticated_and_not_sent() {
    let (mut sealer, mut opener) = pair(suite::AES_128_GCM_16, true, &Limits::default());
    let mut out = [0; 64];
    opener.skip_to((1 << 32) - 2);
    sealer.skip_to((1 << 32) - 2);
    for low in [u32::MAX, 0, 1] {
        let frame = sealed(&mut sealer, b"x");
        assert_eq!(frame[4..8], low.to_be_bytes());
        assert_eq!(opener.open(&frame, &mut out).map(|packet| packet.sequence()), Ok(sealer.sequence()));
    }
    // The same low half, authenticated with another high half, does not hold.
    let (mut other, _) = pair(suite::AES_128_GCM_16, true, &Limits::default());
    other.skip_to((5 << 32) + 9);
    let frame = sealed(&mut other, b"x");
    assert_eq!(opener.open(&frame, &mut out).map(|_| ()), Err(Drop::BadIcv));
    assert_eq!(opener.sequence(), (1 << 32) + 1);
}

#[test]
fn an_old_packet_of_ours_is_named_by_its_iv_and_still_counted_as_a_failure() {
    let (mut sealer, mut opener) = pair(suite::AES_128_GCM_16, true, &Limits::default());
    let mut out = [0; 64];
    let old = sealed(&mut sealer, b"x");
    sealer.skip_to(20_000);
    let new = sealed(&mut sealer, b"x");
    assert!(opener.open(&old, &mut out).is_ok() && opener.open(&new, &mut out).is_ok());
    // Inference takes it for number 2^32 + 1, under which it does not authenticate.
    assert_eq!(opener.open(&old, &mut out).map(|_| ()), Err(Drop::ReplayWindow));
    let mut foreign = old;
    foreign[8] ^= 1;
    assert_eq!(opener.open(&foreign, &mut out).map(|_| ()), Err(Drop::BadIcv));
    assert_eq!((opener.lifetime().failures(), opener.sequence()), (2, 20_001));
}

#[test]
fn no_room_costs_nothing_and_a_zero_sequence_is_never_taken() {
    let (mut sealer, mut opener) = pair(suite::AES_128_GCM_16, false, &Limits::default());
    assert_eq!(sealer.seal(&[0; 100], NEXT_HEADER_IPV4, &mut [0; 100]), Err(SealError::NoRoom));
    assert_eq!(sealer.sequence(), 0);
    let frame = sealed(&mut sealer, &[0; 100]);
    assert_eq!(opener.open(&frame, &mut [0; 50]).map(|_| ()), Err(Drop::InboundNoBuffer));
    let mut zero = frame;
    zero[4..8].fill(0);
    assert_eq!(opener.open(&zero, &mut [0; 200]).map(|_| ()), Err(Drop::ReplayWindow));
}
