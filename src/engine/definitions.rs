//! Where the log tells of a queue, and what it tells there: so that segments which tell of it can go.

use super::codec::QueueRecord;
use crate::log::LogPosition;

/// A record of a queue.
struct Told {
    at: LogPosition,
    end: LogPosition,
    /// The event counters in it.
    events: Option<[u64; 10]>,
}

/// What the log tells of one queue. Behind the lock that is held while a definition is logged.
#[derive(Default)]
pub(super) struct Definitions {
    /// Definitions that are not in force any more, each with the place of the record that brought it.
    older: Vec<(LogPosition, QueueRecord)>,
    /// The record that brought the one in force.
    since: LogPosition,
    /// Every record in segments that are not gone.
    told: Vec<Told>,
    /// The event counters as segments that are gone have told them last, or fewer.
    events: [u64; 10],
}

/// What must not be lost when segments go.
pub(super) struct Needed {
    /// Once the log is durable up to here nothing is missing.
    pub(super) until: LogPosition,
    /// The definition that was in force at their end; `None`: the one in force now.
    pub(super) older: Option<QueueRecord>,
    /// The event counters at their end, or fewer: what comes behind may be counted on top.
    pub(super) events: [u64; 10],
}

impl Definitions {
    /// From the log: the last record stands at `at`, and the events were these.
    pub(super) fn restore(&mut self, at: LogPosition, events: Option<&[u64; 10]>) {
        self.defined(at, at, None);
        self.events = events.copied().unwrap_or_default();
    }

    /// A new definition came into force with the record between `at` and `end`; `before` was in force until now.
    pub(super) fn defined(&mut self, at: LogPosition, end: LogPosition, before: Option<QueueRecord>) {
        if let Some(before) = before.filter(|_| !self.since.is_none()) {
            self.older.push((self.since, before));
        }
        self.since = at;
        self.tell(at, end, None);
    }

    /// The one in force was logged again.
    pub(super) fn tell(&mut self, at: LogPosition, end: LogPosition, events: Option<[u64; 10]>) {
        // Nearly always the only one: a hundred thousand queues must not keep room for more.
        self.told.reserve_exact(1);
        self.told.push(Told { at, end, events });
    }

    /// The record at `from` was copied to between `at` and `end`, and what stands up to there is about to go.
    pub(super) fn carry(&mut self, from: LogPosition, at: LogPosition, end: LogPosition) {
        // One that a definition came behind meanwhile may be gone from here, which says less than there is.
        let Some(index) = self.told.iter().position(|told| told.at == from) else {
            return;
        };
        let gone = &self.told[..=index];
        let latest = gone.iter().rev().find_map(|told| told.events);
        self.events = latest.unwrap_or(self.events);
        let events = self.told[index].events;
        self.told.drain(..index);
        self.told[0] = Told { at, end, events };
    }

    /// Segments up to `sequence` are about to go. Says whether no other tells of the queue.
    pub(super) fn pass(&mut self, sequence: u32) -> bool {
        let is_gone = |at: LogPosition| at.sequence() <= sequence;
        let gone = self.told.iter().take_while(|told| is_gone(told.at)).count();
        let mut events = self.told.drain(..gone).filter_map(|told| told.events);
        let latest = events.next_back();
        drop(events);
        self.events = latest.unwrap_or(self.events);
        if is_gone(self.since) {
            self.older.clear();
        }
        let outdated = self.older.iter().take_while(|(since, _)| is_gone(*since)).count();
        self.older.drain(..outdated.saturating_sub(1));
        !self.since.is_none() && self.told.is_empty()
    }

    /// What must not be lost when segments up to `sequence` go, which [`pass`](Self::pass) was told of, and the log is
    /// durable up to `durable`. `None` where the rest of the log tells enough, or the queue is younger.
    pub(super) fn needed(&self, sequence: u32, durable: LogPosition) -> Option<Needed> {
        let oldest = self.older.first().map_or(self.since, |(since, _)| *since);
        let is_younger = oldest.is_none() || oldest.sequence() > sequence;
        if is_younger || self.told.iter().any(|told| told.end <= durable) {
            return None;
        }
        Some(Needed {
            until: self.told.first().map_or(LogPosition::NONE, |told| told.end),
            older: self.older.first().map(|(_, record)| record.clone()),
            events: self.events,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::queue::QueueOptions;

    fn at(sequence: u32) -> LogPosition {
        LogPosition::new(sequence, 64)
    }

    fn end(sequence: u32) -> LogPosition {
        LogPosition::new(sequence, 128)
    }

    fn record(paused: bool) -> QueueRecord {
        QueueRecord {
            index: 1,
            name: "q".into(),
            options: QueueOptions::default(),
            paused,
            deleted: false,
            events: None,
        }
    }

    #[test]
    fn a_queue_that_was_logged_again_is_needed_until_that_is_durable() {
        let mut definitions = Definitions::default();
        definitions.defined(at(2), end(2), None);
        assert!(!definitions.pass(1) && definitions.needed(1, LogPosition::NONE).is_none());
        assert!(definitions.pass(2));
        definitions.tell(at(9), end(9), Some([3; 10]));
        assert!(!definitions.pass(5));
        let needed = definitions.needed(5, at(9)).unwrap();
        assert_eq!(
            (needed.until, needed.events, needed.older),
            (end(9), [0; 10], None)
        );
        assert!(definitions.needed(5, end(9)).is_none());
        assert!(definitions.pass(9));
        definitions.tell(at(12), end(12), Some([4; 10]));
        assert_eq!(definitions.needed(9, end(9)).unwrap().events, [3; 10]);
    }

    #[test]
    fn a_record_that_was_copied_is_told_of_at_its_new_place() {
        let mut definitions = Definitions::default();
        definitions.defined(at(2), end(2), None);
        definitions.tell(at(3), end(3), Some([3; 10]));
        definitions.carry(at(3), at(9), end(9));
        // Said twice it is the same.
        definitions.carry(at(3), at(9), end(9));
        assert!(!definitions.pass(8));
        let needed = definitions.needed(8, at(9)).unwrap();
        assert_eq!((needed.until, needed.events), (end(9), [3; 10]));
        assert!(definitions.needed(8, end(9)).is_none());
        definitions.defined(at(10), end(10), Some(record(false)));
        assert!(!definitions.pass(9));
        let needed = definitions.needed(9, at(10)).unwrap();
        assert_eq!((needed.older, needed.events), (Some(record(false)), [3; 10]));
    }

    #[test]
    fn what_a_queue_was_before_a_change_that_may_be_lost_is_needed() {
        let mut definitions = Definitions::default();
        definitions.defined(at(2), end(2), None);
        definitions.defined(at(7), end(7), Some(record(false)));
        definitions.defined(at(8), end(8), Some(record(true)));
        assert!(!definitions.pass(4));
        assert_eq!(definitions.needed(4, at(7)).unwrap().older, Some(record(false)));
        assert!(definitions.needed(4, end(7)).is_none());
        assert!(!definitions.pass(7));
        assert_eq!(definitions.needed(7, end(7)).unwrap().older, Some(record(true)));
        assert!(definitions.pass(8));
        definitions.tell(at(11), end(11), None);
        assert_eq!(definitions.needed(8, end(8)).unwrap().older, None);
    }
}
