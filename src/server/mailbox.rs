//! How other threads reach a reactor, and how reactors reach the flusher.
//!
//! The rule that loses no wake: put the message in first, ring afterwards. The reactor, before it sleeps, takes
//! the mark of having been rung away first and looks for messages afterwards. Both change the mark by `swap`
//! with `AcqRel`, so either the reactor's look finds the message, or the ringer finds the mark gone and makes
//! the system call. While a reactor is awake its mark is set and ringing it costs no system call.

use super::net::Wake;
use crate::engine::QueueId;
use crossbeam::queue::SegQueue;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Jobs became ready in a queue: whoever gets this looks after them, or passes it on to one of `others`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Baton {
    /// The queue.
    pub(super) queue: QueueId,
    /// Reactors, a bit each, that were waiting as well and have not been told.
    pub(super) others: u64,
}

/// The door of one reactor.
pub(super) struct Mailbox {
    wake: Wake,
    awake: AtomicBool,
    /// Queues to look after.
    pub(super) batons: SegQueue<Baton>,
    /// Whether an answer of the reactor waits for the disk.
    pub(super) waits_for_disk: AtomicBool,
}

impl Mailbox {
    /// The door of the reactor whose wait `wake` ends.
    pub(super) fn new(wake: Wake) -> Self {
        Self {
            wake,
            awake: AtomicBool::new(true),
            batons: SegQueue::new(),
            waits_for_disk: AtomicBool::new(false),
        }
    }

    /// Has the reactor look at its messages, waking it if it sleeps.
    pub(super) fn ring(&self) {
        if !self.awake.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    /// The reactor is about to sleep. It looks at its messages once more after this.
    pub(super) fn doze(&self) {
        self.awake.swap(false, Ordering::AcqRel);
    }

    /// The reactor is awake and will look at its messages before it sleeps.
    pub(super) fn wake_up(&self) {
        self.awake.swap(true, Ordering::AcqRel);
    }
}

/// A bell for an agent that sleeps on its own thread.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    /// Ends the current or else the next [`wait`](Self::wait).
    pub(super) fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.changed.notify_one();
        }
    }

    /// Whether it was rung; that is answered with this.
    pub(super) fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock())
    }

    /// Sleeps until rung, at most `timeout`; `None` waits for as long as it takes.
    pub(super) fn wait(&self, timeout: Option<Duration>) {
        let mut rung = self.rung.lock();
        match timeout {
            _ if *rung => {}
            None => self.changed.wait_while(&mut rung, |rung| !*rung),
            Some(timeout) => {
                self.changed.wait_while_for(&mut rung, |rung| !*rung, timeout);
            }
        }
        *rung = false;
    }
}
