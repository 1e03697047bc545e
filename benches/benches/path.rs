//! The whole path of packets through a core: TUN reads become sealed runs, UDP receives become writes. A batch is what a shell takes
//! in one go; making it is not measured.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use penstock_benches::gateway::{Gateway, Scale};
use penstock_benches::traffic::{BATCH, Load, Peers, reads};

const LOADS: [(Load, &str); 3] = [(Load::Tcp, "tcp"), (Load::Small, "small"), (Load::Uso, "uso")];
/// Peers and prefixes.
const SCALES: [(u32, u32); 3] = [(1, 1), (1, 1000), (1000, 100_000)];

fn cases() -> impl Iterator<Item = (Load, String, Scale)> {
    LOADS.into_iter().flat_map(|(load, name)| {
        SCALES.map(|(peers, prefixes)| (load, format!("{name}/{peers}x{prefixes}"), Scale { peers, prefixes, v6: false }))
    })
}

fn outbound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path-outbound");
    for (load, name, scale) in cases() {
        let mut gateway = Gateway::new(&scale);
        let batches = reads(load, &scale, 16);
        let mut turn = 0;
        group.throughput(Throughput::Elements((BATCH * load.packets(false)) as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            let fresh = || {
                turn = (turn + 1) % batches.len();
                batches[turn].clone()
            };
            bench.iter_batched_ref(fresh, |batch| black_box(gateway.send(batch)), BatchSize::LargeInput);
        });
    }
}

fn inbound(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path-inbound");
    for (load, name, scale) in cases() {
        let mut gateway = Gateway::new(&scale);
        let mut peers = Peers::default();
        group.throughput(Throughput::Elements((BATCH * load.packets(false)) as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bench| {
            // A frame opens once only.
            let fresh = || peers.receives(load, &scale, 1);
            bench.iter_batched_ref(fresh, |batches| black_box(gateway.receive(&batches[0])), BatchSize::LargeInput);
        });
    }
}

criterion_group!(benches, outbound, inbound);
criterion_main!(benches);
