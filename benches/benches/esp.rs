//! Seal and open of one packet, and beside them the bare cipher call that they cannot be faster than.

use std::hint::black_box;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use penstock_benches::{INNER_BYTES, SUITES, key};
use penstock_engine::esp::packet::{NEXT_HEADER_IPV4, frame_bytes};
use penstock_engine::esp::{Opener, Sealer};
use penstock_uapi::request::{Limits, suite};

/// Packets of one batch of `open`, each opened once.
const FRAMES: usize = 256;

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    for (suite, name) in SUITES {
        for bytes in INNER_BYTES {
            let inner = vec![0x45; bytes];
            let mut out = vec![0; frame_bytes(bytes)];
            let mut sealer = Sealer::new(1 << 20, &key(suite), &Limits::default()).expect("a known suite");
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                bench.iter(|| sealer.seal(black_box(&inner), NEXT_HEADER_IPV4, &mut out).expect("the key is fresh"));
            });
        }
    }
}

fn bare(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bare-seal");
    for (suite, name) in SUITES {
        let algorithm = if suite == suite::AES_128_GCM_16 { &AES_128_GCM } else { &AES_256_GCM };
        let cipher = LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32][..algorithm.key_len()]).expect("a key's length"));
        for bytes in INNER_BYTES {
            let inner = vec![0x45; bytes];
            let (mut out, mut rest) = (vec![0; bytes], [0; 20]);
            let mut number = 0_u64;
            group.throughput(Throughput::Bytes(bytes as u64));
            group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                bench.iter(|| {
                    number += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&number.to_be_bytes());
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    cipher
                        .seal_out_of_place_scatter(nonce, Aad::from([0; 12]), black_box(&inner), &mut out, &[1, 2, 2, 4], &mut rest)
                        .expect("lengths are right");
                });
            });
        }
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    for (suite, name) in SUITES {
        for bytes in INNER_BYTES {
            let mut sealer = Sealer::new(1 << 20, &key(suite), &Limits::default()).expect("a known suite");
            let frames: Vec<Vec<u8>> = (0..FRAMES)
                .map(|_| {
                    let mut out = vec![0; frame_bytes(bytes)];
                    sealer.seal(&vec![0x45; bytes], NEXT_HEADER_IPV4, &mut out).expect("the key is fresh");
                    out
                })
                .collect();
            let mut out = vec![0; frame_bytes(bytes)];
            group.throughput(Throughput::Bytes((bytes * FRAMES) as u64));
            // A packet opens once only, so a batch is opened by a new opener each time.
            group.bench_function(BenchmarkId::new(name, bytes), |bench| {
                bench.iter_batched_ref(
                    || Opener::new(&key(suite), 16_384, &Limits::default()).expect("a known suite"),
                    |opener| {
                        for frame in &frames {
                            let packet = opener.open(black_box(frame), &mut out).expect("a fresh frame");
                            black_box(packet.decapsulate().expect("our own padding"));
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

criterion_group!(benches, seal, bare, open);
criterion_main!(benches);
