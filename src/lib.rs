//! A single-node job queue engine: lock-free rings over a memory-mapped log, leases, attempts that survive a
//! crash, a binary protocol.
//!
//! | you want | look at |
//! |---|---|
//! | a queue inside your program | [`Engine`], feature `engine` |
//! | to talk to a server | [`client::Client`], feature `client` |
//! | to speak the protocol yourself | [`wire`] |
//! | to run a server inside your program | [`server`], feature `server` |
//! | to know how it works | `ARCHITECTURE.md`, then the head of each module |
//!
//! The rooms of the house, from the ground up; each imports only from those above it in this list:
//! [`base`] (words and limits), [`ring`] (lock-free rings of handles), [`log`] (the mapped log),
//! [`engine`] (what happens to jobs), [`embedded`] (the engine with clock and threads), [`wire`] (bytes to frames
//! and back), [`client`], [`server`], [`cli`].
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
pub use base::queue::{
    Backoff, Durability, OptionsError, QueueCounts, QueueOptions, QueueStats, check_queue_name,
};
#[cfg(feature = "engine")]
pub use embedded::{Engine, Job, Queue};
#[cfg(feature = "engine")]
pub use engine::{EngineConfig, RecoverySummary};
