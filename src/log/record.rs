//! The layouts on disk: segment header, record header, and the body of the record that opens a segment.
//!
//! `FORMAT.md` draws them. Everything is little endian and aligned to 8 bytes.

use crate::base::crc::crc32c;
use crate::base::limits;
use crate::log::anchor;
use crate::log::position::LogPosition;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the format that this build writes. A log of a later version is refused.
pub const FORMAT_VERSION: u32 = 1;
/// No later version will have a higher number: such a number is damage.
const VERSION_MAX: u32 = 0xFFFF;
/// The first eight bytes of every segment.
pub(crate) const MAGIC: [u8; 8] = *b"ackringL";
/// Length of a record's header, in bytes; also the length of the shortest record.
pub const HEADER_LEN: usize = 32;
/// Length of a segment's header, in bytes. The first record follows it.
pub const SEGMENT_HEADER_LEN: usize = 64;
/// Sequence and boot numbers stay below: so far from the end that none is ever reached by counting on.
const NUMBERS_END: u32 = 1 << 31;
/// [`SEGMENT_HEADER_LEN`] as an offset.
pub(crate) const DATA_START: u32 = SEGMENT_HEADER_LEN as u32;

/// Kinds from here on are the log's own; below it they are the engine's.
pub const KIND_LOG_FIRST: u8 = 0xF0;
/// Space that holds nothing. Its body is not covered by the checksum.
pub(crate) const KIND_PAD: u8 = 0xF0;
/// The first record of a segment: a [`StartBody`].
pub(crate) const KIND_START: u8 = 0xF1;
/// An empty record that carries a newer durable mark than what stands before it.
pub(crate) const KIND_MARK: u8 = 0xF2;
/// Flag of a [`KIND_START`] record: this is the first segment of a boot, and the ranges are listed.
pub(crate) const FLAG_BOOT: u8 = 1;

/// The header of a segment file: 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    /// `ackringL`.
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`] of the writer.
    pub version: U32,
    /// CRC-32C of the other 60 bytes in order.
    pub crc: U32,
    /// Place of the segment in the log, from 1; 0 for a spare.
    pub sequence: U32,
    /// Random, never 0; new for each use of the file, so that records of an earlier use are not taken for new.
    pub epoch: U32,
    /// Number of the start of the engine that prepared it, from 1.
    pub boot: U32,
    /// Length of the file, in bytes.
    pub segment_bytes: U32,
    /// Random number of the log; every segment of a directory carries the same.
    pub log_id: [u8; 16],
    /// Highest number of a segment file of the log when this was written.
    pub files: U32,
    /// Zero.
    pub reserved: U32,
    /// Number of the newest anchor when this was written; 0 for none.
    pub anchor: U64,
}

/// Why a segment header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderFlaw {
    /// Written by a later version of the format.
    Newer(u32),
    /// Not what this program writes: a reason.
    Damaged(&'static str),
}

/// What the headers of a log have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogShape {
    pub(crate) log_id: [u8; 16],
    pub(crate) segment_bytes: u32,
    pub(crate) files: u32,
    pub(crate) anchor: u64,
}

impl SegmentHeader {
    /// The header of a segment that holds no part of the log.
    pub(crate) fn spare(shape: LogShape) -> Self {
        Self::new(0, 0, 0, shape)
    }

    /// A header with its checksum.
    pub(crate) fn new(sequence: u32, epoch: u32, boot: u32, shape: LogShape) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            crc: U32::ZERO,
            sequence: U32::new(sequence),
            epoch: U32::new(epoch),
            boot: U32::new(boot),
            segment_bytes: U32::new(shape.segment_bytes),
            log_id: shape.log_id,
            files: U32::new(shape.files),
            reserved: U32::ZERO,
            anchor: U64::new(shape.anchor),
        };
        header.crc = U32::new(header.checksum());
        header
    }

    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        crc32c(crc32c(0, &bytes[..12]), &bytes[16..])
    }

    /// Reads and checks a header. The version is looked at first: a later one may mean anything by the rest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderFlaw> {
        let Ok((header, _)) = Self::read_from_prefix(bytes) else {
            return Err(HeaderFlaw::Damaged("the file is shorter than a segment header"));
        };
        if header.magic != MAGIC {
            return Err(HeaderFlaw::Damaged(
                "the segment header does not begin with the log's magic bytes",
            ));
        }
        match header.version.get() {
            version if version > VERSION_MAX => {
                return Err(HeaderFlaw::Damaged("the segment header's version is none"));
            }
            version if version > FORMAT_VERSION => return Err(HeaderFlaw::Newer(version)),
            _ => {}
        }
        if header.crc.get() != header.checksum() {
            return Err(HeaderFlaw::Damaged("the segment header's checksum is wrong"));
        }
        if !header.is_possible() {
            return Err(HeaderFlaw::Damaged(
                "the segment header has a number that no log comes to",
            ));
        }
        Ok(header)
    }

    /// Whether the numbers are within what a log may have: what reads them sets memory and disk space aside by them,
    /// and counts on from them.
    pub(crate) fn is_possible(&self) -> bool {
        let is_numbered = self.epoch.get() != 0
            && (1..NUMBERS_END).contains(&self.boot.get())
            && self.sequence.get() < NUMBERS_END;
        (self.is_spare() || is_numbered)
            && self.version.get() != 0
            && self.segment_bytes.get() <= limits::SEGMENT_BYTES_MAX
            && self.files.get() <= limits::SEGMENT_FILES_MAX
            && self.anchor.get() < anchor::NUMBERS_END
    }

    /// Whether it holds no part of the log.
    pub fn is_spare(&self) -> bool {
        self.sequence.get() == 0
    }
}

/// The header of a record: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// The segment's epoch in the upper half, the record's length with header in the lower. Stored last.
    pub commit: U64,
    /// CRC-32C of body, position, commit word and the fields below, in that order.
    pub crc: U32,
    /// What the body is.
    pub kind: u8,
    /// Belongs to the kind.
    pub flags: u8,
    /// Zero.
    pub reserved: U16,
    /// How far the log was known to be on the disk when this record was written: a raw [`LogPosition`].
    pub durable_mark: U64,
    /// When it was written, in milliseconds since the Unix epoch.
    pub now_ms: U64,
}

/// Bytes that a record's checksum covers behind the body: position and header.
pub(crate) const COVERED_LEN: usize = 8 + HEADER_LEN;

/// A commit word.
#[inline]
pub(crate) const fn commit_word(epoch: u32, len: u32) -> u64 {
    (epoch as u64) << 32 | len as u64
}

/// What of a record's header is known only when it is committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordMeta {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) durable_mark: LogPosition,
    pub(crate) now_ms: u64,
}

impl RecordHeader {
    /// The header of a record at `position`. `checksum` gives the sum of the body followed by the bytes that it is
    /// shown.
    #[inline]
    pub(crate) fn new(
        position: LogPosition,
        commit: u64,
        meta: &RecordMeta,
        checksum: impl FnOnce(&[u8; COVERED_LEN]) -> u32,
    ) -> Self {
        let mut header = Self {
            commit: U64::new(commit),
            crc: U32::ZERO,
            kind: meta.kind,
            flags: meta.flags,
            reserved: U16::ZERO,
            durable_mark: U64::new(meta.durable_mark.raw()),
            now_ms: U64::new(meta.now_ms),
        };
        header.crc = U32::new(checksum(&header.covered(position)));
        header
    }

    /// What the checksum covers behind the body. The body comes first, so that its sum can be computed while it is
    /// copied.
    #[inline]
    fn covered(&self, position: LogPosition) -> [u8; COVERED_LEN] {
        let mut covered = [0u8; COVERED_LEN];
        covered[..8].copy_from_slice(&position.raw().to_le_bytes());
        covered[8..].copy_from_slice(self.as_bytes());
        covered[16..20].fill(0);
        covered
    }

    /// The checksum of the record at `position` whose body has the checksum `body_crc`.
    #[inline]
    pub(super) fn checksum(&self, position: LogPosition, body_crc: u32) -> u32 {
        crc32c(body_crc, &self.covered(position))
    }
}

/// One record of the log as recovery and [`visit_segment`](crate::log::Log::visit_segment) show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered<'a> {
    /// Where its header begins.
    pub position: LogPosition,
    /// The engine's kind.
    pub kind: u8,
    /// The engine's flags.
    pub flags: u8,
    /// When it was written, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What follows the header; a multiple of 8 bytes.
    pub body: &'a [u8],
}

impl Recovered<'_> {
    /// Where the body begins.
    pub fn body_position(&self) -> LogPosition {
        self.position.plus(HEADER_LEN as u32)
    }
}

/// A record that passed every check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CheckedRecord<'a> {
    pub(crate) header: RecordHeader,
    pub(crate) body: &'a [u8],
}

impl<'a> CheckedRecord<'a> {
    /// As it is shown outside of the log.
    pub(crate) fn recovered(&self, position: LogPosition) -> Recovered<'a> {
        Recovered {
            position,
            kind: self.header.kind,
            flags: self.header.flags,
            now_ms: self.header.now_ms.get(),
            body: self.body,
        }
    }

    pub(crate) fn len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    pub(crate) fn durable_mark(&self) -> LogPosition {
        LogPosition::from_raw(self.header.durable_mark.get())
    }
}

/// Why there is no record at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordFlaw {
    /// The commit word is not of this epoch: nothing was committed here.
    Unwritten,
    /// The commit word is there, the rest is not what it says.
    Damaged,
}

/// The record at the beginning of `bytes` (which end where the segment ends), if there is one.
pub(crate) fn check_record(
    bytes: &[u8],
    position: LogPosition,
    epoch: u32,
) -> Result<CheckedRecord<'_>, RecordFlaw> {
    let Ok((header, rest)) = RecordHeader::read_from_prefix(bytes) else {
        return Err(RecordFlaw::Unwritten);
    };
    let commit = header.commit.get();
    if (commit >> 32) as u32 != epoch {
        return Err(RecordFlaw::Unwritten);
    }
    let len = commit as u32 as usize;
    if len < HEADER_LEN || !len.is_multiple_of(8) || len > bytes.len() || header.reserved != U16::ZERO {
        return Err(RecordFlaw::Damaged);
    }
    let body = &rest[..len - HEADER_LEN];
    let body_crc = if header.kind == KIND_PAD {
        0
    } else {
        crc32c(0, body)
    };
    if header.crc.get() != header.checksum(position, body_crc) || header.kind > KIND_MARK {
        return Err(RecordFlaw::Damaged);
    }
    Ok(CheckedRecord { header, body })
}

/// Length of the record at the front of `bytes` if it is whole with zeros behind them, but no longer than `len_max`.
/// Nothing is set aside for the zeros.
pub(crate) fn len_with_zeros(
    bytes: &[u8],
    position: LogPosition,
    epoch: u32,
    len_max: usize,
) -> Option<usize> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut first = [0; HEADER_LEN];
    let there = bytes.len().min(HEADER_LEN);
    first[..there].copy_from_slice(&bytes[..there]);
    let header = RecordHeader::read_from_bytes(&first).ok()?;
    let commit = header.commit.get();
    let len = commit as u32 as usize;
    if (commit >> 32) as u32 != epoch || !(HEADER_LEN..=len_max).contains(&len) {
        return None;
    }
    let body = bytes.get(HEADER_LEN..).unwrap_or_default();
    let body = &body[..body.len().min(len - HEADER_LEN)];
    let mut missing = len - HEADER_LEN - body.len();
    let mut body_crc = crc32c(0, body);
    while missing > 0 {
        let block = missing.min(ZEROS.len());
        body_crc = crc32c(body_crc, &ZEROS[..block]);
        missing -= block;
    }
    let body_crc = if header.kind == KIND_PAD { 0 } else { body_crc };
    (header.crc.get() == header.checksum(position, body_crc)).then_some(len)
}

/// A stretch of the log that holds nothing and was found to be harmless, or was given up by a salvage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange {
    /// Its first byte.
    pub start: LogPosition,
    /// The byte after its last, in the same segment (in a later one for lost segments).
    pub end: LogPosition,
}

impl BadRange {
    /// No stretch at all.
    pub(crate) const NONE: Self = Self {
        start: LogPosition::NONE,
        end: LogPosition::NONE,
    };

    /// Whether all of `other` lies in it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

/// How many segment files a log has, as it is written down beside them: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentCount {
    pub(crate) log_id: [u8; 16],
    pub(crate) files: u32,
}

impl SegmentCount {
    pub(crate) const LEN: usize = 32;
    const MAGIC: [u8; 8] = *b"ackringN";

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..24].copy_from_slice(&self.log_id);
        bytes[24..28].copy_from_slice(&self.files.to_le_bytes());
        let crc = crc32c(0, &bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` for anything but what [`encode`](Self::encode) gives.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let count = Self {
            log_id: *bytes[8..].first_chunk()?,
            files: u32::from_le_bytes(*bytes[24..].first_chunk()?),
        };
        (*bytes == count.encode()).then_some(count)
    }
}

/// Body of a [`KIND_START`] record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StartBody {
    /// The engine's note as it was when the segment was begun.
    pub(crate) note: u64,
    /// With [`FLAG_BOOT`]: where the records of the boot before end. [`LogPosition::NONE`] when there are none.
    pub(crate) previous_end: LogPosition,
    /// With [`FLAG_BOOT`]: every range of the segments that still exist which recovery has accepted as holding
    /// nothing.
    pub(crate) accepted: Vec<BadRange>,
}

impl StartBody {
    /// Length without ranges, in bytes.
    pub(crate) const LEN_MIN: usize = 24;
    const RANGE_LEN: usize = 16;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN_MIN + self.accepted.len() * Self::RANGE_LEN);
        bytes.extend_from_slice(&self.note.to_le_bytes());
        bytes.extend_from_slice(&self.previous_end.raw().to_le_bytes());
        bytes.extend_from_slice(&(self.accepted.len() as u64).to_le_bytes());
        for range in &self.accepted {
            bytes.extend_from_slice(&range.start.raw().to_le_bytes());
            bytes.extend_from_slice(&range.end.raw().to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let words = <[U64]>::ref_from_bytes(body).ok()?;
        let (head, ranges) = words.split_at_checked(Self::LEN_MIN / 8)?;
        if u64::try_from(ranges.len()) != Ok(head[2].get().checked_mul(2)?) {
            return None;
        }
        let at = |word: &U64| LogPosition::from_raw(word.get());
        let accepted = ranges
            .chunks_exact(2)
            .map(|pair| BadRange {
                start: at(&pair[0]),
                end: at(&pair[1]),
            })
            .collect();
        Some(Self {
            note: head[0].get(),
            previous_end: at(&head[1]),
            accepted,
        })
    }
}

const _: () = {
    assert!(size_of::<SegmentHeader>() == SEGMENT_HEADER_LEN);
    assert!(size_of::<RecordHeader>() == HEADER_LEN);
    assert!(SEGMENT_HEADER_LEN.is_multiple_of(8) && HEADER_LEN.is_multiple_of(8));
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record(position: LogPosition, epoch: u32, kind: u8, body: &[u8]) -> Vec<u8> {
        let meta = RecordMeta {
            kind,
            flags: 3,
            durable_mark: LogPosition::new(1, 64),
            now_ms: 77,
        };
        let commit = commit_word(epoch, (HEADER_LEN + body.len()) as u32);
        let crc = if kind == KIND_PAD { 0 } else { crc32c(0, body) };
        let mut bytes = RecordHeader::new(position, commit, &meta, |covers| crc32c(crc, covers))
            .as_bytes()
            .to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_record_is_read_back_as_written() {
        let position = LogPosition::new(3, 640);
        let bytes = record(position, 9, 5, b"sixteen bytes ok");
        let checked = check_record(&bytes, position, 9).unwrap();
        assert_eq!(checked.body, b"sixteen bytes ok");
        assert_eq!(
            (
                checked.header.kind,
                checked.header.flags,
                checked.header.now_ms.get()
            ),
            (5, 3, 77)
        );
    }

    /// Bytes that version 1 has written since its first day: whoever must change them writes another version.
    #[test]
    fn the_layout_is_the_one_that_format_version_1_has() {
        let bytes = record(LogPosition::new(3, 640), 9, 5, b"8 bytes!");
        let expected = "28000000090000004e6c8729050300004000000001000000\
                        4d000000000000003820627974657321";
        assert_eq!(hex(&bytes), expected);
        let shape = LogShape {
            log_id: *b"0123456789abcdef",
            segment_bytes: 65536,
            files: 4,
            anchor: 0,
        };
        let expected = "61636b72696e674c010000000ad4567202000000030000000100000000000100\
                        3031323334353637383961626364656604000000000000000000000000000000";
        assert_eq!(hex(SegmentHeader::new(2, 3, 1, shape).as_bytes()), expected);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let position = LogPosition::new(3, 640);
        let bytes = record(position, 9, 5, b"sixteen bytes ok");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check_record(&flipped, position, 9).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_valid_only_where_it_was_written_and_in_its_epoch() {
        let bytes = record(LogPosition::new(3, 640), 9, 5, b"8 bytes!");
        assert!(check_record(&bytes, LogPosition::new(3, 648), 9).is_err());
        assert!(check_record(&bytes, LogPosition::new(4, 640), 9).is_err());
        assert_eq!(
            check_record(&bytes, LogPosition::new(3, 640), 8).unwrap_err(),
            RecordFlaw::Unwritten
        );
    }

    #[test]
    fn padding_does_not_cover_what_it_pads_over() {
        let position = LogPosition::new(1, 64);
        let mut bytes = record(position, 9, KIND_PAD, &[0; 64]);
        bytes[40] = 1;
        assert!(check_record(&bytes, position, 9).is_ok());
    }

    #[test]
    fn start_bodies_survive_the_trip() {
        let range = BadRange {
            start: LogPosition::new(2, 80),
            end: LogPosition::new(2, 96),
        };
        let body = StartBody {
            note: 5,
            previous_end: LogPosition::new(2, 1000),
            accepted: vec![range; 3],
        };
        assert_eq!(StartBody::decode(&body.encode()), Some(body.clone()));
        assert_eq!(StartBody::decode(&body.encode()[..64]), None);
        assert_eq!(StartBody::decode(&[]), None);
    }

    #[test]
    fn a_later_version_is_told_from_damage() {
        let mut header = SegmentHeader::new(
            1,
            2,
            1,
            LogShape {
                log_id: [7; 16],
                segment_bytes: 65536,
                files: 9,
                anchor: 0,
            },
        );
        assert_eq!(SegmentHeader::parse(header.as_bytes()), Ok(header));
        header.version = U32::new(FORMAT_VERSION + 1);
        assert_eq!(
            SegmentHeader::parse(header.as_bytes()),
            Err(HeaderFlaw::Newer(FORMAT_VERSION + 1))
        );
        header.version = U32::new(FORMAT_VERSION);
        header.epoch = U32::new(3);
        assert!(matches!(
            SegmentHeader::parse(header.as_bytes()),
            Err(HeaderFlaw::Damaged(_))
        ));
    }
}
