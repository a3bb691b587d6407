//! What is told again before old segments go: it frees them, and nothing is forgotten with them.

use crate::disk::Rng;
use crate::world::World;
use ackring::engine::{QueueId, RequestId};
use ackring::{ErrorCode, JobOptions, QueueOptions};

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
        // The counts were told in a segment that is full now, and stays until the next look.
        for _ in 0..8 {
            world.push(busy, &[7; 8_000]);
        }
        world.drain(busy);
        world
            .engine()
            .resume(quiet, RequestId::NONE, world.now_ms)
            .unwrap();
        world.tidy_log();
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
