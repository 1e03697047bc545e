//! Whatever is merged can be cut again into the very same packets in the same order.

use proptest::prelude::*;

use super::{Merge, Settled};
use crate::packet::ip::Ip;
use crate::tun::model::{Flow, cut_write, repair};
use crate::tun::split::Split;
use crate::tun::vnet::{HEADER_BYTES_MAX, Header};

/// Merges packets as the path does; gives the writes.
fn merge(packets: &[Vec<u8>], uso: bool) -> Vec<Vec<u8>> {
    let (mut merge, mut writes) = (Merge::new(HEADER_BYTES_MAX, uso), Vec::new());
    let mut buffer = vec![0; 100_000];
    let close = |merge: &mut Merge, buffer: &mut [u8], writes: &mut Vec<Vec<u8>>| {
        if let Some((bytes, _)) = merge.close(buffer) {
            writes.push(buffer[..bytes].to_vec());
        }
    };
    for packet in packets {
        let ip = Ip::parse(packet).expect("a packet");
        let mut at = merge.landing(&buffer, packet.len() + 20);
        if at.is_none() {
            close(&mut merge, &mut buffer, &mut writes);
            at = merge.landing(&buffer, packet.len() + 20);
        }
        let at = at.expect("an empty buffer has room");
        // A failed opening in between leaves no trace.
        buffer[at..at + packet.len() + 20].fill(0xee);
        merge.undo(&mut buffer);
        let at = merge.landing(&buffer, packet.len() + 20).expect("as before");
        buffer[at..at + packet.len()].copy_from_slice(packet);
        buffer[at + packet.len()..][..20].fill(0xdd);
        if merge.settle(&mut buffer, &ip) == Settled::Apart {
            let mut other = vec![0; 100_000];
            merge.take_apart(&mut buffer, packet.len(), &mut other);
            close(&mut merge, &mut buffer, &mut writes);
            buffer = other;
            merge.landing(&buffer, packet.len()).expect("an empty buffer has room");
            assert_eq!(merge.settle(&mut buffer, &ip), Settled::Taken);
        }
    }
    close(&mut merge, &mut buffer, &mut writes);
    writes
}

/// A few packets of one flow, with something odd now and then.
fn burst() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let flow = (any::<bool>(), any::<bool>(), 0..3u16, any::<bool>(), any::<bool>(), prop_oneof![Just(100u32), Just(u32::MAX - 50)]);
    (flow, 1..400usize, 0..3000usize, 0..14u8, any::<u8>()).prop_map(
        |((v6, tcp, port, push, options, sequence), segment, length, odd, seed)| {
            let flow = Flow { port: 1000 + port, push, options, sequence, ..Flow::new(v6, tcp) };
            let payload: Vec<u8> = (0..length).map(|at| (at as u8).wrapping_mul(3).wrapping_add(seed)).collect();
            let mut packets = if payload.is_empty() { vec![flow.packet(&[])] } else { flow.cut(&payload, segment) };
            let at = usize::from(seed) % packets.len();
            let headers = flow.headers();
            match odd {
                0 => drop(packets.remove(at)),
                1 => packets.swap(0, at),
                2 => *packets[at].last_mut().expect("bytes") ^= 1,
                3 => packets[at][headers - 1] ^= 1,
                4 if tcp => packets[at][headers - options_bytes(options) - 7] |= 0x02,
                5 => packets.push(packets[at].clone()),
                7..=9 => flip(&mut packets[at], usize::from(seed) * 7 + length),
                6 => packets[at] = Flow { tos: 2, ..flow }.packet(b"marked"),
                _ => {}
            }
            packets
        },
    )
}

/// Flips one bit anywhere, as long as the packet still is as long as it says.
fn flip(packet: &mut [u8], bit: usize) {
    let (at, bit) = (bit / 8 % packet.len(), 1 << (bit % 8));
    packet[at] ^= bit;
    if Ip::parse(packet).is_none_or(|ip| ip.total != packet.len()) {
        packet[at] ^= bit;
    }
}

fn options_bytes(options: bool) -> usize {
    if options { 12 } else { 0 }
}

/// The packets that a write stands for, by our own cutting.
fn split(write: &mut [u8]) -> Vec<Vec<u8>> {
    let (header, packet) = write.split_at_mut(HEADER_BYTES_MAX);
    let header = Header::parse(header).expect("a virtio header");
    let ip = Ip::parse(packet).expect("a packet");
    let mut split = Split::new(&header, packet, &ip).expect("parts that make sense");
    let mut packets = Vec::new();
    while let Some(packet) = split.next() {
        packets.push(packet.to_vec());
    }
    packets
}

proptest! {
    #[test]
    fn what_was_merged_is_cut_into_the_same_packets(bursts in proptest::collection::vec(burst(), 1..6), uso: bool) {
        let packets: Vec<_> = bursts.concat();
        let writes = merge(&packets, uso);
        let again: Vec<_> = writes.iter().flat_map(|write| cut_write(write)).collect();
        prop_assert_eq!(again, packets);
        for write in writes {
            prop_assert_eq!(split(&mut write.clone()), cut_write(&write), "our own cutting agrees");
        }
    }
}

#[test]
fn a_flow_becomes_one_write() {
    for (v6, tcp) in [(false, true), (false, false), (true, true), (true, false)] {
        let flow = Flow { push: tcp, ..Flow::new(v6, tcp) };
        let packets = flow.cut(&[5; 40 * 1000 + 7], 1000);
        let writes = merge(&packets, true);
        assert_eq!(writes.len(), 1, "v6 {v6}, tcp {tcp}");
        assert_eq!(writes.iter().flat_map(|write| cut_write(write)).collect::<Vec<_>>(), packets);
    }
}

#[test]
fn a_write_is_never_larger_than_a_packet_can_be() {
    let writes = merge(&Flow::new(false, true).cut(&[5; 200 * 1000], 1000), true);
    assert!(writes.len() >= 4 && writes.iter().all(|write| write.len() <= HEADER_BYTES_MAX + 65_535));
    let writes = merge(&Flow::new(false, false).cut(&[5; 200 * 100], 100), true);
    assert!(writes.iter().all(|write| cut_write(write).len() <= 64));
}

/// Each of these must end a group: were its check taken out, two packets would become one write.
#[test]
fn what_does_not_belong_together_stays_apart() {
    let first = Flow::new(false, true);
    let second = Flow { sequence: first.sequence.wrapping_add(100), id: first.id.wrapping_add(1), ..first.clone() };
    let writes = |second: Vec<u8>| merge(&[first.packet(&[1; 100]), second], true).len();
    let changed = |at: usize, bits: u8| {
        let mut packet = second.packet(&[2; 100]);
        packet[at] ^= bits;
        writes(packet)
    };
    assert_eq!(writes(second.packet(&[2; 100])), 1);
    assert_eq!(writes(Flow { sequence: first.sequence, ..second.clone() }.packet(&[2; 100])), 2, "sequence number");
    assert_eq!(writes(Flow { id: 7, ..second.clone() }.packet(&[2; 100])), 2, "identification");
    assert_eq!(writes(Flow { port: 7, ..second.clone() }.packet(&[2; 100])), 2, "port");
    assert_eq!(writes(Flow { options: false, ..second.clone() }.packet(&[2; 100])), 2, "options");
    assert_eq!(writes(Flow { tos: 1, ..second.clone() }.packet(&[2; 100])), 2, "type of service");
    assert_eq!(writes(second.packet(&[2; 101])), 2, "a longer segment");
    assert_eq!(writes(second.packet(&[])), 2, "no payload");
    assert_eq!(changed(140, 1), 2, "damaged");
    assert_eq!(changed(10, 1), 2, "a damaged IPv4 header");
    // Checksums are made right again, so that only the comparison of headers can tell.
    let repaired = |change: &dyn Fn(&mut [u8])| {
        let mut packet = second.packet(&[2; 100]);
        change(&mut packet);
        repair(&mut packet);
        writes(packet)
    };
    assert_eq!(repaired(&|_| {}), 1);
    assert_eq!(repaired(&|packet| packet[8] -= 1), 2, "time to live");
    assert_eq!(repaired(&|packet| packet[6] ^= 0x40), 2, "may be fragmented");
    assert_eq!(repaired(&|packet| packet[6] |= 0x20), 2, "a fragment");
    assert_eq!(repaired(&|packet| packet[15] ^= 2), 2, "source");
    assert_eq!(repaired(&|packet| packet[19] ^= 2), 2, "destination");
    assert_eq!(repaired(&|packet| packet[21] ^= 1), 2, "source port");
    assert_eq!(repaired(&|packet| packet[23] ^= 1), 2, "destination port");
    assert_eq!(repaired(&|packet| packet[31] ^= 1), 2, "acknowledgement");
    assert_eq!(repaired(&|packet| packet[32] ^= 1), 2, "a reserved bit");
    assert_eq!(repaired(&|packet| packet[35] ^= 1), 2, "window");
    assert_eq!(repaired(&|packet| packet[39] ^= 1), 2, "urgent pointer");
    assert_eq!(repaired(&|packet| packet[51] ^= 1), 2, "a time stamp");
    for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        assert_eq!(repaired(&|packet| packet[33] |= flag), 2, "flag {flag:#x}");
    }
    let mut after_a_push = vec![Flow { push: true, ..first.clone() }.packet(&[1; 100]), second.packet(&[2; 100])];
    assert_eq!(merge(&after_a_push, true).len(), 2);
    after_a_push[0] = first.packet(&[1; 99]);
    after_a_push[1] = Flow { sequence: first.sequence.wrapping_add(99), ..second.clone() }.packet(&[2; 99]);
    after_a_push.push(Flow { sequence: first.sequence.wrapping_add(198), id: second.id.wrapping_add(1), ..second }.packet(&[3; 50]));
    assert_eq!(merge(&after_a_push, true).len(), 1);
    let damaged_first = vec![
        {
            let mut packet = first.packet(&[1; 100]);
            packet[10] ^= 1;
            packet
        },
        after_a_push[1].clone(),
    ];
    assert_eq!(merge(&damaged_first, true).len(), 2, "a damaged IPv4 header in front");
    let datagrams = Flow::new(true, false).cut(&[1; 300], 100);
    assert_eq!((merge(&datagrams, true).len(), merge(&datagrams, false).len()), (1, 3));
}

/// Identifications count up or are all zero, and zeros mean nothing only where nothing may be fragmented.
#[test]
fn a_group_keeps_to_one_way_of_numbering() {
    let writes = |tcp: bool, ids: &[u16], may_fragment: bool| {
        let numbered = |(index, id): (usize, &u16)| {
            let start = Flow::new(false, tcp);
            let mut packet = Flow { id: *id, sequence: start.sequence.wrapping_add(index as u32 * 100), ..start }.packet(&[1; 100]);
            if may_fragment {
                packet[6] = 0;
                repair(&mut packet);
            }
            packet
        };
        merge(&ids.iter().enumerate().map(numbered).collect::<Vec<_>>(), true).len()
    };
    assert_eq!(writes(true, &[0, 0, 0], false), 1);
    assert_eq!(writes(true, &[0, 1, 2], false), 1);
    assert_eq!(writes(true, &[0xffff, 0, 1], true), 1);
    assert_eq!(writes(true, &[0, 0], true), 2);
    assert_eq!(writes(true, &[7, 7], false), 2);
    assert_eq!(writes(true, &[0, 0, 1], false), 2);
    assert_eq!(writes(true, &[0, 1, 0], false), 2);
    assert_eq!(writes(false, &[0, 0], false), 2);
    assert_eq!(writes(false, &[5, 6], false), 1);
}

/// Checksums of zero and lengths of their own: what UDP alone has.
#[test]
fn odd_datagrams_stay_apart() {
    let packets = Flow::new(false, false).cut(&[1; 200], 100);
    let writes = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packets = packets.clone();
        change(&mut packets[1]);
        merge(&packets, true).len()
    };
    assert_eq!(writes(&|_| {}), 1);
    assert_eq!(writes(&|packet| packet[26..28].fill(0)), 2, "no checksum");
    assert_eq!(writes(&|packet| packet[25] -= 1), 2, "a length of its own");
    // One byte less than the IP packet has, and a checksum that is right for what the sum covers.
    let shorter = |packet: &mut Vec<u8>| {
        packet[25] -= 1;
        let sum = u16::from_be_bytes([packet[26], packet[27]]);
        packet[26..28].copy_from_slice(&(sum + 1).to_be_bytes());
    };
    assert_eq!(writes(&shorter), 2);
    // The same sum as a true zero would have, which has to be sent as its other form.
    let zero = |packet: &mut Vec<u8>| {
        packet[28..30].fill(0);
        repair(packet);
        let sum = [packet[26], packet[27]];
        packet[28..30].copy_from_slice(&sum);
        repair(packet);
        assert_eq!(packet[26..28], [0, 0]);
    };
    assert_eq!(writes(&zero), 2);
}

#[test]
fn ipv6_headers_are_compared_whole() {
    let packets = Flow::new(true, true).cut(&[1; 200], 100);
    for at in [1, 3, 7, 8, 23, 24, 39] {
        let mut packets = packets.clone();
        packets[1][at] ^= 1;
        repair(&mut packets[1]);
        assert_eq!(merge(&packets, true).len(), 2, "byte {at}");
    }
    assert_eq!(merge(&packets, true).len(), 1);
}

/// What both packets have in common may still be nothing that a kernel could make again by cutting.
#[test]
fn some_packets_never_join_anything() {
    let alike = |tcp: bool, change: &dyn Fn(&mut [u8])| {
        let mut packets = Flow::new(false, tcp).cut(&[1; 200], 100);
        for packet in &mut packets {
            change(packet);
            repair(packet);
        }
        merge(&packets, true).len()
    };
    assert_eq!(alike(true, &|_| {}), 1);
    for flag in [0x01, 0x02, 0x04, 0x20, 0x40, 0x80] {
        assert_eq!(alike(true, &|packet| packet[33] |= flag), 2, "flag {flag:#x}");
    }
    assert_eq!(alike(true, &|packet| packet[33] = 0), 2, "no ACK");
    assert_eq!(alike(true, &|packet| packet[32] = 0x40), 2, "a TCP header that is too short");
    assert_eq!(alike(true, &|packet| packet[6] = 0x20), 2, "fragments");
    assert_eq!(alike(false, &|packet| packet[6] = 0x20), 2, "fragments");
    assert_eq!(alike(false, &|packet| packet[9] = 132), 2, "SCTP");
}

#[test]
fn a_push_ends_the_group_wherever_it_stands() {
    let mut packets = Flow { push: true, ..Flow::new(false, true) }.cut(&[1; 200], 100);
    packets.extend(Flow { id: 0, sequence: 0xffff_fc00 + 200, ..Flow::new(false, true) }.cut(&[1; 200], 100));
    assert_eq!(merge(&packets, true).len(), 2);
    for packet in &mut packets {
        packet[33] &= !0x08;
        repair(packet);
    }
    assert_eq!(merge(&packets, true).len(), 1, "without it they are one group");
}

#[test]
fn there_is_no_landing_without_room() {
    let mut merge = Merge::new(HEADER_BYTES_MAX, true);
    assert_eq!(merge.landing(&[0; 100], 100 - HEADER_BYTES_MAX), Some(HEADER_BYTES_MAX));
    assert_eq!(merge.landing(&[0; 100], 101 - HEADER_BYTES_MAX), None);
}
