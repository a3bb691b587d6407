//! What is copied out of old segments: it frees them, and is not all that a power cut leaves.

use crate::disk::{Rng, SimDisk, SimOptions};
use crate::world::World;
use ackring::engine::{Engine, EngineConfig, QueueId, RequestId};
use ackring::{Durability, ErrorCode, JobOptions, QueueOptions};

fn keeping(keep_finished: u32) -> QueueOptions {
    QueueOptions {
        keep_finished,
        ..QueueOptions::default()
    }
}

/// Jobs that come and go, a segment full of them.
fn churn(world: &mut World, queue: QueueId, segments: u32) {
    for _ in 0..segments {
        for _ in 0..8 {
            world.push(queue, &[7; 8_000]);
        }
        world.drain(queue);
        world.tidy_log();
    }
}

#[test]
fn a_resumed_queue_forgot_its_counts_when_older_segments_went() {
    for more in 0..8 {
        let mut world = World::logged();
        let (quiet, busy) = (
            world.create("quiet", keeping(0)),
            world.create("busy", keeping(0)),
        );
        world.push(quiet, b"x");
        world.drain(quiet);
        churn(&mut world, busy, 3);
        world
            .engine()
            .resume(quiet, RequestId::NONE, world.now_ms)
            .unwrap();
        churn(&mut world, busy, more);
        world.crash();
        let counts = world.engine().queue_stats(world.queue("quiet")).unwrap().counts;
        assert_eq!((counts.enqueued, counts.done), (1, 1), "{more} segments later");
    }
}

/// A log of five segments in which everything is over, after a history that was drawn.
fn drawn_out(seed: u64) -> World {
    let mut dice = Rng(seed);
    let mut world = World::with(|config| config.log_bytes_max = 5 * 64 * 1024);
    let kept = 1 + dice.below(40) as u32;
    let queue = world.create("q", keeping(kept));
    for _ in 0..400 {
        match dice.below(4) {
            0 | 1 => {
                let payload = vec![7; dice.below(20_000) as usize];
                let pushed = world.try_push(queue, &[(&payload, JobOptions::default())]);
                let refused = pushed.err().map(|refusal| refusal.code);
                assert!(
                    refused.is_none_or(|code| code == ErrorCode::LogFull),
                    "{refused:?}"
                );
            }
            2 => {
                let mut sink = crate::world::Collect::new();
                let now_ms = world.now_ms;
                let reserved = world
                    .engine()
                    .reserve(&[queue], 2, 0, RequestId::NONE, now_ms, &mut sink);
                if reserved.is_ok() {
                    for job in sink.jobs {
                        let _ = world.settle_as(RequestId::NONE, |batch| batch.ack(job.token, None));
                    }
                }
            }
            _ => {
                world.now_ms += 101;
                world.engine().log_step(world.now_ms, 1);
            }
        }
    }
    for _ in 0..200 {
        world.pass(60_000);
        world.tidy_log();
        let mut sink = crate::world::Collect::new();
        let now_ms = world.now_ms;
        let _ = world
            .engine()
            .reserve(&[queue], 100, 0, RequestId::NONE, now_ms, &mut sink);
        for job in &sink.jobs {
            world.settle(|batch| batch.ack(job.token, None));
        }
        let counts = world.engine().queue_stats(queue).unwrap().counts;
        if counts.ready + counts.scheduled + counts.leased + counts.dead == 0 {
            world.tidy_log();
            return world;
        }
    }
    panic!("seed {seed}: jobs are left");
}

#[test]
fn a_small_log_in_which_all_was_over_took_no_more_jobs() {
    for seed in 0..30 {
        let world = drawn_out(seed);
        let pushed = world.try_push(world.queue("q"), &[(&[7; 100], JobOptions::default())]);
        assert!(
            pushed.is_ok(),
            "seed {seed}: {pushed:?} with {:?}",
            world.engine().segments()[0]
        );
    }
}

/// What a power cut at this moment leaves of the jobs of queue `batch`.
fn left_by_power_cut(disk: &SimDisk, config: &EngineConfig, now_ms: u64) -> Vec<Vec<u8>> {
    let disk = disk.copy();
    disk.crash_power();
    let config = EngineConfig {
        disk: disk.handle(),
        ..config.clone()
    };
    let (engine, _) = Engine::open(config, now_ms).unwrap();
    let Ok(queue) = engine.find_queue("batch") else {
        return Vec::new();
    };
    let jobs = engine.list_jobs(queue, None, 0, 100).unwrap().jobs;
    jobs.into_iter().map(|job| job.payload).collect()
}

#[test]
fn a_power_cut_left_copies_of_a_part_of_a_batch_that_it_took() {
    for seed in 0..12 {
        let disk = SimDisk::new(seed, SimOptions::default());
        let world = World::with(|config| {
            config.disk = disk.handle();
            config.log_bytes_max = 6 * 64 * 1024;
            config.queue_defaults.durability = Durability::Written;
        });
        let (batch, busy) = (
            world.create("batch", keeping(0)),
            world.create("busy", keeping(0)),
        );
        world.engine().sync().unwrap();
        let job: (&[u8], JobOptions<'_>) = (b"job", JobOptions::default());
        world.try_push(batch, &[job; 6]).unwrap();
        // The clock stands, so nothing is synced by itself.
        for _ in 0..60 {
            let _ = world.try_push(busy, &[(&[7; 9_000], JobOptions::default())]);
            world.drain(busy);
            world.engine().log_step(world.now_ms, 1);
            for _ in 0..4 {
                let left = left_by_power_cut(&disk, &world.config, world.now_ms);
                assert!(
                    left.is_empty() || left.len() == 6,
                    "seed {seed}: {} of 6 jobs",
                    left.len()
                );
            }
        }
    }
}
