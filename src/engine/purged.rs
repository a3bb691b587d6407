//! Finished jobs that were purged, as recovery reads of them.
//!
//! A job that falls out of its queue's retention is forgotten without a word in the log, so recovery lets the finished
//! jobs that it finds go through the retention again. Those that were purged had their room there until then: what they
//! had pushed out must not come back into it.

use super::journal::ChangeEntry;
use super::slab::Slab;
use super::told::Told;
use super::word::{Phase, StateWord};
use crate::base::job::JobId;
use std::collections::{HashMap, HashSet, VecDeque};

/// When something happened, in milliseconds since the Unix epoch, and where in the log it is told (raw; 0 where only a copy
/// tells).
pub(super) type Moment = (u64, u64);
/// A finished job: when it finished, and its slot.
pub(super) type Finished = (Moment, u32);

/// A purged job.
struct Gone {
    finished: Moment,
    purged: Moment,
}

/// Purged jobs by the number of their queue.
#[derive(Default)]
pub(super) struct Purged(HashMap<u32, Vec<Gone>>);

/// What happened in a retention; at the same moment in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The job of that slot finished.
    Finished(u32),
    /// A job finished that was purged then.
    Gone(Moment),
    Purged,
}

impl Purged {
    /// From the log: a job is over and forgotten, if the entry says so, of which nothing else is known.
    pub(super) fn see(&mut self, entry: &ChangeEntry, purged: Moment) {
        if let Some(queue) = entry.purged_from() {
            self.add(queue, (entry.at_ms.get(), purged.1), purged);
        }
    }

    /// From the log: a job that is there is over and forgotten.
    pub(super) fn forget(&mut self, slab: &Slab, entry: &ChangeEntry, told: &Told, purged: Moment) {
        let id = JobId(entry.id.get());
        let slot = slab.slot(id.slot());
        let fields = slot.fields();
        if slot.state().phase().is_finished() {
            self.add(fields.queue, (fields.at_ms, told.at(id.slot())), purged);
        }
        slot.drop_body();
        slot.publish(StateWord::new(id.generation(), 0, Phase::Free, 0));
    }

    fn add(&mut self, queue: u32, finished: Moment, purged: Moment) {
        let purged = purged.max(finished);
        self.0.entry(queue).or_default().push(Gone { finished, purged });
    }

    /// Queues of which jobs were purged.
    pub(super) fn queues(&self) -> impl Iterator<Item = u32> {
        self.0.keys().copied()
    }

    /// Which of a queue's finished jobs, by their slots, had fallen out of a retention of `keep` jobs while those that
    /// are purged were in it.
    pub(super) fn pushed_out(
        &self,
        queue: u32,
        keep: usize,
        finished: impl Iterator<Item = Finished>,
    ) -> HashSet<u32> {
        let gone = self.0.get(&queue).map_or(&[][..], Vec::as_slice);
        let mut events: Vec<(Moment, Event)> =
            finished.map(|(at, slot)| (at, Event::Finished(slot))).collect();
        for one in gone {
            events.push((one.finished, Event::Gone(one.purged)));
            events.push((one.purged, Event::Purged));
        }
        events.sort_unstable();
        events.dedup_by(|later, before| later == before && later.1 == Event::Purged);
        let (mut room, mut out) = (VecDeque::new(), HashSet::new());
        for (at, event) in events {
            if event == Event::Purged {
                room.retain(|kept| !matches!(kept, Event::Gone(purged) if *purged <= at));
                continue;
            }
            room.push_back(event);
            if room.len() > keep
                && let Some(Event::Finished(slot)) = room.pop_front()
            {
                out.insert(slot);
            }
        }
        out
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Slots of jobs that had been pushed out, of three that are kept.
    fn out(finished: &[(u64, u32)], gone: &[(u64, u64)]) -> Vec<u32> {
        let mut purged = Purged::default();
        for (finished_at, purged_at) in gone {
            purged.add(7, (1, *finished_at), (1, *purged_at));
        }
        let finished = finished.iter().map(|(at, slot)| ((1, *at), *slot));
        let mut out: Vec<u32> = purged.pushed_out(7, 3, finished).into_iter().collect();
        out.sort_unstable();
        out
    }

    #[test]
    fn what_purged_jobs_pushed_out_stays_out() {
        let finished = [(1, 11), (2, 12), (3, 13)];
        assert_eq!(out(&finished, &[(4, 9), (5, 9)]), [11, 12]);
        assert_eq!(out(&finished, &[(4, 9), (4, 9), (5, 9), (5, 9)]), [11, 12, 13]);
        // In one record: nobody can tell which came first.
        assert_eq!(out(&[(4, 11), (4, 12), (4, 13)], &[(4, 4), (4, 4)]), [11, 12]);
    }

    #[test]
    fn purged_jobs_take_no_room_from_what_finishes_later() {
        let finished = [(1, 11), (6, 12), (7, 13)];
        assert_eq!(out(&finished, &[(2, 5), (3, 5)]), [0; 0]);
        assert_eq!(out(&finished, &[(2, 7), (3, 7)]), [11]);
    }
}
