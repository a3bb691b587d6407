//! The end of jobs: counted, kept for as long as the queue's retention says, then forgotten and their slots freed.

use super::Engine;
use super::counters::Event;
use super::gate::PASSING_MAX;
use super::queue::{Queue, QueueId};
use super::slot::Slot;
use super::word::{Phase, StateWord, VOLATILE};
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::log::LogPosition;
use smallvec::SmallVec;

/// Jobs that fall out of a retention at once.
const EXCESS_MAX: usize = 256;

/// Finished jobs of one queue that came from the same phase and went to the same, not yet counted.
struct Run<'e> {
    queue: &'e Queue,
    from: Phase,
    to: Phase,
    event: Option<Event>,
    bytes: u64,
}

/// Collects finished jobs so that counters and rings are touched once a run, not once a job.
#[derive(Default)]
pub(super) struct Finished<'e> {
    run: Option<Run<'e>>,
    handles: SmallVec<[u32; 64]>,
}

impl Engine {
    /// Publishes the ends of jobs that were leased and are acked without a result, a run of one queue at a time.
    /// Returns the strongest durability of the queues.
    pub(super) fn finish_acked(&self, done: &[(u32, StateWord)], now_ms: u64) -> Durability {
        let slots = self.slab.all();
        let mut level = Durability::Memory;
        let mut rest = done;
        while let Some((first, before)) = rest.first() {
            let queue = self.queue_of(slots.slot(*first));
            let mut finished = Finished::default();
            let (handles, mut bytes) = (&mut finished.handles, 0);
            handles.reserve(rest.len());
            handles.extend(rest.iter().map_while(|(number, before)| {
                let slot = slots.slot(*number);
                if slot.queue() != queue.id.0 {
                    return None;
                }
                bytes += slot.body_bytes() as u64;
                slot.write_at(now_ms);
                slot.finish(before.with_phase(Phase::Done));
                Some(*number)
            }));
            rest = &rest[handles.len()..];
            level = level.max(queue.durability());
            finished.run = Some(Run {
                queue,
                from: before.phase(),
                to: Phase::Done,
                event: Some(Event::Done),
                bytes,
            });
            self.retire_finished(&mut finished);
        }
        level
    }

    fn queue_of(&self, slot: Slot<'_>) -> &Queue {
        match self.registry.get(QueueId(slot.queue())) {
            Some(queue) => queue,
            None => unreachable!("a job's queue is never forgotten while the engine is open"),
        }
    }

    /// Publishes the end of a Busy job and puts it with the others of its run. Returns its queue's durability.
    pub(super) fn finish_counted<'e>(
        &'e self,
        number: u32,
        slot: Slot<'_>,
        before: StateWord,
        to: Phase,
        event: Option<Event>,
        finished: &mut Finished<'e>,
    ) -> Durability {
        let queue_id = QueueId(slot.queue());
        let bytes = slot.body_bytes() as u64;
        let same = |run: &Run<'_>| {
            run.queue.id == queue_id && run.from == before.phase() && run.to == to && run.event == event
        };
        if !finished.run.as_ref().is_some_and(same) {
            self.retire_finished(finished);
            finished.run = Some(Run {
                queue: self.queue_of(slot),
                from: before.phase(),
                to,
                event,
                bytes: 0,
            });
        }
        slot.finish(before.with_phase(to));
        finished.handles.push(number);
        match &mut finished.run {
            Some(run) => {
                run.bytes += bytes;
                run.queue.durability()
            }
            None => unreachable!("the run was made above"),
        }
    }

    /// Counts the open run, hands it to the queue's retention, and frees what falls out of that.
    pub(super) fn retire_finished(&self, finished: &mut Finished<'_>) {
        let Some(run) = finished.run.take() else { return };
        let count = finished.handles.len() as u64;
        let queue = run.queue;
        let is_miscounted = is_planted(Plant::MiscountExpired) && run.to == Phase::Expired;
        let bytes = if is_miscounted { 0 } else { run.bytes };
        queue.counters.ended(run.from, run.to, count, bytes, run.event);
        self.retain_finished(queue, &finished.handles);
        finished.handles.clear();
    }

    /// Hands finished jobs to their queue's retention and frees what falls out of it.
    pub(super) fn retain_finished(&self, queue: &Queue, handles: &[u32]) {
        if queue.options.keep_finished == 0 || queue.is_deleted() {
            return self.free(queue, handles);
        }
        // As many go as come, mostly; one more place, so that there are no more where that is not filled.
        let mut excess: SmallVec<[u32; 128]> = SmallVec::new();
        excess.extend_from_slice(&[0; EXCESS_MAX][..(handles.len() + 1).min(EXCESS_MAX)]);
        let mut taken = queue.keep_finished(&self.pool, handles, &mut excess);
        self.free(queue, &excess[..taken]);
        while taken == excess.len() {
            taken = queue.keep_finished(&self.pool, &[], &mut excess);
            self.free(queue, &excess[..taken]);
        }
        if queue.is_deleted() {
            self.trim_finished(queue, 0);
        }
    }

    /// Frees finished jobs of a queue beyond the first `keep`; says how many.
    pub(super) fn trim_finished(&self, queue: &Queue, keep: u64) -> u64 {
        let mut excess = [0; EXCESS_MAX];
        let mut total = 0;
        loop {
            let taken = queue.trim_finished(&self.pool, keep, &mut excess);
            if taken == 0 {
                return total;
            }
            total += taken as u64;
            self.free(queue, &excess[..taken]);
        }
    }

    /// Forgets finished jobs: their bodies leave the log, their slots become free.
    pub(super) fn free(&self, queue: &Queue, numbers: &[u32]) {
        if numbers.is_empty() {
            return;
        }
        let slots = self.slab.all();
        let mut releases = Releases::new(self);
        let mut gone = [0u64; 8];
        // Only where not all slots are free then: the handles of some may still stand in a ring.
        let mut free: Option<SmallVec<[u32; 64]>> = None;
        let mut passing = None;
        for (at, number) in numbers.iter().enumerate() {
            if at.is_multiple_of(PASSING_MAX) {
                // Let go first: whoever waits for it may be next.
                drop(passing.take());
                passing = self.slab.gate().pass(numbers.len() - at);
            }
            let (word, body, is_free) = slots.slot(*number).forget(passing.as_ref());
            gone[word.phase() as usize % 8] += 1;
            releases.add(body, word.has(VOLATILE));
            let is_leaked = is_planted(Plant::LeakSlot) && word.phase() == Phase::Cancelled;
            if !is_free || is_leaked {
                free.get_or_insert_with(|| numbers[..at].into());
            } else if let Some(free) = &mut free {
                free.push(*number);
            }
        }
        drop(passing);
        for (phase, count) in gone.iter().enumerate().filter(|(_, count)| **count > 0) {
            queue.counters.left_number(phase, *count);
        }
        self.slab.give(free.as_deref().unwrap_or(numbers));
    }
}

/// Live counts to be released, a run of one segment at a time.
struct Releases<'a> {
    engine: &'a Engine,
    position: LogPosition,
    volatile: bool,
    count: u32,
}

impl<'a> Releases<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            position: LogPosition::NONE,
            volatile: false,
            count: 0,
        }
    }

    #[inline]
    fn add(&mut self, position: LogPosition, volatile: bool) {
        if self.position.sequence() != position.sequence() || self.volatile != volatile {
            self.flush();
            self.position = position;
            self.volatile = volatile;
        }
        self.count += 1;
    }

    fn flush(&mut self) {
        // No position: bodies that are gone already.
        if self.count > 0 && !self.position.is_none() {
            self.engine.log(self.volatile).release(self.position, self.count);
        }
        self.count = 0;
    }
}

impl Drop for Releases<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
