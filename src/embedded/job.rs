//! A job that an embedded worker holds.

use super::Shared;
use crate::base::batch::SettleBuilder;
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, Token};
use crate::engine::{DeliveryHead, DeliverySink};
use std::sync::Arc;
use std::time::Duration;

/// Takes deliveries of one reserve.
pub(super) struct Jobs<'a> {
    shared: &'a Arc<Shared>,
    pub(super) jobs: Vec<Job>,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            jobs: Vec::new(),
        }
    }
}

impl DeliverySink for Jobs<'_> {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        self.jobs.push(Job {
            shared: Arc::clone(self.shared),
            head: *head,
            body: body.into(),
            settled: false,
        });
    }
}

/// A job under a lease. Settle it by [`ack`](Self::ack) or one of the others; a job dropped unsettled is released
/// and uses no attempt.
pub struct Job {
    shared: Arc<Shared>,
    head: DeliveryHead,
    body: Box<[u8]>,
    settled: bool,
}

impl Job {
    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.body[usize::from(self.head.meta_len)..]
    }

    /// The metadata it was enqueued with.
    pub fn meta(&self) -> &[u8] {
        &self.body[..usize::from(self.head.meta_len)]
    }

    /// Its id.
    pub fn id(&self) -> JobId {
        self.head.token.id
    }

    /// What settles this delivery, from anywhere.
    pub fn token(&self) -> Token {
        self.head.token
    }

    /// Attempts used, this one included.
    pub fn attempts(&self) -> u16 {
        self.head.attempts
    }

    /// The work is done.
    ///
    /// # Errors
    /// `LEASE_LOST` when the lease ran out meanwhile and the job went back; the log failed.
    pub fn ack(self) -> Result<(), Refusal> {
        self.finish(|batch, token| batch.ack(token, None))
    }

    /// The work is done, and this is its result, kept with the finished job.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn ack_with(self, result: &[u8]) -> Result<(), Refusal> {
        self.finish(|batch, token| batch.ack(token, Some(result)))
    }

    /// The work failed: try again after the queue's backoff.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn nack(self, error: &str) -> Result<(), Refusal> {
        self.finish(|batch, token| batch.nack(token, None, Some(error.as_bytes())))
    }

    /// The work failed for good: the job becomes dead.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn reject(self, error: &str) -> Result<(), Refusal> {
        self.finish(|batch, token| batch.reject(token, Some(error.as_bytes())))
    }

    /// Gives the job back without using an attempt.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn release(self) -> Result<(), Refusal> {
        self.finish(SettleBuilder::release)
    }

    /// Keeps the lease until `lease` from now.
    ///
    /// # Errors
    /// As [`ack`](Self::ack).
    pub fn extend(&self, lease: Duration) -> Result<(), Refusal> {
        let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX).max(1);
        check(
            self.shared
                .settle(|batch| batch.extend(self.head.token, lease_ms))?,
        )
    }

    fn finish(mut self, build: impl FnOnce(&mut SettleBuilder, Token)) -> Result<(), Refusal> {
        self.settled = true;
        check(self.shared.settle(|batch| build(batch, self.head.token))?)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.settled {
            // If it cannot be released it comes back when its lease runs out.
            let _ = self.shared.settle(|batch| batch.release(self.head.token));
        }
    }
}

fn check(item: Option<ItemError>) -> Result<(), Refusal> {
    match item {
        None
        | Some(ItemError {
            code: ErrorCode::AlreadySettled,
            ..
        }) => Ok(()),
        Some(item) => Err(Refusal::new(
            item.code,
            "the lease ran out and the job was given back; drop your result",
        )),
    }
}
