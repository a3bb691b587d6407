//! Requests that came together, of one kind and one session: each has its record, its number and its answer, and what
//! they have in common is done once. For plain requests only, of which nothing is refused; where that is not so nothing
//! is done, and the caller has each carried out by itself.

use super::change::{ChangeSet, Logged};
use super::enqueue::{EnqueueReply, fields_of, put_ids};
use super::journal::{self, ChangeHead, DoneEntry, EnqueueHead, Kind, NUMBERED, Prelude};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, RequestId};
use super::word::{Phase, QUEUED, StateWord, VOLATILE, id_of};
use super::{Confirmed, Engine};
use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::entry::{EnqueueEntry, Verb};
use crate::base::queue::Durability;
use crate::base::sync::{Ordering, fence};
use crate::log::{Body, Content, HEADER_LEN, LogPosition, Room};
use smallvec::SmallVec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// A request's number in the session, and what it asks for.
pub type Numbered<B> = (u64, B);

/// Requests of one session, in the order in which they came.
#[derive(Debug, Clone, Copy)]
pub struct Together<'a, B> {
    /// The client's session; never 0.
    pub session: u128,
    /// Numbers and what they ask for.
    pub requests: &'a [Numbered<B>],
}

impl Engine {
    /// Enqueues the batches of several requests of a session into one queue, in order, as
    /// [`enqueue`](Self::enqueue) does one by one. `reply` has the ids of all of them, `confirmed` one entry a request.
    ///
    /// `false`: nothing was done, and both are empty. Jobs with a key, a delay or a TTL or of several priorities, a
    /// number that is not new, a limit that is reached: each request then hears what it is by itself.
    pub fn enqueue_together(
        &self,
        queue: QueueId,
        together: Together<'_, EnqueueBatch<'_>>,
        durability: Option<Durability>,
        now_ms: u64,
        reply: &mut EnqueueReply,
        confirmed: &mut Vec<Confirmed>,
    ) -> bool {
        reply.clear();
        confirmed.clear();
        let Ok(queue) = self.registry.live(queue) else {
            return false;
        };
        if self.check_open().is_err() || !self.begin_together(together, now_ms) {
            return false;
        }
        let level = self.level(queue, durability);
        let done = self.enqueue_plain(queue, together, level, now_ms, reply, confirmed);
        if done.is_none() {
            self.abandon_together(together);
            reply.clear();
            confirmed.clear();
            return false;
        }
        self.wake(queue, reply.ids.len());
        self.drop_if_deleted(queue, now_ms);
        true
    }

    fn enqueue_plain(
        &self,
        queue: &Queue,
        Together { session, requests }: Together<'_, EnqueueBatch<'_>>,
        level: Durability,
        now_ms: u64,
        reply: &mut EnqueueReply,
        confirmed: &mut Vec<Confirmed>,
    ) -> Option<()> {
        let volatile = level == Durability::Memory;
        let priority = requests.first()?.1.entries().first()?.priority;
        let (mut bytes, mut record_bytes) = (0, 0);
        let mut count = 0;
        for (_, batch) in requests {
            let is_alike = batch.is_bare() && priority == 0
                || batch.entries().iter().all(|entry| is_plain(entry, priority));
            if !is_alike || batch.payload_len_bound() > queue.options.payload_bytes_max {
                return None;
            }
            bytes += batch.job_bytes();
            count += batch.count();
            record_bytes += size_of::<Prelude>() + journal::enqueue_len(batch);
        }
        let mut slots: SmallVec<[u32; 64]> = SmallVec::new();
        self.take_room(queue, count, bytes, &mut slots).ok()?;
        let flags = if volatile { VOLATILE } else { 0 };
        let high = self.slab.generation_high();
        let (all, succession) = (self.slab.all(), self.slab.succession(high));
        let mut highest = high;
        for number in &slots {
            let word = all.begin(*number, succession, flags);
            if super::slab::is_newer(word.generation(), highest) {
                highest = word.generation();
            }
            reply.ids.push(id_of(*number, word).0);
        }
        let logged = self.note_generation(highest, now_ms);
        let claims = logged.and_then(|()| {
            let log = self.log(volatile);
            log.claim_together(requests.len(), record_bytes, Room::Enqueue)
        });
        let Ok(mut claims) = claims else {
            for number in &slots {
                let slot = self.slab.slot(*number);
                slot.publish(slot.state().with_phase(Phase::Free).without(VOLATILE));
            }
            self.slab.give(&slots);
            queue.counters.vacate(count as u64, bytes);
            return None;
        };
        let mut applied: SmallVec<[(u64, Applied); 64]> = SmallVec::new();
        let mut bodies_at: SmallVec<[LogPosition; 64]> = SmallVec::new();
        let mut ids = &reply.ids[..];
        for (number, batch) in requests {
            let (own, others) = ids.split_at(batch.count());
            ids = others;
            let arrivals = PlainArrivals {
                request: RequestId {
                    session,
                    number: *number,
                },
                queue: queue.id,
                ids: own,
                batch,
            };
            let kind = (Kind::Enqueue as u8, NUMBERED);
            let (position, end) = claims.append(arrivals, kind, now_ms, own.len() as u32);
            let offset = HEADER_LEN + size_of::<Prelude>() + journal::enqueue_bodies_offset(own.len());
            bodies_at.push(position.plus(offset as u32));
            applied.push((*number, Applied { position, volatile }));
            confirmed.push(Confirmed {
                level,
                position: (!volatile).then_some(end),
                replayed: false,
            });
        }
        // Every record is committed: from here on the jobs may be seen.
        let mut left = slots.iter();
        for ((_, batch), bodies_at) in requests.iter().zip(&bodies_at) {
            for (item, number) in batch.items().zip(&mut left) {
                let body = bodies_at.plus(item.body_offset as u32);
                let fields = fields_of(item.entry, queue.id, queue.options.max_attempts, body, now_ms);
                let slot = all.slot(*number);
                slot.write(&fields);
                slot.publish(slot.state().with_phase(Phase::Ready).with(QUEUED));
            }
        }
        queue.counters.accepted(count as u64, 0);
        queue.push_ready(&self.pool, priority, &slots);
        self.sessions.finish_together(session, &applied);
        Some(())
    }

    /// Acks the deliveries of several requests of a session, as [`settle`](Self::settle) does one by one. `confirmed`
    /// has one entry a request.
    ///
    /// `false`: nothing was done. Settlements other than acks without a result, tokens that are not current, jobs of
    /// several queues, a number that is not new: each request then hears what it is by itself.
    pub fn ack_together(
        &self,
        together: Together<'_, SettleBatch<'_>>,
        now_ms: u64,
        confirmed: &mut Vec<Confirmed>,
    ) -> bool {
        confirmed.clear();
        if self.check_open().is_err() || !self.begin_together(together, now_ms) {
            return false;
        }
        let Together { session, requests } = together;
        let mut set = ChangeSet::default();
        let done = self.take_plain(requests, &mut set);
        let done = done.and_then(|volatile| self.ack_plain(together, volatile, &set, now_ms));
        let Some(logged) = done else {
            self.undo(&set);
            self.abandon_together(together);
            return false;
        };
        let level = self.apply(&set, now_ms);
        let applied: SmallVec<[_; 64]> = requests
            .iter()
            .zip(&logged)
            .map(|((number, _), logged)| (*number, logged.applied()))
            .collect();
        self.sessions.finish_together(session, &applied);
        confirmed.extend(logged.iter().map(|logged| self.confirmed(level, *logged, &[])));
        true
    }

    /// Acks the deliveries of several requests that have no number. They are logged as one, since nobody asks again
    /// for what became of each.
    ///
    /// `false`: nothing was done, for one of the reasons of [`ack_together`](Self::ack_together) or because the log
    /// has no room.
    pub fn ack_unnumbered(&self, requests: &[Numbered<SettleBatch<'_>>], now_ms: u64) -> bool {
        if self.check_open().is_err() {
            return false;
        }
        let mut set = ChangeSet::default();
        let taken = self.take_plain(requests, &mut set);
        let logged = taken.and_then(|_| self.log_changes(&mut set, RequestId::NONE, now_ms).ok());
        if logged.is_none() {
            self.undo(&set);
            return false;
        }
        self.apply(&set, now_ms);
        true
    }

    /// Takes all that is acked, in order. `None` where something is not plain: what was taken until then is in the
    /// set. Otherwise says whether all of it is volatile.
    fn take_plain(&self, requests: &[Numbered<SettleBatch<'_>>], set: &mut ChangeSet<'_>) -> Option<bool> {
        let mut like: Option<(bool, u32)> = None;
        for settlement in requests.iter().flat_map(|(_, batch)| batch.items()) {
            if settlement.verb != Verb::Ack || settlement.note.is_some() {
                return None;
            }
            let before = self.take_current(settlement.token)?;
            let number = settlement.token.id.slot();
            set.done.push((number, before));
            let this = (before.has(VOLATILE), self.slab.slot(number).queue());
            if *like.get_or_insert(this) != this {
                return None;
            }
        }
        like.map(|(volatile, _)| volatile)
    }

    /// Logs what was taken, a record for each request. `None` where the log has no room.
    fn ack_plain(
        &self,
        Together { session, requests }: Together<'_, SettleBatch<'_>>,
        volatile: bool,
        set: &ChangeSet<'_>,
        now_ms: u64,
    ) -> Option<SmallVec<[Logged; 64]>> {
        // Of volatile jobs only the request is told, so that its answer can be made again.
        let done_of = |batch: &SettleBatch<'_>| if volatile { 0 } else { batch.count() };
        let record_bytes = requests
            .iter()
            .map(|(_, batch)| PlainAcks::len_of(done_of(batch)))
            .sum();
        // Release: who reads the log's tail behind these records finds the jobs taken (see `claim_copy`).
        fence(Ordering::Release);
        let log = self.log(volatile);
        let mut claims = log
            .claim_together(requests.len(), record_bytes, Room::Settle)
            .ok()?;
        let mut taken = &set.done[..];
        let mut logged = SmallVec::new();
        for (number, batch) in requests {
            let (done, others) = taken.split_at(done_of(batch));
            taken = others;
            let acks = PlainAcks {
                request: RequestId {
                    session,
                    number: *number,
                },
                done,
            };
            let (at, end) = claims.append(acks, (Kind::Change as u8, NUMBERED), now_ms, 0);
            logged.push(Logged {
                at,
                end: (!volatile).then_some(end),
                volatile,
            });
        }
        Some(logged)
    }

    fn begin_together<B>(&self, Together { session, requests }: Together<'_, B>, now_ms: u64) -> bool {
        let numbers = requests.iter().map(|(number, _)| *number);
        let tail_sequence = self.durable.tail().sequence();
        self.sessions
            .begin_together(session, numbers, tail_sequence, now_ms)
    }

    fn abandon_together<B>(&self, Together { session, requests }: Together<'_, B>) {
        for (number, _) in requests {
            let number = *number;
            self.sessions.abandon(RequestId { session, number });
        }
    }
}

/// What the log is told of a request's jobs.
struct PlainArrivals<'a> {
    request: RequestId,
    queue: QueueId,
    ids: &'a [u64],
    batch: &'a EnqueueBatch<'a>,
}

impl Content for PlainArrivals<'_> {
    #[inline]
    fn body_len(&self) -> usize {
        size_of::<Prelude>() + journal::enqueue_len(self.batch)
    }

    #[inline]
    fn put_into(self, body: &mut impl Body) {
        let head = EnqueueHead {
            queue: U32::new(self.queue.0),
            count: U32::new(self.ids.len() as u32),
        };
        body.put(Prelude::new(self.request).as_bytes());
        body.put(head.as_bytes());
        put_ids(body, self.ids);
        body.put(self.batch.entries().as_bytes());
        body.put(self.batch.bodies());
    }
}

/// What the log is told of a request's acks.
struct PlainAcks<'a> {
    request: RequestId,
    done: &'a [(u32, StateWord)],
}

impl PlainAcks<'_> {
    /// Length of the body with that many acks, in bytes.
    #[inline]
    fn len_of(done: usize) -> usize {
        size_of::<Prelude>() + size_of::<ChangeHead>() + done * size_of::<DoneEntry>()
    }
}

impl Content for PlainAcks<'_> {
    #[inline]
    fn body_len(&self) -> usize {
        Self::len_of(self.done.len())
    }

    #[inline]
    fn put_into(self, body: &mut impl Body) {
        let head = ChangeHead {
            done: U32::new(self.done.len() as u32),
            ..ChangeHead::default()
        };
        body.put(Prelude::new(self.request).as_bytes());
        body.put(head.as_bytes());
        for (slot, word) in self.done {
            let entry = DoneEntry {
                id: U64::new(id_of(*slot, *word).0),
                attempt: U16::new(word.attempt()),
                ..DoneEntry::default()
            };
            body.put(entry.as_bytes());
        }
    }
}

/// Whether a job is ready at once and nothing has to be looked up or noted for it.
fn is_plain(entry: &EnqueueEntry, priority: u8) -> bool {
    entry.key_len == 0
        && entry.due_ms.get() == 0
        && entry.ttl_ms.get() == 0
        && entry.flags.get() == 0
        && entry.priority == priority
}
