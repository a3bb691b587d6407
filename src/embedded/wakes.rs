//! How threads wait that are blocked in a reserve: a count of wakes, which they read before their last look and
//! sleep on after it. The model in `tests/loom/queue.rs` runs this very code.

use crate::base::sync::{AtomicU64, Lock, Ordering, Signal};
use std::time::Duration;

/// Goes up whenever jobs became ready in a queue that somebody waits for.
#[derive(Debug, Default)]
pub struct Wakes {
    count: AtomicU64,
    lock: Lock<()>,
    changed: Signal,
}

impl Wakes {
    /// How many there were. To be read before the last look for a job.
    pub fn seen(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Wakes all who sleep; those who are about to will look again.
    pub fn wake(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        // Taking the lock orders this wake behind the sleeper's last look at the count.
        drop(self.lock.lock());
        self.changed.notify_all();
    }

    /// Sleeps until the count has moved on from `seen` or the time is over.
    pub fn sleep(&self, seen: u64, timeout: Duration) {
        let is_unmoved = |_: &()| self.seen() == seen;
        drop(
            self.changed
                .wait_while(self.lock.lock(), Some(timeout), is_unmoved),
        );
    }
}
