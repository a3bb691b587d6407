//! The reader's side: bytes that stay where they are while they are looked at.

use crate::log::header::SEGMENT_HEADER_LEN;
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, Recovered, check_record};
use crate::log::segment::Segment;

/// Keeps a segment's bytes where they are while it lives.
pub struct Pin<'a> {
    segment: &'a Segment,
    sequence: u32,
}

impl<'a> Pin<'a> {
    /// Holds the segment, if it is still number `sequence`.
    #[inline]
    pub(super) fn new(segment: &'a Segment, sequence: u32) -> Option<Self> {
        // Made only when it holds something: a pin that is dropped lets go.
        segment.holders.pin(sequence).then(|| Self { segment, sequence })
    }

    /// The pinned segment.
    pub(super) fn segment(&self) -> &'a Segment {
        self.segment
    }

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
        if !self.covers(position) || offset < SEGMENT_HEADER_LEN {
            return None;
        }
        self.segment.region().bytes_inside(offset, len)
    }

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

    /// As [`record`](Self::record), if its checksum is right.
    pub fn whole_record(&self, position: LogPosition) -> Option<Recovered<'_>> {
        let record = self.record(position)?;
        let len = HEADER_LEN + record.body.len();
        let bytes = self.bytes(position, len)?;
        check_record(bytes, position, self.segment.epoch()).ok()?;
        Some(record)
    }
}

impl Drop for Pin<'_> {
    #[inline]
    fn drop(&mut self) {
        self.segment.holders.unpin();
    }
}
