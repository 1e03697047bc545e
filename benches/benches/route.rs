//! Route lookup over tables of many sizes, with the trie of `prefix-trie` beside it as the other way to do it.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::{Ipv4Net, Ipv6Net};
use penstock_engine::route::Table;
use prefix_trie::PrefixMap;

const SIZES: [u32; 5] = [1, 100, 1000, 10_000, 100_000];

/// A generator good enough to defeat the branch predictor (xorshift).
struct Numbers(u64);

impl Numbers {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Distinct /24 within 10/8 and beyond; every eighth is a /16 that holds others.
fn prefix_v4(numbers: &mut Numbers) -> (Ipv4Addr, u8) {
    let (ip, length) = (numbers.draw() as u32, if numbers.draw().is_multiple_of(8) { 16 } else { 24 });
    (Ipv4Addr::from(ip & (u32::MAX << (32 - length))), length as u8)
}

/// The same for IPv6: /48 and /64 of 2001:db8::/32 and its neighbours.
fn prefix_v6(numbers: &mut Numbers) -> (Ipv6Addr, u8) {
    let length = if numbers.draw().is_multiple_of(8) { 48 } else { 64 };
    let ip = 0x2001_0db8_u128 << 96 | u128::from(numbers.draw() & 0x3_ffff_ffff) << 64;
    (Ipv6Addr::from(ip & (u128::MAX << (128 - length))), length as u8)
}

fn v4(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route-v4");
    for size in SIZES {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let prefixes: Vec<_> = (0..size).map(|value| (prefix_v4(&mut numbers), value)).collect();
        let asked: Vec<[u8; 4]> =
            (0..4096).map(|at| (u32::from(prefixes[at % prefixes.len()].0.0) | numbers.draw() as u32 & 0xff).to_be_bytes()).collect();
        let table = Table::build(prefixes.iter().map(|&((ip, length), value)| (IpAddr::from(ip), length, value)));
        let mut at = 0;
        group.bench_function(BenchmarkId::new("table", size), |bench| {
            bench.iter(|| {
                at = (at + 1) % asked.len();
                table.lookup_v4(black_box(asked[at]))
            });
        });
        let trie: PrefixMap<Ipv4Net, u32> =
            prefixes.iter().map(|&((ip, length), value)| (Ipv4Net::new(ip, length).expect("a length"), value)).collect();
        group.bench_function(BenchmarkId::new("trie", size), |bench| {
            bench.iter(|| {
                at = (at + 1) % asked.len();
                trie.get_lpm(&Ipv4Net::from(Ipv4Addr::from(black_box(asked[at])))).map(|(_, value)| *value)
            });
        });
    }
}

fn v6(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route-v6");
    for size in SIZES {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let prefixes: Vec<_> = (0..size).map(|value| (prefix_v6(&mut numbers), value)).collect();
        let asked: Vec<[u8; 16]> =
            (0..4096).map(|at| (u128::from(prefixes[at % prefixes.len()].0.0) | u128::from(numbers.draw())).to_be_bytes()).collect();
        let table = Table::build(prefixes.iter().map(|&((ip, length), value)| (IpAddr::from(ip), length, value)));
        let mut at = 0;
        group.bench_function(BenchmarkId::new("table", size), |bench| {
            bench.iter(|| {
                at = (at + 1) % asked.len();
                table.lookup_v6(black_box(asked[at]))
            });
        });
        let trie: PrefixMap<Ipv6Net, u32> =
            prefixes.iter().map(|&((ip, length), value)| (Ipv6Net::new(ip, length).expect("a length"), value)).collect();
        group.bench_function(BenchmarkId::new("trie", size), |bench| {
            bench.iter(|| {
                at = (at + 1) % asked.len();
                trie.get_lpm(&Ipv6Net::from(Ipv6Addr::from(black_box(asked[at])))).map(|(_, value)| *value)
            });
        });
    }
}

criterion_group!(benches, v4, v6);
criterion_main!(benches);
