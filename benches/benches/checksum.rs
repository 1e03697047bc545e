//! The Internet checksum over a header, over packets, and over a super-packet.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use penstock_engine::packet::checksum::Sum;

fn checksum(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checksum");
    for bytes in [20, 64, 1400, 8900, 65_535] {
        let data: Vec<u8> = (0..bytes).map(|at| (at * 31 % 251) as u8).collect();
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bench| bench.iter(|| Sum::default().bytes(black_box(&data)).finish()));
    }
}

criterion_group!(benches, checksum);
criterion_main!(benches);
