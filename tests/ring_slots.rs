//! The free list of slots: no number is handed out twice, none is lost, and none is kept from who needs it.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

use ackring::ring::SlotPool;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Who holds which number, kept beside the pool to catch one that is handed out twice.
struct Ledger(Vec<AtomicBool>);

impl Ledger {
    fn new(slots: u32) -> Self {
        Self((0..slots).map(|_| AtomicBool::new(false)).collect())
    }

    fn taken(&self, numbers: &[u32]) {
        for number in numbers {
            let was_out = self.0[*number as usize].swap(true, Ordering::Relaxed);
            assert!(!was_out, "{number} was handed out twice");
        }
    }

    fn given(&self, numbers: &[u32]) {
        for number in numbers {
            let was_out = self.0[*number as usize].swap(false, Ordering::Relaxed);
            assert!(was_out, "{number} was not out");
        }
    }
}

/// Takes everything that is left.
fn drain(pool: &SlotPool) -> Vec<u32> {
    let mut all = Vec::new();
    let mut out = [0; 100];
    loop {
        match pool.take(&mut out) {
            0 => return all,
            count => all.extend_from_slice(&out[..count]),
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Take(usize),
    Give { count: usize, from_front: bool },
}

proptest! {
    #[test]
    fn on_one_thread_it_is_a_set_of_free_numbers(
        slots in 1..1000u32,
        ops in prop::collection::vec(
            prop_oneof![
                (0..300usize).prop_map(Op::Take),
                (0..300usize, any::<bool>()).prop_map(|(count, from_front)| Op::Give { count, from_front }),
            ],
            1..100,
        ),
    ) {
        let pool = SlotPool::new(slots);
        let mut free: BTreeSet<u32> = (0..slots).collect();
        let mut held = Vec::new();
        for op in ops {
            match op {
                Op::Take(most) => {
                    let mut out = vec![0; most];
                    let count = pool.take(&mut out);
                    prop_assert_eq!(count, most.min(free.len()), "a take gets all it wants while there is any");
                    for number in &out[..count] {
                        prop_assert!(free.remove(number));
                        prop_assert!(*number < pool.fresh_from());
                    }
                    held.extend_from_slice(&out[..count]);
                }
                Op::Give { count, from_front } => {
                    let count = count.min(held.len());
                    let back: Vec<u32> = match from_front {
                        true => held.drain(..count).collect(),
                        false => held.split_off(held.len() - count),
                    };
                    pool.give(&back);
                    free.extend(back);
                }
            }
        }
        let rest: BTreeSet<u32> = drain(&pool).into_iter().collect();
        prop_assert_eq!(rest, free);
    }

    #[test]
    fn a_restored_pool_hands_out_exactly_what_is_free(
        slots in 1..2000u32,
        used in prop::collection::btree_set(0..2000u32, 0..500),
        fresh in 0..2000u32,
    ) {
        let fresh = fresh.min(slots);
        let pool = SlotPool::restore(slots, |number| used.contains(&number), fresh);
        prop_assert_eq!(pool.fresh_from(), fresh);
        let mut all = drain(&pool);
        all.sort_unstable();
        let expected: Vec<u32> = (0..slots).filter(|number| *number >= fresh || !used.contains(number)).collect();
        prop_assert_eq!(all, expected);
    }
}

#[test]
fn never_used_slots_come_in_order_and_only_when_no_warm_one_is_left() {
    let pool = SlotPool::new(10_000);
    let mut out = [0; 500];
    for round in 0..1_000 {
        let size = 1 + round % out.len();
        assert_eq!(pool.take(&mut out[..size]), size);
        if round == 0 {
            assert_eq!(out[0], 0);
        }
        pool.give(&out[..size]);
    }
    assert!(pool.fresh_from() < 500 + 2 * 128, "{}", pool.fresh_from());
    let pool = SlotPool::new(1_000);
    assert_eq!(drain(&pool), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_restored_pool_hands_out_low_numbers_first() {
    let pool = SlotPool::restore(1_000, |number| number % 2 == 0, 600);
    let order = drain(&pool);
    assert_eq!(
        order[..300],
        (0..600).filter(|number| number % 2 == 1).collect::<Vec<_>>()
    );
    assert_eq!(order[300..], (600..1_000).collect::<Vec<_>>());
}

#[test]
fn a_large_pool_costs_address_space_only() {
    let pool = SlotPool::new(1 << 28);
    assert_eq!(pool.take(&mut [0; 8]), 8);
    assert_eq!(pool.fresh_from(), 64);
}

#[test]
fn slots_that_ended_threads_left_in_their_shards_are_found() {
    let pool = SlotPool::new(4_000);
    for _ in 0..40 {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut out = [0; 90];
                let count = pool.take(&mut out);
                pool.give(&out[..count]);
            });
        });
    }
    assert_eq!(drain(&pool).len(), 4_000);
}

#[test]
fn slots_taken_on_some_threads_and_freed_on_others_are_neither_doubled_nor_lost() {
    const SLOTS: u32 = 5_000;
    for (takers, givers, batch) in [(1, 1, 64), (2, 2, 8), (1, 3, 1), (8, 8, 100)] {
        let pool = SlotPool::new(SLOTS);
        let ledger = Ledger::new(SLOTS);
        let (send, receive) = sync_channel::<Vec<u32>>(20);
        let receive = std::sync::Mutex::new(receive);
        std::thread::scope(|scope| {
            for taker in 0..takers {
                let (pool, ledger, send) = (&pool, &ledger, send.clone());
                scope.spawn(move || {
                    for round in 0..40_000 / takers {
                        let mut out = vec![0; 1 + (round * 31 + taker) % batch];
                        let count = pool.take(&mut out);
                        out.truncate(count);
                        ledger.taken(&out);
                        send.send(out).unwrap();
                    }
                });
            }
            drop(send);
            for _ in 0..givers {
                scope.spawn(|| {
                    loop {
                        let numbers = receive.lock().unwrap().recv();
                        let Ok(numbers) = numbers else {
                            return;
                        };
                        ledger.given(&numbers);
                        pool.give(&numbers);
                    }
                });
            }
        });
        let mut all = drain(&pool);
        all.sort_unstable();
        assert_eq!(all, (0..SLOTS).collect::<Vec<_>>());
    }
}

#[test]
fn slots_that_lie_in_one_shard_are_found_by_all_threads() {
    // So few slots that the first thread takes them all into its shard, and so many that a free one is always
    // somewhere, unless a thread was stopped with a shard in its hands.
    const THREADS: usize = 8;
    const SLOTS: u32 = 2 * THREADS as u32 + 2;
    let pool = SlotPool::new(SLOTS);
    let ledger = Ledger::new(SLOTS);
    let misses = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut out = [0];
                for _ in 0..20_000 {
                    if pool.take(&mut out) == 1 {
                        ledger.taken(&out);
                        ledger.given(&out);
                        pool.give(&out);
                    } else {
                        misses.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    println!(
        "{} of {} takes met a stopped thread",
        misses.into_inner(),
        THREADS * 20_000
    );
    let mut all = drain(&pool);
    all.sort_unstable();
    assert_eq!(all, (0..SLOTS).collect::<Vec<_>>());
}
