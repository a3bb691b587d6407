//! Accepting jobs: checked, counted, given slots, logged in one record, published in order.

use super::dedupe::{Keys, Known, Verdict, body_hash};
use super::journal::{self, EnqueueHead, Kind, NUMBERED, Prelude};
use super::queue::{Event, Queue, QueueId};
use super::replay::{Applied, Begun, RequestId};
use super::slot::{Fields, KEYED, Phase, QUEUED, TIMED, VOLATILE, id_of};
use super::timer::{Entry, Watch};
use super::{Confirmed, Engine, log_refusal, replayed};
use crate::base::batch::EnqueueBatch;
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::entry::EnqueueEntry;
use crate::base::job::JobId;
use crate::base::queue::Durability;
use crate::log::{Claim, LogError, LogPosition, Room};
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;
use std::collections::HashSet;
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

/// Answer to an enqueue or a step; kept by the caller and used again, so that no request allocates.
#[derive(Debug, Clone, Default)]
pub struct EnqueueReply {
    /// An id for each job, in order: its own, the first job's for a duplicate, 0 for a conflict.
    pub ids: Vec<u64>,
    /// Positions that are no plain success.
    pub items: Vec<ItemError>,
}

impl EnqueueReply {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.items.clear();
    }
}

/// A batch that has been given slots and waits for its record.
pub(super) struct Admitted<'a> {
    pub(super) queue: &'a Queue,
    pub(super) batch: EnqueueBatch<'a>,
    /// Slots of the entries that make a job, in order.
    slots: SmallVec<[u32; 64]>,
    /// Entries that make none: position and log flag.
    others: SmallVec<[(u32, u16); 4]>,
    /// Where this batch's ids begin in the reply.
    ids_from: usize,
    bytes: u64,
    pub(super) volatile: bool,
    pub(super) highest_generation: u32,
}

impl Admitted<'_> {
    /// How many jobs it makes.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

impl Engine {
    /// Enqueues a batch into one queue: one log record, all or nothing. Ids and exceptions come in `reply`.
    ///
    /// # Errors
    /// A [`Refusal`] that holds for the whole batch: nothing was enqueued.
    pub fn enqueue(
        &self,
        queue: QueueId,
        batch: &EnqueueBatch<'_>,
        durability: Option<Durability>,
        request: RequestId,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<Confirmed, Refusal> {
        reply.clear();
        self.check_open()?;
        match self.sessions.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_enqueue(applied, reply),
            other => return Err(not_fresh(other)),
        }
        let done = self.enqueue_fresh(queue, batch, durability, request, now_ms, reply);
        if done.is_err() {
            self.sessions.abandon(request);
        }
        done
    }

    fn enqueue_fresh(
        &self,
        queue: QueueId,
        batch: &EnqueueBatch<'_>,
        durability: Option<Durability>,
        request: RequestId,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<Confirmed, Refusal> {
        let queue = self.registry.live(queue)?;
        let level = self.level(queue, durability);
        let key_table = batch.has_keys().then(|| self.dedupe.keys(queue.id));
        let mut keys = key_table.as_ref().map(|table| table.lock());
        let admitted = self.admit(queue, *batch, level, &mut keys, now_ms, reply)?;
        match self.log_enqueue(&admitted, request, now_ms, reply) {
            Ok((at, end, bodies_at)) => {
                self.publish_admitted(&admitted, bodies_at, now_ms);
                drop(keys);
                let applied = Applied {
                    position: at,
                    volatile: admitted.volatile,
                };
                self.sessions.finish(request, applied);
                self.wake(queue, admitted.slots.len());
                if queue.is_deleted() {
                    // Deleted while this was under way: what the deletion did not see goes the same way.
                    self.drop_jobs(queue, now_ms);
                }
                // A duplicate's first job may have been logged after this record was claimed by nobody's
                // fault; the end of this record lies behind it, since the key table was locked.
                Ok(Confirmed {
                    level,
                    position: (!admitted.volatile).then_some(end),
                    replayed: false,
                })
            }
            Err(error) => {
                self.unadmit(&admitted, &mut keys);
                reply.clear();
                Err(log_refusal(error))
            }
        }
    }

    /// The durability that a request for this queue gets.
    pub(super) fn level(&self, queue: &Queue, asked: Option<Durability>) -> Durability {
        if self.logged {
            asked.unwrap_or(queue.durability())
        } else {
            Durability::Memory
        }
    }

    /// Checks a batch against the queue, counts it against the capacity, and takes slots for its jobs.
    pub(super) fn admit<'a>(
        &'a self,
        queue: &'a Queue,
        batch: EnqueueBatch<'a>,
        level: Durability,
        keys: &mut Option<MutexGuard<'_, Keys>>,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<Admitted<'a>, Refusal> {
        let mut bytes = 0u64;
        for (position, entry) in batch.entries().iter().enumerate() {
            if entry.payload_len.get() > queue.options.payload_bytes_max {
                let max = queue.options.payload_bytes_max;
                let text = format!(
                    "entry {position}: queue {} takes payloads of up to {max} bytes",
                    queue.name
                );
                return Err(Refusal::new(ErrorCode::PayloadTooLarge, text));
            }
            bytes += u64::from(entry.payload_len.get()) + u64::from(entry.meta_len.get());
        }
        if let Some(keys) = keys {
            self.dedupe.make_room(keys, batch.count(), now_ms)?;
        }
        let count = batch.count();
        queue.admit(count as u64, bytes)?;
        let mut slots: SmallVec<[u32; 64]> = SmallVec::from_elem(0, count);
        let taken = self.slab.take(&mut slots);
        if taken < count {
            self.slab.give(&slots[..taken]);
            queue.counters.vacate(count as u64, bytes);
            let text = format!(
                "all {} slots hold jobs; start with more, or wait",
                self.slab.slots()
            );
            return Err(Refusal::new(ErrorCode::SlabFull, text));
        }
        let volatile = level == Durability::Memory;
        let mut admitted = Admitted {
            queue,
            batch,
            slots,
            others: SmallVec::new(),
            ids_from: reply.ids.len(),
            bytes,
            volatile,
            highest_generation: 0,
        };
        self.assign_ids(&mut admitted, keys, now_ms, reply);
        Ok(admitted)
    }

    fn assign_ids(
        &self,
        admitted: &mut Admitted<'_>,
        keys: &mut Option<MutexGuard<'_, Keys>>,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) {
        let high = self.slab.generation_high();
        let flags = if admitted.volatile { VOLATILE } else { 0 };
        let mut highest = high;
        let mut begin = |number: u32, flags: u8| {
            let word = self.slab.begin(number, high, flags);
            if super::slab::is_newer(word.generation(), highest) {
                highest = word.generation();
            }
            id_of(number, word)
        };
        let Some(keys) = keys else {
            reply
                .ids
                .extend(admitted.slots.iter().map(|number| begin(*number, flags).0));
            admitted.highest_generation = highest;
            return;
        };
        let mut used = 0;
        let sequence = if admitted.volatile {
            0
        } else {
            self.durable.tail().sequence()
        };
        for (position, item) in admitted.batch.items().enumerate() {
            let key = item.key();
            if key.is_empty() {
                reply.ids.push(begin(admitted.slots[used], flags).0);
                used += 1;
                continue;
            }
            let hash = body_hash(item.meta(), item.payload());
            let (id, outcome) = match keys.verdict(key, hash, now_ms) {
                Verdict::Fresh => {
                    let id = begin(admitted.slots[used], flags | KEYED);
                    used += 1;
                    let expires_ms = now_ms + admitted.queue.options.dedupe_window_ms;
                    self.dedupe.insert(
                        keys,
                        key,
                        Known {
                            id,
                            body_hash: hash,
                            expires_ms,
                            sequence,
                        },
                    );
                    (id.0, None)
                }
                Verdict::Duplicate(first) => (first.0, Some((EnqueueEntry::DUPLICATE, ErrorCode::Duplicate))),
                Verdict::Conflict => (0, Some((EnqueueEntry::KEY_CONFLICT, ErrorCode::KeyConflict))),
            };
            reply.ids.push(id);
            if let Some((flag, code)) = outcome {
                admitted.others.push((position as u32, flag));
                reply.items.push(ItemError {
                    position: (admitted.ids_from + position) as u32,
                    code,
                });
                let left_out = item.meta().len() as u64 + item.payload().len() as u64;
                admitted.queue.counters.vacate(1, left_out);
                admitted.bytes -= left_out;
            }
        }
        self.slab.give(&admitted.slots[used..]);
        admitted.slots.truncate(used);
        admitted.highest_generation = highest;
    }

    /// Takes an admission back: the log had no room.
    pub(super) fn unadmit(&self, admitted: &Admitted<'_>, keys: &mut Option<MutexGuard<'_, Keys>>) {
        if let Some(keys) = keys {
            let ids: HashSet<JobId> = admitted
                .slots
                .iter()
                .map(|number| id_of(*number, self.slab.slot(*number).state()))
                .collect();
            for item in admitted.batch.items().filter(|item| !item.key().is_empty()) {
                self.dedupe.remove(keys, item.key(), &ids);
            }
        }
        for number in &admitted.slots {
            let slot = self.slab.slot(*number);
            slot.publish(slot.state().with_phase(Phase::Free).without(VOLATILE | KEYED));
        }
        self.slab.give(&admitted.slots);
        admitted
            .queue
            .counters
            .vacate(admitted.slots.len() as u64, admitted.bytes);
    }

    /// Writes the record; returns where it stands, where it ends, and where the bodies begin.
    fn log_enqueue(
        &self,
        admitted: &Admitted<'_>,
        request: RequestId,
        now_ms: u64,
        reply: &EnqueueReply,
    ) -> Result<(LogPosition, LogPosition, LogPosition), LogError> {
        self.note_generation(admitted.highest_generation, now_ms)?;
        let prelude = Prelude::len_for(request);
        let len = prelude + journal::enqueue_len(&admitted.batch);
        let mut claim = self.log(admitted.volatile).claim(len, Room::Enqueue)?;
        if prelude > 0 {
            claim.put(Prelude::new(request).as_bytes());
        }
        let bodies_at = claim
            .body_position()
            .plus((prelude + journal::enqueue_bodies_offset(admitted.batch.count())) as u32);
        put_enqueue(&mut claim, admitted, reply);
        let at = claim.position();
        let flags = if prelude > 0 { NUMBERED } else { 0 };
        let end = claim.commit(Kind::Enqueue as u8, flags, now_ms, admitted.slots.len() as u32);
        Ok((at, end, bodies_at))
    }

    /// Fills the slots and makes the jobs visible, in order.
    pub(super) fn publish_admitted(&self, admitted: &Admitted<'_>, bodies_at: LogPosition, now_ms: u64) {
        let queue = admitted.queue;
        let mut timers: SmallVec<[Entry; 8]> = SmallVec::new();
        // A run is a stretch of slots that go to the same place; it is pushed straight out of the slot array.
        let (mut run_from, mut run_level) = (0, None);
        let (mut next, mut ready) = (0, 0u64);
        let mut others = admitted.others.iter().peekable();
        for (position, item) in admitted.batch.items().enumerate() {
            if others.next_if(|(other, _)| *other as usize == position).is_some() {
                continue;
            }
            let number = admitted.slots[next];
            let body = bodies_at.plus(item.body_offset as u32);
            let fields = fields_of(item.entry, queue.id, queue.options.max_attempts, body, now_ms);
            let slot = self.slab.slot(number);
            slot.write(&fields);
            let word = slot.state();
            let id = id_of(number, word);
            if fields.expires_ms > 0 {
                timers.push(Entry::new(fields.expires_ms, id, Watch::Ttl));
            }
            let level = if fields.at_ms > now_ms {
                timers.push(Entry::new(fields.at_ms, id, Watch::Deadline(0)));
                slot.publish(word.with_phase(Phase::Scheduled).with(TIMED));
                None
            } else {
                slot.publish(word.with_phase(Phase::Ready).with(QUEUED));
                ready += 1;
                Some(fields.priority)
            };
            if level != run_level {
                self.push_run(queue, run_level, &admitted.slots[run_from..next]);
                (run_from, run_level) = (next, level);
            }
            next += 1;
        }
        queue.counters.count(Event::Enqueued, next as u64);
        queue.counters.arrived(Phase::Ready, ready);
        queue.counters.arrived(Phase::Scheduled, next as u64 - ready);
        self.push_run(queue, run_level, &admitted.slots[run_from..next]);
        if !timers.is_empty() {
            let mut wheel = self.wheel.lock();
            timers.into_iter().for_each(|entry| wheel.insert(entry));
        }
    }

    fn push_run(&self, queue: &Queue, level: Option<u8>, slots: &[u32]) {
        if let Some(priority) = level {
            queue.push_ready(&self.pool, priority, slots);
        }
    }

    /// Makes the answer to an enqueue again from its record.
    pub(super) fn replay_enqueue(
        &self,
        applied: Applied,
        reply: &mut EnqueueReply,
    ) -> Result<Confirmed, Refusal> {
        let found = self.with_record(applied, |kind, body| match kind {
            Kind::Enqueue => replay_group(body, reply),
            Kind::Step => {
                let (_, groups) = journal::parse_step(body)?;
                groups
                    .into_iter()
                    .try_for_each(|(_, group)| replay_group(group, reply))
            }
            _ => None,
        });
        if found.is_none() {
            return Err(already_applied());
        }
        Ok(replayed(applied))
    }

    /// Runs `read` on the body (without prelude) of a request's record, if its segment is still there.
    pub(super) fn with_record<T>(
        &self,
        applied: Applied,
        read: impl FnOnce(Kind, &[u8]) -> Option<T>,
    ) -> Option<T> {
        if applied.position.is_none() {
            return None;
        }
        let pin = self.log(applied.volatile).pin(applied.position)?;
        let record = pin.record(applied.position)?;
        let (_, body) = Prelude::split(record.flags, record.body)?;
        read(Kind::from_u8(record.kind)?, body)
    }

    /// Locks the key tables of several queues, each once and always in the same order.
    pub(super) fn key_tables(&self, queues: &mut Vec<QueueId>) -> Vec<(QueueId, Arc<Mutex<Keys>>)> {
        queues.sort_unstable();
        queues.dedup();
        queues
            .iter()
            .map(|queue| (*queue, self.dedupe.keys(*queue)))
            .collect()
    }
}

/// Copies head, ids, entries and bodies. Entries that make no job get their outcome flagged in the log's copy.
pub(super) fn put_enqueue(claim: &mut Claim<'_>, admitted: &Admitted<'_>, reply: &EnqueueReply) {
    let count = admitted.batch.count();
    let head = EnqueueHead {
        queue: U32::new(admitted.queue.id.0),
        count: U32::new(count as u32),
    };
    claim.put(head.as_bytes());
    put_ids(claim, &reply.ids[admitted.ids_from..admitted.ids_from + count]);
    if admitted.others.is_empty() {
        claim.put(admitted.batch.entries().as_bytes());
    } else {
        let mut others = admitted.others.iter().peekable();
        for (position, entry) in admitted.batch.entries().iter().enumerate() {
            let mut entry = *entry;
            if let Some((_, flag)) = others.next_if(|(other, _)| *other as usize == position) {
                entry.flags = U16::new(entry.flags.get() | flag);
            }
            claim.put(entry.as_bytes());
        }
    }
    claim.put(admitted.batch.bodies());
}

fn put_ids(claim: &mut Claim<'_>, ids: &[u64]) {
    // The log is little-endian; on a little-endian machine this is one copy.
    if cfg!(target_endian = "little") {
        claim.put(ids.as_bytes());
    } else {
        ids.iter().for_each(|id| claim.put(&id.to_le_bytes()));
    }
}

/// The fields of a new job; `limit` is what an entry without a limit of its own gets.
pub(super) fn fields_of(
    entry: &EnqueueEntry,
    queue: QueueId,
    limit: u16,
    body: LogPosition,
    now_ms: u64,
) -> Fields {
    let due_ms = if entry.flags.get() & EnqueueEntry::DUE_ABSOLUTE != 0 {
        entry.due_ms.get()
    } else {
        now_ms + entry.due_ms.get()
    };
    let ttl_ms = entry.ttl_ms.get();
    let max_attempts = entry.max_attempts.get();
    Fields {
        body,
        note: LogPosition::NONE,
        at_ms: due_ms.max(now_ms),
        enqueued_ms: now_ms,
        expires_ms: if ttl_ms == 0 { 0 } else { now_ms + ttl_ms },
        releases: 0,
        failures: 0,
        expiries: 0,
        limit: if max_attempts == 0 { limit } else { max_attempts },
        queue: queue.0,
        priority: entry.priority,
        payload_len: entry.payload_len.get(),
        meta_len: entry.meta_len.get(),
        lease_ms: entry.lease_ms.get(),
    }
}

fn replay_group(body: &[u8], reply: &mut EnqueueReply) -> Option<()> {
    let parsed = journal::parse_enqueue(body)?;
    for (id, entry) in parsed.ids.iter().map(|id| id.get()).zip(parsed.batch.entries()) {
        let flags = entry.flags.get();
        let position = reply.ids.len() as u32;
        if flags & EnqueueEntry::DUPLICATE != 0 {
            reply.items.push(ItemError {
                position,
                code: ErrorCode::Duplicate,
            });
        } else if flags & EnqueueEntry::KEY_CONFLICT != 0 {
            reply.items.push(ItemError {
                position,
                code: ErrorCode::KeyConflict,
            });
        }
        reply.ids.push(id);
    }
    Some(())
}

/// The refusal for a numbered request that cannot be carried out now.
pub(super) fn not_fresh(begun: Begun) -> Refusal {
    match begun {
        Begun::InProgress => Refusal::new(
            ErrorCode::InProgress,
            "the same request is being carried out; ask again",
        ),
        Begun::TooOld => Refusal::new(
            ErrorCode::SessionExpired,
            "the request's number is older than the session's window; its outcome is not known any more",
        ),
        Begun::Fresh | Begun::Applied(_) => unreachable!("not a refusal"),
    }
}

/// The answer where a request was applied and its details are gone.
pub(super) fn already_applied() -> Refusal {
    Refusal::new(
        ErrorCode::AlreadyApplied,
        "the request was applied before; its details are no longer kept",
    )
}
