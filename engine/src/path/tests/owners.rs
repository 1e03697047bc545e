//! Who owns what: the core with the only SA, the place where a peer is, the table of policies.

use super::*;

#[test]
fn another_core_hands_over_to_the_owner_of_the_only_sa() {
    let lasting = Arc::new(Lasting::new(2));
    let here = table_with(&lasting, 1, 2);
    let (mut owner, mut other, mut right) = (Core::new(0, &here), Core::new(1, &here), Core::new(0, &table(2, 1)));
    join(&mut owner, &mut right, 0, Limits::default());
    let flow = Flow::new(false, true);
    let payload = vec![3; 10_000];
    let read = flow.read(&payload, 1000);
    assert!(other.send(std::slice::from_ref(&read)).is_empty());
    assert_eq!(other.told.events, [Event::Acquire { policy: PEER, per_core: true }]);
    let (core, policy, handed) = other.post.outbound.pop().expect("handed over");
    assert_eq!((core, policy, &handed), (0, PEER, &read));
    let mut handed = handed;
    owner.with(|path, _, io| {
        path.outbound_handed(policy, &mut handed, io);
        path.finish(io);
    });
    let runs = owner.sent();
    assert_eq!(packets(&right.receive(&runs)), flow.cut(&payload, 1000));
    // And inbound: a frame for core 0 that core 1 received.
    let stray = right.send(&[{
        let mut read = flow.plain(b"back");
        let (source, destination) = (read[24..28].to_vec(), read[28..32].to_vec());
        read[24..28].copy_from_slice(&destination);
        read[28..32].copy_from_slice(&source);
        read
    }]);
    assert!(other.receive(&stray).is_empty());
    let (core, receive, frame) = other.post.inbound.pop().expect("handed over");
    assert_eq!(core, 0);
    owner.with(|path, now, io| {
        path.inbound_handed(now, &receive, &frame, io);
        path.finish(io);
    });
    assert_eq!(owner.written().len(), 1);
    // A full queue is a named drop.
    other.post.full = true;
    other.send(&[read]);
    other.receive(&stray);
    assert_eq!((other.dropped(Drop::OutboundHandoffFull), other.dropped(Drop::InboundHandoffFull)), (10, 1));
    // Its own SA ends the handoff, and the change is counted.
    let own = spi(1, 5);
    other.apply(Order::InstallInbound(inbound(own, 9, Limits::default())));
    other.apply(Order::InstallOutbound { spi: own, outbound: outbound(8888, own, 10, |request| request.fallback = 0) });
    assert_eq!(other.send(&[flow.plain(b"own")]).len(), 1);
    assert_eq!(other.counter(Counter::FlowMoves), 1);
    for core in [&owner, &other, &right] {
        core.assert_sums();
    }
}

#[test]
fn a_moved_peer_is_followed_only_where_the_port_is_shared() {
    for (source, follows) in [(source::SHARED, true), (source::OWN, false)] {
        let (mut left, mut right) = pair();
        let theirs = spi(0, 100);
        right.apply(Order::InstallOutbound { spi: theirs, outbound: outbound(spi(0, 0), theirs, 2, |request| request.source = source) });
        let runs: Vec<_> = (0..2).flat_map(|_| left.send(&[Flow::new(false, false).plain(b"x")])).collect();
        let from = |core: &mut Core, address: &str, run: &Run| {
            core.with(|path, now, io| {
                path.inbound(now, &receive_from(address, 0, run.stride), &run.bytes, io);
                path.finish(io);
            });
        };
        right.now = 1000;
        from(&mut right, "198.51.100.9:1234", &runs[1]);
        from(&mut right, "203.0.113.1:9", &runs[0]);
        let remote = right.path.pairs.get(theirs).and_then(|pair| pair.outbound.as_ref()).expect("installed").remote;
        assert_eq!(remote == "198.51.100.9:1234".parse().expect("an address"), follows, "an older packet from elsewhere moves nothing");
        let moved = Event::PeerMoved { spi: theirs, from: "198.51.100.9:1234".parse().expect("an address") };
        assert!(right.told.events.contains(&moved), "control is told in either case");
    }
}

#[test]
fn a_redirected_pair_sends_between_its_new_endpoints_with_the_same_key() {
    let (mut left, mut right) = pair();
    let own = spi(0, 0);
    let before = left.send(&[Flow::new(false, false).plain(b"x")]);
    let (remote, local) = ("198.51.100.9:1234".parse().expect("an address"), Some("203.0.113.5".parse().expect("an address")));
    left.apply(Order::Redirect { spi: own, remote, local, source: crate::slots::Source::Shared });
    let after = left.send(&[Flow::new(false, false).plain(b"x")]);
    let envelope = left.envelope.expect("it was sent");
    assert_eq!((envelope.remote, envelope.local, envelope.source), (remote, local, crate::slots::Source::Shared));
    right.receive(&[before[0].clone(), after[0].clone()]);
    assert_eq!(right.counter(Counter::OpenedPackets), 2, "the same key, and its counter goes on");
    // Of a pair that is not there nothing changes.
    left.apply(Order::Redirect { spi: spi(0, 77), remote, local, source: crate::slots::Source::Own });
}

#[test]
fn a_move_is_told_once_in_a_while_for_each_pair() {
    let (mut left, mut right) = pair();
    let theirs = spi(0, 100);
    right
        .apply(Order::InstallOutbound { spi: theirs, outbound: outbound(spi(0, 0), theirs, 2, |request| request.source = source::SHARED) });
    right.now = 1000;
    for port in 1..=20 {
        let runs = left.send(&[Flow::new(false, false).plain(b"x")]);
        right.with(|path, now, io| {
            path.inbound(now, &receive_from(&format!("198.51.100.9:{port}"), 0, runs[0].stride), &runs[0].bytes, io);
            path.finish(io);
        });
        right.now += 10;
    }
    let told = right.told.events.iter().filter(|event| matches!(event, Event::PeerMoved { .. })).count();
    assert_eq!(told, 2, "20 moves in 200 ms");
}

#[test]
fn a_new_table_keeps_what_was_counted_and_what_sends() {
    let lasting = Arc::new(Lasting::new(2));
    let (mut left, mut right) = (Core::new(0, &table_with(&lasting, 1, 2)), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits::default());
    left.send(&[Flow::new(false, false).plain(b"before")]);
    left.apply(Order::Policies(Box::new(Policies::new(table_with(&lasting, 1, 2)))));
    assert_eq!(left.send(&[Flow::new(false, false).plain(b"after")]).len(), 1);
    assert_eq!(lasting.cells[0].outbound_packets.load(std::sync::atomic::Ordering::Relaxed), 2);
    // Without the policy there is no way.
    left.apply(Order::Policies(Box::new(Policies::new(Arc::new(PolicyTable::new(3, Vec::new()))))));
    assert!(left.send(&[Flow::new(false, false).plain(b"gone")]).is_empty());
    assert_eq!(left.dropped(Drop::NoRoute), 1);
}
