//! Bytes through both engines, checked one by one.

use std::time::Duration;

use penstock_perf::lab::{Offload, WireOptions};
use penstock_perf::load::{Direction, PingPong, Tcp, Udp};
use penstock_uapi::{Counter, Drop};

use super::site::{Options, Pairing};

const SHORT: Duration = Duration::from_millis(700);
/// A machine that builds beside this leaves a pinned thread waiting for seconds.
const LINGER: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

/// TCP and UDP both ways at once; every byte right, no packet lost, every counter's sum exact.
fn carries_everything(options: &Options) -> Pairing {
    let mut pair = Pairing::new(options);
    for v6 in [false, true] {
        let (a, b) = (pair.host(0, v6), pair.host(1, v6));
        let ping = PingPong { duration: Duration::from_millis(100), ..PingPong::default() }.run(&a, &b).expect("an echo");
        assert!(!ping.times.is_empty(), "{options:?}\n{}", pair.report());
        let tcp = Tcp {
            streams: options.cores * 2,
            duration: SHORT,
            check: true,
            direction: Direction::Both,
            patience: PATIENCE,
            ..Tcp::default()
        };
        let tcp = tcp.run(&a, &b).unwrap_or_else(|error| panic!("{options:?}: {error}\n{}", pair.report()));
        assert!(tcp.is_intact(), "{options:?}: {tcp:?}");
        let udp = Udp {
            flows: 2,
            sizes: Udp::every_size(1418, v6),
            rate: 5000.0,
            duration: SHORT,
            direction: Direction::Both,
            linger: LINGER,
            ..Udp::default()
        };
        let udp = udp.run(&a, &b).expect("UDP passes");
        assert!(udp.total.is_perfect(), "{options:?}: {}\n{}", udp.total, pair.report());
    }
    for site in &mut pair.sites {
        let state = site.settled();
        // The kernel looks for IPv6 routers and multicast listeners on every device.
        let drops: Vec<_> = state.drops().into_iter().filter(|(name, _)| *name != "no_route").collect();
        assert!(drops.is_empty(), "{options:?}: {drops:?}");
        assert_eq!(state.counter(Counter::ReceiveQueueOverflows), 0);
        assert_eq!(state.counter(Counter::ControlTruncations), 0);
        assert!(site.engine.lives());
    }
    pair
}

#[test]
fn a_ring_carries_everything() {
    let mut pair = carries_everything(&Options::default());
    let state = pair.sites[0].client.state();
    assert_eq!(state.cores[0].ring, 1);
    // Super-packets: far fewer sends than packets.
    assert!(state.counter(Counter::UdpSends) * 4 < state.counter(Counter::SentPackets), "{state:?}");
}

#[test]
fn plain_calls_carry_everything() {
    let mut pair = carries_everything(&Options { without: "ring", ..Options::default() });
    assert_eq!(pair.sites[0].client.state().cores[0].ring, 0);
}

#[test]
fn two_cores_carry_everything() {
    let mut pair = carries_everything(&Options { cores: 2, ..Options::default() });
    // Each core has its own pair; what was read by one was sealed by it.
    assert_eq!(pair.sites[0].client.state().sas.len(), 2);
}

#[test]
fn two_cores_on_plain_calls_carry_everything() {
    carries_everything(&Options { cores: 2, without: "ring", ..Options::default() });
}

#[test]
fn cores_without_an_sa_of_their_own_hand_over_and_keep_the_order() {
    for without in ["", "ring"] {
        let mut pair = carries_everything(&Options { cores: 2, single_sa: true, without, ..Options::default() });
        let state = pair.sites[0].client.state();
        assert_eq!(state.counter(Counter::OutboundHandoffOut), state.counter(Counter::OutboundHandoffIn));
        assert!(state.counter(Counter::OutboundHandoffOut) > 0, "no flow came to the second core: {state:?}");
    }
}

#[test]
fn each_feature_can_be_missing() {
    for without in ["gso", "gro", "uso", "read-multishot", "gather", "gso,gro,ring"] {
        carries_everything(&Options { cores: 2, without, ..Options::default() });
    }
}

#[test]
fn the_outer_packets_can_be_ipv6() {
    for without in ["", "ring"] {
        carries_everything(&Options { outer_v6: true, without, ..Options::default() });
    }
}

/// The sender's kernel cuts and the receiver's merges again; all SAs share a port, so a buffer can hold frames of several.
#[test]
fn buffers_of_several_sas_are_sorted() {
    let wire = WireOptions { offload: Offload::Gro, ..WireOptions::default() };
    let mut pair = carries_everything(&Options { cores: 2, shared_port: true, wire, ..Options::default() });
    for site in &mut pair.sites {
        let state = site.client.state();
        assert_eq!(state.counter(Counter::InboundHandoffOut), state.counter(Counter::InboundHandoffIn));
    }
}

#[test]
fn a_jailed_engine_carries_everything() {
    for without in ["", "ring"] {
        let pair = carries_everything(&Options { cores: 2, sandbox: true, poll_us: 50, without, ..Options::default() });
        jail_is_closed(pair.sites[0].engine.pid());
    }
}

/// What the kernel says of the process: no right, no privilege to gain, filters on every thread, nobody's user, an empty root.
fn jail_is_closed(pid: u32) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let mut count = 0;
    for thread in threads {
        let status = std::fs::read_to_string(thread.expect("a thread").path().join("status")).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the field");
            line.trim_start_matches(':').split_whitespace().next().expect("a value").to_owned()
        };
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(capabilities), 16), Ok(0), "{capabilities}");
        }
        assert_eq!((field("NoNewPrivs"), field("Seccomp"), field("Uid")), ("1".into(), "2".into(), "65534".into()));
        assert_eq!(field("Seccomp_filters"), "3", "{}", field("Name"));
        count += 1;
    }
    assert_eq!(count, 3, "main and two cores");
    let root = std::fs::read_dir(format!("/proc/{pid}/root")).expect("we are root");
    assert_eq!(root.count(), 0, "the root is empty");
    let ours = std::fs::read_link("/proc/self/ns/net").expect("a link");
    assert_ne!(std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("a link"), ours);
}

#[test]
fn what_waited_through_an_outage_is_dropped_and_counted() {
    for without in ["", "ring"] {
        let mut pair = Pairing::new(&Options { without, stale: 5, ..Options::default() });
        for site in &mut pair.sites {
            let state = site.settled();
            // The kernel's own multicast may wait there too.
            assert!((5..=8).contains(&state.dropped(Drop::Stale)), "{:?}", state.drops());
            assert_eq!(state.counter(Counter::SealedPackets), 0);
        }
        let ping = PingPong { duration: Duration::from_millis(100), ..PingPong::default() };
        let ping = ping.run(&pair.host(0, false), &pair.host(1, false)).expect("an echo");
        assert!(!ping.times.is_empty(), "what comes later is carried");
    }
}
