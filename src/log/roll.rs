//! Moving on: the tail leaves its segment, and the next one is begun.

use crate::base::crc::crc32c;
use crate::base::limits;
use crate::base::sync::Ordering;
use crate::log::config::Room;
use crate::log::error::LogError;
use crate::log::header::DATA_START;
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_START, RecordMeta};
use crate::log::start::StartBody;
use crate::log::tail::has_place;

impl Log {
    /// Moves the tail from the segment of `full`, where `len` bytes had no place, to a prepared one.
    #[cold]
    pub(super) fn roll(&self, full: LogPosition, len: u32, room: Room) -> Result<(), LogError> {
        // Writers that come while another rolls spin, then yield, then park here: that is how this lock waits.
        let mut to_fill = self.roll_lock.lock();
        let tail = self.tail.load();
        let has_place = |leave_at: u32| has_place(tail, len, leave_at, self.segment_bytes);
        if tail.sequence() != full.sequence() || has_place(self.leave_at.load(Ordering::Relaxed)) {
            return Ok(());
        }
        let sequence = match self.take_ready(room) {
            // It was to be left early, but there is nothing to leave it for.
            Err(LogError::Full { .. }) if has_place(self.segment_bytes) => {
                self.leave_at.store(self.segment_bytes, Ordering::Relaxed);
                return Ok(());
            }
            taken => taken?,
        };
        let end = self.begin_segment(sequence, 0, &self.start_body());
        let left = self.tail.roll(end);
        let Some(old) = self.segments.by_sequence(left.sequence()) else {
            unreachable!("the segment under the tail is in use");
        };
        let rest = self.segment_bytes - left.offset();
        if rest as usize >= HEADER_LEN {
            old.pad(
                left,
                rest,
                self.durable_mark(),
                self.now_ms.load(Ordering::Relaxed),
            );
        }
        let is_early = self.is_early(left.offset());
        if is_early {
            self.space.lock().add_early();
        }
        // Last, as it may be retired from here on.
        old.seal(left.offset());
        let was_hot = self.leave_at.load(Ordering::Relaxed) < self.segment_bytes;
        *to_fill = if was_hot && !is_early {
            limits::SEGMENTS_FILLED_AFTER_LARGE
        } else {
            to_fill.saturating_sub(1)
        };
        self.leave_at
            .store(self.leave_next_at(*to_fill), Ordering::Relaxed);
        self.weigh();
        Ok(())
    }

    /// After how many bytes a segment of this log may be left early. In memory alone: on a disk each further segment costs
    /// waiting.
    fn early_bytes(&self) -> Option<u32> {
        let bytes = limits::HOT_SEGMENT_BYTES.min(self.segment_bytes / limits::HOT_SEGMENT_PART);
        (self.directory.is_none() && bytes >= limits::HOT_SEGMENT_BYTES_MIN).then_some(bytes)
    }

    /// Where the segment just begun is to be left: early as long as few segments hold anything, as what is used again
    /// soon then goes round in the caches.
    fn leave_next_at(&self, to_fill: u32) -> u32 {
        // Small segments use numbers up, of which a log has 2^32.
        let may_leave = to_fill == 0 && self.tail().sequence() < 1 << 31;
        self.early_bytes()
            .filter(|_| may_leave && self.space.lock().may_leave_early())
            .unwrap_or(self.segment_bytes)
    }

    /// Whether a segment whose last record ends there was left early.
    pub(super) fn is_early(&self, end: u32) -> bool {
        self.early_bytes().is_some_and(|bytes| end < 2 * bytes)
    }

    fn start_body(&self) -> StartBody {
        StartBody {
            note: self.note.load(Ordering::Relaxed),
            ..StartBody::default()
        }
    }

    /// Writes the opening record of a prepared segment that the tail has not reached, and returns its end.
    pub(super) fn begin_segment(&self, sequence: u32, flags: u8, body: &StartBody) -> LogPosition {
        let Some(segment) = self.segments.by_sequence(sequence) else {
            unreachable!("a ready segment is installed");
        };
        let position = LogPosition::new(sequence, DATA_START);
        let body = body.encode();
        segment
            .region()
            .write(position.offset() as usize + HEADER_LEN, &body);
        let len = (HEADER_LEN + body.len()) as u32;
        let meta = RecordMeta {
            kind: KIND_START,
            flags,
            durable_mark: self.durable_mark(),
            now_ms: self.now_ms.load(Ordering::Relaxed),
        };
        let body_crc = crc32c(0, &body);
        segment.commit(position, len, &meta, |covers| crc32c(body_crc, covers));
        position.plus(len)
    }
}
