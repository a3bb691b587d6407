//! The gate of the slots: lets most threads change slots by plain stores, where each change would else have to be a
//! compare-and-swap for the sake of the few who come from elsewhere.
//!
//! A job that was popped is its popper's, and a job that fell out of its retention is the one's who took it out, but for
//! a few: whoever cancels or purges jobs takes ready ones by their ids, and whoever empties a segment moves bodies. They
//! *close* the gate for as long as they do so, and everybody else goes by compare-and-swap then, which is right at any
//! time. While the gate is open, those who have many jobs at hand *pass* it and store.
//!
//! A lock for readers and writers with the weight on the writers' side: readers count themselves in a place of their own
//! thread, as in Linux' big-reader locks, and never wait; a writer, who is rare, looks at all places (Dice and Kogan,
//! "BRAVO: Biased Locking for Reader-Writer Locks", USENIX ATC 2019, give its history). What comes instead of waiting is
//! the slow way.

use crate::base::sync::{AtomicU32, Ordering, model_fence, thread_index};
use crate::engine::settle::wait_a_little;
use crossbeam_utils::CachePadded;

/// Places to be counted in; threads beyond that share them.
const PLACES: usize = if cfg!(loom) { 1 } else { 32 };
/// Jobs for which to pass costs less than what it saves, two read-modify-writes.
const WORTHWHILE: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub struct Gate {
    /// How many have closed it.
    closed: CachePadded<AtomicU32>,
    /// How many are passing, by place.
    passing: Box<[CachePadded<AtomicU32>]>,
}

/// Somebody who passes. While it lives nobody has the gate closed.
#[derive(Debug)]
pub struct Passing<'a>(&'a AtomicU32);

/// Somebody who has closed the gate. While it lives nobody passes.
#[derive(Debug)]
pub struct Closed<'a>(&'a AtomicU32);

impl Default for Gate {
    fn default() -> Self {
        Self {
            closed: CachePadded::default(),
            passing: (0..PLACES).map(|_| CachePadded::default()).collect(),
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

    /// Closes the gate, and waits until all who were passing are through: a loop over a few jobs each.
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
