//! The life of a key: announced, waiting, active, at its limit, retired.

use super::*;

#[test]
fn limits_are_told_once_and_stop_to_the_packet() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    let limits = Limits { soft_packets: U64::new(3), hard_packets: U64::new(5), ..Limits::default() };
    join(&mut left, &mut right, 0, limits);
    let mut runs = Vec::new();
    for _ in 0..8 {
        runs.extend(left.send(&[Flow::new(false, false).plain(b"counted")]));
    }
    assert_eq!((runs.len(), left.dropped(Drop::KeyExhausted)), (5, 3));
    assert_eq!(right.receive(&runs).len(), 5);
    let limit = |spi, hard, outbound| Event::Limit { spi, hard, outbound };
    assert_eq!(left.told.events, [limit(spi(0, 0), false, true), limit(spi(0, 0), true, true)]);
    assert_eq!(right.told.events, [limit(spi(0, 100), false, false), limit(spi(0, 100), true, false)]);
    left.assert_sums();
    right.assert_sums();
}

#[test]
fn a_key_ends_with_its_time() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits { hard_ms: U64::new(1000), ..Limits::default() });
    let read = Flow::new(false, false).plain(b"late");
    left.tick(1000);
    let runs = left.send(std::slice::from_ref(&read));
    let last = left.send(std::slice::from_ref(&read));
    assert_eq!((runs.len(), last.len()), (1, 1));
    left.tick(1001);
    assert!(left.send(&[read]).is_empty());
    assert_eq!(left.dropped(Drop::KeyExhausted), 1);
    right.tick(1000);
    assert_eq!(right.receive(&runs).len(), 1, "up to its last millisecond it opens");
    right.tick(1001);
    assert!(right.receive(&last).is_empty());
    assert_eq!(right.dropped(Drop::InboundKeyExhausted), 1);
}

#[test]
fn the_responder_switches_when_it_hears_the_new_key() {
    let (mut left, mut right) = pair();
    let read = |text: &[u8]| vec![Flow::new(false, false).plain(text)];
    let reply = |text: &[u8]| {
        let mut flow = Flow::new(false, false).plain(text);
        let (source, destination) = (flow[12 + 12..12 + 16].to_vec(), flow[12 + 16..12 + 20].to_vec());
        flow[12 + 12..12 + 16].copy_from_slice(&destination);
        flow[12 + 16..12 + 20].copy_from_slice(&source);
        vec![flow]
    };
    let frame_spi = |runs: &[Run]| crate::esp::packet::spi(&runs[0].bytes).expect("a frame");
    // New keys: the right side is the responder, the left one the initiator that has announced its SPI.
    let (ours, theirs) = (spi(0, 1), spi(0, 101));
    left.apply(Order::Expect(Box::new(Pair::expected(ours, PEER))));
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    right.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(ours, theirs, 4, |request| request.switch = switch::ON_INBOUND) });
    let old = right.send(&reply(b"still the old key"));
    assert_eq!(frame_spi(&old), spi(0, 0));
    assert_eq!(left.receive(&old).len(), 1);
    left.apply(Order::InstallInbound(inbound(ours, 4, Limits::default())));
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(theirs, ours, 3, |_| {}) });
    let new = left.send(&read(b"the new key"));
    assert_eq!(frame_spi(&new), theirs);
    assert_eq!(right.receive(&new).len(), 1);
    assert_eq!(right.told.events, [Event::OutboundActive { spi: theirs }]);
    let answer = right.send(&reply(b"heard"));
    assert_eq!(frame_spi(&answer), ours);
    assert_eq!(left.receive(&answer).len(), 1);
    // The old pair goes on receiving while it drains, then it is unknown.
    right.apply(Order::Retire { spi: spi(0, 100), drain_ms: 5000 });
    right.tick(5001);
    right.tick(5101);
    assert!(right.path.pairs.get(spi(0, 100)).is_none() && right.path.pairs.get(theirs).is_some());
    left.assert_sums();
    right.assert_sums();
}

#[test]
fn a_waiting_key_takes_over_when_the_old_pair_is_retired_or_its_time_comes() {
    for by_time in [false, true] {
        let (_, mut right) = pair();
        let theirs = spi(0, 101);
        right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
        let waiting = outbound(7777, theirs, 4, |request| {
            request.switch = switch::ON_INBOUND;
            request.switch_ms = U32::new(if by_time { 1000 } else { 0 });
        });
        right.apply(Order::InstallOutbound { spi: theirs, outbound: waiting });
        right.tick(900);
        assert!(right.told.events.is_empty());
        if by_time {
            right.tick(1001);
        } else {
            right.apply(Order::Retire { spi: spi(0, 100), drain_ms: 5000 });
        }
        assert_eq!(right.told.events, [Event::OutboundActive { spi: theirs }]);
    }
}

#[test]
fn a_key_that_is_retired_while_it_waits_never_takes_over() {
    let (_, mut right) = pair();
    let theirs = spi(0, 101);
    right.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    let waiting = outbound(7777, theirs, 4, |request| {
        request.switch = switch::ON_INBOUND;
        request.switch_ms = U32::new(1000);
    });
    right.apply(Order::InstallOutbound { spi: theirs, outbound: waiting });
    right.apply(Order::Retire { spi: theirs, drain_ms: 5000 });
    right.tick(1001);
    assert!(right.told.events.is_empty());
}

#[test]
fn what_two_rekeys_at_once_left_waiting_does_not_take_over_from_a_newer_key() {
    let (mut left, _) = pair();
    // The peer's successor, which it gives up in favour of ours; and ours.
    let (theirs, ours) = (spi(0, 1), spi(0, 2));
    left.apply(Order::InstallInbound(inbound(theirs, 3, Limits::default())));
    left.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(7777, theirs, 4, |request| request.switch = switch::ON_INBOUND) });
    left.tick(left.now + 1);
    left.apply(Order::InstallInbound(inbound(ours, 5, Limits::default())));
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(8888, ours, 6, |_| {}) });
    // Another child of this core was rekeyed after it, and goes before the peer's DELETE has come.
    let other = spi(0, 3);
    left.apply(Order::InstallInbound(inbound(other, 7, Limits::default())));
    left.apply(Order::InstallOutbound { spi: other, outbound: outbound(9999, other, 8, |_| {}) });
    left.apply(Order::Retire { spi: other, drain_ms: 5000 });
    assert!(left.told.events.is_empty(), "nothing that waits is in use: {:?}", left.told.events);
    let sent = left.send(&[Flow::new(false, false).plain(b"the newest key")]);
    assert_eq!(crate::esp::packet::spi(&sent[0].bytes), Some(8888));
}

#[test]
fn packets_for_an_announced_spi_wait_for_its_key() {
    let (mut left, mut right) = pair();
    let runs: Vec<_> = (0..70).flat_map(|_| left.send(&[Flow::new(false, true).plain(&[1; 900])])).collect();
    let theirs = spi(0, 100);
    right.apply(Order::Retire { spi: theirs, drain_ms: 0 });
    right.apply(Order::Expect(Box::new(Pair::expected(theirs, PEER))));
    assert!(right.receive(&runs[..10]).is_empty());
    assert_eq!(right.path.parked(), 10);
    right.assert_sums();
    right.apply(Order::InstallInbound(inbound(theirs, 1, Limits::default())));
    right.with(|path, _, io| path.finish(io));
    assert_eq!(packets(&right.written()).len(), 10);
    // More than fits, and then too long.
    right.apply(Order::Expect(Box::new(Pair::expected(theirs, PEER))));
    right.receive(&runs[10..]);
    let kept = u64::from(right.path.parked());
    assert!(kept > 50 && right.dropped(Drop::Parked) == 60 - kept, "{kept}");
    right.tick(right.now + 2000);
    assert_eq!((right.path.parked(), right.dropped(Drop::Parked)), (0, 60));
    right.assert_sums();
}

#[test]
fn a_new_key_is_asked_for_before_the_old_ones_time_is_up() {
    let (mut left, mut right) = (Core::new(0, &table(1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits { hard_ms: U64::new(70_000), ..Limits::default() });
    left.tick(53_000);
    assert!(left.told.events.is_empty(), "a tenth before six sevenths is the earliest");
    left.tick(60_001);
    left.tick(60_101);
    assert_eq!(left.told.events, [Event::Limit { spi: spi(0, 0), hard: false, outbound: true }], "without a packet, and once");
    assert_eq!(left.send(&[Flow::new(false, false).plain(b"still good")]).len(), 1);
}

#[test]
fn many_pairs_have_their_turn_over_several_ticks() {
    let (mut left, _) = pair();
    left.path = Path::new(Config { pairs_max: 1000, ..left.path.config }, Arc::new(Tally::default()));
    let limits = Limits { hard_ms: U64::new(1000), ..Limits::default() };
    let spis: Vec<u32> = (0..600).map(|number| spi(0, number)).collect();
    for own in &spis {
        left.apply(Order::InstallInbound(inbound(*own, 1, limits)));
        left.apply(Order::Retire { spi: *own, drain_ms: 10_000 });
    }
    let expired = |core: &Core| core.path.pairs.iter().filter(|pair| pair.inbound.as_ref().is_some_and(|half| half.expired)).count();
    left.tick(2000);
    assert!((1..600).contains(&expired(&left)), "packets do not wait for all of them");
    (0..2).for_each(|_| left.tick(2050));
    assert_eq!(expired(&left), 600);
    let before = left.told.remains;
    // Given that all have drained, when a tick for each has passed, then all are given away, one a tick.
    for tick in 0..600 {
        left.tick(11_000 + tick);
        assert_eq!(left.told.remains - before, tick as usize + 1);
    }
    assert_eq!(left.path.pairs.count(), 0);
}
