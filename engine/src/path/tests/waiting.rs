//! Packets that come before there is an SA for them.

use penstock_uapi::{Counter, Drop};

use super::super::waiting::WAITING_MS_MAX;
use super::*;

/// A core that knows its peer and has no SA yet, and three packets that came for it.
fn early() -> (Core, Vec<Vec<u8>>) {
    let mut left = Core::new(0, &table(1, 2));
    let flow = Flow::new(false, false);
    let reads: Vec<_> = (1..=3u8).map(|number| flow.plain(&[number; 40])).collect();
    assert!(left.send(&reads[..2]).is_empty());
    assert_eq!((left.path.waiting(), left.dropped(Drop::NoSa)), (2, 0));
    left.assert_sums();
    (left, reads)
}

/// The last octets of what the far side delivers, in its order.
fn delivered(right: &mut Core, runs: &[Run]) -> Vec<u8> {
    right.receive(runs).iter().map(|write| *write.last().expect("bytes")).collect()
}

#[test]
fn the_first_packets_leave_in_their_order_as_soon_as_there_is_an_sa() {
    let ((mut left, reads), mut right) = (early(), Core::new(0, &table(2, 1)));
    join(&mut left, &mut right, 0, Limits::default());
    assert_eq!((left.path.waiting(), left.counter(Counter::SealedPackets)), (0, 2));
    let mut runs = left.sent();
    runs.extend(left.send(&reads[2..]));
    assert_eq!(delivered(&mut right, &runs), [1, 2, 3]);
    left.assert_sums();
}

#[test]
fn what_waits_too_long_is_dropped_by_its_name() {
    let (mut left, _) = early();
    left.tick(WAITING_MS_MAX);
    assert_eq!((left.path.waiting(), left.dropped(Drop::NoSa)), (2, 0));
    left.tick(1 + WAITING_MS_MAX);
    assert_eq!((left.path.waiting(), left.dropped(Drop::NoSa)), (0, 2));
    left.assert_sums();
}

#[test]
fn control_is_asked_again_while_packets_wait() {
    let (mut left, _) = early();
    assert_eq!(left.told.events.len(), 1);
    left.tick(1_001);
    assert_eq!(left.told.events.len(), 2);
}

#[test]
fn another_cores_sa_takes_them_too_and_before_what_came_later() {
    let lasting = Arc::new(Lasting::new(2));
    let here = table_with(&lasting, 1, 2);
    let (mut owner, mut other, mut right) = (Core::new(0, &here), Core::new(1, &here), Core::new(0, &table(2, 1)));
    let flow = Flow::new(false, false);
    other.send(&[flow.plain(&[1; 40])]);
    join(&mut owner, &mut right, 0, Limits::default());
    other.now += 1;
    other.send(&[flow.plain(&[2; 40])]);
    let handed: Vec<u8> = other.post.outbound.iter().map(|(.., read)| *read.last().expect("bytes")).collect();
    assert_eq!((handed, other.path.waiting()), (vec![1, 2], 0));
    // Without another packet a tick finds it.
    let (mut owner, mut other) = (Core::new(0, &here), Core::new(1, &here));
    owner.apply(Order::Retire { spi: spi(0, 0), drain_ms: 0 });
    lasting.release(0);
    other.send(&[flow.plain(&[1; 40])]);
    lasting.claim(0);
    other.tick(50);
    assert_eq!((other.post.outbound.len(), other.path.waiting()), (1, 0));
}

#[test]
fn what_has_no_room_to_wait_is_dropped_at_once() {
    let mut left = Core::new(0, &table(1, 2));
    let read = Flow::new(false, false).plain(&[7; 40]);
    left.send(&vec![read; 100]);
    assert_eq!((left.path.waiting(), left.dropped(Drop::NoSa)), (32, 68));
    left.assert_sums();
}
