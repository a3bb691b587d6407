//! Sequences of operations on one thread, against the obvious model.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::ring::{ChunkPool, PoolExhausted, Ring};
use proptest::prelude::*;
use std::collections::VecDeque;

#[derive(Debug, Clone)]
enum Op {
    Push { ring: usize, count: usize },
    Pop { ring: usize, count: usize },
    PopBelow { ring: usize, count: usize, limit: u32 },
    Peek { ring: usize, count: usize },
    ReleaseIdle { ring: usize },
}

const RINGS: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    let count = prop_oneof![4 => 0..4usize, 2 => 0..40usize, 1 => 0..600usize];
    let ring = 0..RINGS;
    prop_oneof![
        4 => (ring.clone(), count.clone()).prop_map(|(ring, count)| Op::Push { ring, count }),
        4 => (ring.clone(), count.clone()).prop_map(|(ring, count)| Op::Pop { ring, count }),
        2 => (ring.clone(), count.clone(), 0..3_000u32)
            .prop_map(|(ring, count, limit)| Op::PopBelow { ring, count, limit }),
        1 => (ring.clone(), count).prop_map(|(ring, count)| Op::Peek { ring, count }),
        1 => ring.prop_map(|ring| Op::ReleaseIdle { ring }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn rings_over_one_small_pool_behave_like_deques(ops in prop::collection::vec(op(), 1..200)) {
        let pool = ChunkPool::new(64);
        let rings: Vec<Ring> = (0..RINGS).map(|_| Ring::new()).collect();
        let mut models: Vec<VecDeque<u32>> = vec![VecDeque::new(); RINGS];
        let mut next = 0u32;
        for op in ops {
            match op {
                Op::Push { ring, count } => {
                    let batch: Vec<u32> = (next..next + count as u32).collect();
                    match rings[ring].push(&pool, &batch) {
                        Ok(()) => {
                            models[ring].extend(&batch);
                            next += count as u32;
                        }
                        Err(PoolExhausted) => prop_assert!(pool.in_use() + batch.len().div_ceil(28) > 64),
                    }
                }
                Op::Pop { ring, count } => {
                    let mut out = vec![0; count];
                    let popped = rings[ring].pop(&pool, &mut out);
                    let expected_count = count.min(models[ring].len());
                    let expected: Vec<u32> = models[ring].drain(..expected_count).collect();
                    prop_assert_eq!(&out[..popped], &expected[..]);
                }
                Op::PopBelow { ring, count, limit } => {
                    let mut out = vec![0; count];
                    let below = |found: &[u32]| found.iter().take_while(|handle| **handle < limit).count();
                    let popped = rings[ring].pop_accepted(&pool, &mut out, below);
                    let expected = models[ring].iter().take(count).take_while(|handle| **handle < limit).count();
                    let expected: Vec<u32> = models[ring].drain(..expected).collect();
                    prop_assert_eq!(&out[..popped], &expected[..]);
                }
                Op::Peek { ring, count } => {
                    let mut out = vec![0; count];
                    let peeked = rings[ring].peek(&pool, &mut out);
                    let expected: Vec<u32> = models[ring].iter().copied().take(count).collect();
                    prop_assert_eq!(&out[..peeked], &expected[..]);
                }
                Op::ReleaseIdle { ring } => {
                    prop_assert_eq!(rings[ring].release_idle(&pool), models[ring].is_empty());
                }
            }
            for (ring, model) in rings.iter().zip(&models) {
                prop_assert_eq!(ring.is_empty(&pool), model.is_empty());
            }
            prop_assert!(pool.in_use() <= 64);
        }
        for (ring, model) in rings.iter().zip(&models) {
            let mut out = vec![0; model.len() + 1];
            prop_assert_eq!(ring.pop(&pool, &mut out), model.len());
            prop_assert!(ring.release_idle(&pool));
        }
        prop_assert_eq!(pool.in_use(), 0);
    }
}

#[test]
fn a_ring_never_used_is_sixteen_bytes_and_no_chunk() {
    let pool = ChunkPool::new(10);
    let ring = Ring::new();
    assert_eq!(size_of::<Ring>(), 16);
    assert_eq!(ring.pop(&pool, &mut [0; 4]), 0);
    assert!(ring.is_empty(&pool));
    assert!(ring.release_idle(&pool));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn an_exhausted_pool_refuses_the_whole_batch_and_recovers() {
    let pool = ChunkPool::new(4);
    let ring = Ring::new();
    let batch: Vec<u32> = (0..4 * 28).collect();
    ring.push(&pool, &batch).unwrap();
    assert_eq!(pool.in_use(), 4);
    // The last chunk is full but for its link, so even a single does not fit.
    assert_eq!(ring.push(&pool, &[500]), Err(PoolExhausted));
    assert_eq!(ring.push(&pool, &[500, 501, 502]), Err(PoolExhausted));
    assert_eq!(pool.in_use(), 4);
    let mut out = vec![0; 200];
    assert_eq!(ring.pop(&pool, &mut out), batch.len());
    assert_eq!(out[..batch.len()], batch);
    assert_eq!(
        ring.push(&pool, &batch),
        Err(PoolExhausted),
        "three chunks cannot hold four chunks of handles"
    );
    assert_eq!(pool.in_use(), 1);
    ring.push(&pool, &batch[..3 * 28]).unwrap();
    assert_eq!(ring.pop(&pool, &mut out), 3 * 28);
}

#[test]
fn every_batch_size_and_every_pop_size_keep_the_order() {
    let pool = ChunkPool::new(4096);
    for push_size in 1..70usize {
        for pop_size in [1, 2, 3, 27, 28, 29, 64, 100] {
            let ring = Ring::new();
            let all: Vec<u32> = (0..300).collect();
            for batch in all.chunks(push_size) {
                ring.push(&pool, batch).unwrap();
            }
            let mut got = Vec::new();
            let mut out = vec![0; pop_size];
            loop {
                let count = ring.pop(&pool, &mut out);
                if count == 0 {
                    break;
                }
                assert!(
                    count == pop_size || got.len() + count == all.len(),
                    "a pop that could fill `out` did"
                );
                got.extend_from_slice(&out[..count]);
            }
            assert_eq!(got, all, "push {push_size}, pop {pop_size}");
            assert!(ring.release_idle(&pool));
        }
    }
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_chunk_that_comes_straight_back_out_of_a_cache_begins_a_new_generation() {
    // Three chunks are too few for the free queue to see any of them: they go round in the thread's cache.
    let pool = ChunkPool::new(3);
    let (idle, busy) = (Ring::new(), Ring::new());
    idle.push(&pool, &[1]).unwrap();
    assert_eq!(idle.pop(&pool, &mut [0]), 1);
    assert!(idle.release_idle(&pool));
    // The chunk that the idle ring's tail still names now is in another ring, with its first cells as before.
    busy.push(&pool, &[0; 3 * 28]).unwrap();
    assert_eq!(busy.pop(&pool, &mut [0; 84]), 84);
    busy.push(&pool, &[2]).unwrap();
    idle.push(&pool, &[3]).unwrap();
    let mut out = [0; 2];
    assert_eq!((idle.pop(&pool, &mut out), out[0]), (1, 3));
    assert_eq!((busy.pop(&pool, &mut out), out[0]), (1, 2));
}

#[test]
#[should_panic(expected = "reserved")]
fn the_reserved_handle_is_refused() {
    let pool = ChunkPool::new(4);
    let _ = Ring::new().push(&pool, &[1, u32::MAX]);
}

#[test]
fn a_large_pool_costs_address_space_only() {
    // Two GiB of address space.
    let pool = ChunkPool::new((1 << 24) - 1);
    let ring = Ring::new();
    ring.push(&pool, &[1, 2, 3]).unwrap();
    assert_eq!(pool.in_use(), 1);
}
