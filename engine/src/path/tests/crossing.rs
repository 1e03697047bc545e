//! What goes in comes out the same: super-packets, mixed flows, marks of congestion, mixed buffers.

use proptest::prelude::*;

use super::*;

#[test]
fn super_packets_cross_whole() {
    let (mut left, mut right) = pair();
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let flow = Flow { push: tcp, ..Flow::new(v6, tcp) };
        let payload: Vec<u8> = (0..60_000u32).map(|at| ((at * 31) >> 3) as u8).collect();
        let segment = 1438 - flow.headers();
        let runs = left.send(&[flow.read(&payload, segment)]);
        assert_eq!(runs.len(), 1, "one super-packet, one send");
        let writes = right.receive(&runs);
        assert_eq!(writes.len(), 1, "one super-packet again");
        assert_eq!(packets(&writes), flow.cut(&payload, segment));
    }
    left.assert_sums();
    right.assert_sums();
    assert_eq!(left.counter(Counter::SealedPackets), right.counter(Counter::DeliveredPackets));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_mix_of_reads_comes_out_the_same(reads in proptest::collection::vec((any::<bool>(), any::<bool>(), 0..4u16, 1..9000usize, 300..1366usize), 1..12), mixed: bool) {
        let (mut left, mut right) = pair();
        let mut expected = Vec::new();
        let reads: Vec<_> = reads.into_iter().map(|(v6, tcp, port, length, segment)| {
            let flow = Flow { port: port + 1, ..Flow::new(v6, tcp) };
            let payload: Vec<u8> = (0..length).map(|at| at as u8).collect();
            if length <= segment {
                expected.push(flow.packet(&payload));
                flow.plain(&payload)
            } else {
                expected.extend(flow.cut(&payload, segment));
                flow.read(&payload, segment)
            }
        }).collect();
        let mut runs = left.send(&reads);
        if mixed {
            // A wire that merges nothing.
            runs = runs.iter().flat_map(|run| run.bytes.chunks(run.stride).map(|frame| Run { tos: run.tos, stride: frame.len(), bytes: frame.to_vec() })).collect();
        }
        prop_assert_eq!(packets(&right.receive(&runs)), expected);
        left.assert_sums();
        right.assert_sums();
    }
}

#[test]
fn congestion_is_carried_in_both_ways() {
    let (mut left, mut right) = pair();
    for (inner, outer, expected) in [(2, 3, 3), (1, 3, 3), (2, 1, 1), (3, 0, 3), (0xb8, 0, 0xb8)] {
        for v6 in [false, true] {
            let flow = Flow { tos: inner, ..Flow::new(v6, true) };
            let mut runs = left.send(&[flow.plain(b"marked")]);
            assert_eq!(runs[0].tos, inner, "the outer field is the inner one");
            runs[0].tos = outer;
            assert_eq!(packets(&right.receive(&runs)), [Flow { tos: expected, ..flow }.packet(b"marked")]);
        }
    }
}

#[test]
fn buffers_that_run_out_cost_packets_and_nothing_else() {
    let (mut left, mut right) = pair();
    left.outbox = Outbox::new(1);
    let runs = left.send(&[Flow::new(false, true).read(&[1; 60_000], 1000), Flow::new(false, true).read(&[2; 60_000], 1000)]);
    assert_eq!((runs.len(), left.dropped(Drop::OutboundNoBuffer)), (1, 60), "sixty frames of 1,088 bytes fill one send");
    right.inbox = Inbox::new(1);
    right.receive(&runs);
    assert!(right.dropped(Drop::InboundNoBuffer) > 0);
    left.assert_sums();
    right.assert_sums();
}

/// UDP_GRO merges by address and port before the socket is picked: a buffer can hold frames of two SAs, and IKE behind ESP.
#[test]
fn each_frame_of_a_mixed_buffer_goes_its_own_way() {
    let (mut left, mut right) = pair();
    let flow = Flow::new(false, false);
    let runs: Vec<_> = (0..3).flat_map(|_| left.send(&[flow.plain(b"mine")])).collect();
    let stride = runs[0].stride;
    let mut elsewhere = runs[0].bytes.clone();
    elsewhere[..4].copy_from_slice(&spi(1, 100).to_be_bytes());
    let mut ike = elsewhere.clone();
    ike[..4].fill(0);
    let bytes = [&runs[0].bytes, &elsewhere, &runs[1].bytes, &ike, &elsewhere, &runs[2].bytes].map(Vec::as_slice).concat();
    let writes = right.receive(&[Run { tos: 0, stride, bytes }]);
    assert_eq!(packets(&writes), vec![flow.packet(b"mine"); 3]);
    let handed: Vec<_> = right.post.inbound.iter().map(|(core, _, frame)| (*core, frame == &elsewhere)).collect();
    assert_eq!((handed, right.told.ike.len()), (vec![(1, true); 2], 1));
    right.assert_sums();
}
