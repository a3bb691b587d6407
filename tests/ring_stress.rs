//! Plain threads on the rings: nothing lost, nothing twice, each producer's handles in order.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::ring::{ChunkPool, PoolExhausted, Ring};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A small generator (xorshift64*), so that a failure replays from the seed it printed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

fn seed() -> u64 {
    let seed = std::env::var("RING_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish()
                | 1
        });
    println!("replay with RING_SEED={seed}");
    seed
}

const PRODUCER_BITS: u32 = 4;

/// A handle that says who made it and which of theirs it is.
fn handle(producer: usize, number: usize) -> u32 {
    (number << PRODUCER_BITS) as u32 | producer as u32
}

/// Checks what one consumer got: each producer's numbers rise. Counts them.
fn check_order(got: &[u32], producers: usize, seen: &mut [Vec<bool>]) {
    let mut last = vec![None; producers];
    for handle in got {
        let producer = (*handle & ((1 << PRODUCER_BITS) - 1)) as usize;
        let number = (*handle >> PRODUCER_BITS) as usize;
        assert!(
            last[producer] < Some(number),
            "producer {producer}: {number} after {:?}",
            last[producer]
        );
        last[producer] = Some(number);
        assert!(
            !seen[producer][number],
            "producer {producer}: {number} came twice"
        );
        seen[producer][number] = true;
    }
}

/// Producers spread their handles over the rings in batches of up to `batch_max`; consumers drain all rings.
fn hand_over(
    rings: usize,
    producers: usize,
    consumers: usize,
    batch_max: usize,
    each: usize,
    pool: &ChunkPool,
) {
    let seed = seed();
    let rings: Vec<Ring> = (0..rings).map(|_| Ring::new()).collect();
    let popped = AtomicUsize::new(0);
    let got: Vec<Vec<Vec<u32>>> = std::thread::scope(|scope| {
        for producer in 0..producers {
            let rings = &rings;
            scope.spawn(move || {
                let mut random = Random(seed.wrapping_add(producer as u64 * 7919) | 1);
                let mut number = 0;
                let mut batch = Vec::new();
                while number < each {
                    batch.clear();
                    let size = 1 + random.next(batch_max);
                    batch.extend((number..each.min(number + size)).map(|number| handle(producer, number)));
                    while rings[random.next(rings.len())].push(pool, &batch) == Err(PoolExhausted) {
                        std::thread::yield_now();
                    }
                    number += batch.len();
                }
            });
        }
        let consumers: Vec<_> = (0..consumers)
            .map(|consumer| {
                let (rings, popped) = (&rings, &popped);
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(consumer as u64 * 104_729 + 5) | 1);
                    let mut got = vec![Vec::new(); rings.len()];
                    let mut out = vec![0; batch_max];
                    while popped.load(Ordering::Relaxed) < producers * each {
                        let ring = random.next(rings.len());
                        let size = 1 + random.next(batch_max);
                        let count = if random.next(2) == 0 {
                            rings[ring].pop(pool, &mut out[..size])
                        } else {
                            rings[ring].pop_accepted(pool, &mut out[..size], |found| found.len().div_ceil(2))
                        };
                        got[ring].extend_from_slice(&out[..count]);
                        popped.fetch_add(count, Ordering::Relaxed);
                        if count == 0 {
                            if random.next(4) == 0 {
                                rings[ring].release_idle(pool);
                            }
                            std::thread::yield_now();
                        }
                    }
                    got
                })
            })
            .collect();
        consumers
            .into_iter()
            .map(|consumer| consumer.join().unwrap())
            .collect()
    });
    let mut seen = vec![vec![false; each]; producers];
    for ring in got.iter().flatten() {
        check_order(ring, producers, &mut seen);
    }
    assert!(seen.iter().flatten().all(|seen| *seen), "every handle came out");
    assert!(rings.iter().all(|ring| ring.is_empty(pool)));
    assert!(rings.iter().all(|ring| ring.release_idle(pool)));
    assert_eq!(pool.in_use(), 0, "every chunk came back");
}

#[test]
fn singles_between_two_and_two() {
    hand_over(1, 2, 2, 1, 1_000_000, &ChunkPool::new(50_000));
}

#[test]
fn singles_and_pairs_between_two_and_two() {
    hand_over(1, 2, 2, 2, 1_000_000, &ChunkPool::new(50_000));
}

#[test]
fn mixed_batches_between_two_and_two() {
    hand_over(1, 2, 2, 100, 4_000_000, &ChunkPool::new(100_000));
}

#[test]
fn mixed_batches_between_eight_and_eight() {
    hand_over(1, 8, 8, 70, 600_000, &ChunkPool::new(100_000));
}

#[test]
fn many_queues_over_one_pool() {
    hand_over(500, 3, 3, 20, 600_000, &ChunkPool::new(100_000));
}

#[test]
fn two_queues_over_a_pool_so_small_that_it_is_often_exhausted() {
    hand_over(2, 3, 3, 60, 300_000, &ChunkPool::new(12));
}

#[test]
fn chunks_are_recycled_at_once_between_queues() {
    hand_over(3, 4, 4, 3, 300_000, &ChunkPool::new(20));
}
