//! The header of a segment file: which part of which log it holds.
//!
//! `FORMAT.md` draws it. Everything is little endian and aligned to 8 bytes.

use crate::base::crc::crc32c;
use crate::base::limits;
use crate::log::anchor;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the format that this build writes. A log of a later version is refused.
pub const FORMAT_VERSION: u32 = 1;
/// No later version will have a higher number: such a number is damage.
const VERSION_MAX: u32 = 0xFFFF;
/// The first eight bytes of every segment.
const MAGIC: [u8; 8] = *b"ackringL";
/// Length of a segment's header, in bytes. The first record follows it.
pub const SEGMENT_HEADER_LEN: usize = 64;
/// Sequence and boot numbers stay below: so far from the end that none is ever reached by counting on.
pub(super) const NUMBERS_END: u32 = 1 << 31;
/// [`SEGMENT_HEADER_LEN`] as an offset.
pub(crate) const DATA_START: u32 = SEGMENT_HEADER_LEN as u32;

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

const _: () = {
    assert!(size_of::<SegmentHeader>() == SEGMENT_HEADER_LEN);
    assert!(SEGMENT_HEADER_LEN.is_multiple_of(8));
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that version 1 has written since its first day: whoever must change them writes another version.
    #[test]
    fn the_layout_is_the_one_that_format_version_1_has() {
        let shape = LogShape {
            log_id: *b"0123456789abcdef",
            segment_bytes: 65536,
            files: 4,
            anchor: 0,
        };
        let expected = "61636b72696e674c010000000ad4567202000000030000000100000000000100\
                        3031323334353637383961626364656604000000000000000000000000000000";
        let header = SegmentHeader::new(2, 3, 1, shape);
        let hex: String = header
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, expected);
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
