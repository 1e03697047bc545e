//! The queue between two cores: an item through it on one thread, and between two threads, where the cores pass cache lines on.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use penstock_engine::handoff::queue::queue;

const ITEMS: u64 = 64;

fn one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handoff");
    group.throughput(Throughput::Elements(ITEMS));
    let (mut to, mut from) = queue::<Box<u64>>(ITEMS as usize);
    let mut items: Vec<_> = (0..ITEMS).map(Box::new).collect();
    group.bench_function("one-thread", |bench| {
        bench.iter(|| {
            for item in items.drain(..) {
                to.push(item).expect("the queue holds them all");
            }
            while let Some(item) = from.pop() {
                items.push(black_box(item));
            }
        });
    });
}

/// Items go to another thread and come back, as parcels do.
fn there_and_back(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("handoff");
    group.throughput(Throughput::Elements(ITEMS));
    let (mut to, mut from) = queue::<Box<u64>>(ITEMS as usize);
    let (mut returns, mut back) = queue::<Box<u64>>(ITEMS as usize);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match from.pop() {
                    Some(item) => returns.push(item).expect("the queue holds them all"),
                    None => std::thread::yield_now(),
                }
            }
        });
        let mut items: Vec<_> = (0..ITEMS).map(Box::new).collect();
        group.bench_function("there-and-back", |bench| {
            bench.iter(|| {
                for item in items.drain(..) {
                    to.push(item).expect("the queue holds them all");
                }
                while items.len() < ITEMS as usize {
                    match back.pop() {
                        Some(item) => items.push(item),
                        None => std::thread::yield_now(),
                    }
                }
            });
        });
        done.store(true, Ordering::Relaxed);
    });
}

criterion_group!(benches, one_thread, there_and_back);
criterion_main!(benches);
