//! Throughput with more threads than cores, as a table of ratios: 2 threads against 8, 32, and all of them held on
//! one core. Half of the threads produce, half of them consume; in the log all append.
//!
//! `cargo bench --no-default-features --features engine --bench crowd`. No row should fall below one half, except that
//! what two cores did cannot be done by one.
#![cfg(not(loom))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark reads the clock, and one that cannot go on should panic where it stands"
)]

mod common;
#[path = "common/pinning.rs"]
mod pinning;

use ackring::engine::{Engine, EngineConfig, EnqueueReply, RequestId};
use ackring::log::{Log, LogConfig, LogError, Room};
use ackring::ring::{ChunkPool, Rings};
use ackring::{Durability, EnqueueBatch, JobOptions, QueueOptions};
use common::{Worker, batch_of};
use pinning::hold_on_one_core;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const NOW_MS: u64 = 1_700_000_000_000;
/// Runs of each cell, taken in turns, of which the best counts: what else runs on the machine only takes away.
const ROUNDS: usize = 5;
/// Threads and whether they are held on one core.
const CROWDS: [(usize, bool); 5] = [(2, false), (8, false), (32, false), (2, true), (32, true)];

/// Time that `threads` threads take which all begin at once, beside an agent.
fn timed(
    (threads, is_held): (usize, bool),
    body: impl Fn(usize) + Sync,
    agent: impl Fn() -> usize + Sync,
) -> Duration {
    let (start, stop) = (Barrier::new(threads), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let background = scope.spawn(|| {
            if is_held {
                hold_on_one_core();
            }
            while !stop.load(Ordering::Relaxed) {
                if agent() == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let members: Vec<_> = (0..threads)
            .map(|member| {
                let (body, start) = (&body, &start);
                scope.spawn(move || {
                    if is_held {
                        hold_on_one_core();
                    }
                    start.wait();
                    let began = Instant::now();
                    body(member);
                    (began, Instant::now())
                })
            })
            .collect();
        let times: Vec<_> = members.into_iter().map(|member| member.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        background.join().unwrap();
        // From the first who began to the last who ended: whoever waits for them may get no core in between.
        let began = times.iter().map(|(began, _)| *began).min().unwrap();
        times.iter().map(|(_, ended)| *ended).max().unwrap() - began
    })
}

/// Handles or records a second.
fn rate(count: usize, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64()
}

/// How many of `total` a member of half the crowd does, in batches.
fn share(total: usize, threads: usize, batch: usize) -> usize {
    total / (threads / 2) / batch
}

/// Calls `take` until the consumers have `total` between them; it says how many it got.
fn consume(taken: &AtomicUsize, total: usize, mut take: impl FnMut() -> usize) {
    let mut own = 0;
    loop {
        match take() {
            0 => {
                // The common counter is touched only when there is nothing else to do.
                let before = taken.fetch_add(own, Ordering::Relaxed);
                if before + std::mem::take(&mut own) >= total {
                    return;
                }
                std::thread::yield_now();
            }
            count => own += count,
        }
    }
}

fn ring(crowd: (usize, bool), batch: usize) -> f64 {
    // As a queue of the engine has it.
    let (pool, rings) = (ChunkPool::new(8 * 1024), Rings::<1>::new());
    let ring = rings.at(0);
    let batches = share(400_000, crowd.0, batch);
    let (total, taken) = (batches * batch * (crowd.0 / 2), AtomicUsize::new(0));
    let body = |member: usize| {
        let handles: Vec<u32> = (0..batch as u32).collect();
        if member.is_multiple_of(2) {
            for _ in 0..batches {
                while ring.push(&pool, &handles).is_err() {
                    std::thread::yield_now();
                }
            }
        } else {
            let mut out = vec![0; batch];
            consume(&taken, total, || ring.pop(&pool, &mut out));
        }
    };
    rate(total, timed(crowd, body, || 0))
}

fn life(crowd: (usize, bool), batch: usize, level: Durability) -> f64 {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = EngineConfig {
        directory: (level != Durability::Memory).then(|| directory.path().to_owned()),
        slots: 1 << 16,
        segment_bytes: 4 << 20,
        log_bytes_max: 256 << 20,
        memory_bytes_max: 256 << 20,
        ..EngineConfig::default()
    };
    let (engine, _) = Engine::open(config, NOW_MS).unwrap();
    let options = QueueOptions {
        durability: level,
        ..QueueOptions::default()
    };
    let (queue, _) = engine
        .create_queue("q", &options, RequestId::NONE, NOW_MS)
        .unwrap();
    let batches = share(if batch == 1 { 100_000 } else { 600_000 }, crowd.0, batch);
    let (total, taken) = (batches * batch * (crowd.0 / 2), AtomicUsize::new(0));
    let body = |member: usize| {
        if member.is_multiple_of(2) {
            let bytes = batch_of(batch, 64, |_| JobOptions::default());
            let mut reply = EnqueueReply::default();
            let jobs = EnqueueBatch::parse(batch, &bytes).unwrap();
            for _ in 0..batches {
                while engine
                    .enqueue(queue, &jobs, None, RequestId::NONE, NOW_MS, &mut reply)
                    .is_err()
                {
                    std::thread::yield_now();
                }
            }
        } else {
            let mut worker = Worker::default();
            consume(&taken, total, || worker.work(&engine, queue, batch, NOW_MS));
        }
    };
    let agent = || engine.timer_step(NOW_MS, 10_000) + engine.log_step(NOW_MS, 16);
    rate(total, timed(crowd, body, agent))
}

fn append(crowd: (usize, bool), bytes: usize) -> f64 {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = LogConfig {
        directory: Some(directory.path().to_owned()),
        segment_bytes: 4 << 20,
        log_bytes_max: 256 << 20,
        ..LogConfig::default()
    };
    let (log, _) = Log::open(config, NOW_MS, &mut |_| ()).unwrap();
    log.set_recycles_unsynced(true);
    let each = 400_000 / crowd.0;
    let body = |_: usize| {
        let record = vec![7; bytes];
        for _ in 0..each {
            loop {
                match log.claim(bytes, Room::Enqueue) {
                    Ok(mut claim) => {
                        claim.put(&record);
                        claim.commit(1, 0, NOW_MS, 0);
                        break;
                    }
                    Err(LogError::Full { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    rate(each * crowd.0, timed(crowd, body, || log.step(NOW_MS, 16)))
}

fn row(name: &str, run: impl Fn((usize, bool)) -> f64) {
    let mut best = [0f64; CROWDS.len()];
    for _ in 0..ROUNDS {
        for (best, crowd) in best.iter_mut().zip(CROWDS) {
            *best = best.max(run(crowd));
        }
    }
    let ratios = best[1..].iter().map(|rate| format!("{:>10.2}", rate / best[0]));
    println!("{name:<26}{:>10.2}{}", best[0] / 1e6, ratios.collect::<String>());
}

fn main() {
    println!(
        "{:<26}{:>10}{:>10}{:>10}{:>10}{:>10}",
        "", "2, M/s", "8", "32", "2 on one", "32 on one"
    );
    for batch in [1, 64] {
        row(&format!("ring, batch {batch}"), |crowd| ring(crowd, batch));
    }
    for level in [Durability::Memory, Durability::Written] {
        for batch in [1, 64] {
            row(&format!("life {level}, batch {batch}"), |crowd| {
                life(crowd, batch, level)
            });
        }
    }
    row("log append, 96 B", |crowd| append(crowd, 96));
}
