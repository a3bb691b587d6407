//! What is counted of one queue: its jobs by phase, their bytes, and what has happened to them.

use super::moved::Mark;
use crate::base::queue::QueueCounts;
use crate::base::sync::{AtomicU64, Ordering};
use crate::engine::word::Phase;

/// Gauges and counters. No decision rests on their order: a sum that is read while jobs move may be off by the jobs in
/// motion. They change by SeqCst for the [mark](Mark::touch) that says that they did.
#[derive(Default)]
pub struct Counters {
    /// Jobs by phase, indexed by its number.
    by_phase: [AtomicU64; 8],
    /// Jobs that count against the capacity.
    jobs: AtomicU64,
    /// Their bytes.
    bytes: AtomicU64,
    /// Events, in the order of [`Event`].
    events: [AtomicU64; 10],
    /// Sum of the events when they were last logged.
    told_events: AtomicU64,
    /// Set by whatever changes here.
    pub mark: Mark,
}

/// What is counted once and never goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Event {
    /// A job was accepted.
    Enqueued,
    /// A job was acked.
    Done,
    /// A job was handed out.
    Delivered,
    /// A delivery was nacked or rejected.
    Failed,
    /// A lease ran out.
    LeaseExpired,
    /// A delivery was given back.
    Released,
    /// A job became dead.
    Buried,
    /// A dead job came back.
    Redriven,
    /// A job was cancelled.
    Cancelled,
    /// A job passed its TTL.
    Expired,
}

impl Counters {
    /// Jobs were accepted, so many that are ready and so many that are not yet.
    pub fn accepted(&self, ready: u64, scheduled: u64) {
        self.add(Phase::Ready, ready);
        self.add(Phase::Scheduled, scheduled);
        self.count(Event::Enqueued, ready + scheduled);
    }

    /// `n` jobs were handed out.
    pub fn delivered(&self, n: u64) {
        self.add(Phase::Ready, n.wrapping_neg());
        self.add(Phase::Leased, n);
        self.count(Event::Delivered, n);
    }

    /// `n` jobs of so many bytes went from one phase to another, in which they are over.
    pub fn ended(&self, from: Phase, to: Phase, n: u64, bytes: u64, event: Option<Event>) {
        if let Some(event) = event {
            self.events[event as usize].fetch_add(n, Ordering::SeqCst);
        }
        self.add_room(n.wrapping_neg(), bytes.wrapping_neg());
        self.moved(from, to, n);
    }

    /// Moves `n` jobs from one phase to another in the gauges.
    pub fn moved(&self, from: Phase, to: Phase, n: u64) {
        self.add(from, n.wrapping_neg());
        self.add(to, n);
        self.mark.touch();
    }

    /// `n` jobs arrived in a phase.
    pub fn arrived(&self, phase: Phase, n: u64) {
        self.add(phase, n);
        self.mark.touch();
    }

    /// `n` jobs left a phase.
    pub fn left(&self, phase: Phase, n: u64) {
        self.arrived(phase, n.wrapping_neg());
    }

    /// `n` jobs left the phase of that number.
    pub fn left_number(&self, phase: usize, n: u64) {
        self.by_phase[phase].fetch_sub(n, Ordering::SeqCst);
        self.mark.touch();
    }

    #[inline]
    fn add(&self, phase: Phase, n: u64) {
        if let Some(gauge) = self.by_phase.get(phase as usize) {
            gauge.fetch_add(n, Ordering::SeqCst);
        }
    }

    /// Something happened `n` times.
    pub fn count(&self, event: Event, n: u64) {
        self.events[event as usize].fetch_add(n, Ordering::SeqCst);
        self.mark.touch();
    }

    /// Counts `jobs` and `bytes` against the capacity without asking (recovery, redrive).
    pub fn occupy(&self, jobs: u64, bytes: u64) {
        self.add_room(jobs, bytes);
        self.mark.touch();
    }

    /// Gives capacity back.
    pub fn vacate(&self, jobs: u64, bytes: u64) {
        self.add_room(jobs.wrapping_neg(), bytes.wrapping_neg());
        self.mark.touch();
    }

    /// Counts against the capacity, and says how many jobs and bytes there were before. The mark is set by whoever then
    /// counts them as [`accepted`](Self::accepted) or [gives them back](Self::vacate).
    #[inline]
    pub(super) fn add_room(&self, jobs: u64, bytes: u64) -> (u64, u64) {
        // Nobody sums the first up.
        let jobs_before = self.jobs.fetch_add(jobs, Ordering::Relaxed);
        (jobs_before, self.bytes.fetch_add(bytes, Ordering::SeqCst))
    }

    /// Bytes of the jobs that are not finished.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The counters as they stand, for the log.
    pub fn events(&self) -> [u64; 10] {
        std::array::from_fn(|event| self.events[event].load(Ordering::Relaxed))
    }

    /// Sum of the events when they were last logged.
    pub fn told_events(&self) -> u64 {
        self.told_events.load(Ordering::Relaxed)
    }

    /// Whether the log tells of the events as they stand.
    pub fn are_events_told(&self) -> bool {
        self.told_events() == self.events().iter().sum::<u64>()
    }

    /// The events were logged when their sum was this.
    pub fn set_told_events(&self, sum: u64) {
        self.told_events.store(sum, Ordering::Relaxed);
        self.mark.set();
    }

    /// The events are to be logged again: what told of them may go before the record that tells of the queue now.
    pub fn forget_told_events(&self) {
        self.set_told_events(u64::MAX);
    }

    /// Takes counts over from the log.
    pub fn restore_events(&self, events: &[u64; 10]) {
        for (counter, value) in self.events.iter().zip(events) {
            counter.store(*value, Ordering::Relaxed);
        }
        self.mark.set();
    }

    /// The numbers for people.
    pub fn counts(&self) -> QueueCounts {
        // A job may leave before its arrival is counted; for that moment the gauge is below zero.
        let gauge = |phase: Phase| {
            let gauge = self.by_phase[phase as usize].load(Ordering::Relaxed);
            if gauge > i64::MAX as u64 { 0 } else { gauge }
        };
        let event = |event: Event| self.events[event as usize].load(Ordering::Relaxed);
        QueueCounts {
            ready: gauge(Phase::Ready),
            scheduled: gauge(Phase::Scheduled),
            leased: gauge(Phase::Leased),
            dead: gauge(Phase::Dead),
            kept: gauge(Phase::Done) + gauge(Phase::Cancelled) + gauge(Phase::Expired),
            bytes: self.bytes.load(Ordering::Relaxed),
            enqueued: event(Event::Enqueued),
            done: event(Event::Done),
            deliveries: event(Event::Delivered),
            failures: event(Event::Failed),
            expiries: event(Event::LeaseExpired),
            releases: event(Event::Released),
            buried: event(Event::Buried),
            redriven: event(Event::Redriven),
            cancelled: event(Event::Cancelled),
            expired: event(Event::Expired),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_leaves_before_its_arrival_is_counted_does_not_make_for_billions_of_jobs() {
        let counters = Counters::default();
        counters.left(Phase::Ready, 1);
        assert_eq!(counters.counts().ready, 0);
        counters.arrived(Phase::Ready, 3);
        assert_eq!(counters.counts().ready, 2);
    }
}
