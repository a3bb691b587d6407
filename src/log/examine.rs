//! Reading and judging a whole directory, without changing it.

use crate::log::config::LogConfig;
use crate::log::dir::{Directory, FoundSegment};
use crate::log::error::{Corruption, OpenError};
use crate::log::record::{FORMAT_VERSION, HeaderFlaw, Recovered, SegmentHeader};
use crate::log::recover::{Recovery, Verdict};
use std::path::PathBuf;

/// The segments of a directory as read and judged, nothing changed yet.
pub(super) struct Examined {
    /// Those with a sequence number, in order.
    pub(super) used: Vec<(SegmentHeader, FoundSegment)>,
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

/// Reads and judges all of a directory.
pub(super) fn examine(
    directory: &Directory,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<Examined, OpenError> {
    let found = directory.list()?;
    let missing = missing_numbers(&found);
    let mut examined = Examined::sort_out(found)?;
    for number in &missing {
        let path = directory.segment_path(*number);
        examined.corruptions.push(Corruption {
            path,
            offset: 0,
            reason: "the file is gone".to_owned(),
        });
    }
    examined.missing = missing;

    let mut recovery = Recovery::default();
    let mut buffer = Vec::new();
    for (header, segment) in &examined.used {
        directory.read(segment, &mut buffer)?;
        recovery.segment(header, &buffer, visit);
    }
    examined.verdict = recovery.finish();
    for flaw in std::mem::take(&mut examined.verdict.flaws) {
        let path = examined
            .path_of(flaw.position.sequence())
            .unwrap_or_else(|| directory.path().to_owned());
        let (offset, reason) = (u64::from(flaw.position.offset()), flaw.reason.to_owned());
        examined.corruptions.push(Corruption { path, offset, reason });
    }
    Ok(examined)
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
    fn sort_out(found: Vec<FoundSegment>) -> Result<Self, OpenError> {
        let mut examined = Examined {
            used: Vec::new(),
            spare: Vec::new(),
            unusable: Vec::new(),
            missing: Vec::new(),
            verdict: Verdict::default(),
            corruptions: Vec::new(),
        };
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
                Err(HeaderFlaw::Damaged(reason)) => examined.set_apart(segment, reason),
                Ok(header) if header.is_spare() => examined.spare.push(segment),
                Ok(header) => examined.used.push((header, segment)),
            }
        }
        examined.used.sort_by_key(|(header, _)| header.sequence.get());
        examined.set_strangers_apart();
        Ok(examined)
    }

    fn set_apart(&mut self, segment: FoundSegment, reason: &str) {
        let path = segment.path.clone();
        self.corruptions.push(Corruption {
            path,
            offset: 0,
            reason: reason.to_owned(),
        });
        self.unusable.push(segment);
    }

    /// Leaves no segment of another log, and no second one with the same place, among those in use.
    fn set_strangers_apart(&mut self) {
        let log_id = self.used.first().map(|(header, _)| header.log_id);
        let mut previous = 0;
        for (header, segment) in std::mem::take(&mut self.used) {
            if Some(header.log_id) != log_id {
                self.set_apart(
                    segment,
                    "the segment belongs to another log than the oldest one here",
                );
            } else if header.sequence.get() == previous {
                self.set_apart(segment, "there is another file with the same place in the log");
            } else {
                previous = header.sequence.get();
                self.used.push((header, segment));
            }
        }
    }

    fn path_of(&self, sequence: u32) -> Option<PathBuf> {
        let holder = self
            .used
            .iter()
            .find(|(header, _)| header.sequence.get() == sequence)?;
        Some(holder.1.path.clone())
    }

    /// The first corruption as an error.
    pub(super) fn first_corruption(&self) -> Option<OpenError> {
        let Corruption { path, offset, reason } = self.corruptions.first()?.clone();
        Some(OpenError::Corrupt { path, offset, reason })
    }

    /// Whether all segments have the size that the configuration asks for.
    pub(super) fn check_sizes(&self, config: &LogConfig) -> Result<(), OpenError> {
        let spares = self
            .spare
            .iter()
            .filter_map(|segment| Some((segment.header.ok()?, segment)));
        for (header, segment) in self
            .used
            .iter()
            .map(|(header, segment)| (*header, segment))
            .chain(spares)
        {
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
