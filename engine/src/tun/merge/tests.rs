//! Whatever is merged can be cut again into the very same packets in the same order.

use proptest::prelude::*;

use super::{Merge, Settled};
use crate::packet::ip::{Ip, finish_v4};
use crate::tun::model::{Flow, cut_write};
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
    let rewritten = |at: usize, bits: u8| {
        let mut packet = second.packet(&[2; 100]);
        packet[at] ^= bits;
        finish_v4(&mut packet[..20]);
        writes(packet)
    };
    assert_eq!(rewritten(8, 1), 2, "time to live");
    assert_eq!(rewritten(6, 0x40), 2, "may be fragmented");
    assert_eq!(rewritten(6, 0x20), 2, "a fragment");
    // What the segment's checksum covers is changed together with it, so that only the comparison can tell.
    let compensated = |at: usize| {
        let mut packet = second.packet(&[2; 100]);
        (packet[at], packet[at + 2]) = (packet[at].wrapping_add(1), packet[at + 2].wrapping_add(1));
        let whole = etherparse::PacketHeaders::from_ip_slice(&packet).expect("a packet");
        let (Some(etherparse::NetHeaders::Ipv4(ip, _)), Some(etherparse::TransportHeader::Tcp(tcp))) = (whole.net, whole.transport) else {
            panic!("TCP over IPv4")
        };
        let sum = tcp.calc_checksum_ipv4(&ip, whole.payload.slice()).expect("a short packet");
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        writes(packet)
    };
    for (at, what) in [(20, "port"), (28, "acknowledgement"), (34 - 2, "data offset and window"), (44, "options")] {
        assert_eq!(compensated(at), 2, "{what}");
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
                finish_v4(&mut packet[..20]);
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
    // A UDP length that is one less, and a checksum that is right for what the sum covers.
    let shorter = |packet: &mut Vec<u8>| {
        packet[25] -= 1;
        let sum = u16::from_be_bytes([packet[26], packet[27]]);
        packet[26..28].copy_from_slice(&(sum + 1).to_be_bytes());
    };
    assert_eq!(writes(&shorter), 2);
}
