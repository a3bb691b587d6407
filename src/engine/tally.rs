//! What all queues make together, and which of them the log must be told of again: without a walk over queues that stand
//! still, of which there may be a hundred thousand.

use super::journal::JobHead;
use super::places::Places;
use super::queue::{Queue, QueueId};
use super::registry::Registry;
use crate::base::queue::Durability;
use crate::log::{HEADER_LEN, LogPosition};
use std::collections::BTreeSet;

/// How a queue stood when it was looked at last. All zero for one that was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    jobs_over: u64,
    live_bytes: u64,
    defined_at: LogPosition,
    /// Where the record stands that the log tells of it by: there, or a copy of that.
    told_at: LogPosition,
    /// Where that copy ends in its segment; 0 where it is none.
    copy_end: u32,
}

/// A queue's record that was copied, which the queue does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried {
    /// Where the queue has it.
    pub(super) from: LogPosition,
    /// Where it stands.
    pub(super) at: LogPosition,
    /// Where it ends there.
    pub(super) end: LogPosition,
}

/// The queues of which something may have to be logged again before segments go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Untold {
    /// Queues that stood still when they were looked at last, and whose record, which says all of them, goes.
    pub(super) still: Vec<QueueId>,
    /// All others, in the order of their numbers.
    pub(super) others: Vec<QueueId>,
}

impl Seen {
    fn of(queue: &Queue) -> Self {
        let counts = queue.counts();
        let jobs = counts.ready + counts.scheduled + counts.leased + counts.dead + counts.kept;
        let per_job = (HEADER_LEN + size_of::<JobHead>()) as u64;
        let is_logged = queue.durability() != Durability::Memory;
        Self {
            jobs_over: if is_logged { counts.kept } else { 0 },
            live_bytes: counts.bytes + jobs * per_job,
            defined_at: queue.defined_at(),
            told_at: queue.defined_at(),
            copy_end: 0,
        }
    }
}

/// Sums over all queues, and queues by what the log tells of them. True as of the last look, and then only as far as
/// queues stood still.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// By number.
    seen: Vec<Seen>,
    jobs_over: u64,
    live_bytes: u64,
    /// Numbers of queues whose events the log does not tell as they stand.
    untold: BTreeSet<u32>,
    /// In which segments the log tells of them.
    told: Places,
}

impl Tally {
    /// Looks at every queue that has moved since the last look.
    pub(super) fn look(&mut self, registry: &Registry) {
        registry.take_moved().for_each(|queue| self.see(queue));
    }

    /// Looks at one queue, which its next look need not do again.
    pub(super) fn look_at(&mut self, queue: &Queue) {
        queue.counters.mark.clear();
        self.see(queue);
    }

    /// Its mark is taken, so that whatever changes from now on is seen later if it is not seen here.
    fn see(&mut self, queue: &Queue) {
        let number = queue.id.0;
        let is_there = !queue.is_deleted();
        let mut now = if is_there {
            Seen::of(queue)
        } else {
            Seen::default()
        };
        if self.seen.len() <= number as usize {
            self.seen.resize(number as usize + 1, Seen::default());
        }
        let seen = &mut self.seen[number as usize];
        if seen.defined_at == now.defined_at {
            (now.told_at, now.copy_end) = (seen.told_at, seen.copy_end);
        }
        let before = std::mem::replace(seen, now);
        self.jobs_over = self.jobs_over - before.jobs_over + now.jobs_over;
        self.live_bytes = self.live_bytes - before.live_bytes + now.live_bytes;
        let told_at = |number: u32| self.seen[number as usize].told_at;
        self.told.change(number, before.told_at, now.told_at, told_at);
        if is_there && !queue.counters.are_events_told() {
            self.untold.insert(number);
        } else {
            self.untold.remove(&number);
        }
    }

    /// Jobs that are over and kept, of queues whose jobs are logged.
    pub(super) fn jobs_over(&self) -> u64 {
        self.jobs_over
    }

    /// Bytes that copies of all jobs would have, about.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// The queues of which something may have to be logged again before segments up to `sequence` go, where the log is
    /// durable up to `durable`: what it tells of all others stays, and is durable.
    ///
    /// A definition that is being logged has its old place here until it has its new one. That is as good: who counts as
    /// told by an old place that stays, and is durable, is told.
    pub(super) fn untold(&self, sequence: u32, durable: LogPosition) -> Untold {
        let told_at = |number: u32| self.seen[number as usize].told_at;
        let not_durable = self.told.from(durable.sequence().max(sequence + 1), told_at);
        let not_durable = not_durable.filter(|number| told_at(*number) >= durable);
        let mut others: Vec<u32> = self.untold.iter().copied().chain(not_durable).collect();
        others.sort_unstable();
        others.dedup();
        let going = self.told.up_to(sequence, told_at);
        let still = going.filter(|number| !self.untold.contains(number));
        Untold {
            still: still.map(QueueId).collect(),
            others: others.into_iter().map(QueueId).collect(),
        }
    }

    /// Where the log tells of a queue.
    pub(super) fn told_at(&self, queue: QueueId) -> LogPosition {
        self.seen[queue.0 as usize].told_at
    }

    /// The record that tells of a queue was copied.
    pub(super) fn carry(&mut self, queue: QueueId, at: LogPosition, end: LogPosition) {
        let seen = &mut self.seen[queue.0 as usize];
        let before = std::mem::replace(&mut seen.told_at, at);
        seen.copy_end = end.offset();
        let told_at = |number: u32| self.seen[number as usize].told_at;
        self.told.change(queue.0, before, at, told_at);
    }

    /// The copy of a queue's record that the log tells of it by, if it is one.
    pub(super) fn carried(&self, queue: QueueId) -> Option<Carried> {
        let seen = self.seen.get(queue.0 as usize)?;
        (seen.copy_end > 0).then(|| Carried {
            from: seen.defined_at,
            at: seen.told_at,
            end: LogPosition::new(seen.told_at.sequence(), seen.copy_end),
        })
    }

    /// Whether a walk over all queues says the same.
    pub(super) fn is_right(&self, registry: &Registry) -> bool {
        let mut walked = Self {
            seen: vec![Seen::default(); self.seen.len()],
            ..Self::default()
        };
        registry.all().into_iter().for_each(|queue| walked.see(queue));
        // A walk does not come by copies.
        let is_alike = |(seen, walked): (&Seen, &Seen)| {
            let as_walked = Seen {
                told_at: walked.told_at,
                copy_end: walked.copy_end,
                ..*seen
            };
            as_walked == *walked && (seen.copy_end > 0 || *seen == *walked)
        };
        let told_at = self.seen.iter().map(|seen| seen.told_at);
        self.seen.iter().zip(&walked.seen).all(is_alike)
            && (self.jobs_over, self.live_bytes) == (walked.jobs_over, walked.live_bytes)
            && self.untold == walked.untold
            && self.told.are_right(told_at)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::queue::QueueOptions;
    use crate::engine::counters::Event;
    use crate::engine::word::Phase;
    use proptest::prelude::*;

    const PHASES: [Phase; 4] = [Phase::Ready, Phase::Leased, Phase::Dead, Phase::Done];

    fn made(registry: &Registry, name: &str, at: LogPosition) -> QueueId {
        let define = |queue: &Queue| {
            queue.set_defined_at(at);
            Ok(())
        };
        registry.open(name, QueueOptions::default(), define).unwrap().0.id
    }

    proptest! {
        #[test]
        fn a_look_at_queues_that_moved_finds_what_a_walk_over_all_finds(
            steps in proptest::collection::vec((0..150_u32, 0..60_u8, 0..4_usize), 1..1_000),
        ) {
            let registry = Registry::new();
            let mut tally = Tally::default();
            for (step, (number, what, phase)) in steps.into_iter().enumerate() {
                let at = LogPosition::new(step as u32 + 1, 64);
                let Some(queue) = registry.get(QueueId(number)) else {
                    made(&registry, &step.to_string(), at);
                    continue;
                };
                let counters = &queue.counters;
                match what {
                    0 => {
                        queue.set_deleted();
                        registry.forget(queue);
                    }
                    1..5 => queue.set_defined_at(at),
                    5..10 => counters.forget_told_events(),
                    10..15 => counters.set_told_events(counters.events().iter().sum()),
                    15..25 => counters.count(Event::Enqueued, 3),
                    25..30 => counters.occupy(2, 70),
                    30..35 => counters.left_number(phase, 1),
                    35..40 => counters.arrived(PHASES[phase], 2),
                    40..50 => counters.moved(PHASES[phase], Phase::Done, 1),
                    50..53 => tally.look_at(queue),
                    53..55 if tally.seen.get(number as usize).is_some_and(|seen| !seen.told_at.is_none()) => {
                        tally.carry(QueueId(number), at, at.plus(64));
                    }
                    _ => {
                        tally.look(&registry);
                        prop_assert!(tally.is_right(&registry), "after {step} steps");
                    }
                }
            }
        }
    }

    #[test]
    fn what_stands_still_and_is_told_where_it_stays_is_not_looked_at() {
        let registry = Registry::new();
        let mut tally = Tally::default();
        let at = |sequence| LogPosition::new(sequence, 64);
        let ids: Vec<QueueId> = (1..=9)
            .map(|sequence| made(&registry, &sequence.to_string(), at(sequence)))
            .collect();
        ids.iter()
            .for_each(|id| registry.get(*id).unwrap().counters.set_told_events(0));
        tally.look(&registry);
        assert_eq!(registry.take_moved().count(), 0);
        let untold = |tally: &Tally, sequence, durable| {
            let Untold { still, others } = tally.untold(sequence, durable);
            (still, others)
        };
        assert_eq!(untold(&tally, 0, at(10)), (vec![], vec![]));
        let (going, not_durable) = (vec![ids[0], ids[1]], vec![ids[7], ids[8]]);
        assert_eq!(untold(&tally, 2, at(8)), (going, not_durable));
        let queue = registry.get(ids[4]).unwrap();
        queue.counters.count(Event::Enqueued, 1);
        assert_eq!(untold(&tally, 0, at(10)), (vec![], vec![]), "before a look");
        tally.look(&registry);
        assert_eq!(untold(&tally, 0, at(10)), (vec![], vec![ids[4]]));
        assert_eq!(
            untold(&tally, 9, at(10)).1,
            [ids[4]],
            "it has moved, and its record goes"
        );
        queue.counters.set_told_events(1);
        tally.look(&registry);
        assert_eq!(untold(&tally, 0, at(10)), (vec![], vec![]));
    }

    #[test]
    fn a_queue_is_told_of_where_its_record_was_copied_to_until_it_has_another() {
        let registry = Registry::new();
        let mut tally = Tally::default();
        let at = |sequence| LogPosition::new(sequence, 64);
        let id = made(&registry, "q", at(1));
        let queue = registry.get(id).unwrap();
        queue.counters.set_told_events(0);
        tally.look(&registry);
        assert_eq!(tally.untold(1, at(9)).still, [id]);
        tally.carry(id, at(5), at(5).plus(96));
        let carried = Carried {
            from: at(1),
            at: at(5),
            end: at(5).plus(96),
        };
        // Jobs come and go.
        queue.counters.arrived(Phase::Ready, 1);
        tally.look(&registry);
        assert_eq!(tally.carried(id), Some(carried));
        assert_eq!(tally.untold(4, at(9)).still, []);
        assert_eq!(tally.untold(4, at(5)).others, [id], "not durable");
        assert_eq!(tally.untold(5, at(9)).still, [id]);
        queue.set_defined_at(at(7));
        tally.look(&registry);
        assert_eq!((tally.carried(id), tally.told_at(id)), (None, at(7)));
        assert!(tally.is_right(&registry));
    }
}
