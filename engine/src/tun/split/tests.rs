//! Cutting against the slow way.

use proptest::prelude::*;

use super::Split;
use crate::packet::ip::Ip;
use crate::tun::model::Flow;
use crate::tun::vnet::{Gso, HEADER_BYTES_MAX, Header};

fn split(read: &mut [u8]) -> Option<Vec<Vec<u8>>> {
    let (header, packet) = read.split_at_mut(HEADER_BYTES_MAX);
    let header = Header::parse(header)?;
    let ip = Ip::parse(packet)?;
    let mut split = Split::new(&header, packet, &ip).ok()?;
    let mut packets = Vec::new();
    while let Some(packet) = split.next() {
        packets.push(packet.to_vec());
        // What is sealed may be overwritten: nothing of it may be needed again.
        packet.fill(0xdd);
    }
    Some(packets)
}

proptest! {
    #[test]
    fn agrees_with_the_slow_way(v6: bool, tcp: bool, push: bool, options: bool, id: u16, sequence: u32, segment in 1..3000usize, length in 1..20_000usize, seed: u8) {
        let flow = Flow { push, options, id, sequence, ..Flow::new(v6, tcp) };
        let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect();
        prop_assert_eq!(split(&mut flow.read(&payload, segment)), Some(flow.cut(&payload, segment)));
    }

    #[test]
    fn nonsense_is_refused_or_cut_without_a_panic(v6: bool, tcp: bool, header: [u8; 12], at in 0..60usize, byte: u8, length in 0..2000usize) {
        let flow = Flow::new(v6, tcp);
        let mut read = flow.read(&vec![7; length], 100);
        read[..12].copy_from_slice(&header);
        split(&mut read);
        let mut read = flow.read(&vec![7; length], 100);
        read[12 + at % (length + 28)] = byte;
        split(&mut read);
    }
}

#[test]
fn an_unfinished_checksum_is_finished() {
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let flow = Flow::new(v6, tcp);
        let whole = flow.packet(b"some payload");
        let l4 = if v6 { 40 } else { 20 };
        let field = l4 + if tcp { 16 } else { 6 };
        let mut packet = whole.clone();
        // The kernel leaves the folded sum of the pseudo-header.
        let addresses = if v6 { &whole[8..40] } else { &whole[12..20] };
        let begun = crate::packet::checksum::pseudo(addresses, if tcp { 6 } else { 17 }).word((whole.len() - l4) as u16).folded();
        packet[field..field + 2].copy_from_slice(&begun);
        let mut read = vec![0; HEADER_BYTES_MAX];
        Header { checksum: Some((l4 as u16, (field - l4) as u16)), gso: Gso::None, ..Header::default() }.write(&mut read);
        read.extend(packet);
        assert_eq!(split(&mut read), Some(vec![whole]));
    }
}

#[test]
fn fin_and_push_stay_on_the_last_and_cwr_on_the_first() {
    let mut read = Flow::new(false, true).read(&[1; 300], 100);
    read[12 + 20 + 13] |= 0x01 | 0x08 | 0x80;
    let flags: Vec<u8> = split(&mut read).expect("three packets").iter().map(|packet| packet[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19]);
}

#[test]
fn contradictions_are_refused() {
    let flow = Flow::new(false, true);
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut read = flow.read(&[1; 300], 100);
        change(&mut read);
        assert_eq!(split(&mut read), None);
    };
    refused(&|read| Header { segment_bytes: 0, ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { checksum: None, ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { gso: Gso::TcpV6, ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { gso: Gso::Udp, ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { checksum: Some((24, 16)), ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { checksum: Some((8, 16)), ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| Header { checksum: Some((60_000, 16)), ..flow.header(100) }.write(&mut read[..12]));
    refused(&|read| read[12 + 20 + 12] = 0x40);
    refused(&|read| read.truncate(12 + 40));
    // More fragments: what stands behind the header is no whole super-packet.
    refused(&|read| read[12 + 6] |= 0x20);
    refused(&|read| Header { gso: Gso::None, checksum: Some((8, 8)), ..Header::default() }.write(&mut read[..12]));
    refused(&|read| Header { gso: Gso::None, checksum: Some((20, 400)), ..Header::default() }.write(&mut read[..12]));
}

#[test]
fn headers_between_ipv6_and_tcp_are_kept() {
    let flow = Flow::new(true, true);
    let destination_options = [6, 0, 1, 4, 0, 0, 0, 0];
    let extended = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        packet[6] = 60;
        let length = u16::from_be_bytes([packet[4], packet[5]]) + 8;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet.splice(40..40, destination_options);
        packet
    };
    let mut read = vec![0; HEADER_BYTES_MAX];
    Header { checksum: Some((48, 16)), ..flow.header(100) }.write(&mut read);
    read.extend(extended(&flow.packet(&[1; 300])));
    let expected: Vec<_> = flow.cut(&[1; 300], 100).iter().map(|packet| extended(packet)).collect();
    assert_eq!(split(&mut read), Some(expected));
}

#[test]
fn contradictions_over_ipv6_are_refused() {
    let flow = Flow::new(true, true);
    for wrong in [Header { gso: Gso::TcpV4, ..flow.header(100) }, Header { checksum: Some((32, 16)), ..flow.header(100) }] {
        let mut read = flow.read(&[1; 300], 100);
        // What stands where the header is said to be looks like TCP.
        read[12 + 32 + 12] = 0x50;
        wrong.write(&mut read[..12]);
        assert_eq!(split(&mut read), None);
    }
}

#[test]
fn more_headers_than_there_is_room_for_are_refused() {
    let flow = Flow::new(true, true);
    let mut read = flow.read(&[0xf0; 900], 100);
    read[12 + 6] = 60;
    Header { checksum: Some((400, 16)), ..flow.header(100) }.write(&mut read[..12]);
    assert_eq!(split(&mut read), None);
}

#[test]
fn what_stands_behind_a_packet_is_not_part_of_it() {
    let flow = Flow::new(false, false);
    let mut read = flow.plain(b"whole");
    read.extend([0xee; 9]);
    assert_eq!(split(&mut read), Some(vec![flow.packet(b"whole")]));
}

/// A sum of zero: UDP must not send it, since it would say that there is no checksum (RFC 768).
#[test]
fn a_udp_checksum_is_never_zero() {
    for v6 in [false, true] {
        let flow = Flow::new(v6, false);
        let l4 = if v6 { 40 } else { 20 };
        // The first two bytes make up for all the rest.
        let balanced = |length: usize| {
            let mut payload = vec![3; length];
            payload[..2].fill(0);
            let packet = flow.packet(&payload);
            payload[..2].copy_from_slice(&packet[l4 + 6..l4 + 8]);
            payload
        };
        let payload = balanced(100);
        let whole = flow.packet(&payload);
        assert_eq!(whole[l4 + 6..l4 + 8], [0xff, 0xff]);
        assert_eq!(split(&mut flow.read(&[&payload[..], &[1; 50]].concat(), 100)).expect("two packets")[0], whole);
        let mut read = vec![0; HEADER_BYTES_MAX];
        Header { checksum: Some((l4 as u16, 6)), gso: Gso::None, ..Header::default() }.write(&mut read);
        read.extend(&whole);
        let addresses = if v6 { &whole[8..40] } else { &whole[12..20] };
        let begun = crate::packet::checksum::pseudo(addresses, 17).word((whole.len() - l4) as u16).folded();
        read[12 + l4 + 6..12 + l4 + 8].copy_from_slice(&begun);
        assert_eq!(split(&mut read), Some(vec![whole]));
    }
}
