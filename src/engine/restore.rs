//! From recovered slots back to a queue engine that runs: counts, timers, rings, live counts of the log.
//!
//! Done once for each job that a log holds, so what is the same for neighbours (their queue, their segment) is looked up
//! and counted once for all of them, and nothing is allocated for one job.

use super::Engine;
use super::purged::{Finished, Purged};
use super::queue::{Queue, QueueId};
use super::slot::Fields;
use super::timer::{Entry, Watch};
use super::told::Told;
use super::word::{Phase, QUEUED, StateWord, TIMED, id_of};
use crate::base::limits::{PRIORITIES, TICK_MS};
use crate::base::plant::{Plant, is_planted};
use crate::log::LogPosition;
use std::collections::{HashMap, HashSet};

/// Handles that are pushed to a ring at once.
const PUSH: usize = 4096;

/// Where a ready job stands among the others: tick, order of acceptance, slot.
type Place = (u64, u64, u32);

impl Engine {
    /// Walks the recovered slots: counts, timers, rings, live counts of the log. Returns finished jobs, with
    /// when they ended.
    pub(super) fn restore_jobs(
        &self,
        fresh_from: u32,
        orders: &HashMap<u32, u64>,
        now_ms: u64,
    ) -> Vec<(u64, u32)> {
        let (mut fresh, mut retried) = (Line::default(), Line::default());
        let mut finished: Vec<(u64, u32)> = Vec::new();
        let mut timers: Vec<(u64, u64, Entry)> = Vec::new();
        let mut live = Live::default();
        let mut tally = Tally::default();
        // A map that is empty, as it mostly is, is not asked.
        let order_of = |number: u32, fields: &Fields| match orders.is_empty() {
            true => fields.body.raw(),
            false => orders.get(&number).copied().unwrap_or(fields.body.raw()),
        };
        for number in 0..fresh_from {
            let slot = self.slab.slot(number);
            let word = slot.state();
            if word.phase() == Phase::Free {
                continue;
            }
            let mut fields = slot.fields();
            let Some(queue) = tally.turn_to(self, fields.queue) else {
                // Of a queue that was deleted: gone with it.
                slot.drop_body();
                slot.publish(StateWord::new(word.generation(), 0, Phase::Free, 0));
                continue;
            };
            if fields.limit == 0 {
                fields.limit = queue.options.max_attempts;
                slot.write(&fields);
            }
            live.add(fields.body.sequence());
            let id = id_of(number, word);
            let phase = match word.phase() {
                Phase::Scheduled if fields.at_ms <= now_ms => Phase::Ready,
                phase => phase,
            };
            tally.count(phase, &fields);
            if phase.is_finished() {
                finished.push((fields.at_ms, number));
                continue;
            }
            let order = order_of(number, &fields);
            if fields.expires_ms > 0 && phase != Phase::Dead {
                let entry = Entry::new(fields.expires_ms, id, Watch::Ttl);
                timers.push((fields.expires_ms, order, entry));
            }
            match phase {
                Phase::Leased if is_planted(Plant::LoseLeaseTimer) => slot.publish(word.with(TIMED)),
                Phase::Scheduled | Phase::Leased => {
                    let entry = Entry::new(fields.at_ms, id, Watch::Deadline(word.attempt()));
                    timers.push((fields.at_ms.div_ceil(TICK_MS), order, entry));
                    slot.publish(word.with(TIMED));
                }
                Phase::Ready => {
                    slot.publish(word.with_phase(Phase::Ready).with(QUEUED));
                    // A job that was delayed has its due time there, whether it is told of as Ready (in a copy) or not.
                    if word.attempt() == 0 && fields.at_ms <= fields.enqueued_ms {
                        fresh.add(fresh_place(order, number), &fields);
                    } else {
                        retried.add(retried_place(order, number, &fields), &fields);
                    }
                }
                _ => {}
            }
        }
        tally.flush();
        // Deadlines of one tick in the order in which their jobs were accepted (G7).
        timers.sort_unstable_by_key(|(tick, order, _)| (*tick, *order));
        let mut wheel = self.wheel.lock();
        timers.into_iter().for_each(|(_, _, entry)| wheel.insert(entry));
        drop(wheel);
        for (sequence, jobs) in live.take() {
            self.durable.retain(LogPosition::new(sequence, 0), jobs);
        }
        // Jobs never handed out come first, in the order in which they were accepted; the others behind (G7).
        self.requeue_all(fresh, |number, fields| {
            fresh_place(order_of(number, fields), number)
        });
        self.requeue_all(retried, |number, fields| {
            retried_place(order_of(number, fields), number, fields)
        });
        finished
    }

    /// Pushes handles in order, a run of one ring at a time.
    fn requeue_all(&self, line: Line, place: impl Fn(u32, &Fields) -> Place) {
        let mut pushes = Pushes::default();
        if line.is_unsorted {
            let place_of = |number: &u32| place(*number, &self.slab.slot(*number).fields());
            let mut places: Vec<Place> = line.numbers.iter().map(place_of).collect();
            drop(line);
            places.sort_unstable();
            for (_, _, number) in places {
                let Fields { queue, priority, .. } = self.slab.slot(number).fields();
                pushes.add(self, (queue, priority), &[number]);
            }
        } else {
            let ends = line.runs.iter().skip(1).map(|(_, start)| *start);
            let ends = ends.chain([line.numbers.len()]);
            for ((ring, start), end) in line.runs.iter().zip(ends) {
                pushes.add(self, *ring, &line.numbers[*start..end]);
            }
        }
        for (ring, run) in pushes.0 {
            self.push_recovered(ring, &run);
        }
    }

    fn push_recovered(&self, (queue, priority): (u32, u8), run: &[u32]) {
        if let Some(queue) = self.registry.get(QueueId(queue)) {
            queue.push_ready(&self.pool, priority, run);
        }
    }

    /// Finished jobs go back into their queues' retention, oldest first, but for those that had fallen out of it.
    pub(super) fn keep_recovered(&self, finished: Vec<(u64, u32)>, purged: &Purged, told: &Told) {
        let moment = |(at_ms, slot): (u64, u32)| ((at_ms, told.at(slot)), slot);
        let mut finished: Vec<Finished> = finished.into_iter().map(moment).collect();
        finished.sort_unstable();
        let mut pushed_out = HashSet::new();
        for number in purged.queues() {
            let own = finished.iter().copied();
            let own = own.filter(|(_, slot)| self.slab.slot(*slot).queue() == number);
            if let Some(queue) = self.registry.get(QueueId(number)) {
                let keep = queue.options.keep_finished as usize;
                pushed_out.extend(purged.pushed_out(number, keep, own));
            }
        }
        for (_, number) in finished {
            if let Some(queue) = self.registry.get(QueueId(self.slab.slot(number).queue())) {
                if pushed_out.contains(&number) {
                    self.free(queue, &[number]);
                } else {
                    self.retain_finished(queue, &[number]);
                }
            }
        }
    }
}

fn fresh_place(order: u64, number: u32) -> Place {
    let order = if is_planted(Plant::MixOrder) { 0 } else { order };
    (0, order, number)
}

fn retried_place(order: u64, number: u32, fields: &Fields) -> Place {
    (fields.at_ms.div_ceil(TICK_MS), order, number)
}

/// Jobs that go into rings. Slots are given out in order while they are new, so jobs mostly come in the order in which
/// they are wanted; then their places need not be kept, let alone sorted.
#[derive(Default)]
struct Line {
    numbers: Vec<u32>,
    /// Where neighbours of one ring begin, by queue and priority.
    runs: Vec<((u32, u8), usize)>,
    last: Place,
    is_unsorted: bool,
}

impl Line {
    fn add(&mut self, place: Place, fields: &Fields) {
        debug_assert!(usize::from(fields.priority) < PRIORITIES);
        let ring = (fields.queue, fields.priority);
        self.is_unsorted |= place < self.last;
        self.last = place;
        if self.runs.last().is_none_or(|(last, _)| *last != ring) {
            self.runs.push((ring, self.numbers.len()));
        }
        self.numbers.push(place.2);
    }
}

/// Handles on their way into rings, by queue and priority: rings are pushed to by the batch.
#[derive(Default)]
struct Pushes(HashMap<(u32, u8), Vec<u32>>);

impl Pushes {
    fn add(&mut self, engine: &Engine, ring: (u32, u8), mut numbers: &[u32]) {
        let run = self.0.entry(ring).or_default();
        while !numbers.is_empty() {
            let (now, later) = numbers.split_at(numbers.len().min(PUSH - run.len()));
            run.extend_from_slice(now);
            if run.len() == PUSH {
                engine.push_recovered(ring, run);
                run.clear();
            }
            numbers = later;
        }
    }
}

/// Jobs whose bodies stand in a segment, by its sequence number.
#[derive(Default)]
struct Live {
    counts: HashMap<u32, u32>,
    sequence: u32,
    jobs: u32,
}

impl Live {
    fn add(&mut self, sequence: u32) {
        if sequence != self.sequence {
            self.flush();
            self.sequence = sequence;
        }
        self.jobs += 1;
    }

    fn flush(&mut self) {
        if self.jobs > 0 {
            *self.counts.entry(self.sequence).or_default() += std::mem::take(&mut self.jobs);
        }
    }

    fn take(mut self) -> HashMap<u32, u32> {
        self.flush();
        self.counts
    }
}

/// What neighbours of one queue add to its counters.
#[derive(Default)]
struct Tally<'e> {
    number: u32,
    /// `None` also where it was deleted or never there.
    queue: Option<&'e Queue>,
    is_known: bool,
    by_phase: [u64; 8],
    jobs: u64,
    bytes: u64,
}

impl<'e> Tally<'e> {
    /// The jobs that follow are of that queue; returns it unless it was deleted.
    fn turn_to(&mut self, engine: &'e Engine, number: u32) -> Option<&'e Queue> {
        if !self.is_known || self.number != number {
            self.flush();
            let queue = engine.registry.get(QueueId(number));
            self.queue = queue.filter(|queue| !queue.is_deleted());
            (self.number, self.is_known) = (number, true);
        }
        self.queue
    }

    fn count(&mut self, phase: Phase, fields: &Fields) {
        // A job that is recovered stands in one of the phases that have a gauge.
        if let Some(gauge) = self.by_phase.get_mut(phase as usize) {
            *gauge += 1;
        }
        if !phase.is_finished() {
            self.jobs += 1;
            self.bytes += fields.body_bytes();
        }
    }

    fn flush(&mut self) {
        let (by_phase, jobs, bytes) = (self.by_phase, self.jobs, self.bytes);
        (self.by_phase, self.jobs, self.bytes) = Default::default();
        let Some(queue) = self.queue else {
            return;
        };
        for phase in PHASES {
            match by_phase[phase as usize] {
                0 => {}
                jobs => queue.counters.arrived(phase, jobs),
            }
        }
        if jobs > 0 {
            queue.counters.occupy(jobs, bytes);
        }
    }
}

const PHASES: [Phase; 7] = [
    Phase::Scheduled,
    Phase::Ready,
    Phase::Leased,
    Phase::Dead,
    Phase::Done,
    Phase::Cancelled,
    Phase::Expired,
];
