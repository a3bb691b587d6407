//! ackring: a single-node job queue engine.
#![deny(missing_docs)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        reason = "a test that cannot go on should panic where it stands"
    )
)]

pub mod base;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "engine")]
mod clock;
#[cfg(feature = "engine")]
pub mod embedded;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "engine")]
pub mod log;
#[cfg(feature = "engine")]
pub mod ring;
#[cfg(feature = "server")]
pub mod server;
#[cfg(any(feature = "client", feature = "server"))]
pub mod wire;

pub use base::batch::{
    EnqueueBatch, EnqueueBuilder, EnqueueItem, JobOptions, SettleBatch, SettleBuilder, Settlement,
};
pub use base::code::{Class, ErrorCode, ItemError, Refusal, Scope};
pub use base::entry::{EnqueueEntry, SettleEntry, Verb};
pub use base::job::{JobId, JobIdParseError, JobState, JobStatus, Token};
pub use base::limits;
#[cfg(feature = "engine")]
pub use embedded::{Engine, Job, Queue};
#[cfg(feature = "engine")]
pub use engine::{EngineConfig, RecoverySummary};
pub use base::queue::{
    Backoff, Durability, OptionsError, QueueCounts, QueueOptions, QueueStats, check_queue_name,
};
