//! What is there after a crash: every job, every count, in order.

use crate::world::World;
use ackring::engine::RequestId;
use ackring::{Backoff, ErrorCode, JobId, JobOptions, JobState, QueueOptions, Token};

fn no_backoff() -> QueueOptions {
    QueueOptions {
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    }
}

#[test]
fn every_job_comes_back_in_order_under_its_id() {
    let mut world = World::logged();
    let queue = world.queue("q");
    let ids: Vec<JobId> = (0..500u32).map(|n| world.push(queue, &n.to_le_bytes())).collect();
    for _ in 0..3 {
        world.crash();
        let queue = world.queue("q");
        let peeked: Vec<JobId> = world
            .engine()
            .peek(queue, 1_000)
            .unwrap()
            .iter()
            .map(|job| job.id)
            .collect();
        assert_eq!(peeked, ids);
    }
    let queue = world.queue("q");
    let expected: Vec<Vec<u8>> = (0..500u32).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(world.drain(queue), expected);
    world.crash();
    assert_eq!(world.drain(world.queue("q")), Vec::<Vec<u8>>::new());
}

#[test]
fn attempts_never_fall_back_through_crashes() {
    let mut world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            max_attempts: 4,
            ..no_backoff()
        },
    );
    let id = world.push(queue, b"x");
    for attempt in 1..=4 {
        let queue = world.queue("q");
        let job = world.reserve_one(queue);
        assert_eq!(job.token.attempt, attempt);
        world.crash();
        assert_eq!(
            world.job(id).attempts,
            attempt,
            "handed out, then the server died"
        );
        let error = format!("failure {attempt}");
        assert_eq!(
            world.settle(|batch| batch.nack(job.token, None, Some(error.as_bytes()))),
            []
        );
        world.pass(1);
        world.crash();
        assert_eq!(world.job(id).attempts, attempt);
    }
    let dead = world.job(id);
    assert_eq!(
        (dead.state, dead.failures, dead.last_error),
        (JobState::Dead, 4, Some(b"failure 4".to_vec()))
    );
    let queue = world.queue("q");
    let mut items = Vec::new();
    world
        .engine()
        .redrive(queue, Some(&[id]), 1, RequestId::NONE, world.now_ms, &mut items)
        .unwrap();
    world.crash();
    assert_eq!(world.job(id).state, JobState::Ready);
    assert_eq!(world.reserve_one(world.queue("q")).token.attempt, 5);
}

#[test]
fn a_lease_survives_a_crash_until_its_deadline() {
    let mut world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            lease_ms: 1_000,
            ..no_backoff()
        },
    );
    let (a, b) = (world.push(queue, b"a"), world.push(queue, b"b"));
    let jobs = world.reserve(queue, 2);
    world.now_ms += 600;
    world.crash();
    assert_eq!(
        (world.state(a), world.state(b)),
        (JobState::Leased, JobState::Leased)
    );
    assert_eq!(world.ack(jobs[0].token), None);
    world.pass(500);
    assert_eq!(
        (world.state(a), world.state(b)),
        (JobState::Done, JobState::Ready)
    );
    assert_eq!(world.ack(jobs[1].token), Some(ErrorCode::LeaseLost));
}

#[test]
fn scheduled_jobs_and_ttls_keep_their_time_through_a_crash() {
    let mut world = World::logged();
    let queue = world.queue("q");
    let later = world.push_with(
        queue,
        b"later",
        JobOptions {
            delay_ms: 5_000,
            ..JobOptions::default()
        },
    );
    let brief = world.push_with(
        queue,
        b"brief",
        JobOptions {
            ttl_ms: 3_000,
            ..JobOptions::default()
        },
    );
    world.now_ms += 2_000;
    world.crash();
    assert_eq!(
        (world.state(later), world.state(brief)),
        (JobState::Scheduled, JobState::Ready)
    );
    world.pass(1_100);
    assert_eq!(world.state(brief), JobState::Expired);
    world.pass(2_000);
    assert_eq!(world.drain(world.queue("q")), [b"later".to_vec()]);
}

#[test]
fn an_ack_is_never_forgotten_and_its_result_is_kept() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let id = world.push(queue, b"x");
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.nack(job.token, None, Some(b"e")));
    world.pass(1);
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.ack(job.token, Some(b"r")));
    world.crash();
    let done = world.job(id);
    assert_eq!(
        (done.state, done.result, done.last_error),
        (JobState::Done, Some(b"r".to_vec()), Some(b"e".to_vec()))
    );
    assert_eq!(world.ack(job.token), Some(ErrorCode::AlreadySettled));
    assert!(world.reserve(world.queue("q"), 1).is_empty());
}

#[test]
fn queues_come_back_with_their_options_their_pause_and_their_counters() {
    let mut world = World::logged();
    let options = QueueOptions {
        max_attempts: 7,
        lease_ms: 123,
        keep_finished: 5,
        ..no_backoff()
    };
    let queue = world.create("q", options.clone());
    (0..9).for_each(|_| _ = world.push(queue, b"x"));
    assert_eq!(world.drain(queue).len(), 9);
    world.push(queue, b"y");
    world
        .engine()
        .pause(queue, RequestId::NONE, world.now_ms)
        .unwrap();
    let gone = world.queue("gone");
    let gone_job = world.push(gone, b"z");
    world
        .engine()
        .delete(gone, RequestId::NONE, world.now_ms)
        .unwrap();
    let before = world.engine().queue_stats(queue).unwrap();
    world.crash();
    let after = world
        .engine()
        .queue_stats(world.engine().find_queue("q").unwrap())
        .unwrap();
    assert_eq!(after, before);
    assert_eq!(after.options, options);
    assert!(after.paused);
    assert_eq!(
        world.engine().find_queue("gone").unwrap_err().code,
        ErrorCode::QueueNotFound
    );
    assert_eq!(
        world.engine().job(gone_job).unwrap_err().code,
        ErrorCode::JobNotFound
    );
}

#[test]
fn a_key_is_remembered_through_a_crash() {
    let mut world = World::logged();
    let queue = world.queue("q");
    let keyed = JobOptions {
        key: b"k",
        ..JobOptions::default()
    };
    let first = world.push_with(queue, b"x", keyed);
    assert_eq!(world.drain(queue).len(), 1);
    world.crash();
    let reply = world
        .try_push(world.queue("q"), &[(b"x", keyed), (b"y", keyed)])
        .unwrap();
    assert_eq!(reply.ids, [first.0, 0]);
    let codes: Vec<_> = reply.items.iter().map(|item| item.code).collect();
    assert_eq!(codes, [ErrorCode::Duplicate, ErrorCode::KeyConflict]);
}

#[test]
fn ids_of_forgotten_jobs_are_not_given_out_again() {
    let mut world = World::logged();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..5 {
        let queue = world.create(
            "q",
            QueueOptions {
                keep_finished: 0,
                ..no_backoff()
            },
        );
        for _ in 0..200 {
            let id = world.push(queue, b"x");
            assert!(seen.insert(id), "{id} was given out before");
            let job = world.reserve_one(queue);
            assert_eq!(world.ack(job.token), None);
        }
        world.tidy_log();
        world.crash();
    }
    let stale = Token {
        id: *seen.iter().next().unwrap(),
        attempt: 1,
    };
    assert!(matches!(world.ack(stale), Some(ErrorCode::JobNotFound)));
}

#[test]
fn a_log_that_went_round_many_times_recovers_what_is_there() {
    let mut world = World::logged();
    world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    let mut expected = std::collections::BTreeSet::new();
    let mut n = 0u32;
    for round in 0..60 {
        for _ in 0..100 {
            let mut payload = n.to_le_bytes().to_vec();
            payload.resize(500, 0);
            world.push(world.queue("q"), &payload);
            expected.insert(n);
            n += 1;
        }
        // All but every tenth is acked; what is left wanders along at the log's tail.
        for job in world.reserve(world.queue("q"), 95) {
            let number = u32::from_le_bytes(job.payload[..4].try_into().unwrap());
            if number % 10 == 0 && expected.len() < 900 {
                world.settle(|batch| batch.nack(job.token, Some(3_600_000), None));
            } else {
                assert_eq!(world.ack(job.token), None);
                expected.remove(&number);
            }
        }
        world.tidy_log();
        if round % 7 == 0 {
            world.crash();
        }
    }
    let queue = world.queue("q");
    let stats = world.engine().queue_stats(queue).unwrap().counts;
    assert_eq!(stats.ready + stats.scheduled, expected.len() as u64);
    world.pass(4_000_000);
    let found: std::collections::BTreeSet<u32> = world
        .drain(queue)
        .iter()
        .map(|payload| u32::from_le_bytes(payload[..4].try_into().unwrap()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn memory_jobs_go_with_the_process_and_logged_ones_do_not() {
    let mut world = World::logged();
    let durability = ackring::Durability::Memory;
    let queue = world.create(
        "m",
        QueueOptions {
            durability,
            ..QueueOptions::default()
        },
    );
    let gone = world.push(queue, b"gone");
    let stays = world.push(world.queue("q"), b"stays");
    world.crash();
    assert_eq!(world.engine().job(gone).unwrap_err().code, ErrorCode::JobNotFound);
    assert_eq!(world.state(stays), JobState::Ready);
    assert_eq!(
        world
            .engine()
            .queue_stats(world.queue("m"))
            .unwrap()
            .options
            .durability,
        durability
    );
}

#[test]
fn damage_to_the_last_job_before_an_orderly_end_is_not_taken_for_a_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let config = ackring::EngineConfig {
        directory: Some(directory.path().to_owned()),
        slots: 64,
        segment_bytes: 64 * 1024,
        ..ackring::EngineConfig::default()
    };
    let engine = ackring::Engine::with(config.clone()).unwrap();
    engine
        .queue("q")
        .unwrap()
        .enqueue(b"a payload to be found again")
        .unwrap();
    drop(engine);
    for entry in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
        let mut bytes = std::fs::read(entry.path()).unwrap();
        if let Some(at) = bytes.windows(9).position(|window| window == b"a payload") {
            bytes[at] ^= 1;
            std::fs::write(entry.path(), bytes).unwrap();
        }
    }
    let error = ackring::Engine::with(config)
        .err()
        .expect("the damage was passed over")
        .to_string();
    assert!(error.contains("corrupt"), "{error}");
}
