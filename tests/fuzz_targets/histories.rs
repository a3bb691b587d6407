//! Small logs that the real writer wrote, each with what is in it according to a reader of its own: what a mutated
//! copy is judged by.

use crate::ram_disk::{Image, RamDisk};
use ackring::log::{Log, LogConfig, LogPosition, Room};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Small, so that a few records fill one: only simulated disks allow it.
pub const SEGMENT_BYTES: u32 = 4096;
pub const NOW_MS: u64 = 1_700_000_000_000;
/// A segment header, a record's header.
pub const SEGMENT_HEADER: usize = 64;
pub const RECORD_HEADER: usize = 32;

/// A record of the engine, as recovery shows it.
pub type Shown = (LogPosition, u8, u8, u64, Vec<u8>);

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

pub struct History {
    pub image: Image,
    /// Every record of the engine that was ever written.
    pub written: BTreeSet<Shown>,
    /// What recovery shows of it as it is.
    pub shown: Vec<Shown>,
    /// The records in the segments in use, the log's own too.
    pub stones: Vec<Stone>,
}

pub fn config(disk: &RamDisk) -> LogConfig {
    LogConfig {
        directory: Some(PathBuf::from("log")),
        segment_bytes: SEGMENT_BYTES,
        log_bytes_max: 16 * u64::from(SEGMENT_BYTES),
        salvage: false,
        disk: disk.handle(),
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

/// Every record in the segments in use of a directory, in order.
pub fn stones(image: &Image) -> Vec<Stone> {
    let mut found = Vec::new();
    for contents in image.values() {
        let Some((sequence, epoch)) = in_use(&contents.bytes) else {
            continue;
        };
        let mut at = SEGMENT_HEADER;
        while at + RECORD_HEADER <= contents.bytes.len() {
            let record = record_at(&contents.bytes, sequence, epoch, at);
            at += record.as_ref().map_or(8, |record| record.bytes.len());
            found.extend(record);
        }
    }
    found.sort_by_key(Stone::position);
    found
}

/// Writes the histories.
struct Writer {
    disk: RamDisk,
    log: Option<Log>,
    written: BTreeSet<Shown>,
    count: u64,
    now_ms: u64,
}

impl Writer {
    fn new(seed: u64) -> Self {
        let mut writer = Self {
            disk: RamDisk::new(&Image::new(), seed),
            log: None,
            written: BTreeSet::new(),
            count: 0,
            now_ms: NOW_MS,
        };
        writer.restart(false);
        writer
    }

    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    fn restart(&mut self, salvage: bool) {
        self.log = None;
        let config = LogConfig {
            salvage,
            ..config(&self.disk)
        };
        self.log = Some(Log::open(config, self.now_ms, &mut |_| ()).unwrap().0);
    }

    /// A record of `words` words that keeps its segment if `live`.
    fn put(&mut self, words: usize, live: bool) -> LogPosition {
        self.count += 1;
        self.now_ms += 1;
        let body: Vec<u8> = (0..words as u64)
            .flat_map(|word| (word * 0x0101_0101 + self.count).to_le_bytes())
            .collect();
        let (kind, flags) = (1 + (self.count % 9) as u8, (self.count % 2) as u8);
        let mut claim = self.log().claim(body.len(), Room::Settle).unwrap();
        claim.put(&body);
        let position = claim.position();
        let end = claim.commit(kind, flags, self.now_ms, u32::from(live));
        self.written.insert((position, kind, flags, self.now_ms, body));
        end
    }

    /// Lets the log's agent do what is to be done.
    fn agent(&mut self) {
        self.now_ms += 1_001;
        self.log().step(self.now_ms, 100);
    }

    fn finish(mut self) -> History {
        self.log = None;
        let image = self.disk.image();
        let shown = shown(&self.disk);
        assert!(shown.iter().all(|record| self.written.contains(record)));
        let stones = stones(&image);
        let known: BTreeSet<_> = stones.iter().map(Stone::position).collect();
        assert!(
            shown.iter().all(|record| known.contains(&record.0)),
            "the two readers agree"
        );
        History {
            image,
            written: self.written,
            shown,
            stones,
        }
    }
}

fn put_live(writer: &mut Writer, words: usize) {
    writer.put(words, true);
}

/// What `inspect` shows of a sound log.
fn shown(disk: &RamDisk) -> Vec<Shown> {
    let mut records = Vec::new();
    let report = ackring::log::inspect_on(disk, &PathBuf::from("log"), &mut |record| {
        records.push((
            record.position,
            record.kind,
            record.flags,
            record.now_ms,
            record.body.to_vec(),
        ));
    });
    assert_eq!(report.unwrap().corruptions, []);
    records
}

/// All histories, made once.
pub fn all() -> &'static [History] {
    static ALL: OnceLock<Vec<History>> = OnceLock::new();
    ALL.get_or_init(|| {
        vec![
            one_boot(),
            many_segments(),
            holes(),
            recycled(),
            salvaged(),
            fresh(),
        ]
    })
}

fn fresh() -> History {
    Writer::new(1).finish()
}

/// One segment; half of it synced.
fn one_boot() -> History {
    let mut writer = Writer::new(2);
    for words in [0, 1, 2, 5, 9, 0] {
        let end = writer.put(words, true);
        if words == 5 {
            writer.log().sync_to(end).unwrap();
        }
    }
    writer.put(3, true);
    writer.finish()
}

/// Several segments, closed in good order; a second boot behind them.
fn many_segments() -> History {
    let mut writer = Writer::new(3);
    for n in 0..24 {
        writer.put(n * 7 % 90, true);
        if n % 6 == 5 {
            writer.agent();
        }
    }
    writer.log().close(writer.now_ms).unwrap();
    writer.restart(false);
    (0..5).for_each(|n| put_live(&mut writer, n));
    writer.finish()
}

/// Writers that died in the middle, in one boot and in the next; three boots.
fn holes() -> History {
    let mut writer = Writer::new(4);
    for boot in 0..3 {
        writer.put(4, true);
        std::mem::forget(writer.log().claim(16 + 40 * boot, Room::Enqueue).unwrap());
        writer.put(6, true);
        writer.agent();
        drop(writer.log().claim(24, Room::Enqueue).unwrap());
        writer.put(2, true);
        if boot < 2 {
            writer.restart(false);
        }
    }
    writer.finish()
}

/// Segments used again and again, so that old records stand behind the new ones and in the spares.
fn recycled() -> History {
    let mut writer = Writer::new(5);
    for n in 0..160 {
        writer.put(n * 13 % 70, n % 160 > 150);
        if n % 5 == 4 {
            writer.log().sync().unwrap();
            writer.agent();
        }
    }
    writer.restart(false);
    (0..3).for_each(|n| put_live(&mut writer, n));
    writer.finish()
}

/// A log that was damaged where it was durable, and went on without that.
fn salvaged() -> History {
    let mut writer = Writer::new(6);
    let ends: Vec<LogPosition> = (0..9).map(|n| writer.put(n, true)).collect();
    writer.log().close(writer.now_ms).unwrap();
    writer.log = None;
    let mut image = writer.disk.image();
    for contents in image
        .values_mut()
        .filter(|contents| in_use(&contents.bytes).is_some())
    {
        contents.bytes[ends[3].offset() as usize - 4] ^= 1;
        contents.bytes[ends[6].offset() as usize - 4] ^= 1;
    }
    writer.disk = RamDisk::new(&image, 77);
    writer.restart(true);
    (0..4).for_each(|n| put_live(&mut writer, n));
    writer.log().sync().unwrap();
    writer.put(2, true);
    writer.finish()
}
