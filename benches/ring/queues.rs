//! The queues that hand handles over, each at its best way of doing it in batches.

use ackring::ring::{ChunkPool, Rings};
use concurrent_queue::ConcurrentQueue;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// Handles that the bounded queues hold.
const CAPACITY: usize = 32 * 1024;
/// Chunks of the ring: at batch 8 and 64 about as many handles.
const CHUNKS: usize = 2 * 1024;

/// What one producer does with a batch, until all of it is in.
type Push = Box<dyn FnMut(&[u32]) + Send>;
/// What one consumer does: takes up to as many handles as there is room for, and says how many.
type Pop = Box<dyn FnMut(&mut [u32]) -> usize + Send>;

/// The two ends of a queue for a producer and a consumer.
pub struct Ends {
    pub push: Push,
    pub pop: Pop,
}

/// A queue by its name, for that many producers and as many consumers; `None` when it is not made for so many.
pub struct Kind {
    pub name: &'static str,
    pub open: fn(usize) -> Option<Vec<Ends>>,
}

/// All of them: ackring's own first.
pub const KINDS: [Kind; 7] = [
    kind("ackring", ackring_ring),
    kind("crossbeam ArrayQueue", crossbeam_array),
    kind("crossbeam channel", crossbeam_channel),
    kind("concurrent-queue", concurrent_queue),
    kind("kanal", kanal_channel),
    kind("flume", flume_channel),
    kind("rtrb", rtrb_ring),
];

/// The places of crossbeam's two in [`KINDS`], against which the ring's goals are set.
pub const CROSSBEAM: [usize; 2] = [1, 2];

const fn kind(name: &'static str, open: fn(usize) -> Option<Vec<Ends>>) -> Kind {
    Kind { name, open }
}

/// Ends that push and pop one handle at a time.
fn singly<Q: Clone + Send + 'static>(
    queue: Q,
    threads: usize,
    push: fn(&Q, u32) -> bool,
    pop: fn(&Q) -> Option<u32>,
) -> Option<Vec<Ends>> {
    let ends = |_| {
        let (to, from) = (queue.clone(), queue.clone());
        Ends {
            push: Box::new(move |batch| {
                for handle in batch {
                    while !push(&to, *handle) {
                        std::thread::yield_now();
                    }
                }
            }),
            pop: Box::new(move |out| {
                out.iter_mut()
                    .map_while(|place| pop(&from).map(|handle| *place = handle))
                    .count()
            }),
        }
    };
    Some((0..threads).map(ends).collect())
}

fn ackring_ring(threads: usize) -> Option<Vec<Ends>> {
    let shared = Arc::new((ChunkPool::new(CHUNKS), Rings::<1>::new()));
    let ends = |_| {
        let (to, from) = (shared.clone(), shared.clone());
        Ends {
            push: Box::new(move |batch| {
                while to.1.at(0).push(&to.0, batch).is_err() {
                    std::thread::yield_now();
                }
            }),
            pop: Box::new(move |out| from.1.at(0).pop(&from.0, out)),
        }
    };
    Some((0..threads).map(ends).collect())
}

fn crossbeam_array(threads: usize) -> Option<Vec<Ends>> {
    let queue = Arc::new(ArrayQueue::new(CAPACITY));
    singly(queue, threads, |q, handle| q.push(handle).is_ok(), |q| q.pop())
}

fn crossbeam_channel(threads: usize) -> Option<Vec<Ends>> {
    let queue = crossbeam::channel::bounded(CAPACITY);
    singly(
        queue,
        threads,
        |q, handle| q.0.send(handle).is_ok(),
        |q| q.1.try_recv().ok(),
    )
}

fn concurrent_queue(threads: usize) -> Option<Vec<Ends>> {
    let queue = Arc::new(ConcurrentQueue::bounded(CAPACITY));
    singly(
        queue,
        threads,
        |q, handle| q.push(handle).is_ok(),
        |q| q.pop().ok(),
    )
}

fn kanal_channel(threads: usize) -> Option<Vec<Ends>> {
    let queue = kanal::bounded(CAPACITY);
    singly(
        queue,
        threads,
        |q, handle| q.0.send(handle).is_ok(),
        |q| q.1.try_recv().ok().flatten(),
    )
}

fn flume_channel(threads: usize) -> Option<Vec<Ends>> {
    let queue = flume::bounded(CAPACITY);
    singly(
        queue,
        threads,
        |q, handle| q.0.send(handle).is_ok(),
        |q| q.1.try_recv().ok(),
    )
}

/// For one producer and one consumer only. It has batches of its own.
fn rtrb_ring(threads: usize) -> Option<Vec<Ends>> {
    let (mut producer, mut consumer) = rtrb::RingBuffer::new(CAPACITY);
    let ends = Ends {
        push: Box::new(move |batch| {
            let mut rest = batch;
            while !rest.is_empty() {
                rest = producer.push_partial_slice(rest).1;
                if !rest.is_empty() {
                    std::thread::yield_now();
                }
            }
        }),
        pop: Box::new(move |out| consumer.pop_partial_slice(out).0.len()),
    };
    (threads == 1).then(|| vec![ends])
}
