//! Where threads sleep: an epoch under a lock, with the waiting done by parking_lot, or by loom in models.

use std::time::Duration;

#[cfg(not(loom))]
type Lock<T> = parking_lot::Mutex<T>;
#[cfg(not(loom))]
type Condvar = parking_lot::Condvar;
#[cfg(loom)]
type Lock<T> = loom::sync::Mutex<T>;
#[cfg(loom)]
type Condvar = loom::sync::Condvar;

/// Threads that sleep until the epoch is not theirs any more.
pub(super) struct Parking {
    epoch: Lock<u64>,
    raised: Condvar,
}

impl Parking {
    pub(super) fn new() -> Self {
        Self {
            epoch: Lock::new(0),
            raised: Condvar::new(),
        }
    }

    /// The epoch now.
    pub(super) fn epoch(&self) -> u64 {
        *self.lock()
    }

    /// Begins the next epoch and wakes up to `count` of those who sleep in earlier ones.
    pub(super) fn raise(&self, count: usize) {
        let mut epoch = self.lock();
        *epoch = epoch.wrapping_add(1);
        // Under the lock: so nobody of the new epoch sleeps yet, who could be woken in place of one of the
        // old.
        for _ in 0..count {
            #[cfg(not(loom))]
            if !self.raised.notify_one() {
                break;
            }
            #[cfg(loom)]
            self.raised.notify_one();
        }
    }

    /// Sleeps until the epoch is another than `from` or the timeout has passed; whether it is another.
    #[cfg(not(loom))]
    pub(super) fn sleep(&self, from: u64, timeout: Option<Duration>) -> bool {
        let mut epoch = self.lock();
        match timeout {
            None => self.raised.wait_while(&mut epoch, |epoch| *epoch == from),
            // Once is enough: parking_lot does not wake anybody for nothing.
            Some(timeout) if *epoch == from => _ = self.raised.wait_for(&mut epoch, timeout),
            Some(_) => {}
        }
        *epoch != from
    }

    #[cfg(not(loom))]
    fn lock(&self) -> parking_lot::MutexGuard<'_, u64> {
        self.epoch.lock()
    }

    /// Models have no time: every wait is without bound.
    #[cfg(loom)]
    #[allow(clippy::unwrap_used, reason = "a model does not go on after a panic")]
    pub(super) fn sleep(&self, from: u64, _: Option<Duration>) -> bool {
        let mut epoch = self.lock();
        while *epoch == from {
            epoch = self.raised.wait(epoch).unwrap();
        }
        true
    }

    #[cfg(loom)]
    #[allow(clippy::unwrap_used, reason = "a model does not go on after a panic")]
    fn lock(&self) -> loom::sync::MutexGuard<'_, u64> {
        self.epoch.lock().unwrap()
    }
}
