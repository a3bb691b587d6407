//! One client as the requests see it: its session, its outbox, what it holds and what it waits for.

use super::holdings::{Freed, Holdings};
use super::outbox::Outbox;
use crate::base::code::Refusal;
use crate::wire::response;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has not said HELLO.
    Greeting,
    /// Its requests are served.
    Open,
    /// Nothing more is read; what waits is written, then it ends. `politely`: its writing side is closed first
    /// and it is read until the peer closes, so that a reset does not take the last answer from the peer.
    Leaving {
        /// See above.
        politely: bool,
    },
    /// Everything was written; the peer has until then to close.
    Lingering {
        /// Milliseconds since the Unix epoch.
        until_ms: u64,
    },
    /// To be removed.
    Gone,
}

/// Jobs that are pushed as they come.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Its number on the connection, from 1.
    pub(super) id: u32,
    /// Its place among the waiters.
    pub(super) waiter: u64,
    pub(super) lease_ms: u32,
    pub(super) window_jobs: u32,
    /// 0 for no limit.
    pub(super) window_bytes: u32,
    /// Jobs pushed and not settled.
    pub(super) jobs: u32,
    /// Their bytes.
    pub(super) bytes: u64,
}

impl Subscription {
    /// How many more jobs and bytes the window takes; `None` when it is full.
    pub(super) fn room(&self) -> Option<(u32, usize)> {
        let jobs = self.window_jobs.saturating_sub(self.jobs);
        let bytes = match self.window_bytes {
            0 => usize::MAX,
            window => u64::from(window).saturating_sub(self.bytes) as usize,
        };
        // One job always fits into an empty window.
        (jobs > 0 && (bytes > 0 || self.jobs == 0)).then_some((jobs, bytes))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Peer {
    /// Number of the connection in its reactor.
    pub(super) connection: u32,
    pub(super) stage: Stage,
    /// 0 for none.
    pub(super) session: u128,
    /// The agreed heartbeat in milliseconds; 0 for none.
    pub(super) heartbeat_ms: u32,
    pub(super) outbox: Outbox,
    pub(super) holdings: Holdings,
    pub(super) subscriptions: Vec<Subscription>,
    /// The next subscription's number.
    pub(super) next_subscription: u32,
    /// Places of its waiting reserves.
    pub(super) reserves: Vec<u64>,
    /// Whether one of its waiters stands aside, because a window or the outbox is full.
    pub(super) has_parked: bool,
}

impl Peer {
    pub(super) fn new(connection: u32) -> Self {
        Self {
            connection,
            stage: Stage::Greeting,
            session: 0,
            heartbeat_ms: 0,
            outbox: Outbox::default(),
            holdings: Holdings::default(),
            subscriptions: Vec::new(),
            next_subscription: 1,
            reserves: Vec::new(),
            has_parked: false,
        }
    }

    /// Whether requests of it are read.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.stage, Stage::Greeting | Stage::Open)
    }

    /// Nothing more is read from it; what waits is still written.
    pub(super) fn leave(&mut self, politely: bool) {
        if self.is_served() {
            self.stage = Stage::Leaving { politely };
        }
    }

    /// Tells it why its connection ends, and ends it.
    pub(super) fn dismiss(&mut self, refusal: &Refusal) {
        if self.is_served() {
            let mark = self.outbox.mark();
            response::connection_error(self.outbox.buffer(), refusal);
            self.outbox.put_behind_held(mark);
            self.leave(true);
        }
    }

    /// The answers that wait for the disk will never be certain: tells it so, also if it was dismissed before.
    pub(super) fn lose_held(&mut self, refusal: &Refusal) {
        if self.outbox.holds() {
            self.outbox.drop_held();
            if !self.is_served() {
                response::connection_error(self.outbox.buffer(), refusal);
            }
        }
    }

    /// A subscription by its number.
    pub(super) fn subscription(&mut self, id: u32) -> Option<&mut Subscription> {
        self.subscriptions
            .iter_mut()
            .find(|subscription| subscription.id == id)
    }

    /// Deliveries ended: their window opens by that much.
    pub(super) fn free(&mut self, freed: Freed) {
        free(&mut self.subscriptions, freed);
    }
}

/// As [`Peer::free`], for those who hold other parts of the peer.
#[inline]
pub(super) fn free(subscriptions: &mut [Subscription], freed: Freed) {
    let mut subscriptions = subscriptions.iter_mut();
    if freed.subscription != 0
        && let Some(subscription) = subscriptions.find(|one| one.id == freed.subscription)
    {
        subscription.jobs = subscription.jobs.saturating_sub(freed.jobs);
        subscription.bytes = subscription.bytes.saturating_sub(freed.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_always_takes_one_job_when_it_is_empty() {
        let mut subscription = Subscription {
            id: 1,
            waiter: 1,
            lease_ms: 0,
            window_jobs: 2,
            window_bytes: 10,
            jobs: 0,
            bytes: 0,
        };
        assert_eq!(subscription.room(), Some((2, 10)));
        (subscription.jobs, subscription.bytes) = (1, 100);
        assert_eq!(subscription.room(), None);
        (subscription.jobs, subscription.bytes) = (1, 9);
        assert_eq!(subscription.room(), Some((1, 1)));
        (subscription.jobs, subscription.bytes) = (2, 0);
        assert_eq!(subscription.room(), None);
    }
}
