//! Which jobs are sent next, and when: the one source that all producers draw from.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Jobs with numbers in a row, sent in one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Portion {
    /// The first job's number.
    pub(super) first: u64,
    /// How many.
    pub(super) count: usize,
}

/// When to stop handing out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// After so many jobs.
    Jobs(u64),
    /// After this time.
    Time(Duration),
}

/// Hands out portions. With a rate, a number tells when its job is due, whoever sends it: a producer that is late
/// leaves later portions to the others, and what is sent late is known to be late.
#[derive(Debug)]
pub(super) struct Pace {
    next: AtomicU64,
    first: u64,
    jobs_max: u64,
    until_ns: u64,
    batch: usize,
    ns_per_job: Option<f64>,
}

impl Pace {
    /// Numbers from `first` on. With a rate, a time means as many jobs as belong into it.
    pub(super) fn new(first: u64, end: End, batch: usize, rate: Option<f64>) -> Self {
        let (jobs, until_ns) = match (end, rate) {
            (End::Jobs(jobs), _) => (jobs, u64::MAX),
            (End::Time(time), Some(rate)) => (((time.as_secs_f64() * rate) as u64).max(1), u64::MAX),
            (End::Time(time), None) => (u64::MAX - first, time.as_nanos() as u64),
        };
        Self {
            next: AtomicU64::new(first),
            first,
            jobs_max: first + jobs,
            until_ns,
            batch,
            ns_per_job: rate.map(|rate| 1e9 / rate),
        }
    }

    /// The next portion, `None` when all were handed out or the time is over. `now_ns` is counted from the start.
    pub(super) fn take(&self, now_ns: u64) -> Option<Portion> {
        if now_ns >= self.until_ns {
            return None;
        }
        let first = self.next.fetch_add(self.batch as u64, Relaxed);
        let left = self.jobs_max.checked_sub(first).filter(|left| *left > 0)?;
        Some(Portion {
            first,
            count: left.min(self.batch as u64) as usize,
        })
    }

    /// When the job of that number is due, counted from the start in nanoseconds; `None` without a rate. A batch is
    /// due with its first job.
    pub(super) fn due_ns(&self, number: u64) -> Option<u64> {
        let place = number.checked_sub(self.first)?;
        let first = place - place % self.batch as u64;
        Some((first as f64 * self.ns_per_job?) as u64)
    }

    /// How many jobs were handed out.
    pub(super) fn taken(&self) -> u64 {
        self.next.load(Relaxed).min(self.jobs_max) - self.first
    }

    /// How many jobs there will be, if that is known.
    pub(super) fn jobs(&self) -> Option<u64> {
        (self.until_ns == u64::MAX).then_some(self.jobs_max - self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_handed_out_once() {
        let pace = Pace::new(100, End::Jobs(25), 10, None);
        let portions: Vec<_> = std::iter::from_fn(|| pace.take(0)).collect();
        let expected = [(100, 10), (110, 10), (120, 5)].map(|(first, count)| Portion { first, count });
        assert_eq!(portions, expected);
        assert_eq!((pace.taken(), pace.jobs()), (25, Some(25)));
    }

    #[test]
    fn a_batch_is_due_with_its_first_job() {
        let pace = Pace::new(7, End::Time(Duration::from_secs(1)), 10, Some(1_000.0));
        assert_eq!(pace.jobs(), Some(1_000));
        let due: Vec<_> = [7, 16, 17, 27].map(|number| pace.due_ns(number)).into();
        assert_eq!(due, [Some(0), Some(0), Some(10_000_000), Some(20_000_000)]);
        assert_eq!(pace.due_ns(6), None);
    }

    #[test]
    fn without_a_rate_the_clock_ends_it() {
        let pace = Pace::new(0, End::Time(Duration::from_millis(1)), 1, None);
        assert!(pace.take(999_999).is_some());
        assert!(pace.take(1_000_000).is_none());
        assert_eq!((pace.due_ns(0), pace.jobs()), (None, None));
    }
}
