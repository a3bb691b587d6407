//! What a damaged stretch of the log looks like, and what of it can still be read.
//!
//! For people: what is found here decides nothing about what counts, it only says what was lost.

use crate::base::crc::crc32c;
use crate::log::bad_range::BadRange;
use crate::log::header::DATA_START;
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_MARK, RecordFlaw, RecordHeader};
use zerocopy::FromBytes;

/// What is wrong with a place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Damage {
    /// A record was begun here and is not what its checksum says.
    Checksum,
    /// A record was begun here, and its length is none.
    Length,
    /// A whole record that was written for another place of the same segment.
    WrongPlace,
    /// A record of another use of the file: the write that should have replaced it is not there.
    OtherEpoch,
    /// Zeros.
    Zeros,
    /// Bytes that are no record.
    Garbage,
    /// The disk does not give the bytes back.
    Unreadable,
    /// The file ends before it should.
    CutFile,
    /// A file is gone.
    MissingFile,
    /// Segments between others are gone.
    MissingSegments,
    /// The segment's header cannot be used.
    Header,
    /// The file belongs to another log.
    ForeignFile,
    /// There are two files for one place in the log.
    DoublePlace,
    /// The file has a name that the log did not give it.
    WrongName,
    /// The log ends elsewhere than a later start or an orderly end has noted.
    WrongEnd,
    /// Segments stand in an order in which no log writes them.
    WrongOrder,
    /// The anchor, which tells what segments told that are gone, cannot be used.
    Anchor,
}

impl Damage {
    /// What it is called in reports; never changes.
    pub const fn name(self) -> &'static str {
        match self {
            Damage::Checksum => "bad-checksum",
            Damage::Length => "bad-length",
            Damage::WrongPlace => "wrong-position",
            Damage::OtherEpoch => "wrong-epoch",
            Damage::Zeros => "zeros",
            Damage::Garbage => "garbage",
            Damage::Unreadable => "unreadable",
            Damage::CutFile => "cut-file",
            Damage::MissingFile => "missing-file",
            Damage::MissingSegments => "missing-segments",
            Damage::Header => "bad-header",
            Damage::ForeignFile => "foreign-file",
            Damage::DoublePlace => "double-place",
            Damage::WrongName => "wrong-name",
            Damage::WrongEnd => "wrong-end",
            Damage::WrongOrder => "wrong-order",
            Damage::Anchor => "bad-anchor",
        }
    }

    /// What it means, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Damage::Checksum => "a record's checksum is wrong",
            Damage::Length => "a record's length makes no sense",
            Damage::WrongPlace => "a whole record stands here that was written for another place of the file",
            Damage::OtherEpoch => "what stands here is from an earlier use of the file",
            Damage::Zeros => "there are zeros",
            Damage::Garbage => "the bytes here are no record",
            Damage::Unreadable => "the disk does not give the bytes back",
            Damage::CutFile => "the file ends too early",
            Damage::MissingFile => "the file is gone",
            Damage::MissingSegments => "whole segments are gone",
            Damage::Header => "the file's header cannot be used",
            Damage::ForeignFile => "the file belongs to another log",
            Damage::DoublePlace => "another file has the same place in the log",
            Damage::WrongName => "the file has a name that the log did not give it",
            Damage::WrongEnd => "the log ends elsewhere than it did",
            Damage::WrongOrder => "the segments are not in the order in which they were written",
            Damage::Anchor => "what segments told that are gone cannot be read",
        }
    }

    /// Whether a record was begun at the place.
    pub(super) fn is_begun(self) -> bool {
        matches!(self, Damage::Checksum | Damage::Length | Damage::WrongPlace)
    }
}

/// What stands at the start of a gap. `bytes` go from the gap's start to the segment's end.
pub(super) fn classify(bytes: &[u8], range: BadRange, flaw: RecordFlaw) -> Damage {
    let gap = (range.end.offset() - range.start.offset()) as usize;
    let Some(header) = read_header(bytes) else {
        return Damage::CutFile;
    };
    if flaw == RecordFlaw::Unwritten {
        let gap = gap.min(bytes.len());
        return match () {
            () if zeros_in_front(&bytes[..gap]) == gap => Damage::Zeros,
            () if is_plausible(&header, bytes.len()) => Damage::OtherEpoch,
            () => Damage::Garbage,
        };
    }
    if !has_length(&header, bytes.len()) {
        return Damage::Length;
    }
    if belongs_elsewhere(bytes, &header, range.start) {
        Damage::WrongPlace
    } else {
        Damage::Checksum
    }
}

/// How many zeros `bytes` begins with, in whole blocks: what is left of the last segment goes through here at every start.
pub(super) fn zeros_in_front(bytes: &[u8]) -> usize {
    const ZEROS: [u8; 1024] = [0; 1024];
    let blocks = bytes.chunks(ZEROS.len());
    let zeros = blocks.take_while(|block| *block == &ZEROS[..block.len()]);
    zeros.map(<[u8]>::len).sum()
}

/// Whether the record at the front of `bytes` is whole for another place of its segment. Only places a number of
/// disk sectors away are tried: what moves data by mistake moves sectors. `bytes` go to the segment's end.
fn belongs_elsewhere(bytes: &[u8], header: &RecordHeader, position: LogPosition) -> bool {
    const SECTOR: u32 = 512;
    /// So far away that the search takes no time to speak of.
    const SECTORS_MAX: u32 = 16 * 1024;
    let body_crc = crc32c(0, &bytes[HEADER_LEN..length(header)]);
    let segment_end = position.offset() as usize + bytes.len();
    let is_valid_at = |offset: u32| {
        let elsewhere = LogPosition::new(position.sequence(), offset);
        let is_inside = offset >= DATA_START && offset as usize + length(header) <= segment_end;
        is_inside && header.crc.get() == header.checksum(elsewhere, body_crc)
    };
    let sectors_max = (segment_end as u32 / SECTOR).min(SECTORS_MAX);
    (1..=sectors_max).any(|sectors| {
        let distance = sectors * SECTOR;
        position.offset().checked_sub(distance).is_some_and(is_valid_at)
            || position.offset().checked_add(distance).is_some_and(is_valid_at)
    })
}

/// A record in a damaged stretch whose header can still be read. Any of its bytes may be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Where its header begins.
    pub position: LogPosition,
    /// The kind, as it reads.
    pub kind: u8,
    /// The flags, as they read.
    pub flags: u8,
    /// When it was written, as it reads, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What follows the header; cut where the stretch ends.
    pub body: &'a [u8],
}

/// Shows what reads like records of the segment's epoch in a stretch of it. `bytes` are the segment's.
pub(super) fn fragments(bytes: &[u8], range: BadRange, epoch: u32, visit: &mut dyn FnMut(Fragment<'_>)) {
    let end = bytes.len().min(range.end.offset() as usize);
    let stretch = bytes.get(..end).unwrap_or_default();
    let mut at = range.start.offset() as usize;
    while let Some(header) = read_header(stretch.get(at..).unwrap_or_default()) {
        let is_record = (header.commit.get() >> 32) as u32 == epoch && is_plausible(&header, end - at);
        if !is_record {
            at += 8;
            continue;
        }
        let len = length(&header);
        visit(Fragment {
            position: LogPosition::new(range.start.sequence(), at as u32),
            kind: header.kind,
            flags: header.flags,
            now_ms: header.now_ms.get(),
            body: &stretch[at + HEADER_LEN..at + len],
        });
        at += len;
    }
}

pub(super) fn read_header(bytes: &[u8]) -> Option<RecordHeader> {
    RecordHeader::read_from_prefix(bytes)
        .ok()
        .map(|(header, _)| header)
}

pub(super) fn length(header: &RecordHeader) -> usize {
    header.commit.get() as u32 as usize
}

pub(super) fn has_length(header: &RecordHeader, room: usize) -> bool {
    let len = length(header);
    len >= HEADER_LEN && len.is_multiple_of(8) && len <= room
}

pub(super) fn is_plausible(header: &RecordHeader, room: usize) -> bool {
    has_length(header, room) && header.reserved.get() == 0 && (1..=KIND_MARK).contains(&header.kind)
}
