//! Changes of jobs, whoever asks for them: take, log in one record, publish.
//!
//! Acks without a result are by far the most frequent and carry nothing but their slot and word; everything else
//! is a [`Change`] with the job's fields as they will be.

use super::counters::Event;
use super::finish::Finished;
use super::journal::{self, ChangeEntry, ChangeHead, DoneEntry, Kind, NUMBERED, Prelude, RefusedEntry};
use super::queue::QueueId;
use super::replay::{Applied, RequestId};
use super::slot::Fields;
use super::timer::{Entry, Watch};
use super::word::{Phase, QUEUED, RESULT, StateWord, TIMED, VOLATILE, id_of};
use super::{Engine, retry};
use crate::base::code::ItemError;
use crate::base::limits::DELIVERIES_MAX;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::base::sync::{Ordering, fence};
use crate::log::{Body, Content, LogError, LogPosition, Room};
use smallvec::SmallVec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Entries of jobs that are done which are copied into the log at once.
const DONE_AT_ONCE: usize = 32;

/// What happened to a job, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Ack,
    Failure,
    LeaseExpiry,
    Release,
    Extension,
    Cancel,
    Ttl,
    Redrive,
}

/// A job taken, and what is to become of it.
pub(super) struct Change<'a> {
    pub(super) slot: u32,
    /// The word before it was taken; what an undo restores.
    pub(super) before: StateWord,
    pub(super) to: Phase,
    pub(super) cause: Cause,
    /// The fields as they will be.
    pub(super) fields: Fields,
    pub(super) note: Option<&'a [u8]>,
}

/// Jobs taken together, to be logged in one record.
#[derive(Default)]
pub(super) struct ChangeSet<'a> {
    /// Plain acks: slot and word before.
    pub(super) done: SmallVec<[(u32, StateWord); 64]>,
    pub(super) changes: SmallVec<[Change<'a>; 2]>,
    /// Positions of the request that were refused; logged with a numbered request, so that its answer can be made
    /// again.
    pub(super) refused: SmallVec<[RefusedEntry; 0]>,
}

impl ChangeSet<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.changes.is_empty()
    }

    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.done.clear();
        self.changes.clear();
        self.refused.clear();
    }

    /// Notes what a numbered request was refused.
    pub(super) fn note_refused(&mut self, request: RequestId, items: &[ItemError]) {
        if request.is_numbered() {
            self.refused.extend(items.iter().map(|item| RefusedEntry {
                position: U32::new(item.position),
                code: U16::new(item.code as u16),
                reserved: U16::ZERO,
            }));
        }
    }

    /// Whether this very set has taken the slot: the same job twice in one batch.
    pub(super) fn holds(&self, slot: u32) -> bool {
        self.done.iter().any(|(held, _)| *held == slot)
            || self.changes.iter().any(|change| change.slot == slot)
    }

    /// Whether this very set acks the job in the slot.
    pub(super) fn acks(&self, slot: u32) -> bool {
        let is_acked = |change: &Change<'_>| change.slot == slot && change.cause == Cause::Ack;
        self.done.iter().any(|(held, _)| *held == slot) || self.changes.iter().any(is_acked)
    }

    fn logged(&self) -> (usize, usize, usize) {
        let done = self.done.iter().filter(|(_, word)| !word.has(VOLATILE)).count();
        let (mut changes, mut notes) = (0, 0);
        for change in self.changes.iter().filter(|change| !change.before.has(VOLATILE)) {
            changes += 1;
            notes += change
                .note
                .map_or(0, |note| journal::note_len(note, change.to == Phase::Done));
        }
        (done, changes, notes)
    }
}

impl<'a> Change<'a> {
    /// A failed or expired delivery: back after a delay, or dead, or past its TTL.
    pub(super) fn retried(
        engine: &Engine,
        slot: u32,
        before: StateWord,
        mut fields: Fields,
        cause: Cause,
        delay_ms: Option<u64>,
        now_ms: u64,
    ) -> Self {
        match cause {
            Cause::Failure => fields.failures = fields.failures.saturating_add(1),
            _ => fields.expiries = fields.expiries.saturating_add(1),
        }
        let early = u16::from(is_planted(Plant::BuryEarly));
        let to = if before.attempt().saturating_add(early) >= fields.limit.min(DELIVERIES_MAX) {
            fields.at_ms = now_ms;
            Phase::Dead
        } else if fields.expires_ms != 0 && fields.expires_ms <= now_ms {
            fields.at_ms = now_ms;
            Phase::Expired
        } else {
            let delay_ms = delay_ms.unwrap_or_else(|| {
                let failed = u32::from(fields.failures) + u32::from(fields.expiries);
                engine.registry.get(QueueId(fields.queue)).map_or(0, |queue| {
                    retry::delay_ms(
                        &queue.options.backoff,
                        failed,
                        id_of(slot, before),
                        before.attempt(),
                    )
                })
            });
            fields.at_ms = now_ms + delay_ms;
            if delay_ms == 0 {
                Phase::Ready
            } else {
                Phase::Scheduled
            }
        };
        Self {
            slot,
            before,
            to,
            cause,
            fields,
            note: None,
        }
    }

    /// The same job somewhere else, with nothing counted up.
    pub(super) fn to(
        slot: u32,
        before: StateWord,
        mut fields: Fields,
        to: Phase,
        cause: Cause,
        at_ms: u64,
    ) -> Self {
        fields.at_ms = at_ms;
        Self {
            slot,
            before,
            to,
            cause,
            fields,
            note: None,
        }
    }

    fn entry(&self) -> ChangeEntry {
        ChangeEntry {
            id: U64::new(id_of(self.slot, self.before).0),
            noted: match self.note {
                None => 0,
                Some(_) if self.to == Phase::Done => ChangeEntry::RESULT,
                Some(_) => ChangeEntry::ERROR,
            },
            ..change_entry(self.before, self.to, &self.fields)
        }
    }
}

/// A job's state as the log tells it; without id and notes.
pub(super) fn change_entry(word: StateWord, phase: Phase, fields: &Fields) -> ChangeEntry {
    ChangeEntry {
        id: U64::ZERO,
        at_ms: U64::new(fields.at_ms),
        attempt: U16::new(word.attempt()),
        limit: U16::new(fields.limit),
        failures: U16::new(fields.failures),
        expiries: U16::new(fields.expiries),
        releases: U16::new(fields.releases),
        phase: phase as u8,
        noted: 0,
        ttl_or_queue: U32::new(u32::from(fields.expires_ms != 0)),
    }
}

/// What logging a set gave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Logged {
    /// The record's header; none where nothing was logged.
    pub(super) at: LogPosition,
    /// Its end in the durable log.
    pub(super) end: Option<LogPosition>,
    /// Whether it stands in the volatile log.
    pub(super) volatile: bool,
}

impl Logged {
    /// Nothing was logged.
    pub(super) const NOTHING: Logged = Logged {
        at: LogPosition::NONE,
        end: None,
        volatile: true,
    };

    /// As the session remembers it.
    pub(super) fn applied(self) -> Applied {
        Applied {
            position: self.at,
            volatile: self.volatile,
        }
    }
}

impl Engine {
    /// Length of the set's Change body.
    pub(super) fn change_len(&self, set: &ChangeSet<'_>) -> usize {
        let (done, changes, notes) = set.logged();
        size_of::<ChangeHead>()
            + done * size_of::<DoneEntry>()
            + changes * size_of::<ChangeEntry>()
            + notes
            + set.refused.len() * size_of::<RefusedEntry>()
    }

    /// Writes the set's Change body and notes where the notes will stand.
    #[inline]
    pub(super) fn put_changes(&self, claim: &mut impl Body, body_at: LogPosition, set: &mut ChangeSet<'_>) {
        let (done, changes, _) = set.logged();
        let head = ChangeHead {
            done: U32::new(done as u32),
            changes: U32::new(changes as u32),
            refused: U32::new(set.refused.len() as u32),
            reserved: U32::ZERO,
        };
        claim.put(head.as_bytes());
        // Put together a few at a time, since a piece costs more than what is in it.
        for some in set.done.chunks(DONE_AT_ONCE) {
            let mut entries = [DoneEntry::default(); DONE_AT_ONCE];
            let logged = some.iter().filter(|(_, word)| !word.has(VOLATILE));
            let count = entries.iter_mut().zip(logged).map(|(entry, (slot, word))| {
                entry.id = U64::new(id_of(*slot, *word).0);
                entry.attempt = U16::new(word.attempt());
            });
            let count = count.count();
            claim.put(entries[..count].as_bytes());
        }
        for change in set.changes.iter().filter(|change| !change.before.has(VOLATILE)) {
            claim.put(change.entry().as_bytes());
        }
        let entries = done * size_of::<DoneEntry>() + changes * size_of::<ChangeEntry>();
        let mut note_at = body_at.plus((size_of::<ChangeHead>() + entries) as u32);
        for change in set
            .changes
            .iter_mut()
            .filter(|change| !change.before.has(VOLATILE))
        {
            if let Some(note) = change.note {
                journal::put_note(
                    claim,
                    note,
                    (change.to == Phase::Done).then_some(change.fields.note),
                );
                change.fields.note = note_at;
                note_at = note_at.plus(journal::note_len(note, change.to == Phase::Done) as u32);
            }
        }
        claim.put(set.refused.as_bytes());
    }

    /// Logs a set in one record; volatile jobs only leave their notes, in the volatile log.
    pub(super) fn log_changes(
        &self,
        set: &mut ChangeSet<'_>,
        request: RequestId,
        now_ms: u64,
    ) -> Result<Logged, LogError> {
        self.put_volatile_notes(set, now_ms)?;
        let (done, changes, _) = set.logged();
        let prelude = Prelude::len_for(request);
        // Volatile jobs alone are told of only where the answer may have to be made again.
        let volatile = done + changes == 0;
        if volatile && (prelude == 0 || set.is_empty()) {
            return Ok(Logged::NOTHING);
        }
        // Release: who reads the log's tail behind this record finds the jobs taken (see `claim_copy`).
        fence(Ordering::Release);
        let log = self.log(volatile);
        let flags = if prelude > 0 { NUMBERED } else { 0 };
        let (at, end) = if set.changes.is_empty() {
            let settled = Settled {
                request,
                engine: self,
                set,
            };
            log.append(settled, Room::Settle, (Kind::Change as u8, flags), now_ms, 0)?
        } else {
            // Where a note stands is known only once its record has a place.
            let mut claim = log.claim(prelude + self.change_len(set), Room::Settle)?;
            Prelude::put(request, &mut claim);
            let body_at = claim.body_position().plus(prelude as u32);
            self.put_changes(&mut claim, body_at, set);
            (
                claim.position(),
                claim.commit(Kind::Change as u8, flags, now_ms, 0),
            )
        };
        Ok(Logged {
            at,
            end: (!volatile).then_some(end),
            volatile,
        })
    }

    /// Error texts and results of volatile jobs need a home too.
    pub(super) fn put_volatile_notes(&self, set: &mut ChangeSet<'_>, now_ms: u64) -> Result<(), LogError> {
        for change in set
            .changes
            .iter_mut()
            .filter(|change| change.before.has(VOLATILE))
        {
            let Some(note) = change.note else { continue };
            let is_result = change.to == Phase::Done;
            let mut claim = self
                .volatile
                .claim(journal::note_len(note, is_result), Room::Settle)?;
            let at = claim.body_position();
            journal::put_note(&mut claim, note, is_result.then_some(change.fields.note));
            claim.commit(Kind::Change as u8, 0, now_ms, 0);
            change.fields.note = at;
        }
        Ok(())
    }

    /// Gives everything back as it was: the log refused, or a step was refused.
    pub(super) fn undo(&self, set: &ChangeSet<'_>) {
        let words = set.done.iter().copied();
        for (number, before) in words.chain(set.changes.iter().map(|change| (change.slot, change.before))) {
            let slot = self.slab.slot(number);
            if slot.restore(before) {
                // A popper has dropped the handle while the job was Busy.
                let fields = slot.fields();
                if let Some(queue) = self.registry.get(QueueId(fields.queue)) {
                    queue.put_front(fields.priority, number);
                    self.wake(queue, 1);
                    self.drop_stale_if_deleted(queue);
                }
            }
        }
    }

    /// Publishes a set that is in the log: states, handles, timers, counters, retention.
    pub(super) fn apply(&self, set: &ChangeSet<'_>, now_ms: u64) -> Durability {
        let mut level = self.finish_acked(&set.done, now_ms);
        if set.changes.is_empty() {
            return level;
        }
        let mut finished = Finished::default();
        let mut timers: SmallVec<[Entry; 8]> = SmallVec::new();
        for change in &set.changes {
            level = self.apply_one(change, &mut timers, &mut finished).max(level);
        }
        self.retire_finished(&mut finished);
        if !timers.is_empty() {
            let mut wheel = self.wheel.lock();
            timers.into_iter().for_each(|entry| wheel.insert(entry));
        }
        level
    }

    fn apply_one<'e>(
        &'e self,
        change: &Change<'_>,
        timers: &mut SmallVec<[Entry; 8]>,
        finished: &mut Finished<'e>,
    ) -> Durability {
        let slot = self.slab.slot(change.slot);
        let before = change.before;
        let fields = &change.fields;
        let deadline_before_ms = slot.at_ms();
        let Some(queue) = self.registry.get(QueueId(fields.queue)) else {
            unreachable!("a job's queue is never forgotten while the engine is open");
        };
        slot.write_changes(fields);
        let event = match change.cause {
            Cause::Ack => Some(Event::Done),
            Cause::Failure => Some(Event::Failed),
            Cause::LeaseExpiry => Some(Event::LeaseExpired),
            Cause::Release => Some(Event::Released),
            Cause::Redrive => Some(Event::Redriven),
            Cause::Cancel => Some(Event::Cancelled),
            Cause::Ttl | Cause::Extension => None,
        };
        match change.to {
            Phase::Done | Phase::Cancelled | Phase::Expired => {
                if change.to == Phase::Expired {
                    queue.counters.count(Event::Expired, 1);
                }
                if matches!(change.cause, Cause::Failure | Cause::LeaseExpiry | Cause::Release) {
                    event.into_iter().for_each(|event| queue.counters.count(event, 1));
                }
                let own = if matches!(change.cause, Cause::Ack | Cause::Cancel) {
                    event
                } else {
                    None
                };
                let word = if change.note.is_some() && change.to == Phase::Done {
                    before.with(RESULT)
                } else {
                    before
                };
                return self.finish_counted(change.slot, slot, word, change.to, own, finished);
            }
            Phase::Leased => {
                let timed = before.flags() & TIMED;
                slot.publish(before.with_phase(Phase::Leased).with(timed).next_turn());
                // A lease in the wheel fires at its old deadline and is entered again; only one that became
                // shorter needs an entry of its own.
                if timed != 0 && fields.at_ms < deadline_before_ms {
                    let watch = Watch::Deadline(before.attempt());
                    timers.push(Entry::new(fields.at_ms, id_of(change.slot, before), watch));
                }
            }
            Phase::Scheduled => {
                slot.publish(before.with_phase(Phase::Scheduled).with(TIMED));
                timers.push(Entry::new(
                    fields.at_ms,
                    id_of(change.slot, before),
                    Watch::Deadline(before.attempt()),
                ));
                queue.counters.moved(before.phase(), Phase::Scheduled, 1);
            }
            Phase::Ready => {
                slot.publish(before.with_phase(Phase::Ready).with(QUEUED));
                queue.counters.moved(before.phase(), Phase::Ready, 1);
                queue.push_ready(&self.pool, fields.priority, &[change.slot]);
                self.wake(queue, 1);
                self.drop_stale_if_deleted(queue);
            }
            Phase::Dead => {
                slot.publish(before.with_phase(Phase::Dead));
                queue.counters.moved(before.phase(), Phase::Dead, 1);
                queue.counters.count(Event::Buried, 1);
            }
            Phase::Free | Phase::Busy | Phase::Zombie => unreachable!("no change leads there"),
        }
        event.into_iter().for_each(|event| queue.counters.count(event, 1));
        queue.durability()
    }
}

/// What the log is told of a set without notes.
struct Settled<'a, 'n> {
    request: RequestId,
    engine: &'a Engine,
    set: &'a mut ChangeSet<'n>,
}

impl Content for Settled<'_, '_> {
    #[inline]
    fn body_len(&self) -> usize {
        Prelude::len_for(self.request) + self.engine.change_len(self.set)
    }

    #[inline]
    fn put_into(self, body: &mut impl Body) {
        Prelude::put(self.request, body);
        self.engine.put_changes(body, LogPosition::NONE, self.set);
    }
}
