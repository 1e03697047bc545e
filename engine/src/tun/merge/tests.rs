//! Whatever is merged can be cut again into the very same packets in the same order.

use proptest::prelude::*;

use super::{Merge, Settled};
use crate::packet::ip::Ip;
use crate::tun::model::{Flow, cut_write};
use crate::tun::vnet::HEADER_BYTES_MAX;

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
    (flow, 1..400usize, 0..3000usize, 0..12u8, any::<u8>()).prop_map(
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
                6 => packets[at] = Flow { tos: 2, ..flow }.packet(b"marked"),
                _ => {}
            }
            packets
        },
    )
}

fn options_bytes(options: bool) -> usize {
    if options { 12 } else { 0 }
}

proptest! {
    #[test]
    fn what_was_merged_is_cut_into_the_same_packets(bursts in proptest::collection::vec(burst(), 1..6), uso: bool) {
        let packets: Vec<_> = bursts.concat();
        let writes = merge(&packets, uso);
        let again: Vec<_> = writes.iter().flat_map(|write| cut_write(write)).collect();
        prop_assert_eq!(again, packets);
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
    assert_eq!(changed(8, 1), 2, "time to live");
    assert_eq!(changed(28, 1), 2, "acknowledgement");
    assert_eq!(changed(35, 1), 2, "window");
    assert_eq!(changed(6, 0x20), 2, "a fragment");
    let mut after_a_push = vec![Flow { push: true, ..first.clone() }.packet(&[1; 100]), second.packet(&[2; 100])];
    assert_eq!(merge(&after_a_push, true).len(), 2);
    after_a_push[0] = first.packet(&[1; 99]);
    after_a_push[1] = Flow { sequence: first.sequence.wrapping_add(99), ..second.clone() }.packet(&[2; 99]);
    after_a_push.push(Flow { sequence: first.sequence.wrapping_add(198), id: second.id.wrapping_add(1), ..second }.packet(&[3; 50]));
    assert_eq!(merge(&after_a_push, true).len(), 1);
    let datagrams = Flow::new(true, false).cut(&[1; 300], 100);
    assert_eq!((merge(&datagrams, true).len(), merge(&datagrams, false).len()), (1, 3));
}
