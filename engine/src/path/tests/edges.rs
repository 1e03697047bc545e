//! Where one rule of the path ends and the next begins: each of these fails if its rule is taken out.

use super::*;
use crate::esp::packet::spi as spi_of;
use crate::esp::seal::Sealer;

/// Frames as the peer of key `number` makes them.
fn sealer(spi: u32, number: u8) -> Sealer {
    Sealer::new(spi, &key(number), &Limits::default()).expect("a known suite")
}

fn frame(sealer: &mut Sealer, inner: &[u8], next_header: u8) -> Run {
    let mut bytes = vec![0; 4096];
    let length = sealer.seal(inner, next_header, &mut bytes).expect("room");
    bytes.truncate(length);
    Run { tos: 0, stride: length, bytes }
}

/// A packet from site 2 to site 1.
fn reply() -> Vec<u8> {
    let mut read = Flow::new(false, false).plain(b"back");
    let (source, destination) = (read[24..28].to_vec(), read[28..32].to_vec());
    read[24..28].copy_from_slice(&destination);
    read[28..32].copy_from_slice(&source);
    read
}

fn waiting(theirs: u32, ours: u32, number: u8) -> Order {
    Order::InstallOutbound { spi: ours, outbound: outbound(theirs, ours, number, |request| request.switch = switch::ON_INBOUND) }
}

#[test]
fn a_bad_frame_in_between_leaves_no_trace() {
    let (_, mut right) = pair();
    let mut sealer = sealer(spi(0, 100), 1);
    for v6 in [false, true] {
        let flow = Flow::new(v6, true);
        let packets = flow.cut(&[9; 300], 100);
        let next_header = if v6 { 41 } else { 4 };
        let good: Vec<_> = packets.iter().map(|packet| frame(&mut sealer, packet, next_header)).collect();
        let mut forged = frame(&mut sealer, &[0xee; 1000], next_header);
        *forged.bytes.last_mut().expect("bytes") ^= 1;
        let dummy = frame(&mut sealer, &[0xee; 1000], 59);
        let nonsense = frame(&mut sealer, &[0xee; 1000], next_header);
        let writes = right.receive(&[&good[..1], &[forged, dummy], &good[1..2], &[nonsense], &good[2..]].concat());
        assert_eq!((writes.len(), super::packets(&writes)), (1, packets));
    }
    right.assert_sums();
}

#[test]
fn one_batch_may_go_to_several_peers() {
    let (mut left, _) = pair();
    let to_peer = Flow::new(false, false).plain(b"there");
    let mut to_nested = to_peer.clone();
    to_nested[12 + 18] = 9;
    assert_eq!(left.send(&[to_peer.clone(), to_nested.clone(), to_peer]).len(), 1);
    assert_eq!((left.without_sa(), left.counter(Counter::SealedPackets)), (1, 2));
    // A table that changes within a batch is asked at once: without the nested peer the packet goes to the other one.
    left.with(|path, now, io| path.outbound(now, &mut to_nested.clone(), io));
    let net = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let prefix = |(ip, length)| Prefix::new(ip, length).expect("a length");
    let only = |id| Policy { id, name: "only".into(), pairs: vec![(prefix(net(1)), prefix(net(2)))], lasting: Arc::new(Lasting::new(2)) };
    let table = PolicyTable::new(2, vec![only(PEER), only(PEER + 1)]);
    left.apply(Order::Policies(Box::new(Policies::new(Arc::new(table)))));
    assert_eq!(left.send(&[to_nested.clone()]).len(), 1);
    left.with(|path, now, io| path.outbound(now, &mut to_nested.clone(), io));
    left.apply(Order::Policies(Box::new(Policies::new(super::table(1, 2)))));
    left.send(&[to_nested]);
    assert_eq!((left.without_sa(), left.counter(Counter::SealedPackets)), (1, 6), "what had waited went with the new table");
}

#[test]
fn events_that_strangers_can_cause_are_rare() {
    let (_, mut right) = pair();
    // An SPI of a core that does not exist is nobody's.
    let run = Run { tos: 0, stride: 64, bytes: [&spi(7, 1).to_be_bytes()[..], &[0; 60]].concat() };
    for (now, events) in [(1, 1), (100, 1), (101, 2), (102, 2)] {
        right.now = now;
        right.receive(std::slice::from_ref(&run));
        assert_eq!(right.told.events.len(), events, "after {now} ms");
    }
    assert_eq!((right.dropped(Drop::UnknownSpi), right.post.inbound.len()), (4, 0));
    right.assert_sums();
}

#[test]
fn control_is_asked_for_a_key_once_a_second() {
    let mut left = Core::new(0, &table(1, 2));
    for (now, events) in [(1, 1), (1000, 1), (1001, 2)] {
        left.now = now;
        left.send(&[Flow::new(false, false).plain(b"x")]);
        assert_eq!(left.told.events.len(), events, "after {now} ms");
    }
    assert_eq!(left.without_sa(), 3);
}

#[test]
fn only_another_address_is_a_move_and_is_told_rarely() {
    let (_, mut right) = pair();
    let mut sealer = sealer(spi(0, 100), 1);
    let mut from = |right: &mut Core, now: u64, address: &str| {
        right.now = now;
        let run = frame(&mut sealer, &Flow::new(false, false).packet(b"x"), 4);
        right.with(|path, now, io| path.inbound(now, &receive_from(address, 0, run.stride), &run.bytes, io));
        right.told.events.len()
    };
    assert_eq!(from(&mut right, 1000, "192.0.2.1:9"), 0, "another port of a peer that is not behind a NAT");
    assert_eq!(from(&mut right, 1000, "192.0.2.2:9"), 1);
    assert_eq!(from(&mut right, 1099, "192.0.2.3:9"), 1);
    assert_eq!(from(&mut right, 1100, "192.0.2.3:9"), 2);
}

#[test]
fn a_core_does_not_hand_over_to_itself() {
    let lasting = Arc::new(Lasting::new(2));
    let mut left = Core::new(0, &table_with(&lasting, 1, 2));
    for core in [0, 2] {
        lasting.claim(core);
        left.send(&[Flow::new(false, false).plain(b"x")]);
    }
    assert_eq!((left.without_sa(), left.post.outbound.len()), (2, 0), "nor to a core that does not exist");
}

#[test]
fn a_pair_that_is_ending_takes_nothing_over() {
    let (_, mut right) = pair();
    let theirs = spi(0, 101);
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    right.apply(waiting(7777, theirs, 4));
    right.apply(Order::Retire { spi: theirs, drain_ms: 5000 });
    let heard = frame(&mut sealer(theirs, 3), &Flow::new(false, false).packet(b"late"), 4);
    assert_eq!(right.receive(&[heard]).len(), 1, "it still receives");
    assert_eq!(right.told.events, []);
    assert_eq!(spi_of(&right.send(&[reply()])[0].bytes), Some(spi(0, 0)));
    // With the last pair retired, one that is ending is no candidate either.
    right.apply(Order::Retire { spi: spi(0, 100), drain_ms: 5000 });
    assert!(right.send(&[reply()]).is_empty());
    assert_eq!(right.without_sa(), 1);
}

#[test]
fn a_pair_that_was_heard_before_its_outbound_half_came_waits_for_nothing() {
    let (_, mut right) = pair();
    let theirs = spi(0, 101);
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    let heard = frame(&mut sealer(theirs, 3), &Flow::new(false, false).packet(b"early"), 4);
    assert_eq!(right.receive(&[heard]).len(), 1);
    right.apply(waiting(7777, theirs, 4));
    assert_eq!(right.told.events, [Event::OutboundActive { spi: theirs }]);
    assert_eq!(spi_of(&right.send(&[reply()])[0].bytes), Some(7777));
}

#[test]
fn a_first_pair_waits_only_if_another_core_can_send_meanwhile() {
    for elsewhere in [false, true] {
        let lasting = Arc::new(Lasting::new(2));
        let mut right = Core::new(0, &table_with(&lasting, 2, 1));
        if elsewhere {
            lasting.claim(1);
        }
        let theirs = spi(0, 100);
        right.apply(Order::InstallInbound(inbound(theirs, 1, Limits::default())));
        right.apply(waiting(7777, theirs, 2));
        assert_eq!(right.told.events.len(), usize::from(!elsewhere));
        assert_eq!(right.send(&[reply()]).len(), usize::from(!elsewhere));
        assert_eq!(right.post.outbound.len(), usize::from(elsewhere));
    }
}

#[test]
fn an_announcement_that_is_withdrawn_counts_what_was_parked() {
    let (_, mut right) = pair();
    let theirs = spi(0, 105);
    right.apply(Order::Expect(Box::new(Pair::expected(theirs, PEER))));
    let mut sealer = sealer(theirs, 5);
    let runs: Vec<_> = (0..65).map(|_| frame(&mut sealer, &Flow::new(false, false).packet(b"x"), 4)).collect();
    assert!(right.receive(&runs).is_empty());
    assert_eq!((right.path.parked(), right.dropped(Drop::Parked)), (64, 1), "as many frames as there are places");
    right.apply(Order::Retire { spi: theirs, drain_ms: 5000 });
    assert!(right.path.pairs.get(theirs).is_none(), "what never had a key has nothing to drain");
    assert_eq!((right.path.parked(), right.dropped(Drop::Parked)), (0, 65));
    right.assert_sums();
}

#[test]
fn a_core_without_a_pair_is_nobodys_fallback() {
    let lasting = Arc::new(Lasting::new(2));
    let here = table_with(&lasting, 1, 2);
    let (mut owner, mut other, mut right) = (Core::new(0, &here), Core::new(1, &here), Core::new(0, &table(2, 1)));
    join(&mut owner, &mut right, 0, Limits::default());
    assert_eq!(lasting.fallback(), Some(0));
    owner.apply(Order::Retire { spi: spi(0, 0), drain_ms: 0 });
    assert_eq!(lasting.fallback(), None);
    other.send(&[Flow::new(false, false).plain(b"x")]);
    assert_eq!((other.without_sa(), other.post.outbound.len()), (1, 0));
}

#[test]
fn the_outer_field_is_as_configured() {
    let (mut left, _) = pair();
    let ours = spi(0, 1);
    left.apply(Order::InstallInbound(inbound(ours, 3, Limits::default())));
    let fixed = outbound(7777, ours, 4, |request| {
        request.dscp = 46;
        request.local = "0.0.0.0:0".parse::<SocketAddr>().expect("an address").into();
    });
    assert_eq!(fixed.local, None, "no address is no address to send from");
    left.apply(Order::InstallOutbound { spi: ours, outbound: fixed });
    let runs = left.send(&[Flow { tos: 0x22, ..Flow::new(false, true) }.plain(b"x")]);
    assert_eq!(runs[0].tos, 46 << 2 | 2, "the DSCP of the SA, the mark of the packet");
}

#[test]
fn a_key_that_forgeries_used_up_is_told_of() {
    let mut right = Core::new(0, &table(2, 1));
    let theirs = spi(0, 100);
    right.apply(Order::InstallInbound(inbound(theirs, 1, Limits { failures: U64::new(4), ..Limits::default() })));
    let good = frame(&mut sealer(theirs, 1), &Flow::new(false, false).packet(b"good"), 4);
    let mut forged = good.clone();
    *forged.bytes.last_mut().expect("bytes") ^= 1;
    for _ in 0..6 {
        assert!(right.receive(std::slice::from_ref(&forged)).is_empty());
    }
    let limit = |hard| Event::Limit { spi: theirs, hard, outbound: false };
    assert_eq!(right.told.events, [limit(false), limit(true)]);
    assert!(right.receive(&[good]).is_empty());
    assert_eq!((right.dropped(Drop::BadIcv), right.dropped(Drop::InboundKeyExhausted)), (4, 3));
    right.assert_sums();
}

#[test]
fn a_mark_does_not_make_a_damaged_header_good() {
    let (_, mut right) = pair();
    let mut packet = Flow { tos: 2, ..Flow::new(false, true) }.packet(b"damaged");
    packet[8] ^= 0x10;
    let run = frame(&mut sealer(spi(0, 100), 1), &packet, 4);
    let writes = right.receive(&[Run { tos: 3, ..run }]);
    let header = etherparse::Ipv4HeaderSlice::from_slice(&writes[0][HEADER_BYTES_MAX..]).expect("a header").to_header();
    assert_eq!(header.ecn.value(), 3);
    assert_ne!(header.header_checksum, header.calc_header_checksum());
}

/// Another set of subnets that the same peer agreed to, for children of its own.
const SECOND: u32 = PEER + 10;

/// One peer with two policies: all of 10.2/16 but what 10.2.7/24 has of its own.
fn two_sets(local: u8, remote: u8, nested_local: bool) -> Arc<PolicyTable> {
    let prefix = |(ip, length): (IpAddr, u8)| Prefix::new(ip, length).expect("a length");
    let net = |site: u8| (IpAddr::from([10, site, 0, 0]), 16);
    let seven = |site: u8| (IpAddr::from([10, site, 7, 0]), 24);
    let (here, there) = if nested_local { (seven(local), net(remote)) } else { (net(local), seven(remote)) };
    let policy = |id, local, remote: (IpAddr, u8)| {
        let pairs = vec![(prefix(local), prefix(remote))];
        Policy { id, name: "peer".into(), pairs, lasting: Arc::new(Lasting::new(2)) }
    };
    Arc::new(PolicyTable::new(5, vec![policy(PEER, net(local), net(remote)), policy(SECOND, here, there)]))
}

/// A second pair for the policy [`SECOND`], with keys 11 and 12.
fn join_second(left: &mut Core, right: &mut Core) {
    let (ours, theirs) = (spi(0, 5), spi(0, 105));
    for (core, own, other, [hears, speaks]) in [(left, ours, theirs, [12, 11]), (right, theirs, ours, [11, 12])] {
        let Pair { inbound: half, .. } = *inbound(own, hears, Limits::default());
        core.apply(Order::InstallInbound(Box::new(Pair::installed(own, SECOND, half.expect("an inbound half")))));
        let outbound = outbound(other, own, speaks, |request| request.policy = U32::new(SECOND));
        core.apply(Order::InstallOutbound { spi: own, outbound });
    }
}

#[test]
fn a_packet_leaves_by_a_child_whose_selectors_cover_it() {
    let (mut left, mut right) = pair();
    left.apply(Order::Policies(Box::new(Policies::new(two_sets(1, 2, false)))));
    right.apply(Order::Policies(Box::new(Policies::new(two_sets(2, 1, true)))));
    let to = |third: u8| {
        let mut read = Flow::new(false, false).plain(b"there");
        read[12 + 18] = third;
        read
    };
    let spi_of_run = |run: &Run| spi_of(&run.bytes).expect("a frame");
    // As long as the second child cannot send, the first one covers its packets as well.
    let runs = left.send(&[to(7)]);
    assert_eq!(spi_of_run(&runs[0]), spi(0, 100));
    join_second(&mut left, &mut right);
    for (third, by) in [(7, spi(0, 105)), (8, spi(0, 100))] {
        let runs = left.send(&[to(third)]);
        assert_eq!(runs.iter().map(spi_of_run).collect::<Vec<_>>(), [by], "to 10.2.{third}.0/24");
        assert_eq!(right.receive(&runs).len(), 1);
    }
    // Both are counted for the one peer.
    let first = left.path.policies.table.cell(0, 0).expect("a core");
    assert_eq!(first.outbound_packets.load(std::sync::atomic::Ordering::Relaxed), 3);
    left.assert_sums();
    right.assert_sums();
}

/// Of one network here, only the source tells the two sets apart.
#[test]
fn the_source_chooses_between_children_of_one_destination() {
    let (mut left, mut right) = pair();
    left.apply(Order::Policies(Box::new(Policies::new(two_sets(1, 2, true)))));
    right.apply(Order::Policies(Box::new(Policies::new(two_sets(2, 1, false)))));
    join_second(&mut left, &mut right);
    for (third, by) in [(7, spi(0, 105)), (8, spi(0, 100))] {
        let mut read = Flow::new(false, false).plain(b"there");
        read[12 + 14] = third;
        let runs = left.send(&[read]);
        assert_eq!(runs.iter().map(|run| spi_of(&run.bytes).expect("a frame")).collect::<Vec<_>>(), [by], "from 10.1.{third}.0/24");
    }
}

#[test]
fn what_arrives_on_a_child_is_held_against_its_own_selectors() {
    let (_, mut right) = pair();
    right.apply(Order::Policies(Box::new(Policies::new(two_sets(2, 1, true)))));
    let (mut left, mut other) = (Core::new(0, &two_sets(1, 2, false)), Core::new(0, &two_sets(2, 1, true)));
    join_second(&mut left, &mut other);
    join_second(&mut left, &mut right);
    // Given a peer that sends what the first child may carry, when it sends it on the second one, then it is not delivered.
    let mut sealer = sealer(spi(0, 105), 11);
    for (third, delivered) in [(8u8, 0), (7, 1)] {
        let mut packet = Flow::new(false, false).plain(b"there")[12..].to_vec();
        packet[18] = third;
        assert_eq!(right.receive(&[frame(&mut sealer, &packet, 4)]).len(), delivered, "to 10.2.{third}.0/24");
    }
    assert_eq!(right.dropped(Drop::DestinationNotLocal), 1);
}
