//! Accepting jobs: checked, counted, given slots, logged in one record, published in order.

use super::admit::Admitted;
use super::dedupe::Keys;
use super::journal::{self, ChangeHead, EnqueueHead, Group, Kind, NUMBERED, Prelude};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, Begun, RequestId};
use super::slot::Fields;
use super::timer::{Entry, Watch};
use super::word::{Phase, QUEUED, TIMED, id_of};
use super::{Confirmed, Engine, log_refusal, replayed};
use crate::base::batch::EnqueueBatch;
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::entry::{EnqueueEntry, pad8};
use crate::base::queue::Durability;
use crate::log::{Body, Content, HEADER_LEN, LogError, LogPosition, Room};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

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
        match self.begin(request, now_ms) {
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
        // Again, under the lock that a deletion takes to forget the keys.
        self.registry.live(queue.id)?;
        let mut admitted = Admitted::new(queue, *batch, level, reply);
        self.admit(&mut admitted, &mut keys, now_ms, reply)?;
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
                self.drop_if_deleted(queue, now_ms);
                // A duplicate's first job may have been logged after this record was claimed by nobody's
                // fault; the end of this record lies behind it, since the key table was locked.
                Ok(Confirmed {
                    level: admitted.level,
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

    /// Looks a request up in its session; a new one is marked as begun.
    pub(super) fn begin(&self, request: RequestId, now_ms: u64) -> Begun {
        if !request.is_numbered() {
            return Begun::Fresh;
        }
        let tail_sequence = self.durable.tail().sequence();
        self.sessions.begin(request, tail_sequence, now_ms)
    }

    /// The durability that a request for this queue gets.
    pub(super) fn level(&self, queue: &Queue, asked: Option<Durability>) -> Durability {
        if self.logged {
            asked.unwrap_or(queue.durability())
        } else {
            Durability::Memory
        }
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
        let kind = (Kind::Enqueue as u8, if prelude > 0 { NUMBERED } else { 0 });
        let (log, live) = (self.log(admitted.volatile), admitted.slots.len() as u32);
        let arrivals = Arrivals {
            request,
            admitted,
            reply,
        };
        let (at, end) = log.append(arrivals, Room::Enqueue, kind, now_ms, live)?;
        let bodies_offset = HEADER_LEN + prelude + journal::enqueue_bodies_offset(admitted.batch.count());
        Ok((at, end, at.plus(bodies_offset as u32)))
    }

    /// Fills the slots and makes the jobs visible, in order.
    pub(super) fn publish_admitted(&self, admitted: &Admitted<'_>, bodies_at: LogPosition, now_ms: u64) {
        let queue = admitted.queue;
        if admitted.batch.is_bare() && admitted.others.is_empty() {
            return self.publish_bare(admitted, bodies_at, now_ms);
        }
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
        queue.counters.accepted(ready, next as u64 - ready);
        self.push_run(queue, run_level, &admitted.slots[run_from..next]);
        if !timers.is_empty() {
            let mut wheel = self.wheel.lock();
            timers.into_iter().for_each(|entry| wheel.insert(entry));
        }
    }

    /// As [`publish_admitted`](Self::publish_admitted) where all jobs go to one ring, and no entry says anything but how
    /// long its payload is and its lease. Nearly every batch is like that.
    fn publish_bare(&self, admitted: &Admitted<'_>, bodies_at: LogPosition, now_ms: u64) {
        let queue = admitted.queue;
        let slots = self.slab.all();
        let mut body = bodies_at;
        for (entry, number) in admitted.batch.entries().iter().zip(&admitted.slots) {
            let payload_len = entry.payload_len.get();
            let slot = slots.slot(*number);
            slot.write(&Fields {
                body,
                at_ms: now_ms,
                enqueued_ms: now_ms,
                limit: queue.options.max_attempts,
                queue: queue.id.0,
                payload_len,
                lease_ms: entry.lease_ms.get(),
                ..Fields::default()
            });
            slot.publish(slot.state().with_phase(Phase::Ready).with(QUEUED));
            body = body.plus(pad8(payload_len as usize) as u32);
        }
        let count = admitted.len() as u64;
        queue.counters.accepted(count, 0);
        queue.push_ready(&self.pool, 0, &admitted.slots);
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
            Kind::Enqueue => replay_group(body, reply).map(|()| true),
            Kind::Step => {
                let (change, groups) = journal::parse_step(body)?;
                let (head, _) = ChangeHead::ref_from_prefix(change).ok()?;
                let mut is_logged = head.done.get() + head.changes.get() > 0;
                for group in groups {
                    match group {
                        Group::Jobs(_, group) => {
                            is_logged = true;
                            replay_group(group, reply)?;
                        }
                        Group::Answer(entries) => entries
                            .iter()
                            .for_each(|entry| replay_one(entry.id.get(), entry.flags.get(), reply)),
                    }
                }
                Some(is_logged)
            }
            _ => None,
        });
        match found {
            None => Err(already_applied()),
            Some(true) => Ok(replayed(applied)),
            // The log has the answer and nothing of the jobs: they are no safer than they were.
            Some(false) => Ok(Confirmed {
                level: Durability::Memory,
                position: None,
                replayed: true,
            }),
        }
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

/// What the log is told of an enqueue.
struct Arrivals<'a> {
    request: RequestId,
    admitted: &'a Admitted<'a>,
    reply: &'a EnqueueReply,
}

impl Content for Arrivals<'_> {
    #[inline]
    fn body_len(&self) -> usize {
        Prelude::len_for(self.request) + journal::enqueue_len(&self.admitted.batch)
    }

    #[inline]
    fn put_into(self, body: &mut impl Body) {
        Prelude::put(self.request, body);
        put_enqueue(body, self.admitted, self.reply);
    }
}

/// Copies head, ids, entries and bodies. Entries that make no job get their outcome flagged in the log's copy.
#[inline]
pub(super) fn put_enqueue(claim: &mut impl Body, admitted: &Admitted<'_>, reply: &EnqueueReply) {
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

#[inline]
pub(super) fn put_ids(claim: &mut impl Body, ids: &[u64]) {
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
    for (id, entry) in parsed.ids.iter().zip(parsed.batch.entries()) {
        replay_one(id.get(), entry.flags.get(), reply);
    }
    Some(())
}

fn replay_one(id: u64, flags: u16, reply: &mut EnqueueReply) {
    let code = if flags & EnqueueEntry::DUPLICATE != 0 {
        Some(ErrorCode::Duplicate)
    } else if flags & EnqueueEntry::KEY_CONFLICT != 0 {
        Some(ErrorCode::KeyConflict)
    } else {
        None
    };
    let position = reply.ids.len() as u32;
    reply.items.extend(code.map(|code| ItemError { position, code }));
    reply.ids.push(id);
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
