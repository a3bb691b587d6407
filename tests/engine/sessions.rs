//! Requests sent again are applied once (G5b), live and through a crash.

use crate::world::{Collect, World};
use ackring::engine::{EnqueueReply, RequestId};
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, JobOptions, JobState, QueueOptions,
};

fn request(number: u64) -> RequestId {
    RequestId {
        session: 0xfeed_beef,
        number,
    }
}

fn three() -> [(&'static [u8], JobOptions<'static>); 3] {
    [
        (b"1", JobOptions::default()),
        (b"2", JobOptions::default()),
        (b"3", JobOptions::default()),
    ]
}

fn both(test: impl Fn(World)) {
    test(World::logged());
    test(World::in_memory());
}

#[test]
fn an_enqueue_sent_again_answers_the_same_ids_and_adds_nothing() {
    both(|world| {
        let queue = world.queue("q");
        let first = world.push_as(queue, &three(), request(1)).unwrap();
        let again = world.push_as(queue, &three(), request(1)).unwrap();
        assert_eq!(first.ids, again.ids);
        assert_eq!(world.drain(queue).len(), 3);
    });
}

#[test]
fn an_enqueue_whose_answer_was_lost_in_a_crash_is_there_once() {
    let mut world = World::logged();
    let first = world.push_as(world.queue("q"), &three(), request(1)).unwrap();
    for _ in 0..3 {
        world.crash();
        assert!(world.engine().knows_session(0xfeed_beef));
        let again = world.push_as(world.queue("q"), &three(), request(1)).unwrap();
        assert_eq!(first.ids, again.ids);
    }
    assert_eq!(world.drain(world.queue("q")).len(), 3);
}

#[test]
fn a_nack_sent_again_fails_the_job_once() {
    let mut world = World::logged();
    let options = QueueOptions {
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    };
    let queue = world.create("q", options);
    let id = world.push(queue, b"x");
    let job = world.reserve_one(queue);
    for _ in 0..3 {
        let items = world
            .settle_as(request(2), |batch| batch.nack(job.token, None, Some(b"e")))
            .unwrap();
        assert_eq!(items, []);
        world.crash();
    }
    assert_eq!(world.job(id).failures, 1);
    // A settlement that was refused the first time is refused the same way again.
    let stale = world
        .settle_as(request(3), |batch| batch.ack(job.token, None))
        .unwrap();
    assert_eq!(stale[0].code, ErrorCode::LeaseLost);
}

#[test]
fn a_reserve_sent_again_brings_the_same_deliveries() {
    both(|world| {
        let queue = world.queue("q");
        world.try_push(queue, &three()).unwrap();
        let reserve = |number| {
            let mut sink = Collect::new();
            world
                .engine()
                .reserve(&[queue], 2, 0, request(number), world.now_ms, &mut sink)
                .unwrap();
            sink.jobs
        };
        let first = reserve(1);
        assert_eq!(first.len(), 2);
        assert_eq!(world.ack(first[0].token), None);
        let again = reserve(1);
        assert_eq!(again.len(), 1, "what was settled meanwhile is not brought again");
        assert_eq!(
            (again[0].token, &again[0].payload),
            (first[1].token, &first[1].payload)
        );
        assert_eq!(reserve(2).len(), 1);
    });
}

#[test]
fn a_session_is_remembered_when_its_records_are_long_gone() {
    let mut world = World::with(|config| config.log_bytes_max = 12 * 64 * 1024);
    let options = QueueOptions {
        keep_finished: 0,
        ..QueueOptions::default()
    };
    let queue = world.create("q", options);
    world.push_as(queue, &three(), request(1)).unwrap();
    assert_eq!(world.drain(queue).len(), 3);
    for round in 0..1_500 {
        world.push(queue, &[1; 1_000]);
        let job = world.reserve_one(queue);
        assert_eq!(world.ack(job.token), None);
        if round % 20 == 0 {
            world.tidy_log();
        }
    }
    for _ in 0..2 {
        let again = world.push_as(world.queue("q"), &three(), request(1)).unwrap_err();
        assert_eq!(again.code, ErrorCode::AlreadyApplied);
        assert!(world.reserve(world.queue("q"), 1).is_empty());
        world.crash();
    }
}

#[test]
fn a_refused_request_can_be_sent_again_under_its_number() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            capacity_jobs: 3,
            ..QueueOptions::default()
        },
    );
    world.try_push(queue, &three()).unwrap();
    assert_eq!(
        world.push_as(queue, &three(), request(9)).unwrap_err().code,
        ErrorCode::QueueFull
    );
    assert_eq!(world.drain(queue).len(), 3);
    let reply: EnqueueReply = world.push_as(queue, &three(), request(9)).unwrap();
    assert_eq!(reply.ids.len(), 3);
}

/// The answer was made again as if the jobs were as safe as the log that it stands in.
#[test]
fn a_step_of_jobs_in_memory_sent_again_is_not_called_synced_when_they_are_lost() {
    let mut world = World::logged();
    let options = QueueOptions {
        durability: Durability::Memory,
        ..QueueOptions::default()
    };
    let queue = world.create("q", options);
    let step = |world: &World| {
        let mut builder = EnqueueBuilder::new();
        builder.push(b"job", &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(1, &bytes).unwrap();
        let request = RequestId {
            session: 5,
            number: 1,
        };
        let mut reply = EnqueueReply::default();
        let engine = world.engine();
        let confirmed = engine.step_atomic(None, &[(queue, batch)], request, world.now_ms, &mut reply);
        confirmed.map(|confirmed| (confirmed.level, confirmed.position.is_some(), confirmed.replayed))
    };
    assert_eq!(
        step(&world).map(|(level, _, replayed)| (level, replayed)),
        Ok((Durability::Memory, false))
    );
    world.crash();
    assert_eq!(step(&world), Ok((Durability::Memory, false, true)));
}

/// A purge that found only finished jobs was not remembered; sent again it took the jobs that had come meanwhile.
#[test]
fn a_purge_of_finished_jobs_sent_again_leaves_the_jobs_that_came_meanwhile() {
    both(|mut world| {
        let queue = world.queue("q");
        world.push(queue, b"old");
        let token = world.reserve_one(queue).token;
        assert_eq!(world.ack(token), None);
        let purge = |world: &World| {
            let engine = world.engine();
            engine.purge(queue, &JobState::ALL, request(7), world.now_ms)
        };
        assert_eq!(purge(&world).map(|(count, _)| count), Ok(1));
        let id = world.push(queue, b"new");
        assert_eq!(
            purge(&world).map_err(|refusal| refusal.code),
            Err(ErrorCode::AlreadyApplied)
        );
        if world.config.directory.is_some() {
            world.crash();
            assert_eq!(
                purge(&world).map_err(|refusal| refusal.code),
                Err(ErrorCode::AlreadyApplied)
            );
        }
        assert_eq!(world.state(id), JobState::Ready);
    });
}
