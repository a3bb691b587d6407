//! Handles through a ring, on one thread.

use ackring::ring::{ChunkPool, Ring};
use std::hint::black_box;

/// Pushes and pops a batch, again and again; some batches lie in the ring all the time.
pub fn hand_over(batch: usize, rounds: u64) {
    let pool = ChunkPool::new(1024);
    let ring = Ring::new();
    let handles: Vec<u32> = (0..batch as u32).collect();
    let mut out = vec![0; batch];
    for _ in 0..4 {
        ring.push(&pool, &handles).unwrap();
    }
    for _ in 0..rounds {
        ring.push(&pool, black_box(&handles)).unwrap();
        assert_eq!(ring.pop(&pool, black_box(&mut out)), batch);
    }
}
