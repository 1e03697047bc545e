//! Cutting a super-packet into packets and merging packets into one: what a TUN read and a TUN write cost beside the
//! cipher. Merging includes one copy of each packet to where it would be decrypted.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use penstock_engine::packet::ip::Ip;
use penstock_engine::tun::merge::{Merge, Settled};
use penstock_engine::tun::split::Split;
use penstock_engine::tun::vnet::{Gso, HEADER_BYTES_MIN, Header};

/// The payloads of segments: of a small path, of a full one and of a jumbo one.
const SEGMENT_BYTES: [u16; 3] = [536, 1398, 8860];

struct Super {
    name: &'static str,
    header: Header,
    packet: Vec<u8>,
}

/// Super-packets over IPv4 as large as they get.
fn supers(segment: u16) -> [Super; 2] {
    let payload = vec![0x5a; 65_000 / usize::from(segment) * usize::from(segment)];
    let ip = || PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 1], 64);
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    ip().tcp(1000, 80, 1, 4096).ack(7).write(&mut tcp, &payload).expect("memory");
    // Of UDP, half of what the kernel would cut.
    let payload = &payload[..payload.len().min(64 * usize::from(segment))];
    ip().udp(1000, 80).write(&mut udp, payload).expect("memory");
    let header = |gso, header_bytes, field| Header { checksum: Some((20, field)), gso, header_bytes, segment_bytes: segment };
    [
        Super { name: "tcp", header: header(Gso::TcpV4, 40, 16), packet: tcp },
        Super { name: "udp", header: header(Gso::Udp, 28, 6), packet: udp },
    ]
}

fn split(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split");
    for segment in SEGMENT_BYTES {
        for Super { name, header, packet } in supers(segment) {
            let ip = Ip::parse(&packet).expect("a whole packet");
            let mut buffer = packet.clone();
            group.throughput(Throughput::Bytes(packet.len() as u64));
            group.bench_function(BenchmarkId::new(name, segment), |bench| {
                bench.iter(|| {
                    // Cutting writes headers over the buffer; the first one must be what was read.
                    buffer[..64].copy_from_slice(&packet[..64]);
                    let mut split = Split::new(&header, &mut buffer, &ip).expect("a super-packet");
                    while let Some(packet) = split.next() {
                        black_box(packet);
                    }
                });
            });
        }
    }
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    for segment in SEGMENT_BYTES {
        for Super { name, header, mut packet } in supers(segment) {
            let ip = Ip::parse(&packet).expect("a whole packet");
            let mut packets = Vec::new();
            let mut split = Split::new(&header, &mut packet, &ip).expect("a super-packet");
            while let Some(packet) = split.next() {
                packets.push(packet.to_vec());
            }
            let mut buffer = vec![0; HEADER_BYTES_MIN + 66_000];
            let mut merge = Merge::new(HEADER_BYTES_MIN, true);
            group.throughput(Throughput::Bytes(packets.iter().map(|packet| packet.len() as u64).sum()));
            group.bench_function(BenchmarkId::new(name, segment), |bench| {
                bench.iter(|| {
                    for packet in &packets {
                        let at = merge.landing(&buffer, packet.len()).expect("room for each");
                        buffer[at..at + packet.len()].copy_from_slice(packet);
                        let ip = Ip::parse(&buffer[at..]).expect("a whole packet");
                        assert_eq!(merge.settle(&mut buffer, &ip), Settled::Taken);
                    }
                    let (_, merged) = merge.close(&mut buffer).expect("an open group");
                    assert_eq!(merged as usize, packets.len());
                });
            });
        }
    }
}

criterion_group!(benches, split, merge);
criterion_main!(benches);
