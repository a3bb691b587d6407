//! The end of jobs: counted, kept for as long as the queue's retention says, then forgotten and their slots freed.

use super::Engine;
use super::queue::{Event, Queue, QueueId};
use super::slot::{Phase, Slot, StateWord, VOLATILE};
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::log::{Log, LogPosition};
use smallvec::SmallVec;

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
    /// As [`finish_counted`](Self::finish_counted) for a job whose event is always counted.
    pub(super) fn finish_one<'e>(
        &'e self,
        number: u32,
        slot: Slot<'_>,
        before: StateWord,
        to: Phase,
        event: Event,
        finished: &mut Finished<'e>,
    ) -> Durability {
        self.finish_counted(number, slot, before, to, Some(event), finished)
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
            let Some(queue) = self.registry.get(queue_id) else {
                unreachable!("a job's queue is never forgotten while the engine is open");
            };
            finished.run = Some(Run {
                queue,
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
        queue.counters.moved(run.from, run.to, count);
        let is_miscounted = is_planted(Plant::MiscountExpired) && run.to == Phase::Expired;
        queue
            .counters
            .vacate(count, if is_miscounted { 0 } else { run.bytes });
        if let Some(event) = run.event {
            queue.counters.count(event, count);
        }
        self.retain_finished(queue, &finished.handles);
        finished.handles.clear();
    }

    /// Hands finished jobs to their queue's retention and frees what falls out of it.
    pub(super) fn retain_finished(&self, queue: &Queue, handles: &[u32]) {
        if queue.options.keep_finished == 0 || queue.is_deleted() {
            return self.free(queue, handles);
        }
        let mut excess = [0; 256];
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
        let mut excess = [0; 256];
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
        let mut free: SmallVec<[u32; 256]> = SmallVec::new();
        let mut releases = [Releases::new(&self.durable), Releases::new(&self.volatile)];
        let mut gone = [0u64; 8];
        for number in numbers {
            let (word, body, is_free) = self.slab.forget(*number);
            gone[word.phase() as usize] += 1;
            releases[usize::from(word.has(VOLATILE))].add(body);
            let is_leaked = is_planted(Plant::LeakSlot) && word.phase() == Phase::Cancelled;
            if is_free && !is_leaked {
                free.push(*number);
            }
        }
        for (phase, count) in gone.iter().enumerate().filter(|(_, count)| **count > 0) {
            queue.counters.left_number(phase, *count);
        }
        self.slab.give(&free);
    }
}

/// Live counts to be released, a run of one segment at a time.
struct Releases<'a> {
    log: &'a Log,
    position: LogPosition,
    count: u32,
}

impl<'a> Releases<'a> {
    fn new(log: &'a Log) -> Self {
        Self {
            log,
            position: LogPosition::NONE,
            count: 0,
        }
    }

    fn add(&mut self, position: LogPosition) {
        if position.is_none() {
            return;
        }
        if self.count > 0 && self.position.sequence() == position.sequence() {
            self.count += 1;
            return;
        }
        self.flush();
        self.position = position;
        self.count = 1;
    }

    fn flush(&mut self) {
        if self.count > 0 {
            self.log.release(self.position, self.count);
            self.count = 0;
        }
    }
}

impl Drop for Releases<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
