//! One segment: its memory, its file, and who still needs it.

use crate::base::crc::crc32c;
use crate::base::sync::{AtomicBool, AtomicU32, Ordering};
use crate::log::header::{DATA_START, SegmentHeader};
use crate::log::position::LogPosition;
use crate::log::record::{
    COVERED_LEN, CheckedRecord, HEADER_LEN, KIND_PAD, RecordHeader, RecordMeta, commit_word,
};
use crate::log::region::Region;
use crate::log::tail::{self, Holders, Live};
use crossbeam_utils::CachePadded;
use std::io;
use zerocopy::{FromBytes, IntoBytes};

/// A segment of the log. Made once for each file and never dropped before the log; used again and again under
/// new sequence numbers.
pub(super) struct Segment {
    region: Region,
    /// Number in the file's name, from 1.
    pub(super) number: u32,
    epoch: AtomicU32,
    /// Its pages may not be mapped, or not for writing: it was mapped by this start, or synced, and not made ready since.
    is_cold: AtomicBool,
    /// End of the last record; `u32::MAX` while it may still grow.
    used: AtomicU32,
    /// Bytes of the records that were copied here out of older segments.
    copied: AtomicU32,
    pub(super) holders: CachePadded<Holders>,
    /// Jobs whose record stands here and that are still needed.
    pub(super) live: CachePadded<Live>,
}

impl Segment {
    /// A retired segment over `region`; `is_cold` when its pages may not be mapped.
    pub(super) fn new(number: u32, region: Region, is_cold: bool) -> Self {
        Self {
            region,
            number,
            epoch: AtomicU32::new(0),
            is_cold: AtomicBool::new(is_cold),
            used: AtomicU32::new(0),
            copied: AtomicU32::new(0),
            holders: CachePadded::new(Holders::retired()),
            live: CachePadded::new(Live::default()),
        }
    }

    pub(super) fn region(&self) -> &Region {
        &self.region
    }

    #[inline]
    pub(super) fn epoch(&self) -> u32 {
        // Relaxed: it changes only while the segment is retired, and whoever uses a segment has come by an
        // Acquire (the tail, the holders' word) that is ordered after.
        self.epoch.load(Ordering::Relaxed)
    }

    /// Gives a retired segment its place in the log. The header in memory (and on disk) is the caller's affair.
    pub(super) fn assign(&self, header: &SegmentHeader) {
        self.epoch.store(header.epoch.get(), Ordering::Relaxed);
        self.used.store(u32::MAX, Ordering::Relaxed);
        self.copied.store(0, Ordering::Relaxed);
        debug_assert_eq!(self.live.count(), 0, "a segment is retired without live jobs");
        self.live.begin();
        self.holders.assign(header.sequence.get());
    }

    /// Says that no record will come any more; the last one ends at `end`.
    pub(super) fn seal(&self, end: u32) {
        self.used.store(end, Ordering::Release);
    }

    /// Counts `bytes` of what stands here as copied out of older segments.
    pub(super) fn add_copied(&self, bytes: u32) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn copied(&self) -> u32 {
        self.copied.load(Ordering::Relaxed)
    }

    /// End of the last record when sealed.
    pub(super) fn sealed_end(&self) -> Option<u32> {
        let end = self.used.load(Ordering::Acquire);
        (end != u32::MAX).then_some(end)
    }

    /// Length of the record committed at `offset`, or `None`.
    #[inline]
    pub(super) fn committed_at(&self, offset: u32) -> Option<u32> {
        tail::committed(self.region.word(offset as usize), self.epoch())
    }

    /// Writes the header of the record claimed at `position` and publishes it. `checksum` gives the sum of the body
    /// followed by the bytes that it is shown.
    #[inline]
    pub(super) fn commit(
        &self,
        position: LogPosition,
        len: u32,
        meta: &RecordMeta,
        checksum: impl FnOnce(&[u8; COVERED_LEN]) -> u32,
    ) {
        let epoch = self.epoch();
        let header = RecordHeader::new(position, commit_word(epoch, len), meta, checksum);
        let offset = position.offset() as usize;
        self.region.write(offset + 8, &header.as_bytes()[8..]);
        tail::commit(self.region.word(offset), epoch, len);
    }

    /// Publishes `len` claimed bytes at `position` as holding nothing.
    pub(super) fn pad(&self, position: LogPosition, len: u32, durable_mark: LogPosition, now_ms: u64) {
        let meta = RecordMeta {
            kind: KIND_PAD,
            flags: 0,
            durable_mark,
            now_ms,
        };
        self.commit(position, len, &meta, |covers| crc32c(0, covers));
    }

    /// The record committed at `position`, read from memory without checking its sum; `None` when there is none.
    /// The caller holds the segment.
    pub(super) fn record_at(&self, position: LogPosition) -> Option<CheckedRecord<'_>> {
        let offset = position.offset() as usize;
        if offset + HEADER_LEN > self.region.len() {
            return None;
        }
        let len = self.committed_at(position.offset())? as usize;
        let bytes = self.region.bytes(offset, len);
        let header = RecordHeader::read_from_bytes(&bytes[..HEADER_LEN]).ok()?;
        Some(CheckedRecord {
            header,
            body: &bytes[HEADER_LEN..],
        })
    }

    /// Waits until the `len` bytes from `offset` on are on the disk.
    pub(super) fn flush(&self, offset: u32, len: u32) -> io::Result<()> {
        // Relaxed: as in `warm`; at worst pages come one by one as they are written.
        self.is_cold.store(true, Ordering::Relaxed);
        self.region.flush(offset as usize, len as usize)
    }

    /// Makes the pages resident and writable if they may not be: all at once, where the keeper of the spares waits for
    /// them and not a writer at each page.
    pub(super) fn warm(&self) -> io::Result<()> {
        // Relaxed: only the keeper of the spares asks, and it is only about time.
        if self.is_cold.load(Ordering::Relaxed) {
            self.region.populate()?;
            self.is_cold.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Writes a segment header and, for a file, waits until it is on the disk.
    pub(super) fn write_header(&self, header: &SegmentHeader, on_disk: bool) -> io::Result<()> {
        self.region.write(0, header.as_bytes());
        if on_disk {
            self.region.flush(0, DATA_START as usize)
        } else {
            Ok(())
        }
    }
}
