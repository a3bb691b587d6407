//! What went wrong where two rules meet, at the ends of ranges, or when the log is full: each under its symptom.

use crate::disk::{SimDisk, SimOptions};
use crate::symptoms::fill_log;
use crate::world::{Collect, Delivered, World};
use ackring::engine::{Confirmed, DeliveryHead, DeliverySink, Engine, EnqueueReply, QueueId, RequestId};
use ackring::{
    Backoff, EnqueueBatch, EnqueueBuilder, ErrorCode, JobId, JobOptions, JobState, QueueOptions, Refusal,
};
use std::collections::HashSet;

fn no_backoff() -> QueueOptions {
    QueueOptions {
        backoff: Backoff::List(vec![0]),
        ..QueueOptions::default()
    }
}

fn numbered(number: u64) -> RequestId {
    RequestId { session: 77, number }
}

/// `count` jobs with empty payloads.
fn empty_jobs(count: usize) -> Vec<u8> {
    let mut builder = EnqueueBuilder::new();
    (0..count).for_each(|_| builder.push(b"", &JobOptions::default()));
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    bytes
}

fn push_empty(world: &World, queue: QueueId, count: usize, request: RequestId) -> Result<Confirmed, Refusal> {
    let bytes = empty_jobs(count);
    let batch = EnqueueBatch::parse(count, &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    world
        .engine()
        .enqueue(queue, &batch, None, request, world.now_ms, &mut reply)
}

#[test]
fn a_reserve_went_round_for_ever_over_a_job_past_its_ttl_while_the_log_was_full() {
    let mut world = World::logged();
    let (queue, busy) = (world.create("q", no_backoff()), world.queue("busy"));
    let brief = JobOptions {
        ttl_ms: 5_000,
        ..JobOptions::default()
    };
    let id = world.push_with(queue, b"x", brief);
    world.push(busy, b"y");
    let job = world.reserve_one(busy);
    fill_log(&world, job.token);
    world.now_ms += 10_000;
    assert_eq!(world.reserve(queue, 10), []);
    assert_eq!(world.state(id), JobState::Ready);
}

#[test]
fn a_purge_of_exactly_one_records_worth_sent_again_took_what_had_come_since() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    let purge = || {
        world
            .engine()
            .purge(queue, &[JobState::Ready], numbered(1), world.now_ms)
    };
    push_empty(&world, queue, 512, RequestId::NONE).unwrap();
    assert_eq!(purge().unwrap().0, 512);
    let id = world.push(queue, b"since");
    assert_eq!(purge().unwrap_err().code, ErrorCode::AlreadyApplied);
    assert_eq!(world.state(id), JobState::Ready);
}

#[test]
fn a_job_redriven_after_its_last_delivery_number_had_a_lease_that_never_ended() {
    let mut world = World::in_memory();
    let queue = world.create("q", no_backoff());
    let id = world.push(queue, b"x");
    for attempt in 1..=ackring::limits::DELIVERIES_MAX {
        let job = world.reserve_one(queue);
        assert_eq!(job.token.attempt, attempt);
        world.settle(|batch| batch.release(job.token));
    }
    assert_eq!(world.state(id), JobState::Dead);
    let mut items = Vec::new();
    let (count, _) = world
        .engine()
        .redrive(queue, Some(&[id]), 1, RequestId::NONE, world.now_ms, &mut items)
        .unwrap();
    assert_eq!((count, items[0].code), (0, ErrorCode::WrongState));
    let (count, _) = world
        .engine()
        .redrive(queue, None, 1, RequestId::NONE, world.now_ms, &mut items)
        .unwrap();
    assert_eq!((count, world.reserve(queue, 1).len()), (0, 0));
    world.pass(100_000);
    assert_eq!(world.state(id), JobState::Dead);
}

#[test]
fn an_enqueue_sent_again_was_answered_as_durable_when_its_record_was_the_first_that_was_not() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    world.push(queue, b"first of all");
    world.engine().sync().unwrap();
    push_empty(&world, queue, 1, numbered(1)).unwrap();
    let again = push_empty(&world, queue, 1, numbered(1)).unwrap();
    assert!(again.replayed);
    assert!(again.position.unwrap() > world.engine().durable());
    world.engine().sync().unwrap();
    assert!(again.position.unwrap() <= world.engine().durable());
}

#[test]
fn acks_of_many_small_jobs_did_not_fit_into_the_log_any_more() {
    let mut world = World::with(|config| {
        config.log_bytes_max = 16 * 64 * 1024;
        config.slots = 100_000;
    });
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    let mut accepted = 0;
    for _ in 0..10_000 {
        match push_empty(&world, queue, 100, RequestId::NONE) {
            Ok(_) => accepted += 100,
            Err(refused) => {
                assert_eq!(refused.code, ErrorCode::LogFull);
                break;
            }
        }
        world.now_ms += 1;
        world.engine().log_step(world.now_ms, 64);
    }
    let mut done = 0;
    loop {
        let jobs = world.reserve(queue, 1);
        let Some(job) = jobs.first() else { break };
        assert_eq!(world.ack(job.token), None, "after {done} of {accepted}");
        done += 1;
        world.now_ms += 1;
        world.engine().log_step(world.now_ms, 64);
    }
    assert_eq!(done, accepted);
}

/// Ids of `count` jobs that come and go one after the other.
fn ids_of_jobs(world: &World, queue: QueueId, count: usize) -> Vec<u64> {
    (0..count)
        .map(|_| {
            let id = world.push(queue, b"");
            let job = world.reserve_one(queue);
            assert_eq!((job.token.id, world.ack(job.token)), (id, None));
            id.0
        })
        .collect()
}

/// Whoever had a delivery of the first could settle the second.
#[test]
fn ids_given_out_since_the_last_sync_were_given_out_again_after_a_power_cut() {
    let brief = QueueOptions {
        keep_finished: 0,
        ..no_backoff()
    };
    let disk = SimDisk::new(1, SimOptions::default());
    let mut world = World::with(|config| {
        config.slots = 8;
        config.disk = disk.handle();
    });
    world.create("q", brief);
    // At once after the start, and where the first range of generations ends.
    let mut generation = 0;
    for target in [0, 65_500] {
        let queue = world.queue("q");
        while generation < target {
            generation = JobId(ids_of_jobs(&world, queue, 100)[99]).generation();
            world.now_ms += 101;
            world.engine().log_step(world.now_ms, 64);
        }
        world.engine().sync().unwrap();
        let before: HashSet<u64> = ids_of_jobs(&world, queue, 1_000).into_iter().collect();
        world.end(|_| disk.crash_power_losing_all());
        world.config.disk = disk.handle();
        world.begin();
        let queue = world.queue("q");
        let again = ids_of_jobs(&world, queue, 1_000);
        assert!(again.iter().all(|id| !before.contains(id)), "from {target}");
    }
}

#[test]
fn a_queues_number_was_given_out_again_while_jobs_of_its_former_owner_were_in_the_log() {
    let mut world = World::logged();
    let first = world.queue("first");
    world.push(first, b"x");
    let gone = world.queue("gone-by-now");
    world.push(gone, b"x");
    // As a power cut may do: the record that made the queue is lost, the later one of its job is there.
    world.end(|path| erase_record_before(path, b"gone-by-now", 38));
    world.begin();
    let other = world.queue("other");
    assert_ne!(other, gone);
    world.crash();
    let other = world.queue("other");
    assert_eq!(world.reserve(other, 1), []);
}

/// Takes the commit word away from the record whose header begins `back` bytes before `text`.
fn erase_record_before(path: &std::path::Path, text: &[u8], back: usize) {
    use std::os::unix::fs::FileExt;
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let bytes = std::fs::read(entry.path()).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|found| found == text) {
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(entry.path())
                .unwrap();
            file.write_all_at(&[0; 8], (at - back) as u64).unwrap();
            return;
        }
    }
    panic!("no such record");
}

/// The step is lost by the power cut, and so the job must still be there that it settled.
#[test]
fn a_job_settled_by_a_step_was_gone_after_a_power_cut_that_took_the_step() {
    let mut world = World::logged();
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    // What the first segment tells of queues goes elsewhere, and the job into a segment that tells of nothing else.
    fill_segment(&world, queue);
    world.tidy_log();
    fill_segment(&world, queue);
    world.push(queue, b"first");
    let job = world.reserve_one(queue);
    fill_segment(&world, queue);
    world.tidy_log();
    step_to(&world, job.token, queue, b"second");
    let in_use = world.engine().segments_in_use().0;
    for _ in 0..10 {
        // No second passes, so nothing is synced in the background.
        world.engine().log_step(world.now_ms, 64);
    }
    assert_eq!(world.engine().segments_in_use().0, in_use);
    world.tidy_log();
    assert!(world.engine().segments_in_use().0 < in_use);
    assert_eq!(world.drain(queue), [b"second".to_vec()]);
}

/// Jobs come and go until the log is in its next segment.
fn fill_segment(world: &World, queue: QueueId) {
    let in_use = world.engine().segments_in_use().0;
    while world.engine().segments_in_use().0 == in_use {
        world.push(queue, &[1; 1_000]);
        let job = world.reserve_one(queue);
        assert_eq!(world.ack(job.token), None);
    }
}

/// Acks one job and enqueues another in one step.
fn step_to(world: &World, token: ackring::Token, queue: QueueId, payload: &[u8]) {
    let mut acks = ackring::SettleBuilder::new();
    acks.ack(token, None);
    let mut settle = Vec::new();
    acks.write_to(&mut settle);
    let mut builder = EnqueueBuilder::new();
    builder.push(payload, &JobOptions::default());
    let mut jobs = Vec::new();
    builder.write_to(&mut jobs);
    world
        .engine()
        .step_atomic(
            Some(&ackring::SettleBatch::parse(1, &settle).unwrap()),
            &[(queue, EnqueueBatch::parse(1, &jobs).unwrap())],
            RequestId::NONE,
            world.now_ms,
            &mut EnqueueReply::default(),
        )
        .unwrap();
}

/// Fills the log with jobs of `payload` bytes, then hands them out and takes them back again and again.
fn fill_and_release(segments: u64, payload: usize, batch: usize) {
    let mut world = World::with(|config| {
        config.log_bytes_max = segments * 64 * 1024;
        config.slots = 100_000;
    });
    let queue = world.create(
        "q",
        QueueOptions {
            keep_finished: 0,
            ..no_backoff()
        },
    );
    let payload = vec![1; payload];
    let jobs: Vec<(&[u8], JobOptions<'_>)> = vec![(&payload, JobOptions::default()); batch];
    let mut accepted = 0;
    while world.try_push(queue, &jobs).is_ok() {
        accepted += batch;
        world.now_ms += 101;
        world.engine().log_step(world.now_ms, 64);
    }
    for _ in 0..20_000 {
        let job = hand_out(&mut world, queue);
        world.settle(|batch| batch.release(job.token));
    }
    for _ in 0..accepted {
        let job = hand_out(&mut world, queue);
        assert_eq!(world.ack(job.token), None);
    }
    assert_eq!(world.reserve(queue, 1), []);
}

/// One delivery. Refused now and then while stragglers are copied: the agent needs a few steps for that.
fn hand_out(world: &mut World, queue: QueueId) -> Delivered {
    for _ in 0..1_000 {
        let mut sink = Collect::new();
        let (engine, now_ms) = (world.engine(), world.now_ms);
        match engine.reserve(&[queue], 1, 0, RequestId::NONE, now_ms, &mut sink) {
            Ok(_) => return sink.jobs.remove(0),
            Err(refused) => assert_eq!(refused.code, ErrorCode::LogFull),
        }
        world.now_ms += 101;
        world.engine().log_step(world.now_ms, 64);
    }
    panic!(
        "nothing is handed out any more: {:?} segments",
        world.engine().segments_in_use()
    );
}

#[test]
fn workers_that_gave_jobs_back_filled_the_log_until_nothing_could_be_acked_any_more() {
    for (segments, payload, batch) in [(64, 1_000, 10), (32, 0, 100), (32, 10_000, 1), (16, 100, 1)] {
        fill_and_release(segments, payload, batch);
    }
}

/// Asks for each job while it is handed out.
struct Curious<'a> {
    engine: &'a Engine,
    told: Vec<Result<JobState, ErrorCode>>,
}

impl DeliverySink for Curious<'_> {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, _: &[u8]) {
        let found = self.engine.job(head.token.id);
        self.told
            .push(found.map(|job| job.state).map_err(|refusal| refusal.code));
    }
}

#[test]
fn a_job_that_is_just_being_changed_is_in_progress_and_not_gone() {
    let world = World::logged();
    let queue = world.create("q", no_backoff());
    let id = world.push(queue, b"x");
    let mut sink = Curious {
        engine: world.engine(),
        told: Vec::new(),
    };
    world
        .engine()
        .reserve(&[queue], 1, 0, RequestId::NONE, world.now_ms, &mut sink)
        .unwrap();
    assert_eq!(sink.told, [Err(ErrorCode::InProgress)]);
    assert_eq!(world.state(id), JobState::Leased);
}
