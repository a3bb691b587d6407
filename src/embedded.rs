//! The engine linked into a program: no server, no socket, the same semantics.
//!
//! [`Engine`] wraps [`engine::Engine`](crate::engine::Engine) with a clock, the background threads that it needs,
//! and calls that block. Ten lines are a queue that survives a restart:
//!
//! ```
//! use std::time::Duration;
//! # let directory = std::env::temp_dir().join(format!("ackring-doc-{}", std::process::id()));
//! let engine = ackring::Engine::open(&directory)?;
//! let mail = engine.queue("mail")?;
//! mail.enqueue(b"to: ada")?;
//! drop((mail, engine)); // or kill -9
//!
//! let engine = ackring::Engine::open(&directory)?;
//! let mail = engine.queue("mail")?;
//! let job = mail.reserve(Duration::from_secs(1))?.ok_or("nothing there")?;
//! assert_eq!(job.payload(), b"to: ada");
//! job.ack()?;
//! # drop((mail, engine));
//! # std::fs::remove_dir_all(&directory)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, JobStatus, Token};
use crate::base::limits;
use crate::base::queue::{Durability, QueueOptions, QueueStats};
use crate::clock::Clock;
use crate::engine::{
    self, Confirmed, DeliveryHead, DeliverySink, EngineConfig, EnqueueReply, QueueId, RecoverySummary,
    RequestId,
};
use crate::log::OpenError;
use parking_lot::{Condvar, Mutex};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bit of a queue's waiting mask that stands for blocked threads of this process; reactors use the lower ones.
const BLOCKED_BIT: u32 = 63;
/// Deadlines handled in one go by the timer thread.
const TIMER_BUDGET: usize = 4_096;

/// What the background threads and every handle share.
struct Shared {
    engine: engine::Engine,
    clock: Clock,
    stopping: AtomicBool,
    /// Goes up whenever jobs became ready in a queue that somebody waits for.
    wakes: Arc<Wakes>,
}

#[derive(Default)]
struct Wakes {
    count: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

impl Wakes {
    fn wake(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        // Taking the lock orders this wake behind the sleeper's last look at the count.
        drop(self.lock.lock());
        self.changed.notify_all();
    }

    /// Sleeps until the count has moved on from `seen` or the time is over.
    fn sleep(&self, seen: u64, timeout: Duration) {
        let mut guard = self.lock.lock();
        if self.count.load(Ordering::SeqCst) == seen {
            self.changed.wait_for(&mut guard, timeout);
        }
    }
}

/// A job queue engine in this process. Cheap to share: put it into an `Arc`, or hand out [`Queue`]s.
///
/// Dropping it stops the background threads, refuses further calls through its [`Queue`]s, and syncs the log; the
/// directory is free again once its [`Queue`]s and [`Job`]s are dropped too.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    summary: RecoverySummary,
}

impl Engine {
    /// Opens an engine over a directory, which is made if it is not there, and brings back every job in it.
    ///
    /// # Errors
    /// The directory is in use by another engine, cannot be read, is of a newer format, or is damaged.
    pub fn open(directory: impl AsRef<Path>) -> Result<Engine, OpenError> {
        let directory = Some(directory.as_ref().to_owned());
        Self::with(EngineConfig {
            directory,
            ..EngineConfig::default()
        })
    }

    /// Opens an engine that keeps everything in memory only.
    ///
    /// # Errors
    /// The memory cannot be had.
    pub fn in_memory() -> Result<Engine, OpenError> {
        Self::with(EngineConfig::default())
    }

    /// Opens an engine with every setting given.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a setting out of its range.
    pub fn with(config: EngineConfig) -> Result<Engine, OpenError> {
        let clock = Clock::start();
        let (engine, summary) = engine::Engine::open(config, clock.now_ms())?;
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes);
        engine.set_waker(Arc::new(move |_, _, _| waker.wake()));
        let shared = Arc::new(Shared {
            engine,
            clock,
            stopping: AtomicBool::new(false),
            wakes,
        });
        let agents: [(&str, fn(&Shared)); 2] = [("ackring-timer", run_timer), ("ackring-log", run_log)];
        let threads = agents
            .into_iter()
            .filter_map(|(name, run)| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(name.into())
                    .spawn(move || run(&shared))
                    .ok()
            })
            .collect();
        Ok(Engine {
            shared,
            threads,
            summary,
        })
    }

    /// What came back from the log at opening.
    pub fn recovered(&self) -> &RecoverySummary {
        &self.summary
    }

    /// The queue of that name, made with default options if there is none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a name that is none, `LIMIT_REACHED`, or what the log says.
    pub fn queue(&self, name: &str) -> Result<Queue, Refusal> {
        let id = self.shared.engine.open_queue(name, self.shared.clock.now_ms())?;
        Ok(Queue {
            shared: Arc::clone(&self.shared),
            id,
        })
    }

    /// Makes a queue with these options.
    ///
    /// # Errors
    /// As [`queue`](Self::queue), and `QUEUE_EXISTS` where it has other options.
    pub fn create_queue(&self, name: &str, options: &QueueOptions) -> Result<Queue, Refusal> {
        let now_ms = self.shared.clock.now_ms();
        let (id, confirmed) = self
            .shared
            .engine
            .create_queue(name, options, RequestId::NONE, now_ms)?;
        self.shared.wait(confirmed)?;
        Ok(Queue {
            shared: Arc::clone(&self.shared),
            id,
        })
    }

    /// The status of a job; finished ones for as long as their queue keeps them.
    ///
    /// # Errors
    /// `JOB_NOT_FOUND`.
    pub fn job(&self, id: JobId) -> Result<JobStatus, Refusal> {
        self.shared.engine.job(id)
    }

    /// Makes everything confirmed so far durable.
    ///
    /// # Errors
    /// `LOG_POISONED` when the disk failed.
    pub fn sync(&self) -> Result<(), Refusal> {
        self.shared.engine.sync().map(|_| ())
    }

    /// The engine underneath, for calls that this front does not wrap; it wants the time with every call.
    pub fn core(&self) -> &engine::Engine {
        &self.shared.engine
    }

    /// The time as this engine sees it, in milliseconds since the Unix epoch; never steps back.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.now_ms()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wakes.wake();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            // A thread that panicked has said so on stderr; there is nothing to add here.
            let _ = thread.join();
        }
        // A log that failed was reported to whoever waited for it; drop has nobody to tell.
        let _ = self.shared.engine.close();
    }
}

fn run_timer(shared: &Shared) {
    while !shared.stopping.load(Ordering::Acquire) {
        if shared.engine.timer_step(shared.clock.now_ms(), TIMER_BUDGET) < TIMER_BUDGET {
            std::thread::park_timeout(Duration::from_millis(limits::TICK_MS));
        }
    }
}

fn run_log(shared: &Shared) {
    while !shared.stopping.load(Ordering::Acquire) {
        if shared.engine.log_step(shared.clock.now_ms(), 16) == 0 {
            std::thread::park_timeout(Duration::from_millis(limits::LOG_STEP_MS));
        }
    }
}

impl Shared {
    /// Waits for what a confirmation promises.
    fn wait(&self, confirmed: Confirmed) -> Result<Durability, Refusal> {
        match confirmed.position {
            Some(position) if confirmed.level == Durability::Synced => self.engine.sync_to(position)?,
            _ => {}
        }
        Ok(confirmed.level)
    }

    fn settle(&self, build: impl FnOnce(&mut SettleBuilder)) -> Result<Option<ItemError>, Refusal> {
        let mut builder = SettleBuilder::new();
        build(&mut builder);
        let mut bytes = Vec::with_capacity(builder.len());
        builder.write_to(&mut bytes);
        let batch = SettleBatch::parse(builder.count(), &bytes)?;
        let mut items = Vec::new();
        let confirmed = self
            .engine
            .settle(&batch, RequestId::NONE, self.clock.now_ms(), &mut items)?;
        self.wait(confirmed)?;
        Ok(items.first().copied())
    }
}

/// One queue of an [`Engine`]. Can be cloned and sent to other threads.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    id: QueueId,
}

impl Queue {
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
        let until_ms = shared.clock.now_ms() + wait.as_millis() as u64;
        let mut found = Jobs {
            shared,
            jobs: Vec::new(),
        };
        loop {
            let seen = shared.wakes.count.load(Ordering::SeqCst);
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

    /// The queue's number, for [`Engine::core`].
    pub fn id(&self) -> QueueId {
        self.id
    }
}

struct Jobs<'a> {
    shared: &'a Arc<Shared>,
    jobs: Vec<Job>,
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
