//! The writer's side: a claimed range, filled and committed.

use crate::base::crc::crc32c;
use crate::base::plant;
use crate::base::sync::Ordering;
use crate::log::draft::{Body, Draft};
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_LOG_FIRST, RecordMeta};
use crate::log::segment::Segment;

/// Body bytes that are summed up at once. A call costs as much as a hundred bytes do, and what was just written
/// lies in the nearest cache.
const SUM_BYTES: u32 = 4 * 1024;

/// A range of the log that belongs to one writer until it is committed. Dropped without that, it becomes padding.
pub struct Claim<'a> {
    log: &'a Log,
    segment: &'a Segment,
    position: LogPosition,
    /// Whole record.
    len: u32,
    /// How much of the body is written.
    filled: u32,
    /// How much of the body is in `body_crc`.
    summed: u32,
    body_crc: u32,
    is_committed: bool,
}

impl<'a> Claim<'a> {
    /// The `len` bytes at `position`, which the caller has just taken from the tail.
    #[inline]
    pub(super) fn new(log: &'a Log, segment: &'a Segment, position: LogPosition, len: u32) -> Self {
        Self {
            log,
            segment,
            position,
            len,
            filled: 0,
            summed: 0,
            body_crc: 0,
            is_committed: false,
        }
    }

    /// It is a copy of what stands in an older segment.
    pub(super) fn count_as_copy(&self) {
        self.segment.add_copied(self.len);
    }

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
        self.filled += bytes.len() as u32;
        if self.filled - self.summed >= SUM_BYTES {
            self.sum();
        }
    }

    /// Brings the checksum up to what is written.
    #[inline]
    fn sum(&mut self) {
        let offset = self.position.offset() as usize + HEADER_LEN + self.summed as usize;
        let len = (self.filled - self.summed) as usize;
        self.body_crc = crc32c(self.body_crc, self.segment.region().bytes(offset, len));
        self.summed = self.filled;
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

    /// Copies a draft, which is all of the body, and publishes the record as [`commit`](Self::commit) does.
    #[inline]
    pub(super) fn commit_draft(
        mut self,
        draft: &mut Draft,
        (kind, flags): (u8, u8),
        now_ms: u64,
        live: u32,
    ) -> LogPosition {
        assert!(kind < KIND_LOG_FIRST, "kinds from 0xF0 on are the log's own");
        assert!(
            draft.body().len() == self.remaining(),
            "a draft has the length that was asked for"
        );
        if live > 0 {
            self.segment.live.retain(u64::from(live));
        }
        let offset = self.position.offset() as usize + HEADER_LEN;
        self.segment.region().write(offset, draft.body());
        let meta = self.meta(kind, flags, now_ms);
        plant::in_mid_record();
        self.segment
            .commit(self.position, self.len, &meta, |covers| draft.checksum(covers));
        self.is_committed = true;
        self.position.plus(self.len)
    }

    #[inline]
    fn meta(&self, kind: u8, flags: u8, now_ms: u64) -> RecordMeta {
        RecordMeta {
            kind,
            flags,
            durable_mark: self.log.durable_mark(),
            now_ms,
        }
    }

    #[inline]
    pub(super) fn publish(&mut self, kind: u8, flags: u8, now_ms: u64) -> LogPosition {
        self.zero_rest();
        self.sum();
        let meta = self.meta(kind, flags, now_ms);
        plant::in_mid_record();
        self.segment.commit(self.position, self.len, &meta, |covers| {
            crc32c(self.body_crc, covers)
        });
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

/// Room for several records, to be taken one behind the other. What is not taken becomes padding.
pub struct Claims<'a> {
    log: &'a Log,
    segment: &'a Segment,
    position: LogPosition,
    left: u32,
}

impl<'a> Claims<'a> {
    /// Takes over all of a claim of which nothing is written.
    #[inline]
    pub(super) fn new(mut claim: Claim<'a>) -> Self {
        debug_assert_eq!(claim.filled, 0, "it is a record already");
        claim.is_committed = true;
        Self {
            log: claim.log,
            segment: claim.segment,
            position: claim.position,
            left: claim.len,
        }
    }

    /// The next record, with `body_len` bytes (a multiple of 8) of body. Panics where that is not left.
    #[inline]
    pub(super) fn next(&mut self, body_len: usize) -> Claim<'a> {
        let len = HEADER_LEN + body_len;
        assert!(
            len <= self.left as usize && body_len.is_multiple_of(8),
            "a claim takes no more than was asked for, in multiples of 8 bytes"
        );
        let claim = Claim::new(self.log, self.segment, self.position, len as u32);
        self.position = self.position.plus(len as u32);
        self.left -= len as u32;
        claim
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            let now_ms = self.log.now_ms.load(Ordering::Relaxed);
            self.segment
                .pad(self.position, self.left, self.log.durable_mark(), now_ms);
        }
    }
}

impl Body for Claim<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        Claim::put(self, bytes);
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
