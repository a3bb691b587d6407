//! A log that was read and judged and is not changed yet: what to look at before going on without what is damaged.

use crate::log::damage::{Damage, Fragment, fragments};
use crate::log::dir::Directory;
use crate::log::disk::Disk;
use crate::log::error::{Corruption, OpenError};
use crate::log::examine::{Examined, UsedSegment, examine};
use crate::log::header::DATA_START;
use crate::log::inspect::InspectReport;
use crate::log::record::Recovered;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};

/// How much of a log was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadProgress {
    /// Bytes of segments read.
    pub bytes: u64,
    /// Bytes of all segments that hold a part of the log.
    pub bytes_total: u64,
    /// The engine's records in what was read.
    pub records: u64,
}

/// Who looks on while a log is read. Every closure over a record is one.
pub trait LogVisitor {
    /// A record of the engine; they come in order.
    fn record(&mut self, record: Recovered<'_>);

    /// Called before each segment and at the end. An inspection ends early at a `Break`; a start goes on.
    fn progress(&mut self, progress: &ReadProgress) -> ControlFlow<()> {
        let _ = progress;
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(Recovered<'_>)> LogVisitor for F {
    fn record(&mut self, record: Recovered<'_>) {
        self(record);
    }
}

/// A locked directory whose log was read and judged. Nothing in it was changed.
pub struct Reading {
    pub(super) directory: Directory,
    pub(super) examined: Examined,
    /// A salvage has put the damaged bytes aside.
    pub(super) is_put_aside: bool,
}

impl Reading {
    /// Reads a log that will not be opened, sharing the lock with others who do so. `Ok(None)`: the visitor wanted
    /// no more.
    ///
    /// # Errors
    /// [`OpenError::Locked`] while a server has the log open, [`OpenError::Io`], [`OpenError::NewerFormat`].
    pub(super) fn to_look(
        disk: &dyn Disk,
        path: &Path,
        visitor: &mut dyn LogVisitor,
    ) -> Result<Option<Self>, OpenError> {
        let directory = Directory::open_to_read(disk, path)?;
        let examined = examine(&directory, visitor)?;
        Ok(examined.map(|examined| Self::new(directory, examined)))
    }

    pub(super) fn new(directory: Directory, examined: Examined) -> Self {
        Self {
            directory,
            examined,
            is_put_aside: false,
        }
    }

    /// What is damaged, in the order of the log. Not empty: the log is opened only with salvage.
    pub fn corruptions(&self) -> &[Corruption] {
        &self.examined.corruptions
    }

    /// What the log holds.
    pub fn report(&self) -> InspectReport {
        InspectReport::new(&self.examined)
    }

    /// Shows what in the damaged place still reads like records. Any of their bytes may be wrong.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn fragments(
        &self,
        corruption: &Corruption,
        visit: &mut dyn FnMut(Fragment<'_>),
    ) -> Result<(), OpenError> {
        let mut buffer = Vec::new();
        for (segment, range) in self.parts(corruption) {
            let header = &segment.header;
            self.directory
                .read(&segment.file, header.segment_bytes.get(), &mut buffer)?;
            let range = super::examine::in_segment(header.sequence.get(), &range);
            fragments(&buffer, range, header.epoch.get(), visit);
        }
        Ok(())
    }

    /// The segments that a damaged place lies in, each with the bytes of it.
    fn parts(&self, corruption: &Corruption) -> impl Iterator<Item = (&UsedSegment, Range<u32>)> {
        let range = corruption.range;
        let (first, last) = (range.start.sequence(), range.end.sequence());
        let is_of_record = corruption.damage != Damage::Header;
        let used = self.examined.used.iter();
        used.filter(move |segment| range.start < range.end && (first..=last).contains(&segment.sequence()))
            .map(move |segment| {
                let (sequence, segment_end) = (segment.sequence(), segment.header.segment_bytes.get());
                let start = if sequence == first {
                    range.start.offset()
                } else {
                    0
                };
                let end = if sequence == last {
                    range.end.offset()
                } else {
                    segment_end
                };
                let least = if is_of_record { DATA_START } else { 0 };
                (segment, start.max(least)..end)
            })
    }

    /// Copies the damaged bytes, as they are, into files of their own whose names begin with `name`, and notes
    /// where in [`Corruption::kept`]. Files that cannot be used at all are renamed when the log is opened.
    ///
    /// # Errors
    /// [`OpenError::Io`]: nothing of the log was changed.
    pub(super) fn put_aside(&mut self, name: &str) -> Result<(), OpenError> {
        if self.is_put_aside {
            return Ok(());
        }
        let mut buffer = Vec::new();
        let mut kept: Vec<Vec<PathBuf>> = Vec::new();
        for corruption in &self.examined.corruptions {
            let mut files = Vec::new();
            for (segment, range) in self.parts(corruption) {
                let len_max = segment.header.segment_bytes.get();
                self.directory.read(&segment.file, len_max, &mut buffer)?;
                let end = (range.end as usize).min(buffer.len());
                let bytes = buffer.get(range.start as usize..end).unwrap_or_default();
                if bytes.is_empty() {
                    continue;
                }
                let name = format!("{name}-{}-at-{}.damaged", segment.sequence(), range.start);
                files.push(self.directory.write_new(&name, bytes)?);
            }
            kept.push(files);
        }
        for (corruption, files) in self.examined.corruptions.iter_mut().zip(kept) {
            corruption.kept = files;
        }
        self.is_put_aside = true;
        Ok(())
    }

    /// Writes a file beside the log, on the disk when this returns; says where.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub(super) fn write_beside(&self, name: &str, text: &str) -> Result<PathBuf, OpenError> {
        self.directory.write_new(name, text.as_bytes())
    }
}
