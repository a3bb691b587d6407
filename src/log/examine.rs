//! Reading and judging a whole directory, without changing it.

use crate::log::config::LogConfig;
use crate::log::damage::Damage;
use crate::log::dir::{Directory, FoundSegment};
use crate::log::error::{Corruption, OpenError};
use crate::log::position::LogPosition;
use crate::log::reading::{LogVisitor, ReadProgress};
use crate::log::rebuild::{Surroundings, rebuild};
use crate::log::record::{BadRange, DATA_START, FORMAT_VERSION, HeaderFlaw, LogShape, SegmentHeader};
use crate::log::recover::{Recovery, Verdict};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// How many sequence numbers are tried for a segment whose header is damaged, before and behind the known ones and
/// in their gaps.
const OPEN_MAX: usize = 64;

/// The segments of a directory as read and judged, nothing changed yet.
pub(super) struct Examined {
    /// Those with a sequence number, in order.
    pub(super) used: Vec<UsedSegment>,
    /// Those without.
    pub(super) spare: Vec<FoundSegment>,
    /// Those that cannot be part of this log.
    pub(super) unusable: Vec<FoundSegment>,
    /// Numbers of files that once were there.
    pub(super) missing: Vec<u32>,
    /// What the records say. Its flaws are among the corruptions.
    pub(super) verdict: Verdict,
    /// Not empty: the log must be refused, unless it is to be salvaged.
    pub(super) corruptions: Vec<Corruption>,
}

/// A segment that is part of the log.
pub(super) struct UsedSegment {
    /// As it stands in the file, or as the records prove that it must have been.
    pub(super) header: SegmentHeader,
    pub(super) file: FoundSegment,
    /// What the disk does not give back of it.
    pub(super) unreadable: Vec<Range<u32>>,
    /// The engine's records in it.
    pub(super) records: u64,
}

impl UsedSegment {
    fn new(header: SegmentHeader, file: FoundSegment) -> Self {
        Self {
            header,
            file,
            unreadable: Vec::new(),
            records: 0,
        }
    }

    pub(super) fn sequence(&self) -> u32 {
        self.header.sequence.get()
    }

    /// The header in the file is damaged, or was written over along with a block that cannot be read.
    pub(super) fn has_lost_header(&self) -> bool {
        self.is_rebuilt()
            || self
                .unreadable
                .first()
                .is_some_and(|range| range.start < DATA_START)
    }

    /// The header in the file is damaged.
    pub(super) fn is_rebuilt(&self) -> bool {
        self.file.header.is_err()
    }
}

/// Reads and judges all of a directory. `Ok(None)`: the visitor wants no more.
pub(super) fn examine(
    directory: &Directory,
    visitor: &mut dyn LogVisitor,
) -> Result<Option<Examined>, OpenError> {
    let found = directory.list()?;
    let mut examined = Examined::sort_out(directory, found)?;
    let mut progress = ReadProgress {
        bytes_total: examined.used.iter().map(|segment| segment.file.len).sum(),
        ..ReadProgress::default()
    };
    let mut recovery = Recovery::default();
    let mut buffer = Vec::new();
    for segment in &mut examined.used {
        if visitor.progress(&progress) == ControlFlow::Break(()) {
            return Ok(None);
        }
        let segment_bytes = segment.header.segment_bytes.get();
        segment.unreadable = directory.read(&segment.file, segment_bytes, &mut buffer)?;
        for range in &segment.unreadable {
            recovery.unreadable(in_segment(segment.header.sequence.get(), range));
        }
        recovery.segment(&segment.header, &buffer, &mut |record| {
            segment.records += 1;
            visitor.record(record);
        });
        progress.records += segment.records;
        progress.bytes += segment.file.len;
    }
    if visitor.progress(&progress) == ControlFlow::Break(()) {
        return Ok(None);
    }
    examined.verdict = recovery.finish();
    examined.take_flaws(directory);
    Ok(Some(examined))
}

pub(super) fn in_segment(sequence: u32, range: &Range<u32>) -> BadRange {
    BadRange {
        start: LogPosition::new(sequence, range.start),
        end: LogPosition::new(sequence, range.end),
    }
}

/// Files are numbered from 1 and never removed, and each header tells how many there were when it was written.
fn missing_numbers(found: &[FoundSegment]) -> Vec<u32> {
    let known = found
        .iter()
        .filter_map(|segment| segment.header.ok())
        .map(|header| header.files.get());
    let highest = known
        .chain(found.iter().map(|segment| segment.number))
        .max()
        .unwrap_or(0);
    (1..=highest)
        .filter(|number| {
            found
                .binary_search_by_key(number, |segment| segment.number)
                .is_err()
        })
        .collect()
}

impl Examined {
    fn sort_out(directory: &Directory, found: Vec<FoundSegment>) -> Result<Self, OpenError> {
        let mut examined = Examined {
            used: Vec::new(),
            spare: Vec::new(),
            unusable: Vec::new(),
            missing: missing_numbers(&found),
            verdict: Verdict::default(),
            corruptions: Vec::new(),
        };
        let mut damaged = Vec::new();
        for segment in found {
            match segment.header {
                Err(HeaderFlaw::Newer(found)) => {
                    let path = segment.path;
                    return Err(OpenError::NewerFormat {
                        path,
                        found,
                        supported: FORMAT_VERSION,
                    });
                }
                Err(HeaderFlaw::Damaged(reason)) => damaged.push((segment, reason)),
                Ok(header) if header.is_spare() => examined.spare.push(segment),
                Ok(header) => examined.used.push(UsedSegment::new(header, segment)),
            }
        }
        examined.used.sort_by_key(UsedSegment::sequence);
        examined.set_strangers_apart();
        examined.take_damaged(directory, damaged)?;
        Ok(examined)
    }

    fn set_apart(&mut self, segment: FoundSegment, damage: Damage, reason: &str) {
        let path = segment.path.clone();
        self.corruptions.push(Corruption::new(path, damage, reason));
        self.unusable.push(segment);
    }

    /// Leaves no segment of another log, and no second one with the same place, among those in use.
    fn set_strangers_apart(&mut self) {
        let log_id = self.used.first().map(|segment| segment.header.log_id);
        let mut previous = 0;
        for segment in std::mem::take(&mut self.used) {
            if Some(segment.header.log_id) != log_id {
                let reason = "the segment belongs to another log than the oldest one here";
                self.set_apart(segment.file, Damage::ForeignFile, reason);
            } else if segment.sequence() == previous {
                let reason = "there is another file with the same place in the log";
                self.set_apart(segment.file, Damage::DoublePlace, reason);
            } else {
                previous = segment.sequence();
                self.used.push(segment);
            }
        }
    }

    /// Finds out which segments those with a damaged header were; sets apart what remains.
    fn take_damaged(
        &mut self,
        directory: &Directory,
        damaged: Vec<(FoundSegment, &'static str)>,
    ) -> Result<(), OpenError> {
        let mut buffer = Vec::new();
        let count = damaged.len();
        for (file, reason) in damaged {
            let around = self.surroundings(count);
            let len_max = around.shape.map_or(u32::MAX, |shape| shape.segment_bytes);
            directory.read(&file, len_max, &mut buffer)?;
            let Some(header) = rebuild(&buffer, &around) else {
                self.set_apart(file, Damage::Header, reason);
                continue;
            };
            let sequence = header.sequence.get();
            self.corruptions.push(Corruption {
                range: in_segment(sequence, &(0..DATA_START)),
                ..Corruption::new(file.path.clone(), Damage::Header, reason)
            });
            self.used.push(UsedSegment::new(header, file));
            self.used.sort_by_key(UsedSegment::sequence);
        }
        Ok(())
    }

    fn surroundings(&self, damaged: usize) -> Surroundings {
        let known: Vec<(u32, u32)> = self
            .used
            .iter()
            .map(|segment| (segment.sequence(), segment.header.boot.get()))
            .collect();
        let of_spare = self.spare.iter().find_map(|segment| segment.header.ok());
        let shape = self.used.first().map(|segment| segment.header).or(of_spare);
        let (first, last) = match (known.first(), known.last()) {
            (Some((first, _)), Some((last, _))) => (*first, *last),
            _ => (1, 0),
        };
        let reach = damaged.min(OPEN_MAX) as u32;
        let gaps = known.windows(2).flat_map(|pair| pair[0].0 + 1..pair[1].0);
        let behind = last.saturating_add(1)..=last.saturating_add(reach);
        let before = first.saturating_sub(reach).max(1)..first;
        Surroundings {
            open: gaps.take(OPEN_MAX).chain(behind).chain(before).collect(),
            known,
            shape: shape.map(|header| LogShape {
                log_id: header.log_id,
                segment_bytes: header.segment_bytes.get(),
                files: header.files.get(),
            }),
        }
    }

    /// Adds what the records say to the corruptions, and files that are gone where that does not say it.
    fn take_flaws(&mut self, directory: &Directory) {
        let mut missing: Vec<PathBuf> = self
            .missing
            .iter()
            .map(|number| directory.segment_path(*number))
            .collect();
        let gone: u32 = self
            .verdict
            .flaws
            .iter()
            .filter(|flaw| flaw.damage == Damage::MissingSegments)
            .map(|flaw| flaw.range.end.sequence() - flaw.range.start.sequence())
            .sum();
        // One file and one place in the log that are gone are the same thing.
        let is_same = missing.len() == 1 && gone == 1;
        for flaw in std::mem::take(&mut self.verdict.flaws) {
            let path = match self.path_of(flaw.range.start.sequence()) {
                Some(path) => path,
                None if is_same && flaw.damage == Damage::MissingSegments => missing.remove(0),
                None => directory.path().to_owned(),
            };
            let is_file = flaw.damage == Damage::MissingSegments && path != directory.path();
            self.corruptions.push(Corruption {
                path,
                offset: u64::from(flaw.range.start.offset()),
                damage: if is_file { Damage::MissingFile } else { flaw.damage },
                reason: if is_file {
                    GONE.to_owned()
                } else {
                    flaw.reason.to_owned()
                },
                range: flaw.range,
                before_ms: flaw.before_ms,
                after_ms: flaw.after_ms,
                kept: Vec::new(),
            });
        }
        let gone = missing.into_iter();
        self.corruptions
            .extend(gone.map(|path| Corruption::new(path, Damage::MissingFile, GONE)));
        self.corruptions.sort_by_key(|corruption| corruption.range.start);
    }

    /// Renames the files that cannot be used, and notes their new names with what is wrong with them.
    pub(super) fn set_aside(&mut self, directory: &Directory) -> Result<(), OpenError> {
        for file in &self.unusable {
            let aside = directory.set_aside(&file.path)?;
            for corruption in &mut self.corruptions {
                if corruption.path == file.path {
                    corruption.kept.push(aside.clone());
                }
            }
        }
        Ok(())
    }

    fn path_of(&self, sequence: u32) -> Option<PathBuf> {
        let holder = self.used.iter().find(|segment| segment.sequence() == sequence)?;
        Some(holder.file.path.clone())
    }

    /// The first corruption as an error.
    pub(super) fn first_corruption(&self) -> Option<OpenError> {
        let Corruption {
            path, offset, reason, ..
        } = self.corruptions.first()?.clone();
        Some(OpenError::Corrupt { path, offset, reason })
    }

    /// Whether all segments have the size that the configuration asks for.
    pub(super) fn check_sizes(&self, config: &LogConfig) -> Result<(), OpenError> {
        let used = self.used.iter().map(|segment| (segment.header, &segment.file));
        let spares = self
            .spare
            .iter()
            .filter_map(|segment| Some((segment.header.ok()?, segment)));
        for (header, segment) in used.chain(spares) {
            let found = header.segment_bytes.get();
            if found != config.segment_bytes {
                let path = segment.path.clone();
                return Err(OpenError::SegmentSize {
                    path,
                    found,
                    wanted: config.segment_bytes,
                });
            }
        }
        Ok(())
    }
}

const GONE: &str = "the file is gone";
