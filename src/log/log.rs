//! The log itself: claims, pins, live counts.

use crate::base::crc::crc32c;
use crate::base::limits;
use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::log::dir::Directory;
use crate::log::error::{LogError, OpenError};
use crate::log::position::LogPosition;
use crate::log::record::{
    DATA_START, HEADER_LEN, KIND_LOG_FIRST, RecordMeta, Recovered, SEGMENT_HEADER_LEN, StartBody,
};
use crate::log::segment::Segment;
use crate::log::space::{Keeper, Space};
use crate::log::sync::Syncer;
use crate::log::tail::Tail;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Where the log lives and how large it may become.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The directory, made if it is not there. `None`: anonymous memory, gone with the process.
    pub directory: Option<PathBuf>,
    /// Size of a segment, in bytes: a multiple of 4096 between [`limits::SEGMENT_BYTES_MIN`] and
    /// [`limits::SEGMENT_BYTES_MAX`]. Fixed for the life of a directory.
    pub segment_bytes: u32,
    /// What all segments together may take, in bytes; at least four segments.
    pub log_bytes_max: u64,
    /// Give up what is corrupt, instead of refusing to open.
    pub salvage: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            directory: None,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            log_bytes_max: limits::LOG_BYTES_DEFAULT,
            salvage: false,
        }
    }
}

impl LogConfig {
    /// How many segments there may be.
    pub(super) fn segments_max(&self) -> usize {
        let segments = self.log_bytes_max / u64::from(self.segment_bytes);
        usize::try_from(segments)
            .unwrap_or(usize::MAX)
            .min(limits::SEGMENTS_MAX)
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let (min, max) = (limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX);
        if !(min..=max).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(OpenError::Config(format!(
                "a segment has {min} to {max} bytes, a multiple of 4096, not {}",
                self.segment_bytes
            )));
        }
        if self.segments_max() < limits::SEGMENTS_MIN {
            let text = format!(
                "the log's byte limit must hold at least {} segments",
                limits::SEGMENTS_MIN
            );
            return Err(OpenError::Config(text));
        }
        Ok(())
    }
}

/// What a record is for, which decides how much of the reserve it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// New jobs. Refused while fewer than two further segments could be had.
    Enqueue,
    /// Settling and handing out: may take all further segments but one.
    Settle,
    /// What frees segments: may take the last.
    Migrate,
}

impl Room {
    /// How many segments must be left after a roll for this purpose.
    pub(super) fn roll_reserve(self) -> usize {
        match self {
            Room::Enqueue => 2,
            Room::Settle => 1,
            Room::Migrate => 0,
        }
    }
}

/// All segments that exist, found by file number or by sequence number, without a lock.
pub(super) struct Segments {
    by_number: Box<[OnceLock<Segment>]>,
    /// At `sequence & mask`: sequence number in the upper half, file number in the lower.
    by_sequence: Box<[AtomicU64]>,
    mask: u32,
}

impl Segments {
    /// For file numbers up to `capacity`, and sequence numbers of which those in use at any time lie within
    /// `span` of each other.
    pub(super) fn new(capacity: usize, span: usize) -> Self {
        let places = span.next_power_of_two();
        Self {
            by_number: (0..capacity).map(|_| OnceLock::new()).collect(),
            by_sequence: (0..places).map(|_| AtomicU64::new(0)).collect(),
            mask: (places - 1) as u32,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn add(&self, segment: Segment) {
        let place = &self.by_number[segment.number as usize - 1];
        assert!(place.set(segment).is_ok(), "a segment's number is given once");
    }

    pub(super) fn by_number(&self, number: u32) -> &Segment {
        match self.by_number[number as usize - 1].get() {
            Some(segment) => segment,
            None => unreachable!("numbers are only known of segments that exist"),
        }
    }

    pub(super) fn install(&self, sequence: u32, number: u32) {
        let entry = u64::from(sequence) << 32 | u64::from(number);
        // Release: pairs with the Acquire below; the segment is complete before it can be found.
        self.by_sequence[(sequence & self.mask) as usize].store(entry, Ordering::Release);
    }

    /// The segment that was last installed under that number; it may have been retired since.
    #[inline]
    pub(super) fn by_sequence(&self, sequence: u32) -> Option<&Segment> {
        let entry = self.by_sequence[(sequence & self.mask) as usize].load(Ordering::Acquire);
        if (entry >> 32) as u32 != sequence || entry == 0 {
            return None;
        }
        self.by_number[(entry as u32) as usize - 1].get()
    }
}

/// A write-ahead log in memory-mapped segments (or in plain memory). Shared by reference between threads.
pub struct Log {
    pub(super) tail: CachePadded<Tail>,
    /// Raw position up to which everything is on the disk.
    pub(super) durable: CachePadded<AtomicU64>,
    /// How many further segments could be had, for the check at each claim.
    pub(super) obtainable: AtomicU32,
    pub(super) is_poisoned: AtomicBool,
    pub(super) recycles_unsynced: AtomicBool,
    /// Time of the last step, in milliseconds since the Unix epoch, for records that the log writes by itself.
    pub(super) now_ms: AtomicU64,
    pub(super) note: AtomicU64,
    pub(super) hold: AtomicU32,
    pub(super) oldest: AtomicU32,
    pub(super) segment_bytes: u32,
    pub(super) boot: u32,
    pub(super) log_id: [u8; 16],
    pub(super) segments: Segments,
    pub(super) directory: Option<Directory>,
    pub(super) roll_lock: Mutex<()>,
    pub(super) space: Mutex<Space>,
    pub(super) keeper: Mutex<Keeper>,
    pub(super) syncer: Syncer,
}

/// A range of the log that belongs to one writer until it is committed. Dropped without that, it becomes padding.
pub struct Claim<'a> {
    log: &'a Log,
    segment: &'a Segment,
    position: LogPosition,
    /// Whole record.
    len: u32,
    /// How much of the body is written.
    filled: u32,
    body_crc: u32,
    is_committed: bool,
}

impl Claim<'_> {
    /// Where the record's header begins.
    #[inline]
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Where the body begins.
    #[inline]
    pub fn body_position(&self) -> LogPosition {
        self.position.plus(HEADER_LEN as u32)
    }

    /// Body bytes that are not written yet.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.len as usize - HEADER_LEN - self.filled as usize
    }

    /// Copies the next bytes of the body. Panics when they do not fit.
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.remaining(),
            "a claim takes no more than was asked for"
        );
        let offset = self.position.offset() as usize + HEADER_LEN + self.filled as usize;
        self.segment.region().write(offset, bytes);
        self.body_crc = crc32c(self.body_crc, bytes);
        self.filled += bytes.len() as u32;
    }

    /// Publishes the record and returns its end: once [`Log::durable`] has reached that, it is on the disk.
    ///
    /// `kind` is below [`KIND_LOG_FIRST`]; `now_ms` is the time for recovery; `live` jobs are added to the
    /// segment's live count first. What of the body was not written becomes zeros.
    #[inline]
    pub fn commit(mut self, kind: u8, flags: u8, now_ms: u64, live: u32) -> LogPosition {
        assert!(kind < KIND_LOG_FIRST, "kinds from 0xF0 on are the log's own");
        if live > 0 {
            self.segment.live.retain(u64::from(live));
        }
        self.publish(kind, flags, now_ms)
    }

    #[inline]
    pub(super) fn publish(&mut self, kind: u8, flags: u8, now_ms: u64) -> LogPosition {
        self.zero_rest();
        let meta = RecordMeta {
            kind,
            flags,
            durable_mark: self.log.durable_mark(),
            now_ms,
        };
        self.segment.commit(self.position, self.len, self.body_crc, &meta);
        self.is_committed = true;
        self.position.plus(self.len)
    }

    #[inline]
    fn zero_rest(&mut self) {
        const ZEROS: [u8; 64] = [0; 64];
        while self.remaining() > 0 {
            self.put(&ZEROS[..self.remaining().min(ZEROS.len())]);
        }
    }
}

impl Drop for Claim<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_committed {
            let now_ms = self.log.now_ms.load(Ordering::Relaxed);
            self.segment
                .pad(self.position, self.len, self.log.durable_mark(), now_ms);
        }
    }
}

/// Keeps a segment's bytes where they are while it lives.
pub struct Pin<'a> {
    segment: &'a Segment,
    sequence: u32,
}

impl Pin<'_> {
    /// Whether `position` is in the pinned segment, so that the pin serves it too.
    #[inline]
    pub fn covers(&self, position: LogPosition) -> bool {
        position.sequence() == self.sequence
    }

    /// `len` bytes at `position`, which lie in the body of a record that the caller knows to be committed (it
    /// committed it, or learned the position from one who did). `None` when they are in another segment or
    /// beyond its end.
    #[inline]
    pub fn bytes(&self, position: LogPosition, len: usize) -> Option<&[u8]> {
        let offset = position.offset() as usize;
        let fits = offset >= SEGMENT_HEADER_LEN && len <= self.segment.region().len().saturating_sub(offset);
        (self.covers(position) && fits).then(|| self.segment.region().bytes(offset, len))
    }
}

impl<'a> Pin<'a> {
    /// The record whose header stands at `position`, if it is in the pinned segment and committed.
    pub fn record(&self, position: LogPosition) -> Option<Recovered<'_>> {
        if !self.covers(position) {
            return None;
        }
        let record = self.segment.record_at(position)?;
        Some(Recovered {
            position,
            kind: record.header.kind,
            flags: record.header.flags,
            now_ms: record.header.now_ms.get(),
            body: record.body,
        })
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.segment.holders.unpin();
    }
}

/// What the engine's reclaimer wants to know about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number in the log.
    pub sequence: u32,
    /// Jobs in it that are still needed.
    pub live: u64,
    /// Bytes up to the end of its last record, its header included.
    pub bytes_used: u32,
    /// No record will be added to it.
    pub sealed: bool,
}

impl Log {
    /// Longest body of a record, in bytes.
    pub fn body_len_max(&self) -> usize {
        self.segment_bytes as usize - SEGMENT_HEADER_LEN - HEADER_LEN - StartBody::LEN_MIN - HEADER_LEN
    }

    /// Takes room for a record whose body has `body_len` bytes (a multiple of 8). No lock, no allocation, no
    /// system call, except when the segment is full and the log moves on to the next one.
    ///
    /// # Errors
    /// [`LogError::Full`] when the room's reserve is reached, [`LogError::TooLarge`], [`LogError::Poisoned`].
    #[inline]
    pub fn claim(&self, body_len: usize, room: Room) -> Result<Claim<'_>, LogError> {
        assert!(
            body_len.is_multiple_of(8),
            "record bodies are multiples of 8 bytes"
        );
        if body_len > self.body_len_max() {
            return Err(LogError::TooLarge {
                len: body_len,
                max: self.body_len_max(),
            });
        }
        if self.is_poisoned.load(Ordering::Relaxed) {
            return Err(self.poisoned_error());
        }
        if room == Room::Enqueue && self.obtainable.load(Ordering::Relaxed) < 2 {
            return Err(self.full());
        }
        let len = (HEADER_LEN + body_len) as u32;
        loop {
            match self.tail.claim(len, self.segment_bytes) {
                Ok(position) => return Ok(self.claimed(position, len)),
                Err(full) => self.roll(full, len, room)?,
            }
        }
    }

    #[inline]
    pub(super) fn claimed(&self, position: LogPosition, len: u32) -> Claim<'_> {
        let Some(segment) = self.segments.by_sequence(position.sequence()) else {
            unreachable!("the tail only moves to installed segments, and an open claim keeps its segment");
        };
        Claim {
            log: self,
            segment,
            position,
            len,
            filled: 0,
            body_crc: 0,
            is_committed: false,
        }
    }

    /// Where the next record will begin, unless it does not fit there.
    #[inline]
    pub fn tail(&self) -> LogPosition {
        self.tail.load()
    }

    /// What a record written now knows to be on the disk.
    #[inline]
    pub(super) fn durable_mark(&self) -> LogPosition {
        // Relaxed: an older value is as true.
        LogPosition::from_raw(self.durable.load(Ordering::Relaxed))
    }

    /// Adds `jobs` to the live count of the segment of `position`, which the caller knows to be held already
    /// (or recovery has just read).
    #[inline]
    pub fn retain(&self, position: LogPosition, jobs: u32) {
        match self.segments.by_sequence(position.sequence()) {
            Some(segment) => segment.live.retain(u64::from(jobs)),
            None => debug_assert!(false, "retain in a segment that is gone: {position}"),
        }
    }

    /// Takes `jobs` off the live count of the segment of `position`.
    #[inline]
    pub fn release(&self, position: LogPosition, jobs: u32) {
        match self.segments.by_sequence(position.sequence()) {
            Some(segment) => segment.live.release(u64::from(jobs)),
            None => debug_assert!(false, "release in a segment that is gone: {position}"),
        }
    }

    /// As [`release`](Self::release), for jobs whose body was copied to a new record that ends at `copy_end`: the
    /// old segment is not used again before the copy is durable.
    pub fn release_after(&self, position: LogPosition, jobs: u32, copy_end: LogPosition) {
        match self.segments.by_sequence(position.sequence()) {
            Some(segment) => segment.release_after(u64::from(jobs), copy_end),
            None => debug_assert!(false, "release in a segment that is gone: {position}"),
        }
    }

    /// Keeps the segment of `position` from being used again. `None` when that has happened already.
    #[inline]
    pub fn pin(&self, position: LogPosition) -> Option<Pin<'_>> {
        let sequence = position.sequence();
        let segment = self.segments.by_sequence(sequence)?;
        segment.holders.pin(sequence).then_some(Pin { segment, sequence })
    }

    /// Size of a segment, in bytes.
    pub fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Segments from `sequence` on are not recycled, whatever their live count; `u32::MAX` lifts the hold.
    pub fn set_hold(&self, sequence: u32) {
        self.hold.store(sequence, Ordering::Release);
    }

    /// Whether segments may be used again before they were synced (at first not). Then a log whose jobs are
    /// settled quickly goes round in a few hot segments and hardly touches the disk: a power cut loses what was
    /// settled along with its settling. It also loses whatever else the engine wanted to know of those
    /// segments, so it takes care of that by the hold.
    pub fn set_recycles_unsynced(&self, may: bool) {
        self.recycles_unsynced.store(may, Ordering::Relaxed);
    }

    /// A number of the engine's that is written into each segment begun from now on; recovery gives back the
    /// highest it finds. Lower values than before are ignored.
    pub fn set_segment_note(&self, note: u64) {
        self.note.fetch_max(note, Ordering::Relaxed);
    }

    /// The oldest segment in use. There always is one: the one being written.
    pub fn oldest(&self) -> Option<SegmentInfo> {
        self.segment_info(self.oldest.load(Ordering::Acquire))
    }

    /// The segment of that number, if it is in use.
    pub fn segment_info(&self, sequence: u32) -> Option<SegmentInfo> {
        let segment = self.segments.by_sequence(sequence)?;
        let tail = self.tail();
        if segment.holders.sequence() != sequence || sequence > tail.sequence() {
            return None;
        }
        let end = segment.sealed_end();
        let bytes_used = end.unwrap_or(if tail.sequence() == sequence {
            tail.offset()
        } else {
            self.segment_bytes
        });
        Some(SegmentInfo {
            sequence,
            live: segment.live.count(),
            bytes_used,
            sealed: end.is_some(),
        })
    }

    /// Shows the engine's records of a segment that is no longer written, in order. `false` when it is not in
    /// use, is still being written, or has a record that is not committed yet.
    pub fn visit_segment(&self, sequence: u32, visit: &mut dyn FnMut(Recovered<'_>)) -> bool {
        let mut position = LogPosition::new(sequence, DATA_START);
        let Some(pin) = self.pin(position) else {
            return false;
        };
        let Some(end) = pin.segment.sealed_end() else {
            return false;
        };
        while position.offset() + HEADER_LEN as u32 <= end {
            let Some(record) = pin.segment.record_at(position) else {
                return false;
            };
            if record.header.kind < KIND_LOG_FIRST {
                visit(Recovered {
                    position,
                    kind: record.header.kind,
                    flags: record.header.flags,
                    now_ms: record.header.now_ms.get(),
                    body: record.body,
                });
            }
            position = position.plus(record.len() as u32);
        }
        true
    }

    /// The background agent: makes and prepares spares, recycles, and syncs every [`limits::SYNC_INTERVAL_MS`].
    /// Does at most about `budget` of these things and returns how many it did. May block on the disk. To be
    /// called several times a second by one thread; more do no harm.
    pub fn step(&self, now_ms: u64, budget: usize) -> usize {
        self.now_ms.store(now_ms, Ordering::Relaxed);
        if self.is_poisoned.load(Ordering::Relaxed) {
            return 0;
        }
        let mut done = 0;
        if let Some(mut keeper) = self.keeper.try_lock() {
            // A refusal for lack of room is not an error here, and a failure has poisoned the log.
            done += self.recycle(&mut keeper, budget).unwrap_or(0);
            done += self
                .replenish(&mut keeper, budget.saturating_sub(done))
                .unwrap_or(0);
            self.discard(now_ms);
        }
        done + self.sync_in_background(now_ms)
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("directory", &self.directory)
            .field("tail", &self.tail())
            .field("durable", &self.durable())
            .finish_non_exhaustive()
    }
}
