//! Given Penstock at one end and Debian's strongSwan at the other, when either begins, with every cipher and group that both
//! have, then the tunnel comes up and carries both families both ways, every byte right, and Penstock drops nothing.
//! strongSwan has one child for all cores and no extended sequence numbers; Penstock's second core hands its packets over.

use std::time::Duration;

use penstock_perf::lab::Family;
use penstock_perf::load::{Direction, PingPong, Tcp, Udp};
use penstock_tests::mixed::{Mixed, MixedOptions};

/// Round trips, datagrams and bulk of one family, and what they showed.
fn everything(mixed: &Mixed, family: Family) {
    let [left, right] = mixed.inner(family);
    let pings = PingPong { duration: Duration::from_millis(300), ..PingPong::default() }.run(&left, &right).expect("sockets");
    assert_eq!(pings.lost, 0, "{family:?}: round trips\n{}", mixed.picture());
    // More flows than cores, so that each core has some and all of them share one SA. strongSwan encrypts 90,000 packets a second at most.
    let udp =
        Udp { flows: 8, sizes: vec![64, 1200, 1300, 1], count: 500, rate: 300.0, direction: Direction::Both, seed: 11, ..Udp::default() };
    let outcome = udp.run(&left, &right).expect("sockets");
    assert!(outcome.total.is_perfect(), "{family:?}: {}: {:?}\n{}", outcome.total, outcome.flows, mixed.picture());
    let tcp = Tcp { streams: 4, duration: Duration::from_millis(800), direction: Direction::Both, ..Tcp::default() };
    let bulk = tcp.run(&left, &right).expect("connections");
    assert!(bulk.is_intact() && bulk.bytes() > 1 << 20, "{family:?}: {bulk:?}\n{}", mixed.picture());
    println!("{family:?}: {}; TCP {:.2} Gbit/s, {} segments again", outcome.total, bulk.gigabits(), bulk.retransmits());
}

/// Everything, of both families; then what both ends say of the SA.
fn carries_everything(mixed: &Mixed, ike: &str, bits: u64) {
    for family in [Family::V4, Family::V6] {
        everything(mixed, family);
    }
    std::thread::sleep(Duration::from_millis(300));
    let counters = mixed.counters();
    counters.assert_sums();
    counters.assert_no_drops(&[]);
    let handed = counters.counter("outbound_handoff_out");
    println!("{handed} packets went through the other core's SA; {} inbound", counters.counter("inbound_handoff_out"));
    assert!(handed > 0, "with two workers and one SA, one hands over: {counters:?}");

    let peer = mixed.peer();
    assert_eq!(peer["ike"]["proposal"], ike, "{peer}");
    let sas = peer["sas"].as_array().expect("a list");
    assert!(sas.len() == 1 && sas[0]["esn"] == false, "one SA without ESN: {peer}");
    let children = mixed.swan.children().expect("charon answers");
    assert_eq!(children.len(), 1, "{children:?}");
    let (algorithm, size) = (children[0].value("encr-alg"), children[0].number("encr-keysize"));
    assert_eq!((algorithm, size), ("AES_GCM_16", bits), "{children:?}");
    println!("strongSwan took {} bytes and gave {}", children[0].number("bytes-in"), children[0].number("bytes-out"));
}

fn with(proposals: &str, esp: &str) -> MixedOptions {
    MixedOptions { proposals: proposals.into(), esp: esp.into(), ..MixedOptions::default() }
}

#[test]
fn penstock_initiates_with_x25519_and_aes_256() {
    let mixed = Mixed::start(&with("aes256gcm16-prfsha256-curve25519", "aes256gcm16")).expect("both come up");
    assert_eq!(mixed.peer()["ike"]["initiated"], true);
    carries_everything(&mixed, "aes256gcm16-prfsha256-x25519", 256);
}

#[test]
fn strongswan_initiates_with_x25519_and_aes_256() {
    let mixed = Mixed::start_from_strongswan(&with("aes256gcm16-prfsha256-curve25519", "aes256gcm16")).expect("both come up");
    assert_eq!(mixed.peer()["ike"]["initiated"], false);
    carries_everything(&mixed, "aes256gcm16-prfsha256-x25519", 256);
}

/// Penstock sends X25519 first and is asked for P-256.
#[test]
fn penstock_initiates_with_p256_and_aes_128() {
    let mixed = Mixed::start(&with("aes128gcm16-prfsha256-ecp256", "aes128gcm16")).expect("both come up");
    carries_everything(&mixed, "aes128gcm16-prfsha256-p256", 128);
}

#[test]
fn strongswan_initiates_with_p256_and_aes_128() {
    let mixed = Mixed::start_from_strongswan(&with("aes128gcm16-prfsha256-ecp256", "aes128gcm16")).expect("both come up");
    carries_everything(&mixed, "aes128gcm16-prfsha256-p256", 128);
}

/// As routers and clouds do unless they are told otherwise: IKE_SA_INIT on port 500, everything else on 4500.
#[test]
fn either_side_begins_on_port_500() {
    let options = MixedOptions { port: 500, ..MixedOptions::default() };
    for by_us in [true, false] {
        let mixed = if by_us { Mixed::start(&options) } else { Mixed::start_from_strongswan(&options) }.expect("both come up");
        let peer = mixed.peer();
        assert_eq!((&peer["ike"]["initiated"], &peer["remote"]), (&by_us.into(), &"10.0.0.2:4500".into()), "{peer}");
        everything(&mixed, Family::V4);
    }
}
