//! From records back to jobs: the engine's half of recovery.
//!
//! Records are visited once, in log order. A job's records stand in the order in which things happened to it and
//! every one says where the job stood afterwards, so the last one holds. Only copies out of reclaimed segments might be
//! behind the times: a copy says as of when it is, and tells nothing new of a job of which a record from there on
//! was seen. Its body is what counts then.

use super::codec::{self, KeyRecord, QueueRecord, SessionRecord};
use super::counters::Event;
use super::dedupe::{Dedupe, Known, body_hash};
use super::enqueue::fields_of;
use super::journal::{self, ChangeEntry, Group, JobHead, Kind, Prelude, ReserveEntry};
use super::pending_key::PendingKey;
use super::purged::Purged;
use super::queue::QueueId;
use super::replay::{Applied, RequestId, SessionSnapshot, Sessions};
use super::slab::{Slab, is_newer};
use super::slot::{Fields, Slot};
use super::strays::Strays;
use super::told::Told;
use super::word::{KEYED, Phase, RESULT, StateWord};
use crate::base::entry::EnqueueEntry;
use crate::base::job::JobId;
use crate::base::limits::QUEUES_MAX;
use crate::base::plant::{Plant, is_planted};
use crate::log::{LogPosition, Recovered};
use std::collections::{BTreeMap, HashMap};
use zerocopy::FromBytes;

/// What records have told so far.
pub(super) struct Recovery {
    pub(super) slab: Slab,
    pub(super) sessions: Sessions,
    pub(super) dedupe: Dedupe,
    /// By number, each as last told, with where.
    pub(super) queues: BTreeMap<u32, (QueueRecord, LogPosition)>,
    /// One more than the highest queue number that any record names. A number of a queue that is forgotten must not be
    /// given out while records of its jobs are there.
    pub(super) queues_seen: u32,
    /// Events per queue told behind its last counters.
    pub(super) events: HashMap<u32, [u64; 10]>,
    /// Jobs that were copied: their place in the order of jobs never handed out.
    pub(super) orders: HashMap<u32, u64>,
    pub(super) told: Told,
    /// Where the record that is being read stands (raw).
    at: u64,
    keys: Vec<PendingKey>,
    pub(super) purged: Purged,
    pub(super) strays: Strays,
    /// Slots at or above this never held a job.
    pub(super) fresh_from: u32,
    pub(super) generation_high: u32,
    /// Records that make no sense although their checksum holds; kept for the report.
    pub(super) senseless: Vec<String>,
    pub(super) records: u64,
    /// The latest time that a record was written at, in milliseconds since the Unix epoch.
    pub(super) latest_ms: u64,
    /// The log was written with more slots than there are now: how many it takes at least.
    pub(super) slots_needed: Option<u32>,
}

impl Recovery {
    /// Nothing told yet; room for `slots` jobs.
    pub(super) fn new(slots: u32) -> Self {
        Self {
            slab: Slab::new(slots),
            sessions: Sessions::default(),
            dedupe: Dedupe::default(),
            queues: BTreeMap::new(),
            queues_seen: 0,
            events: HashMap::new(),
            orders: HashMap::new(),
            told: Told::default(),
            at: 0,
            keys: Vec::new(),
            purged: Purged::default(),
            strays: Strays::default(),
            fresh_from: 0,
            generation_high: 0,
            senseless: Vec::new(),
            records: 0,
            latest_ms: 0,
            slots_needed: None,
        }
    }

    /// Takes in one record.
    pub(super) fn visit(&mut self, record: Recovered<'_>) {
        self.records += 1;
        self.at = record.position.raw();
        self.latest_ms = self.latest_ms.max(record.now_ms);
        if self.read(&record).is_none() {
            self.senseless
                .push(format!("record at {} of kind {}", record.position, record.kind));
        }
    }

    fn read(&mut self, record: &Recovered<'_>) -> Option<()> {
        let (request, body) = Prelude::split(record.flags, record.body)?;
        let body_at = record
            .body_position()
            .plus((record.body.len() - body.len()) as u32);
        let now_ms = record.now_ms;
        match Kind::from_u8(record.kind)? {
            Kind::Enqueue => self.enqueue(body, body_at, now_ms)?,
            Kind::Reserve => {
                journal::parse_reserve(body)?
                    .iter()
                    .for_each(|entry| self.reserve(entry, now_ms));
            }
            Kind::Change => self.change(body, body_at, now_ms)?,
            Kind::Step => {
                let (change, groups) = journal::parse_step(body)?;
                let change_at = body_at.plus(size_of::<journal::StepHead>() as u32);
                if !is_planted(Plant::TearStep) {
                    self.change(change, change_at, now_ms)?;
                }
                for group in groups {
                    if let Group::Jobs(offset, group) = group {
                        self.enqueue(group, body_at.plus(offset as u32), now_ms)?;
                    }
                }
            }
            Kind::Job => self.job(body, body_at)?,
            Kind::Queue => {
                let mut queue: QueueRecord = codec::decode(body)?;
                if queue.index as usize >= QUEUES_MAX {
                    return None;
                }
                if let Some(events) = queue.events {
                    self.events.insert(queue.index, events);
                }
                // What is deleted stays so.
                let known = self.queues.get(&queue.index);
                queue.deleted |= known.is_some_and(|(known, _)| known.deleted);
                self.queues.insert(queue.index, (queue, record.position));
            }
            Kind::Session => {
                let told: SessionRecord = codec::decode(body)?;
                let snapshot = SessionSnapshot {
                    session: told.session,
                    highest: told.highest,
                    applied: told.applied,
                    under_way_from: u32::MAX,
                };
                self.sessions.restore_session(&snapshot, record.position, now_ms);
            }
            Kind::Key => {
                let told: KeyRecord = codec::decode(body)?;
                self.see_queue(told.queue);
                let known = Known {
                    id: JobId(told.id),
                    body_hash: told.body_hash,
                    expires_ms: told.expires_ms,
                    sequence: record.position.sequence(),
                };
                let keys = self.dedupe.keys(QueueId(told.queue));
                self.dedupe.insert(&mut keys.lock(), &told.key, known);
            }
            Kind::Generation => {
                let high = u64::from_le_bytes(*body.first_chunk()?);
                self.raise(high as u32);
            }
        }
        self.note_request(request, record.position, now_ms);
        Some(())
    }

    fn note_request(&mut self, request: RequestId, position: LogPosition, now_ms: u64) {
        if is_planted(Plant::ForgetSession) {
            return;
        }
        self.sessions.restore(
            request,
            Applied {
                position,
                volatile: false,
            },
            now_ms,
        );
    }

    fn see_queue(&mut self, number: u32) {
        self.queues_seen = self.queues_seen.max(number.saturating_add(1));
    }

    /// A generation was in use.
    pub(super) fn raise(&mut self, generation: u32) {
        if is_newer(generation, self.generation_high) {
            self.generation_high = generation;
        }
    }

    fn count(&mut self, queue: u32, event: Event, n: u64) {
        self.events.entry(queue).or_default()[event as usize] += n;
    }

    /// The slot that holds the job of that id, if it does.
    fn slot(&mut self, id: JobId) -> Option<(Slot<'_>, StateWord)> {
        let slot = self.slab.get(id.slot())?;
        let word = slot.state();
        (word.generation() == id.generation() && word.phase() != Phase::Free).then_some((slot, word))
    }

    /// A record that is not a copy tells of a job.
    fn tell(&mut self, number: u32) {
        if number < self.slab.slots() {
            self.told.note(number, self.at);
        }
    }

    fn enqueue(&mut self, body: &[u8], body_at: LogPosition, now_ms: u64) -> Option<()> {
        let parsed = journal::parse_enqueue(body)?;
        self.see_queue(parsed.queue);
        let bodies_at = body_at.plus(journal::enqueue_bodies_offset(parsed.batch.count()) as u32);
        let mut accepted = 0;
        for (item, id) in parsed.batch.items().zip(parsed.ids) {
            let flags = item.entry.flags.get();
            if flags & (EnqueueEntry::DUPLICATE | EnqueueEntry::KEY_CONFLICT) != 0 {
                continue;
            }
            let id = JobId(id.get());
            // A limit of 0 stands for the queue's, which may not be known yet.
            let body_at = bodies_at.plus(item.body_offset as u32);
            let fields = fields_of(item.entry, QueueId(parsed.queue), 0, body_at, now_ms);
            let phase = if fields.at_ms > now_ms {
                Phase::Scheduled
            } else {
                Phase::Ready
            };
            let keyed = if item.key().is_empty() { 0 } else { KEYED };
            self.place(id, StateWord::new(id.generation(), 0, phase, keyed), &fields);
            self.tell(id.slot());
            accepted += 1;
            if keyed != 0 {
                self.keys.push(PendingKey {
                    queue: parsed.queue,
                    key: item.key().to_vec(),
                    id,
                    body_hash: body_hash(item.meta(), item.payload()),
                    accepted_ms: now_ms,
                    sequence: body_at.sequence(),
                });
            }
        }
        self.count(parsed.queue, Event::Enqueued, accepted);
        Some(())
    }

    /// Puts a job into its slot unless a later job is there. Says whether it is.
    fn place(&mut self, id: JobId, word: StateWord, fields: &Fields) -> bool {
        let number = id.slot();
        if number >= self.slab.slots() {
            self.slots_needed = self.slots_needed.max(Some(number + 1));
            return false;
        }
        self.raise(id.generation());
        let slot = self.slab.slot(number);
        if number >= self.fresh_from {
            // Nothing was put here before. To look would take a page fault beside that of the write.
            self.fresh_from = number + 1;
        } else {
            let known = slot.state().generation();
            if known != 0 && !is_newer(id.generation(), known) {
                return false;
            }
        }
        slot.write(fields);
        slot.publish(word);
        if !self.orders.is_empty() {
            self.orders.remove(&number);
        }
        self.strays.found(id);
        true
    }

    fn reserve(&mut self, entry: &ReserveEntry, now_ms: u64) {
        let id = JobId(entry.id.get());
        let Some((slot, known)) = self.slot(id) else {
            let attempt = entry.attempt.get();
            return self.strays.saw(id, Phase::Leased, attempt, self.at);
        };
        let queue = slot.queue();
        slot.write_at(now_ms + u64::from(entry.lease_ms.get()));
        slot.publish(known.with_attempt(entry.attempt.get()).with_phase(Phase::Leased));
        self.tell(id.slot());
        self.count(queue, Event::Delivered, 1);
    }

    fn change(&mut self, body: &[u8], body_at: LogPosition, now_ms: u64) -> Option<()> {
        let parsed = journal::parse_change(body)?;
        for entry in parsed.done {
            if is_planted(Plant::ReviveAcked) {
                continue;
            }
            let id = JobId(entry.id.get());
            let Some((slot, known)) = self.slot(id) else {
                self.strays.saw(id, Phase::Done, entry.attempt.get(), self.at);
                continue;
            };
            let queue = slot.queue();
            slot.write_at(now_ms);
            slot.publish(known.with_attempt(entry.attempt.get()).with_phase(Phase::Done));
            self.tell(id.slot());
            self.count(queue, Event::Done, 1);
        }
        let mut note_at = body_at.plus(parsed.notes_offset as u32);
        let mut notes = parsed.notes;
        for entry in parsed.changes {
            let mut note = LogPosition::NONE;
            if entry.noted != 0 {
                let text = journal::parse_note(notes)?;
                let len = journal::note_len(text, entry.noted == ChangeEntry::RESULT);
                note = note_at;
                note_at = note_at.plus(len as u32);
                notes = notes.get(len..)?;
            }
            self.change_one(entry, note)?;
        }
        Some(())
    }

    fn change_one(&mut self, entry: &ChangeEntry, note: LogPosition) -> Option<()> {
        let (id, now) = (JobId(entry.id.get()), (self.latest_ms, self.at));
        let Some((slot, known)) = self.slot(id) else {
            // Over and forgotten, if it is no phase.
            let phase = phase_of(entry.phase).unwrap_or(Phase::Free);
            self.strays.saw(id, phase, entry.attempt.get(), self.at);
            self.purged.see(entry, now);
            return Some(());
        };
        if entry.phase == Phase::Free as u8 {
            self.purged.forget(&self.slab, entry, &self.told, now);
            return Some(());
        }
        let phase = phase_of(entry.phase)?;
        let before = slot.fields();
        let (word, after) = changed(known, phase, &before, entry, note);
        slot.write(&after);
        slot.publish(word);
        self.tell(id.slot());
        let queue = before.queue;
        let grown = |after: u16, before: u16| u64::from(after.saturating_sub(before));
        self.count(queue, Event::Failed, grown(after.failures, before.failures));
        self.count(queue, Event::LeaseExpired, grown(after.expiries, before.expiries));
        self.count(queue, Event::Released, grown(after.releases, before.releases));
        match phase {
            Phase::Done => self.count(queue, Event::Done, 1),
            Phase::Dead => self.count(queue, Event::Buried, 1),
            Phase::Cancelled => self.count(queue, Event::Cancelled, 1),
            Phase::Expired => self.count(queue, Event::Expired, 1),
            Phase::Ready if known.phase() == Phase::Dead => self.count(queue, Event::Redriven, 1),
            _ => {}
        }
        Some(())
    }

    /// A job copied out of a reclaimed segment.
    fn job(&mut self, body: &[u8], body_at: LogPosition) -> Option<()> {
        let (head, rest) = JobHead::ref_from_prefix(body).ok()?;
        self.see_queue(head.queue.get());
        let id = JobId(head.id.get());
        let data_len = if head.flags & JobHead::BODILESS != 0 {
            0
        } else {
            crate::base::entry::pad8(head.payload_len.get() as usize + usize::from(head.meta_len.get()))
        };
        let data_at = body_at.plus(size_of::<JobHead>() as u32);
        rest.get(..data_len)?;
        let notes_at = data_at.plus(data_len as u32);
        let mut note = LogPosition::NONE;
        let mut flags = 0;
        if head.flags & JobHead::ERROR != 0 {
            note = notes_at;
        }
        if head.flags & JobHead::RESULT != 0 {
            flags |= RESULT;
            note = notes_at;
            if head.flags & JobHead::ERROR != 0 {
                let error = journal::parse_note(rest.get(data_len..)?)?;
                note = notes_at.plus(journal::note_len(error, false) as u32);
            }
        }
        if head.flags & JobHead::KEYED != 0 {
            flags |= KEYED;
        }
        let base = Fields {
            body: data_at,
            note: LogPosition::NONE,
            at_ms: 0,
            enqueued_ms: head.enqueued_ms.get(),
            expires_ms: head.expires_ms.get(),
            releases: 0,
            failures: 0,
            expiries: 0,
            limit: 0,
            queue: head.queue.get(),
            priority: head.priority,
            payload_len: head.payload_len.get(),
            meta_len: head.meta_len.get(),
            lease_ms: head.lease_ms.get(),
        };
        let phase = phase_of(head.change.phase)?;
        let blank = StateWord::new(id.generation(), 0, phase, flags);
        let (word, fields) = changed(blank, phase, &base, &head.change, note);
        let as_of = head.as_of.get();
        if self.place(id, word.with(flags), &fields) {
            self.orders.insert(id.slot(), head.order.get());
        } else {
            let is_told = self.told.is_since(id.slot(), as_of);
            let Some((slot, known)) = self.slot(id) else {
                return Some(());
            };
            let mut merged = slot.fields();
            merged.body = fields.body;
            if merged.note.raw() < as_of {
                merged.note = fields.note;
            }
            if is_told {
                slot.write(&merged);
            } else {
                let note = merged.note;
                slot.write(&Fields { note, ..fields });
            }
            slot.publish(if is_told { known } else { word.with(flags) });
            self.orders.insert(id.slot(), head.order.get());
        }
        Some(())
    }

    /// Settles what had to wait until the queues were known: windows of keys.
    pub(super) fn resolve_keys(&mut self, now_ms: u64) {
        for pending in std::mem::take(&mut self.keys) {
            if let Some((queue, _)) = self.queues.get(&pending.queue)
                && !queue.deleted
            {
                pending.settle(&queue.options, &self.dedupe, now_ms);
            }
        }
    }
}

fn phase_of(number: u8) -> Option<Phase> {
    crate::base::job::JobState::from_u8(number).map(Phase::from)
}

/// State and fields after a change.
fn changed(
    known: StateWord,
    phase: Phase,
    before: &Fields,
    entry: &ChangeEntry,
    note: LogPosition,
) -> (StateWord, Fields) {
    let mut word = known.with_attempt(entry.attempt.get()).with_phase(phase);
    if entry.noted == ChangeEntry::RESULT {
        word = word.with(RESULT);
    }
    let fields = Fields {
        at_ms: entry.at_ms.get(),
        limit: entry.limit.get(),
        failures: entry.failures.get(),
        expiries: entry.expiries.get(),
        releases: entry.releases.get(),
        expires_ms: if entry.has_ttl() { before.expires_ms } else { 0 },
        note: if note.is_none() { before.note } else { note },
        ..*before
    };
    (word, fields)
}
