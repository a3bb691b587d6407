//! What an engine is opened with, and what it says about its opening.

use crate::base::limits;
use crate::base::queue::QueueOptions;
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
            disk: None,
        }
    }
}

/// What came back from the log at opening.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    /// Records read.
    pub records: u64,
    /// Ranges at the ends of segments that were never confirmed and were passed over (torn by a crash).
    pub torn: u64,
    /// Ranges left behind because they are damaged; only with `salvage`.
    pub salvaged: Vec<String>,
}
