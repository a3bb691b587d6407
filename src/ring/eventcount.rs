//! An eventcount: how threads sleep until something in lock-free data may have happened.
//!
//! The idea is Reed's and Kanodia's ("Synchronization with Eventcounts and Sequencers", CACM 1979), in the
//! form that lock-free queues use: who waits **announces** itself, **looks again**, and only then **parks**;
//! who changes the data **notifies** afterwards, which costs a fence and one load while nobody waits.
//!
//! ```text
//! consumer                         producer
//!   announce (waiters += 1)          push
//!   ── fence ──                      ── fence ──
//!   look at the ring again           any waiters? then wake
//! ```
//!
//! Both fences are SeqCst, so either the consumer's second look sees the push, or the producer sees the
//! announcement: no wake-up is lost. Who finds something at the second look cancels.
//!
//! Who takes some jobs and leaves others behind notifies, too: the producer's notification may have been
//! answered by a waiter that took only a part. The lock is touched only by those who sleep and those who wake
//! them.

use crate::base::sync::{AtomicU64, Ordering, fence};
use crate::ring::parking::Parking;
use std::time::Duration;

/// Threads that wait for events, and those who cause them.
///
/// ```
/// use ackring::ring::EventCount;
/// use std::sync::atomic::{AtomicBool, Ordering};
/// let (ready, events) = (AtomicBool::new(false), EventCount::new());
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         ready.store(true, Ordering::Release);
///         events.notify(1);
///     });
///     while !ready.load(Ordering::Acquire) {
///         let ticket = events.prepare();
///         if ready.load(Ordering::Acquire) {
///             ticket.cancel();
///         } else {
///             ticket.wait(None);
///         }
///     }
/// });
/// ```
pub struct EventCount {
    /// Threads that hold a ticket.
    waiters: AtomicU64,
    /// Its epoch counts the notifications that found a waiter.
    parking: Parking,
}

/// One thread's announcement that it is about to wait. Dropping it cancels.
#[must_use = "who has announced itself looks again, and then waits or cancels"]
pub struct Ticket<'a> {
    events: &'a EventCount,
    epoch: u64,
}

impl Default for EventCount {
    fn default() -> Self {
        Self::new()
    }
}

impl EventCount {
    /// With nobody waiting.
    pub fn new() -> Self {
        Self {
            waiters: AtomicU64::new(0),
            parking: Parking::new(),
        }
    }

    /// Announces that this thread is about to wait. Look at the condition again after this, then wait or
    /// cancel.
    pub fn prepare(&self) -> Ticket<'_> {
        // The epoch first: a notification that raised it before concerns what the second look will see.
        let epoch = self.parking.epoch();
        self.waiters.fetch_add(1, Ordering::Relaxed);
        // The announcement before the second look. Pairs with the fence in `notify`.
        fence(Ordering::SeqCst);
        Ticket { events: self, epoch }
    }

    /// Wakes up to `count` of those who wait, after something happened that they may wait for. Others that
    /// have announced themselves but do not sleep yet will not sleep, but look again.
    #[inline]
    pub fn notify(&self, count: usize) {
        // What happened before the look for waiters. Pairs with the fence in `prepare`.
        fence(Ordering::SeqCst);
        if self.waiters.load(Ordering::Relaxed) > 0 {
            self.parking.raise(count);
        }
    }

    /// How many threads have announced themselves.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed) as usize
    }
}

impl Ticket<'_> {
    /// Sleeps until there was a notification since [`EventCount::prepare`], or until `timeout` has passed;
    /// `None` waits without bound. Returns whether there was one.
    pub fn wait(self, timeout: Option<Duration>) -> bool {
        self.events.parking.sleep(self.epoch, timeout)
    }

    /// Does not wait after all.
    pub fn cancel(self) {}
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.events.waiters.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for EventCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventCount")
            .field("waiters", &self.waiters())
            .finish()
    }
}

impl std::fmt::Debug for Ticket<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("epoch", &self.epoch).finish()
    }
}
