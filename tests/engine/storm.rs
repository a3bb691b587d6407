//! Every operation of the engine at once on few slots, queues made and deleted in between: at the end every job is
//! accounted for, nothing was handed out twice under one token, and no slot and no segment is lost.

use crate::threads::draw;
use crate::world::World;
use ackring::engine::{DeliveryHead, DeliverySink, Engine, EnqueueReply, QueueId, RequestId};
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, JobId, JobOptions, JobState, QueueOptions,
    SettleBatch, SettleBuilder, Token,
};
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Slots of the engine.
const SLOTS: u32 = 300;
/// Finished jobs that a queue keeps.
const KEPT: u32 = 15;
/// Names of queues; what they stand for changes as they are deleted and made anew.
const NAMES: [&str; 3] = ["a", "b", "c"];
const STATES: [JobState; 6] = [
    JobState::Ready,
    JobState::Scheduled,
    JobState::Leased,
    JobState::Dead,
    JobState::Done,
    JobState::Cancelled,
];

/// What is being worked on, and what the threads have seen.
struct Storm<'a> {
    engine: &'a Engine,
    seed: u64,
    clock: AtomicU64,
    queues: [AtomicU64; NAMES.len()],
    /// Jobs accepted so far, and how many are to be.
    accepted: AtomicU64,
    accepted_max: u64,
    over: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    /// Jobs accepted, by queue.
    accepted: HashMap<QueueId, u64>,
    /// Acks that were told as done, by queue.
    acked: HashMap<QueueId, Vec<JobId>>,
    tokens: HashSet<Token>,
}

/// Tokens with the queue that they came from.
#[derive(Default)]
struct Tokens(Vec<(Token, QueueId)>);

impl DeliverySink for Tokens {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        assert!(body.iter().all(|byte| *byte == 5), "a body that is not the job's");
        self.0.push((head.token, head.queue));
    }
}

fn options() -> QueueOptions {
    QueueOptions {
        keep_finished: KEPT,
        lease_ms: 40,
        max_attempts: 3,
        backoff: Backoff::List(vec![0, 20]),
        dedupe_window_ms: 1_000,
        ..QueueOptions::default()
    }
}

impl Storm<'_> {
    fn now_ms(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn queue(&self, seed: &mut u64) -> QueueId {
        QueueId(self.queues[draw(seed, NAMES.len() as u64) as usize].load(Ordering::Relaxed) as u32)
    }

    /// Enqueues batches until enough were accepted; each is sent a second time now and then.
    fn produce(&self, producer: u64) {
        let mut seed = self.seed.wrapping_add(producer);
        let mut number = 0;
        while self.accepted.load(Ordering::Relaxed) < self.accepted_max && !self.is_over() {
            let queue = self.queue(&mut seed);
            let mut builder = EnqueueBuilder::new();
            let count = if draw(&mut seed, 3) == 0 {
                1
            } else {
                1 + draw(&mut seed, 12)
            };
            for _ in 0..count {
                let key = draw(&mut seed, 200).to_le_bytes();
                let some = |seed: &mut u64, ms| if draw(seed, 6) == 0 { ms } else { 0 };
                let options = JobOptions {
                    priority: draw(&mut seed, 3) as u8,
                    delay_ms: some(&mut seed, 20),
                    ttl_ms: some(&mut seed, 60),
                    key: if draw(&mut seed, 8) == 0 { &key } else { b"" },
                    ..JobOptions::default()
                };
                builder.push(&[5; 90], &options);
            }
            let mut bytes = Vec::new();
            builder.write_to(&mut bytes);
            let batch = EnqueueBatch::parse(builder.count(), &bytes).unwrap();
            number += 1;
            let session = 1 + u128::from(producer);
            let request = RequestId { session, number };
            let level =
                [Durability::Memory, Durability::Written, Durability::Synced][draw(&mut seed, 3) as usize];
            let mut reply = EnqueueReply::default();
            let send = |reply: &mut EnqueueReply| {
                self.engine
                    .enqueue(queue, &batch, Some(level), request, self.now_ms(), reply)
            };
            match send(&mut reply) {
                Ok(confirmed) => {
                    if confirmed.level == Durability::Synced {
                        let position = confirmed.position.unwrap();
                        self.engine.sync_to(position).unwrap();
                        assert!(self.engine.durable() >= position);
                    }
                    let fresh = (count as usize - reply.items.len()) as u64;
                    self.accepted.fetch_add(fresh, Ordering::Relaxed);
                    *self.seen.lock().unwrap().accepted.entry(queue).or_default() += fresh;
                    if draw(&mut seed, 4) == 0 {
                        let mut again = EnqueueReply::default();
                        match send(&mut again) {
                            Ok(confirmed) => assert!(confirmed.replayed && again.ids == reply.ids),
                            Err(refusal) => assert_eq!(refusal.code, ErrorCode::AlreadyApplied),
                        }
                    }
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Reserves from one or two queues and settles in all ways, some in one step with new jobs.
    fn work(&self, worker: u64) {
        let mut seed = self.seed.wrapping_add(1_000 + worker);
        while !self.is_over() {
            let mut queues = vec![self.queue(&mut seed)];
            if draw(&mut seed, 3) == 0 {
                queues.push(self.queue(&mut seed));
            }
            let max = 1 + draw(&mut seed, 30) as usize;
            let mut sink = Tokens::default();
            let answer = self
                .engine
                .reserve(&queues, max, 0, RequestId::NONE, self.now_ms(), &mut sink);
            if answer.is_err() || sink.0.is_empty() {
                std::thread::yield_now();
                continue;
            }
            self.note_tokens(&sink.0);
            self.settle(&sink.0, &mut seed);
        }
    }

    fn note_tokens(&self, tokens: &[(Token, QueueId)]) {
        let mut seen = self.seen.lock().unwrap();
        for (token, _) in tokens {
            assert!(seen.tokens.insert(*token), "{token:?} was handed out twice");
        }
    }

    fn settle(&self, tokens: &[(Token, QueueId)], seed: &mut u64) {
        let mut builder = SettleBuilder::new();
        let mut acks = Vec::new();
        for (position, (token, queue)) in tokens.iter().enumerate() {
            match draw(seed, 12) {
                0 => builder.nack(*token, Some(draw(seed, 3) as u32 * 10), Some(b"e")),
                1 => builder.reject(*token, None),
                2 => builder.release(*token),
                3 => builder.extend(*token, 1 + draw(seed, 80) as u32),
                4 => {
                    self.engine.shorten_leases(
                        [(*token, self.engine.lease_end_ms(*token).unwrap_or(0))],
                        self.now_ms(),
                    );
                    builder.nack(*token, None, None);
                }
                // Left to the end of its lease: settled in vain.
                5 => builder.ack(Token { attempt: 0, ..*token }, None),
                _ => {
                    acks.push((position as u32, token.id, *queue));
                    builder.ack(*token, (draw(seed, 4) == 0).then_some(b"r"));
                }
            }
        }
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = SettleBatch::parse(builder.count(), &bytes).unwrap();
        let mut items = Vec::new();
        let done = if draw(seed, 5) == 0 {
            self.step(&batch, seed)
        } else {
            let now_ms = self.now_ms();
            self.engine
                .settle(&batch, RequestId::NONE, now_ms, &mut items)
                .is_ok()
        };
        if done {
            acks.retain(|(position, _, _)| !items.iter().any(|item| item.position == *position));
            let mut seen = self.seen.lock().unwrap();
            for (_, id, queue) in acks {
                seen.acked.entry(queue).or_default().push(id);
            }
        }
    }

    /// Settles all or nothing, and enqueues a job in the same step.
    fn step(&self, batch: &SettleBatch<'_>, seed: &mut u64) -> bool {
        let queue = self.queue(seed);
        let mut builder = EnqueueBuilder::new();
        builder.push(&[5; 60], &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let group = EnqueueBatch::parse(1, &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        let now_ms = self.now_ms();
        let done = self.engine.step_atomic(
            Some(batch),
            &[(queue, group)],
            RequestId::NONE,
            now_ms,
            &mut reply,
        );
        if done.is_ok() {
            self.accepted.fetch_add(1, Ordering::Relaxed);
            *self.seen.lock().unwrap().accepted.entry(queue).or_default() += 1;
        }
        done.is_ok()
    }

    /// What a person does: cancels, redrives, purges, pauses, deletes and makes anew.
    fn meddle(&self) {
        let mut seed = self.seed.wrapping_add(99);
        let mut items = Vec::new();
        while !self.is_over() {
            let now_ms = self.now_ms();
            let name = draw(&mut seed, NAMES.len() as u64) as usize;
            let queue = QueueId(self.queues[name].load(Ordering::Relaxed) as u32);
            // Refused where the log is full at the moment.
            match draw(&mut seed, 30) {
                0 => _ = self.engine.purge(queue, &STATES[3..], RequestId::NONE, now_ms),
                1 => _ = self.engine.purge(queue, &STATES[..3], RequestId::NONE, now_ms),
                2 | 3 => self.pause(queue),
                4 => self.delete(name, queue),
                5..10 => {
                    _ = self
                        .engine
                        .redrive(queue, None, 20, RequestId::NONE, now_ms, &mut items)
                }
                _ => {
                    let page = self
                        .engine
                        .list_jobs(queue, None, draw(&mut seed, u64::from(SLOTS)), 5)
                        .unwrap();
                    let ids: Vec<JobId> = page.jobs.iter().rev().map(|job| job.id).collect();
                    let _ = self.engine.cancel(&ids, RequestId::NONE, now_ms, &mut items);
                }
            }
            std::thread::yield_now();
        }
    }

    /// Whoever has paused a queue finds nothing there until it resumes it.
    fn pause(&self, queue: QueueId) {
        let now_ms = self.now_ms();
        if self.engine.pause(queue, RequestId::NONE, now_ms).is_err() {
            return;
        }
        for _ in 0..10 {
            let mut sink = Tokens::default();
            self.engine
                .reserve(&[queue], 5, 0, RequestId::NONE, self.now_ms(), &mut sink)
                .unwrap();
            assert_eq!(sink.0, [], "a paused queue hands nothing out");
            std::thread::yield_now();
        }
        while self.engine.resume(queue, RequestId::NONE, now_ms).is_err() {
            std::thread::yield_now();
        }
    }

    /// Whoever has deleted a queue finds neither it nor the jobs that were there.
    fn delete(&self, name: usize, queue: QueueId) {
        let now_ms = self.now_ms();
        let page = self.engine.list_jobs(queue, None, 0, 50).unwrap();
        if self.engine.delete(queue, RequestId::NONE, now_ms).is_err() {
            return;
        }
        for job in page.jobs {
            let found = self.engine.job(job.id).map(|status| (status.state, status.queue));
            assert!(found.is_err(), "{:?} outlived its queue: {found:?}", job.id);
        }
        let refusal = self
            .engine
            .reserve(&[queue], 1, 0, RequestId::NONE, now_ms, &mut Tokens::default());
        assert_eq!(refusal.unwrap_err().code, ErrorCode::QueueNotFound);
        loop {
            let made = self
                .engine
                .create_queue(NAMES[name], &options(), RequestId::NONE, now_ms);
            if let Ok((queue, _)) = made {
                return self.queues[name].store(u64::from(queue.0), Ordering::Relaxed);
            }
            std::thread::yield_now();
        }
    }

    /// The agents, each on a thread of its own; time passes with the timer.
    fn keep_time(&self) {
        while !self.is_over() {
            let now_ms = self.clock.fetch_add(10, Ordering::Relaxed);
            self.engine.timer_step(now_ms, 100);
            std::thread::yield_now();
        }
    }

    fn keep_log(&self) {
        while !self.is_over() {
            self.engine.log_step(self.now_ms(), 16);
            std::thread::yield_now();
        }
    }

    fn run(&self, pairs: u64) {
        std::thread::scope(|scope| {
            for worker in 0..pairs {
                self.spawn(scope, move || self.work(worker));
            }
            self.spawn(scope, || self.meddle());
            self.spawn(scope, || self.keep_time());
            self.spawn(scope, || self.keep_log());
            let produce = |producer| self.spawn(scope, move || self.produce(producer));
            let producers: Vec<_> = (0..pairs).map(produce).collect();
            let ends: Vec<_> = producers.into_iter().map(|producer| producer.join()).collect();
            self.over.store(true, Ordering::Relaxed);
            ends.into_iter().for_each(|end| end.unwrap());
        });
    }

    /// Starts a thread; if it panics, so that nothing goes on as it should, the others end.
    fn spawn<'s>(
        &'s self,
        scope: &'s std::thread::Scope<'s, '_>,
        body: impl FnOnce() + Send + 's,
    ) -> std::thread::ScopedJoinHandle<'s, ()> {
        struct EndOnPanic<'s>(&'s AtomicBool);
        impl Drop for EndOnPanic<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let over = &self.over;
        scope.spawn(move || {
            let _guard = EndOnPanic(over);
            body();
        })
    }
}

/// Takes what is left, one attempt after the other, until every queue has come to rest.
fn drain(world: &mut World, queues: &[QueueId], seen: &mut Seen) {
    for _ in 0..20 {
        world.tidy_log();
        world.pass(1_000);
        for queue in queues {
            let mut sink = Tokens::default();
            world
                .engine()
                .reserve(&[*queue], 300, 0, RequestId::NONE, world.now_ms, &mut sink)
                .unwrap();
            for (token, queue) in sink.0 {
                assert!(seen.tokens.insert(token), "{token:?} was handed out twice");
                assert_eq!(world.ack(token), None);
                seen.acked.entry(queue).or_default().push(token.id);
            }
        }
    }
}

/// Counts of every queue that is there, against what the threads have seen.
fn check_counts(world: &World, queues: &[QueueId], seen: &Seen) {
    for queue in queues {
        let counts = world.engine().queue_stats(*queue).unwrap().counts;
        let live = [counts.ready, counts.scheduled, counts.leased, counts.bytes];
        assert_eq!(live, [0; 4], "{counts:?}");
        let acked = seen.acked.get(queue).map_or(&[][..], Vec::as_slice);
        assert_eq!(counts.done, acked.len() as u64, "acks that were told as done");
        let distinct: HashSet<&JobId> = acked.iter().collect();
        assert_eq!(distinct.len(), acked.len(), "a job was acked twice");
        assert_eq!(counts.enqueued, seen.accepted.get(queue).copied().unwrap_or(0));
        assert_eq!(
            counts.enqueued,
            counts.done + counts.cancelled + counts.expired + counts.dead,
            "{counts:?}"
        );
        assert!(counts.kept <= u64::from(KEPT), "{counts:?}");
    }
}

fn storm(world: &mut World, accepted_max: u64, pairs: u64) {
    let seed = std::env::var("ACKRING_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(u64::from(std::process::id()));
    println!("seed {seed}; draw the same again with ACKRING_TEST_SEED={seed}");
    // How many times as long, for a longer run by hand.
    let times = std::env::var("ACKRING_TEST_TIMES").map_or(1, |times| times.parse().unwrap());
    let accepted_max = accepted_max * times;
    let queues = NAMES.map(|name| AtomicU64::new(u64::from(world.create(name, options()).0)));
    let storm = Storm {
        engine: world.engine(),
        seed,
        clock: AtomicU64::new(world.now_ms),
        queues,
        accepted: AtomicU64::new(0),
        accepted_max,
        over: AtomicBool::new(false),
        seen: Mutex::default(),
    };
    storm.run(pairs);
    let now_ms = storm.now_ms();
    let queues = storm
        .queues
        .each_ref()
        .map(|queue| QueueId(queue.load(Ordering::Relaxed) as u32));
    let mut seen = storm.seen.into_inner().unwrap();
    world.now_ms = now_ms + 1_000;
    drain(world, &queues, &mut seen);
    for queue in queues {
        let purged = world
            .engine()
            .purge(queue, &[JobState::Dead], RequestId::NONE, world.now_ms);
        purged.unwrap();
    }
    check_counts(world, &queues, &seen);
    // Nothing is kept any more: every slot can be had, and no segment is held.
    for queue in queues {
        let finished = [JobState::Done, JobState::Cancelled, JobState::Expired];
        world
            .engine()
            .purge(queue, &finished, RequestId::NONE, world.now_ms)
            .unwrap();
    }
    world.tidy_log();
    let segments = world.engine().segments();
    let live: u64 = segments.iter().flatten().map(|segment| segment.live).sum();
    assert_eq!(live, 0, "live jobs where there is no job: {segments:?}");
    let held = segments.each_ref().map(Vec::len);
    assert!(
        held[0] <= 3 && held[1] <= 1,
        "segments held by nobody: {segments:?}"
    );
    for n in 0..SLOTS {
        let pushed = world.try_push(queues[0], &[(&[5], JobOptions::default())]);
        assert!(pushed.is_ok(), "only {n} of {SLOTS} slots are free");
    }
}

#[test]
fn every_operation_at_once_over_a_log_leaves_every_job_accounted_for() {
    let mut world = World::with(|config| {
        config.slots = SLOTS;
        config.log_bytes_max = 24 * 64 * 1024;
    });
    storm(&mut world, 20_000, 2);
    let before = NAMES.map(|name| world.engine().queue_stats(world.queue(name)).unwrap().counts);
    world.crash();
    let after = NAMES.map(|name| world.engine().queue_stats(world.queue(name)).unwrap().counts);
    assert_eq!(
        after.each_ref().map(|c| c.ready),
        before.each_ref().map(|c| c.ready)
    );
    assert_eq!(after[0].ready, u64::from(SLOTS));
    assert!(
        after.iter().all(|c| [c.scheduled, c.leased, c.dead] == [0; 3]),
        "{after:?}"
    );
}

#[test]
fn every_operation_at_once_in_memory_leaves_every_job_accounted_for() {
    let mut world = World::small_in_memory(SLOTS);
    storm(&mut world, 20_000, 2);
}

/// Far more threads than cores: it ends, and nothing is lost on the way.
#[test]
fn a_storm_of_many_threads_comes_to_an_end() {
    let mut world = World::small_in_memory(SLOTS);
    storm(&mut world, 10_000, 16);
}
