//! Given a wire that a stranger listens to and speaks on, then it carries no clear byte and no nonce twice, and nothing that the
//! stranger sends is delivered: not a packet sent again, not one changed, not garbage of any length. Each is counted.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use penstock_perf::lab::{Family, Offload, Pair, PairOptions, WireOptions};
use penstock_perf::load::{Direction, Tcp, Udp};
use penstock_tests::capture::{Capture, Injector};
use penstock_tests::counters::Counters;
use penstock_tests::esp::{self, Sighting};
use penstock_uapi::Drop;
use penstock_uapi::counter::Stage;

const PORT: u16 = 4500;
/// Text that stands in inner packets and must not stand on the wire.
const MARKER: &[u8] = b"an inner packet speaks in clear";
/// What the kernel's receive buffer surely holds while the engine has its turn.
const BURST: usize = 64;

/// Two sites on a wire that merges nothing, so that a capture sees each packet by itself.
fn plain_wire() -> Pair {
    let wire = WireOptions { offload: Offload::Plain, ..WireOptions::default() };
    Pair::start(&PairOptions { wire, cores: [2, 2], ..PairOptions::default() }).expect("both sites come up")
}

fn listen(pair: &Pair, side: usize) -> Capture {
    let device = pair.wire.device();
    pair.sites[side].namespace().enter(|| Capture::start(&device)).expect("the namespace").expect("the link")
}

/// Clear text of every kind that the load makes: the marker, and inner addresses side by side as a header has them.
fn clear_patterns() -> Vec<Vec<u8>> {
    let v4 = [[10, 43, 43, 1], [10, 43, 100, 1]];
    let v6 = |third: u8, fourth: [u8; 2]| [&[0xfd, 0, 0, third][..], &fourth, &[0; 9], &[1]].concat();
    let (left, right) = (v6(0x43, [0, 0x43]), v6(0x43, [1, 0x00]));
    vec![MARKER.to_vec(), [v4[0], v4[1]].concat(), [v4[1], v4[0]].concat(), [left.clone(), right.clone()].concat(), [right, left].concat()]
}

fn assert_no_clear_text(frames: &[Vec<u8>]) {
    for pattern in clear_patterns() {
        let found = frames.iter().position(|frame| frame.windows(pattern.len()).any(|window| window == pattern));
        assert_eq!(found, None, "frame {found:?} of {} holds {pattern:02x?}", frames.len());
    }
}

fn speak_the_marker(pair: &Pair) {
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let (from, to) = (left.udp(0).expect("a socket"), right.udp(0).expect("a socket"));
    to.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    for _ in 0..20 {
        from.send_to(MARKER, to.local_addr().expect("an address")).expect("sent");
        let mut buffer = [0; 100];
        assert_eq!(to.recv(&mut buffer).expect("delivered"), MARKER.len());
    }
}

#[test]
fn nothing_in_clear_no_nonce_twice_and_no_packet_twice() {
    let pair = plain_wire();
    let (at_left, at_right) = (listen(&pair, 0), listen(&pair, 1));
    speak_the_marker(&pair);
    for family in [Family::V4, Family::V6] {
        let [left, right] = [0, 1].map(|side| pair.inner(side, family));
        let tcp = Tcp { streams: 2, duration: Duration::from_millis(80), direction: Direction::Both, ..Tcp::default() };
        assert!(tcp.run(&left, &right).expect("connections").is_intact());
        let udp = Udp { flows: 2, count: 1000, rate: 2000.0, direction: Direction::Both, ..Udp::default() };
        let outcome = udp.run(&left, &right).expect("sockets");
        let devices = [0, 1].map(|side| pair.sites[side].namespace().device_counters("pen0").expect("the device is there"));
        assert_eq!(outcome.total.lost, 0, "{outcome:?} {:?} {devices:?}", Counters::of(&pair).drops());
    }
    sleep(Duration::from_millis(200));
    let [left, right] = [at_left, at_right].map(|capture| capture.finish().expect("a capture"));
    for frames in [&left, &right] {
        assert_no_clear_text(frames);
        let sightings: Vec<Sighting> = frames.iter().filter_map(|frame| esp::sight(frame, PORT)).collect();
        assert!(sightings.len() > 3000, "{} ESP packets were seen", sightings.len());
        let nonces: HashSet<_> = sightings.iter().map(|seen| (seen.destination, seen.spi, seen.iv)).collect();
        assert_eq!(nonces.len(), sightings.len(), "a (destination, SPI, IV) was seen twice");
    }
    let counters = Counters::of(&pair);
    counters.assert_sums();
    counters.assert_no_drops(&[]);
    send_again(&pair, &right);
}

/// Every captured ESP packet again, as it was: each one is a replay.
fn send_again(pair: &Pair, frames: &[Vec<u8>]) {
    let before = Counters::of(pair);
    let device = pair.wire.device();
    let injector = pair.sites[0].namespace().enter(|| Injector::open(&device)).expect("the namespace").expect("the link");
    let packets: Vec<_> =
        frames.iter().filter(|frame| esp::sight(frame, PORT).is_some()).filter_map(|frame| esp::with_checksum(frame)).collect();
    assert!(packets.len() > 3000);
    for burst in packets.chunks(BURST) {
        for frame in burst {
            injector.send(frame).expect("the link takes it");
        }
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(500));
    let counted = Counters::of(pair).since(&before);
    let replays = counted.at_site(1, "replay") + counted.at_site(1, "replay_window");
    assert_eq!(replays, packets.len() as i64, "each one is counted as a replay: {counted:?}");
    assert_eq!(counted.at_site(1, "delivered_packets"), 0, "none is delivered: {counted:?}");
    Counters::of(pair).assert_sums();
}

/// Real packets that the right site has not seen, without what is in front of ESP: they were sent to a hardware address that is not
/// the right one's. One of each of `flows` flows.
fn fresh_packets(pair: &Pair, flows: usize) -> Vec<Vec<u8>> {
    let device = pair.wire.device();
    let (near, far) = (pair.sites[0].namespace(), pair.sites[1].namespace());
    let shown = far.ip(&format!("-o link show dev {device}")).expect("ip");
    let address = shown.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a hardware address").to_owned();
    let outer = pair.outer(1, Family::V4).address;
    near.ip(&format!("neigh replace {outer} lladdr 02:00:00:00:00:99 dev {device} nud permanent")).expect("ip");
    let capture = listen(pair, 1);
    let to = SocketAddr::new(pair.inner(1, Family::V4).address, 9);
    for _ in 0..flows {
        let from = pair.inner(0, Family::V4).udp(0).expect("a socket");
        from.send_to(MARKER, to).expect("sent");
    }
    sleep(Duration::from_millis(300));
    near.ip(&format!("neigh replace {outer} lladdr {address} dev {device} nud permanent")).expect("ip");
    let frames = capture.finish().expect("a capture");
    // Ethernet, IPv4, UDP.
    let esp = frames.iter().filter(|frame| esp::sight(frame, PORT).is_some_and(|seen| seen.destination == outer));
    esp.map(|frame| frame[14 + 20 + 8..].to_vec()).collect()
}

fn a_fresh_packet(pair: &Pair) -> Vec<u8> {
    fresh_packets(pair, 1).into_iter().next().expect("one packet was seen")
}

fn stranger(pair: &Pair) -> UdpSocket {
    let socket = pair.outer(0, Family::V4).udp(0).expect("a socket");
    socket.connect(SocketAddr::new(pair.outer(1, Family::V4).address, PORT)).expect("connected");
    socket
}

/// Sends each payload to the right site and gives how many the engine has dropped by name since, and how many it delivered.
fn count_after(pair: &Pair, payloads: &[Vec<u8>]) -> (i64, i64, Counters) {
    let before = Counters::of(pair);
    let stranger = stranger(pair);
    for burst in payloads.chunks(BURST) {
        for payload in burst {
            stranger.send(payload).expect("sent");
        }
        sleep(Duration::from_millis(2));
    }
    sleep(Duration::from_millis(500));
    let counted = Counters::of(pair).since(&before);
    let inbound = Drop::ALL.iter().filter(|drop| matches!(drop.stage(), Stage::Inbound | Stage::Deliver));
    let dropped = inbound.map(|drop| counted.at_site(1, drop.name())).sum();
    (dropped, counted.at_site(1, "delivered_packets"), counted)
}

#[test]
fn whatever_a_stranger_sends_is_counted_and_not_delivered() {
    let pair = plain_wire();
    speak_the_marker(&pair);
    // What begins with four zero bytes or is shorter than an SPI and a sequence number goes to control's own socket; all else is the engine's.
    let garbage = |length: usize| -> Vec<u8> { (0..length).map(|at| (at as u8).wrapping_mul(37).wrapping_add(length as u8) | 1).collect() };
    let payloads: Vec<_> = (0..=2048).map(garbage).collect();
    let for_engine = payloads.iter().filter(|payload| payload.len() >= 8).count() as i64;
    let (dropped, delivered, counted) = count_after(&pair, &payloads);
    assert_eq!((dropped, delivered), (for_engine, 0), "every length from 0 to 2,048: {counted:?}");

    let fresh = a_fresh_packet(&pair);
    let mut changed: Vec<Vec<u8>> = (8..fresh.len()).map(|length| fresh[..length].to_vec()).collect();
    for bit in 0..fresh.len() * 8 {
        let mut payload = fresh.clone();
        payload[bit / 8] ^= 1 << (bit % 8);
        changed.push(payload);
    }
    let (dropped, delivered, counted) = count_after(&pair, &changed);
    assert_eq!((dropped, delivered), (changed.len() as i64, 0), "every truncation and every flipped bit: {counted:?}");
    assert!(counted.at_site(1, "bad_icv") > fresh.len() as i64 * 6, "most of them had to be verified: {counted:?}");
    // The packet itself was never spoilt by them.
    let (dropped, delivered, _) = count_after(&pair, std::slice::from_ref(&fresh));
    assert_eq!((dropped, delivered), (0, 1));
    assert_eq!(count_after(&pair, &[fresh]).0, 1);
    speak_the_marker(&pair);
    Counters::of(&pair).assert_sums();
}

/// Two SAs behind one address and port, as peers with a single source port have them: the kernel merges by address and port, so
/// that one buffer holds packets for two cores.
#[test]
fn a_buffer_with_packets_of_two_cores_is_delivered_whole() {
    let pair = Pair::start(&PairOptions { cores: [2, 2], ..PairOptions::default() }).expect("both sites come up");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let warm = Udp { flows: 16, count: 100, rate: 500.0, direction: Direction::Both, ..Udp::default() };
    assert_eq!(warm.run(&left, &right).expect("sockets").total.corrupt, 0);
    sleep(Duration::from_secs(1));

    // The kernel may have sent something of its own meanwhile: what carries the marker is of one length.
    let mut fresh = fresh_packets(&pair, 24);
    let count = |length: usize| fresh.iter().filter(|packet| packet.len() == length).count();
    let length = fresh.iter().map(Vec::len).max_by_key(|length| count(*length)).expect("packets were seen");
    fresh.retain(|packet| packet.len() == length);
    let core = |packet: &Vec<u8>| packet[3] & 1;
    let (mut even, mut odd): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|packet| core(packet) == 0);
    let pairs = even.len().min(odd.len());
    assert!(pairs >= 2, "flows spread over both cores: {} and {}", even.len(), odd.len());
    even.truncate(pairs);
    odd.truncate(pairs);
    let mixed: Vec<Vec<u8>> = even.into_iter().zip(odd).flat_map(|(even, odd)| [even, odd]).collect();

    let before = Counters::of(&pair);
    esp::send_in_a_row(&stranger(&pair), &mixed).expect("sent");
    sleep(Duration::from_millis(500));
    let counted = Counters::of(&pair).since(&before);
    let at = |name: &str| counted.at_site(1, name);
    let row = mixed.len() as i64;
    // What else came, came by itself.
    let others = at("inbound_frames") - row;
    assert!(others >= 0 && at("udp_receives") <= 1 + others, "all in one buffer: {counted:?}");
    assert_eq!(at("inbound_handoff_in"), row / 2, "every second frame is the other core's: {counted:?}");
    assert_eq!(at("delivered_packets"), row + others, "{counted:?}");
    let counters = Counters::of(&pair);
    counters.assert_sums();
    counters.assert_no_drops(&[]);
}
