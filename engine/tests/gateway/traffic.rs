//! Bytes through both engines, checked one by one.

use std::time::Duration;

use penstock_perf::load::{Direction, PingPong, Tcp, Udp};
use penstock_uapi::Counter;

use super::site::{Options, Pairing};

const SHORT: Duration = Duration::from_millis(700);

/// TCP and UDP both ways at once; every byte right, no packet lost, every counter's sum exact.
fn carries_everything(options: &Options) -> Pairing {
    let mut pair = Pairing::new(options);
    for v6 in [false, true] {
        let (a, b) = (pair.host(0, v6), pair.host(1, v6));
        let ping = PingPong { duration: Duration::from_millis(100), ..PingPong::default() }.run(&a, &b).expect("an echo");
        assert_eq!(ping.lost, 0, "{options:?}");
        let tcp = Tcp { streams: options.cores * 2, duration: SHORT, check: true, direction: Direction::Both, ..Tcp::default() };
        let tcp = tcp.run(&a, &b).expect("TCP passes");
        assert!(tcp.is_intact(), "{options:?}: {tcp:?}");
        let udp = Udp { flows: 2, sizes: Udp::every_size(1418, v6), rate: 5000.0, duration: SHORT, direction: Direction::Both, ..Udp::default() };
        let udp = udp.run(&a, &b).expect("UDP passes");
        assert!(udp.total.is_perfect(), "{options:?}: {:?} {:?}", udp.total, pair.sites.each_mut().map(|site| site.client.state().drops()));
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

/// Prints the rate of one TCP stream over the plain wire and through both engines, in turn.
#[test]
#[ignore = "a measurement, to be run alone and built with --release"]
fn speed() {
    for (name, without) in [("ring", ""), ("plain calls", "ring")] {
        let mut pair = Pairing::new(&Options { without, ..Options::default() });
        let plan = Tcp { duration: Duration::from_secs(3), ..Tcp::default() };
        for _ in 0..3 {
            let wire = plan.run(&pair.wire.host_v4(0), &pair.wire.host_v4(1)).expect("the wire carries");
            let tunnel = plan.run(&pair.host(0, false), &pair.host(1, false)).expect("the tunnel carries");
            let (wire, tunnel, again) = (wire.gigabits(), tunnel.gigabits(), tunnel.retransmits());
            println!("{name}: wire {wire:.2} Gbit/s, tunnel {tunnel:.2} Gbit/s ({:.2} of it), {again} retransmits", tunnel / wire);
        }
        for site in &mut pair.sites {
            let state = site.settled();
            let of = |counter| state.counter(counter);
            println!(
                "{name}: {} reads, {} sends, {} sealed; {} receives, {} opened, {} writes; {} shortages, {} sleeps; drops {:?}",
                of(Counter::TunReads),
                of(Counter::UdpSends),
                of(Counter::SealedPackets),
                of(Counter::UdpReceives),
                of(Counter::OpenedPackets),
                of(Counter::TunWrites),
                of(Counter::BufferShortages),
                of(Counter::Sleeps),
                state.drops()
            );
        }
    }
}
