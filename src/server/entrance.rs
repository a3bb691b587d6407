//! How connections come to a reactor: new ones from the reactor that accepts, and those that another reactor
//! hands over.

use super::conn::Connection;
use super::waiters::Waiter;
use crossbeam::queue::SegQueue;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A connection on its way from one reactor to another, with those who wait on it.
#[derive(Debug)]
pub(super) struct Moved<S> {
    pub(super) connection: Connection<S>,
    /// Its waiting reserves, in their order.
    pub(super) reserves: Vec<Waiter>,
    /// The waiters of its subscriptions, in the order of those.
    pub(super) subscriptions: Vec<Waiter>,
}

/// What waits to be taken in by one reactor. Put in first, ring the reactor's mailbox afterwards.
#[derive(Debug)]
pub(super) struct Entrance<S> {
    /// Accepted, and not served yet.
    pub(super) fresh: SegQueue<S>,
    /// `None` once the reactor has ended. A lock, as connections move a few times a minute.
    moved: Mutex<Option<Vec<Moved<S>>>>,
    /// How many are in `moved`, so that a turn without any takes no lock.
    count: AtomicUsize,
}

impl<S> Default for Entrance<S> {
    fn default() -> Self {
        Self {
            fresh: SegQueue::new(),
            moved: Mutex::new(Some(Vec::new())),
            count: AtomicUsize::new(0),
        }
    }
}

impl<S> Entrance<S> {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && !self.has_moved()
    }

    fn has_moved(&self) -> bool {
        // Acquire pairs with the release in `hand`. Whoever put something in rings after it, so one that is not seen
        // yet is looked for again.
        self.count.load(Ordering::Acquire) > 0
    }

    /// Puts in what `take` gives, unless the reactor has ended: then `take` is not called. Says how many those were.
    pub(super) fn hand(&self, take: impl FnOnce() -> Vec<Moved<S>>) -> usize {
        let mut moved = self.moved.lock();
        let Some(waiting) = &mut *moved else {
            return 0;
        };
        let more = take();
        let count = more.len();
        waiting.extend(more);
        self.count.store(waiting.len(), Ordering::Release);
        count
    }

    /// Takes out those that were handed over.
    pub(super) fn take_moved(&self) -> Vec<Moved<S>> {
        if !self.has_moved() {
            return Vec::new();
        }
        let mut moved = self.moved.lock();
        self.count.store(0, Ordering::Release);
        moved.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Lets nothing more be handed over, unless something was; says whether that is so now.
    pub(super) fn close(&self) -> bool {
        let mut moved = self.moved.lock();
        if moved.as_ref().is_some_and(Vec::is_empty) {
            *moved = None;
        }
        moved.is_none()
    }
}
