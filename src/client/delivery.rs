//! A job in a worker's hands.

use crate::base::job::{JobId, Token};
use crate::client::error::ClientError;
use crate::client::queue::HandleNames;
use crate::wire::{DeliverEntry, DeliveryBatch};
use std::fmt;
use std::sync::Arc;

/// One job that was reserved or pushed, with the token that settles it.
///
/// Deliveries that came together share one buffer, which lives as long as the last of them; clone the payload out of
/// what is kept for long.
#[derive(Clone)]
pub struct Delivery {
    entry: DeliverEntry,
    /// Where `meta | payload` begins in the batch's body.
    body_offset: usize,
    batch: Arc<Batch>,
}

/// The frame that deliveries came in.
pub(crate) struct Batch {
    pub(crate) body: Vec<u8>,
    /// What the handles in it stand for.
    pub(crate) names: HandleNames,
}

impl Delivery {
    /// All deliveries of one frame.
    pub(crate) fn all(batch: Batch) -> Result<Vec<Self>, ClientError> {
        let batch = Arc::new(batch);
        let items =
            DeliveryBatch::parse(&batch.body).map_err(|refusal| ClientError::Protocol(refusal.text))?;
        let mut all = Vec::with_capacity(items.count());
        all.extend(items.items().map(|item| Self {
            entry: *item.entry,
            body_offset: item.body_offset,
            batch: batch.clone(),
        }));
        Ok(all)
    }

    /// What settles this delivery.
    pub fn token(&self) -> Token {
        self.entry.token()
    }

    /// The job.
    pub fn id(&self) -> JobId {
        self.entry.token().id
    }

    /// The number of this delivery; it only ever rises.
    pub fn attempt(&self) -> u16 {
        self.entry.attempt.get()
    }

    /// The name of its queue.
    pub fn queue(&self) -> &str {
        let handle = self.entry.queue.get();
        self.batch
            .names
            .iter()
            .find(|(number, _)| *number == handle)
            .map_or("", |(_, name)| name)
    }

    /// What was enqueued.
    pub fn payload(&self) -> &[u8] {
        let start = self.body_offset + usize::from(self.entry.meta_len.get());
        &self.batch.body[start..start + self.entry.payload_len.get() as usize]
    }

    /// The metadata it was enqueued with.
    pub fn meta(&self) -> &[u8] {
        &self.batch.body[self.body_offset..self.body_offset + usize::from(self.entry.meta_len.get())]
    }

    /// What was left of the lease when the server wrote the delivery, in milliseconds.
    pub fn lease_ms(&self) -> u32 {
        self.entry.lease_ms.get()
    }

    /// When it was accepted, in milliseconds since the Unix epoch.
    pub fn enqueued_ms(&self) -> u64 {
        self.entry.enqueued_ms.get()
    }

    /// Attempts used, this one included.
    pub fn attempts(&self) -> u16 {
        self.entry.attempts.get()
    }

    /// Attempts that it may use.
    pub fn max_attempts(&self) -> u16 {
        self.entry.max_attempts.get()
    }

    /// 0 (last) to 7 (first).
    pub fn priority(&self) -> u8 {
        self.entry.priority
    }

    /// Whether it was delivered before, so that part of the work may be done already.
    pub fn is_redelivered(&self) -> bool {
        self.entry.flags & DeliverEntry::REDELIVERED != 0
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("id", &self.id())
            .field("attempt", &self.attempt())
            .field("queue", &self.queue())
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}
