//! Hand-over of handles between threads: the chained ring beside crossbeam's bounded queue and channel.
//!
//! `cargo bench --no-default-features --features engine --bench ring`. Figures are handles a second; compare
//! ratios of one run, since they drift from minute to minute.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[cfg(feature = "engine")]
mod engine {
    use ackring::ring::{ChunkPool, Ring, SlotPool};
    use criterion::{BenchmarkId, Criterion, Throughput};
    use crossbeam::channel;
    use crossbeam::queue::ArrayQueue;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    /// Handles that the bounded queues hold.
    const CAPACITY: usize = 32 * 1024;
    /// Chunks of the ring: at batch 8 and 64 about as many handles.
    const CHUNKS: usize = 2 * 1024;
    /// Handles of one measured run.
    const RUN: usize = 400_000;

    trait Queue: Sync {
        fn push(&self, batch: &[u32]);
        fn pop(&self, out: &mut [u32]) -> usize;
    }

    struct Chained {
        pool: ChunkPool,
        ring: Ring,
    }

    impl Queue for Chained {
        fn push(&self, batch: &[u32]) {
            while self.ring.push(&self.pool, batch).is_err() {
                std::thread::yield_now();
            }
        }

        fn pop(&self, out: &mut [u32]) -> usize {
            self.ring.pop(&self.pool, out)
        }
    }

    impl Queue for ArrayQueue<u32> {
        fn push(&self, batch: &[u32]) {
            for handle in batch {
                while ArrayQueue::push(self, *handle).is_err() {
                    std::thread::yield_now();
                }
            }
        }

        fn pop(&self, out: &mut [u32]) -> usize {
            out.iter_mut()
                .map_while(|place| ArrayQueue::pop(self).map(|handle| *place = handle))
                .count()
        }
    }

    struct Channel(channel::Sender<u32>, channel::Receiver<u32>);

    impl Queue for Channel {
        fn push(&self, batch: &[u32]) {
            for handle in batch {
                let _ = self.0.send(*handle);
            }
        }

        fn pop(&self, out: &mut [u32]) -> usize {
            out.iter_mut()
                .map_while(|place| self.1.try_recv().ok().map(|handle| *place = handle))
                .count()
        }
    }

    /// Time for `RUN` handles from `threads` producers to as many consumers.
    fn hand_over(queue: &dyn Queue, threads: usize, batch: usize) -> Duration {
        let start = Barrier::new(2 * threads + 1);
        let batches = RUN / threads / batch;
        let total = batches * batch * threads;
        let received = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let handles: Vec<u32> = (0..batch as u32).collect();
                    start.wait();
                    for _ in 0..batches {
                        queue.push(&handles);
                    }
                });
                scope.spawn(|| {
                    let mut out = vec![0; batch];
                    let mut own = 0;
                    start.wait();
                    // The common counter is touched only when there is nothing else to do.
                    loop {
                        match queue.pop(&mut out) {
                            0 => {
                                let before = received.fetch_add(own, Ordering::Relaxed);
                                if before + std::mem::take(&mut own) >= total {
                                    return;
                                }
                                std::thread::yield_now();
                            }
                            count => own += count,
                        }
                    }
                });
            }
            start.wait();
            Instant::now()
        })
        .elapsed()
    }

    pub(super) fn queues(c: &mut Criterion) {
        for threads in [1, 2] {
            let mut group = c.benchmark_group(format!("hand_over_{threads}+{threads}"));
            group.throughput(Throughput::Elements(RUN as u64)).sample_size(15);
            group
                .warm_up_time(Duration::from_millis(300))
                .measurement_time(Duration::from_millis(1500));
            let (sender, receiver) = channel::bounded(CAPACITY);
            let queues: [(&str, Box<dyn Queue>); 3] = [
                (
                    "chained",
                    Box::new(Chained {
                        pool: ChunkPool::new(CHUNKS),
                        ring: Ring::new(),
                    }),
                ),
                ("crossbeam_array", Box::new(ArrayQueue::new(CAPACITY))),
                ("crossbeam_channel", Box::new(Channel(sender, receiver))),
            ];
            for batch in [1, 8, 64, 256] {
                for (name, queue) in &queues {
                    group.bench_function(BenchmarkId::new(*name, batch), |b| {
                        b.iter_custom(|rounds| {
                            (0..rounds)
                                .map(|_| hand_over(queue.as_ref(), threads, batch))
                                .sum()
                        });
                    });
                }
            }
        }
    }

    pub(super) fn one_thread(c: &mut Criterion) {
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
    pub(super) fn slots_across(c: &mut Criterion) {
        let mut group = c.benchmark_group("slots_across_threads");
        group.throughput(Throughput::Elements(RUN as u64)).sample_size(15);
        group
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(1500));
        struct Slots(Chained, SlotPool);
        impl Queue for Slots {
            fn push(&self, batch: &[u32]) {
                let mut taken = [0; 256];
                let mut left = batch.len();
                while left > 0 {
                    match self.1.take(&mut taken[..left]) {
                        0 => std::thread::yield_now(),
                        count => {
                            self.0.push(&taken[..count]);
                            left -= count;
                        }
                    }
                }
            }

            fn pop(&self, out: &mut [u32]) -> usize {
                let count = self.0.pop(out);
                self.1.give(&out[..count]);
                count
            }
        }
        let ring = Chained {
            pool: ChunkPool::new(CHUNKS),
            ring: Ring::new(),
        };
        let slots = Slots(ring, SlotPool::new(64 * 1024));
        for batch in [1, 8, 64, 256] {
            group.bench_function(BenchmarkId::new("slots_over_ring", batch), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| hand_over(&slots, 1, batch)).sum());
            });
        }
    }
}

#[cfg(feature = "engine")]
criterion::criterion_group!(benches, engine::one_thread, engine::queues, engine::slots_across);
#[cfg(feature = "engine")]
criterion::criterion_main!(benches);
#[cfg(not(feature = "engine"))]
fn main() {}
