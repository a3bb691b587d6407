//! The chained ring. Chunks have four cells here: three for handles, six handles in all, and one for the link.
//! (Three cells would be too few: what can go wrong in the usual short way of a push needs one more behind the
//! tail's.)

use crate::model;
use ackring::ring::{ChunkPool, PoolExhausted, Ring};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

/// A pool and some rings that a model's threads share.
struct Shared<const RINGS: usize> {
    pool: ChunkPool,
    rings: [Ring; RINGS],
}

impl<const RINGS: usize> Shared<RINGS> {
    fn new(chunks: usize) -> Arc<Self> {
        Arc::new(Self {
            pool: ChunkPool::new(chunks),
            rings: std::array::from_fn(|_| Ring::new()),
        })
    }

    fn push(&self, ring: usize, handles: &[u32]) {
        self.rings[ring].push(&self.pool, handles).unwrap();
    }

    fn pop(&self, ring: usize, most: usize) -> Vec<u32> {
        let mut out = vec![0; most];
        let count = self.rings[ring].pop(&self.pool, &mut out);
        out.truncate(count);
        out
    }

    /// Everything that is left, in order.
    fn drain(&self, ring: usize) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            match self.pop(ring, 3) {
                some if some.is_empty() => return all,
                some => all.extend(some),
            }
        }
    }

    /// All rings are empty and all chunks come back.
    fn check_nothing_is_left(&self) {
        self.check_only(0);
    }

    /// All rings are empty and all chunks come back but those that other rings hold.
    fn check_only(&self, chunks: usize) {
        for ring in &self.rings {
            assert!(ring.is_empty(&self.pool));
            assert!(ring.release_idle(&self.pool));
        }
        assert_eq!(self.pool.in_use(), chunks);
    }
}

fn spawn<const RINGS: usize, T: 'static>(
    shared: &Arc<Shared<RINGS>>,
    body: impl FnOnce(&Shared<RINGS>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

/// Each of `groups` appears in `all` completely and in order, and nothing else does.
#[track_caller]
fn check_orders(all: &[u32], groups: &[&[u32]]) {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    let mut expected = groups.concat();
    expected.sort_unstable();
    assert_eq!(
        sorted, expected,
        "nothing is lost and nothing comes twice: {all:?}"
    );
    for group in groups {
        let got: Vec<u32> = all
            .iter()
            .copied()
            .filter(|handle| group.contains(handle))
            .collect();
        assert_eq!(got, *group, "each producer's handles come in order: {all:?}");
    }
}

#[test]
fn two_producers_and_two_consumers_lose_and_repeat_nothing() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        let producer = spawn(&shared, |s| s.push(0, &[1, 2, 3]));
        let consumer = spawn(&shared, |s| s.pop(0, 2));
        let other = spawn(&shared, |s| s.pop(0, 4));
        shared.push(0, &[11]);
        producer.join().unwrap();
        let first = consumer.join().unwrap();
        let second = other.join().unwrap();
        let rest = shared.drain(0);
        let mut all = [first.clone(), second.clone(), rest.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 11]);
        // What one consumer got, and what was left, is in order.
        for part in [first, second, rest] {
            assert!(part.iter().filter(|handle| **handle < 10).is_sorted(), "{part:?}");
        }
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    model(3, || {
        let shared = Shared::<1>::new(4);
        let producer = spawn(&shared, |s| s.push(0, &[1, 2, 3, 4, 5, 6, 7, 8]));
        let other = spawn(&shared, |s| s.push(0, &[11, 12]));
        let seen = shared.pop(0, 16);
        producer.join().unwrap();
        other.join().unwrap();
        let all = [seen.clone(), shared.drain(0)].concat();
        for batch in [&[1, 2, 3, 4, 5, 6, 7, 8][..], &[11, 12]] {
            let count = seen.iter().filter(|handle| batch.contains(handle)).count();
            assert!(count == 0 || count == batch.len(), "{seen:?}");
        }
        check_orders(&all, &[&[1, 2, 3, 4, 5, 6, 7, 8], &[11, 12]]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn singles_of_two_producers_stay_in_order_across_chunks() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        let producer = spawn(&shared, |s| {
            [1, 2, 3].iter().for_each(|handle| s.push(0, &[*handle]))
        });
        let consumer = spawn(&shared, |s| [s.pop(0, 1), s.pop(0, 2)].concat());
        shared.push(0, &[11]);
        producer.join().unwrap();
        let all = [consumer.join().unwrap(), shared.drain(0)].concat();
        check_orders(&all, &[&[1, 2, 3], &[11]]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn consumers_that_race_over_a_link_free_its_chunk_once() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        shared.push(0, &[1]);
        shared.push(0, &[2, 3, 4]);
        shared.push(0, &[5, 6, 7]);
        let consumer = spawn(&shared, |s| s.pop(0, 3));
        let other = spawn(&shared, |s| s.pop(0, 3));
        let mine = shared.pop(0, 2);
        let mut all = [
            mine,
            consumer.join().unwrap(),
            other.join().unwrap(),
            shared.drain(0),
        ]
        .concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5, 6, 7]);
        shared.check_nothing_is_left();
        // A chunk that was freed twice would now be in two rings.
        let fresh = Ring::new();
        fresh
            .push(&shared.pool, &[21, 22, 23, 24, 25, 26, 27, 28])
            .unwrap();
        shared.push(0, &[31, 32, 33, 34, 35, 36, 37, 38]);
        let mut out = [0; 9];
        assert_eq!(fresh.pop(&shared.pool, &mut out), 8);
        assert_eq!(out[..8], [21, 22, 23, 24, 25, 26, 27, 28]);
        assert_eq!(shared.drain(0), [31, 32, 33, 34, 35, 36, 37, 38]);
    });
}

#[test]
fn single_pops_that_race_over_a_link_take_each_handle_and_free_its_chunk_once() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        shared.push(0, &[1]);
        shared.push(0, &[2, 3, 4]);
        let consumer = spawn(&shared, |s| [s.pop(0, 1), s.pop(0, 1)].concat());
        let producer = spawn(&shared, |s| s.push(0, &[11]));
        let mine = [shared.pop(0, 1), shared.pop(0, 1)].concat();
        let other = consumer.join().unwrap();
        producer.join().unwrap();
        for part in [&mine, &other] {
            assert!(part.is_sorted(), "{part:?}");
        }
        let mut all = [mine, other, shared.drain(0)].concat();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 11]);
        shared.check_nothing_is_left();
    });
}

/// Takes the chunk that ring 0 ends in away from it and into ring 1, where all its cells are full: whoever
/// still looks at it from ring 0 sees cells that look like those it expects, and one that was not overwritten
/// yet.
fn recycle_from_the_first_ring_into_the_second(shared: &Shared<2>) -> Vec<u32> {
    shared.push(0, &[2, 3, 4, 5, 6, 7, 8, 9]);
    // Frees the first chunk and the one behind it.
    let popped = shared.pop(0, 16);
    // Takes the dummy of the free queue, and then that first chunk.
    shared.push(1, &[21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
    popped
}

#[test]
fn a_stale_producer_never_fills_a_chunk_that_now_mimics_its_own() {
    model(3, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        let producer = spawn(&shared, |s| s.push(0, &[11]));
        let mut first = recycle_from_the_first_ring_into_the_second(&shared);
        producer.join().unwrap();
        first.extend(shared.drain(0));
        check_orders(&first, &[&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[11]]);
        assert_eq!(shared.drain(1), [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_stale_producer_of_a_batch_never_links_it_into_another_queue() {
    model(3, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        let producer = spawn(&shared, |s| s.push(0, &[11, 12, 13]));
        let mut first = recycle_from_the_first_ring_into_the_second(&shared);
        producer.join().unwrap();
        first.extend(shared.drain(0));
        check_orders(&first, &[&[1, 2, 3, 4, 5, 6, 7, 8, 9], &[11, 12, 13]]);
        assert_eq!(shared.drain(1), [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_stale_consumer_never_takes_what_belongs_to_another_queue() {
    model(3, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        let consumer = spawn(&shared, |s| s.pop(0, 4));
        let mut first = recycle_from_the_first_ring_into_the_second(&shared);
        first.extend(consumer.join().unwrap());
        first.extend(shared.drain(0));
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(shared.drain(1), [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_stale_pop_of_one_never_takes_what_belongs_to_another_queue() {
    model(3, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        let consumer = spawn(&shared, |s| [s.pop(0, 1), s.pop(0, 1)].concat());
        let mut first = recycle_from_the_first_ring_into_the_second(&shared);
        first.extend(consumer.join().unwrap());
        first.extend(shared.drain(0));
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(shared.drain(1), [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_stale_peek_never_shows_what_belongs_to_another_queue() {
    model(3, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        let looker = spawn(&shared, |s| {
            let mut out = [0; 4];
            let count = s.rings[0].peek(&s.pool, &mut out);
            out[..count].to_vec()
        });
        recycle_from_the_first_ring_into_the_second(&shared);
        let seen = looker.join().unwrap();
        let whole = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        assert!(seen.is_empty() || whole.starts_with(&seen), "{seen:?}");
    });
}

#[test]
fn nobody_reads_a_chunk_as_it_was_before_it_was_stamped() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        // Used chunks, full of handles of an earlier generation. The next batch gets two of them, the second
        // one with a single handle in it, and the tail points behind that.
        let earlier = Ring::new();
        let used: Vec<u32> = (80..98).collect();
        earlier.push(&shared.pool, &used).unwrap();
        assert_eq!(earlier.pop(&shared.pool, &mut [0; 18]), 18);
        assert!(earlier.release_idle(&shared.pool));
        // This takes the first dummy, which was never used, out of the way.
        earlier.push(&shared.pool, &[99]).unwrap();
        let producer = spawn(&shared, |s| s.push(0, &[11]));
        let consumer = spawn(&shared, |s| s.pop(0, 8));
        shared.push(0, &[1, 2, 3, 4, 5, 6, 7]);
        producer.join().unwrap();
        let all = [consumer.join().unwrap(), shared.drain(0)].concat();
        check_orders(&all, &[&[1, 2, 3, 4, 5, 6, 7], &[11]]);
        shared.check_only(1);
    });
}

#[test]
fn who_pops_a_handle_sees_what_was_done_before_it_was_pushed() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        let slots = Arc::new([0; 5].map(AtomicUsize::new));
        let producer = |handles: &'static [u32]| {
            let slots = slots.clone();
            spawn(&shared, move |s| {
                for handle in handles {
                    slots[*handle as usize].store(7, Ordering::Relaxed);
                }
                s.push(0, handles);
            })
        };
        // The second one comes upon a ring that has a chunk, or not.
        let producers = [producer(&[0]), producer(&[1, 2, 3])];
        for handle in [shared.pop(0, 2), shared.pop(0, 2)].concat() {
            assert_eq!(slots[handle as usize].load(Ordering::Relaxed), 7);
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn two_queues_recycle_chunks_into_each_other() {
    model(2, || {
        let shared = Shared::<2>::new(8);
        shared.push(0, &[1]);
        shared.push(1, &[21]);
        let turn = |s: &Shared<2>, ring: usize, base: u32| {
            let mut got = Vec::new();
            for step in 1..=2 {
                s.push(ring, &[base + step * 3, base + step * 3 + 1, base + step * 3 + 2]);
                got.extend(s.pop(ring, 4));
            }
            got
        };
        let first = spawn(&shared, move |s| turn(s, 0, 0));
        let second = spawn(&shared, move |s| turn(s, 1, 20));
        shared.push(0, &[11]);
        let (mut first, mut second) = (first.join().unwrap(), second.join().unwrap());
        first.extend(shared.drain(0));
        second.extend(shared.drain(1));
        check_orders(&first, &[&[1, 3, 4, 5, 6, 7, 8], &[11]]);
        check_orders(&second, &[&[21, 23, 24, 25, 26, 27, 28]]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn closing_an_idle_ring_loses_nothing_to_a_push_at_the_same_time() {
    model(3, || {
        let shared = Shared::<1>::new(8);
        shared.push(0, &[1]);
        assert_eq!(shared.pop(0, 1), [1]);
        let closer = spawn(&shared, |s| s.rings[0].release_idle(&s.pool));
        let producer = spawn(&shared, |s| s.push(0, &[2]));
        let popped = shared.pop(0, 2);
        shared.push(0, &[11, 12, 13]);
        producer.join().unwrap();
        closer.join().unwrap();
        let all = [popped, shared.drain(0)].concat();
        check_orders(&all, &[&[2], &[11, 12, 13]]);
        shared.check_nothing_is_left();
    });
}

#[test]
fn a_pool_that_runs_out_refuses_whole_batches_and_leaks_nothing() {
    model(3, || {
        let shared = Shared::<2>::new(2);
        let try_push =
            |s: &Shared<2>, ring: usize, handles: &[u32]| match s.rings[ring].push(&s.pool, handles) {
                Ok(()) => handles.to_vec(),
                Err(PoolExhausted) => Vec::new(),
            };
        let other = spawn(&shared, move |s| try_push(s, 0, &[1, 2, 3, 4, 5, 6, 7, 8]));
        let second = try_push(&shared, 1, &[21, 22, 23, 24, 25, 26, 27, 28]);
        let first = other.join().unwrap();
        assert_eq!(shared.drain(0), first);
        assert_eq!(shared.drain(1), second);
        shared.check_nothing_is_left();
    });
}
