//! Looking at a log that no server has open. Changes nothing.

use crate::log::bad_range::BadRange;
use crate::log::disk::Disk;
use crate::log::error::{Corruption, OpenError};
use crate::log::examine::Examined;
use crate::log::file_system::FileSystem;
use crate::log::position::LogPosition;
use crate::log::reading::{LogVisitor, Reading};
use crate::log::record::Recovered;
use std::path::{Path, PathBuf};

/// What a log directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InspectReport {
    /// The segments in use, oldest first.
    pub segments: Vec<InspectedSegment>,
    /// Segment files that hold nothing.
    pub spares: usize,
    /// Size of a segment, in bytes; 0 when there is none.
    pub segment_bytes: u32,
    /// The engine's records.
    pub records: u64,
    /// Their bytes with headers.
    pub bytes: u64,
    /// Harmless gaps in the newest boot: a server that starts now would accept them.
    pub holes: Vec<BadRange>,
    /// The last record is only partly there, which is harmless.
    pub torn_tail: bool,
    /// Not empty: a server refuses to start on this log.
    pub corruptions: Vec<Corruption>,
    /// Where the records end.
    pub end: LogPosition,
}

/// One segment in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedSegment {
    /// Its file.
    pub path: PathBuf,
    /// Its place in the log.
    pub sequence: u32,
    /// The start of the engine that wrote it, from 1.
    pub boot: u32,
    /// The engine's records in it.
    pub records: u64,
}

/// Reads and checks all of a log and shows the engine's records in order.
///
/// # Errors
/// [`OpenError::Locked`] while a server has the log open, [`OpenError::Io`], [`OpenError::NewerFormat`]. Damage is
/// no error here but told in [`InspectReport::corruptions`].
pub fn inspect(directory: &Path, visit: &mut dyn FnMut(Recovered<'_>)) -> Result<InspectReport, OpenError> {
    inspect_on(&FileSystem, directory, visit)
}

/// As [`inspect`], on another disk than the file system.
///
/// # Errors
/// As [`inspect`].
#[doc(hidden)]
pub fn inspect_on(
    disk: &dyn Disk,
    directory: &Path,
    mut visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<InspectReport, OpenError> {
    let reading = Reading::to_look(disk, directory, &mut visit)?;
    // A closure never wants to end early.
    Ok(reading.map_or_else(InspectReport::default, |reading| reading.report()))
}

/// As [`inspect`], for a visitor that is told how far it is and may end it: `None` then. What comes back can tell
/// more of what is damaged.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_with(directory: &Path, visitor: &mut dyn LogVisitor) -> Result<Option<Reading>, OpenError> {
    Reading::to_look(&FileSystem, directory, visitor)
}

impl InspectReport {
    pub(super) fn new(examined: &Examined) -> Self {
        let verdict = &examined.verdict;
        let segments = examined.used.iter().map(|segment| InspectedSegment {
            path: segment.file.path.clone(),
            sequence: segment.sequence(),
            boot: segment.header.boot.get(),
            records: segment.records,
        });
        let first = examined.used.first();
        Self {
            segments: segments.collect(),
            spares: examined.spare.len() + examined.passed.len(),
            segment_bytes: first.map_or(0, |segment| segment.header.segment_bytes.get()),
            records: verdict.counts.records,
            bytes: verdict.counts.bytes,
            holes: verdict.holes.clone(),
            torn_tail: verdict.torn_tail,
            corruptions: examined.corruptions.clone(),
            end: verdict.end,
        }
    }
}
