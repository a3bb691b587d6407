//! What all queues make together, and which of them the log must be told of again: without a walk over queues that stand
//! still, of which there may be a hundred thousand.

use super::journal::JobHead;
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
        }
    }
}

/// Sums over all queues, and queues by what the log tells of them. True as of the last look, and then only as far as
/// queues stood still.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// By number.
    seen: Vec<Seen>,
    jobs_over: u64,
    live_bytes: u64,
    /// Numbers of queues whose events the log does not tell as they stand.
    untold: BTreeSet<u32>,
    /// Where definitions stand, with the queue's number.
    defined: BTreeSet<(LogPosition, u32)>,
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
        let now = if is_there {
            Seen::of(queue)
        } else {
            Seen::default()
        };
        if self.seen.len() <= number as usize {
            self.seen.resize(number as usize + 1, Seen::default());
        }
        let before = std::mem::replace(&mut self.seen[number as usize], now);
        self.jobs_over = self.jobs_over - before.jobs_over + now.jobs_over;
        self.live_bytes = self.live_bytes - before.live_bytes + now.live_bytes;
        if before.defined_at != now.defined_at {
            self.defined.remove(&(before.defined_at, number));
            if !now.defined_at.is_none() {
                self.defined.insert((now.defined_at, number));
            }
        }
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

    /// The queues, by number, of which something may have to be logged again before segments up to `sequence` go, where
    /// the log is durable up to `durable`: what it tells of all others stays, and is durable.
    ///
    /// A definition that is being logged has its old place here until it has its new one. That is as good: who counts as
    /// told by an old place that stays, and is durable, is told.
    pub(super) fn untold(&self, sequence: u32, durable: LogPosition) -> Vec<QueueId> {
        let behind = LogPosition::new(sequence, u32::MAX);
        let going = self.defined.range(..=(behind, u32::MAX));
        let not_durable = self.defined.range((durable, 0)..);
        let defined = going.chain(not_durable).map(|(_, number)| *number);
        let mut numbers: Vec<u32> = self.untold.iter().copied().chain(defined).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(QueueId).collect()
    }

    /// Whether a walk over all queues says the same.
    pub(super) fn is_right(&self, registry: &Registry) -> bool {
        let mut walked = Self {
            seen: vec![Seen::default(); self.seen.len()],
            ..Self::default()
        };
        registry.all().into_iter().for_each(|queue| walked.see(queue));
        walked == *self
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
                    50..55 => tally.look_at(queue),
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
        assert_eq!(tally.untold(0, at(10)), []);
        assert_eq!(tally.untold(2, at(8)), [ids[0], ids[1], ids[7], ids[8]]);
        let queue = registry.get(ids[4]).unwrap();
        queue.counters.count(Event::Enqueued, 1);
        assert_eq!(tally.untold(0, at(10)), [], "before a look");
        tally.look(&registry);
        assert_eq!(tally.untold(0, at(10)), [ids[4]]);
        queue.counters.set_told_events(1);
        tally.look(&registry);
        assert_eq!(tally.untold(0, at(10)), []);
    }
}
