//! Lock-free rings of job handles, and what goes with them.
//!
//! * [`RingRef`]: an unbounded queue of handles in batches; a chain of chunks from one [`ChunkPool`]. It lives in a
//!   [`Ring`] or among [`Rings`].
//! * [`SlotPool`]: the free list of slot numbers.
//! * [`EventCount`]: how a thread sleeps until a ring may have something, with nothing but a fence and a load
//!   on the way of those who push.
//!
//! A thread that is paused anywhere inside a push, a pop, a take or a give stops nobody. Nothing here reads a
//! clock, allocates after construction, or contains unsafe code: rings hold numbers, and every word that
//! threads share is an atomic.

mod chain;
mod chained;
mod chunk;
mod eventcount;
mod free;
mod magazine;
mod parking;
mod pause;
mod publish;
mod rings;
mod shard;
mod slots;
mod stack;
#[cfg(test)]
mod tests;
mod word;

pub use chained::RingRef;
pub use chunk::ChunkPool;
pub use eventcount::{EventCount, Ticket};
pub use rings::{Ring, Rings};
pub use slots::SlotPool;
#[cfg(loom)]
pub use stack::LinkedStack;
pub use word::HANDLE_MAX;

/// The pool has no chunk for a batch. Nothing was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no free chunk is left for the rings")]
pub struct PoolExhausted;
