//! Batches in flight: sent without waiting for the ones before, confirmed in the order in which they were sent.

use super::progress::Progress;
use super::source::Batch;
use super::template::Template;
use crate::base::batch::EnqueueBuilder;
use crate::base::code::ErrorCode;
use crate::base::job::JobId;
use crate::base::queue::Durability;
use crate::cli::exit::Failure;
use crate::client::{Applied, Client, ClientError, Pending, QueueHandle};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Batches sent and not yet confirmed. Enough to keep the server busy while this side reads; more would only
/// cost memory.
const BATCHES_IN_FLIGHT: usize = 8;

/// What became of the jobs so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Jobs that the server has, duplicates included.
    pub(super) confirmed: u64,
    /// Of these, jobs that it had already under their keys.
    pub(super) duplicates: u64,
    /// Jobs refused because their key stands for another job.
    pub(super) conflicts: u64,
    /// Number of the first of those in the input.
    pub(super) first_conflict: Option<u64>,
    /// Jobs of which nobody can tell whether the server has them.
    pub(super) unknown: u64,
    /// The lowest durability that a confirmation named.
    pub(super) level: Option<Durability>,
}

/// Takes the ids of confirmed jobs, in the order of the input.
pub(super) type IdSink<'a> = dyn FnMut(&[JobId]) + 'a;

/// The way of batches to one queue.
pub(super) struct Pipeline<'a> {
    pub(super) client: &'a Client,
    pub(super) queue: &'a QueueHandle,
    pub(super) template: &'a Template,
    pub(super) durability: Option<Durability>,
    /// Whether a full queue is a failure instead of a reason to wait.
    pub(super) fail_when_full: bool,
    pub(super) progress: &'a Progress,
    pub(super) tally: Tally,
    pub(super) builder: EnqueueBuilder,
    pub(super) flying: VecDeque<Flying>,
    /// Batches done with, to be filled again.
    pub(super) spare: Vec<Batch>,
    /// How often the server asked to wait.
    pub(super) pauses: u64,
}

/// A batch whose confirmation is to come.
pub(super) struct Flying {
    batch: Batch,
    pending: Pending<Applied>,
    /// How often the server had asked to wait when it was sent.
    pauses: u64,
}

impl Pipeline<'_> {
    /// Whether confirmations are to come.
    pub(super) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Sends a batch; first waits for the oldest one's confirmation when enough are in flight.
    ///
    /// # Errors
    /// What the server refused, of this batch or of an earlier one.
    pub(super) fn send(&mut self, batch: Batch, ids: &mut IdSink<'_>) -> Result<(), Failure> {
        while self.flying.len() >= BATCHES_IN_FLIGHT {
            self.confirm_oldest(ids)?;
        }
        self.template
            .encode(&batch, 0..batch.count(), &mut self.builder)?;
        let pending = self
            .client
            .enqueue_start(self.queue, &self.builder, self.durability)?;
        self.flying.push_back(Flying {
            batch,
            pending,
            pauses: self.pauses,
        });
        Ok(())
    }

    /// Waits until nothing is in flight. Goes through all batches even when one fails, so that the tally tells
    /// of each; the first failure is returned.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) fn drain(&mut self, ids: &mut IdSink<'_>) -> Result<(), Failure> {
        let mut first = Ok(());
        while !self.flying.is_empty() {
            let result = self.confirm_oldest(ids);
            first = first.and(result);
        }
        first
    }

    /// Waits for the confirmation of the batch that was sent first; sends it again if it was refused for lack of
    /// room.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub(super) fn confirm_oldest(&mut self, ids: &mut IdSink<'_>) -> Result<(), Failure> {
        let Some(flying) = self.flying.pop_front() else {
            return Ok(());
        };
        let Flying {
            batch,
            pending,
            pauses,
        } = flying;
        let range = 0..batch.count();
        match pending.wait() {
            Ok(applied) => self.count(&batch, range, &applied, ids),
            Err(error) if self.may_try_again(&error, batch.count()) => {
                if pauses == self.pauses {
                    // Nobody has waited since it was sent.
                    self.pause(&error);
                }
                self.send_in_parts(&batch, ids)?;
            }
            Err(error) => return Err(self.failed(&batch, range, error)),
        }
        self.spare.push(batch);
        Ok(())
    }

    /// Sends a refused batch again until all of it went in: whole at first, then in smaller and smaller parts, as
    /// there is room. Batches behind it may go in first: whoever pushes into a full queue has its jobs in the
    /// order in which room was found for them.
    fn send_in_parts(&mut self, batch: &Batch, ids: &mut IdSink<'_>) -> Result<(), Failure> {
        let (mut start, mut size) = (0, batch.count());
        while start < batch.count() {
            let range = start..(start + size).min(batch.count());
            self.template.encode(batch, range.clone(), &mut self.builder)?;
            match self.client.enqueue(self.queue, &self.builder, self.durability) {
                Ok(applied) => {
                    self.count(batch, range.clone(), &applied, ids);
                    start = range.end;
                    size *= 2;
                }
                Err(error) if self.may_try_again(&error, range.len()) => {
                    self.pause(&error);
                    size = (range.len() / 2).max(1);
                }
                Err(error) => return Err(self.failed(batch, range, error)),
            }
        }
        Ok(())
    }

    /// Waits as long as a refusal asks for, if it does.
    fn pause(&mut self, error: &ClientError) {
        if let ClientError::RetryLater(refusal) = error {
            self.pauses += 1;
            self.progress.waiting(&refusal.text);
            std::thread::sleep(Duration::from_millis(u64::from(refusal.retry_ms.max(1))));
        }
    }

    /// Whether a refused request of `jobs` jobs may pass later, or in smaller parts.
    fn may_try_again(&self, error: &ClientError, jobs: usize) -> bool {
        match error {
            ClientError::RetryLater(_) => !self.fail_when_full,
            ClientError::Refused(refusal) => refusal.code == ErrorCode::BatchTooLarge && jobs > 1,
            _ => false,
        }
    }

    fn count(&mut self, batch: &Batch, range: Range<usize>, applied: &Applied, ids: &mut IdSink<'_>) {
        let count = |code| applied.items.iter().filter(|item| item.code == code).count() as u64;
        let conflicts = count(ErrorCode::KeyConflict);
        let first_conflict = applied
            .items
            .iter()
            .find(|item| item.code == ErrorCode::KeyConflict);
        self.tally.confirmed += range.len() as u64 - conflicts;
        self.tally.duplicates += count(ErrorCode::Duplicate);
        self.tally.conflicts += conflicts;
        self.tally.first_conflict = self.tally.first_conflict.or_else(|| {
            first_conflict.map(|item| batch.first() + range.start as u64 + u64::from(item.position))
        });
        self.tally.level = match (self.tally.level, applied.level) {
            (Some(known), Some(level)) => Some(known.min(level)),
            (known, level) => known.or(level),
        };
        ids(&applied.ids);
    }

    fn failed(&mut self, batch: &Batch, range: Range<usize>, error: ClientError) -> Failure {
        if matches!(error, ClientError::OutcomeUnknown { .. }) {
            self.tally.unknown += range.len() as u64;
        }
        let first = batch.first() + range.start as u64;
        let last = batch.first() + range.end as u64 - 1;
        let jobs = if first == last {
            format!("job {first}")
        } else {
            format!("jobs {first} to {last}")
        };
        Failure::from(error).while_doing(format!("{jobs} of the input"))
    }
}
