//! Hand-over of handles between threads: the chained ring beside crossbeam's ArrayQueue and channel, concurrent-queue,
//! kanal, flume and, for one producer and one consumer, rtrb.
//!
//! ```sh
//! cargo bench --no-default-features --features engine --bench ring             # every cell, by criterion
//! cargo bench --no-default-features --features engine --bench ring -- --table  # all in turns: medians and ratios
//! ```
//!
//! Figures are handles a second. They drift from minute to minute, so compare ratios of one run: that is what the table
//! is for. `--rounds N` is how many rounds it takes.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, and one that cannot go on should panic where it stands"
)]

mod queues;
mod table;

use ackring::ring::{ChunkPool, Ring, SlotPool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use queues::{Ends, KINDS};
use std::sync::Arc;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Handles of one measured run.
const RUN: usize = 400_000;
/// Handles that are pushed and popped at once.
const BATCHES: [usize; 4] = [1, 8, 64, 256];
/// Producers, and as many consumers.
const THREADS: [usize; 3] = [1, 2, 4];

/// Time for `RUN` handles, a producer and a consumer for each of the ends: from the first who began to the last who
/// ended.
fn hand_over(ends: &mut [Ends], batch: usize) -> Duration {
    let threads = ends.len();
    let start = Barrier::new(2 * threads);
    let batches = RUN / threads / batch;
    let total = batches * batch * threads;
    let received = AtomicUsize::new(0);
    let (start, received) = (&start, &received);
    std::thread::scope(|scope| {
        let members: Vec<_> = ends
            .iter_mut()
            .flat_map(|Ends { push, pop }| {
                let producer = scope.spawn(move || {
                    let handles: Vec<u32> = (0..batch as u32).collect();
                    start.wait();
                    let began = Instant::now();
                    (0..batches).for_each(|_| push(&handles));
                    (began, Instant::now())
                });
                let consumer = scope.spawn(move || {
                    let mut out = vec![0; batch];
                    let mut own = 0;
                    start.wait();
                    let began = Instant::now();
                    // The common counter is touched only when there is nothing else to do.
                    loop {
                        match pop(&mut out) {
                            0 => {
                                let before = received.fetch_add(own, Ordering::Relaxed);
                                if before + std::mem::take(&mut own) >= total {
                                    return (began, Instant::now());
                                }
                                std::thread::yield_now();
                            }
                            count => own += count,
                        }
                    }
                });
                [producer, consumer]
            })
            .collect();
        let times: Vec<_> = members.into_iter().map(|member| member.join().unwrap()).collect();
        let began = times.iter().map(|(began, _)| *began).min().unwrap();
        times.iter().map(|(_, ended)| *ended).max().unwrap() - began
    })
}

fn queues(c: &mut Criterion) {
    for threads in THREADS {
        let mut group = c.benchmark_group(format!("hand_over_{threads}+{threads}"));
        group.throughput(Throughput::Elements(RUN as u64)).sample_size(10);
        group
            .warm_up_time(Duration::from_millis(200))
            .measurement_time(Duration::from_millis(1000));
        for batch in BATCHES {
            for kind in &KINDS {
                let Some(mut ends) = (kind.open)(threads) else {
                    continue;
                };
                group.bench_function(BenchmarkId::new(kind.name, batch), |b| {
                    b.iter_custom(|rounds| (0..rounds).map(|_| hand_over(&mut ends, batch)).sum());
                });
            }
        }
    }
}

fn one_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("one_thread");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000));
    let pool = ChunkPool::new(1 << 20);
    let rings: Vec<Ring> = (0..100_000).map(|_| Ring::new()).collect();
    let slots = SlotPool::new(1 << 20);
    for batch in [1, 8, 64, 256] {
        group.throughput(Throughput::Elements(batch));
        let handles: Vec<u32> = (0..batch as u32).collect();
        let mut out = vec![0; batch as usize];
        group.bench_function(BenchmarkId::new("push_pop", batch), |b| {
            b.iter(|| (rings[0].push(&pool, &handles), rings[0].pop(&pool, &mut out)));
        });
        let mut at = 1usize;
        group.bench_function(BenchmarkId::new("push_pop_of_100000_rings", batch), |b| {
            b.iter(|| {
                at = at
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let ring = &rings[(at >> 33) % rings.len()];
                (ring.push(&pool, &handles), ring.pop(&pool, &mut out))
            });
        });
        group.bench_function(BenchmarkId::new("take_give_slots", batch), |b| {
            b.iter(|| {
                let count = slots.take(&mut out);
                slots.give(&out[..count]);
            });
        });
    }
}

/// Slots taken on one thread and given back on another, over a ring.
fn slots_across(c: &mut Criterion) {
    let mut group = c.benchmark_group("slots_across_threads");
    group.throughput(Throughput::Elements(RUN as u64)).sample_size(10);
    group
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000));
    for batch in BATCHES {
        let shared = Arc::new((ChunkPool::new(2 * 1024), Ring::new(), SlotPool::new(64 * 1024)));
        let (to, from) = (shared.clone(), shared);
        let push = move |batch: &[u32]| {
            let (pool, ring, slots) = &*to;
            let mut taken = [0; 256];
            let mut left = batch.len();
            while left > 0 {
                let count = slots.take(&mut taken[..left]);
                while ring.push(pool, &taken[..count]).is_err() {
                    std::thread::yield_now();
                }
                left -= count;
            }
        };
        let pop = move |out: &mut [u32]| {
            let (pool, ring, slots) = &*from;
            let count = ring.pop(pool, out);
            slots.give(&out[..count]);
            count
        };
        let mut ends = [Ends {
            push: Box::new(push),
            pop: Box::new(pop),
        }];
        group.bench_function(BenchmarkId::new("slots_over_ring", batch), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| hand_over(&mut ends, batch)).sum());
        });
    }
}

criterion_group!(benches, one_thread, queues, slots_across);

fn main() {
    let words: Vec<String> = std::env::args().collect();
    if words.iter().any(|word| word == "--table") {
        let at = words.iter().position(|word| word == "--rounds");
        let rounds = at.map_or(9, |at| words[at + 1].parse().unwrap());
        return table::print(rounds);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
