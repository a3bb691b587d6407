//! Opening a log: lock, read, judge, and only then write.

use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64};
use crate::log::dir::{Directory, FoundSegment};
use crate::log::error::{Corruption, LogError, OpenError};
use crate::log::log::{Log, LogConfig, Segments};
use crate::log::position::LogPosition;
use crate::log::record::{
    BadRange, DATA_START, FLAG_BOOT, FORMAT_VERSION, HEADER_LEN, HeaderFlaw, Recovered, SegmentHeader,
    StartBody,
};
use crate::log::recover::{Recovery, Verdict};
use crate::log::region::Region;
use crate::log::segment::Segment;
use crate::log::space::{Keeper, Space};
use crate::log::sync::Syncer;
use crate::log::tail::Tail;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::io;
use std::path::PathBuf;

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Number of this start, from 1.
    pub boot: u32,
    /// Segments that hold a part of the log, without the one begun now.
    pub segments: usize,
    /// The engine's records.
    pub records: u64,
    /// Their bytes with headers.
    pub bytes: u64,
    /// Where a writer died in the middle of a record (or a power cut left a gap) and later records stand.
    pub holes: Vec<BadRange>,
    /// The last record was only partly there.
    pub torn_tail: bool,
    /// What was given up, when opened with salvage.
    pub salvaged: Vec<Corruption>,
    /// Highest note found; see [`Log::set_segment_note`].
    pub note_max: u64,
}

/// The segments of a directory as read and judged, nothing changed yet.
pub(super) struct Examined {
    /// Those with a sequence number, in order.
    pub(super) used: Vec<(SegmentHeader, FoundSegment)>,
    /// Those without.
    pub(super) spare: Vec<FoundSegment>,
    /// Those whose header cannot be read.
    pub(super) unreadable: Vec<FoundSegment>,
    pub(super) verdict: Verdict,
}

/// Reads and judges all of a directory.
pub(super) fn examine(
    directory: &Directory,
    visit: &mut dyn FnMut(Recovered<'_>),
) -> Result<Examined, OpenError> {
    let (mut used, mut spare, mut unreadable) = (Vec::new(), Vec::new(), Vec::new());
    let mut flaws = Vec::new();
    for segment in directory.list()? {
        match segment.header {
            Err(HeaderFlaw::Newer(found)) => {
                let path = segment.path;
                return Err(OpenError::NewerFormat {
                    path,
                    found,
                    supported: FORMAT_VERSION,
                });
            }
            Err(HeaderFlaw::Damaged(reason)) => {
                flaws.push(Corruption {
                    position: LogPosition::NONE,
                    reason: reason.to_owned(),
                });
                unreadable.push(segment);
            }
            Ok(header) if header.is_spare() => spare.push(segment),
            Ok(header) => used.push((header, segment)),
        }
    }
    used.sort_by_key(|(header, _)| header.sequence.get());
    set_strangers_apart(&mut used, &mut unreadable, &mut flaws);
    let mut recovery = Recovery::default();
    let mut buffer = Vec::new();
    for (header, segment) in &used {
        segment.read(&mut buffer)?;
        buffer.truncate(header.segment_bytes.get() as usize);
        recovery.segment(header, &buffer, visit);
    }
    let mut verdict = recovery.finish();
    flaws.append(&mut verdict.corruptions);
    verdict.corruptions = flaws;
    Ok(Examined {
        used,
        spare,
        unreadable,
        verdict,
    })
}

/// A segment of another log, or a second copy of one, is treated as one that cannot be read.
fn set_strangers_apart(
    used: &mut Vec<(SegmentHeader, FoundSegment)>,
    unreadable: &mut Vec<FoundSegment>,
    flaws: &mut Vec<Corruption>,
) {
    let Some(log_id) = used.first().map(|(header, _)| header.log_id) else {
        return;
    };
    let mut previous = 0;
    for (header, segment) in std::mem::take(used) {
        let reason = if header.log_id != log_id {
            "the segment belongs to another log than the oldest one here"
        } else if header.sequence.get() == previous {
            "there is another file with the same place in the log"
        } else {
            previous = header.sequence.get();
            used.push((header, segment));
            continue;
        };
        flaws.push(Corruption {
            position: LogPosition::NONE,
            reason: reason.to_owned(),
        });
        unreadable.push(segment);
    }
}

impl Examined {
    /// The first corruption as an error that names the file.
    pub(super) fn first_corruption(&self, directory: &Directory) -> Option<OpenError> {
        let corruption = self.verdict.corruptions.first()?;
        let position = corruption.position;
        let holder = self
            .used
            .iter()
            .find(|(header, _)| header.sequence.get() == position.sequence());
        let path = match (position.is_none(), self.unreadable.first(), holder) {
            (true, Some(unreadable), _) => unreadable.path.clone(),
            (_, _, Some((_, segment))) => segment.path.clone(),
            _ => directory.path().to_owned(),
        };
        let (offset, reason) = (u64::from(position.offset()), corruption.reason.clone());
        Some(OpenError::Corrupt { path, offset, reason })
    }

    fn check_sizes(&self, config: &LogConfig) -> Result<(), OpenError> {
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

fn failed(action: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path, source }
}

impl Log {
    /// Opens the log, showing each of the engine's records to `visit` in order. What was visited counts only if
    /// this succeeds. A new segment is begun; nothing is ever appended to what a former start wrote.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing in the directory was changed then, except that the lock file exists.
    pub fn open(
        config: LogConfig,
        now_ms: u64,
        visit: &mut dyn FnMut(Recovered<'_>),
    ) -> Result<(Log, RecoveryReport), OpenError> {
        config.check()?;
        let Some(path) = &config.directory else {
            return Self::open_in_memory(&config, now_ms);
        };
        let directory = Directory::open(path)?;
        let mut examined = examine(&directory, visit)?;
        if !config.salvage
            && let Some(error) = examined.first_corruption(&directory)
        {
            return Err(error);
        }
        examined.check_sizes(&config)?;
        let verdict = std::mem::take(&mut examined.verdict);
        let report = RecoveryReport {
            boot: verdict.boot_max + 1,
            segments: examined
                .used
                .iter()
                .filter(|(h, _)| h.sequence.get() <= verdict.keep_through)
                .count(),
            records: verdict.counts.records,
            bytes: verdict.counts.bytes,
            holes: verdict.holes.clone(),
            torn_tail: verdict.torn_tail,
            salvaged: verdict.corruptions.clone(),
            note_max: verdict.note_max,
        };
        let start = StartBody {
            note: verdict.note_max,
            previous_end: verdict.end,
            accepted: verdict.accepted.clone(),
        };
        let log = Self::take_over(&config, directory, examined, &verdict, now_ms)?;
        log.begin_boot(&start)?;
        Ok((log, report))
    }

    fn open_in_memory(config: &LogConfig, now_ms: u64) -> Result<(Log, RecoveryReport), OpenError> {
        let (segments, space) = (
            Segments::new(config.segments_max() + 1, config.segments_max() + 1),
            Space::new(Vec::new(), 0, config.segments_max()),
        );
        let keeper = Keeper {
            next_sequence: 1,
            oldest: 1,
            next_number: 1,
        };
        let log = Self::assemble(config, None, segments, space, keeper, (1, [0; 16]), now_ms);
        log.begin_boot(&StartBody::default())?;
        Ok((
            log,
            RecoveryReport {
                boot: 1,
                ..RecoveryReport::default()
            },
        ))
    }

    /// Makes what was read last, maps it, and turns what is not needed into spares. The first writes happen here.
    fn take_over(
        config: &LogConfig,
        directory: Directory,
        examined: Examined,
        verdict: &Verdict,
        now_ms: u64,
    ) -> Result<Log, OpenError> {
        let Examined {
            used,
            spare,
            unreadable,
            ..
        } = examined;
        let spoiled = |action, error| failed(action, directory.path().to_owned())(error);
        directory
            .remove_unfinished()
            .map_err(|error| spoiled("tidy", error))?;
        for segment in &unreadable {
            directory
                .set_aside(&segment.path)
                .map_err(|error| spoiled("set damaged files aside in", error))?;
        }
        for (_, segment) in &used {
            segment.sync()?;
        }
        let log_id = match used.first() {
            Some((header, _)) => header.log_id,
            None => random_id().map_err(|error| spoiled("draw a random number for", error))?,
        };
        let number_max = used
            .iter()
            .map(|(_, s)| s)
            .chain(&spare)
            .map(|s| s.number)
            .max()
            .unwrap_or(0);
        let existing = used.len() + spare.len();
        // A start may take one segment beyond the limit.
        let capacity = config.segments_max().max(number_max as usize) + 1;
        let span = verdict.sequence_max as usize - used.first().map_or(0, |(h, _)| h.sequence.get() as usize);
        let segments = Segments::new(capacity, capacity + span);
        let map = |number: u32| {
            let file = directory.open_segment(number, config.segment_bytes)?;
            segments.add(Segment::new(
                number,
                Region::of_file(&file, config.segment_bytes as usize)?,
            ));
            Ok::<_, io::Error>(segments.by_number(number))
        };
        let mut unused: Vec<u32> = Vec::new();
        let spare_header = SegmentHeader::new(0, 0, 0, config.segment_bytes, log_id);
        // Newest first: the numbers on the disk have no gap at any time.
        for (header, found) in used.iter().rev() {
            let segment = map(found.number).map_err(failed("map", found.path.clone()))?;
            if header.sequence.get() > verdict.keep_through {
                segment
                    .write_header(&spare_header, true)
                    .map_err(failed("reset", found.path.clone()))?;
                unused.push(found.number);
            } else {
                segment.assign(header);
                segment.seal(config.segment_bytes);
                segments.install(header.sequence.get(), found.number);
            }
        }
        for found in &spare {
            map(found.number).map_err(failed("map", found.path.clone()))?;
            unused.push(found.number);
        }
        let next_sequence = if verdict.keep_through > 0 {
            verdict.keep_through + 1
        } else {
            verdict.sequence_max + 1
        };
        let oldest = match used.first() {
            Some((header, _)) if verdict.keep_through > 0 => header.sequence.get(),
            _ => next_sequence,
        };
        let keeper = Keeper {
            next_sequence,
            oldest,
            next_number: number_max + 1,
        };
        let space = Space::new(unused, existing, config.segments_max());
        let identity = (verdict.boot_max + 1, log_id);
        Ok(Self::assemble(
            config,
            Some(directory),
            segments,
            space,
            keeper,
            identity,
            now_ms,
        ))
    }

    fn assemble(
        config: &LogConfig,
        directory: Option<Directory>,
        segments: Segments,
        space: Space,
        keeper: Keeper,
        (boot, log_id): (u32, [u8; 16]),
        now_ms: u64,
    ) -> Log {
        let start = LogPosition::new(keeper.next_sequence, DATA_START);
        Log {
            tail: CachePadded::new(Tail::new(start)),
            durable: CachePadded::new(AtomicU64::new(start.raw())),
            obtainable: AtomicU32::new(0),
            is_poisoned: AtomicBool::new(false),
            recycles_unsynced: AtomicBool::new(false),
            now_ms: AtomicU64::new(now_ms),
            note: AtomicU64::new(0),
            hold: AtomicU32::new(u32::MAX),
            oldest: AtomicU32::new(keeper.oldest),
            segment_bytes: config.segment_bytes,
            boot,
            log_id,
            segments,
            directory,
            roll_lock: Mutex::new(()),
            space: Mutex::new(space),
            keeper: Mutex::new(keeper),
            syncer: Syncer::new(start, now_ms),
        }
    }

    /// Begins the first segment of this boot, and waits until its opening record is on the disk: later starts
    /// rely on it.
    fn begin_boot(&self, start: &StartBody) -> Result<(), OpenError> {
        let path = self
            .directory
            .as_ref()
            .map(|directory| directory.path().to_owned())
            .unwrap_or_default();
        let room = (self.segment_bytes - DATA_START) as usize;
        if HEADER_LEN + start.encode().len() > room {
            let text = "the log has more damaged places than a segment can list".to_owned();
            return Err(OpenError::Config(text));
        }
        self.set_segment_note(start.note);
        let refused = |error: LogError| match error {
            LogError::Full { .. } => {
                failed("begin a segment in", path.clone())(io::ErrorKind::StorageFull.into())
            }
            other => failed("begin a segment in", path.clone())(io::Error::other(other)),
        };
        let sequence = self.take_first().map_err(refused)?;
        let end = self.begin_segment(sequence, FLAG_BOOT, start);
        self.tail.roll(end);
        self.sync().map_err(refused)?;
        Ok(())
    }
}

fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(id)
}
