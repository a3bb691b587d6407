//! A second reader of the log's format, by FORMAT.md alone and sharing no code with the first.
#![allow(dead_code, reason = "each of those who share this file uses its own part")]

use ackring::log::LogPosition;

/// A segment header, a record's header.
pub const SEGMENT_HEADER: usize = 64;
pub const RECORD_HEADER: usize = 32;

/// Any record, as it stands in a file.
#[derive(Debug, Clone)]
pub struct Stone {
    pub sequence: u32,
    pub epoch: u32,
    pub offset: usize,
    /// Header and body.
    pub bytes: Vec<u8>,
}

impl Stone {
    pub fn position(&self) -> LogPosition {
        LogPosition::new(self.sequence, self.offset as u32)
    }

    pub fn mark(&self) -> LogPosition {
        LogPosition::from_raw(word(&self.bytes, 16))
    }
}

pub fn word(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()))
}

pub fn half(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .map_or(0, |half| u32::from_le_bytes(half.try_into().unwrap()))
}

/// The checksum of a segment header.
pub fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..SEGMENT_HEADER])
}

/// The checksum of a record at a place.
pub fn record_crc(bytes: &[u8], position: LogPosition) -> u32 {
    let (head, body) = bytes.split_at(RECORD_HEADER);
    let body_crc = if head[12] == 0xF0 { 0 } else { crc32c::crc32c(body) };
    let crc = crc32c::crc32c_append(body_crc, &position.raw().to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &head[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &head[12..])
}

/// Sequence, epoch and the rest of a header that is in order and of a segment in use.
pub fn in_use(bytes: &[u8]) -> Option<(u32, u32)> {
    let whole = bytes.len() >= SEGMENT_HEADER && &bytes[..8] == b"ackringL" && half(bytes, 8) == 1;
    let valid = whole && half(bytes, 12) == header_crc(bytes) && half(bytes, 16) != 0;
    valid.then(|| (half(bytes, 16), half(bytes, 20)))
}

/// The record at a place by FORMAT.md, if there is one.
pub fn record_at(bytes: &[u8], sequence: u32, epoch: u32, offset: usize) -> Option<Stone> {
    let rest = bytes.get(offset..)?;
    let len = half(rest, 0) as usize;
    if len < RECORD_HEADER || !len.is_multiple_of(8) || half(rest, 4) != epoch {
        return None;
    }
    let record = rest.get(..len)?;
    let position = LogPosition::new(sequence, offset as u32);
    let valid =
        half(record, 8) == record_crc(record, position) && record[14..16] == [0, 0] && record[12] <= 0xF2;
    valid.then(|| Stone {
        sequence,
        epoch,
        offset,
        bytes: record.to_vec(),
    })
}

/// Every record of a segment's file, in order; nothing if it is none in use.
pub fn records_of(bytes: &[u8]) -> Vec<Stone> {
    let mut found = Vec::new();
    let Some((sequence, epoch)) = in_use(bytes) else {
        return found;
    };
    let mut at = SEGMENT_HEADER;
    while at + RECORD_HEADER <= bytes.len() {
        let record = record_at(bytes, sequence, epoch, at);
        at += record.as_ref().map_or(8, |record| record.bytes.len());
        found.extend(record);
    }
    found
}
