//! What happens to a job between enqueue and its end, with and without a log.

use crate::world::{Collect, START_MS, World};
use ackring::engine::{EnqueueReply, RequestId};
use ackring::{
    Backoff, EnqueueBatch, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, QueueOptions,
    SettleBatch, SettleBuilder, Token,
};

fn both(test: impl Fn(World)) {
    test(World::logged());
    test(World::in_memory());
}

fn no_backoff() -> QueueOptions {
    QueueOptions {
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    }
}

#[test]
fn a_job_is_handed_out_with_what_it_was_given_and_is_done_after_its_ack() {
    both(|world| {
        let queue = world.queue("q");
        let id = world.push_with(
            queue,
            b"payload",
            JobOptions {
                meta: b"m",
                ..JobOptions::default()
            },
        );
        assert_eq!(world.state(id), JobState::Ready);
        let job = world.reserve_one(queue);
        assert_eq!((job.token.id, job.token.attempt, job.attempts), (id, 1, 1));
        assert_eq!((&job.payload[..], &job.meta[..]), (&b"payload"[..], &b"m"[..]));
        assert_eq!(world.state(id), JobState::Leased);
        assert_eq!(world.ack(job.token), None);
        assert_eq!(world.state(id), JobState::Done);
        assert!(world.reserve(queue, 1).is_empty());
    });
}

#[test]
fn an_ack_repeated_is_already_settled_and_one_with_an_old_attempt_has_lost_its_lease() {
    both(|mut world| {
        let queue = world.create("q", no_backoff());
        let id = world.push(queue, b"x");
        let first = world.reserve_one(queue);
        world.settle(|batch| batch.nack(first.token, None, Some(b"boom")));
        world.pass(1);
        let second = world.reserve_one(queue);
        assert_eq!(second.token, Token { id, attempt: 2 });
        assert_eq!(world.ack(first.token), Some(ErrorCode::LeaseLost));
        assert_eq!(world.state(id), JobState::Leased);
        assert_eq!(world.ack(second.token), None);
        assert_eq!(world.ack(second.token), Some(ErrorCode::AlreadySettled));
        assert_eq!(world.ack(first.token), Some(ErrorCode::LeaseLost));
        assert_eq!(
            world.ack(Token {
                id: JobId(77 << 32 | 5),
                attempt: 1
            }),
            Some(ErrorCode::JobNotFound)
        );
        assert_eq!(
            world.ack(Token {
                id: JobId(u64::MAX),
                attempt: 1
            }),
            Some(ErrorCode::JobNotFound)
        );
    });
}

#[test]
fn the_same_ack_twice_in_one_batch_is_settled_once() {
    both(|world| {
        let queue = world.queue("q");
        world.push(queue, b"x");
        let job = world.reserve_one(queue);
        let items = world.settle(|batch| {
            batch.ack(job.token, None);
            batch.ack(job.token, None);
            batch.nack(job.token, None, None);
        });
        let codes: Vec<_> = items.iter().map(|item| (item.position, item.code)).collect();
        assert_eq!(codes, [(1, ErrorCode::AlreadySettled), (2, ErrorCode::LeaseLost)]);
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!((stats.done, stats.leased, stats.kept), (1, 0, 1));
    });
}

#[test]
fn order_is_kept_within_a_priority_and_higher_priorities_go_first() {
    both(|world| {
        let queue = world.queue("q");
        let level = |priority| JobOptions {
            priority,
            ..JobOptions::default()
        };
        let jobs: [(&[u8], _); 6] = [
            (b"low 1", level(0)),
            (b"high 1", level(7)),
            (b"high 2", level(7)),
            (b"low 2", level(0)),
            (b"mid", level(3)),
            (b"low 3", level(0)),
        ];
        world.try_push(queue, &jobs).unwrap();
        let order: Vec<String> = world
            .drain(queue)
            .into_iter()
            .map(|payload| String::from_utf8(payload).unwrap())
            .collect();
        assert_eq!(order, ["high 1", "high 2", "mid", "low 1", "low 2", "low 3"]);
    });
}

#[test]
fn a_failing_job_is_dead_after_its_attempts_and_redrive_goes_on_from_there() {
    both(|mut world| {
        let queue = world.create(
            "q",
            QueueOptions {
                max_attempts: 3,
                ..no_backoff()
            },
        );
        let id = world.push(queue, b"x");
        for attempt in 1..=3 {
            let job = world.reserve_one(queue);
            assert_eq!(job.token.attempt, attempt);
            let error = format!("failure {attempt}");
            world.settle(|batch| batch.nack(job.token, None, Some(error.as_bytes())));
            world.pass(1);
        }
        let dead = world.job(id);
        assert_eq!((dead.state, dead.attempts, dead.failures), (JobState::Dead, 3, 3));
        assert_eq!(dead.last_error.as_deref(), Some(&b"failure 3"[..]));
        assert!(world.reserve(queue, 1).is_empty());
        let mut items = Vec::new();
        let redriven = world
            .engine()
            .redrive(queue, None, 100, RequestId::NONE, world.now_ms, &mut items)
            .unwrap()
            .0;
        assert_eq!((redriven, items), (1, vec![]));
        let job = world.reserve_one(queue);
        assert_eq!(job.token.attempt, 4);
        assert_eq!(world.job(id).max_attempts, 6);
        assert_eq!(world.ack(job.token), None);
    });
}

#[test]
fn a_rejected_job_is_dead_at_once() {
    both(|world| {
        let queue = world.queue("q");
        let id = world.push(queue, b"x");
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.reject(job.token, Some(b"never")));
        let dead = world.job(id);
        assert_eq!(
            (dead.state, dead.last_error.as_deref()),
            (JobState::Dead, Some(&b"never"[..]))
        );
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!(
            (stats.dead, stats.failures, stats.buried, stats.leased),
            (1, 1, 1, 0)
        );
    });
}

#[test]
fn a_release_uses_no_attempt_but_fences_the_old_token() {
    both(|world| {
        let queue = world.create(
            "q",
            QueueOptions {
                max_attempts: 1,
                ..no_backoff()
            },
        );
        let id = world.push(queue, b"x");
        for round in 1..=5 {
            let job = world.reserve_one(queue);
            assert_eq!((job.token.attempt, job.attempts), (round, 1));
            world.settle(|batch| batch.release(job.token));
            let status = world.job(id);
            assert_eq!(
                (status.state, status.attempts, status.max_attempts),
                (JobState::Ready, 0, 1)
            );
            assert_eq!(world.ack(job.token), Some(ErrorCode::LeaseLost));
        }
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.nack(job.token, None, None));
        assert_eq!(world.state(id), JobState::Dead);
    });
}

#[test]
fn a_lease_that_runs_out_gives_the_job_back_and_an_extension_keeps_it() {
    both(|mut world| {
        let queue = world.create(
            "q",
            QueueOptions {
                lease_ms: 1_000,
                ..no_backoff()
            },
        );
        let id = world.push(queue, b"x");
        let job = world.reserve_one(queue);
        assert_eq!(job.lease_ms, 1_000);
        world.pass(900);
        assert_eq!(world.settle(|batch| batch.extend(job.token, 0)), []);
        world.pass(900);
        assert_eq!(world.state(id), JobState::Leased);
        world.pass(150);
        let status = world.job(id);
        assert_eq!(
            (status.state, status.expiries, status.attempts),
            (JobState::Ready, 1, 1)
        );
        assert_eq!(world.ack(job.token), Some(ErrorCode::LeaseLost));
        assert_eq!(world.reserve_one(queue).token.attempt, 2);
    });
}

#[test]
fn a_job_that_kills_its_workers_reaches_its_limit() {
    both(|mut world| {
        let queue = world.create(
            "q",
            QueueOptions {
                lease_ms: 100,
                max_attempts: 2,
                ..no_backoff()
            },
        );
        let id = world.push(queue, b"x");
        for _ in 0..2 {
            world.reserve_one(queue);
            world.pass(150);
        }
        assert_eq!(world.state(id), JobState::Dead);
    });
}

#[test]
fn a_lease_shortened_by_a_disconnect_ends_early_and_others_do_not() {
    both(|mut world| {
        let queue = world.create("q", no_backoff());
        let (a, b) = (world.push(queue, b"a"), world.push(queue, b"b"));
        let jobs = world.reserve(queue, 2);
        world.pass(20);
        let ends_ms = world.engine().lease_end_ms(jobs[0].token).unwrap();
        let extended = (jobs[1].token, ends_ms - 1);
        world.engine().shorten_leases([extended], world.now_ms + 500);
        world
            .engine()
            .shorten_leases([(jobs[0].token, ends_ms)], world.now_ms + 500);
        world.pass(400);
        assert_eq!(
            (world.state(a), world.state(b)),
            (JobState::Leased, JobState::Leased)
        );
        world.pass(200);
        assert_eq!(
            (world.state(a), world.state(b)),
            (JobState::Ready, JobState::Leased)
        );
    });
}

#[test]
fn a_delayed_job_comes_when_it_is_due_and_a_due_time_is_a_time() {
    both(|mut world| {
        let queue = world.queue("q");
        let later = world.push_with(
            queue,
            b"later",
            JobOptions {
                delay_ms: 5_000,
                ..JobOptions::default()
            },
        );
        let due_ms = START_MS + 2_000;
        world.push_with(
            queue,
            b"sooner",
            JobOptions {
                due_ms,
                ..JobOptions::default()
            },
        );
        world.push_with(
            queue,
            b"past",
            JobOptions {
                due_ms: 5,
                ..JobOptions::default()
            },
        );
        assert_eq!(world.state(later), JobState::Scheduled);
        assert_eq!(world.drain(queue), [b"past".to_vec()]);
        world.pass(1_990);
        assert!(world.reserve(queue, 1).is_empty());
        world.pass(50);
        assert_eq!(world.drain(queue), [b"sooner".to_vec()]);
        world.pass(3_000);
        assert_eq!(world.drain(queue), [b"later".to_vec()]);
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!((stats.scheduled, stats.ready, stats.done), (0, 0, 3));
    });
}

#[test]
fn a_nack_waits_for_the_backoff_or_the_delay_that_it_names() {
    both(|mut world| {
        let backoff = Backoff::List(vec![1_000, 5_000]);
        let queue = world.create(
            "q",
            QueueOptions {
                backoff,
                ..QueueOptions::default()
            },
        );
        let id = world.push(queue, b"x");
        let nack = |world: &World, delay| {
            let job = world.reserve_one(queue);
            world.settle(|batch| batch.nack(job.token, delay, None));
            world.job(id).at_ms - world.now_ms
        };
        assert_eq!(nack(&world, None), 1_000);
        world.pass(1_020);
        assert_eq!(nack(&world, None), 5_000);
        world.pass(5_020);
        assert_eq!(nack(&world, Some(7)), 7);
        world.pass(30);
        assert_eq!(world.state(id), JobState::Ready);
    });
}

#[test]
fn a_ttl_ends_a_job_that_nobody_took_but_not_one_that_is_being_worked_on() {
    both(|mut world| {
        let queue = world.create("q", no_backoff());
        let ttl = JobOptions {
            ttl_ms: 1_000,
            ..JobOptions::default()
        };
        let taken = world.push_with(queue, b"taken", ttl);
        let waiting = world.push_with(queue, b"waiting", ttl);
        let job = world.reserve_one(queue);
        world.pass(1_100);
        assert_eq!(
            (world.state(taken), world.state(waiting)),
            (JobState::Leased, JobState::Expired)
        );
        world.settle(|batch| batch.nack(job.token, None, None));
        assert_eq!(world.state(taken), JobState::Expired);
        assert!(world.reserve(queue, 5).is_empty());
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!(
            (stats.expired, stats.ready, stats.leased, stats.kept),
            (2, 0, 0, 2)
        );
    });
}

#[test]
fn a_ttl_is_seen_at_the_pop_even_before_the_timer() {
    both(|mut world| {
        let queue = world.queue("q");
        let id = world.push_with(
            queue,
            b"x",
            JobOptions {
                ttl_ms: 10,
                ..JobOptions::default()
            },
        );
        world.push(queue, b"y");
        world.now_ms += 11;
        assert_eq!(world.drain(queue), [b"y".to_vec()]);
        assert_eq!(world.state(id), JobState::Expired);
    });
}

#[test]
fn cancel_takes_a_job_out_wherever_it_stands() {
    both(|mut world| {
        let queue = world.create(
            "q",
            QueueOptions {
                max_attempts: 1,
                ..no_backoff()
            },
        );
        let dead = world.push(queue, b"dead");
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.nack(job.token, None, None));
        let leased = world.push(queue, b"leased");
        let lease = world.reserve_one(queue);
        let ready = world.push(queue, b"ready");
        let scheduled = world.push_with(
            queue,
            b"s",
            JobOptions {
                delay_ms: 100,
                ..JobOptions::default()
            },
        );
        let ids = [dead, leased, ready, scheduled];
        let mut items = Vec::new();
        world
            .engine()
            .cancel(&ids, RequestId::NONE, world.now_ms, &mut items)
            .unwrap();
        assert_eq!(items, []);
        assert!(ids.iter().all(|id| world.state(*id) == JobState::Cancelled));
        assert_eq!(world.ack(lease.token), Some(ErrorCode::LeaseLost));
        world.pass(200);
        assert!(world.reserve(queue, 5).is_empty());
        world
            .engine()
            .cancel(&[ready, JobId(9)], RequestId::NONE, world.now_ms, &mut items)
            .unwrap();
        let codes: Vec<_> = items.iter().map(|item| item.code).collect();
        assert_eq!(codes, [ErrorCode::AlreadySettled, ErrorCode::JobNotFound]);
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!(
            (
                stats.ready,
                stats.scheduled,
                stats.leased,
                stats.dead,
                stats.bytes
            ),
            (0, 0, 0, 0, 0)
        );
    });
}

#[test]
fn a_result_is_kept_with_the_job_and_the_last_error_beside_it() {
    both(|mut world| {
        let queue = world.create("q", no_backoff());
        let id = world.push(queue, b"x");
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.nack(job.token, None, Some(b"first try")));
        world.pass(1);
        let job = world.reserve_one(queue);
        world.settle(|batch| batch.ack(job.token, Some(b"42")));
        let done = world.job(id);
        assert_eq!(done.state, JobState::Done);
        assert_eq!(done.result.as_deref(), Some(&b"42"[..]));
        assert_eq!(done.last_error.as_deref(), Some(&b"first try"[..]));
        assert_eq!(world.ack(job.token), Some(ErrorCode::AlreadySettled));
    });
}

#[test]
fn only_so_many_finished_jobs_are_kept() {
    for keep_finished in [0, 3] {
        both(|world| {
            let queue = world.create(
                "q",
                QueueOptions {
                    keep_finished,
                    ..QueueOptions::default()
                },
            );
            let ids: Vec<JobId> = (0..10).map(|n| world.push(queue, &[n])).collect();
            assert_eq!(world.drain(queue).len(), 10);
            let kept = ids.iter().filter(|id| world.engine().job(**id).is_ok()).count();
            assert_eq!(kept, keep_finished as usize);
            assert_eq!(
                world.engine().queue_stats(queue).unwrap().counts.kept,
                u64::from(keep_finished)
            );
        });
    }
}

#[test]
fn a_paused_queue_hands_out_nothing_and_takes_all_else() {
    both(|world| {
        let queue = world.queue("q");
        world.push(queue, b"1");
        world
            .engine()
            .pause(queue, RequestId::NONE, world.now_ms)
            .unwrap();
        world.push(queue, b"2");
        assert!(world.reserve(queue, 5).is_empty());
        world
            .engine()
            .resume(queue, RequestId::NONE, world.now_ms)
            .unwrap();
        assert_eq!(world.drain(queue), [b"1".to_vec(), b"2".to_vec()]);
    });
}

#[test]
fn a_purge_takes_the_states_that_it_names() {
    both(|mut world| {
        let queue = world.queue("q");
        let leased = world.push(queue, b"leased");
        world.reserve_one(queue);
        for n in 0..600u32 {
            world.push(queue, &n.to_le_bytes());
        }
        let later = JobOptions {
            delay_ms: 50,
            ..JobOptions::default()
        };
        world.push_with(queue, b"later", later);
        let states = [JobState::Ready, JobState::Scheduled];
        let purged = world
            .engine()
            .purge(queue, &states, RequestId::NONE, world.now_ms)
            .unwrap()
            .0;
        assert_eq!(purged, 601);
        world.pass(100);
        assert!(world.reserve(queue, 5).is_empty());
        assert_eq!(world.state(leased), JobState::Leased);
        let stats = world.engine().queue_stats(queue).unwrap().counts;
        assert_eq!((stats.ready, stats.scheduled, stats.leased), (0, 0, 1));
    });
}

#[test]
fn a_deleted_queue_is_gone_with_its_jobs_and_its_name_is_free() {
    both(|world| {
        let queue = world.queue("q");
        let id = world.push(queue, b"x");
        world.push_with(
            queue,
            b"later",
            JobOptions {
                delay_ms: 50,
                ..JobOptions::default()
            },
        );
        let job = world.reserve_one(queue);
        world
            .engine()
            .delete(queue, RequestId::NONE, world.now_ms)
            .unwrap();
        assert_eq!(world.engine().job(id).unwrap_err().code, ErrorCode::JobNotFound);
        assert_eq!(world.ack(job.token), Some(ErrorCode::JobNotFound));
        assert_eq!(
            world.engine().find_queue("q").unwrap_err().code,
            ErrorCode::QueueNotFound
        );
        let refused = world
            .try_push(queue, &[(b"y", JobOptions::default())])
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::QueueNotFound);
        let again = world.queue("q");
        assert_ne!(again, queue);
        world.push(again, b"new");
        assert_eq!(world.drain(again), [b"new".to_vec()]);
    });
}

#[test]
fn a_key_makes_one_job_of_many_enqueues() {
    both(|mut world| {
        let options = QueueOptions {
            dedupe_window_ms: 1_000,
            ..QueueOptions::default()
        };
        let queue = world.create("q", options);
        let keyed = |key| JobOptions {
            key,
            ..JobOptions::default()
        };
        let jobs: [(&[u8], _); 4] = [
            (b"a", keyed(b"k1")),
            (b"a", keyed(b"k1")),
            (b"other", keyed(b"k1")),
            (b"a", keyed(b"k2")),
        ];
        let reply = world.try_push(queue, &jobs).unwrap();
        assert_eq!(reply.ids[0], reply.ids[1]);
        assert_eq!(reply.ids[2], 0);
        assert_ne!(reply.ids[3], reply.ids[0]);
        let expected = [
            ItemError {
                position: 1,
                code: ErrorCode::Duplicate,
            },
            ItemError {
                position: 2,
                code: ErrorCode::KeyConflict,
            },
        ];
        assert_eq!(reply.items, expected);
        assert_eq!(world.drain(queue).len(), 2);
        let again = world.try_push(queue, &[(b"a", keyed(b"k1"))]).unwrap();
        assert_eq!(again.ids[0], reply.ids[0], "the key outlives its job");
        world.pass(1_000);
        let later = world.try_push(queue, &[(b"a", keyed(b"k1"))]).unwrap();
        assert_ne!(later.ids[0], reply.ids[0], "the window is over");
    });
}

#[test]
fn a_step_settles_and_enqueues_or_does_neither() {
    both(|world| {
        let (from, to) = (world.queue("from"), world.queue("to"));
        world.push(from, b"1");
        let job = world.reserve_one(from);
        let mut settles = SettleBuilder::new();
        settles.ack(job.token, Some(b"result"));
        let mut jobs = EnqueueBuilder::new();
        jobs.push(b"next", &JobOptions::default());
        let (mut settle_bytes, mut job_bytes) = (Vec::new(), Vec::new());
        settles.write_to(&mut settle_bytes);
        jobs.write_to(&mut job_bytes);
        let settles = SettleBatch::parse(1, &settle_bytes).unwrap();
        let groups = [(to, EnqueueBatch::parse(1, &job_bytes).unwrap())];
        let mut reply = EnqueueReply::default();
        let step = |reply: &mut EnqueueReply| {
            world
                .engine()
                .step_atomic(Some(&settles), &groups, RequestId::NONE, world.now_ms, reply)
        };
        step(&mut reply).unwrap();
        assert_eq!(reply.ids.len(), 1);
        let refused = step(&mut reply).unwrap_err();
        assert_eq!(refused.code, ErrorCode::StepRefused);
        assert_eq!(world.drain(to), [b"next".to_vec()]);
    });
}

#[test]
fn a_reserve_takes_from_several_queues_and_respects_the_bytes_it_may_bring() {
    both(|world| {
        let (a, b) = (world.queue("a"), world.queue("b"));
        (0..3).for_each(|_| _ = world.push(a, &[7; 100]));
        world.push(b, &[8; 100]);
        let mut sink = Collect {
            bytes_left: 250,
            ..Collect::new()
        };
        world
            .engine()
            .reserve(&[a, b], 10, 0, RequestId::NONE, world.now_ms, &mut sink)
            .unwrap();
        assert_eq!(sink.jobs.len(), 2);
        let mut sink = Collect {
            bytes_left: 10,
            ..Collect::new()
        };
        world
            .engine()
            .reserve(&[a, b], 10, 0, RequestId::NONE, world.now_ms, &mut sink)
            .unwrap();
        assert_eq!(sink.jobs.len(), 1, "one job always fits");
        let mut sink = Collect::new();
        world
            .engine()
            .reserve(&[a, b], 10, 0, RequestId::NONE, world.now_ms, &mut sink)
            .unwrap();
        assert_eq!(sink.jobs[0].payload, [8; 100]);
    });
}

#[test]
fn listing_and_peeking_show_and_do_not_touch() {
    both(|world| {
        let queue = world.queue("q");
        let ids: Vec<JobId> = (0..5u8).map(|n| world.push(queue, &[n])).collect();
        let other = world.queue("other");
        world.push(other, b"x");
        let mut seen = Vec::new();
        let mut cursor = 0;
        loop {
            let page = world
                .engine()
                .list_jobs(queue, Some(JobState::Ready), cursor, 2)
                .unwrap();
            seen.extend(page.jobs.iter().map(|job| job.id));
            cursor = page.next_cursor;
            if cursor == 0 {
                break;
            }
        }
        seen.sort_unstable();
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        assert_eq!(seen, sorted);
        let peeked = world.engine().peek(queue, 3).unwrap();
        assert_eq!(peeked.iter().map(|job| job.id).collect::<Vec<_>>(), ids[..3]);
        assert_eq!(peeked[1].payload, [1]);
        assert_eq!(world.drain(queue).len(), 5);
        let names: Vec<String> = world
            .engine()
            .queue_list("", 10)
            .into_iter()
            .map(|stats| stats.name)
            .collect();
        assert_eq!(names, ["other", "q"]);
    });
}
