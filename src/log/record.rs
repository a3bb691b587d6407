//! A record as it lies on the disk: its header, what its checksum covers, and the kinds that are the log's own.
//!
//! `FORMAT.md` draws it. Everything is little endian and aligned to 8 bytes.

use crate::base::crc::crc32c;
use crate::log::position::LogPosition;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a record's header, in bytes; also the length of the shortest record.
pub const HEADER_LEN: usize = 32;
/// Kinds from here on are the log's own; below it they are the engine's.
pub const KIND_LOG_FIRST: u8 = 0xF0;
/// Space that holds nothing. Its body is not covered by the checksum.
pub(crate) const KIND_PAD: u8 = 0xF0;
/// The first record of a segment: a [`StartBody`](crate::log::start::StartBody).
pub(crate) const KIND_START: u8 = 0xF1;
/// An empty record that carries a newer durable mark than what stands before it.
pub(crate) const KIND_MARK: u8 = 0xF2;

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

const _: () = {
    assert!(size_of::<RecordHeader>() == HEADER_LEN);
    assert!(HEADER_LEN.is_multiple_of(8));
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
}
