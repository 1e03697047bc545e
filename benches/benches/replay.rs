//! Check and commit of the replay window: in order, out of order within it, and what is refused.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use penstock_engine::esp::replay::Window;

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    for bits in [1024, 16_384, 65_536] {
        group.bench_function(BenchmarkId::new("in-order", bits), |bench| {
            let (mut window, mut number) = (Window::new(bits), 0);
            bench.iter(|| {
                number += 1;
                window.check(black_box(number)).expect("a fresh number").commit()
            });
        });
        // Pairs swapped at a distance of 32: half of the numbers jump ahead, half come late.
        group.bench_function(BenchmarkId::new("reordered", bits), |bench| {
            let (mut window, mut at) = (Window::new(bits), 0_u64);
            bench.iter(|| {
                at += 1;
                window.check(black_box((at ^ 32) + 64)).expect("a fresh number").commit()
            });
        });
        group.bench_function(BenchmarkId::new("refused", bits), |bench| {
            let mut window = Window::new(bits);
            window.check(1_000_000).expect("a fresh number").commit();
            bench.iter(|| window.check(black_box(1_000_000)).is_err());
        });
    }
}

criterion_group!(benches, replay);
criterion_main!(benches);
