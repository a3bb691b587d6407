//! Takes jobs from the server: as many as can be run now, and a few more if asked.

use super::Work;
use super::board::{Board, Stop};
use super::settle::{is_passing, release};
use crate::base::limits::{PAYLOAD_BYTES_MAX, RESERVE_JOBS_MAX};
use crate::cli::exit::Failure;
use crate::cli::output;
use crate::client::{Client, ClientError, Delivery, QueueHandle, Reserve};
use std::time::Duration;

/// How long one reserve waits for a job. A stop is noticed after at most this.
const WAIT: Duration = Duration::from_millis(500);
/// The same when the worker wants to know whether the queue is empty.
const WAIT_UNTIL_EMPTY: Duration = Duration::from_millis(50);
/// Pause before the next try when no server was there.
const PAUSE: Duration = Duration::from_millis(200);

/// Why no more jobs are taken.
enum End {
    /// The worker was told to stop.
    Stopped,
    /// Enough attempts were made, or the queue is empty: what is there already is still run.
    Done,
}

/// The taking of jobs.
pub(super) struct Fetcher<'a> {
    client: &'a Client,
    queue: &'a QueueHandle,
    board: &'a Board,
    /// Most runs that wait or run.
    runs_max: usize,
    /// Most jobs of one run.
    batch: usize,
    lease_ms: u32,
    until_empty: bool,
    /// Attempts that may still be made.
    attempts_left: u64,
    /// Whether the last try met no server.
    is_away: bool,
}

impl<'a> Fetcher<'a> {
    /// As the arguments say.
    pub(super) fn new(client: &'a Client, queue: &'a QueueHandle, board: &'a Board, work: &Work) -> Self {
        Self {
            client,
            queue,
            board,
            runs_max: work.jobs + work.prefetch,
            batch: work.batch.unwrap_or(1),
            lease_ms: work.lease,
            until_empty: work.until_empty,
            attempts_left: work.max_jobs.unwrap_or(u64::MAX),
            is_away: false,
        }
    }

    /// Takes jobs until there is a reason not to. Jobs that wait to be run when the worker is stopped are given
    /// back at once, while others may still run.
    pub(super) fn run(mut self) {
        match self.take_all() {
            Ok(End::Done) => self.board.close(),
            Ok(End::Stopped) => release(self.client, self.board, &self.board.take_waiting()),
            Err(error) => self.board.fail(Failure::from(error)),
        }
    }

    fn take_all(&mut self) -> Result<End, ClientError> {
        let mut empty_looks = 0;
        while self.attempts_left > 0 {
            let Some(runs) = self.board.wait_for_room(self.runs_max) else {
                return Ok(End::Stopped);
            };
            let jobs = match self.reserve(runs) {
                Ok(jobs) => jobs,
                Err(error) if is_passing(&error) => {
                    self.wait_out(&error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.is_away = false;
            if !jobs.is_empty() {
                empty_looks = 0;
                self.share_out(jobs);
            } else if self.until_empty {
                // Counters are read one by one while jobs move between them, so one look could miss a job.
                empty_looks = if self.is_empty() { empty_looks + 1 } else { 0 };
                if empty_looks == 2 {
                    break;
                }
            }
        }
        Ok(if self.board.stopping() == Stop::No {
            End::Done
        } else {
            End::Stopped
        })
    }

    fn reserve(&self, runs: usize) -> Result<Vec<Delivery>, ClientError> {
        // Single jobs fill all the room at once. A batch is taken for one run at a time: jobs that were tried
        // before are run alone, so how many runs a reserve fills is known only afterwards.
        let wanted = if self.batch == 1 { runs } else { self.batch };
        let wanted = wanted.min(RESERVE_JOBS_MAX) as u64;
        self.client.reserve(
            &[self.queue],
            Reserve {
                max_jobs: wanted.min(self.attempts_left) as u32,
                wait: if self.until_empty { WAIT_UNTIL_EMPTY } else { WAIT },
                lease_ms: self.lease_ms,
                max_bytes: PAYLOAD_BYTES_MAX,
            },
        )
    }

    /// Makes runs of what came.
    fn share_out(&mut self, jobs: Vec<Delivery>) {
        self.attempts_left -= (jobs.len() as u64).min(self.attempts_left);
        let lease_ms = jobs.iter().map(Delivery::lease_ms).min().unwrap_or(0);
        let lease = Duration::from_millis(u64::from(lease_ms));
        let mut batch = Vec::new();
        for job in jobs {
            if self.batch == 1 || job.attempts() > 1 {
                self.board.add(vec![job], lease);
                continue;
            }
            batch.push(job);
            if batch.len() == self.batch {
                self.board.add(std::mem::take(&mut batch), lease);
            }
        }
        if !batch.is_empty() {
            self.board.add(batch, lease);
        }
    }

    /// Whether nothing is ready, scheduled or leased.
    fn is_empty(&mut self) -> bool {
        match self.client.queue_info(self.queue.name()) {
            Ok(stats) => stats.counts.ready + stats.counts.scheduled + stats.counts.leased == 0,
            Err(error) => {
                self.wait_out(&error);
                false
            }
        }
    }

    fn wait_out(&mut self, error: &ClientError) {
        if !self.is_away {
            output::note(&format!("{error}; trying again until there is an answer"));
        }
        self.is_away = true;
        self.board.pause(PAUSE);
    }
}
