//! A log directory that somebody or something has changed: a log that the real writer wrote, and the input says
//! what becomes of it.
//!
//! Never a panic; never more memory than segments have; `inspect` and `Log::open` agree; what is refused stays as it
//! is; what is opened, with salvage or without, opens again with the same records and takes new ones. Nothing is shown
//! that was not written there, and nothing is silently left out that a later record knew to be on the disk, unless
//! the input has made checksums to fit.

use crate::histories::{self, NOW_MS, Shown};
use crate::mutations::{Mutant, Taps};
use crate::ram_disk::{Image, RamDisk};
use crate::reader::{SEGMENT_HEADER, Stone, half, header_crc, in_use, record_at};
use ackring::log::{
    Corruption, InspectReport, Log, LogConfig, LogPosition, OpenError, RecoveryReport, Room, inspect_on,
};
use std::path::Path;

/// More than this many changes say nothing new.
const CHANGES_MAX: usize = 24;

pub fn run(input: &[u8]) {
    let histories = histories::all();
    let mut taps = Taps(input);
    let mut mutant = Mutant::new(&histories[taps.below(histories.len())]);
    for _ in 0..CHANGES_MAX {
        if taps.is_empty() {
            break;
        }
        mutant.change(&mut taps);
    }
    if mutant.has_large_segment() {
        return;
    }
    judge(&mutant);
}

fn judge(mutant: &Mutant<'_>) {
    let inspected = look(&RamDisk::new(&mutant.image, 1001));
    let disk = RamDisk::new(&mutant.image, 1002);
    let opened = open(&disk, false);
    match (&inspected, &opened) {
        (Err(first), Err(second)) => assert_eq!(first.to_string(), second.to_string()),
        (Ok((report, shown)), Ok((_, second, recovered))) => {
            assert_eq!(report.corruptions, [], "opened although it is corrupt");
            agree(report, shown, second, recovered);
        }
        (Ok((report, _)), Err(OpenError::Corrupt { path, offset, reason })) => {
            let first = &report.corruptions[0];
            assert_eq!(
                (path, offset, reason),
                (&first.path, &first.offset, &first.reason)
            );
        }
        (Ok((report, _)), Err(OpenError::SegmentSize { .. })) => {
            assert!(mutant.is_forged && report.corruptions.is_empty());
        }
        (Ok(_), Err(other)) => panic!("inspected, but not opened: {other}"),
        (Err(error), Ok(_)) => panic!("opened, but not inspected: {error}"),
    }
    if let Ok((log, shown, _)) = opened {
        genuine(mutant, &shown, false);
        if !mutant.is_forged {
            complete(mutant, &shown);
        }
        goes_on(&disk, log, shown);
    } else {
        let mut after = disk.image();
        after.retain(|name, _| name != "lock");
        let mut before = RamDisk::new(&mutant.image, 0).image();
        before.retain(|name, _| name != "lock");
        assert!(after == before, "a refused log is left as it is");
    }
    salvage(mutant, inspected.ok());
}

fn salvage(mutant: &Mutant<'_>, inspected: Option<(InspectReport, Vec<Shown>)>) {
    let disk = RamDisk::new(&mutant.image, 1003);
    match open(&disk, true) {
        Ok((log, shown, report)) => {
            let (inspected, seen) = inspected.expect("what can be salvaged can be looked at");
            let places = |list: &[Corruption]| -> Vec<_> {
                let place =
                    |found: &Corruption| (found.path.clone(), found.offset, found.damage, found.range);
                list.iter().map(place).collect()
            };
            assert_eq!(places(&inspected.corruptions), places(&report.salvaged));
            agree(&inspected, &seen, &shown, &report);
            genuine(mutant, &shown, true);
            goes_on(&disk, log, shown);
        }
        Err(OpenError::NewerFormat { .. }) => {}
        Err(OpenError::SegmentSize { .. } | OpenError::Config(_)) if mutant.is_forged => {}
        // A header that is damaged, and no other one of the log to say better.
        Err(OpenError::SegmentSize { .. }) if mutant.image.values().any(|file| !is_header(&file.bytes)) => {}
        Err(other) => panic!("not to be salvaged: {other}"),
    }
}

fn is_header(bytes: &[u8]) -> bool {
    bytes.len() >= SEGMENT_HEADER && half(bytes, 12) == header_crc(bytes)
}

fn look(disk: &RamDisk) -> Result<(InspectReport, Vec<Shown>), OpenError> {
    let mut shown = Vec::new();
    let report = inspect_on(disk, Path::new("log"), &mut |record| {
        shown.push((
            record.position,
            record.kind,
            record.flags,
            record.now_ms,
            record.body.to_vec(),
        ));
    })?;
    Ok((report, shown))
}

fn open(disk: &RamDisk, salvage: bool) -> Result<(Log, Vec<Shown>, RecoveryReport), OpenError> {
    let mut shown = Vec::new();
    let config = LogConfig {
        salvage,
        ..histories::config(disk)
    };
    let (log, report) = Log::open(config, NOW_MS, &mut |record| {
        shown.push((
            record.position,
            record.kind,
            record.flags,
            record.now_ms,
            record.body.to_vec(),
        ));
    })?;
    Ok((log, shown, report))
}

fn agree(report: &InspectReport, shown: &[Shown], second: &[Shown], recovered: &RecoveryReport) {
    assert!(shown == second, "inspect and open show the same");
    assert_eq!(report.records, shown.len() as u64);
    assert_eq!(
        (report.records, report.bytes),
        (recovered.records, recovered.bytes)
    );
    assert_eq!(
        (&report.holes, report.torn_tail),
        (&recovered.holes, recovered.torn_tail)
    );
    assert_eq!(
        report.segments.iter().map(|segment| segment.records).sum::<u64>(),
        report.records
    );
}

/// What is shown stands in the files, each record once and in order; and it was written.
fn genuine(mutant: &Mutant<'_>, shown: &[Shown], is_salvage: bool) {
    assert!(
        shown.is_sorted_by(|a, b| a.0 < b.0),
        "each record once and in order"
    );
    for record in shown {
        let mut files = mutant.image.values();
        let found = files.any(|contents| stands(&contents.bytes, record, is_salvage));
        assert!(
            found,
            "{} is shown and stands nowhere in {}",
            record.0,
            files_of(mutant)
        );
        if !mutant.is_forged {
            assert!(
                mutant.history.written.contains(record),
                "{} was never written",
                record.0
            );
        }
    }
}

fn files_of(mutant: &Mutant<'_>) -> String {
    let files = mutant.image.iter();
    let told = files.map(|(name, file)| format!("{name} of {} bytes {:?}", file.len, in_use(&file.bytes)));
    told.collect::<Vec<_>>().join(", ")
}

/// Whether a file holds the record by FORMAT.md. A salvage may have found out by the records what a damaged header said,
/// and zeros stand for what was cut off.
fn stands(bytes: &[u8], record: &Shown, is_salvage: bool) -> bool {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(histories::SEGMENT_BYTES as usize), 0);
    let bytes = &bytes[..];
    let offset = record.0.offset() as usize;
    let proved = is_salvage.then(|| (record.0.sequence(), half(bytes, offset + 4)));
    let known = in_use(bytes).into_iter().chain(proved);
    let mut stones = known.filter_map(|(sequence, epoch)| record_at(bytes, sequence, epoch, offset));
    stones.any(|stone| stone.position() == record.0 && stone.bytes[32..] == record.4)
}

/// Nothing is missing that a surviving record behind it knew to be on the disk.
fn complete(mutant: &Mutant<'_>, shown: &[Shown]) {
    let survivors: Vec<&Stone> = mutant
        .history
        .stones
        .iter()
        .filter(|stone| survives(&mutant.image, stone))
        .collect();
    let oldest = survivors
        .iter()
        .map(|stone| stone.sequence)
        .min()
        .unwrap_or(u32::MAX);
    let known = survivors
        .iter()
        .map(|stone| stone.mark())
        .max()
        .unwrap_or(LogPosition::NONE);
    for record in &mutant.history.shown {
        let is_there = shown.binary_search_by_key(&record.0, |shown| shown.0).is_ok();
        // Segments go from the oldest on, and a header that says so is believed.
        let went = record.0.sequence() < oldest;
        assert!(
            is_there || went || record.0 >= known,
            "{} was on the disk and is gone without a word",
            record.0
        );
    }
}

fn survives(image: &Image, stone: &Stone) -> bool {
    image.iter().any(|(name, contents)| {
        let is_segment = name.len() == "00000000.segment".len() && name.ends_with(".segment");
        is_segment
            && in_use(&contents.bytes) == Some((stone.sequence, stone.epoch))
            && contents.bytes[stone.offset.min(contents.bytes.len())..].starts_with(&stone.bytes)
    })
}

/// The log takes records, and opens again with the same ones and these.
fn goes_on(disk: &RamDisk, log: Log, mut shown: Vec<Shown>) {
    if let Ok(mut claim) = log.claim(16, Room::Settle) {
        claim.put(b"one more record!");
        shown.push((claim.position(), 5, 0, NOW_MS, b"one more record!".to_vec()));
        claim.commit(5, 0, NOW_MS, 0);
    }
    assert!(
        shown.is_sorted_by(|a, b| a.0 < b.0),
        "what is new stands behind what was there"
    );
    log.sync().unwrap();
    drop(log);
    let (log, again, report) = open(disk, false).unwrap_or_else(|error| panic!("opened once: {error}"));
    assert!(again == shown, "the same when opened again");
    assert!(
        report.salvaged.is_empty() && report.holes.is_empty() && !report.torn_tail,
        "{report:?}"
    );

    // Nothing of it is needed: the agent uses the segments again, and the log still opens.
    for second in 1..6 {
        log.step(NOW_MS + second * 1_001, 100);
    }
    log.close(NOW_MS + 10_000).unwrap();
    drop(log);
    let (_, last, _) = open(disk, false).unwrap_or_else(|error| panic!("opened twice: {error}"));
    assert!(
        shown.ends_with(&last),
        "what is left is the end of what was there"
    );
}
