//! A queue of an embedded engine.

use super::Shared;
use super::job::{Job, Jobs};
use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::JobId;
use crate::base::queue::QueueStats;
use crate::engine::{EnqueueReply, QueueId, RequestId};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bit of a queue's waiting mask that stands for blocked threads of this process; reactors use the lower ones.
const BLOCKED_BIT: u32 = 63;
/// One queue of an [`Engine`](super::Engine). Can be cloned and sent to other threads.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    id: QueueId,
}

impl Queue {
    pub(super) fn new(shared: Arc<Shared>, id: QueueId) -> Self {
        Self { shared, id }
    }

    /// Enqueues one job, to be worked on as soon as possible.
    ///
    /// # Errors
    /// A limit was hit, or the log failed; the job was not taken.
    pub fn enqueue(&self, payload: &[u8]) -> Result<JobId, Refusal> {
        self.enqueue_with(payload, &JobOptions::default())
    }

    /// Enqueues one job with options. With a key that was seen before, the answer is the first job's id.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue), and `KEY_CONFLICT` for a key that was seen with another body.
    pub fn enqueue_with(&self, payload: &[u8], options: &JobOptions<'_>) -> Result<JobId, Refusal> {
        let mut jobs = EnqueueBuilder::new();
        jobs.push(payload, options);
        let reply = self.enqueue_batch(&jobs)?;
        match reply.items.first() {
            Some(item) if item.code != ErrorCode::Duplicate => Err(Refusal::new(
                item.code,
                "the key was used for a job with another body; use another key",
            )),
            _ => Ok(JobId(reply.ids[0])),
        }
    }

    /// Enqueues a batch in one step: all of it or nothing.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue).
    pub fn enqueue_batch(&self, jobs: &EnqueueBuilder) -> Result<EnqueueReply, Refusal> {
        let mut bytes = Vec::with_capacity(jobs.len());
        jobs.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(jobs.count(), &bytes)?;
        let mut reply = EnqueueReply::default();
        let now_ms = self.shared.clock.now_ms();
        let confirmed =
            self.shared
                .engine
                .enqueue(self.id, &batch, None, RequestId::NONE, now_ms, &mut reply)?;
        self.shared.wait(confirmed)?;
        Ok(reply)
    }

    /// Reserves one job, waiting for up to `wait`; `None` when none came.
    ///
    /// # Errors
    /// The queue was deleted, or the log failed.
    pub fn reserve(&self, wait: Duration) -> Result<Option<Job>, Refusal> {
        Ok(self.reserve_batch(1, wait)?.pop())
    }

    /// Reserves up to `jobs_max` jobs, waiting for up to `wait` for the first.
    ///
    /// # Errors
    /// As [`reserve`](Self::reserve).
    pub fn reserve_batch(&self, jobs_max: usize, wait: Duration) -> Result<Vec<Job>, Refusal> {
        let shared = &self.shared;
        // A wait without end is a wait until the end of time.
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let until_ms = shared.clock.now_ms().saturating_add(wait_ms);
        let mut found = Jobs::new(shared);
        loop {
            let seen = shared.wakes.seen();
            // Announced before the look: whoever publishes a job behind it will wake us. The mark is never
            // taken back while the engine is open, since other threads may wait for the same queue; it costs
            // publishers a wake that finds nobody.
            if !wait.is_zero() {
                shared.engine.announce(self.id, BLOCKED_BIT);
            }
            let now_ms = shared.clock.now_ms();
            let confirmed =
                shared
                    .engine
                    .reserve(&[self.id], jobs_max, 0, RequestId::NONE, now_ms, &mut found)?;
            if !found.jobs.is_empty() {
                shared.wait(confirmed)?;
                return Ok(found.jobs);
            }
            if now_ms >= until_ms || shared.stopping.load(Ordering::Acquire) {
                return Ok(Vec::new());
            }
            shared.wakes.sleep(seen, Duration::from_millis(until_ms - now_ms));
        }
    }

    /// The queue's numbers.
    ///
    /// # Errors
    /// The queue was deleted.
    pub fn stats(&self) -> Result<QueueStats, Refusal> {
        self.shared.engine.queue_stats(self.id)
    }

    /// The queue's number, for [`Engine::core`](super::Engine::core).
    pub fn id(&self) -> QueueId {
        self.id
    }
}
