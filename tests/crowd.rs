//! Far more threads than cores, free and all on one core: work that is bounded comes to an end. A livelock or a lost
//! wake shows as a test that does not end. How fast it goes is for `benches/crowd.rs`.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "../benches/common/pinning.rs"]
mod pinning;

use ackring::engine::{DeliveryHead, DeliverySink, EngineConfig, EnqueueReply, RequestId};
use ackring::log::{Log, LogConfig, LogError, LogPosition, Room};
use ackring::ring::{ChunkPool, Ring};
use ackring::{EnqueueBatch, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder, Token};
use pinning::hold_on_one_core;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const NOW_MS: u64 = 1_700_000_000_000;

/// How many threads a core, and whether all of them are held on one core.
const CROWDS: [(usize, bool); 3] = [(4, false), (16, false), (16, true)];

/// Threads of a crowd.
fn threads(a_core: usize) -> usize {
    a_core * std::thread::available_parallelism().map_or(2, usize::from)
}

/// Runs `body` on every thread of each crowd, beside `agent` on a further one.
fn crowd(body: impl Fn(usize) + Sync, agent: impl Fn() + Sync) {
    for (a_core, is_held) in CROWDS {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let agent = scope.spawn(|| {
                if is_held {
                    hold_on_one_core();
                }
                while !stop.load(Ordering::Relaxed) {
                    agent();
                    std::thread::yield_now();
                }
            });
            let members: Vec<_> = (0..threads(a_core))
                .map(|member| {
                    let body = &body;
                    scope.spawn(move || {
                        if is_held {
                            hold_on_one_core();
                        }
                        body(member);
                    })
                })
                .collect();
            let ends: Vec<_> = members.into_iter().map(|member| member.join()).collect();
            stop.store(true, Ordering::Relaxed);
            ends.into_iter().for_each(|end| end.unwrap());
            agent.join().unwrap();
        });
    }
}

#[test]
fn a_crowd_on_one_ring_comes_to_an_end() {
    let (pool, ring) = (ChunkPool::new(4_096), Ring::new());
    let body = |member: usize| {
        let handles: Vec<u32> = (0..64).collect();
        let mut out = [0; 64];
        for round in 0..300 {
            let batch = if (round + member).is_multiple_of(2) { 1 } else { 64 };
            while ring.push(&pool, &handles[..batch]).is_err() {
                std::thread::yield_now();
            }
            let mut left = batch;
            while left > 0 {
                // Others have pushed as many as they take, so there always is one to come.
                match ring.pop(&pool, &mut out[..left]) {
                    0 => std::thread::yield_now(),
                    popped => left -= popped,
                }
            }
        }
    };
    crowd(body, || ());
    assert!(ring.is_empty(&pool));
}

#[test]
fn a_crowd_that_appends_and_syncs_comes_to_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig {
        directory: Some(directory.path().to_owned()),
        segment_bytes: 64 * 1024,
        log_bytes_max: 12 * 64 * 1024,
        ..LogConfig::default()
    };
    let (log, _) = Log::open(config, NOW_MS, &mut |_| ()).unwrap();
    let append = |body: &[u8]| -> LogPosition {
        loop {
            match log.claim(body.len(), Room::Enqueue) {
                Ok(mut claim) => {
                    claim.put(body);
                    return claim.commit(1, 0, NOW_MS, 0);
                }
                Err(LogError::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    };
    let body = |member: usize| {
        for round in 0..100 {
            let end = append(&[7; 240][..8 * (1 + (round + member) % 30)]);
            if round % 50 == 49 {
                log.sync_to(end).unwrap();
                assert!(log.durable() >= end);
            }
        }
    };
    crowd(body, || _ = log.step(NOW_MS, 16));
}

#[derive(Default)]
struct Tokens(Vec<Token>);

impl DeliverySink for Tokens {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, _: &[u8]) {
        self.0.push(head.token);
    }
}

#[test]
fn a_crowd_on_one_queue_comes_to_an_end() {
    let config = EngineConfig {
        slots: 2_000,
        ..EngineConfig::default()
    };
    let (engine, _) = ackring::engine::Engine::open(config, NOW_MS).unwrap();
    let queue = engine.open_queue("q", NOW_MS).unwrap();
    let settled = AtomicUsize::new(0);
    let body = |member: usize| {
        let count = if member.is_multiple_of(2) { 1 } else { 32 };
        let mut builder = EnqueueBuilder::new();
        (0..count).for_each(|_| builder.push(&[1; 64], &JobOptions::default()));
        let (mut jobs, mut reply, mut items) = (Vec::new(), EnqueueReply::default(), Vec::new());
        builder.write_to(&mut jobs);
        let batch = EnqueueBatch::parse(count, &jobs).unwrap();
        for _ in 0..100 {
            while engine
                .enqueue(queue, &batch, None, RequestId::NONE, NOW_MS, &mut reply)
                .is_err()
            {
                std::thread::yield_now();
            }
            let mut left = count;
            while left > 0 {
                let mut sink = Tokens::default();
                engine
                    .reserve(&[queue], left, 0, RequestId::NONE, NOW_MS, &mut sink)
                    .unwrap();
                if sink.0.is_empty() {
                    std::thread::yield_now();
                    continue;
                }
                let mut settles = SettleBuilder::new();
                sink.0.iter().for_each(|token| settles.ack(*token, None));
                let mut bytes = Vec::new();
                settles.write_to(&mut bytes);
                let settles = SettleBatch::parse(sink.0.len(), &bytes).unwrap();
                engine
                    .settle(&settles, RequestId::NONE, NOW_MS, &mut items)
                    .unwrap();
                assert_eq!(items, []);
                left -= sink.0.len();
            }
            settled.fetch_add(count, Ordering::Relaxed);
        }
    };
    crowd(body, || {
        engine.timer_step(NOW_MS, 1_000);
        engine.log_step(NOW_MS, 16);
    });
    let counts = engine.queue_stats(queue).unwrap().counts;
    assert_eq!(counts.done, settled.into_inner() as u64);
    assert_eq!((counts.ready, counts.leased, counts.bytes), (0, 0, 0));
}

#[test]
fn a_crowd_of_blocked_workers_is_woken_to_the_last() {
    const EACH: usize = 20;
    let engine = ackring::Engine::in_memory().unwrap();
    let queue = engine.queue("q").unwrap();
    let body = |member: usize| {
        for _ in 0..EACH {
            if member.is_multiple_of(2) {
                queue.enqueue(b"job").unwrap();
            } else {
                // A worker for each job, so that nobody waits in vain.
                queue.reserve(Duration::MAX).unwrap().unwrap().ack().unwrap();
            }
        }
    };
    crowd(body, || ());
    assert_eq!(queue.stats().unwrap().counts.ready, 0);
}
