//! The client's calls about queues and single jobs, off the way of every job.

use crate::base::job::{JobId, JobState, JobStatus};
use crate::base::limits;
use crate::base::queue::{QueueOptions, QueueStats};
use crate::client::Client;
use crate::client::call::{Answer, Kind};
use crate::client::error::ClientError;
use crate::client::pending::{Applied, applied, body, protocol};
use crate::client::queue::QueueHandle;
use crate::wire::response::{decode_job, decode_jobs, decode_queue_info, decode_queue_list};
use crate::wire::{Op, compose};

/// A page of a listing of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPage {
    /// The jobs, at most as many as asked for; perhaps none, though there are more pages.
    pub jobs: Vec<JobStatus>,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<u64>,
}

impl Client {
    /// Opens a queue by name; makes it with default options when it is missing.
    ///
    /// # Errors
    /// `Refused` for a name that is none; see [`ClientError`]. The same for the other calls about queues, and
    /// `QUEUE_NOT_FOUND` where they need one that exists.
    pub fn queue(&self, name: &str) -> Result<QueueHandle, ClientError> {
        let mut frame = Vec::new();
        compose::queue_open(&mut frame, 0, name);
        self.open(Op::QueueOpen, name, frame)
    }

    /// Makes a queue with options. If it exists with the same options, that is as good.
    ///
    /// # Errors
    /// `QUEUE_EXISTS` when it has other options, `INVALID_ARGUMENT` for options out of their range.
    pub fn create_queue(&self, name: &str, options: &QueueOptions) -> Result<QueueHandle, ClientError> {
        let mut frame = Vec::new();
        compose::queue_create(&mut frame, 0, 0, name, options);
        self.open(Op::QueueCreate, name, frame)
    }

    fn open(&self, op: Op, name: &str, frame: Vec<u8>) -> Result<QueueHandle, ClientError> {
        let (index, shared_name) = self.shared.lock().queues.index_of(name);
        let pending = self.start(op, Kind::Open(index), Vec::new(), frame, |answer| match answer {
            // The queue is there, but its handle was not told.
            Answer::AlreadyApplied => Ok(false),
            answer => body(answer).map(|_| true),
        })?;
        if !pending.wait()? {
            return self.queue(name);
        }
        Ok(QueueHandle {
            index,
            name: shared_name,
            owner: self.shared.session,
        })
    }

    /// A queue's options and counters.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn queue_info(&self, name: &str) -> Result<QueueStats, ClientError> {
        let mut frame = Vec::new();
        compose::queue_info(&mut frame, 0, name);
        self.ask(Op::QueueInfo, frame, |answer| {
            decode_queue_info(&body(answer)?).map_err(protocol)
        })
    }

    /// Up to `limit` queues by name, behind the name `after`, and whether there are more behind them.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn queue_list(&self, after: &str, limit: u32) -> Result<(Vec<QueueStats>, bool), ClientError> {
        let mut frame = Vec::new();
        compose::queue_list(&mut frame, 0, after, limit);
        self.ask(Op::QueueList, frame, |answer| {
            decode_queue_list(&body(answer)?).map_err(protocol)
        })
    }

    /// All queues by name.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn queues(&self) -> Result<Vec<QueueStats>, ClientError> {
        let mut all: Vec<QueueStats> = Vec::new();
        loop {
            let after = all.last().map_or("", |queue| &queue.name);
            let (page, more) = self.queue_list(after, limits::LIST_PAGE_MAX)?;
            let done = page.is_empty() || !more;
            all.extend(page);
            if done {
                return Ok(all);
            }
        }
    }

    /// Stops handing out a queue's jobs.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn pause_queue(&self, name: &str) -> Result<(), ClientError> {
        self.change_queue(Op::QueuePause, name).map(drop)
    }

    /// Hands out a queue's jobs again.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn resume_queue(&self, name: &str) -> Result<(), ClientError> {
        self.change_queue(Op::QueueResume, name).map(drop)
    }

    /// Removes a queue and its jobs.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn delete_queue(&self, name: &str) -> Result<(), ClientError> {
        self.change_queue(Op::QueueDelete, name).map(drop)
    }

    fn change_queue(&self, op: Op, name: &str) -> Result<Applied, ClientError> {
        let mut frame = Vec::new();
        compose::queue_change(&mut frame, 0, op, 0, name);
        self.ask(op, frame, applied)
    }

    /// Cancels all of a queue's jobs in these states, and returns how many. The leased ones' workers lose their
    /// leases.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn purge_queue(&self, name: &str, states: &[JobState]) -> Result<u32, ClientError> {
        let mask = states.iter().fold(0, |mask, state| mask | 1 << (*state as u32));
        let mut frame = Vec::new();
        compose::queue_purge(&mut frame, 0, 0, name, mask);
        self.ask(Op::QueuePurge, frame, applied).map(|done| done.count)
    }

    /// One job's status.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`; see [`ClientError`].
    pub fn job(&self, id: JobId) -> Result<JobStatus, ClientError> {
        let mut frame = Vec::new();
        compose::job_get(&mut frame, 0, id);
        self.ask(Op::JobGet, frame, |answer| {
            decode_job(&body(answer)?).map_err(protocol)
        })
    }

    /// A page of a queue's jobs, in one state or in any. Begin with cursor 0.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn job_list(
        &self,
        queue: &str,
        state: Option<JobState>,
        cursor: u64,
        limit: u32,
    ) -> Result<JobPage, ClientError> {
        let mut frame = Vec::new();
        compose::job_list(&mut frame, 0, queue, state, cursor, limit);
        self.ask(Op::JobList, frame, |answer| {
            let (jobs, next) = decode_jobs(&body(answer)?).map_err(protocol)?;
            Ok(JobPage {
                jobs,
                next: (next != 0).then_some(next),
            })
        })
    }

    /// The next jobs with their payloads, without taking them.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn peek(&self, queue: &str, limit: u32) -> Result<Vec<JobStatus>, ClientError> {
        let mut frame = Vec::new();
        compose::job_peek(&mut frame, 0, queue, limit);
        self.ask(Op::JobPeek, frame, |answer| {
            Ok(decode_jobs(&body(answer)?).map_err(protocol)?.0)
        })
    }

    /// Cancels jobs by id; `items` lists those that could not be.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn cancel(&self, ids: &[JobId]) -> Result<Applied, ClientError> {
        let mut frame = Vec::new();
        compose::job_cancel(&mut frame, 0, 0, ids);
        self.ask(Op::JobCancel, frame, applied)
    }

    /// Brings dead jobs back by id; `items` lists those that could not be.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn redrive(&self, queue: &str, ids: &[JobId]) -> Result<Applied, ClientError> {
        if ids.is_empty() {
            // On the wire no ids mean all; a caller with an empty list means none.
            return Ok(Applied::default());
        }
        self.redrive_request(queue, ids, 0)
    }

    /// Brings up to `limit` dead jobs of a queue back, 0 for all, and returns how many.
    ///
    /// # Errors
    /// As [`queue`](Self::queue).
    pub fn redrive_all(&self, queue: &str, limit: u32) -> Result<u32, ClientError> {
        self.redrive_request(queue, &[], limit).map(|done| done.count)
    }

    fn redrive_request(&self, queue: &str, ids: &[JobId], limit: u32) -> Result<Applied, ClientError> {
        let mut frame = Vec::new();
        compose::job_redrive(&mut frame, 0, 0, queue, ids, limit);
        self.ask(Op::JobRedrive, frame, applied)
    }

    fn ask<T>(
        &self,
        op: Op,
        frame: Vec<u8>,
        read: fn(Answer) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        self.start(op, Kind::Plain, Vec::new(), frame, read)?.wait()
    }
}
