//! The engine linked into a program: no server, no socket, the same semantics.
//!
//! [`Engine`] wraps [`engine::Engine`] with a clock, the background threads that it needs,
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

mod job;
mod queue;
#[doc(hidden)]
pub mod wakes;

pub use job::Job;
pub use queue::Queue;

use crate::base::batch::{SettleBatch, SettleBuilder};
use crate::base::code::{ItemError, Refusal};
use crate::base::job::{JobId, JobStatus};
use crate::base::limits;
use crate::base::queue::{Durability, QueueOptions};
use crate::clock::Clock;
use crate::engine::{self, Confirmed, EngineConfig, RecoverySummary, RequestId};
use crate::log::OpenError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use wakes::Wakes;

/// Deadlines handled in one go by the timer thread.
const TIMER_BUDGET: usize = 4_096;

/// What the background threads and every handle share.
pub(in crate::embedded) struct Shared {
    engine: engine::Engine,
    clock: Clock,
    stopping: AtomicBool,
    wakes: Arc<Wakes>,
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
        let clock = clock.not_before(engine.opened_ms());
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes);
        engine.set_waker(Arc::new(move |_, _, _| waker.wake()));
        let shared = Arc::new(Shared {
            engine,
            clock,
            stopping: AtomicBool::new(false),
            wakes,
        });
        let threads = vec![
            spawn("ackring-timer", &shared, run_timer)?,
            spawn("ackring-log", &shared, run_log)?,
        ];
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
        Ok(Queue::new(Arc::clone(&self.shared), id))
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
        Ok(Queue::new(Arc::clone(&self.shared), id))
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
        let _ = self.shared.engine.close(self.shared.clock.now_ms());
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: fn(&Shared)) -> Result<JoinHandle<()>, OpenError> {
    let shared = Arc::clone(shared);
    let builder = std::thread::Builder::new().name(name.into());
    builder
        .spawn(move || run(&shared))
        .map_err(|error| OpenError::Config(format!("cannot start the thread {name}: {error}")))
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
