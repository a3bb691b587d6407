//! What is counted of one queue: its jobs by phase, their bytes, and what has happened to them.

use super::moved::Mark;
use crate::base::queue::QueueCounts;
use crate::base::sync::{AtomicU64, Ordering};
use crate::engine::word::Phase;
use crossbeam_utils::CachePadded;

/// Gauges and counters. No decision rests on their order: a sum that is read while jobs move may be off by the jobs in
/// motion. They change by SeqCst for the [mark](Mark::touch) that says that they did.
///
/// In two sides, in cache lines of their own: those who enqueue write the one, all others the other, so that neither
/// waits for a line that the other has just written. What counts is their sum.
#[derive(Default)]
pub struct Counters {
    entrance: CachePadded<Entrance>,
    inside: CachePadded<Inside>,
    /// Sum of the events when they were last logged.
    told_events: AtomicU64,
    /// Set by whatever changes here.
    pub mark: Mark,
}

/// What was counted of jobs as they came. Wraps, as do all sums of the two sides.
#[derive(Default)]
struct Entrance {
    /// Jobs that ever counted against the capacity.
    jobs: AtomicU64,
    /// Their bytes.
    bytes: AtomicU64,
    /// Jobs that were ready when they were accepted.
    ready: AtomicU64,
    /// Jobs that were not yet.
    scheduled: AtomicU64,
    /// [`Inside::freed_jobs`] when it was last asked for here. Never more than that, which only grows.
    freed_jobs: AtomicU64,
    /// [`Inside::freed_bytes`], likewise.
    freed_bytes: AtomicU64,
}

/// What was counted of jobs since.
#[derive(Default)]
struct Inside {
    /// Jobs by phase, indexed by its number, beside those that came into it as they were accepted.
    by_phase: [AtomicU64; 8],
    /// Jobs that count against the capacity no more.
    freed_jobs: AtomicU64,
    /// Their bytes.
    freed_bytes: AtomicU64,
    /// Events, in the order of [`Event`], beside the jobs that were accepted.
    events: [AtomicU64; 10],
}

/// What a queue holds of the jobs and bytes that it may: it is too much.
pub(super) struct Full {
    /// Jobs.
    pub(super) jobs: u64,
    /// Their bytes.
    pub(super) bytes: u64,
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
        self.entrance.ready.fetch_add(ready, Ordering::SeqCst);
        if scheduled > 0 {
            self.entrance.scheduled.fetch_add(scheduled, Ordering::SeqCst);
        }
        self.mark.touch();
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
            self.inside.events[event as usize].fetch_add(n, Ordering::SeqCst);
        }
        // Nobody sums the first up.
        self.inside.freed_jobs.fetch_add(n, Ordering::Relaxed);
        self.inside.freed_bytes.fetch_add(bytes, Ordering::SeqCst);
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
        self.inside.by_phase[phase].fetch_sub(n, Ordering::SeqCst);
        self.mark.touch();
    }

    #[inline]
    fn add(&self, phase: Phase, n: u64) {
        if let Some(gauge) = self.inside.by_phase.get(phase as usize) {
            gauge.fetch_add(n, Ordering::SeqCst);
        }
    }

    /// Something happened `n` times.
    pub fn count(&self, event: Event, n: u64) {
        self.inside.events[event as usize].fetch_add(n, Ordering::SeqCst);
        self.mark.touch();
    }

    /// Counts `jobs` and `bytes` against the capacity without asking (recovery, redrive).
    pub fn occupy(&self, jobs: u64, bytes: u64) {
        self.enter(jobs, bytes);
        self.mark.touch();
    }

    /// Takes back what was counted against the capacity for jobs that did not come.
    pub fn vacate(&self, jobs: u64, bytes: u64) {
        self.occupy(jobs.wrapping_neg(), bytes.wrapping_neg());
    }

    /// Counts against the capacity and says how many jobs and bytes ever were before.
    #[inline]
    fn enter(&self, jobs: u64, bytes: u64) -> (u64, u64) {
        // Nobody sums the first up.
        let jobs_before = self.entrance.jobs.fetch_add(jobs, Ordering::Relaxed);
        (
            jobs_before,
            self.entrance.bytes.fetch_add(bytes, Ordering::SeqCst),
        )
    }

    /// Counts against the capacity of so many jobs and bytes, or says how many there are where they do not fit. The mark
    /// is set by whoever then counts them as [`accepted`](Self::accepted) or [takes them back](Self::vacate).
    #[inline]
    pub(super) fn admit(&self, jobs: u64, bytes: u64, capacity: (u64, u64)) -> Result<(), Full> {
        let (jobs_ever, bytes_ever) = self.enter(jobs, bytes);
        let held = |freed_jobs: u64, freed_bytes: u64| Full {
            // Others may have come and gone since the jobs were counted.
            jobs: not_below_zero(jobs_ever.wrapping_sub(freed_jobs)),
            bytes: not_below_zero(bytes_ever.wrapping_sub(freed_bytes)),
        };
        let fits = |held: &Full| held.jobs + jobs <= capacity.0 && held.bytes + bytes <= capacity.1;
        let (seen_jobs, seen_bytes) = (&self.entrance.freed_jobs, &self.entrance.freed_bytes);
        let seen = held(
            seen_jobs.load(Ordering::Relaxed),
            seen_bytes.load(Ordering::Relaxed),
        );
        // Mostly what was freed when somebody looked last is enough. It may be less than what is, never more.
        if fits(&seen) {
            return Ok(());
        }
        let freed_jobs = self.inside.freed_jobs.load(Ordering::Relaxed);
        let freed_bytes = self.inside.freed_bytes.load(Ordering::Relaxed);
        seen_jobs.fetch_max(freed_jobs, Ordering::Relaxed);
        seen_bytes.fetch_max(freed_bytes, Ordering::Relaxed);
        let held = held(freed_jobs, freed_bytes);
        if fits(&held) {
            return Ok(());
        }
        self.vacate(jobs, bytes);
        Err(held)
    }

    /// Bytes of the jobs that are not finished.
    pub fn bytes(&self) -> u64 {
        let freed = self.inside.freed_bytes.load(Ordering::Relaxed);
        not_below_zero(self.entrance.bytes.load(Ordering::Relaxed).wrapping_sub(freed))
    }

    /// Jobs that came in a phase as they were accepted.
    fn came_in(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Ready => self.entrance.ready.load(Ordering::Relaxed),
            Phase::Scheduled => self.entrance.scheduled.load(Ordering::Relaxed),
            _ => 0,
        }
    }

    fn accepted_ever(&self) -> u64 {
        self.came_in(Phase::Ready)
            .wrapping_add(self.came_in(Phase::Scheduled))
    }

    /// The counters as they stand, for the log.
    pub fn events(&self) -> [u64; 10] {
        let mut events: [u64; 10] =
            std::array::from_fn(|event| self.inside.events[event].load(Ordering::Relaxed));
        let enqueued = &mut events[Event::Enqueued as usize];
        *enqueued = enqueued.wrapping_add(self.accepted_ever());
        events
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
        for (counter, value) in self.inside.events.iter().zip(events) {
            counter.store(*value, Ordering::Relaxed);
        }
        // What was accepted already is in there.
        let enqueued = &self.inside.events[Event::Enqueued as usize];
        enqueued.fetch_sub(self.accepted_ever(), Ordering::Relaxed);
        self.mark.set();
    }

    /// The numbers for people.
    pub fn counts(&self) -> QueueCounts {
        // A job may leave before its arrival is counted; for that moment the gauge is below zero.
        let gauge = |phase: Phase| {
            let since = self.inside.by_phase[phase as usize].load(Ordering::Relaxed);
            not_below_zero(since.wrapping_add(self.came_in(phase)))
        };
        let events = self.events();
        let event = |event: Event| events[event as usize];
        QueueCounts {
            ready: gauge(Phase::Ready),
            scheduled: gauge(Phase::Scheduled),
            leased: gauge(Phase::Leased),
            dead: gauge(Phase::Dead),
            kept: gauge(Phase::Done) + gauge(Phase::Cancelled) + gauge(Phase::Expired),
            bytes: self.bytes(),
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

/// A sum of two sides that were read one after the other.
#[inline]
fn not_below_zero(sum: u64) -> u64 {
    if sum > i64::MAX as u64 { 0 } else { sum }
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

    #[test]
    fn what_was_freed_can_be_had_again_to_the_last_job_and_byte() {
        let counters = Counters::default();
        let capacity = (10, 100);
        for round in 0..100 {
            assert!(counters.admit(10, 100, capacity).is_ok(), "round {round}");
            counters.accepted(10, 0);
            let refused = counters.admit(1, 0, capacity).err();
            assert_eq!(refused.map(|held| (held.jobs, held.bytes)), Some((10, 100)));
            assert!(counters.admit(0, 1, capacity).is_err());
            counters.delivered(10);
            counters.ended(Phase::Leased, Phase::Done, 4, 40, Some(Event::Done));
            assert!(counters.admit(5, 0, capacity).is_err(), "one too many");
            assert!(counters.admit(4, 40, capacity).is_ok());
            counters.vacate(4, 40);
            counters.ended(Phase::Leased, Phase::Done, 6, 60, Some(Event::Done));
            assert_eq!(counters.bytes(), 0);
        }
        let counts = counters.counts();
        assert_eq!(
            (counts.ready, counts.leased, counts.enqueued, counts.done),
            (0, 0, 1_000, 1_000)
        );
    }

    #[test]
    fn counts_from_the_log_go_on_from_there() {
        let counters = Counters::default();
        counters.restore_events(&[5; 10]);
        counters.accepted(2, 1);
        assert_eq!(counters.counts().enqueued, 8);
        assert_eq!((counters.counts().ready, counters.counts().scheduled), (2, 1));
        counters.restore_events(&[5; 10]);
        assert_eq!(counters.events(), [5; 10]);
    }
}
