//! The gate of the slots: lets most threads change slots by plain stores, where each change would else have to be a
//! read-modify-write for the sake of the few who come from elsewhere.
//!
//! A job that was popped is its popper's, and a job that fell out of its retention is the one's who took it out, but for
//! a few: whoever cancels or purges jobs or deletes a queue takes Ready ones by their ids or places, and whoever empties a
//! segment moves bodies. They *close* the gate for as long as they do so, and everybody else goes by compare-and-swap or
//! swap then, which is right at any time. While the gate is open, those who have many jobs at hand *pass* it and store. (A
//! job with a TTL is taken by the timer as well, which does not close the gate: nobody takes such a one in passing.)
//!
//! A lock for readers and writers with the weight on the writers' side: readers count themselves in a place of their own
//! thread, as in Linux' big-reader locks, and never wait; a writer, who is rare, looks at all places (Dice and Kogan,
//! "BRAVO: Biased Locking for Reader-Writer Locks", USENIX ATC 2019, give its history). What comes instead of waiting is
//! the slow way. A writer may have to wait for a reader that lost its processor, as for the owner of a Busy slot.

use crate::base::sync::{AtomicU32, Ordering, model_fence, thread_index};
use crate::engine::settle::wait_a_little;
use crossbeam_utils::CachePadded;

/// Places to be counted in; threads beyond that share them.
const PLACES: usize = if cfg!(loom) { 1 } else { 32 };
/// Jobs that one passes the gate with at most: others may be waiting to close it.
pub const PASSING_MAX: usize = 256;
/// Jobs for which to pass costs less than what it saves, two read-modify-writes.
const WORTHWHILE: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub struct Gate {
    /// How many have closed it.
    closed: CachePadded<AtomicU32>,
    /// How many are passing, by place.
    passing: [CachePadded<AtomicU32>; PLACES],
}

/// Somebody who passes. While it lives nobody has the gate closed.
#[derive(Debug)]
#[must_use = "it is passed for as long as this lives"]
pub struct Passing<'a>(&'a AtomicU32);

/// Somebody who closes the gate once that is needed.
#[derive(Debug)]
pub struct Closing<'a> {
    gate: &'a Gate,
    closed: Option<Closed<'a>>,
}

/// Somebody who has closed the gate. While it lives nobody passes.
#[derive(Debug)]
#[must_use = "it is closed for as long as this lives"]
pub struct Closed<'a>(&'a AtomicU32);

impl Default for Gate {
    fn default() -> Self {
        Self {
            closed: CachePadded::default(),
            passing: std::array::from_fn(|_| CachePadded::default()),
        }
    }
}

impl Gate {
    /// Passes, for the sake of so many jobs. `None`: it is closed, or they are too few to be worth it; the caller goes
    /// the slow way. Whoever passes waits for nobody until it drops what it got, and does not close the gate.
    #[inline]
    pub fn pass(&self, jobs: usize) -> Option<Passing<'_>> {
        // Relaxed: only not to disturb who waits for this place.
        if jobs < WORTHWHILE || self.closed.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let place = &self.passing[thread_index() % PLACES];
        // SeqCst, as in `close`: of one who passes and one who closes, at least one sees the other (Dekker's pattern).
        place.fetch_add(1, Ordering::SeqCst);
        model_fence();
        let passing = Passing(place);
        // Acquire is in it: who finds the gate open again sees what was changed behind it.
        (self.closed.load(Ordering::SeqCst) == 0).then_some(passing)
    }

    /// For whoever may have to close the gate, and perhaps not.
    pub fn closing(&self) -> Closing<'_> {
        Closing {
            gate: self,
            closed: None,
        }
    }

    /// Closes the gate, and waits until all who were passing are through: a loop over some [`PASSING_MAX`] jobs each.
    pub fn close(&self) -> Closed<'_> {
        self.closed.fetch_add(1, Ordering::SeqCst);
        model_fence();
        let closed = Closed(&self.closed);
        for place in &self.passing {
            let mut looks = 0;
            // Acquire is in it: what was stored in passing is seen by who finds nobody left.
            while place.load(Ordering::SeqCst) > 0 {
                wait_a_little(&mut looks);
            }
        }
        closed
    }
}

impl<'a> Closing<'a> {
    /// The gate, closed from the first call on.
    pub fn closed(&mut self) -> &Closed<'a> {
        self.closed.get_or_insert_with(|| self.gate.close())
    }
}

impl Drop for Passing<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: hands what was stored over to who closes the gate.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        // Release: hands what was changed over to who passes next.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn the_gate_is_passed_with_many_jobs_while_nobody_has_it_closed() {
        let gate = Gate::default();
        assert!(gate.pass(WORTHWHILE - 1).is_none());
        assert!(gate.pass(WORTHWHILE).is_some());
        let (first, second) = (gate.close(), gate.close());
        assert!(gate.pass(64).is_none());
        drop(first);
        assert!(gate.pass(64).is_none(), "one has it closed still");
        drop(second);
        let both = (gate.pass(64), gate.pass(64));
        assert!(both.0.is_some() && both.1.is_some());
    }

    #[test]
    fn the_gate_is_closed_when_all_are_through_also_by_a_panic() {
        let gate = Gate::default();
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let passing = gate.pass(64).unwrap();
            let closer = scope.spawn(|| {
                let _closed = gate.close();
                passed.load(Ordering::Relaxed)
            });
            // Until it is about to wait.
            while gate.closed.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let panicked = catch_unwind(AssertUnwindSafe(|| {
                let _passing = passing;
                passed.store(1, Ordering::Relaxed);
                panic!("in passing");
            }));
            assert!(panicked.is_err());
            assert_eq!(closer.join().unwrap(), 1);
        });
        assert!(gate.pass(64).is_some());
    }

    #[test]
    fn who_needs_the_gate_closed_closes_it_at_the_first_need() {
        let gate = Gate::default();
        let mut closing = gate.closing();
        assert!(gate.pass(64).is_some());
        closing.closed();
        closing.closed();
        assert!(gate.pass(64).is_none());
        drop(closing);
        assert!(gate.pass(64).is_some());
    }
}
