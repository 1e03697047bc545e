//! Given two sites with two workers each, when TCP and UDP of every size go both ways at once, then every byte is right,
//! nothing is lost, doubled or out of order, and the counters of both sites add up: on every combination of
//! families, with every feature masked, and on a wire where packets of many SAs are merged into one buffer.

use std::collections::BTreeSet;
use std::time::Duration;

use penstock_perf::lab::{Family, Namespace, Offload, Pair, PairOptions, WireOptions};
use penstock_perf::load::{Direction, PingPong, Tcp, Udp};
use penstock_tests::capture::Capture;
use penstock_tests::counters::Counters;
use penstock_tests::esp;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// The inner MTU on a wire of 1500.
const MTU_V4: u16 = 1438;
const MTU_V6: u16 = 1418;
/// ESP packets of full size over IPv6 on a wire of 1500.
const FULL_V6: usize = 1500 - 40 - 8;

fn two_workers() -> PairOptions {
    PairOptions { cores: [2, 2], ..PairOptions::default() }
}

/// What the wire itself has thrown away: a veth pair that merges holds 256 packets, and a busy machine can let that overflow.
fn dropped_on_the_wire(pair: &Pair) -> u64 {
    let device = pair.wire.device();
    let of = |side: usize| {
        let counters = pair.sites[side].namespace().device_counters(&device).expect("the wire is there");
        counters.rx_dropped + counters.tx_dropped
    };
    of(0) + of(1)
}

/// Everything that has to pass, for one inner family.
fn everything(pair: &Pair, outer: Family, inner: Family) {
    let [left, right] = [0, 1].map(|side| pair.inner(side, inner));
    let mtu = if outer == Family::V4 { MTU_V4 } else { MTU_V6 };
    let what = format!("{inner:?} in {outer:?}");

    let pings = PingPong { duration: Duration::from_millis(300), ..PingPong::default() }.run(&left, &right).expect("sockets");
    assert_eq!(pings.lost, 0, "{what}: round trips");

    // One SA per core is made on the first traffic of a core; a flow that moves to it may overtake itself once.
    Udp { flows: 8, count: 200, rate: 1000.0, direction: Direction::Both, ..Udp::default() }.run(&left, &right).expect("sockets");
    std::thread::sleep(Duration::from_millis(700));

    let sizes = Udp::every_size(mtu, inner == Family::V6);
    for flows in [1, 2, 8] {
        let count = sizes.len() as u64;
        let udp =
            Udp { flows, sizes: sizes.clone(), count, rate: 4000.0 / flows as f64, direction: Direction::Both, seed: 7, ..Udp::default() };
        let (before, wire_before) = (Counters::of(pair), dropped_on_the_wire(pair));
        let outcome = udp.run(&left, &right).expect("sockets");
        let moved = Counters::of(pair).since(&before).counter("flow_moves");
        let on_the_wire = dropped_on_the_wire(pair) - wire_before;
        let total = outcome.total;
        let whole = total.duplicate == 0 && total.corrupt == 0 && (total.reordered == 0 || moved > 0) && total.lost <= on_the_wire;
        assert!(
            whole,
            "{what}: {flows} UDP flows of every size, {moved} moves, {on_the_wire} lost by the wire itself: {:?}",
            outcome.flows
        );
    }
    let super_packets = Udp { flows: 2, sizes: vec![512], segments: 32, merge: true, count: 4096, rate: 20_000.0, ..Udp::default() };
    let outcome = super_packets.run(&left, &right).expect("sockets");
    assert!(outcome.total.is_perfect(), "{what}: UDP super-packets: {:?}", outcome.flows);

    for streams in [1, 2, 8] {
        let tcp = Tcp { streams, duration: Duration::from_millis(600), direction: Direction::Both, ..Tcp::default() };
        let outcome = tcp.run(&left, &right).expect("connections");
        assert!(outcome.is_intact(), "{what}: {streams} TCP streams: {outcome:?}");
        assert!(outcome.bytes() > 1 << 20, "{what}: {streams} TCP streams carried {} bytes", outcome.bytes());
    }
}

/// Runs both inner families over one pair and holds the counters against what was sent.
fn both_families(options: PairOptions) -> Counters {
    both_families_over(&Pair::start(&options).expect("both sites come up"), &options)
}

fn both_families_over(pair: &Pair, options: &PairOptions) -> Counters {
    for inner in FAMILIES {
        everything(pair, options.outer, inner);
    }
    std::thread::sleep(Duration::from_millis(300));
    let counters = Counters::of(pair);
    counters.assert_sums();
    counters.assert_no_drops(&[]);
    counters
}

#[test]
fn over_ipv4() {
    let counters = both_families(two_workers());
    assert!(counters.workers() == 4 && counters.all_rings(), "two ring workers a side: {counters:?}");
    assert!(counters.cores_that_sealed() >= 3, "more than one core a side carried traffic: {counters:?}");
}

#[test]
fn over_ipv6() {
    both_families(PairOptions { outer: Family::V6, ..two_workers() });
}

fn without(feature: &str) -> Counters {
    both_families(PairOptions { without: [feature.into(), feature.into()], ..two_workers() })
}

#[test]
fn without_uso() {
    without("uso");
}

#[test]
fn without_read_multishot() {
    without("read-multishot");
}

#[test]
fn without_gro() {
    without("gro");
}

#[test]
fn without_gso() {
    without("gso");
}

#[test]
fn without_ring() {
    assert!(!without("ring").all_rings(), "plain calls were asked for");
}

#[test]
fn one_side_without_ring() {
    both_families(PairOptions { without: ["ring".into(), String::new()], ..two_workers() });
}

/// The sender's kernel cuts, the receiver's merges by address and port, and there is one port for all SAs.
fn one_source_port(outer: Family) -> PairOptions {
    let wire = WireOptions { offload: Offload::Gro, ..WireOptions::default() };
    PairOptions { wire, outer, peer_toml: "source_port = 4500".into(), ..two_workers() }
}

#[test]
fn merged_on_the_way_with_one_source_port() {
    both_families(one_source_port(Family::V4));
}

/// The SPIs that a site receives on.
fn inbound_spis(pair: &Pair, side: usize) -> BTreeSet<u32> {
    let state = pair.sites[side].show_json().expect("the daemon answers");
    let sas = state["peers"][0]["sas"].as_array().cloned().unwrap_or_default();
    let spi = |sa: &serde_json::Value| u32::from_str_radix(sa["inbound_spi"].as_str()?, 16).ok();
    sas.iter().filter_map(spi).collect()
}

/// How many buffers with packets of two SAs come to the right site while bulk goes both ways.
fn mixed_buffers(pair: &Pair) -> usize {
    let device = pair.wire.device();
    let capture = pair.sites[1].namespace().enter(|| Capture::start(&device)).expect("the namespace").expect("the link");
    let [left, right] = [0, 1].map(|side| pair.inner(side, Family::V4));
    let tcp = Tcp { streams: 8, duration: Duration::from_millis(500), direction: Direction::Both, ..Tcp::default() };
    assert!(tcp.run(&left, &right).expect("connections").is_intact());
    let frames = capture.finish().expect("a capture");
    let known = inbound_spis(pair, 1);
    let mixed = frames.iter().filter(|frame| esp::spis_in_a_row(frame, FULL_V6, &known).len() > 1).count();
    println!("{mixed} of {} buffers held packets of two SAs", frames.len());
    mixed
}

/// Two cores that send at the same moment: a buffer holds packets of two SAs. Over IPv6 and through a router, because the kernel merges
/// neither IPv4 packets whose identifications do not follow each other nor packets that still belong to different sockets.
#[test]
fn two_cores_merged_into_one_buffer_on_the_way() {
    let options = one_source_port(Family::V6);
    let (pair, _router) = through_a_router(&options);
    let counters = both_families_over(&pair, &options);
    assert!(counters.counter("inbound_handoff_in") > 0, "one core takes in what is the other's too: {counters:?}");
    // Until two cores have sent at the same moment. Where flows have gathered on one core they do not: then with a fresh pair.
    let several = |pair: &Pair| (0..5).map(|_| mixed_buffers(pair)).find(|mixed| *mixed > 0);
    let mixed = several(&pair).or_else(|| {
        (0..4).find_map(|_| {
            let (pair, _router) = through_a_router(&options);
            several(&pair)
        })
    });
    assert!(mixed.is_some(), "mixed buffers happened");
}

fn through_a_router(options: &PairOptions) -> (Pair, Namespace) {
    let mut pair = Pair::new(options).expect("the lab");
    let router = Namespace::new("router").expect("a namespace");
    pair.wire.lead_through(&router, &options.wire).expect("the wire");
    pair.sites.iter_mut().for_each(|site| site.start().expect("the daemon starts"));
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    (pair, router)
}

#[test]
fn merged_on_the_way_with_own_source_ports() {
    let wire = WireOptions { offload: Offload::Gro, ..WireOptions::default() };
    both_families(PairOptions { wire, ..two_workers() });
}

#[test]
fn nothing_merged_on_the_way() {
    let wire = WireOptions { offload: Offload::Plain, ..WireOptions::default() };
    both_families(PairOptions { wire, ..two_workers() });
}

/// A peer whose subnets cover its own endpoint, as a default route does, sends no encapsulated packet into the tunnel again.
#[test]
fn a_default_route_through_the_peer_loops_nothing() {
    let mut pair = Pair::new(&PairOptions::default()).expect("the lab");
    let config = std::fs::read_to_string(pair.sites[0].config_path()).expect("the configuration");
    let config = config.replace("subnets = [\"10.43.100.0/24\", \"fd00:43:100::/64\"]", "subnets = [\"0.0.0.0/0\", \"::/0\"]");
    assert!(config.contains("0.0.0.0/0"), "{config}");
    pair.sites[0].write_config(&config).expect("the file");
    let other = std::fs::read_to_string(pair.sites[1].config_path()).expect("the configuration");
    let other = other.replace("local_subnets = [\"10.43.100.0/24\", \"fd00:43:100::/64\"]", "local_subnets = [\"0.0.0.0/0\", \"::/0\"]");
    assert!(other.contains("0.0.0.0/0"), "{other}");
    pair.sites[1].write_config(&other).expect("the file");
    for site in &mut pair.sites {
        site.start().expect("the daemon starts");
    }
    pair.wait_up(Duration::from_secs(10)).expect("both sites come up");
    for inner in FAMILIES {
        let [left, right] = [0, 1].map(|side| pair.inner(side, inner));
        // The flow may move to its core's own SA meanwhile and overtake itself.
        let total = Udp { count: 2000, ..Udp::default() }.run(&left, &right).expect("sockets").total;
        assert_eq!((total.lost, total.duplicate, total.corrupt), (0, 0, 0), "{total:?}");
        let outcome = Tcp { duration: Duration::from_millis(500), direction: Direction::Both, ..Tcp::default() }.run(&left, &right);
        assert!(outcome.expect("connections").is_intact());
    }
    let counters = Counters::of(&pair);
    assert_eq!(counters.drop("loop"), 0, "the rule keeps our own packets off our own routes: {counters:?}");
}
