//! Many threads on one engine: nothing lost, nothing twice, counts that add up.

use crate::world::{Collect, Delivered, START_MS, World};
use ackring::engine::{Engine, EnqueueReply, RequestId};
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, JobId, JobOptions, JobState, QueueOptions,
    SettleBatch, SettleBuilder, Token,
};
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

/// SplitMix64: the n-th number of a sequence.
pub fn draw(n: &mut u64, below: u64) -> u64 {
    *n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *n;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % below
}

/// Settles deliveries in all ways; says which jobs were acked for sure.
fn settle_somehow(engine: &Engine, jobs: &[Delivered], now_ms: u64, seed: &mut u64) -> Vec<JobId> {
    let mut builder = SettleBuilder::new();
    let mut acks = Vec::new();
    for (position, job) in jobs.iter().enumerate() {
        match draw(seed, 12) {
            0 => builder.nack(job.token, Some(draw(seed, 3) as u32 * 10), Some(b"e")),
            1 => builder.reject(job.token, None),
            2 => builder.release(job.token),
            3 => builder.extend(job.token, 50),
            // Left to the end of its lease: settled in vain.
            4 => builder.ack(
                Token {
                    attempt: 0,
                    ..job.token
                },
                None,
            ),
            _ => {
                acks.push((position as u32, job.token.id));
                builder.ack(job.token, (draw(seed, 4) == 0).then_some(b"r"));
            }
        }
    }
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = SettleBatch::parse(builder.count(), &bytes).unwrap();
    let mut items = Vec::new();
    if engine
        .settle(&batch, RequestId::NONE, now_ms, &mut items)
        .is_err()
    {
        return Vec::new();
    }
    acks.retain(|(position, _)| !items.iter().any(|item| item.position == *position));
    acks.into_iter().map(|(_, id)| id).collect()
}

#[test]
fn everything_at_once_on_few_slots_gives_every_job_one_end() {
    const ACCEPTED: u64 = 30_000;
    let mut world = World::with(|config| {
        config.slots = 300;
        config.log_bytes_max = 24 * 64 * 1024;
    });
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 20,
            lease_ms: 30,
            max_attempts: 3,
            backoff: Backoff::List(vec![0, 20]),
            ..QueueOptions::default()
        },
    );
    let engine = world.engine();
    let clock = AtomicU64::new(START_MS);
    let (accepted, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let running = || !stop.load(Ordering::Relaxed);
    let acked: Vec<Vec<JobId>> = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..2u64)
            .map(|producer| {
                let (accepted, clock) = (&accepted, &clock);
                scope.spawn(move || {
                    let mut seed = producer;
                    let mut reply = EnqueueReply::default();
                    while accepted.load(Ordering::Relaxed) < ACCEPTED {
                        let mut builder = EnqueueBuilder::new();
                        for _ in 0..=draw(&mut seed, 12) {
                            let some = |seed: &mut u64, ms| if draw(seed, 6) == 0 { ms } else { 0 };
                            let options = JobOptions {
                                priority: draw(&mut seed, 3) as u8,
                                delay_ms: some(&mut seed, 20),
                                ttl_ms: some(&mut seed, 40),
                                ..JobOptions::default()
                            };
                            builder.push(&[5; 90], &options);
                        }
                        let mut bytes = Vec::new();
                        builder.write_to(&mut bytes);
                        let batch = EnqueueBatch::parse(builder.count(), &bytes).unwrap();
                        let level = if draw(&mut seed, 3) == 0 {
                            Durability::Memory
                        } else {
                            Durability::Written
                        };
                        let now_ms = clock.load(Ordering::Relaxed);
                        match engine.enqueue(queue, &batch, Some(level), RequestId::NONE, now_ms, &mut reply)
                        {
                            Ok(_) => _ = accepted.fetch_add(builder.count() as u64, Ordering::Relaxed),
                            Err(_) => std::thread::yield_now(),
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while running() {
                let now_ms = clock.fetch_add(10, Ordering::Relaxed);
                engine.timer_step(now_ms, 1_000);
                engine.log_step(now_ms, 16);
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            let mut seed = 99;
            let mut items = Vec::new();
            while running() {
                let now_ms = clock.load(Ordering::Relaxed);
                let page = engine.list_jobs(queue, None, draw(&mut seed, 300), 5).unwrap();
                let ids: Vec<JobId> = page.jobs.iter().rev().map(|job| job.id).collect();
                // Refused where the log is full at the moment.
                let _ = engine.cancel(&ids, RequestId::NONE, now_ms, &mut items);
                let _ = engine.redrive(queue, None, 20, RequestId::NONE, now_ms, &mut items);
                if draw(&mut seed, 20) == 0 {
                    let states = [JobState::Dead, JobState::Scheduled, JobState::Done];
                    let _ = engine.purge(queue, &states, RequestId::NONE, now_ms);
                }
                if draw(&mut seed, 50) == 0 {
                    let _ = engine.purge(queue, &[JobState::Ready], RequestId::NONE, now_ms);
                }
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..2u64)
            .map(|worker| {
                let (clock, running) = (&clock, &running);
                scope.spawn(move || {
                    let (mut seed, mut acked) = (1_000 + worker, Vec::new());
                    while running() {
                        let now_ms = clock.load(Ordering::Relaxed);
                        let mut sink = Collect::new();
                        let max = 1 + draw(&mut seed, 30) as usize;
                        let answer = engine.reserve(&[queue], max, 0, RequestId::NONE, now_ms, &mut sink);
                        if answer.is_err() || sink.jobs.is_empty() {
                            std::thread::yield_now();
                            continue;
                        }
                        acked.extend(settle_somehow(engine, &sink.jobs, now_ms, &mut seed));
                    }
                    acked
                })
            })
            .collect();
        producers
            .into_iter()
            .for_each(|producer| producer.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut ids: Vec<JobId> = acked.into_iter().flatten().collect();
    world.now_ms = clock.load(Ordering::Relaxed) + 1_000;
    for _ in 0..20 {
        world.tidy_log();
        world.pass(1_000);
        for job in world.reserve(queue, 300) {
            assert_eq!(world.ack(job.token), None);
            ids.push(job.token.id);
        }
    }
    let engine = world.engine();
    let purged = engine.purge(queue, &[JobState::Dead], RequestId::NONE, world.now_ms);
    purged.unwrap();
    let counts = engine.queue_stats(queue).unwrap().counts;
    assert_eq!(
        [
            counts.ready,
            counts.scheduled,
            counts.leased,
            counts.dead,
            counts.bytes
        ],
        [0; 5]
    );
    assert_eq!(counts.done, ids.len() as u64, "acks that were told as done");
    let distinct: std::collections::HashSet<JobId> = ids.iter().copied().collect();
    assert_eq!(distinct.len(), ids.len(), "a job was acked twice");
    assert_eq!(counts.enqueued, accepted.load(Ordering::Relaxed));
    assert_eq!(counts.enqueued, counts.done + counts.cancelled + counts.expired);
    let left = 300 - counts.kept;
    (0..left).for_each(|_| _ = world.push(queue, b"x"));
    world.crash();
    let after = world.engine().queue_stats(world.queue("q")).unwrap().counts;
    assert_eq!(
        [after.ready, after.scheduled, after.leased, after.dead],
        [left, 0, 0, 0]
    );
}
