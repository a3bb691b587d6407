//! Many threads on one engine: nothing lost, nothing twice, counts that add up.

use crate::world::{Collect, START_MS, World};
use ackring::engine::{EnqueueReply, RequestId};
use ackring::{EnqueueBatch, EnqueueBuilder, JobOptions, QueueOptions, SettleBatch, SettleBuilder};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PRODUCERS: u64 = 3;
const WORKERS: usize = 3;
const JOBS_EACH: u64 = 20_000;

/// Producers enqueue batches, workers reserve and ack them, one thread runs the agents; the slab is far smaller
/// than the number of jobs, so every slot is used many times.
fn hammer(world: &World, keep_finished: u32) {
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished,
            ..QueueOptions::default()
        },
    );
    let engine = world.engine();
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = PRODUCERS * JOBS_EACH;
    let counts: Vec<HashMap<u64, u32>> = std::thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            scope.spawn(move || {
                let mut next = 0;
                let mut reply = EnqueueReply::default();
                while next < JOBS_EACH {
                    let mut builder = EnqueueBuilder::new();
                    for n in next..(next + 1 + next % 37).min(JOBS_EACH) {
                        let tag = producer << 32 | n;
                        builder.push(&tag.to_le_bytes(), &JobOptions::default());
                    }
                    let mut bytes = Vec::new();
                    builder.write_to(&mut bytes);
                    let batch = EnqueueBatch::parse(builder.count(), &bytes).unwrap();
                    while engine
                        .enqueue(queue, &batch, None, RequestId::NONE, START_MS, &mut reply)
                        .is_err()
                    {
                        std::thread::yield_now();
                    }
                    next += builder.count() as u64;
                }
            });
        }
        let agent = scope.spawn(|| {
            let mut now_ms = START_MS;
            while !stop.load(Ordering::Relaxed) {
                engine.timer_step(START_MS, 1_000);
                // The log's clock may run: leases are on the other one.
                now_ms += 101;
                engine.log_step(now_ms, 16);
                engine.sync().unwrap();
            }
        });
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let done = &done;
                scope.spawn(move || {
                    let mut seen = HashMap::new();
                    let mut items = Vec::new();
                    while done.load(Ordering::Relaxed) < total {
                        let mut sink = Collect::new();
                        if engine
                            .reserve(&[queue], 1 + worker * 20, 0, RequestId::NONE, START_MS, &mut sink)
                            .is_err()
                            || sink.jobs.is_empty()
                        {
                            std::thread::yield_now();
                            continue;
                        }
                        let mut settles = SettleBuilder::new();
                        for job in &sink.jobs {
                            let tag = u64::from_le_bytes(job.payload[..].try_into().unwrap());
                            *seen.entry(tag).or_insert(0) += 1;
                            settles.ack(job.token, None);
                        }
                        let mut bytes = Vec::new();
                        settles.write_to(&mut bytes);
                        let batch = SettleBatch::parse(settles.count(), &bytes).unwrap();
                        while engine
                            .settle(&batch, RequestId::NONE, START_MS, &mut items)
                            .is_err()
                        {
                            std::thread::yield_now();
                        }
                        assert_eq!(items, []);
                        done.fetch_add(sink.jobs.len() as u64, Ordering::Relaxed);
                    }
                    seen
                })
            })
            .collect();
        let counts = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        agent.join().unwrap();
        counts
    });
    let mut all: HashMap<u64, u32> = HashMap::new();
    counts
        .into_iter()
        .flatten()
        .for_each(|(tag, n)| *all.entry(tag).or_default() += n);
    assert_eq!(all.len() as u64, total, "jobs lost");
    assert!(all.values().all(|n| *n == 1), "jobs handed out twice");
    let stats = engine.queue_stats(queue).unwrap().counts;
    assert_eq!(
        (stats.enqueued, stats.done, stats.deliveries),
        (total, total, total)
    );
    assert_eq!(
        (
            stats.ready,
            stats.leased,
            stats.scheduled,
            stats.dead,
            stats.bytes
        ),
        (0, 0, 0, 0, 0)
    );
    assert_eq!(stats.kept, u64::from(keep_finished));
}

#[test]
fn many_threads_over_a_log_lose_and_repeat_nothing() {
    let mut world = World::logged();
    hammer(&world, 100);
    world.crash();
    let stats = world.engine().queue_stats(world.queue("q")).unwrap().counts;
    assert_eq!(
        (stats.ready, stats.leased, stats.bytes, stats.kept),
        (0, 0, 0, 100)
    );
}

#[test]
fn many_threads_in_memory_lose_and_repeat_nothing() {
    hammer(&World::in_memory(), 0);
}
