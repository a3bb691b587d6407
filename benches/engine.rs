//! The whole life of a job in a program that links the engine: enqueue, reserve, ack. One thread that does all
//! three, and a producer and a worker on two; batches of 1 and 64, and of 500 for payloads of 64 B; payloads of 16 B
//! to 16 KiB; in memory, in the mapped log (`written`), and with every enqueue and ack waited for until it is on the
//! disk (`synced`). The engine's two agents run on a thread of their own, as in a server.
//!
//! `cargo bench --no-default-features --features engine --bench engine`. Figures are jobs a second.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, and one that cannot go on should panic where it stands"
)]

use ackring::engine::{Engine, EngineConfig, EnqueueReply, QueueId, RequestId};
use ackring::{Durability, EnqueueBatch, JobOptions, QueueOptions};
use common::{Worker, batch_of, wait_for};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod common;

/// The wall clock, in milliseconds since 1970 UTC.
fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

struct Bench {
    engine: Engine,
    queue: QueueId,
    batch: usize,
    jobs: Vec<u8>,
    _directory: tempfile::TempDir,
}

impl Bench {
    fn new(level: Durability, batch: usize, payload: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            directory: (level != Durability::Memory).then(|| directory.path().to_owned()),
            slots: 1 << 20,
            segment_bytes: 16 << 20,
            log_bytes_max: 1 << 30,
            memory_bytes_max: 1 << 30,
            ..EngineConfig::default()
        };
        let (engine, _) = Engine::open(config, now_ms()).unwrap();
        let options = QueueOptions {
            durability: level,
            ..QueueOptions::default()
        };
        let (queue, _) = engine
            .create_queue("bench", &options, RequestId::NONE, now_ms())
            .unwrap();
        let jobs = batch_of(batch, payload, |_| JobOptions::default());
        Self {
            engine,
            queue,
            batch,
            jobs,
            _directory: directory,
        }
    }

    fn enqueue(&self, reply: &mut EnqueueReply, now_ms: u64) {
        let batch = EnqueueBatch::parse(self.batch, &self.jobs).unwrap();
        // Refused: what a server would tell its producers.
        let confirmed = loop {
            let result = self
                .engine
                .enqueue(self.queue, &batch, None, RequestId::NONE, now_ms, reply);
            match result {
                Ok(confirmed) => break confirmed,
                Err(_) => std::thread::yield_now(),
            }
        };
        wait_for(&self.engine, confirmed);
    }

    /// Runs `work` while another thread runs the agents.
    fn with_agents<T>(&self, work: impl FnOnce() -> T) -> T {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let agents = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    self.engine.timer_step(now_ms(), 10_000);
                    if self.engine.log_step(now_ms(), 16) == 0 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
            let result = work();
            stop.store(true, Ordering::Relaxed);
            agents.join().unwrap();
            result
        })
    }

    /// Time for `rounds` batches, one thread doing all.
    fn alone(&self, rounds: u64) -> Duration {
        self.with_agents(|| {
            let (mut reply, mut worker) = (EnqueueReply::default(), Worker::default());
            let now_ms = now_ms();
            let started = Instant::now();
            for _ in 0..rounds {
                self.enqueue(&mut reply, now_ms);
                assert_eq!(
                    worker.work(&self.engine, self.queue, self.batch, now_ms),
                    self.batch
                );
            }
            started.elapsed()
        })
    }

    /// Time for `rounds` batches, one thread enqueueing and one working them off.
    fn in_two(&self, rounds: u64) -> Duration {
        let (total, done) = (rounds * self.batch as u64, AtomicU64::new(0));
        let now_ms = now_ms();
        self.with_agents(|| {
            std::thread::scope(|scope| {
                let started = Instant::now();
                scope.spawn(|| {
                    let mut reply = EnqueueReply::default();
                    for round in 1..=rounds {
                        self.enqueue(&mut reply, now_ms);
                        // Some way ahead, not the whole way: a queue, not a store.
                        while round * self.batch as u64 > done.load(Ordering::Relaxed) + 32_768 {
                            std::thread::yield_now();
                        }
                    }
                });
                let mut worker = Worker::default();
                while done.load(Ordering::Relaxed) < total {
                    match worker.work(&self.engine, self.queue, self.batch, now_ms) {
                        0 => std::thread::yield_now(),
                        count => _ = done.fetch_add(count as u64, Ordering::Relaxed),
                    }
                }
                started.elapsed()
            })
        })
    }
}

fn lives(criterion: &mut Criterion) {
    for level in [Durability::Memory, Durability::Written, Durability::Synced] {
        let mut group = criterion.benchmark_group(format!("life/{level}"));
        group.sample_size(10).measurement_time(Duration::from_secs(1));
        group.warm_up_time(Duration::from_millis(300));
        for payload in [16, 64, 1024, 16 * 1024] {
            for batch in [1, 64, 500] {
                if batch == 500 && payload != 64 {
                    continue;
                }
                let bench = Bench::new(level, batch, payload);
                group.throughput(Throughput::Elements(batch as u64));
                let id = |threads| BenchmarkId::new(threads, format!("{payload}B/batch {batch}"));
                group.bench_function(id("one thread"), |b| b.iter_custom(|rounds| bench.alone(rounds)));
                group.bench_function(id("two threads"), |b| {
                    b.iter_custom(|rounds| bench.in_two(rounds))
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, lives);
criterion_main!(benches);
