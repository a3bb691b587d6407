//! The queue engine: what happens to jobs, for embedded and networked users alike.
//!
//! Nothing here reads a clock, sleeps or starts a thread: the time is an argument, and the background work is two
//! agents, [`Engine::timer_step`] and [`Engine::log_step`], that the owner calls. Every call takes `&self` and
//! may come from any thread.
//!
//! ```text
//!  enqueue ──► scheduled ──due──► ready ──reserve──► leased ──ack──► done
//!                 ▲                 ▲                  │ │ └─cancel─► cancelled
//!                 └────backoff──────┼──nack / expiry───┘ │
//!                                   └──redrive── dead ◄──┘ attempts used up, or rejected
//! ```
//!
//! A change of a job goes through three steps, always in this order: *take* (its state word by CAS to Busy; see also `gate`),
//! *log* (for a batch at once), *publish* (the new state, then its handle where it belongs). So a job's records
//! stand in the log in the order in which things happened, and nobody sees a change that is not in the log.

mod admin;
mod admit;
mod anchoring;
mod bulk;
mod carry;
mod census;
mod change;
mod codec;
mod config;
mod copy;
#[doc(hidden)]
pub mod counters;
mod dedupe;
mod definitions;
mod deliver;
mod enqueue;
mod examine;
mod expire;
mod finish;
mod forget;
#[doc(hidden)]
pub mod gate;
mod generations;
pub mod journal;
mod loss;
mod loss_report;
#[doc(hidden)]
pub mod moved;
mod open;
mod pending_key;
mod places;
mod purged;
#[doc(hidden)]
pub mod queue;
mod reclaim;
mod recover;
mod registry;
mod remains;
mod replay;
mod reserve;
mod restore;
mod retry;
mod session;
mod settle;
pub mod slab;
pub mod slot;
mod status;
mod step;
mod stragglers;
mod strays;
mod sweep;
mod tally;
mod timer;
mod together;
mod told;
pub mod transition;
pub mod word;
#[doc(hidden)]
pub mod young;

pub use config::{EngineConfig, OnProgress, RecoveredQueue, RecoverySummary};
pub use deliver::{DeliveryHead, DeliverySink};
pub use enqueue::EnqueueReply;
pub use examine::{Examination, examine};
pub use loss::{Losses, LostJob, LostPlace};
pub use queue::QueueId;
pub use replay::RequestId;

pub use status::JobPage;
pub use together::{Numbered, Together};

use crate::base::code::{ErrorCode, Refusal};
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::{Durability, QueueOptions};
use crate::base::sync::{AtomicBool, Ordering};
use crate::log::{Log, LogError, LogPosition, SegmentInfo};
use crate::ring::ChunkPool;
use dedupe::Dedupe;
use generations::Generations;
use parking_lot::Mutex;
use queue::Queue;
use registry::Registry;
use replay::{Applied, Sessions};
use slab::Slab;
use std::sync::{Arc, OnceLock};
use timer::Wheel;
use young::YoungLeases;

/// Called after jobs became ready in a queue for which somebody waits: the queue, the bits of those who wait, and
/// how many jobs there are.
pub type Waker = Arc<dyn Fn(QueueId, u64, usize) + Send + Sync>;

/// What a successful request can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// The level that is reached, for [`Durability::Synced`] only once [`Engine::durable`] has reached
    /// `position`.
    pub level: Durability,
    /// The end of the record, where there is one in the durable log; a place inside it where `replayed`. Once
    /// [`Engine::durable`] is as far, the record is on the disk.
    pub position: Option<LogPosition>,
    /// Whether the request had been carried out before and this is its answer made again.
    pub replayed: bool,
}

/// A job queue engine. See the [module](self) for how it works.
pub struct Engine {
    slab: Slab,
    pool: ChunkPool,
    registry: Registry,
    /// Mapped files, or memory where the engine has no directory.
    durable: Log,
    /// Memory: the bodies of jobs that are not logged.
    volatile: Log,
    /// Whether `durable` is on disk.
    logged: bool,
    sessions: Sessions,
    dedupe: Dedupe,
    wheel: Mutex<Wheel>,
    /// Deliveries whose lease is not in the wheel yet; most are settled before they would have to be.
    young_leases: YoungLeases,
    waker: OnceLock<Waker>,
    queue_defaults: QueueOptions,
    reclaim: Mutex<reclaim::Reclaim>,
    /// Of a planted bug: attempts that should have been logged.
    #[cfg(planted)]
    late_attempts: Mutex<Vec<journal::ReserveEntry>>,
    closed: AtomicBool,
    opened_ms: u64,
    generations: Generations,
}

impl Engine {
    /// The log that a job's records and body stand in.
    fn log(&self, volatile: bool) -> &Log {
        if volatile { &self.volatile } else { &self.durable }
    }

    /// Refuses new work on an engine that is closed or whose log failed.
    fn check_open(&self) -> Result<(), Refusal> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Refusal::new(
                ErrorCode::ShuttingDown,
                "the engine is closed; connect again later",
            ));
        }
        if let Some(reason) = self.durable.poisoned() {
            return Err(log_refusal(LogError::Poisoned(reason)));
        }
        Ok(())
    }

    /// Where the log ends: what was logged so far is on the disk once [`durable`](Self::durable) has reached it. For
    /// tests.
    #[doc(hidden)]
    pub fn log_end(&self) -> LogPosition {
        self.durable.tail()
    }

    /// Where everything is durable up to: what a `synced` confirmation waits for.
    pub fn durable(&self) -> LogPosition {
        self.durable.durable()
    }

    /// Makes everything committed so far durable; returns up to where.
    ///
    /// # Errors
    /// `LOG_POISONED` when a sync failed, now or ever: nothing more may be confirmed.
    pub fn sync(&self) -> Result<LogPosition, Refusal> {
        self.durable.sync().map_err(log_refusal)
    }

    /// Waits until `position` is durable, syncing as needed together with whoever else waits.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn sync_to(&self, position: LogPosition) -> Result<(), Refusal> {
        self.durable.sync_to(position).map_err(log_refusal)
    }

    /// The durable log, for a test that has a writer stall.
    #[cfg(planted)]
    pub fn log_to_stall(&self) -> &Log {
        &self.durable
    }

    /// Why the log failed, if it did.
    pub fn poisoned(&self) -> Option<String> {
        self.durable.poisoned()
    }

    /// How many segments hold a part of the durable log, and of the memory of jobs that are not logged.
    pub fn segments_in_use(&self) -> (usize, usize) {
        (self.durable.segments_in_use(), self.volatile.segments_in_use())
    }

    /// The segments in use of the durable log and of the memory of jobs that are not logged, from the oldest on: for
    /// tests that look for segments held by nobody.
    #[doc(hidden)]
    pub fn segments(&self) -> [Vec<SegmentInfo>; 2] {
        [&self.durable, &self.volatile].map(|log| {
            let first = log.oldest().map_or(1, |oldest| oldest.sequence);
            (first..=log.tail().sequence())
                .filter_map(|sequence| log.segment_info(sequence))
                .collect()
        })
    }

    /// Whether any request of that session is remembered.
    pub fn knows_session(&self, session: u128) -> bool {
        self.sessions.knows(session)
    }

    /// Whether a numbered request was carried out, as far as its session still knows.
    pub fn is_applied(&self, request: RequestId) -> bool {
        self.sessions.is_applied(request)
    }

    /// The time at which it was opened: as it was told, or the latest that its log knows of if that is later. The
    /// owner's clock goes on from there and not from before, or what was due in a second would wait for as long as
    /// the wall clock was set back.
    pub fn opened_ms(&self) -> u64 {
        self.opened_ms
    }

    /// Who is to be told that jobs became ready. Set once; a second call is ignored.
    pub fn set_waker(&self, waker: Waker) {
        // Ignored on purpose: the first owner keeps it.
        let _ = self.waker.set(waker);
    }

    /// Announces that waiter `bit` (below 64) is about to sleep unless a last reserve finds a job.
    pub fn announce(&self, queue: QueueId, bit: u32) {
        if let Some(queue) = self.registry.get(queue) {
            queue.announce(1 << bit);
        }
    }

    /// The waiter of that bit no longer waits for the queue.
    pub fn retire(&self, queue: QueueId, bit: u32) {
        if let Some(queue) = self.registry.get(queue) {
            queue.retire(1 << bit);
        }
    }

    /// Tells waiters, if there are any, that `jobs` became ready.
    fn wake(&self, queue: &Queue, jobs: usize) {
        if jobs == 0 || is_planted(Plant::LoseWakeup) {
            return;
        }
        let bits = queue.waiters();
        if bits != 0
            && let Some(waker) = self.waker.get()
        {
            waker(queue.id, bits, jobs);
        }
    }

    /// Appends a small record to the durable log; returns where it stands and where it ends.
    fn append(
        &self,
        kind: journal::Kind,
        flags: u8,
        body: &[u8],
        room: crate::log::Room,
        now_ms: u64,
    ) -> Result<(LogPosition, LogPosition), LogError> {
        let mut claim = self.durable.claim(body.len(), room)?;
        claim.put(body);
        let at = claim.position();
        Ok((at, claim.commit(kind as u8, flags, now_ms, 0)))
    }

    /// Refuses further requests and makes everything durable. The agents are the owner's to stop.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub fn close(&self, now_ms: u64) -> Result<(), Refusal> {
        self.closed.store(true, Ordering::Relaxed);
        self.durable.close(now_ms).map_err(log_refusal)
    }
}

/// What a caller is told when the log does not take a record.
fn log_refusal(error: LogError) -> Refusal {
    let code = match error {
        LogError::Full { .. } => ErrorCode::LogFull,
        LogError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        LogError::Poisoned(_) => ErrorCode::LogPoisoned,
    };
    Refusal::new(code, error.to_string())
}

/// The answer for a request that was carried out before.
fn replayed(applied: Applied) -> Confirmed {
    // A place inside the record: the log is durable up to the end of a record, so this waits for all of it. Where
    // the record begins, the log may be durable without it.
    let inside = applied.position.plus(1);
    let position = (!applied.volatile && !applied.position.is_none()).then_some(inside);
    let level = if position.is_some() {
        Durability::Written
    } else {
        Durability::Memory
    };
    Confirmed {
        level,
        position,
        replayed: true,
    }
}
