#![doc = include_str!("FORMAT.md")]

mod claim;
mod config;
mod dir;
mod error;
mod examine;
#[doc(hidden)]
pub mod group;
mod inspect;
#[allow(clippy::module_inception, reason = "the room is named after what it holds")]
mod log;
mod open;
mod pin;
mod position;
mod record;
mod recover;
#[cfg(test)]
mod recover_test;
mod region;
mod segment;
mod space;
mod sync;
mod table;
#[doc(hidden)]
pub mod tail;

pub use claim::Claim;
pub use config::{LogConfig, Room};
pub use error::{Corruption, LogError, OpenError};
pub use inspect::{InspectReport, InspectedSegment, inspect};
pub use log::{Log, SegmentInfo};
pub use open::RecoveryReport;
pub use pin::Pin;
pub use position::LogPosition;
pub use record::{
    BadRange, FORMAT_VERSION, HEADER_LEN, KIND_LOG_FIRST, RecordHeader, Recovered, SEGMENT_HEADER_LEN,
    SegmentHeader,
};
#[doc(hidden)]
pub use sync::FlushHook;
