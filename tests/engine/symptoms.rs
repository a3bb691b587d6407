//! What once went wrong, each under the symptom that it showed.

use crate::world::{Collect, START_MS, World};
use ackring::engine::{DeliveryHead, DeliverySink, EnqueueReply, QueueId, RequestId};
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, JobId, JobOptions, JobState, QueueOptions,
    SettleBatch, SettleBuilder, Token,
};

fn no_backoff() -> QueueOptions {
    QueueOptions {
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    }
}

fn numbered(number: u64) -> RequestId {
    RequestId { session: 77, number }
}

fn push_at(world: &World, queue: QueueId, payload: &[u8], level: Durability) -> (JobId, Durability) {
    push_keyed(world, queue, payload, b"", level)
}

fn push_keyed(
    world: &World,
    queue: QueueId,
    payload: &[u8],
    key: &[u8],
    level: Durability,
) -> (JobId, Durability) {
    let mut builder = EnqueueBuilder::new();
    builder.push(
        payload,
        &JobOptions {
            key,
            ..JobOptions::default()
        },
    );
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = EnqueueBatch::parse(1, &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    let confirmed = world
        .engine()
        .enqueue(
            queue,
            &batch,
            Some(level),
            RequestId::NONE,
            world.now_ms,
            &mut reply,
        )
        .unwrap();
    (JobId(reply.ids[0]), confirmed.level)
}

fn redrive(world: &World, queue: QueueId, id: JobId) {
    let mut items = Vec::new();
    world
        .engine()
        .redrive(queue, Some(&[id]), 1, RequestId::NONE, world.now_ms, &mut items)
        .unwrap();
    assert_eq!(items, []);
}

/// Fills the log with extensions of one lease until it takes no settlement any more.
pub(crate) fn fill_log(world: &World, token: Token) {
    for count in [200, 1] {
        let extend = || {
            world.settle_as(RequestId::NONE, |batch| {
                (0..count).for_each(|_| batch.extend(token, 1_000));
            })
        };
        let refused = (0..100_000).find_map(|_| extend().err());
        assert_eq!(refused.expect("the log never fills").code, ErrorCode::LogFull);
    }
}

#[test]
fn a_redriven_job_was_expired_by_the_ttl_that_no_longer_held() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let brief = JobOptions {
        ttl_ms: 5_000,
        ..JobOptions::default()
    };
    let id = world.push_with(queue, b"x", brief);
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.reject(job.token, None));
    redrive(&world, queue, id);
    world.pass(10_000);
    assert_eq!(world.state(id), JobState::Ready);
}

#[test]
fn a_job_of_another_durability_in_between_went_to_the_back_of_the_queue() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    for n in 0..20u8 {
        let level = if n % 3 == 1 {
            Durability::Memory
        } else {
            Durability::Written
        };
        push_at(&world, queue, &[n], level);
    }
    let expected: Vec<Vec<u8>> = (0..20).map(|n| vec![n]).collect();
    assert_eq!(world.drain(queue), expected);
}

#[test]
fn a_deleted_queue_beside_a_live_one_left_the_live_ones_jobs_taken_for_ever() {
    let world = World::logged();
    let (live, gone) = (world.create("live", no_backoff()), world.queue("gone"));
    let id = world.push(live, b"x");
    world
        .engine()
        .delete(gone, RequestId::NONE, world.now_ms)
        .unwrap();
    let mut sink = Collect::new();
    let refused = world
        .engine()
        .reserve(&[live, gone], 5, 0, RequestId::NONE, world.now_ms, &mut sink)
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueueNotFound);
    assert_eq!(world.state(id), JobState::Ready);
    assert_eq!(world.drain(live).len(), 1);
}

#[test]
fn two_batches_with_the_same_deliveries_in_opposite_order_waited_for_each_other_for_ever() {
    let world = World::in_memory();
    let queue = world.create("q", no_backoff());
    let engine = world.engine();
    for _ in 0..300 {
        (0..40).for_each(|_| _ = world.push(queue, b"x"));
        let tokens: Vec<Token> = world.reserve(queue, 40).iter().map(|job| job.token).collect();
        let settle = |tokens: Vec<Token>| {
            let mut builder = SettleBuilder::new();
            tokens.iter().for_each(|token| builder.ack(*token, None));
            let mut bytes = Vec::new();
            builder.write_to(&mut bytes);
            let batch = SettleBatch::parse(builder.count(), &bytes).unwrap();
            let mut items = Vec::new();
            engine
                .settle(&batch, RequestId::NONE, START_MS, &mut items)
                .unwrap();
            assert!(items.iter().all(|item| item.code == ErrorCode::AlreadySettled));
            tokens.len() - items.len()
        };
        let reversed: Vec<Token> = tokens.iter().rev().copied().collect();
        let ids: Vec<JobId> = reversed.iter().map(|token| token.id).collect();
        let applied: usize = std::thread::scope(|scope| {
            let there = scope.spawn(|| settle(tokens));
            let back = scope.spawn(|| settle(reversed));
            let cancelled = scope.spawn(|| {
                let mut items = Vec::new();
                let ids: Vec<JobId> = ids.iter().skip(20).copied().collect();
                engine
                    .cancel(&ids, RequestId::NONE, START_MS, &mut items)
                    .unwrap();
            });
            cancelled.join().unwrap();
            // What was cancelled is no ack's any more, so the batches may also find leases lost.
            there.join().unwrap_or(0) + back.join().unwrap_or(0)
        });
        assert!(applied <= 40);
        assert!(world.reserve(queue, 1).is_empty());
        assert_eq!(engine.queue_stats(queue).unwrap().counts.leased, 0);
    }
}

#[test]
fn a_deletion_that_the_log_refused_left_a_queue_that_was_neither_there_nor_gone() {
    let mut world = World::with(|config| config.log_bytes_max = 8 * 64 * 1024);
    let queue = world.create("q", no_backoff());
    let waiting = world.push(queue, b"first");
    world.push(queue, b"second");
    let job = world.reserve_one(queue);
    fill_log(&world, job.token);
    let refused = world
        .engine()
        .delete(queue, RequestId::NONE, world.now_ms)
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::LogFull);
    assert_eq!(world.engine().find_queue("q").unwrap(), queue);
    world.tidy_log();
    assert_eq!(world.ack(job.token), None);
    assert_eq!(world.state(waiting), JobState::Done);
    assert_eq!(world.drain(queue), [b"second".to_vec()]);
}

#[test]
fn a_reserve_that_the_log_refused_sent_its_jobs_to_the_back_of_the_queue() {
    let mut world = World::with(|config| config.log_bytes_max = 8 * 64 * 1024);
    let queue = world.create("q", no_backoff());
    let expected: Vec<Vec<u8>> = (0..30u8).map(|n| vec![n]).collect();
    world.push(queue, b"held");
    let held = world.reserve_one(queue);
    expected.iter().for_each(|payload| _ = world.push(queue, payload));
    fill_log(&world, held.token);
    for max in [7, 30, 10] {
        let mut sink = Collect::new();
        let refused = world
            .engine()
            .reserve(&[queue], max, 0, RequestId::NONE, world.now_ms, &mut sink)
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::LogFull);
    }
    world.tidy_log();
    assert_eq!(world.drain(queue), expected);
}

#[test]
fn a_redrive_that_left_fewer_attempts_than_before_was_undone_by_a_restart() {
    let mut world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            max_attempts: 3,
            ..no_backoff()
        },
    );
    let patient = JobOptions {
        max_attempts: 100,
        ..JobOptions::default()
    };
    let id = world.push_with(queue, b"x", patient);
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.reject(job.token, None));
    redrive(&world, queue, id);
    world.crash();
    let status = world.job(id);
    assert_eq!((status.state, status.max_attempts), (JobState::Ready, 4));
}

#[test]
fn a_lease_extended_to_an_earlier_end_had_its_old_end_back_after_a_restart() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let id = world.push(queue, b"x");
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.extend(job.token, 50));
    world.crash();
    assert_eq!(world.job(id).at_ms, world.now_ms + 50);
}

#[test]
fn a_full_queue_refused_the_repetition_of_a_job_that_was_in_it() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            capacity_jobs: 1,
            ..no_backoff()
        },
    );
    let keyed = JobOptions {
        key: b"k",
        ..JobOptions::default()
    };
    let id = world.push_with(queue, b"x", keyed);
    assert_eq!(world.try_push(queue, &[(b"x", keyed)]).unwrap().ids, [id.0]);
    let refused = world
        .try_push(queue, &[(b"x", JobOptions::default())])
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::QueueFull);
}

#[test]
fn a_job_in_memory_was_confirmed_as_written_when_it_was_repeated() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    let (first, _) = push_keyed(&world, queue, b"x", b"k", Durability::Memory);
    let again = push_keyed(&world, queue, b"x", b"k", Durability::Synced);
    assert_eq!(again, (first, Durability::Memory));
}

#[test]
fn ids_of_jobs_in_memory_were_given_out_again_after_a_restart() {
    let mut world = World::with(|config| config.slots = 64);
    world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        let queue = world.queue("q");
        for _ in 0..200 {
            let level = if round % 2 == 0 {
                Durability::Written
            } else {
                Durability::Memory
            };
            let (id, _) = push_at(&world, queue, b"x", level);
            assert!(seen.insert(id), "{id} was given out before");
            assert_eq!(world.drain(queue).len(), 1);
        }
        world.crash();
    }
}

#[test]
fn ids_were_given_out_again_after_two_restarts_with_nothing_enqueued_in_between() {
    let mut world = World::logged();
    let options = QueueOptions {
        durability: Durability::Memory,
        ..no_backoff()
    };
    let queue = world.create("q", options);
    let first = world.push(queue, b"x");
    world.crash();
    world.tidy_log();
    world.crash();
    assert_ne!(world.push(world.queue("q"), b"x"), first);
}

#[test]
fn delayed_jobs_of_one_moment_came_in_any_order_after_a_restart() {
    let mut world = World::with(|config| config.slots = 600);
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    // Slots that are used again come in another order than the jobs.
    (0..300).for_each(|_| _ = world.push(queue, b"x"));
    world.drain(queue);
    let due_ms = world.now_ms + 100_000;
    let expected: Vec<Vec<u8>> = (0..300u16).map(|n| n.to_le_bytes().to_vec()).collect();
    for payload in &expected {
        let at = JobOptions {
            due_ms,
            ..JobOptions::default()
        };
        world.push_with(queue, payload, at);
        world.pass(110);
    }
    world.crash();
    world.pass(100_000);
    assert_eq!(world.drain(world.queue("q")), expected);
}

#[test]
fn a_job_that_did_not_fit_was_overtaken_from_a_lower_priority() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    let urgent = JobOptions {
        priority: 7,
        ..JobOptions::default()
    };
    world.push_with(queue, &[1; 10], urgent);
    world.push_with(queue, &[2; 500], urgent);
    world.push(queue, &[3; 10]);
    let mut sink = Collect::new();
    sink.bytes_left = 100;
    world
        .engine()
        .reserve(&[queue], 5, 0, RequestId::NONE, world.now_ms, &mut sink)
        .unwrap();
    let first: Vec<u8> = sink.jobs.iter().map(|job| job.payload[0]).collect();
    assert_eq!(first, [1]);
}

#[test]
fn a_settlement_sent_again_was_answered_as_lost_where_it_had_been_settled_before() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let (a, _) = push_at(&world, queue, b"a", Durability::Written);
    push_at(&world, queue, b"m", Durability::Memory);
    let jobs = world.reserve(queue, 2);
    assert_eq!((jobs.len(), jobs[0].token.id), (2, a));
    push_at(&world, queue, b"b", Durability::Written);
    let b = world.reserve_one(queue);
    assert_eq!(world.ack(jobs[0].token), None);
    let send = |world: &World| {
        world
            .settle_as(numbered(1), |batch| {
                batch.ack(jobs[0].token, None);
                batch.ack(jobs[1].token, None);
                batch.ack(b.token, None);
            })
            .unwrap()
    };
    let first = send(&world);
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].position, first[0].code), (0, ErrorCode::AlreadySettled));
    assert_eq!(send(&world), first);
    world.crash();
    assert_eq!(send(&world), first);
}

#[test]
fn a_settlement_of_jobs_in_memory_sent_again_was_refused_as_applied() {
    let world = World::in_memory();
    let queue = world.create("q", no_backoff());
    world.push(queue, b"x");
    let job = world.reserve_one(queue);
    for _ in 0..2 {
        let items = world
            .settle_as(numbered(1), |batch| batch.ack(job.token, None))
            .unwrap();
        assert_eq!(items, []);
    }
}

#[test]
fn a_cancel_a_pause_and_a_redrive_sent_again_were_refused_as_applied() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let (a, b) = (world.push(queue, b"a"), world.push(queue, b"b"));
    let job = world.reserve_one(queue);
    world.settle(|batch| batch.reject(job.token, None));
    for _ in 0..2 {
        for _ in 0..2 {
            let queue = world.queue("q");
            let (engine, now_ms) = (world.engine(), world.now_ms);
            let mut items = Vec::new();
            engine
                .cancel(&[b, JobId(99 << 32)], numbered(1), now_ms, &mut items)
                .unwrap();
            assert_eq!((items.len(), items[0].code), (1, ErrorCode::JobNotFound));
            engine.pause(queue, numbered(2), now_ms).unwrap();
            let (count, _) = engine
                .redrive(queue, Some(&[a]), 1, numbered(3), now_ms, &mut items)
                .unwrap();
            assert_eq!((count, items.len()), (1, 0));
        }
        assert_eq!(
            (world.state(a), world.state(b)),
            (JobState::Ready, JobState::Cancelled)
        );
        world.crash();
    }
}

#[test]
fn a_queue_creation_sent_again_made_a_deleted_queue_anew() {
    let world = World::logged();
    let (engine, now_ms) = (world.engine(), world.now_ms);
    let create = || engine.create_queue("q", &no_backoff(), numbered(1), now_ms);
    let (queue, _) = create().unwrap();
    assert_eq!(create().unwrap().0, queue);
    engine.delete(queue, RequestId::NONE, now_ms).unwrap();
    assert_eq!(create().unwrap_err().code, ErrorCode::QueueNotFound);
    assert_eq!(engine.find_queue("q").unwrap_err().code, ErrorCode::QueueNotFound);
}

#[test]
fn a_step_sent_again_forgot_the_ids_of_its_jobs_in_memory() {
    let world = World::logged();
    let volatile = world.create(
        "memory",
        QueueOptions {
            durability: Durability::Memory,
            ..no_backoff()
        },
    );
    let logged = world.create("logged", no_backoff());
    let mut builder = EnqueueBuilder::new();
    builder.push(b"x", &JobOptions::default());
    builder.push(b"y", &JobOptions::default());
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = EnqueueBatch::parse(2, &bytes).unwrap();
    let send = || {
        let mut reply = EnqueueReply::default();
        world
            .engine()
            .step_atomic(
                None,
                &[(volatile, batch), (logged, batch)],
                numbered(1),
                world.now_ms,
                &mut reply,
            )
            .unwrap();
        reply.ids
    };
    let ids = send();
    assert_eq!(ids.len(), 4);
    assert_eq!(send(), ids);
    assert_eq!((world.drain(volatile).len(), world.drain(logged).len()), (2, 2));
}

#[test]
fn a_purge_counted_what_it_cancelled_twice() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    (0..4).for_each(|_| _ = world.push(queue, b"x"));
    let job = world.reserve_one(queue);
    assert_eq!(world.ack(job.token), None);
    let (count, _) = world
        .engine()
        .purge(queue, &JobState::ALL, RequestId::NONE, world.now_ms)
        .unwrap();
    assert_eq!(count, 4);
}

#[test]
fn a_release_after_the_ttl_was_not_counted() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let brief = JobOptions {
        ttl_ms: 100,
        ..JobOptions::default()
    };
    world.push_with(queue, b"x", brief);
    let job = world.reserve_one(queue);
    world.pass(200);
    world.settle(|batch| batch.release(job.token));
    let counts = world.engine().queue_stats(queue).unwrap().counts;
    assert_eq!((counts.releases, counts.expired), (1, 1));
    world.crash();
    let queue = world.queue("q");
    assert_eq!(world.engine().queue_stats(queue).unwrap().counts, counts);
}

#[test]
fn jobs_of_a_deleted_queue_were_copied_and_counted_again_after_a_restart() {
    let mut world = World::with(|config| config.log_bytes_max = 12 * 64 * 1024);
    let options = QueueOptions {
        keep_finished: 0,
        ..no_backoff()
    };
    let (gone, stays) = (
        world.create("gone", options.clone()),
        world.create("stays", options),
    );
    let far = JobOptions {
        delay_ms: 1_000_000_000,
        ..JobOptions::default()
    };
    let kept = world.push_with(stays, b"far", far);
    world.push(gone, b"x");
    world
        .engine()
        .delete(gone, RequestId::NONE, world.now_ms)
        .unwrap();
    world.crash();
    for round in 0..1_500 {
        let queue = world.queue("stays");
        world.push(queue, &[1; 1_000]);
        assert_eq!(world.drain(queue).len(), 1);
        if round % 20 == 0 {
            world.tidy_log();
        }
    }
    world.crash();
    assert_eq!(world.state(kept), JobState::Scheduled);
    let counts = world.engine().queue_stats(world.queue("stays")).unwrap().counts;
    assert_eq!((counts.ready, counts.scheduled), (0, 1));
}

/// Takes some jobs and panics at the next.
struct Clumsy {
    taken: Collect,
    left: usize,
}

impl DeliverySink for Clumsy {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        assert!(self.left > 0, "a clumsy sink");
        self.left -= 1;
        self.taken.push(head, body);
    }
}

#[test]
fn jobs_stayed_busy_for_ever_when_a_sink_panicked() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let ids: Vec<JobId> = (0..5).map(|n| world.push(queue, &[n])).collect();
    let mut sink = Clumsy {
        taken: Collect::new(),
        left: 2,
    };
    let request = numbered(1);
    let reserve = |sink: &mut dyn DeliverySink| {
        let now_ms = world.now_ms;
        world.engine().reserve(&[queue], 5, 0, request, now_ms, sink)
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reserve(&mut sink)));
    assert!(panicked.is_err());
    let counts = world.engine().queue_stats(queue).unwrap().counts;
    assert_eq!((counts.leased, counts.ready, counts.deliveries), (2, 3, 5));
    // The answer made again: the deliveries that are still current.
    let mut again = Collect::new();
    assert!(reserve(&mut again).unwrap().replayed);
    assert_eq!(again.jobs, sink.taken.jobs);
    for job in sink.taken.jobs {
        assert_eq!(world.ack(job.token), None);
    }
    world.crash();
    let queue = world.queue("q");
    let rest = world.reserve(queue, 5);
    let found: Vec<JobId> = rest.iter().map(|job| job.token.id).collect();
    assert_eq!(found, ids[2..]);
    assert!(rest.iter().all(|job| job.attempts == 1), "no attempt was used up");
}

#[test]
fn purged_finished_jobs_came_back_after_a_restart() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let ids: Vec<JobId> = (0..600u32).map(|n| world.push(queue, &n.to_le_bytes())).collect();
    world.drain(queue);
    let kept = |world: &World| world.engine().queue_stats(world.queue("q")).unwrap().counts.kept;
    assert_eq!(kept(&world), 600);
    let purged = world
        .engine()
        .purge(queue, &[JobState::Done], RequestId::NONE, world.now_ms)
        .unwrap();
    assert_eq!((purged.0, kept(&world)), (600, 0));
    for _ in 0..2 {
        world.crash();
        assert_eq!(kept(&world), 0);
        assert!(ids.iter().all(|id| world.engine().job(*id).is_err()));
        world.tidy_log();
    }
}

/// They had been forgotten without a word in the log, and a start found room for them where the purged ones had been.
#[test]
fn finished_jobs_came_back_in_the_room_of_those_that_were_purged() {
    let mut world = World::logged();
    let options = QueueOptions {
        keep_finished: 3,
        ..no_backoff()
    };
    let queue = world.create("q", options);
    let kept = |world: &World| world.engine().queue_stats(world.queue("q")).unwrap().counts.kept;
    let purge = |world: &World, states: &[JobState]| {
        let queue = world.queue("q");
        let purged = world.engine().purge(queue, states, RequestId::NONE, world.now_ms);
        purged.unwrap().0
    };
    // Some that had ended one after the other, and some that the purge itself ends.
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(world.push(queue, b"x"));
        world.drain(queue);
        world.pass(10);
    }
    assert_eq!(purge(&world, &[JobState::Done]), 3);
    ids.extend((0..10).map(|_| world.push(queue, b"x")));
    assert_eq!(purge(&world, &JobState::ALL), 10);
    let after = world.push(queue, b"x");
    world.drain(queue);
    for _ in 0..2 {
        world.crash();
        assert_eq!(kept(&world), 1);
        assert!(ids.iter().all(|id| world.engine().job(*id).is_err()));
        assert_eq!(world.state(after), JobState::Done);
        world.tidy_log();
    }
}

#[test]
fn a_purge_of_one_finished_state_forgot_the_others_too() {
    let mut world = World::logged();
    let queue = world.create("q", no_backoff());
    let cancelled = world.push(queue, b"cancelled");
    let mut items = Vec::new();
    world
        .engine()
        .cancel(&[cancelled], RequestId::NONE, world.now_ms, &mut items)
        .unwrap();
    let done = world.push(queue, b"done");
    world.drain(queue);
    let ready = world.push(queue, b"ready");
    let purge = |world: &World, states: &[JobState]| {
        let queue = world.queue("q");
        let (count, _) = world
            .engine()
            .purge(queue, states, RequestId::NONE, world.now_ms)
            .unwrap();
        count
    };
    assert_eq!(purge(&world, &[JobState::Cancelled]), 1);
    for _ in 0..2 {
        assert!(world.engine().job(cancelled).is_err());
        assert_eq!(
            (world.state(done), world.state(ready)),
            (JobState::Done, JobState::Ready)
        );
        world.crash();
    }
    // What the purge itself cancels is one of the cancelled where both are named.
    assert_eq!(purge(&world, &[JobState::Ready, JobState::Cancelled]), 1);
    assert!(world.engine().job(ready).is_err());
    assert_eq!(world.state(done), JobState::Done);
    assert_eq!(purge(&world, &[JobState::Ready, JobState::Dead]), 0);
    assert_eq!(world.state(done), JobState::Done);
}

#[test]
fn a_peek_read_large_payloads_behind_small_ones_without_bound() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    (0..20).for_each(|_| _ = world.push(queue, b"x"));
    (0..20).for_each(|_| _ = world.push(queue, &[7; 10_000]));
    let peeked = world.engine().peek_within(queue, 40, 15_000).unwrap();
    let bytes: usize = peeked.iter().map(|job| job.payload.len()).sum();
    assert_eq!((peeked.len(), bytes), (22, 20_020));
    assert_eq!(world.engine().peek(queue, 40).unwrap().len(), 40);
}

#[test]
fn a_job_cancelled_twice_was_said_to_be_in_the_wrong_state() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    let (twice, done) = (world.push(queue, b"twice"), world.push(queue, b"done"));
    let mut items = Vec::new();
    let mut cancel = |ids: &[JobId]| {
        world
            .engine()
            .cancel(ids, RequestId::NONE, world.now_ms, &mut items)
            .unwrap();
        items.iter().map(|item| item.code).collect::<Vec<_>>()
    };
    assert_eq!(cancel(&[twice]), []);
    world.drain(queue);
    assert_eq!(
        cancel(&[twice, done]),
        [ErrorCode::AlreadySettled, ErrorCode::WrongState]
    );
}

#[test]
fn an_ack_behind_a_nack_of_the_same_delivery_is_not_told_that_it_was_settled() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    world.push(queue, b"job");
    let token = world.reserve_one(queue).token;
    let items = world.settle(|batch| {
        batch.nack(token, None, None);
        batch.ack(token, None);
    });
    let codes: Vec<_> = items.iter().map(|item| (item.position, item.code)).collect();
    assert_eq!(codes, [(1, ErrorCode::LeaseLost)]);
    assert_eq!(world.state(token.id), JobState::Ready);
    let token = world.reserve_one(queue).token;
    let items = world.settle(|batch| {
        batch.ack(token, None);
        batch.ack(token, None);
    });
    assert_eq!(items[0].code, ErrorCode::AlreadySettled);
}

#[test]
fn a_paused_queue_in_a_full_log_can_be_resumed() {
    let mut world = World::with(|config| {
        config.log_bytes_max = 4 * 64 * 1024;
    });
    let queue = world.queue("q");
    world.push(queue, b"first");
    let engine = world.engine();
    engine.pause(queue, RequestId::NONE, world.now_ms).unwrap();
    let body = vec![0; 20_000];
    let full = (0..40)
        .map(|_| world.try_push(queue, &[(&body, JobOptions::default())]))
        .find_map(Result::err);
    assert_eq!(full.unwrap().code, ErrorCode::LogFull);
    world
        .engine()
        .resume(queue, RequestId::NONE, world.now_ms)
        .unwrap();
    assert_eq!(world.drain(queue)[0], b"first");
    world.tidy_log();
    world.push(queue, b"there is room again");
}

#[test]
fn a_cancelled_job_of_durability_memory_is_not_said_to_be_safe_because_it_was_named_twice() {
    let world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            durability: Durability::Synced,
            ..no_backoff()
        },
    );
    let (id, _) = push_at(&world, queue, b"job", Durability::Memory);
    let mut items = Vec::new();
    let confirmed = world
        .engine()
        .cancel(&[id, id], numbered(5), world.now_ms, &mut items)
        .unwrap();
    assert_eq!(items[0].code, ErrorCode::AlreadySettled);
    assert_eq!(confirmed.level, Durability::Memory);
}
