//! What an engine is opened with, and what it says about its opening.

use crate::base::limits;
use crate::base::queue::QueueOptions;
use crate::log::ReadProgress;
use crate::log::disk::Disk;
use std::path::PathBuf;
use std::sync::Arc;

/// How to open an [`Engine`](crate::engine::Engine). `Default` is an engine in memory with the default limits.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Where the log lives; `None` keeps everything in memory only (durability `memory` for all).
    pub directory: Option<PathBuf>,
    /// Jobs held at once, finished ones that are kept included. Costs address space until used.
    pub slots: u32,
    /// Size of a log segment, in bytes; a power of two. Bounds the largest batch.
    pub segment_bytes: u32,
    /// Bytes that the log may take on disk.
    pub log_bytes_max: u64,
    /// Bytes that bodies of `memory` jobs may take.
    pub memory_bytes_max: u64,
    /// Options of a queue made on first use.
    pub queue_defaults: QueueOptions,
    /// Go on without the damaged part of a log instead of refusing to open it.
    pub salvage: bool,
    /// Told while the log is read, of how much was: before each segment, and at the end.
    pub on_progress: Option<OnProgress>,
    /// What stands in for the file system; `None` is the real one. For simulations.
    #[doc(hidden)]
    pub disk: Option<Arc<dyn Disk>>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            directory: None,
            slots: limits::SLOTS_DEFAULT,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            log_bytes_max: limits::LOG_BYTES_DEFAULT,
            memory_bytes_max: limits::MEMORY_BYTES_DEFAULT,
            queue_defaults: QueueOptions::default(),
            salvage: false,
            on_progress: None,
            disk: None,
        }
    }
}

/// Somebody to be told while the log is read.
///
/// ```
/// use ackring::engine::{EngineConfig, OnProgress};
/// let config = EngineConfig {
///     on_progress: Some(OnProgress::new(|read| eprintln!("{} of {} bytes", read.bytes, read.bytes_total))),
///     ..EngineConfig::default()
/// };
/// # ackring::engine::Engine::open(config, 0)?;
/// # Ok::<(), ackring::log::OpenError>(())
/// ```
#[derive(Clone)]
pub struct OnProgress(Arc<dyn Fn(&ReadProgress) + Send + Sync>);

impl OnProgress {
    /// Calls `told` from the thread that opens the engine.
    pub fn new(told: impl Fn(&ReadProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(super) fn tell(&self, progress: &ReadProgress) {
        (self.0)(progress);
    }
}

impl std::fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnProgress")
    }
}

/// What came back from the log at opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoverySummary {
    /// Queues known.
    pub queues: u64,
    /// Jobs that can be reserved at once.
    pub ready: u64,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// Jobs still under a lease.
    pub leased: u64,
    /// Dead jobs.
    pub dead: u64,
    /// Finished jobs still kept.
    pub finished: u64,
    /// The same for each queue that has jobs, those with most jobs first.
    pub by_queue: Vec<RecoveredQueue>,
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Ranges at the ends of segments that were never confirmed and were passed over (torn by a crash).
    pub torn: u64,
    /// Places left behind because they are damaged; only with `salvage`.
    pub salvaged: Vec<String>,
    /// The file that says what was left behind and where the damaged bytes are kept.
    pub salvage_report: Option<PathBuf>,
}

/// What came back of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveredQueue {
    /// Its name.
    pub name: String,
    /// Jobs that can be reserved at once.
    pub ready: u64,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// Jobs still under a lease.
    pub leased: u64,
    /// Dead jobs.
    pub dead: u64,
    /// Finished jobs still kept.
    pub finished: u64,
}

impl RecoveredQueue {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// All its jobs, finished ones included.
    pub fn jobs(&self) -> u64 {
        self.ready + self.scheduled + self.leased + self.dead + self.finished
    }
}

impl RecoverySummary {
    /// Takes in what came back of the queues, and sums it up.
    pub(super) fn take_queues(&mut self, queues: impl Iterator<Item = RecoveredQueue>) {
        self.by_queue = queues.filter(|queue| queue.jobs() > 0).collect();
        self.by_queue
            .sort_by(|a, b| b.jobs().cmp(&a.jobs()).then_with(|| a.name.cmp(&b.name)));
        let sum = |of: fn(&RecoveredQueue) -> u64| self.by_queue.iter().map(of).sum();
        self.ready = sum(|queue| queue.ready);
        self.scheduled = sum(|queue| queue.scheduled);
        self.leased = sum(|queue| queue.leased);
        self.dead = sum(|queue| queue.dead);
        self.finished = sum(|queue| queue.finished);
    }
}
