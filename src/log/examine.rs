//! Reading and judging a whole directory, without changing it.

use crate::base::limits;
use crate::log::ahead::read_each;
use crate::log::anchor::FoundAnchor;
use crate::log::bad_range::BadRange;
use crate::log::config::LogConfig;
use crate::log::count::SegmentCount;
use crate::log::damage::Damage;
use crate::log::dir::{Directory, FoundSegment};
use crate::log::error::{Corruption, OpenError};
use crate::log::header::{DATA_START, FORMAT_VERSION, HeaderFlaw, LogShape, SegmentHeader};
use crate::log::position::LogPosition;
use crate::log::reading::{LogVisitor, ReadProgress};
use crate::log::rebuild::{Surroundings, likely_size, rebuild};
use crate::log::recover::{Recovery, Verdict};
use crate::log::witness::find_cut;
use std::collections::{BTreeSet, HashMap};
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

/// How many sequence numbers are tried for a segment whose header is damaged, before and behind the known ones and
/// in their gaps.
const OPEN_MAX: usize = 64;

/// The segments of a directory as read and judged, nothing changed yet.
pub(super) struct Examined {
    /// Those with a sequence number, in order.
    pub(super) used: Vec<UsedSegment>,
    /// Those that were in use and are gone for what the anchor says, in order.
    pub(super) passed: Vec<UsedSegment>,
    /// What stands beside the log of those and of earlier ones.
    pub(super) anchor: FoundAnchor,
    /// Those without.
    pub(super) spare: Vec<FoundSegment>,
    /// Those that cannot be part of this log.
    pub(super) unusable: Vec<FoundSegment>,
    /// Highest number of a file of the log.
    pub(super) files: u32,
    /// Numbers of files that once were there.
    pub(super) missing: Vec<u32>,
    /// What the records say. Its flaws are among the corruptions.
    pub(super) verdict: Verdict,
    /// Where the log was found to end although something stands behind, see [`witness`](crate::log::witness).
    pub(super) cut: Option<LogPosition>,
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
    examined.take_anchor(directory)?;
    let mut progress = ReadProgress {
        bytes_total: examined.used.iter().map(|segment| segment.file.len).sum(),
        ..ReadProgress::default()
    };
    let cut = find_cut(directory, &examined.used)?;
    examined.anchor.show(visitor);
    let mut recovery = Recovery::default();
    let does_count = |segment: &&UsedSegment| cut.is_none_or(|cut| segment.sequence() <= cut.sequence());
    let used: Vec<&UsedSegment> = examined.used.iter().take_while(does_count).collect();
    let wanted = |segment: &&UsedSegment| segment.header.segment_bytes.get();
    let wanted: Vec<_> = used.iter().map(|used| (&used.file, wanted(used))).collect();
    // Of each: what cannot be read, and how many records of the engine were seen.
    let mut seen: Vec<(Vec<Range<u32>>, u64)> = Vec::with_capacity(used.len());
    let all_seen = read_each(directory, &wanted, |index, content| {
        if visitor.progress(&progress) == ControlFlow::Break(()) {
            return ControlFlow::Break(());
        }
        let segment = used[index];
        if let Some(cut) = cut.filter(|cut| cut.sequence() == segment.sequence()) {
            let end = content.bytes.len();
            content.bytes[(cut.offset() as usize).min(end)..].fill(0);
        }
        for range in &content.unreadable {
            recovery.unreadable(in_segment(segment.sequence(), range));
        }
        let mut records = 0;
        recovery.segment(&segment.header, &mut content.bytes, &mut |record| {
            records += 1;
            visitor.record(record);
        });
        progress.records += records;
        progress.bytes += segment.file.len;
        seen.push((std::mem::take(&mut content.unreadable), records));
        ControlFlow::Continue(())
    })?;
    if all_seen.is_break() || visitor.progress(&progress) == ControlFlow::Break(()) {
        return Ok(None);
    }
    for (segment, (unreadable, records)) in examined.used.iter_mut().zip(seen) {
        (segment.unreadable, segment.records) = (unreadable, records);
    }
    examined.verdict = recovery.finish();
    examined.take_cut(cut);
    examined.take_flaws(directory);
    Ok(Some(examined))
}

pub(super) fn in_segment(sequence: u32, range: &Range<u32>) -> BadRange {
    BadRange {
        start: LogPosition::new(sequence, range.start),
        end: LogPosition::new(sequence, range.end),
    }
}

/// The highest number of a file. Files are numbered from 1 and never removed, and each header tells how many there
/// were when it was written; where all headers are damaged, their number tells it.
fn highest_number(found: &[FoundSegment]) -> u32 {
    let told = found
        .iter()
        .filter_map(|segment| segment.header.ok())
        .map(|header| header.files.get());
    told.max().unwrap_or(0).max(found.len() as u32)
}

/// Whether the file can have been made under its name: never with a number above those that headers know of.
fn is_named_well(segment: &FoundSegment, highest: u32) -> bool {
    let highest = segment.header.map_or(highest, |header| header.files.get());
    (1..=highest).contains(&segment.number)
}

impl Examined {
    fn sort_out(directory: &Directory, found: Vec<FoundSegment>) -> Result<Self, OpenError> {
        let highest = highest_number(&found);
        let mut examined = Examined {
            used: Vec::new(),
            passed: Vec::new(),
            anchor: FoundAnchor::default(),
            spare: Vec::new(),
            unusable: Vec::new(),
            files: 0,
            missing: Vec::new(),
            verdict: Verdict::default(),
            cut: None,
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
                _ if !is_named_well(&segment, highest) => {
                    let reason = "the file has a name that the log did not give it";
                    examined.set_apart(segment, Damage::WrongName, reason);
                }
                Err(HeaderFlaw::Damaged(reason)) => damaged.push((segment, reason)),
                Ok(header) if header.is_spare() => examined.spare.push(segment),
                Ok(header) => examined.used.push(UsedSegment::new(header, segment)),
            }
        }
        examined.used.sort_by_key(UsedSegment::sequence);
        examined.set_strangers_apart();
        examined.take_damaged(directory, damaged)?;
        examined.count_files(directory.segment_count()?);
        Ok(examined)
    }

    /// What the headers of the log's own files say of how many there are.
    fn files_told(&self) -> u32 {
        let used = self.used.iter().map(|segment| segment.header);
        let spare = self.spare.iter().filter_map(|segment| segment.header.ok());
        let told = used.chain(spare).map(|header| header.files.get());
        told.max().unwrap_or(0)
    }

    /// Finds out how many files there should be and which are gone. `counted` knows of the last one, which else is
    /// known by its own header alone.
    fn count_files(&mut self, counted: Option<SegmentCount>) {
        let used = self.used.iter().map(|segment| segment.header);
        let mut ours = used.chain(self.spare.iter().filter_map(|segment| segment.header.ok()));
        let is_ours = |count: &SegmentCount| ours.next().is_none_or(|header| header.log_id == count.log_id);
        let counted = counted.filter(is_ours).map_or(0, |count| count.files);
        self.files = self
            .files_told()
            .max(counted.min(limits::SEGMENTS_MAX as u32 + 1));
        let named_well = self.unusable.iter().map(|segment| segment.number);
        let used = self.used.iter().map(|segment| segment.file.number);
        let spare = self.spare.iter().map(|segment| segment.number);
        let there: BTreeSet<u32> = named_well.chain(used).chain(spare).collect();
        self.missing = (1..=self.files)
            .filter(|number| !there.contains(number))
            .collect();
    }

    /// Numbers of files that a salvage makes anew.
    pub(super) fn to_replace(&self) -> Vec<u32> {
        let set_apart = self.unusable.iter().map(|segment| segment.number);
        let within = set_apart.filter(|number| (1..=self.files).contains(number));
        let mut numbers: Vec<u32> = within.chain(self.missing.iter().copied()).collect();
        // A number stands for a file, and there may be two under names that differ.
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    fn set_apart(&mut self, segment: FoundSegment, damage: Damage, reason: &str) {
        let path = segment.path.clone();
        self.corruptions.push(Corruption::new(path, damage, reason));
        self.unusable.push(segment);
    }

    /// The log to which most segments belong; the oldest of them where two have as many.
    fn log_id(&self) -> [u8; 16] {
        let mut counts: HashMap<[u8; 16], usize> = HashMap::new();
        let mut most = (0, [0; 16]);
        for id in self.used.iter().map(|segment| segment.header.log_id) {
            *counts.entry(id).or_default() += 1;
        }
        for id in self.used.iter().map(|segment| segment.header.log_id) {
            if counts[&id] > most.0 {
                most = (counts[&id], id);
            }
        }
        most.1
    }

    /// The sequence numbers among which most segments are. Those of one log are never further apart than it has
    /// files, and memory is set aside for all that lie between.
    fn reach(&self) -> Range<u32> {
        let window = |first: u32| first..first.saturating_add(limits::SEGMENT_FILES_MAX);
        let held = |first: &u32| {
            let end = window(*first).end;
            let inside = |segment: &UsedSegment| segment.sequence() < end;
            self.used.partition_point(inside)
                - self.used.partition_point(|segment| segment.sequence() < *first)
        };
        let firsts = self.used.iter().map(UsedSegment::sequence);
        window(firsts.max_by_key(held).unwrap_or(1))
    }

    /// Leaves no segment of another log, none that is out of reach, and no second one with the same place, among those in use.
    fn set_strangers_apart(&mut self) {
        let (log_id, reach) = (self.log_id(), self.reach());
        let mut previous = 0;
        for segment in std::mem::take(&mut self.used) {
            let is_near = reach.contains(&segment.sequence());
            if segment.header.log_id != log_id {
                let reason = "the segment belongs to another log than most here";
                self.set_apart(segment.file, Damage::ForeignFile, reason);
            } else if !is_near {
                let reason = "the segment's place is too far from that of the others";
                self.set_apart(segment.file, Damage::WrongOrder, reason);
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
        let told = self.files_told();
        for (file, reason) in damaged {
            let around = self.surroundings(count, told.max(file.number));
            let segment_bytes = match around.shape {
                Some(shape) => Some(shape.segment_bytes),
                None => {
                    directory.read(&file, DATA_START, &mut buffer)?;
                    likely_size(&buffer, file.len)
                }
            };
            let header = match segment_bytes {
                Some(bytes) => {
                    directory.read(&file, bytes, &mut buffer)?;
                    rebuild(&buffer, bytes, &around)
                }
                None => None,
            };
            let Some(header) = header else {
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

    fn surroundings(&self, damaged: usize, files: u32) -> Surroundings {
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
                files,
                anchor: header.anchor.get(),
            }),
            files,
        }
    }

    /// The log ends there; segments behind it were not looked at.
    fn take_cut(&mut self, cut: Option<LogPosition>) {
        self.cut = cut;
        let verdict = &mut self.verdict;
        verdict.torn_tail |= cut.is_some();
        for segment in self.passed.iter().chain(&self.used) {
            verdict.boot_max = verdict.boot_max.max(segment.header.boot.get());
            verdict.sequence_max = verdict.sequence_max.max(segment.sequence());
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
        // A number in a header may have any number of files missed: the report stays one that can be read.
        let more = missing.len().saturating_sub(MISSING_TOLD_MAX);
        let mut gone = missing
            .into_iter()
            .take(MISSING_TOLD_MAX)
            .map(|path| Corruption::new(path, Damage::MissingFile, GONE))
            .collect::<Vec<_>>();
        if let Some(last) = gone.last_mut().filter(|_| more > 0) {
            last.reason = format!("the file is gone, and so are {more} more");
        }
        self.corruptions.append(&mut gone);
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

    /// Whether the files that a salvage makes anew fit the log's limit: a number in one header must not fill the disk.
    pub(super) fn check_missing(&self, config: &LogConfig) -> Result<(), OpenError> {
        let missing = self.missing.len();
        if missing <= config.segments_max() {
            return Ok(());
        }
        Err(OpenError::Config(format!(
            "{missing} segment files are gone, and to make them anew takes more than the log's byte limit; restore \
             them or raise the limit"
        )))
    }

    /// Whether all segments have the size that the configuration asks for.
    pub(super) fn check_sizes(&self, config: &LogConfig) -> Result<(), OpenError> {
        let used = self.passed.iter().chain(&self.used);
        let used = used.map(|segment| (segment.header, &segment.file));
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
/// Files that are gone are told of one by one up to here.
const MISSING_TOLD_MAX: usize = 64;
