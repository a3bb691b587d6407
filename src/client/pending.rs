//! Requests that were started and not waited for: pipelining.

use crate::base::code::ItemError;
use crate::base::job::JobId;
use crate::base::queue::Durability;
use crate::client::call::{Answer, Call};
use crate::client::error::ClientError;
use crate::client::shared::Shared;
use crate::wire::Outcome;
use std::fmt;
use std::sync::Arc;

/// What a request that changes something has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The durability that was reached; `None` when there was nothing to keep.
    pub level: Option<Durability>,
    /// How many jobs it took effect on, duplicates and repeated settlements included.
    pub count: u32,
    /// Enqueues and steps: the job of each position, `JobId(0)` where none was made. Empty for other requests.
    pub ids: Vec<JobId>,
    /// The positions that did not go the plain way; all others did.
    pub items: Vec<ItemError>,
    /// It had been applied before, and its answer was lost; this is the outcome of then.
    pub replayed: bool,
    /// It had been applied before, and the server no longer keeps ids and items, so the fields above are empty.
    pub details_lost: bool,
}

impl From<Outcome> for Applied {
    fn from(outcome: Outcome) -> Self {
        let Outcome { head, ids, items } = outcome;
        let (level, count, replayed) = (head.level, head.count, head.replayed);
        Self {
            level,
            count,
            ids,
            items,
            replayed,
            details_lost: false,
        }
    }
}

/// A request on its way. [`wait`](Self::wait) for it; dropping it leaves it on its way with nobody to hear the
/// answer.
#[must_use = "nobody hears whether the request succeeded unless it is waited for"]
pub struct Pending<T> {
    shared: Arc<Shared>,
    call: Arc<Call>,
    read: fn(Answer) -> Result<T, ClientError>,
}

impl<T> Pending<T> {
    pub(crate) fn new(
        shared: Arc<Shared>,
        call: Arc<Call>,
        read: fn(Answer) -> Result<T, ClientError>,
    ) -> Self {
        Self { shared, call, read }
    }

    /// Waits for the answer until the request's deadline.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn wait(self) -> Result<T, ClientError> {
        (self.read)(self.shared.finish(&self.call))
    }

    /// Whether the answer is there, so that [`wait`](Self::wait) would return at once.
    pub fn is_done(&self) -> bool {
        self.call.is_done()
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let Some(Answer::Deliveries(batch)) = self.call.abandon() {
            self.shared.release(batch);
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("op", &self.call.op)
            .finish_non_exhaustive()
    }
}

/// Reads the answer of a request that changes something.
pub(crate) fn applied(answer: Answer) -> Result<Applied, ClientError> {
    match answer {
        Answer::AlreadyApplied => Ok(Applied {
            replayed: true,
            details_lost: true,
            ..Applied::default()
        }),
        answer => Outcome::decode(&body(answer)?)
            .map(Applied::from)
            .map_err(protocol),
    }
}

/// The body of a plain answer.
pub(crate) fn body(answer: Answer) -> Result<Vec<u8>, ClientError> {
    match answer {
        Answer::Body(body) => Ok(body),
        Answer::Failed(error) => Err(error),
        Answer::Deliveries(batch) => Ok(batch.body),
        Answer::AlreadyApplied => Ok(Vec::new()),
    }
}

pub(crate) fn protocol(refusal: crate::base::code::Refusal) -> ClientError {
    ClientError::Protocol(refusal.text)
}
