//! Looking at a log that no server has open. Changes nothing.

use crate::log::dir::Directory;
use crate::log::disk::Disk;
use crate::log::error::{Corruption, OpenError};
use crate::log::examine::examine;
use crate::log::file_system::FileSystem;
use crate::log::position::LogPosition;
use crate::log::record::{BadRange, Recovered};
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
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<InspectReport, OpenError> {
    let directory = Directory::open_to_read(disk, directory)?;
    let mut counts: Vec<(u32, u64)> = Vec::new();
    let examined = examine(&directory, &mut |record| {
        let sequence = record.position.sequence();
        match counts.last_mut() {
            Some((last, count)) if *last == sequence => *count += 1,
            _ => counts.push((sequence, 1)),
        }
        visit(record);
    })?;
    let count_of = |sequence| {
        let found = counts.binary_search_by_key(&sequence, |(sequence, _)| *sequence);
        found.map_or(0, |index| counts[index].1)
    };
    let segments = examined.used.iter().map(|(header, segment)| InspectedSegment {
        path: segment.path.clone(),
        sequence: header.sequence.get(),
        boot: header.boot.get(),
        records: count_of(header.sequence.get()),
    });
    let verdict = examined.verdict;
    Ok(InspectReport {
        segments: segments.collect(),
        spares: examined.spare.len(),
        segment_bytes: examined
            .used
            .first()
            .map_or(0, |(header, _)| header.segment_bytes.get()),
        records: verdict.counts.records,
        bytes: verdict.counts.bytes,
        holes: verdict.holes,
        torn_tail: verdict.torn_tail,
        corruptions: examined.corruptions,
        end: verdict.end,
    })
}
