#![doc = include_str!("FORMAT.md")]

mod ahead;
mod anchor;
mod bad_range;
mod claim;
mod config;
mod count;
mod damage;
mod dir;
#[doc(hidden)]
pub mod disk;
mod draft;
mod error;
mod examine;
mod file_system;
#[doc(hidden)]
pub mod group;
mod header;
mod idle;
mod inspect;
mod kept;
#[allow(clippy::module_inception, reason = "the room is named after what it holds")]
mod log;
mod open;
mod pin;
mod position;
mod reading;
mod rebuild;
mod record;
mod recover;
#[cfg(test)]
mod recover_test;
mod region;
mod roll;
mod segment;
mod skip;
mod space;
mod stall;
mod start;
mod sync;
mod table;
#[doc(hidden)]
pub mod tail;
mod witness;

pub use anchor::Statement;
pub use bad_range::BadRange;
pub use claim::{Claim, Claims};
pub use config::{LogConfig, Room};
pub use damage::{Damage, Fragment};
pub use draft::{Body, Content};
pub use error::{Corruption, LogError, OpenError};
pub use header::{FORMAT_VERSION, SEGMENT_HEADER_LEN, SegmentHeader};
#[doc(hidden)]
pub use inspect::inspect_on;
pub use inspect::{InspectReport, InspectedSegment, inspect, inspect_with};
pub use log::{Log, SegmentInfo};
pub use open::RecoveryReport;
pub use pin::Pin;
pub use position::LogPosition;
pub use reading::{LogVisitor, ReadProgress, Reading};
pub use record::{HEADER_LEN, KIND_LOG_FIRST, RecordHeader, Recovered};
#[doc(hidden)]
pub use region::Region;
#[doc(hidden)]
pub use sync::FlushHook;
