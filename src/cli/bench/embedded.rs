//! The same load on an engine in this process: no socket, no server.

use super::pace::Portion;
use super::phase::{Phase, Role, Tally};
use super::plan::Shape;
use super::target::Embedded;
use super::work::Checker;
use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder};
use crate::base::code::{Class, ErrorCode, ItemError, Refusal};
use crate::base::entry::{EnqueueEntry, pad8};
use crate::base::job::Token;
use crate::base::limits;
use crate::base::queue::Durability;
use crate::cli::exit::Failure;
use crate::embedded::Engine;
use crate::engine::{Confirmed, DeliveryHead, DeliverySink, EnqueueReply, QueueId, RequestId};
use std::time::Duration;

/// Looks at empty queues before a worker sleeps.
const LOOKS: u32 = 64;
/// The sleep of a worker that finds nothing, and of a producer that has to leave the workers time.
const NAP: Duration = Duration::from_micros(20);

/// Does what one thread has to.
pub(super) fn run(phase: &Phase<'_>, target: &Embedded, lane: &[Role]) -> Tally {
    let [role] = lane else {
        unreachable!("without a server each role has a thread of its own")
    };
    let tally = match role {
        Role::Producer => produce(phase, target),
        Role::Worker(place) => work(phase, target, *place),
    };
    phase.ended(*role, tally.failure.is_some());
    tally
}

/// Sends jobs until the pace hands out no more.
fn produce(phase: &Phase<'_>, target: &Embedded) -> Tally {
    let mut producer = Producer {
        phase,
        target,
        batch: Batch::new(phase),
        reply: EnqueueReply::default(),
        tally: Tally::default(),
    };
    phase.ready();
    let ended = producer.produce();
    producer.tally.failure = ended.err().map(Failure::refused);
    producer.tally
}

struct Producer<'a> {
    phase: &'a Phase<'a>,
    target: &'a Embedded,
    batch: Batch,
    reply: EnqueueReply,
    tally: Tally,
}

impl Producer<'_> {
    fn produce(&mut self) -> Result<(), Refusal> {
        while !self.phase.is_aborted() {
            if self.phase.is_deep() {
                std::thread::sleep(NAP);
                continue;
            }
            let now_ns = self.phase.now_ns();
            let Some(portion) = self.phase.pace.take(now_ns) else {
                return Ok(());
            };
            let due_ns = self.phase.pace.due_ns(portion.first);
            let time_ns = match due_ns {
                Some(due_ns) => {
                    sleep_until(self.phase, due_ns);
                    due_ns
                }
                None => now_ns,
            };
            self.send(portion, time_ns.max(1))?;
        }
        Ok(())
    }

    fn send(&mut self, portion: Portion, time_ns: u64) -> Result<(), Refusal> {
        let phase = self.phase;
        let engine = &self.target.engine;
        let queue = (portion.first / phase.plan.batch as u64) as usize % phase.plan.queues;
        let queue = self.target.queues[queue].id();
        let bytes = self
            .batch
            .fill(phase, portion, if phase.stamps { time_ns } else { 0 });
        let batch = EnqueueBatch::parse(portion.count, bytes)?;
        let now_ms = engine.now_ms();
        let done = engine
            .core()
            .enqueue(queue, &batch, None, RequestId::NONE, now_ms, &mut self.reply)
            .and_then(|confirmed| wait(engine, confirmed));
        let count = portion.count as u64;
        match done {
            Ok(()) => {}
            Err(refusal) if refusal.code.class() == Class::RetryLater => {
                self.tally.errors += count;
                std::thread::sleep(NAP);
                return Ok(());
            }
            Err(refusal) => {
                self.tally.errors += count;
                return Err(refusal);
            }
        }
        let times = if phase.plan.workers > 0 {
            &mut self.tally.confirm
        } else {
            &mut self.tally.latency
        };
        times.add_many(phase.now_ns().saturating_sub(time_ns), count);
        if phase.plan.payload.is_numbered() {
            phase.books.sent.add(portion);
        }
        phase.accept(count);
        Ok(())
    }
}

/// A batch as the engine reads it, made once; only numbers and times are written anew.
struct Batch {
    bytes: Vec<u8>,
    count: usize,
}

impl Batch {
    fn new(phase: &Phase<'_>) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            count: 0,
        };
        batch.make(phase, phase.plan.batch);
        batch
    }

    fn make(&mut self, phase: &Phase<'_>, count: usize) {
        let mut builder = EnqueueBuilder::new();
        let payload = vec![b'.'; phase.plan.payload.len];
        (0..count).for_each(|_| builder.push(&payload, &JobOptions::default()));
        self.bytes.clear();
        builder.write_to(&mut self.bytes);
        self.count = count;
    }

    fn fill(&mut self, phase: &Phase<'_>, portion: Portion, time_ns: u64) -> &[u8] {
        if portion.count != self.count {
            // The last one is smaller than the others.
            self.make(phase, portion.count);
        }
        let payload = phase.plan.payload;
        let bodies = &mut self.bytes[portion.count * EnqueueEntry::LEN..];
        if payload.len > 0 {
            let numbers = portion.first..;
            for (body, number) in bodies.chunks_exact_mut(pad8(payload.len)).zip(numbers) {
                payload.put(body, number, time_ns);
            }
        }
        &self.bytes
    }
}

/// Works until nothing more can come.
fn work(phase: &Phase<'_>, target: &Embedded, place: usize) -> Tally {
    let mut worker = Worker {
        phase,
        engine: &target.engine,
        queues: phase
            .plan
            .queues_of(place)
            .iter()
            .map(|queue| target.queues[*queue].id())
            .collect(),
        batch: SettleBuilder::new(),
        bytes: Vec::new(),
        items: Vec::new(),
        tally: Tally::default(),
    };
    phase.ready();
    let ended = worker.work();
    worker.tally.failure = ended.err().map(Failure::refused);
    worker.tally
}

struct Worker<'a> {
    phase: &'a Phase<'a>,
    engine: &'a Engine,
    queues: Vec<QueueId>,
    batch: SettleBuilder,
    bytes: Vec<u8>,
    items: Vec<ItemError>,
    tally: Tally,
}

/// Checks jobs off where they are, without a copy.
struct Sink<'a, 'b> {
    checker: Checker<'a>,
    batch: &'b mut SettleBuilder,
    tally: &'b mut Tally,
}

impl DeliverySink for Sink<'_, '_> {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        self.checker.take(&body[usize::from(head.meta_len)..], self.tally);
        let token: Token = head.token;
        self.batch.ack(token, None);
    }
}

impl Worker<'_> {
    fn work(&mut self) -> Result<(), Refusal> {
        let mut looks = 0;
        while !self.phase.is_aborted() && !self.phase.is_drained() {
            if self.take()? > 0 {
                looks = 0;
                continue;
            }
            looks += 1;
            if looks < LOOKS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
        }
        Ok(())
    }

    /// Reserves a batch and acks it; says how many jobs that were.
    fn take(&mut self) -> Result<usize, Refusal> {
        let mut taken = 0;
        let queues = std::mem::take(&mut self.queues);
        for portion in queues.chunks(limits::QUEUES_PER_REQUEST_MAX) {
            taken += self.take_from(portion)?;
        }
        self.queues = queues;
        Ok(taken)
    }

    fn take_from(&mut self, queues: &[QueueId]) -> Result<usize, Refusal> {
        let (phase, core) = (self.phase, self.engine.core());
        let asked_ns = phase.now_ns();
        self.batch.clear();
        let mut sink = Sink {
            checker: Checker::new(phase, asked_ns),
            batch: &mut self.batch,
            tally: &mut self.tally,
        };
        let now_ms = self.engine.now_ms();
        let confirmed = core.reserve(queues, phase.plan.batch, 0, RequestId::NONE, now_ms, &mut sink)?;
        let Sink { checker, .. } = sink;
        checker.finish(&mut self.tally);
        let count = self.batch.count();
        if count == 0 {
            return Ok(0);
        }
        wait(self.engine, confirmed)?;
        if phase.plan.shape == Shape::Reserve {
            self.tally
                .latency
                .add_many(phase.now_ns().saturating_sub(asked_ns), count as u64);
        }
        self.bytes.clear();
        self.batch.write_to(&mut self.bytes);
        let batch = SettleBatch::parse(count, &self.bytes)?;
        let confirmed = core.settle(&batch, RequestId::NONE, self.engine.now_ms(), &mut self.items)?;
        wait(self.engine, confirmed)?;
        let failed = self
            .items
            .iter()
            .filter(|item| item.code != ErrorCode::AlreadySettled)
            .count();
        self.tally.errors += failed as u64;
        phase.ack((count - failed) as u64, phase.now_ns());
        Ok(count)
    }
}

/// Waits for what a confirmation promises.
fn wait(engine: &Engine, confirmed: Confirmed) -> Result<(), Refusal> {
    match confirmed.position {
        Some(position) if confirmed.level == Durability::Synced => engine.core().sync_to(position),
        _ => Ok(()),
    }
}

/// Sleeps, and spins for what a sleep is too coarse for.
fn sleep_until(phase: &Phase<'_>, due_ns: u64) {
    const COARSE_NS: u64 = 100_000;
    loop {
        let left_ns = due_ns.saturating_sub(phase.now_ns());
        match left_ns {
            0 => return,
            1..COARSE_NS => std::thread::yield_now(),
            _ if phase.is_aborted() => return,
            _ => std::thread::sleep(Duration::from_nanos((left_ns - COARSE_NS).min(100_000_000))),
        }
    }
}
