//! Looking without touching: status of jobs, listings, peeks, numbers of queues.

use super::deliver::BodyReader;
use super::journal;
use super::queue::{Queue, QueueId};
use super::settle::wait_a_little;
use super::slot::{Fields, Slot};
use super::word::{Phase, RESULT, StateWord, VOLATILE, id_of};
use super::{Engine, QueueOptions};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, JobState, JobStatus};
use crate::base::limits::{LIST_PAGE_MAX, NOTE_BYTES_MAX, PRIORITIES};
use crate::base::queue::QueueStats;
use crate::log::LogPosition;

/// Slots that one page of a listing looks at.
const SCAN_SLOTS: u32 = 256 * 1024;

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs, in no particular order.
    pub jobs: Vec<JobStatus>,
    /// Where the next page begins; 0 when this was the last. A page may be empty and still not be the last.
    pub next_cursor: u64,
}

impl Engine {
    /// What is known of a job; finished ones for as long as their queue keeps them.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`; `IN_PROGRESS` while somebody takes long to change it.
    pub fn job(&self, id: JobId) -> Result<JobStatus, Refusal> {
        let mut changes = false;
        let status = self.slab.get(id.slot()).and_then(|slot| {
            let found = stable(slot);
            // Whoever changes it may wait for the disk, when the log goes on to its next segment.
            changes = found.is_none();
            let (word, fields) = found?;
            // Of a deleted queue there may for a moment be jobs that were ending when it was deleted.
            self.registry.live(QueueId(fields.queue)).ok()?;
            (word.generation() == id.generation())
                .then(|| self.status(id.slot(), slot, word, &fields, false))?
        });
        if changes {
            let text = format!("job {id} is being changed at this moment; ask again");
            return Err(Refusal::new(ErrorCode::InProgress, text));
        }
        status.ok_or_else(|| {
            Refusal::new(
                ErrorCode::JobNotFound,
                format!("there is no job {id}, or it ended and is no longer kept"),
            )
        })
    }

    /// Jobs of a queue, in one state or in any, a page at a time: begin with cursor 0, go on with what the page
    /// says.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn list_jobs(
        &self,
        queue: QueueId,
        state: Option<JobState>,
        cursor: u64,
        limit: u32,
    ) -> Result<JobPage, Refusal> {
        let queue = self.registry.live(queue)?;
        let limit = limit.clamp(1, LIST_PAGE_MAX) as usize;
        let end = u64::from(self.slab.fresh_from());
        let stop = end.min(cursor.saturating_add(u64::from(SCAN_SLOTS)));
        let mut page = JobPage::default();
        let mut at = cursor;
        while at < stop && page.jobs.len() < limit {
            let number = at as u32;
            at += 1;
            let slot = self.slab.slot(number);
            if slot.queue() != queue.id.0 || slot.state().phase() == Phase::Free {
                continue;
            }
            let Some((word, fields)) = stable(slot) else {
                continue;
            };
            let wanted = state.is_none_or(|state| word.phase() == Phase::from(state));
            if wanted && fields.queue == queue.id.0 {
                page.jobs.extend(self.status(number, slot, word, &fields, false));
            }
        }
        page.next_cursor = if at < end { at } else { 0 };
        Ok(page)
    }

    /// The jobs that would be handed out next, with their payloads, without taking them.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn peek(&self, queue: QueueId, limit: u32) -> Result<Vec<JobStatus>, Refusal> {
        self.peek_within(queue, limit, usize::MAX)
    }

    /// As [`peek`](Self::peek), but no further job once those that were read have `bytes_max` bytes of payload,
    /// metadata and notes.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn peek_within(
        &self,
        queue: QueueId,
        limit: u32,
        bytes_max: usize,
    ) -> Result<Vec<JobStatus>, Refusal> {
        let queue = self.registry.live(queue)?;
        let limit = limit.clamp(1, LIST_PAGE_MAX) as usize;
        let mut handles = vec![0; limit];
        let mut jobs: Vec<JobStatus> = Vec::new();
        let mut bytes = 0;
        for priority in (0..PRIORITIES).rev() {
            let seen = queue.peek_ready(&self.pool, priority as u8, &mut handles);
            for number in &handles[..seen] {
                let slot = self.slab.slot(*number);
                if let Some((word, fields)) = stable(slot)
                    && word.phase() == Phase::Ready
                    && jobs.len() < limit
                    && bytes < bytes_max
                {
                    let status = self.status(*number, slot, word, &fields, true);
                    bytes += status.as_ref().map_or(0, status_bytes);
                    jobs.extend(status);
                }
            }
        }
        Ok(jobs)
    }

    /// The numbers of one queue.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn queue_stats(&self, queue: QueueId) -> Result<QueueStats, Refusal> {
        self.registry.live(queue).map(stats)
    }

    /// The numbers of up to `limit` queues whose names come after `after`, by name.
    pub fn queue_list(&self, after: &str, limit: u32) -> Vec<QueueStats> {
        self.registry
            .page(after, limit.clamp(1, LIST_PAGE_MAX) as usize)
            .into_iter()
            .map(stats)
            .collect()
    }

    /// The options of a queue.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn queue_options(&self, queue: QueueId) -> Result<&QueueOptions, Refusal> {
        self.registry.live(queue).map(|queue| &queue.options)
    }

    /// Whether nothing can be handed out of any of these queues right now.
    pub fn looks_empty(&self, queues: &[QueueId]) -> bool {
        queues
            .iter()
            .filter_map(|queue| self.registry.get(*queue))
            .all(|queue| queue.looks_empty(&self.pool))
    }

    fn status(
        &self,
        number: u32,
        slot: Slot<'_>,
        word: StateWord,
        fields: &Fields,
        with_payload: bool,
    ) -> Option<JobStatus> {
        let state = word.phase().public()?;
        let queue = self.registry.get(QueueId(fields.queue))?;
        let volatile = word.has(VOLATILE);
        let (mut meta, mut payload) = (Vec::new(), Vec::new());
        if !state.is_finished() {
            BodyReader::new(self).read(volatile, slot, fields, |body| {
                let (head, rest) = body.split_at(usize::from(fields.meta_len));
                meta = head.to_vec();
                if with_payload {
                    payload = rest.to_vec();
                }
            });
        }
        let (last_error, result) = self.notes(volatile, fields.note, word.has(RESULT));
        // What was copied belongs to this job only if the job is still the slot's.
        (slot.state().generation() == word.generation()).then(|| JobStatus {
            id: id_of(number, word),
            queue: queue.name.clone(),
            state,
            priority: fields.priority,
            attempts: fields.attempts(word.attempt()),
            max_attempts: fields.max_attempts(),
            deliveries: word.attempt(),
            failures: fields.failures,
            expiries: fields.expiries,
            enqueued_ms: fields.enqueued_ms,
            at_ms: fields.at_ms,
            expires_ms: fields.expires_ms,
            payload_bytes: fields.payload_len,
            meta,
            payload,
            last_error,
            result,
        })
    }

    /// The last error text and the result that stand at `note`.
    pub(super) fn notes(
        &self,
        volatile: bool,
        note: LogPosition,
        is_result: bool,
    ) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
        let Some(text) = self.note_at(volatile, note) else {
            return (None, None);
        };
        if !is_result {
            return (Some(text), None);
        }
        let prior_at = note.plus(journal::note_len(&text, false) as u32);
        let prior = self.log(volatile).pin(prior_at).and_then(|pin| {
            let bytes = pin.bytes(prior_at, 8)?;
            Some(LogPosition::from_raw(u64::from_le_bytes(bytes.try_into().ok()?)))
        });
        (prior.and_then(|prior| self.note_at(volatile, prior)), Some(text))
    }

    fn note_at(&self, volatile: bool, note: LogPosition) -> Option<Vec<u8>> {
        if note.is_none() {
            return None;
        }
        let pin = self.log(volatile).pin(note)?;
        let len = u32::from_le_bytes(pin.bytes(note, 4)?.try_into().ok()?);
        // A segment used again holds something else here: a length beyond all bounds is not a note's.
        if len > NOTE_BYTES_MAX {
            return None;
        }
        pin.bytes(note.plus(4), len as usize).map(<[u8]>::to_vec)
    }
}

/// Bytes of a status that are as long as the job's owner made them.
fn status_bytes(job: &JobStatus) -> usize {
    let note = |note: &Option<Vec<u8>>| note.as_ref().map_or(0, Vec::len);
    job.payload.len() + job.meta.len() + note(&job.last_error) + note(&job.result)
}

/// State and fields that belong together, waiting out short changes; `None` where a change takes too long.
fn stable(slot: Slot<'_>) -> Option<(StateWord, Fields)> {
    let mut looks = 0;
    while looks < 10_000 {
        if let Some(found) = slot.snapshot() {
            return Some(found);
        }
        wait_a_little(&mut looks);
    }
    None
}

fn stats(queue: &Queue) -> QueueStats {
    QueueStats {
        name: queue.name.clone(),
        paused: queue.is_paused(),
        options: queue.options.clone(),
        counts: queue.counts(),
    }
}
