//! Opening a log: lock, read, judge, and only then write.

use crate::base::limits;
use crate::base::stamp;
use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64};
use crate::log::anchor::Anchors;
use crate::log::bad_range::BadRange;
use crate::log::config::LogConfig;
use crate::log::count::SegmentCount;
use crate::log::dir::Directory;
use crate::log::disk::Disk;
use crate::log::error::{Corruption, LogError, OpenError};
use crate::log::examine::{Examined, UsedSegment, examine};
use crate::log::file_system::failed;
use crate::log::group::GroupCommit;
use crate::log::header::{DATA_START, LogShape, SegmentHeader};
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::reading::{LogVisitor, ReadProgress, Reading};
use crate::log::record::{HEADER_LEN, Recovered};
use crate::log::recover::Verdict;
use crate::log::segment::Segment;
use crate::log::space::{Keeper, Space};
use crate::log::start::{FLAG_BOOT, StartBody};
use crate::log::sync::Syncer;
use crate::log::table::Segments;
use crate::log::tail::Tail;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

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

impl Log {
    /// Opens the log, showing each of the engine's records to `visit` in order. What was visited counts only if
    /// this succeeds. A new segment is begun; nothing is ever appended to what a former start wrote.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing in the directory was changed then, except that the lock file exists. (A disk
    /// that fails while the new segment is begun is the exception; what was there before is whole even so.)
    pub fn open(
        config: LogConfig,
        now_ms: u64,
        mut visit: &mut dyn FnMut(Recovered<'_>),
    ) -> Result<(Log, RecoveryReport), OpenError> {
        if config.directory.is_none() {
            config.check()?;
            return Self::open_in_memory(&config, now_ms);
        }
        Self::read(&config, &mut visit)?.open(&config, now_ms)
    }

    /// Reads and judges the log without changing it: for callers that want to know what is damaged before they
    /// go on, by [`Reading::open`].
    ///
    /// # Errors
    /// As [`open`](Self::open), but damage is told by [`Reading::corruptions`].
    pub fn read(config: &LogConfig, visitor: &mut dyn LogVisitor) -> Result<Reading, OpenError> {
        config.check()?;
        let Some(path) = &config.directory else {
            return Err(OpenError::Config("a log in memory cannot be read".to_owned()));
        };
        let directory = Directory::open(&*config.disk(), path)?;
        let examined = examine(&directory, &mut Steadfast(visitor))?;
        let Some(examined) = examined else {
            unreachable!("a start never ends early")
        };
        Ok(Reading::new(directory, examined))
    }

    fn open_in_memory(config: &LogConfig, now_ms: u64) -> Result<(Log, RecoveryReport), OpenError> {
        let count = config.segments_max() + 1;
        let log = Log::assemble(Parts {
            directory: None,
            segments: Segments::new(count, count),
            space: Space::new(Vec::new(), 0, config.segments_max()),
            keeper: Keeper {
                next_sequence: 1,
                oldest: 1,
                next_number: 1,
            },
            boot: 1,
            log_id: [0; 16],
            segment_bytes: config.segment_bytes,
            now_ms,
            disk: config.disk(),
            anchors: Anchors::default(),
        });
        log.begin_boot(&StartBody::default())?;
        Ok((
            log,
            RecoveryReport {
                boot: 1,
                ..RecoveryReport::default()
            },
        ))
    }

    fn assemble(parts: Parts) -> Log {
        let start = LogPosition::new(parts.keeper.next_sequence, DATA_START);
        Log {
            tail: CachePadded::new(Tail::new(start)),
            durable: CachePadded::new(GroupCommit::new(start)),
            obtainable: AtomicU32::new(0),
            kept_from_enqueues: AtomicU32::new(2),
            kept_from_hand_outs: AtomicU32::new(0),
            kept_bytes: AtomicU64::new(0),
            jobs_over: AtomicU64::new(0),
            live_bytes: AtomicU64::new(u64::MAX),
            is_poisoned: AtomicBool::new(false),
            recycles_unsynced: AtomicBool::new(false),
            now_ms: AtomicU64::new(parts.now_ms),
            note: AtomicU64::new(0),
            hold: AtomicU32::new(u32::MAX),
            oldest: AtomicU32::new(parts.keeper.oldest),
            segment_bytes: parts.segment_bytes,
            leave_at: AtomicU32::new(parts.segment_bytes),
            first_sequence: parts.keeper.next_sequence,
            boot: parts.boot,
            log_id: parts.log_id,
            segments: parts.segments,
            directory: parts.directory,
            disk: parts.disk,
            roll_lock: Mutex::new(0),
            space: Mutex::new(parts.space),
            keeper: Mutex::new(parts.keeper),
            syncer: Syncer::new(start, parts.now_ms),
            anchor_number: AtomicU64::new(parts.anchors.number),
            anchors: Mutex::new(parts.anchors),
            #[cfg(planted)]
            stalled: Mutex::new(None),
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
        let refused = |error: LogError| {
            let source = match error {
                LogError::Full {
                    obstacle: Some(text), ..
                } => io::Error::other(text.as_ref()),
                LogError::Full { obstacle: None, .. } => io::ErrorKind::StorageFull.into(),
                other => io::Error::other(other),
            };
            failed("begin a segment in", &path)(source)
        };
        self.set_segment_note(start.note);
        let sequence = self.take_first().map_err(refused)?;
        let end = self.begin_segment(sequence, FLAG_BOOT, start);
        self.tail.roll(end);
        self.sync().map_err(refused)?;
        Ok(())
    }

    /// Notes, before anybody is served, on which machine this start writes.
    fn vouch(&self) -> Result<(), OpenError> {
        let Some(directory) = &self.directory else {
            return Ok(());
        };
        let vouched = directory.vouch(self.log_id, self.boot);
        vouched.map_err(failed("write the machine's name in", directory.path()))
    }
}

impl RecoveryReport {
    fn new(examined: &Examined) -> Self {
        let verdict = &examined.verdict;
        let is_kept = |segment: &&UsedSegment| segment.sequence() <= verdict.keep_through;
        Self {
            boot: verdict.boot_max + 1,
            segments: examined.used.iter().filter(is_kept).count(),
            records: verdict.counts.records,
            bytes: verdict.counts.bytes,
            holes: verdict.holes.clone(),
            torn_tail: verdict.torn_tail,
            salvaged: examined.corruptions.clone(),
            note_max: verdict.note_max,
        }
    }
}

impl StartBody {
    fn check_room(&self, config: &LogConfig) -> Result<(), OpenError> {
        if HEADER_LEN + self.encode().len() <= (config.segment_bytes - DATA_START) as usize {
            return Ok(());
        }
        Err(OpenError::Config(
            "the log has more damaged places than a segment can list".to_owned(),
        ))
    }
}

/// A visitor that does not end a start.
struct Steadfast<'a>(&'a mut dyn LogVisitor);

impl LogVisitor for Steadfast<'_> {
    fn record(&mut self, record: Recovered<'_>) {
        self.0.record(record);
    }

    fn progress(&mut self, progress: &ReadProgress) -> ControlFlow<()> {
        let _ = self.0.progress(progress);
        ControlFlow::Continue(())
    }
}

impl Reading {
    /// Why the log is not to be opened with this configuration, if so.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] unless salvage is asked for, [`OpenError::SegmentSize`], [`OpenError::Config`].
    pub fn check(&self, config: &LogConfig) -> Result<(), OpenError> {
        if !config.salvage
            && let Some(error) = self.examined.first_corruption()
        {
            return Err(error);
        }
        self.examined.check_sizes(config)?;
        self.examined.check_missing(config)?;
        self.start_body().check_room(config)
    }

    fn start_body(&self) -> StartBody {
        let verdict = &self.examined.verdict;
        StartBody {
            note: verdict.note_max,
            previous_end: verdict.end,
            accepted: verdict.accepted.clone(),
        }
    }

    /// Goes on with the log as it was read. Where it is damaged and is to be salvaged, the damaged bytes are put
    /// aside first, if [`salvage`](Self::salvage) has not done so.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open(mut self, config: &LogConfig, now_ms: u64) -> Result<(Log, RecoveryReport), OpenError> {
        self.check(config)?;
        if !self.corruptions().is_empty() {
            self.put_aside(&salvage_name(now_ms))?;
        }
        let start = self.start_body();
        let Self {
            directory,
            mut examined,
            ..
        } = self;
        let log = TakeOver::new(config, directory, &mut examined)?.finish(&examined.verdict, now_ms);
        let report = RecoveryReport::new(&examined);
        log.begin_boot(&start)?;
        log.vouch()?;
        Ok((log, report))
    }

    /// Puts the damaged bytes aside, then writes what `describe` says of them beside the log. Both are on the disk
    /// when this returns, and nothing of the log was changed. Says where the text stands.
    ///
    /// # Errors
    /// [`OpenError::Io`].
    pub fn salvage(
        &mut self,
        now_ms: u64,
        describe: &mut dyn FnMut(&Self) -> Result<String, OpenError>,
    ) -> Result<PathBuf, OpenError> {
        let name = salvage_name(now_ms);
        self.put_aside(&name)?;
        let text = describe(self)?;
        self.write_beside(&format!("{name}.txt"), &text)
    }
}

fn salvage_name(now_ms: u64) -> String {
    format!("salvage-{}", stamp::compact(now_ms))
}

/// What a log is put together from.
struct Parts {
    directory: Option<Directory>,
    disk: Arc<dyn Disk>,
    segments: Segments,
    space: Space,
    keeper: Keeper,
    boot: u32,
    log_id: [u8; 16],
    segment_bytes: u32,
    now_ms: u64,
    anchors: Anchors,
}

/// Turns a directory that was judged into a log: makes what was read last, maps it, and turns what is not needed
/// into spares. Here the first writes happen.
struct TakeOver<'a> {
    config: &'a LogConfig,
    directory: Directory,
    shape: LogShape,
    segments: Segments,
    spare: Vec<u32>,
    existing: usize,
    oldest: u32,
    next_sequence: u32,
    anchors: Anchors,
}

impl<'a> TakeOver<'a> {
    fn new(config: &'a LogConfig, directory: Directory, examined: &mut Examined) -> Result<Self, OpenError> {
        let path = directory.path().to_owned();
        let spoiled = |action| failed(action, &path);
        directory.remove_unfinished().map_err(spoiled("tidy"))?;
        // A start that was killed may have given a file its name and not waited for the directory.
        directory.sync().map_err(spoiled("sync"))?;
        examined.set_aside(&directory)?;
        let Examined {
            used,
            passed,
            spare,
            files,
            verdict,
            cut,
            anchor,
            ..
        } = &*examined;
        for segment in used {
            for range in &segment.unreadable {
                directory.blank(&segment.file, range.clone())?;
            }
            if let Some(cut) = cut.filter(|cut| cut.sequence() == segment.sequence()) {
                // What stands behind must not be there when a later start looks.
                let rest = cut.offset()..segment.header.segment_bytes.get();
                directory.blank(&segment.file, rest)?;
            }
        }
        // Spares too: a start that was killed may have retired one in the cache only, and after a power cut its old
        // header would be back.
        let with_places = passed.iter().chain(used).map(|segment| &segment.file);
        for segment in with_places.chain(spare) {
            directory.sync_file(segment)?;
        }
        let of_spares = spare.iter().find_map(|segment| segment.header.ok());
        let oldest = passed.first().or(used.first()).map(|segment| segment.header);
        let log_id = match oldest.or(of_spares) {
            Some(header) => header.log_id,
            None => random_id(&*config.disk()).map_err(spoiled("draw a random number for"))?,
        };
        let (first, next_sequence) = match used.first() {
            Some(first) if verdict.keep_through > 0 => (first.sequence(), verdict.keep_through + 1),
            _ => {
                let next = (verdict.sequence_max + 1).max(anchor.cleared());
                (next, next)
            }
        };
        // Before anything goes that it tells of.
        let anchors = Anchors::take_over(&directory, (log_id, config.segment_bytes), anchor, first);
        let anchors = anchors.map_err(spoiled("write the anchor in"))?;
        let count = SegmentCount {
            log_id,
            files: *files,
        };
        if *files > 0 && directory.segment_count()? != Some(count) {
            directory
                .count_segments(count)
                .map_err(spoiled("count the segments of"))?;
        }
        // A start may take one segment beyond the limit, and copies some; a salvage may have left a gap in the sequence
        // numbers.
        let capacity = config.segments_max().max(*files as usize) + 1 + limits::SEGMENTS_FOR_COPIES;
        let mut this = Self {
            config,
            directory,
            shape: LogShape {
                log_id,
                segment_bytes: config.segment_bytes,
                files: *files,
                anchor: anchors.number,
            },
            segments: Segments::new(capacity, capacity + (next_sequence - first) as usize),
            spare: Vec::new(),
            existing: 0,
            oldest: first,
            next_sequence,
            anchors,
        };
        for segment in passed {
            this.take_used(segment, false)?;
        }
        // Newest first, so that the numbers on the disk have no gap at any time.
        for segment in used.iter().rev() {
            this.take_used(segment, segment.sequence() <= verdict.keep_through)?;
        }
        for found in spare {
            this.take_spare(found.number)?;
        }
        for number in examined.to_replace() {
            let header = SegmentHeader::spare(this.shape);
            let made = this.directory.create(number, config.segment_bytes, &header);
            made.map_err(failed("replace", &this.directory.segment_path(number)))?;
            this.take_spare(number)?;
        }
        Ok(this)
    }

    fn map(&mut self, number: u32) -> Result<&Segment, OpenError> {
        let result = self
            .directory
            .open_segment(number, self.config.segment_bytes)
            .and_then(|file| {
                let region = file.map(self.config.segment_bytes as usize)?;
                self.segments.add(Segment::new(number, region, true));
                Ok(())
            });
        result.map_err(failed("map", &self.directory.segment_path(number)))?;
        self.existing += 1;
        Ok(self.segments.by_number(number))
    }

    fn take_used(&mut self, used: &UsedSegment, keep: bool) -> Result<(), OpenError> {
        let (spare_header, segment_end) = (SegmentHeader::spare(self.shape), self.config.segment_bytes);
        let (header, found) = (&used.header, &used.file);
        let segment = self.map(found.number)?;
        if keep {
            if used.has_lost_header() {
                segment
                    .write_header(header, true)
                    .map_err(failed("write the header of", &found.path))?;
            }
            segment.assign(header);
            segment.seal(segment_end);
            self.segments.install(header.sequence.get(), found.number);
        } else {
            segment
                .write_header(&spare_header, true)
                .map_err(failed("reset", &found.path))?;
            self.spare.push(found.number);
        }
        Ok(())
    }

    fn take_spare(&mut self, number: u32) -> Result<(), OpenError> {
        self.map(number)?;
        self.spare.push(number);
        Ok(())
    }

    fn finish(self, verdict: &Verdict, now_ms: u64) -> Log {
        let keeper = Keeper {
            next_sequence: self.next_sequence,
            oldest: self.oldest,
            next_number: self.shape.files + 1,
        };
        Log::assemble(Parts {
            directory: Some(self.directory),
            segments: self.segments,
            space: Space::new(self.spare, self.existing, self.config.segments_max()),
            keeper,
            boot: verdict.boot_max + 1,
            log_id: self.shape.log_id,
            segment_bytes: self.config.segment_bytes,
            now_ms,
            disk: self.config.disk(),
            anchors: self.anchors,
        })
    }
}

fn random_id(disk: &dyn Disk) -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    disk.random(&mut id)?;
    Ok(id)
}
