//! A segment whose header is damaged: finding out from its records which one it was.
//!
//! A record's checksum covers its position and its epoch. So one valid record proves both for the whole segment, if
//! the position is one that the other segments leave open; and its jobs need not be given up for a bad sector.

use crate::base::crc::crc32c;
use crate::base::limits;
use crate::log::damage::{has_length, is_plausible, length, read_header};
use crate::log::header::{DATA_START, LogShape, SegmentHeader};
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_PAD, KIND_START, RecordHeader};
use crate::log::start::FLAG_BOOT;
use zerocopy::FromBytes;

/// Bytes whose checksums are computed in one segment, as a multiple of its size: a bound for bytes that were made
/// to look like records.
const EFFORT: usize = 8;

/// What the other segments say about one whose header is damaged.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    /// Sequence numbers that no other segment has and this one may have.
    pub(super) open: Vec<u32>,
    /// Sequence and boot of the others, in order.
    pub(super) known: Vec<(u32, u32)>,
    /// What all headers of the log have in common, if there is another one.
    pub(super) shape: Option<LogShape>,
    /// How many files the log has at least.
    pub(super) files: u32,
}

/// The size that the segment had, where no other one tells it: the length of the file or, where that is none that a
/// segment has, what its damaged header says.
pub(super) fn likely_size(header: &[u8], file_len: u64) -> Option<u32> {
    let claimed = SegmentHeader::read_from_prefix(header).ok();
    let claimed = claimed.map(|(header, _)| header.segment_bytes.get());
    let sizes = u32::try_from(file_len).into_iter().chain(claimed);
    let mut possible =
        sizes.filter(|bytes| bytes.is_multiple_of(4096) && *bytes <= limits::SEGMENT_BYTES_MAX);
    possible.find(|bytes| *bytes > 0)
}

/// The header that the segment of `segment_bytes` must have had, if a record proves it.
pub(super) fn rebuild(bytes: &[u8], segment_bytes: u32, around: &Surroundings) -> Option<SegmentHeader> {
    let claimed = SegmentHeader::read_from_prefix(bytes)
        .ok()
        .map(|(header, _)| header);
    let mut open = around.open.clone();
    // First what the damaged header says: mostly that is still right.
    let is_near = |sequence: u32| {
        let mut known = around.known.iter();
        around.known.is_empty()
            || known.any(|(other, _)| other.abs_diff(sequence) < limits::SEGMENT_FILES_MAX)
    };
    if let Some(claimed) = claimed.map(|header| header.sequence.get())
        && claimed != 0
        && around.known.iter().all(|(sequence, _)| *sequence != claimed)
        && is_near(claimed)
    {
        open.insert(0, claimed);
    }
    let (sequence, proof, at) = find_proof(bytes, &open)?;
    let epoch = (proof.commit.get() >> 32) as u32;
    let is_boot = at == DATA_START && proof.kind == KIND_START && proof.flags & FLAG_BOOT != 0;
    let shape = around.shape.or(claimed.map(|header| LogShape {
        log_id: header.log_id,
        segment_bytes,
        files: around.files,
        anchor: 0,
    }))?;
    let claimed_boot = claimed.map(|header| header.boot.get());
    let boot = boot_of(sequence, is_boot, claimed_boot, &around.known);
    Some(SegmentHeader::new(sequence, epoch, boot, shape)).filter(SegmentHeader::is_possible)
}

/// The first record that is valid at one of the sequence numbers.
fn find_proof(bytes: &[u8], open: &[u32]) -> Option<(u32, RecordHeader, u32)> {
    let mut effort = bytes.len().saturating_mul(EFFORT);
    for at in (DATA_START as usize..bytes.len()).step_by(8) {
        let rest = &bytes[at..];
        let Some(header) = read_header(rest) else { break };
        if header.commit.get() >> 32 == 0 || !is_plausible(&header, rest.len()) {
            continue;
        }
        debug_assert!(has_length(&header, rest.len()));
        let body = &rest[HEADER_LEN..length(&header)];
        effort = effort.checked_sub(body.len())?;
        let body_crc = if header.kind == KIND_PAD {
            0
        } else {
            crc32c(0, body)
        };
        let is_valid_in = |sequence: &&u32| {
            let position = LogPosition::new(**sequence, at as u32);
            header.crc.get() == header.checksum(position, body_crc)
        };
        if let Some(sequence) = open.iter().find(is_valid_in) {
            return Some((*sequence, header, at as u32));
        }
    }
    None
}

/// The start of the engine that began the segment: as claimed where that fits between the neighbours, and otherwise
/// the lowest that does. Only the order of these numbers means anything.
fn boot_of(sequence: u32, is_boot: bool, claimed: Option<u32>, known: &[(u32, u32)]) -> u32 {
    let before = known.iter().rev().find(|(other, _)| *other < sequence);
    let after = known.iter().find(|(other, _)| *other > sequence);
    let lowest = match before {
        Some((_, boot)) if is_boot => boot.saturating_add(1),
        Some((_, boot)) => *boot,
        None => 1,
    };
    let highest = after.map_or(u32::MAX, |(_, boot)| *boot);
    match claimed {
        Some(claimed) if (lowest..=highest).contains(&claimed) => claimed,
        // Without a segment in front of it, it belongs with the one behind.
        _ if before.is_none() && after.is_some() => highest,
        _ => lowest.min(highest),
    }
}
