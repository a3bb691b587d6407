//! Shards: small caches in front of something shared, one for about each thread, taken by trying and never by
//! waiting.
//!
//! A thread that finds its shard busy goes on without it, so a thread that is paused while it holds a shard
//! stops nobody; it only keeps what lies in that shard. No thread owns a shard, so nothing is lost when one
//! ends.

use crate::base::sync::{AtomicBool, Ordering, thread_index};
use crate::ring::pause::{Point, point};
use crossbeam_utils::CachePadded;
use std::ops::Deref;

/// How many shards a pool has. Threads beyond that share them; models and unit tests want threads to meet.
pub(super) const SHARDS: usize = match (cfg!(loom), cfg!(test)) {
    (true, _) => 1,
    (_, true) => 2,
    _ => 32,
};

/// The shards of one pool.
pub(super) struct Shards<T> {
    shards: Box<[CachePadded<Shard<T>>]>,
}

struct Shard<T> {
    busy: AtomicBool,
    content: T,
}

/// A shard held by this thread. `T` consists of atomics that are used with `Relaxed` while held: the
/// `Acquire` of taking the shard and the `Release` of dropping this order them.
pub(super) struct Held<'a, T>(&'a Shard<T>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.content
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        point(Point::ShardHeld);
        self.0.busy.store(false, Ordering::Release);
    }
}

impl<T> Shards<T> {
    pub(super) fn new(content: impl Fn() -> T) -> Self {
        let shard = || {
            CachePadded::new(Shard {
                busy: AtomicBool::new(false),
                content: content(),
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }

    /// This thread's shard, unless somebody else holds it right now.
    #[inline]
    pub(super) fn own(&self) -> Option<Held<'_, T>> {
        self.try_hold(thread_index() % SHARDS)
    }

    /// Every shard, this thread's first; `None` for one that somebody else holds right now.
    pub(super) fn each(&self) -> impl Iterator<Item = Option<Held<'_, T>>> {
        let own = thread_index();
        (0..SHARDS).map(move |step| self.try_hold((own + step) % SHARDS))
    }

    /// The contents, for counters that are read without holding the shard.
    pub(super) fn contents(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|shard| &shard.content)
    }

    #[inline]
    fn try_hold(&self, index: usize) -> Option<Held<'_, T>> {
        let shard = &self.shards[index];
        match shard
            .busy
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Some(Held(shard)),
            Err(_) => None,
        }
    }
}
