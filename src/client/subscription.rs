//! Jobs as they come: pushed by the server, up to a window of unsettled ones.

use crate::base::batch::SettleBuilder;
use crate::client::delivery::{Batch, Delivery};
use crate::client::error::ClientError;
use crate::client::shared::Shared;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much a subscription may have unsettled at a time.
///
/// ```
/// use ackring::client::Window;
/// let window = Window { jobs: 100, ..Window::default() };
/// assert_eq!((window.bytes, window.lease_ms), (0, 0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Jobs, 1 to 65536.
    pub jobs: u32,
    /// Bytes of metadata and payload, though always one job; 0 for no limit.
    pub bytes: u32,
    /// Lease, in milliseconds; 0 for the job's or queue's own.
    pub lease_ms: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            jobs: 64,
            bytes: 0,
            lease_ms: 0,
        }
    }
}

/// Where the reader puts what is pushed.
pub(crate) struct Feed {
    pub(crate) queues: Vec<u32>,
    pub(crate) window: Window,
    inner: Mutex<Inner>,
    ready: Condvar,
}

#[derive(Default)]
struct Inner {
    batches: VecDeque<Batch>,
    ended: Option<ClientError>,
    dropped: bool,
}

impl Feed {
    pub(crate) fn new(queues: Vec<u32>, window: Window) -> Self {
        Self {
            queues,
            window,
            inner: Mutex::default(),
            ready: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pushed batch in, or gives it back when nobody will ask for it.
    pub(crate) fn offer(&self, batch: Batch) -> Option<Batch> {
        let mut inner = self.lock();
        if inner.dropped {
            return Some(batch);
        }
        inner.batches.push_back(batch);
        self.ready.notify_one();
        None
    }

    /// Nothing more will come, for this reason.
    pub(crate) fn end(&self, why: ClientError) {
        self.lock().ended.get_or_insert(why);
        self.ready.notify_all();
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.lock().dropped
    }
}

/// A running subscription, made by [`Client::subscribe`](crate::client::Client::subscribe).
///
/// It is set up again after a reconnect. Jobs that were handed out before stay with their holder for the server's
/// grace time: settle or extend them as usual. Dropping it ends it and releases the jobs that nobody took out.
pub struct Subscription {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
}

impl Subscription {
    pub(crate) fn new(shared: Arc<Shared>, feed: Arc<Feed>) -> Self {
        Self { shared, feed }
    }

    /// The next jobs, in the portions in which the server pushed them; `None` when none came within `timeout`. Any
    /// number of threads may ask.
    ///
    /// # Errors
    /// What ended the subscription: `Refused` when its queue was deleted, `RetryLater` when the log had no room for a
    /// hand-out (subscribe again), `OutcomeUnknown` when the log failed, `Closed` with the client.
    pub fn next(&self, timeout: Duration) -> Result<Option<Vec<Delivery>>, ClientError> {
        let until = Instant::now() + timeout;
        let mut inner = self.feed.lock();
        loop {
            if let Some(batch) = inner.batches.pop_front() {
                drop(inner);
                return Delivery::all(batch).map(Some);
            }
            if let Some(why) = &inner.ended {
                return Err(why.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            inner = self
                .feed
                .ready
                .wait_timeout(inner, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let batches = {
            let mut inner = self.feed.lock();
            inner.dropped = true;
            std::mem::take(&mut inner.batches)
        };
        self.shared.unsubscribe(&self.feed);
        batches.into_iter().for_each(|batch| self.shared.release(batch));
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("window", &self.feed.window)
            .finish_non_exhaustive()
    }
}

/// A settlement that releases every delivery of the batch; `None` when there is none to release.
pub(crate) fn releases(batch: Batch) -> Option<SettleBuilder> {
    let deliveries = Delivery::all(batch).ok()?;
    let mut releases = SettleBuilder::new();
    deliveries
        .iter()
        .for_each(|delivery| releases.release(delivery.token()));
    (!releases.is_empty()).then_some(releases)
}
