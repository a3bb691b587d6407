//! The ground floor: words and numbers that every other room uses.
//!
//! Nothing here reads a clock, opens a file or starts a thread, and nothing here imports from the rest of the
//! crate.

pub mod batch;
pub mod code;
#[cfg(feature = "engine")]
pub mod crc;
pub mod entry;
pub mod job;
pub mod limits;
#[cfg(feature = "engine")]
#[doc(hidden)]
pub mod plant;
pub mod queue;
#[cfg(feature = "engine")]
pub mod stamp;
#[cfg(feature = "engine")]
pub mod sync;
#[cfg(feature = "engine")]
#[doc(hidden)]
pub mod wake;
