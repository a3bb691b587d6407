//! Small logs that the real writer wrote, each with what is in it according to a reader of its own: what a mutated
//! copy is judged by.

use crate::ram_disk::{Image, RamDisk};
use crate::reader::{Stone, in_use, records_of};
use ackring::log::{Log, LogConfig, LogPosition, Room};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Small, so that a few records fill one: only simulated disks allow it.
pub const SEGMENT_BYTES: u32 = 4096;
pub const NOW_MS: u64 = 1_700_000_000_000;
/// A record of the engine, as recovery shows it.
pub type Shown = (LogPosition, u8, u8, u64, Vec<u8>);

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

/// Every record in the segments in use of a directory, in order.
fn stones(image: &Image) -> Vec<Stone> {
    let files = image.values();
    let mut found: Vec<Stone> = files.flat_map(|contents| records_of(&contents.bytes)).collect();
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
