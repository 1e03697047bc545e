//! What must not pass does not, and is counted under its name.

use super::*;

#[test]
fn a_frame_is_delivered_once_and_only_if_whole() {
    let (mut left, mut right) = pair();
    let runs = left.send(&[Flow::new(false, false).plain(b"once")]);
    let frame = &runs[0].bytes;
    let mut tries = 0;
    for bit in 0..frame.len() * 8 {
        let mut run = runs[0].clone();
        run.bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(right.receive(&[run]).is_empty(), "bit {bit}");
        tries += 1;
    }
    for length in 1..frame.len() {
        assert!(right.receive(&[Run { bytes: frame[..length].to_vec(), ..runs[0] }]).is_empty(), "{length} bytes");
        tries += 1;
    }
    assert_eq!(right.receive(&runs).len(), 1);
    for _ in 0..5 {
        assert!(right.receive(&runs).is_empty());
        tries += 1;
    }
    assert_eq!(right.dropped(Drop::Replay), 5);
    let died: u64 = Drop::ALL.iter().map(|drop| right.dropped(*drop)).sum();
    assert_eq!(died + right.counter(Counter::InboundHandoffOut), tries, "each one counted");
    right.assert_sums();
}

#[test]
fn every_length_of_garbage_is_counted() {
    let (_, mut right) = pair();
    for length in 0..2048usize {
        for first in [0u8, 0xff, 0x45, 1] {
            let bytes: Vec<u8> = (0..length).map(|at| if at < 4 { first } else { at as u8 }).collect();
            assert!(right.receive(&[Run { tos: 0, stride: length, bytes }]).is_empty());
        }
    }
    assert_eq!(right.counter(Counter::InboundFrames), 2048 * 4);
    assert_eq!(right.counter(Counter::Keepalives), 1);
    assert!(right.dropped(Drop::StrayIkeLost) > 0 && right.counter(Counter::StrayIke) == 99);
    right.assert_sums();
}

/// What only a peer with the key can send: each frame is authentic and must still not be delivered.
#[test]
fn a_hostile_peer_reaches_nothing_beyond_its_subnets() {
    let (_, mut right) = pair();
    let mut sealer = crate::esp::seal::Sealer::new(spi(0, 100), &key(1), &Limits::default()).expect("a known suite");
    let mut try_one = |inner: &[u8], next_header: u8, tos: u8| {
        let mut bytes = vec![0; 4096];
        let length = sealer.seal(inner, next_header, &mut bytes).expect("room");
        bytes.truncate(length);
        right.receive(&[Run { tos, stride: length, bytes }]).len()
    };
    let good = Flow::new(false, false).packet(b"good");
    assert_eq!(try_one(&good, 4, 0), 1);
    let changed = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    assert_eq!(try_one(&changed(13, 3), 4, 0), 0, "a source that no peer has");
    assert_eq!(try_one(&changed(14, 9), 4, 0), 0, "a source that the longest prefix gives to another peer");
    assert_eq!(try_one(&changed(17, 3), 4, 0), 0, "a destination that is not local");
    assert_eq!(try_one(&good, 41, 0), 0, "another version than announced");
    assert_eq!(try_one(&good, 6, 0), 0, "no tunnel");
    assert_eq!(try_one(&good, 59, 0), 0, "a dummy");
    assert_eq!(try_one(&good[..19], 4, 0), 0, "cut short");
    assert_eq!(try_one(&good[..good.len() - 1], 4, 0), 0, "shorter than it says");
    assert_eq!(try_one(&[], 4, 0), 0, "nothing");
    assert_eq!(try_one(&changed(0, 0x44), 4, 0), 0, "a header that is too short");
    assert_eq!(try_one(&good, 4, 3), 0, "congestion on a packet that cannot carry the mark");
    let reasons = [
        (Drop::SourceNotPeer, 2),
        (Drop::DestinationNotLocal, 1),
        (Drop::InboundMalformed, 5),
        (Drop::BadNextHeader, 1),
        (Drop::Dummy, 1),
        (Drop::Ecn, 1),
    ];
    for (reason, count) in reasons {
        assert_eq!(right.dropped(reason), count, "{}", reason.name());
    }
    right.assert_sums();
}

#[test]
fn what_may_not_leave_is_named() {
    let (mut left, _) = pair();
    let good = Flow::new(false, false);
    let mut try_one = |change: &dyn Fn(&mut Vec<u8>), payload: usize| {
        let mut read = good.plain(&vec![0; payload]);
        change(&mut read);
        assert!(left.send(&[read]).is_empty());
    };
    try_one(&|read| read[12 + 17] = 3, 9);
    try_one(&|read| read[12 + 13] = 3, 9);
    try_one(&|read| read[12] = 0x75, 9);
    try_one(&|read| read.truncate(11), 9);
    try_one(&|read| read[1] = 3, 9);
    try_one(&|_| {}, 1439 - 28);
    // To the nested peer, which has no SA.
    try_one(&|read| read[12 + 18] = 9, 9);
    for (reason, count) in [(Drop::NoRoute, 1), (Drop::SourceNotLocal, 1), (Drop::OutboundMalformed, 3), (Drop::TooBig, 1)] {
        assert_eq!(left.dropped(reason), count, "{}", reason.name());
    }
    assert_eq!(left.without_sa(), 1);
    assert_eq!(left.told.events, [Event::Acquire { policy: PEER + 1, per_core: false }]);
    left.assert_sums();
}

#[test]
fn our_own_frames_do_not_enter_again() {
    let (mut left, _) = pair();
    let ours = spi(0, 50);
    left.apply(Order::InstallInbound(inbound(ours, 60, Limits::default())));
    // A peer whose subnet covers its endpoint: 10.2.0.1, where the model's packets go.
    let endpoint: SocketAddr = "10.2.0.1:53".parse().expect("an address");
    left.apply(Order::InstallOutbound { spi: ours, outbound: outbound(9999, ours, 61, |request| request.remote = endpoint.into()) });
    assert!(left.send(&[Flow::new(false, false).plain(b"round and round")]).is_empty());
    assert_eq!(left.dropped(Drop::Loop), 1);
    assert_eq!(left.send(&[Flow::new(false, true).plain(b"not UDP")]).len(), 1);
}

#[test]
fn kernel_errors_have_names() {
    let (mut left, _) = pair();
    let errors = [
        (libc::EPERM, Drop::SendFiltered),
        (libc::ENETUNREACH, Drop::SendUnreachable),
        (libc::EMSGSIZE, Drop::SendTooBig),
        (libc::ENOBUFS, Drop::SendNoBuffer),
        (libc::ECONNREFUSED, Drop::SendFailed),
    ];
    for (error, reason) in errors {
        left.with(|path, now, io| {
            path.outbound(now, &mut Flow::new(false, false).plain(b"x"), io);
            path.finish(io);
        });
        let slot = left.outbox.take_ready().expect("a run");
        left.with(|path, _, io| path.sent(&slot, Some(error), io));
        left.outbox.give_back(slot);
        assert_eq!(left.dropped(reason), 1);
    }
    assert_eq!(left.told.events.len(), 1, "a path MTU");
    left.assert_sums();
}

#[test]
fn a_path_mtu_is_told_once_a_tick() {
    let (mut left, _) = pair();
    for now in [100, 200] {
        for _ in 0..5 {
            left.with(|path, now, io| {
                path.outbound(now, &mut Flow::new(false, false).plain(b"x"), io);
                path.finish(io);
            });
            let slot = left.outbox.take_ready().expect("a run");
            left.with(|path, _, io| path.sent(&slot, Some(libc::EMSGSIZE), io));
            left.outbox.give_back(slot);
        }
        left.tick(now);
    }
    assert_eq!((left.told.events.len(), left.dropped(Drop::SendTooBig)), (2, 10));
}
