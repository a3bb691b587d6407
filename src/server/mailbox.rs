//! How other threads reach a reactor, and how reactors reach the flusher.
//!
//! Put the message in first, ring afterwards; [`Awake`] says why no wake is lost. While a reactor is awake, ringing
//! it costs no system call.

use super::net::Wake;
use crate::base::wake::{Awake, Errand};
use crate::engine::QueueId;
use crossbeam::queue::SegQueue;
use std::sync::atomic::AtomicU64;

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
    awake: Awake,
    /// Queues to look after.
    pub(super) batons: SegQueue<Baton>,
    /// Whether an answer of the reactor waits for the disk.
    pub(super) disk: Errand,
    /// How busy the reactor is, and since when that is so; for whoever looks for one with less to do.
    pub(super) load: AtomicU64,
}

impl Mailbox {
    /// The door of the reactor whose wait `wake` ends.
    pub(super) fn new(wake: Wake) -> Self {
        Self {
            wake,
            awake: Awake::default(),
            batons: SegQueue::new(),
            disk: Errand::default(),
            load: AtomicU64::new(0),
        }
    }

    /// Has the reactor look at its messages, waking it if it sleeps.
    pub(super) fn ring(&self) {
        if self.awake.ring() {
            (self.wake)();
        }
    }

    /// The reactor is about to sleep. It looks at its messages once more after this.
    pub(super) fn doze(&self) {
        self.awake.doze();
    }

    /// The reactor is awake and will look at its messages before it sleeps.
    pub(super) fn wake_up(&self) {
        self.awake.wake_up();
    }
}
