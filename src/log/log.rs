//! The log itself: what its users call, and the background agent.

use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::log::anchor::Anchors;
use crate::log::claim::{Claim, Claims};
use crate::log::config::Room;
use crate::log::dir::Directory;
use crate::log::disk::Disk;
use crate::log::error::LogError;
use crate::log::group::GroupCommit;
use crate::log::header::{DATA_START, SEGMENT_HEADER_LEN};
use crate::log::pin::Pin;
use crate::log::position::LogPosition;
use crate::log::record::{CheckedRecord, HEADER_LEN, KIND_LOG_FIRST, Recovered};
use crate::log::recover::scan;
use crate::log::space::{Keeper, Space};
use crate::log::start::StartBody;
use crate::log::sync::Syncer;
use crate::log::table::Segments;
use crate::log::tail::Tail;
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use std::sync::Arc;

/// A write-ahead log in memory-mapped segments (or in plain memory). Shared by reference between threads.
pub struct Log {
    pub(super) tail: CachePadded<Tail>,
    /// How far it is on the disk.
    pub(super) durable: CachePadded<GroupCommit>,
    /// How many further segments could be had, for the check at each claim.
    pub(super) obtainable: AtomicU32,
    /// How many of those new jobs must leave to hand-outs, settlements and copies.
    pub(super) kept_from_enqueues: AtomicU32,
    /// How many of them hand-outs must leave to settlements and copies.
    pub(super) kept_from_hand_outs: AtomicU32,
    /// Bytes that hand-outs leave to settlements and copies where they are written into the last segment.
    pub(super) kept_bytes: AtomicU64,
    /// Live jobs that will neither be handed out nor settled any more.
    pub(super) jobs_over: AtomicU64,
    /// Bytes of the jobs that are there, about; as many as can be until somebody says so.
    pub(super) live_bytes: AtomicU64,
    pub(super) is_poisoned: AtomicBool,
    pub(super) recycles_unsynced: AtomicBool,
    /// Time of the last step, in milliseconds since the Unix epoch, for records that the log writes by itself.
    pub(super) now_ms: AtomicU64,
    pub(super) note: AtomicU64,
    pub(super) hold: AtomicU32,
    pub(super) oldest: AtomicU32,
    pub(super) segment_bytes: u32,
    /// Where in the segment being written no further record begins, unless it is longer than that itself. A guess that is
    /// right often enough: what it says of the segment before, or of the next one, does no harm.
    pub(super) leave_at: AtomicU32,
    /// The first segment that this start began.
    pub(super) first_sequence: u32,
    pub(super) boot: u32,
    pub(super) log_id: [u8; 16],
    pub(super) segments: Segments,
    pub(super) directory: Option<Directory>,
    /// Also of a log without a directory: random numbers come from there.
    pub(super) disk: Arc<dyn Disk>,
    /// Held while the tail moves on. How many segments are to be filled before one is left early again.
    pub(super) roll_lock: Mutex<u32>,
    pub(super) space: Mutex<Space>,
    pub(super) keeper: Mutex<Keeper>,
    pub(super) syncer: Syncer,
    pub(super) anchors: Mutex<Anchors>,
    /// Number of the newest anchor that is on the disk.
    pub(super) anchor_number: AtomicU64,
    /// Where a stalled record begins, and its length.
    #[cfg(planted)]
    pub(super) stalled: Mutex<Option<(LogPosition, u32)>>,
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
    /// Of these, bytes of records that were copied out of older segments since the log was opened.
    pub bytes_copied: u32,
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
        let kept = match room {
            Room::Enqueue => self.kept_from_enqueues.load(Ordering::Relaxed),
            Room::HandOut => self.kept_from_hand_outs.load(Ordering::Relaxed),
            Room::Settle | Room::Migrate => 0,
        };
        let len = (HEADER_LEN + body_len) as u32;
        if self.obtainable.load(Ordering::Relaxed) < kept
            && !(room == Room::HandOut && self.tail_takes_hand_out(len))
        {
            return Err(self.full());
        }
        loop {
            match self
                .tail
                .claim(len, self.leave_at.load(Ordering::Relaxed), self.segment_bytes)
            {
                Ok(position) => return Ok(self.claimed_for(room, position, len)),
                Err(full) => self.roll(full, len, room)?,
            }
        }
    }

    /// Takes room for several records at once, `records` of them with `body_bytes` bytes of body together. They
    /// stand in one segment, one behind the other.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), of which the same holds; none for no records.
    #[inline]
    pub fn claim_together(
        &self,
        records: usize,
        body_bytes: usize,
        room: Room,
    ) -> Result<Claims<'_>, LogError> {
        let other_headers = records.saturating_sub(1) * HEADER_LEN;
        self.claim(other_headers + body_bytes, room).map(Claims::new)
    }

    #[inline]
    fn claimed_for(&self, room: Room, position: LogPosition, len: u32) -> Claim<'_> {
        let claim = self.claimed(position, len);
        if room == Room::Migrate {
            claim.count_as_copy();
        }
        claim
    }

    #[inline]
    pub(super) fn claimed(&self, position: LogPosition, len: u32) -> Claim<'_> {
        let Some(segment) = self.segments.by_sequence(position.sequence()) else {
            unreachable!("the tail only moves to installed segments, and an open claim keeps its segment");
        };
        Claim::new(self, segment, position, len)
    }

    /// Where the next record will begin, unless it does not fit there.
    #[inline]
    pub fn tail(&self) -> LogPosition {
        self.tail.load()
    }

    /// What a record written now knows to be on the disk.
    #[inline]
    pub(super) fn durable_mark(&self) -> LogPosition {
        self.durable.mark()
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
            Some(segment) => segment.live.release_after(u64::from(jobs), copy_end),
            None => debug_assert!(false, "release in a segment that is gone: {position}"),
        }
    }

    /// Keeps the segment of `position` from being used again. `None` when that has happened already.
    #[inline]
    pub fn pin(&self, position: LogPosition) -> Option<Pin<'_>> {
        let sequence = position.sequence();
        Pin::new(self.segments.by_sequence(sequence)?, sequence)
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

    /// How many of the live jobs are over and only kept for a while: no room is kept for what they still need.
    pub fn set_jobs_over(&self, jobs: u64) {
        self.jobs_over.store(jobs, Ordering::Relaxed);
    }

    /// How many bytes the jobs that are there take, about: most of what is unsynced beyond that is over, and goes without
    /// the disk.
    pub fn set_live_bytes(&self, bytes: u64) {
        self.live_bytes.store(bytes, Ordering::Relaxed);
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
            bytes_copied: segment.copied(),
            sealed: end.is_some(),
        })
    }

    /// The segment of `position`, where the body of a job stands that is still counted, is not used again before the
    /// log is durable up to `until`. Whoever calls this looks afterwards whether the body was moved meanwhile.
    pub fn keep_until(&self, position: LogPosition, until: LogPosition) {
        if let Some(segment) = self.segments.by_sequence(position.sequence()) {
            segment.live.keep_until(until);
        }
    }

    /// Shows the engine's records of a segment that is no longer written, in order. `false` when it is not in
    /// use, is still being written, or has a record that is not committed yet. In a segment of an earlier start what
    /// is not valid is passed over, as it was when the log was read.
    pub fn visit_segment(&self, sequence: u32, visit: &mut dyn FnMut(Recovered<'_>)) -> bool {
        let mut position = LogPosition::new(sequence, DATA_START);
        let Some(pin) = self.pin(position) else {
            return false;
        };
        let Some(end) = pin.segment().sealed_end() else {
            return false;
        };
        let mut show = |position: LogPosition, record: &CheckedRecord<'_>| {
            if record.header.kind < KIND_LOG_FIRST {
                visit(record.recovered(position));
            }
        };
        if sequence < self.first_sequence {
            let bytes = pin.segment().region().bytes(0, self.segment_bytes as usize);
            let name = (sequence, pin.segment().epoch());
            let on_record = |position, record: CheckedRecord<'_>| show(position, &record);
            scan(name, self.segment_bytes, bytes, on_record, |_, _| {});
            return true;
        }
        while position.offset() + HEADER_LEN as u32 <= end {
            let Some(record) = pin.segment().record_at(position) else {
                return false;
            };
            show(position, &record);
            position = position.plus(record.len() as u32);
        }
        true
    }

    /// The first segment that this start began.
    pub fn first_sequence(&self) -> u32 {
        self.first_sequence
    }

    /// Whether nothing needs a segment any more once the log is durable up to `durable`, readers that have pinned it and the
    /// hold aside.
    pub fn is_over(&self, sequence: u32, durable: LogPosition) -> bool {
        let segment = self.segments.by_sequence(sequence);
        // Given up by a salvage, if it is none.
        segment.is_none_or(|segment| self.is_passed(segment, sequence, || durable))
    }

    /// The background agent: makes and prepares spares, recycles, and syncs every
    /// [`SYNC_INTERVAL_MS`](crate::base::limits::SYNC_INTERVAL_MS).
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
            self.weigh();
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
