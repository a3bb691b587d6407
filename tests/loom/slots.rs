//! The free list of slots. Magazines hold two numbers here, and there is one shard for all threads.

use crate::model;
use ackring::ring::{LinkedStack, SlotPool};
use loom::sync::Arc;
use loom::thread;

#[test]
fn a_stack_hands_no_number_out_twice_when_its_top_comes_back() {
    model(4, || {
        let stack = Arc::new(LinkedStack::new(4));
        stack.push(&[0, 1, 2]);
        let other = {
            let stack = stack.clone();
            thread::spawn(move || stack.pop())
        };
        // Between the two steps of the other pop: the top goes, the one below it goes, the top returns.
        let mut held = vec![stack.pop().unwrap()];
        held.extend(stack.pop());
        stack.push(&[held.remove(0)]);
        held.extend(other.join().unwrap());
        while let Some(number) = stack.pop() {
            held.push(number);
        }
        held.sort_unstable();
        assert_eq!(held, [0, 1, 2]);
    });
}

#[test]
fn a_stack_hands_over_what_was_done_with_a_number() {
    use loom::sync::atomic::{AtomicU64, Ordering};
    model(4, || {
        let stack = Arc::new((LinkedStack::new(3), [0, 1, 2].map(|_| AtomicU64::new(0))));
        let givers = [0u32, 1].map(|number| {
            let stack = stack.clone();
            thread::spawn(move || {
                stack.1[number as usize].store(7, Ordering::Relaxed);
                stack.0.push(&[number]);
            })
        });
        for number in [stack.0.pop(), stack.0.pop()].into_iter().flatten() {
            assert_eq!(stack.1[number as usize].load(Ordering::Relaxed), 7);
        }
        for giver in givers {
            giver.join().unwrap();
        }
    });
}

/// Runs two threads and the main one on a pool of `slots`; each returns what it still holds.
fn conserve(preemptions: usize, slots: u32, bodies: [fn(&SlotPool) -> Vec<u32>; 3]) {
    model(preemptions, move || {
        let pool = Arc::new(SlotPool::new(slots));
        let [mine, others @ ..] = bodies;
        let others = others.map(|body| {
            let pool = pool.clone();
            thread::spawn(move || body(&pool))
        });
        let mut all = mine(&pool);
        for other in others {
            all.extend(other.join().unwrap());
        }
        let mut rest = vec![0; slots as usize + 1];
        let count = pool.take(&mut rest);
        all.extend(&rest[..count]);
        all.sort_unstable();
        assert_eq!(
            all,
            (0..slots).collect::<Vec<_>>(),
            "no number is lost and none is out twice"
        );
    });
}

fn take(pool: &SlotPool, most: usize) -> Vec<u32> {
    let mut out = vec![0; most];
    let count = pool.take(&mut out);
    out.truncate(count);
    out
}

#[test]
fn slots_are_conserved_when_threads_meet_at_a_shard() {
    conserve(
        2,
        4,
        [
            |pool| {
                let mine = take(pool, 2);
                pool.give(&mine);
                take(pool, 1)
            },
            |pool| take(pool, 1),
            |pool| {
                let mine = take(pool, 1);
                pool.give(&mine);
                Vec::new()
            },
        ],
    );
}

#[test]
fn slots_are_conserved_when_a_shard_overflows_into_magazines() {
    conserve(
        2,
        6,
        [
            |pool| {
                let mine = take(pool, 6);
                pool.give(&mine);
                Vec::new()
            },
            |pool| take(pool, 3),
            |_| Vec::new(),
        ],
    );
}

#[test]
fn a_taker_finds_a_slot_whatever_way_another_thread_moves_the_free_ones_about() {
    model(3, || {
        // Four of five are free, in the shard. The fifth one makes the shard overflow: two go into a
        // magazine, where the taker may have looked already. Then the shard is emptied before the taker comes
        // there.
        let pool = Arc::new(SlotPool::new(5));
        let mut mine = take(&pool, 5);
        pool.give(&mine.split_off(1));
        let other = {
            let pool = pool.clone();
            thread::spawn(move || {
                pool.give(&mine);
                take(&pool, 3)
            })
        };
        let found = take(&pool, 1);
        assert_eq!(found.len(), 1, "two were free all the time");
        let mut all = [found, other.join().unwrap(), take(&pool, 5)].concat();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    });
}
