//! At every limit: a refusal that names it, settlements that still work, nothing lost.

use crate::world::World;
use ackring::{ErrorCode, JobOptions, JobState, QueueOptions};

#[test]
fn a_full_queue_refuses_and_an_ack_makes_room() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            capacity_jobs: 3,
            ..QueueOptions::default()
        },
    );
    (0..3).for_each(|_| _ = world.push(queue, b"x"));
    let refused = world
        .try_push(queue, &[(b"y", JobOptions::default())])
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueueFull);
    assert!(refused.retry_ms > 0);
    let job = world.reserve_one(queue);
    assert_eq!(world.ack(job.token), None);
    world.push(queue, b"y");
    assert_eq!(world.drain(queue).len(), 3);
}

#[test]
fn the_byte_capacity_counts_payload_and_metadata() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            capacity_bytes: 100,
            ..QueueOptions::default()
        },
    );
    world.push_with(
        queue,
        &[0; 60],
        JobOptions {
            meta: &[0; 30],
            ..JobOptions::default()
        },
    );
    let refused = world
        .try_push(queue, &[(&[0; 11], JobOptions::default())])
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueueFull);
    world.push(queue, &[0; 10]);
}

#[test]
fn a_payload_beyond_the_queues_limit_is_refused_with_its_position() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            payload_bytes_max: 10,
            ..QueueOptions::default()
        },
    );
    let jobs: [(&[u8], _); 2] = [
        (&[0; 10], JobOptions::default()),
        (&[0; 11], JobOptions::default()),
    ];
    let refused = world.try_push(queue, &jobs).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PayloadTooLarge);
    assert!(refused.text.contains("entry 1"), "{}", refused.text);
    assert!(
        world.reserve(queue, 5).is_empty(),
        "nothing of a refused batch is there"
    );
}

#[test]
fn a_full_slab_refuses_and_everything_in_it_can_still_be_worked_off() {
    let world = World::with(|config| config.slots = 64);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        },
    );
    (0..64).for_each(|_| _ = world.push(queue, b"x"));
    let refused = world
        .try_push(queue, &[(b"y", JobOptions::default())])
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::SlabFull);
    assert!(refused.retry_ms > 0);
    assert_eq!(world.engine().queue_stats(queue).unwrap().counts.ready, 64);
    assert_eq!(world.drain(queue).len(), 64);
    world.push(queue, b"y");
}

#[test]
fn a_full_log_refuses_new_jobs_while_every_job_in_it_can_be_reserved_and_acked() {
    let mut world = World::with(|config| config.log_bytes_max = 8 * 64 * 1024);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        },
    );
    let mut accepted = 0;
    loop {
        match world.try_push(queue, &[(&[1; 1_000], JobOptions::default())]) {
            Ok(_) => accepted += 1,
            Err(refused) => {
                assert_eq!(refused.code, ErrorCode::LogFull, "{refused}");
                assert!(refused.retry_ms > 0);
                world.engine().log_step(world.now_ms, 64);
                if world
                    .try_push(queue, &[(&[1; 1_000], JobOptions::default())])
                    .is_err()
                {
                    break;
                }
                accepted += 1;
            }
        }
        assert!(accepted < 10_000, "the log never fills");
    }
    assert!(accepted > 100, "only {accepted} jobs fit");
    world.crash();
    let queue = world.queue("q");
    assert_eq!(world.drain(queue).len(), accepted);
    world.tidy_log();
    world.push(queue, b"room again");
}

#[test]
fn stragglers_do_not_pin_the_log() {
    let mut world = World::with(|config| config.log_bytes_max = 12 * 64 * 1024);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        },
    );
    let far = JobOptions {
        delay_ms: 1_000_000_000,
        meta: b"meta",
        ..JobOptions::default()
    };
    let pinned = world.push_with(queue, b"far future", far);
    let dead = world.push(queue, b"dead");
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.reject(job.token, Some(b"no")));
    // Many times the log's size goes through while the two stay.
    for round in 0..3_000 {
        world.push(queue, &[1; 1_000]);
        let job = world.reserve_one(queue);
        assert_eq!(world.ack(job.token), None);
        if round % 20 == 0 {
            world.tidy_log();
        }
    }
    for world in [&mut world] {
        for _ in 0..2 {
            let far = world.job(pinned);
            assert_eq!((far.state, &far.meta[..]), (JobState::Scheduled, &b"meta"[..]));
            let buried = world.job(dead);
            assert_eq!((buried.state, buried.attempts), (JobState::Dead, 1));
            assert_eq!(buried.last_error.as_deref(), Some(&b"no"[..]));
            world.crash();
        }
    }
}

#[test]
fn jobs_that_expire_in_a_queue_without_workers_do_not_fill_the_slab() {
    let mut world = World::with(|config| config.slots = 64);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 4,
            ..QueueOptions::default()
        },
    );
    let brief = JobOptions {
        ttl_ms: 100,
        ..JobOptions::default()
    };
    for _ in 0..20 {
        (0..50).for_each(|_| _ = world.push_with(queue, b"x", brief));
        world.pass(200);
    }
    let stats = world.engine().queue_stats(queue).unwrap().counts;
    assert_eq!((stats.expired, stats.ready, stats.kept), (1_000, 0, 4));
}

#[test]
fn finished_jobs_that_are_kept_do_not_fill_the_log_with_their_payloads() {
    let mut world = World::with(|config| config.log_bytes_max = 16 * 64 * 1024);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 1_000,
            ..QueueOptions::default()
        },
    );
    let mut last = None;
    for _ in 0..1_500 {
        let refused_until_tidy = world.try_push(queue, &[(&[1; 2_000], JobOptions::default())]);
        if refused_until_tidy.is_err() {
            world.tidy_log();
            world.push(queue, &[1; 2_000]);
        }
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.ack(job.token, Some(b"result")));
        last = Some(job.token.id);
    }
    for _ in 0..2 {
        let done = world.job(last.unwrap());
        assert_eq!(
            (done.state, done.result.as_deref()),
            (JobState::Done, Some(&b"result"[..]))
        );
        assert_eq!(world.engine().queue_stats(queue).unwrap().counts.kept, 1_000);
        world.tidy_log();
        world.crash();
    }
}
