//! What an engine must do, in the plainest way: one list of jobs, looked through from end to end each time.

use ackring::{JobId, JobState, QueueOptions, Token, Verb};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    pub queue: usize,
    pub priority: u8,
    pub payload: Vec<u8>,
    pub meta: Vec<u8>,
    pub state: JobState,
    pub attempt: u16,
    pub limit: u16,
    pub releases: u16,
    pub failures: u16,
    pub expiries: u16,
    pub expires_ms: u64,
    pub at_ms: u64,
    /// The lease deadline that the log knows, where a disconnect made it shorter.
    pub logged_at_ms: u64,
    pub lease_ms: u32,
    pub volatile: bool,
    pub delayed: bool,
    /// Place among all jobs ever accepted.
    pub order: u64,
    pub last_error: Option<Vec<u8>>,
    pub result: Option<Vec<u8>>,
}

impl Job {
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.meta.len()) as u64
    }

    pub fn is_live(&self) -> bool {
        !self.state.is_finished()
    }
}

#[derive(Debug, Clone)]
pub struct KeyUse {
    pub id: JobId,
    pub body: (Vec<u8>, Vec<u8>),
    pub expires_ms: u64,
    pub volatile: bool,
    /// When it came, as entries of the history are counted.
    pub op: u64,
    /// A power cut may have taken it away.
    pub is_uncertain: bool,
}

#[derive(Debug, Clone)]
pub struct QueueModel {
    pub name: String,
    pub options: QueueOptions,
    pub paused: bool,
    pub keys: BTreeMap<Vec<u8>, KeyUse>,
    /// Place of the last job handed out for the first time, by level: of those that came at once, and of those
    /// that were delayed (by the tick they were due, then by place).
    pub first_out: BTreeMap<u8, u64>,
    pub first_out_delayed: BTreeMap<u8, (u64, u64)>,
}

/// What became of one settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Done,
    Before,
    LeaseLost,
    JobNotFound,
}

#[derive(Debug, Default)]
pub struct Model {
    pub queues: Vec<QueueModel>,
    /// Jobs that are not over, and those that are as long as the engine may still know them.
    pub jobs: BTreeMap<JobId, Job>,
    pub ids_ever: BTreeSet<JobId>,
    pub order: u64,
}

impl Model {
    pub fn live(&self, queue: usize) -> impl Iterator<Item = &Job> {
        self.jobs
            .values()
            .filter(move |job| job.queue == queue && job.is_live())
    }

    pub fn count(&self, queue: usize, state: JobState) -> u64 {
        self.live(queue).filter(|job| job.state == state).count() as u64
    }

    pub fn accept(&mut self, mut job: Job) {
        assert!(self.ids_ever.insert(job.id), "{} was given out before", job.id);
        self.order += 1;
        job.order = self.order;
        self.jobs.insert(job.id, job);
    }

    /// Time has come to `now_ms` and the timers have run.
    pub fn timers(&mut self, now_ms: u64) {
        for job in self.jobs.values_mut() {
            if job.state == JobState::Leased && job.at_ms <= now_ms {
                job.expiries += 1;
                retry(job, &self.queues[job.queue].options, None, now_ms);
            } else if job.state == JobState::Scheduled && job.at_ms <= now_ms {
                job.state = JobState::Ready;
            }
            let waits = matches!(job.state, JobState::Ready | JobState::Scheduled);
            if waits && job.expires_ms != 0 && job.expires_ms <= now_ms {
                job.state = JobState::Expired;
            }
        }
    }

    /// A delivery came out of the engine: was it right?
    pub fn deliver(&mut self, token: Token, lease_ms: u32, asked_lease_ms: u32, now_ms: u64) {
        let job = self
            .jobs
            .get_mut(&token.id)
            .expect("a job that is not there was handed out");
        let queue = &mut self.queues[job.queue];
        assert_eq!(job.state, JobState::Ready, "{} was handed out", job.id);
        assert!(!queue.paused, "handed out of a paused queue");
        assert!(
            job.expires_ms == 0 || job.expires_ms > now_ms,
            "{} was handed out after its TTL",
            job.id
        );
        assert_eq!(token.attempt, job.attempt + 1, "attempt of {}", job.id);
        if job.attempt == 0 && job.delayed {
            let place = (job.at_ms.div_ceil(10), job.order);
            let last = queue.first_out_delayed.entry(job.priority).or_default();
            assert!(
                *last < place,
                "{} (delayed) came out of order: {last:?} before {place:?}",
                job.id
            );
            *last = place;
        } else if job.attempt == 0 {
            let last = queue.first_out.entry(job.priority).or_default();
            assert!(
                *last < job.order,
                "{} came out of order: {last} before {}",
                job.id,
                job.order
            );
            *last = job.order;
        }
        job.attempt = token.attempt;
        job.state = JobState::Leased;
        let expected_ms = match (asked_lease_ms, job.lease_ms) {
            (0, 0) => queue.options.lease_ms,
            (0, own) => own,
            (asked, _) => asked,
        };
        assert_eq!(lease_ms, expected_ms);
        job.at_ms = now_ms + u64::from(lease_ms);
        job.logged_at_ms = job.at_ms;
    }

    /// What a settlement comes to, `held` being the jobs that this batch has settled before it, and how.
    pub fn judge(&self, token: Token, verb: Verb, held: &BTreeMap<JobId, Verb>, is_known: bool) -> Settled {
        let ack_or_lost = if verb == Verb::Ack {
            Settled::Before
        } else {
            Settled::LeaseLost
        };
        match self.jobs.get(&token.id) {
            Some(job) if job.is_live() && job.attempt == token.attempt && held.contains_key(&token.id) => {
                if held[&token.id] == Verb::Ack {
                    ack_or_lost
                } else {
                    Settled::LeaseLost
                }
            }
            Some(job) if job.state == JobState::Leased && job.attempt == token.attempt => Settled::Done,
            Some(job) if job.is_live() => Settled::LeaseLost,
            Some(job) if is_known && job.state == JobState::Done && job.attempt == token.attempt => {
                ack_or_lost
            }
            Some(_) if is_known => Settled::LeaseLost,
            _ => Settled::JobNotFound,
        }
    }

    pub fn settle(&mut self, token: Token, verb: Verb, arg: Option<u64>, note: Option<&[u8]>, now_ms: u64) {
        let job = self.jobs.get_mut(&token.id).unwrap();
        let options = &self.queues[job.queue].options;
        match verb {
            Verb::Ack => {
                job.state = JobState::Done;
                job.result = note.map(<[u8]>::to_vec);
            }
            Verb::Nack | Verb::Reject => {
                job.failures += 1;
                if let Some(note) = note {
                    job.last_error = Some(note.to_vec());
                }
                if verb == Verb::Reject {
                    job.state = JobState::Dead;
                } else {
                    retry(job, options, arg, now_ms);
                }
            }
            Verb::Release => {
                job.releases += 1;
                job.limit += 1;
                job.state = if job.expires_ms != 0 && job.expires_ms <= now_ms {
                    JobState::Expired
                } else {
                    JobState::Ready
                };
            }
            Verb::Extend => {
                let lease_ms = match (arg.unwrap_or(0), job.lease_ms) {
                    (0, 0) => u64::from(options.lease_ms),
                    (0, own) => u64::from(own),
                    (asked, _) => asked,
                };
                job.at_ms = now_ms + lease_ms;
                job.logged_at_ms = job.at_ms;
            }
        }
    }

    pub fn redrive(&mut self, id: JobId) {
        let job = self.jobs.get_mut(&id).unwrap();
        let usual = self.queues[job.queue].options.max_attempts;
        let own = job.limit.saturating_sub(job.releases);
        job.limit = job.attempt + own.min(usual).max(1);
        job.expires_ms = 0;
        job.state = JobState::Ready;
    }

    /// A key was found, whatever a power cut may have done.
    pub fn key_is_there(&mut self, queue: usize, key: &[u8]) {
        if let Some(known) = self.queues[queue].keys.get_mut(key) {
            known.is_uncertain = false;
        }
    }

    /// The process died and came back; `time_of` is what it says of a job then.
    pub fn crash(&mut self, now_ms: u64, time_of: impl Fn(JobId) -> Option<u64>) {
        self.jobs.retain(|_, job| !job.volatile);
        for job in self.jobs.values_mut() {
            // A deadline that was cut is not logged, but a copy of the job tells it. No other time will do.
            if job.state == JobState::Leased && time_of(job.id) == Some(job.at_ms) {
                job.logged_at_ms = job.at_ms;
            } else if job.state == JobState::Leased {
                job.at_ms = job.logged_at_ms;
            }
            if job.state == JobState::Scheduled && job.at_ms <= now_ms {
                job.state = JobState::Ready;
            }
        }
        for queue in &mut self.queues {
            queue.keys.retain(|_, known| !known.volatile);
        }
    }
}

fn retry(job: &mut Job, options: &QueueOptions, delay_ms: Option<u64>, now_ms: u64) {
    let ackring::Backoff::List(list) = &options.backoff else {
        unreachable!("the model knows lists only")
    };
    let failed = usize::from(job.failures + job.expiries);
    let delay_ms = delay_ms.unwrap_or_else(|| u64::from(list[(failed - 1).min(list.len() - 1)]));
    job.state = if job.attempt >= job.limit {
        JobState::Dead
    } else if job.expires_ms != 0 && job.expires_ms <= now_ms {
        JobState::Expired
    } else if delay_ms == 0 {
        JobState::Ready
    } else {
        job.at_ms = now_ms + delay_ms;
        JobState::Scheduled
    };
}
