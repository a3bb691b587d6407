//! What the tests of the log share.
#![allow(dead_code, reason = "each test file uses its own part")]

use ackring::limits::SEGMENT_BYTES_MIN;
use ackring::log::{Log, LogConfig, LogPosition, RecoveryReport, Room};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The time at which all tests take place, in milliseconds since the Unix epoch.
pub(crate) const NOW_MS: u64 = 1_700_000_000_000;

/// A record as read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OwnedRecord {
    pub(crate) position: LogPosition,
    pub(crate) body_position: LogPosition,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) now_ms: u64,
    pub(crate) body: Vec<u8>,
}

impl OwnedRecord {
    /// The number that [`append`] wrote.
    pub(crate) fn number(&self) -> u64 {
        u64::from_le_bytes(self.body[..8].try_into().unwrap())
    }
}

pub(crate) fn durable_config(directory: &TempDir) -> LogConfig {
    config_at(directory.path())
}

pub(crate) fn config_at(path: &Path) -> LogConfig {
    LogConfig {
        directory: Some(path.to_owned()),
        segment_bytes: SEGMENT_BYTES_MIN,
        log_bytes_max: 1 << 30,
        ..LogConfig::default()
    }
}

pub(crate) fn open(config: LogConfig) -> (Log, Vec<OwnedRecord>) {
    let (log, records, _) = open_reported(config);
    (log, records)
}

pub(crate) fn open_reported(config: LogConfig) -> (Log, Vec<OwnedRecord>, RecoveryReport) {
    let mut records = Vec::new();
    let (log, report) = Log::open(config, NOW_MS, &mut |record| {
        records.push(OwnedRecord {
            position: record.position,
            body_position: record.body_position(),
            kind: record.kind,
            flags: record.flags,
            now_ms: record.now_ms,
            body: record.body.to_vec(),
        });
    })
    .unwrap();
    assert_eq!(report.records as usize, records.len());
    (log, records, report)
}

pub(crate) fn reopen(log: Log, directory: &TempDir) -> (Log, Vec<OwnedRecord>) {
    drop(log);
    open(durable_config(directory))
}

/// The body of record `number`: the number and `extra` bytes that follow from it.
pub(crate) fn body_of(number: u64, extra: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend((0..extra).map(|i| (number as usize).wrapping_mul(31).wrapping_add(i) as u8));
    body
}

/// Appends record `number` with `extra` bytes, a multiple of 8, behind the number. Returns its end.
pub(crate) fn append(log: &Log, number: u64, extra: usize) -> LogPosition {
    let body = body_of(number, extra);
    let mut claim = log.claim(body.len(), Room::Enqueue).unwrap();
    claim.put(&body);
    claim.commit(7, 1, NOW_MS, 0)
}

/// The segment files of a directory, in order.
pub(crate) fn segment_files(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    files.sort();
    files
}

/// The file that holds a segment, found by its header.
pub(crate) fn file_of(path: &Path, position: LogPosition) -> PathBuf {
    let holds = |file: &PathBuf| std::fs::read(file).unwrap()[16..20] == position.sequence().to_le_bytes();
    segment_files(path).into_iter().find(holds).unwrap()
}

pub(crate) fn overwrite(file: &Path, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Flips one bit of the byte at a place in the log.
pub(crate) fn flip_bit(path: &Path, position: LogPosition) {
    let file = file_of(path, position);
    let byte = std::fs::read(&file).unwrap()[position.offset() as usize];
    overwrite(&file, u64::from(position.offset()), &[byte ^ 0x10]);
}

/// Names and contents of everything in a directory.
pub(crate) fn snapshot(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}
