//! Whatever a stranger sends, it gets no more octets than it sent: with a forged sender, an answer is a weapon against whoever
//! has that address.

mod lab;

use std::net::SocketAddr;

use lab::{Chance, EAST, WEST, World};

/// Where the next stranger comes from: a network of its own each, so that none is asked for a cookie because of the others.
fn stranger(number: &mut u32) -> SocketAddr {
    *number += 1;
    SocketAddr::new(std::net::Ipv4Addr::from(0x0b00_0000 + *number).into(), 4500)
}

/// Real messages: both of the first exchange, and protected ones of a whole conversation.
fn real_messages() -> Vec<Vec<u8>> {
    let mut world = World::mixed(20);
    world.initiate(WEST, true);
    world.until(100, "up", World::both_up);
    world.create_child(WEST, 1).expect("per core");
    world.run(100);
    world.sent.iter().map(|(_, message)| message.clone()).collect()
}

/// With a length field that is right, so that a message is not refused for that.
fn sized(mut message: Vec<u8>) -> Vec<u8> {
    let length = (message.len() as u32).to_be_bytes();
    if let Some(field) = message.get_mut(24..28) {
        field.copy_from_slice(&length);
    }
    message
}

/// A first message that a payload of `octets` (its header with them) makes longer, in front of the others, so that the chain stays whole.
fn lengthened(first: &[u8], octets: usize) -> Vec<u8> {
    let mut message = first[..28].to_vec();
    message[16] = 43;
    message.extend_from_slice(&[first[16], 0]);
    message.extend_from_slice(&(octets as u16).to_be_bytes());
    message.resize(28 + octets, 7);
    message.extend_from_slice(&first[28..]);
    sized(message)
}

/// A first message with proposal, key exchange and nonce, the shortest that could be answered.
fn bare(first: &[u8]) -> Vec<u8> {
    let (mut at, mut next, mut message) = (28, first[16], first[..28].to_vec());
    while [33, 34, 40].contains(&next) {
        let end = at + usize::from(u16::from_be_bytes([first[at + 2], first[at + 3]]));
        let from = message.len();
        message.extend_from_slice(&first[at..end]);
        (next, at) = (first[at], end);
        if ![33, 34, 40].contains(&next) {
            message[from] = 0;
        }
    }
    assert!(at < first.len(), "something optional was left out");
    sized(message)
}

/// Sends each message to a site that knows nobody but its peer; the octets of all answers stay within those of the message.
fn assert_not_amplified(messages: impl Iterator<Item = Vec<u8>>) -> (usize, usize) {
    let (mut answers, mut tries, mut number) = (0, 0, 0);
    let mut world = World::new(21);
    for message in messages {
        // A site that is crowded asks everybody for a cookie, which would hide what it answers otherwise.
        if tries % 25 == 0 {
            world = World::new(21);
        }
        tries += 1;
        let before = world.sent.len();
        world.inject(EAST, stranger(&mut number), &message);
        let answered: Vec<usize> = world.sent[before..].iter().map(|(_, answer)| answer.len()).collect();
        assert!(answered.iter().sum::<usize>() <= message.len(), "{answered:?} octets for {} of {message:02x?}", message.len());
        answers += answered.len();
    }
    (answers, tries)
}

#[test]
fn every_length_of_a_first_message_is_answered_within_its_length() {
    let first = real_messages().remove(0);
    // Cut or filled up to each length: with octets behind the last payload, and with a last payload that takes them in.
    let lengths = (0..=2_048).chain([9_000, 65_507]);
    let cut_or_filled = lengths.clone().map(|length| {
        let mut message = first.clone();
        message.resize(length, 0);
        sized(message)
    });
    let with_vendor = lengths.filter(|length| *length >= first.len() + 4).map(|length| lengthened(&first, length - first.len()));
    let (answers, _) = assert_not_amplified(cut_or_filled.chain(with_vendor));
    assert!(answers > 1_000, "the whole ones are answered: {answers}");
}

#[test]
fn every_truncation_and_every_flipped_bit_of_a_real_message_is_answered_within_its_length() {
    for message in real_messages() {
        let cuts = (0..message.len()).flat_map(|length| [message[..length].to_vec(), sized(message[..length].to_vec())]);
        let flips = (0..message.len() * 8).map(|bit| {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            flipped
        });
        assert_not_amplified(cuts.chain(flips));
    }
}

#[test]
fn every_first_octet_and_every_exchange_is_answered_within_its_length() {
    let first = real_messages().remove(0);
    // Next payload, version, exchange and flags, each with all its values; alone, and before noise.
    let mut chance = Chance::new(22);
    let mut messages = Vec::new();
    for at in [0, 16, 17, 18, 19] {
        for value in 0..=255 {
            for length in [28, 36, 80, first.len()] {
                let mut message = first[..length].to_vec();
                message[at] = value;
                messages.push(sized(message.clone()));
                message[28..].iter_mut().for_each(|octet| *octet = chance.next() as u8);
                messages.push(sized(message));
            }
        }
    }
    let (answers, _) = assert_not_amplified(messages.into_iter());
    assert!(answers > 0, "some are answered, such as those of a higher version");
}

#[test]
fn a_first_message_has_to_be_as_long_as_its_answer_or_show_a_cookie() {
    let mut plain = World::new(20);
    plain.initiate(WEST, true);
    let first = bare(&plain.sent[0].1);
    let answer = |message: &[u8]| {
        let mut world = World::new(23);
        world.inject(EAST, stranger(&mut 0), message);
        (world.sent[0].1.clone(), world.sites[EAST].ike.half_open())
    };
    // A cookie: one notification of 33 octets, and nothing is kept.
    assert_eq!((answer(&first).0.len(), answer(&first).1), (28 + 8 + 33, 0));
    let (long, kept) = answer(&lengthened(&first, 1_000));
    assert!(kept == 1 && long.len() > first.len() + 5, "a handshake's answer of {} octets", long.len());
    let missing = long.len() - first.len();
    assert_eq!(answer(&lengthened(&first, missing - 1)).1, 0, "one octet short");
    assert_eq!((answer(&lengthened(&first, missing)).0.len(), answer(&lengthened(&first, missing)).1), (long.len(), 1), "just as long");
}

/// A key exchange costs far more than all else that a first message asks for, so a flood of short ones must not have any made.
#[test]
fn no_key_exchange_is_made_for_a_first_message_that_is_shorter_than_its_answer() {
    let mut plain = World::new(20);
    plain.initiate(WEST, true);
    let first = bare(&plain.sent[0].1);
    let sa = usize::from(u16::from_be_bytes([first[30], first[31]]));
    // The point of order one, with which no secret can be agreed on: whoever tries has no answer (RFC 8031 section 5).
    let mut of_low_order = first.clone();
    of_low_order[28 + sa + 8..][..32].fill(0);
    let answers = |message: &[u8]| {
        let mut world = World::new(24);
        world.inject(EAST, stranger(&mut 0), message);
        world.sent.iter().map(|(_, answer)| answer.len()).collect::<Vec<_>>()
    };
    assert_eq!(answers(&lengthened(&of_low_order, 1_000)), [0; 0], "where it is made");
    assert_eq!(answers(&of_low_order), [28 + 8 + 33], "a cookie");
}
