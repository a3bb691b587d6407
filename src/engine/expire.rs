//! Time: leases that run out, jobs that become due, TTLs that pass.
//!
//! A lease is not entered into the wheel when it is handed out. Its slot is marked as one with a young lease, and
//! [`Engine::timer_step`] looks at those every tick: most jobs are settled by then, so the wheel only sees leases
//! that last.

use super::change::{Cause, Change, ChangeSet};
use super::journal::ReserveEntry;
use super::queue::{Queue, QueueId};
use super::replay::RequestId;
use super::slot::Slot;
use super::timer::{Entry, Watch};
use super::word::{Phase, QUEUED, StateWord, TIMED, id_of};
use super::{Confirmed, Engine};
use crate::base::job::Token;
use crate::base::limits::{RETRY_LATER_MS, TICK_MS};
use crate::base::queue::Durability;
use smallvec::SmallVec;

/// Entries that go into the wheel under one lock.
const ENTERED_AT_ONCE: usize = 256;
/// Changes in one record of expiries.
const EXPIRIES_MAX: usize = 512;

impl Engine {
    /// Puts freshly leased jobs under watch.
    pub(super) fn watch_leases(&self, leased: &[ReserveEntry]) {
        self.young_leases
            .mark(&self.pool, leased.iter().map(ReserveEntry::slot));
    }

    /// Puts young leases that still last into the wheel.
    fn sort_young_leases(&self) {
        let slots = self.slab.all();
        let mut lasting: SmallVec<[Entry; ENTERED_AT_ONCE]> = SmallVec::new();
        let mut busy: SmallVec<[u32; 8]> = SmallVec::new();
        self.young_leases.take(&self.pool, |number| {
            let slot = slots.slot(number);
            let word = slot.state();
            match word.phase() {
                // May come back as a lease (an extension), so it must not be forgotten.
                Phase::Busy => busy.push(number),
                Phase::Leased if !word.has(TIMED) => {
                    let at_ms = slot.at_ms();
                    // Success means that the word, and so the deadline read before, was current.
                    if slot.exchange(word, word.with(TIMED)).is_ok() {
                        let watch = Watch::Deadline(word.attempt());
                        lasting.push(Entry::new(at_ms, id_of(number, word), watch));
                        // Others that want the wheel do not wait for all of them.
                        if lasting.len() == ENTERED_AT_ONCE {
                            self.enter(&mut lasting);
                        }
                    } else {
                        busy.push(number);
                    }
                }
                // Settled already: so are nearly all of them.
                _ => {}
            }
        });
        self.enter(&mut lasting);
        // They are looked at again with the next tick.
        self.young_leases.mark(&self.pool, busy);
    }

    /// Puts entries into the wheel; none are left.
    fn enter(&self, entries: &mut SmallVec<[Entry; ENTERED_AT_ONCE]>) {
        if !entries.is_empty() {
            let mut wheel = self.wheel.lock();
            entries.drain(..).for_each(|entry| wheel.insert(entry));
        }
    }

    /// The timer agent: gives expired leases back, makes due jobs ready, ends jobs whose TTL passed. To be called
    /// every [`TICK_MS`]; handles about `budget` deadlines and says how many. More than 0: call again at once.
    pub fn timer_step(&self, now_ms: u64, budget: usize) -> usize {
        self.sort_young_leases();
        let mut fired = Vec::new();
        self.wheel.lock().advance(now_ms, budget, &mut fired);
        let mut set = ChangeSet::default();
        let mut due = Due::default();
        let mut again: SmallVec<[Entry; 8]> = SmallVec::new();
        for entry in &fired {
            if let Some(entry) = self.fire(*entry, now_ms, &mut set, &mut due) {
                again.push(entry);
            }
            if set.changes.len() >= EXPIRIES_MAX {
                self.commit_expiries(&mut set, now_ms, &mut again);
            }
        }
        self.push_due(&mut due);
        self.commit_expiries(&mut set, now_ms, &mut again);
        if !again.is_empty() {
            let mut wheel = self.wheel.lock();
            again.into_iter().for_each(|entry| wheel.insert(entry));
        }
        fired.len()
    }

    /// Looks at the job of an entry; returns the entry to be entered again, if it is to be.
    fn fire<'e>(
        &'e self,
        entry: Entry,
        now_ms: u64,
        set: &mut ChangeSet<'_>,
        due: &mut Due<'e>,
    ) -> Option<Entry> {
        let number = entry.id.slot();
        let slot = self.slab.slot(number);
        let soon = |what| Some(Entry::new(now_ms + TICK_MS, entry.id, what));
        let watch = entry.watch();
        loop {
            let word = slot.state();
            if word.generation() != entry.id.generation() {
                return None;
            }
            match watch {
                Watch::Deadline(attempt) if attempt != word.attempt() => return None,
                _ => {}
            }
            let at_ms = slot.at_ms();
            match (word.phase(), watch) {
                (Phase::Busy, _) => return soon(watch),
                (Phase::Leased | Phase::Scheduled, Watch::Deadline(_)) if at_ms > now_ms => {
                    // Extended, or this entry is older than the deadline.
                    return Some(Entry::new(at_ms, entry.id, watch));
                }
                (Phase::Leased, Watch::Deadline(_)) => {
                    if slot.take(word) {
                        let fields = slot.fields();
                        let cause = Cause::LeaseExpiry;
                        set.changes
                            .push(Change::retried(self, number, word, fields, cause, None, now_ms));
                        return None;
                    }
                }
                (Phase::Scheduled, Watch::Deadline(_)) => {
                    let ready = word.with_phase(Phase::Ready).with(QUEUED);
                    if slot.exchange(word, ready).is_ok() {
                        self.add_due(number, slot, due);
                        return None;
                    }
                }
                (Phase::Ready | Phase::Scheduled, Watch::Ttl) => {
                    let expires_ms = slot.expires_ms();
                    if expires_ms == 0 {
                        // A redrive lifted it.
                        return None;
                    }
                    if expires_ms > now_ms {
                        return Some(Entry::new(expires_ms, entry.id, watch));
                    }
                    if slot.take_mortal(word) {
                        let fields = slot.fields();
                        set.changes.push(Change::to(
                            number,
                            word,
                            fields,
                            Phase::Expired,
                            Cause::Ttl,
                            now_ms,
                        ));
                        return None;
                    }
                }
                // A leased job is asked for its TTL when it comes back; any other is over.
                _ => return None,
            }
        }
    }

    fn add_due<'e>(&'e self, number: u32, slot: Slot<'_>, due: &mut Due<'e>) {
        let fields = slot.fields();
        let same =
            |(queue, priority): (&Queue, u8)| queue.id.0 == fields.queue && priority == fields.priority;
        if !due.to.is_some_and(same) {
            self.push_due(due);
            due.to = self
                .registry
                .get(QueueId(fields.queue))
                .map(|queue| (queue, fields.priority));
        }
        due.handles.push(number);
    }

    fn push_due(&self, due: &mut Due<'_>) {
        if let Some((queue, priority)) = due.to.take() {
            queue
                .counters
                .moved(Phase::Scheduled, Phase::Ready, due.handles.len() as u64);
            queue.push_ready(&self.pool, priority, &due.handles);
            self.wake(queue, due.handles.len());
            self.drop_stale_if_deleted(queue);
            due.handles.clear();
        }
    }

    fn commit_expiries(&self, set: &mut ChangeSet<'_>, now_ms: u64, again: &mut SmallVec<[Entry; 8]>) {
        if set.is_empty() {
            return;
        }
        if self.log_changes(set, RequestId::NONE, now_ms).is_ok() {
            self.apply(set, now_ms);
            // Nobody may ever reserve from this queue: handles of jobs that expired in it must not pile up.
            let expired = set.changes.iter().filter(|change| change.cause == Cause::Ttl);
            let mut queues: SmallVec<[u32; 4]> = expired.map(|change| change.fields.queue).collect();
            queues.sort_unstable();
            queues.dedup();
            let queues = queues
                .iter()
                .filter_map(|queue| self.registry.get(QueueId(*queue)));
            queues.for_each(|queue| self.drop_stale(queue));
        } else {
            // No room in the log, or it failed: nothing happened, and it is tried again a little later.
            self.undo(set);
            let later_ms = now_ms + u64::from(RETRY_LATER_MS);
            again.extend(set.changes.iter().map(|change| {
                let watch = match change.cause {
                    Cause::Ttl => Watch::Ttl,
                    _ => Watch::Deadline(change.before.attempt()),
                };
                Entry::new(later_ms, id_of(change.slot, change.before), watch)
            }));
        }
        set.changes.clear();
    }

    /// A Ready job that was popped after its TTL passed.
    pub(super) fn expire_unserved(&self, number: u32, word: StateWord, now_ms: u64) -> Unserved {
        let slot = self.slab.slot(number);
        if slot
            .exchange(word, word.with_phase(Phase::Busy).without(QUEUED))
            .is_err()
        {
            return Unserved::Moved;
        }
        let mut set = ChangeSet::default();
        set.changes.push(Change::to(
            number,
            word,
            slot.fields(),
            Phase::Expired,
            Cause::Ttl,
            now_ms,
        ));
        let mut again = SmallVec::new();
        self.commit_expiries(&mut set, now_ms, &mut again);
        // Where the log refused, the handle is in front of the ring again. The TTL's own entry is still in the wheel,
        // or its job would have ended by it; another one for each look would fill the wheel.
        if again.is_empty() {
            Unserved::Gone
        } else {
            Unserved::Refused
        }
    }

    /// Makes leases end at `deadline_ms` at the latest: their worker went away (G10). Each comes with the deadline
    /// that it had; one that has another by now was extended and is left alone, as is one that is not current.
    /// Not logged: a restart leaves the worker its whole lease, unless the job was copied meanwhile (`copy`): a copy tells
    /// the job as it stands.
    pub fn shorten_leases(&self, leases: impl IntoIterator<Item = (Token, u64)>, deadline_ms: u64) {
        for (token, deadline_was_ms) in leases {
            let Some(slot) = self.slab.get(token.id.slot()) else {
                continue;
            };
            let word = slot.state();
            let current = word.generation() == token.id.generation() && word.attempt() == token.attempt;
            let at_ms = slot.at_ms();
            if !current || word.phase() != Phase::Leased || at_ms != deadline_was_ms || at_ms <= deadline_ms {
                continue;
            }
            if slot.take(word) {
                slot.write_at(deadline_ms);
                slot.publish(word.next_turn().with(TIMED));
                let entry = Entry::new(deadline_ms, token.id, Watch::Deadline(token.attempt));
                self.wheel.lock().insert(entry);
            }
        }
    }

    /// When the lease of a delivery ends, if that is known at this moment.
    pub fn lease_end_ms(&self, token: Token) -> Option<u64> {
        let (word, fields) = self.slab.get(token.id.slot())?.snapshot()?;
        let current = word.generation() == token.id.generation() && word.attempt() == token.attempt;
        (current && word.phase() == Phase::Leased).then_some(fields.at_ms)
    }

    /// The answer to a request that changed nothing in the log.
    pub(super) fn unlogged(&self) -> Confirmed {
        Confirmed {
            level: Durability::Memory,
            position: None,
            replayed: false,
        }
    }
}

/// What came of a job that was popped after its TTL had passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unserved {
    /// It expired.
    Gone,
    /// Its word moved: the caller is to look again.
    Moved,
    /// The log refused, and the job is where it was.
    Refused,
}

/// Jobs that became due, for one ring.
#[derive(Default)]
struct Due<'e> {
    to: Option<(&'e Queue, u8)>,
    handles: SmallVec<[u32; 64]>,
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions};
    use crate::base::queue::QueueOptions;
    use crate::engine::{DeliveryHead, DeliverySink, EngineConfig, EnqueueReply};

    const NOW_MS: u64 = 1_700_000_000_000;

    struct Tokens(Vec<Token>);

    impl DeliverySink for Tokens {
        fn room(&self) -> (usize, usize) {
            (usize::MAX, usize::MAX)
        }

        fn push(&mut self, head: &DeliveryHead, _: &[u8]) {
            self.0.push(head.token);
        }
    }

    /// A job that somebody settles while the timer looks may come back as a lease, which must end all the same.
    #[test]
    fn a_lease_that_was_held_while_the_timer_looked_is_not_forgotten() {
        let config = EngineConfig {
            slots: 64,
            segment_bytes: 64 * 1024,
            ..EngineConfig::default()
        };
        let (engine, _) = Engine::open(config, NOW_MS).unwrap();
        let (queue, _) = engine
            .create_queue("q", &QueueOptions::default(), RequestId::NONE, NOW_MS)
            .unwrap();
        let mut batch = EnqueueBuilder::new();
        (0..2).for_each(|_| batch.push(b"job", &JobOptions::default()));
        let mut bytes = Vec::new();
        batch.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(2, &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        engine
            .enqueue(queue, &batch, None, RequestId::NONE, NOW_MS, &mut reply)
            .unwrap();
        let mut leased = Tokens(Vec::new());
        engine
            .reserve(&[queue], 1, 100, RequestId::NONE, NOW_MS, &mut leased)
            .unwrap();
        let slot = engine.slab.slot(leased.0[0].id.slot());
        let word = slot.state();
        assert!(slot.take(word), "as one who settles it");
        assert_eq!(engine.timer_step(NOW_MS, 100), 0);
        engine
            .reserve(&[queue], 1, 100, RequestId::NONE, NOW_MS, &mut leased)
            .unwrap();
        slot.publish(word);
        while engine.timer_step(NOW_MS + 1_000, 100) > 0 {}
        assert_eq!(engine.queue_stats(queue).unwrap().counts.leased, 0);
    }
}
