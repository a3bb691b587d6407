//! Logs of a few segments, full of jobs that are nearly as large as one.

use crate::disk::{Rng, SimDisk, SimOptions};
use crate::world::{Collect, Delivered, World};
use ackring::engine::{QueueId, RequestId};
use ackring::limits::{SEGMENT_BYTES_MIN, SEGMENTS_FOR_COPIES};
use ackring::{Backoff, ErrorCode, JobOptions, QueueOptions, Refusal};

/// Attempts enough for any history.
fn options() -> QueueOptions {
    QueueOptions {
        keep_finished: 0,
        lease_ms: 50,
        max_attempts: 60_000,
        backoff: Backoff::Exponential {
            base_ms: 0,
            cap_ms: 0,
        },
        ..QueueOptions::default()
    }
}

/// What a log that is full may refuse.
fn unless_full<T>(result: Result<T, Refusal>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(refusal) => {
            assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
            None
        }
    }
}

fn reserve(world: &World, queue: QueueId, max: usize) -> Vec<Delivered> {
    let mut sink = Collect::new();
    let now_ms = world.now_ms;
    let reserved = world
        .engine()
        .reserve(&[queue], max, 0, RequestId::NONE, now_ms, &mut sink);
    unless_full(reserved);
    sink.jobs
}

/// Whether the job is settled.
fn ack(world: &World, job: &Delivered) -> bool {
    let settled = world.settle_as(RequestId::NONE, |batch| batch.ack(job.token, None));
    unless_full(settled).is_some_and(|refused| refused.is_empty())
}

/// Jobs come, are handed out, mostly for nothing, and the process is killed now and then; then workers take out all that
/// is left.
fn live_and_drain(seed: u64) {
    let mut dice = Rng(seed);
    let segments = 4 + dice.below(4);
    let disk = SimDisk::new(seed, SimOptions::default());
    let mut world = World::with(|config| {
        config.log_bytes_max = segments * u64::from(SEGMENT_BYTES_MIN);
        config.disk = disk.handle();
    });
    world.create("q", options());
    let largest = [300, 4_000, 20_000, 40_000, 62_000][dice.below(5) as usize];
    let (mut accepted, mut done) = (0, 0);
    for _ in 0..500 {
        let queue = world.queue("q");
        match dice.below(20) {
            0..=7 => {
                let payload = vec![7; dice.below(largest) as usize];
                let pushed = world.try_push(queue, &[(&payload, JobOptions::default())]);
                accepted += usize::from(unless_full(pushed).is_some());
            }
            8..=12 => {
                for job in reserve(&world, queue, 3) {
                    if dice.below(3) == 0 {
                        done += usize::from(ack(&world, &job));
                    }
                }
            }
            13..=14 => world.pass(100),
            15..=18 => {
                world.now_ms += 101;
                world.engine().log_step(world.now_ms, 1 + dice.below(3) as usize);
            }
            _ if dice.below(3) == 0 => _ = world.crash_with(|| disk.crash_kill()),
            _ => _ = world.engine().sync().unwrap(),
        }
    }
    let mut rounds = 0;
    // Each start may have made one; the other files have less than one together.
    let most = segments + SEGMENTS_FOR_COPIES as u64 + u64::from(world.restarts) + 1;
    while done < accepted {
        let queue = world.queue("q");
        world.pass(60_000);
        world.tidy_log();
        for job in reserve(&world, queue, 100) {
            done += usize::from(ack(&world, &job));
        }
        assert!(
            disk.used() < most * u64::from(SEGMENT_BYTES_MIN),
            "seed {seed}: {} bytes for {segments} segments",
            disk.used()
        );
        rounds += 1;
        assert!(
            rounds < 200,
            "seed {seed}: {} jobs are left in {segments} segments: {:?}",
            accepted - done,
            world.engine().segments()[0]
        );
    }
    assert!(
        reserve(&world, world.queue("q"), 1).is_empty(),
        "seed {seed}: more than there were"
    );
}

/// Copies of what filled two segments need three, and a start takes one for itself; still everybody gets their turn.
#[test]
fn every_job_in_a_small_log_of_large_ones_can_be_worked_off() {
    for seed in 0..60 {
        live_and_drain(seed);
    }
}
