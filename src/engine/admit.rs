//! Admission: a batch is checked, counted against the limits, and given slots and ids.

use super::Engine;
use super::dedupe::{Keys, Known, Verdict, body_hash};
use super::enqueue::EnqueueReply;
use super::queue::Queue;
use super::word::{KEYED, Phase, VOLATILE, id_of};
use crate::base::batch::EnqueueBatch;
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::entry::EnqueueEntry;
use crate::base::job::JobId;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use parking_lot::MutexGuard;
use smallvec::SmallVec;
use std::collections::HashSet;

/// A batch that has been given slots and waits for its record.
pub(super) struct Admitted<'a> {
    pub(super) queue: &'a Queue,
    pub(super) batch: EnqueueBatch<'a>,
    /// Slots of the entries that make a job, in order.
    pub(super) slots: SmallVec<[u32; 64]>,
    /// Entries that make none: position and log flag.
    pub(super) others: SmallVec<[(u32, u16); 4]>,
    /// Where this batch's ids begin in the reply.
    pub(super) ids_from: usize,
    bytes: u64,
    pub(super) volatile: bool,
    pub(super) highest_generation: u32,
    /// What may be promised: no more than what was asked for, and nothing beyond `memory` where an entry repeats
    /// a job that is not logged.
    pub(super) level: Durability,
}

impl<'a> Admitted<'a> {
    /// Nothing of the batch yet; its ids will stand behind those in `reply`. [`Engine::admit`] fills it where it is, since
    /// it is too large to be handed about.
    pub(super) fn new(
        queue: &'a Queue,
        batch: EnqueueBatch<'a>,
        level: Durability,
        reply: &EnqueueReply,
    ) -> Self {
        Self {
            queue,
            batch,
            slots: SmallVec::new(),
            others: SmallVec::new(),
            ids_from: reply.ids.len(),
            bytes: 0,
            volatile: level == Durability::Memory,
            highest_generation: 0,
            level,
        }
    }

    /// How many jobs it makes.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

impl Engine {
    /// Checks a batch against the queue, counts it against the capacity, and takes slots for its jobs.
    pub(super) fn admit(
        &self,
        admitted: &mut Admitted<'_>,
        keys: &mut Option<MutexGuard<'_, Keys>>,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<(), Refusal> {
        let (queue, batch) = (admitted.queue, admitted.batch);
        if batch.payload_len_bound() > queue.options.payload_bytes_max {
            check_payloads(queue, &batch)?;
        }
        let mut bytes = batch.job_bytes();
        let mut count = batch.count();
        if let Some(keys) = keys {
            self.dedupe.make_room(keys, count, now_ms)?;
        }
        let mut room = self.take_room(queue, count, bytes, &mut admitted.slots);
        if let (Err(_), Some(keys)) = (&room, keys.as_ref()) {
            // What is known already takes no room, so that a full queue is no reason to refuse it.
            for item in batch.items().filter(|item| !item.key().is_empty()) {
                let hash = body_hash(item.meta(), item.payload());
                if keys.verdict(item.key(), hash, now_ms) != Verdict::Fresh {
                    count -= 1;
                    bytes -= item.meta().len() as u64 + item.payload().len() as u64;
                }
            }
            room = self.take_room(queue, count, bytes, &mut admitted.slots);
        }
        room?;
        admitted.bytes = bytes;
        self.assign_ids(admitted, keys, now_ms, reply);
        Ok(())
    }

    /// Counts jobs against the queue's capacity and takes slots for them, all or none.
    pub(super) fn take_room(
        &self,
        queue: &Queue,
        count: usize,
        bytes: u64,
        slots: &mut SmallVec<[u32; 64]>,
    ) -> Result<(), Refusal> {
        queue.admit(count as u64, bytes)?;
        slots.resize(count, 0);
        let taken = self.slab.take(slots);
        if taken == count {
            return Ok(());
        }
        self.slab.give(&slots[..taken]);
        slots.clear();
        queue.counters.vacate(count as u64, bytes);
        let text = format!(
            "all {} slots hold jobs; start with more, or wait",
            self.slab.slots()
        );
        Err(Refusal::new(ErrorCode::SlabFull, text))
    }

    fn assign_ids(
        &self,
        admitted: &mut Admitted<'_>,
        keys: &mut Option<MutexGuard<'_, Keys>>,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) {
        let high = self.slab.generation_high();
        let (slots, succession) = (self.slab.all(), self.slab.succession(high));
        let flags = if admitted.volatile { VOLATILE } else { 0 };
        let mut highest = high;
        let mut begin = |number: u32, flags: u8| {
            let word = slots.begin(number, succession, flags);
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
        let (mut used, mut bytes) = (0, 0);
        let sequence = if admitted.volatile {
            0
        } else {
            self.durable.tail().sequence()
        };
        for (position, item) in admitted.batch.items().enumerate() {
            let key = item.key();
            let item_bytes = item.meta().len() as u64 + item.payload().len() as u64;
            if key.is_empty() {
                bytes += item_bytes;
                reply.ids.push(begin(admitted.slots[used], flags).0);
                used += 1;
                continue;
            }
            let hash = body_hash(item.meta(), item.payload());
            let (id, outcome) = match keys.verdict(key, hash, now_ms) {
                Verdict::Fresh => {
                    bytes += item_bytes;
                    let id = begin(admitted.slots[used], flags | KEYED);
                    used += 1;
                    let window_ms = admitted.queue.options.dedupe_window_ms;
                    let expires_ms = now_ms + (window_ms >> u32::from(is_planted(Plant::ShortenWindow)));
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
                Verdict::Duplicate { first, logged } => {
                    if !logged {
                        admitted.level = Durability::Memory;
                    }
                    (first.0, Some((EnqueueEntry::DUPLICATE, ErrorCode::Duplicate)))
                }
                Verdict::Conflict => (0, Some((EnqueueEntry::KEY_CONFLICT, ErrorCode::KeyConflict))),
            };
            reply.ids.push(id);
            if let Some((flag, code)) = outcome {
                admitted.others.push((position as u32, flag));
                reply.items.push(ItemError {
                    position: (admitted.ids_from + position) as u32,
                    code,
                });
            }
        }
        // Repeated within this very batch: they were counted as jobs, and are none.
        let unused = (admitted.slots.len() - used) as u64;
        let left_out = admitted.bytes - bytes;
        admitted.queue.counters.vacate(unused, left_out);
        admitted.bytes = bytes;
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
}

/// Holds each payload against the queue's limit.
#[cold]
fn check_payloads(queue: &Queue, batch: &EnqueueBatch<'_>) -> Result<(), Refusal> {
    let max = queue.options.payload_bytes_max;
    match batch
        .entries()
        .iter()
        .position(|entry| entry.payload_len.get() > max)
    {
        None => Ok(()),
        Some(position) => {
            let text = format!(
                "entry {position}: queue {} takes payloads of up to {max} bytes",
                queue.name
            );
            Err(Refusal::new(ErrorCode::PayloadTooLarge, text))
        }
    }
}
