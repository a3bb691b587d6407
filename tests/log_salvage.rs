//! Going on without what is damaged: what comes back, what is kept for people to look at, and that a start without
//! salvage is content afterwards.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod log_common;

use ackring::limits::SEGMENT_BYTES_MIN;
use ackring::log::{Damage, Log, LogConfig, LogPosition, RecoveryReport, inspect};
use log_common::{
    NOW_MS, OwnedRecord, append, durable_config, file_of, flip_bit, open, open_reported, overwrite, snapshot,
};
use std::path::Path;
use tempfile::TempDir;

fn numbers(records: &[OwnedRecord]) -> Vec<u64> {
    records.iter().map(OwnedRecord::number).collect()
}

/// A log over several segments, ended in good order. Returns where its records end.
fn written(directory: &TempDir, segments: u32) -> Vec<LogPosition> {
    let (log, _) = open(durable_config(directory));
    let mut ends = Vec::new();
    while log.tail().sequence() < segments {
        ends.push(append(&log, ends.len() as u64, 1000));
    }
    log.close(NOW_MS).unwrap();
    ends
}

fn salvage(directory: &TempDir) -> (Vec<OwnedRecord>, RecoveryReport) {
    let config = LogConfig {
        salvage: true,
        ..durable_config(directory)
    };
    let (_, records, report) = open_reported(config);
    (records, report)
}

#[track_caller]
fn assert_refused(directory: &TempDir) {
    let before = snapshot(directory.path());
    assert!(Log::open(durable_config(directory), NOW_MS, &mut |_| ()).is_err());
    assert_eq!(snapshot(directory.path()), before);
}

/// Opens without salvage and returns what is there.
#[track_caller]
fn sound(directory: &TempDir) -> Vec<OwnedRecord> {
    let report = inspect(directory.path(), &mut |_| ()).unwrap();
    assert_eq!(report.corruptions, []);
    let (_, records, report) = open_reported(durable_config(directory));
    assert_eq!(report.salvaged, []);
    records
}

fn salvage_files(path: &Path) -> Vec<String> {
    let names = snapshot(path)
        .into_iter()
        .map(|(path, _)| path.file_name().unwrap().to_str().unwrap().to_owned());
    names
        .filter(|name| name.starts_with("salvage-") || name.contains("damaged"))
        .collect()
}

#[test]
fn a_bit_flipped_in_a_segment_header_costs_no_record() {
    for at in [0, 8, 12, 16, 20, 24, 32, 63] {
        for sequence in [1, 3, 4] {
            let directory = tempfile::tempdir().unwrap();
            let count = written(&directory, 4).len() as u64;
            let file = file_of(directory.path(), LogPosition::new(sequence, 0));
            let byte = std::fs::read(&file).unwrap()[at];
            overwrite(&file, at as u64, &[byte ^ 1]);
            if at == 8 && byte ^ 1 > byte {
                continue; // Now it is of a later version.
            }
            assert_refused(&directory);
            let (records, report) = salvage(&directory);
            let case = format!("byte {at} of segment {sequence}: {:?}", report.salvaged);
            assert_eq!(numbers(&records), (0..count).collect::<Vec<_>>(), "{case}");
            assert_eq!(report.salvaged.len(), 1, "{case}");
            assert_eq!(report.salvaged[0].damage, Damage::Header);
            assert_eq!(sound(&directory), records, "{case}");
        }
    }
}

#[test]
fn a_lost_first_sector_costs_only_the_records_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 4);
    let in_sectors = |end: &LogPosition| end.sequence() == 3 && end.offset() - 1048 < 4096;
    let file = file_of(directory.path(), LogPosition::new(3, 0));
    overwrite(&file, 0, &[0; 4096]);
    let (records, report) = salvage(&directory);
    let expected = (0..).zip(&ends).filter(|(_, end)| !in_sectors(end));
    assert_eq!(
        numbers(&records),
        expected.map(|(n, _)| n).collect::<Vec<u64>>(),
        "{:?}",
        report.salvaged
    );
    assert_eq!(sound(&directory), records);
}

#[test]
fn the_damaged_bytes_are_kept_as_they_were_and_never_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 3);
    let file = file_of(directory.path(), ends[4]);
    for (round, record) in [4, 9].into_iter().enumerate() {
        let (start, end) = (ends[record - 1], ends[record]);
        flip_bit(directory.path(), LogPosition::from_raw(end.raw() - 8));
        let damaged = std::fs::read(&file).unwrap()[start.offset() as usize..end.offset() as usize].to_vec();
        assert_refused(&directory);
        let (_, report) = salvage(&directory);
        let [corruption] = &report.salvaged[..] else {
            panic!("{:?}", report.salvaged)
        };
        assert_eq!(corruption.damage, Damage::Checksum);
        assert_eq!((corruption.range.start, corruption.range.end), (start, end));
        assert_eq!(corruption.bytes(SEGMENT_BYTES_MIN), damaged.len() as u64);
        let [kept] = &corruption.kept[..] else {
            panic!("{:?}", corruption.kept)
        };
        assert_eq!(std::fs::read(kept).unwrap(), damaged);
        assert_eq!(salvage_files(directory.path()).len(), round + 1);
        sound(&directory);
    }
}

#[test]
fn a_second_file_that_is_set_aside_gets_another_name() {
    let directory = tempfile::tempdir().unwrap();
    written(&directory, 4);
    let file = file_of(directory.path(), LogPosition::new(2, 0));
    for round in 1..=3 {
        std::fs::write(&file, [round; 5000]).unwrap();
        salvage(&directory);
        assert_eq!(salvage_files(directory.path()).len(), usize::from(round));
        sound(&directory);
    }
    for (path, bytes) in snapshot(directory.path()) {
        let name = path.to_str().unwrap();
        assert!(!name.contains("damaged") || bytes.len() == 5000, "{name}");
    }
}

#[test]
fn salvage_of_a_sound_log_does_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let count = written(&directory, 3).len();
    let (records, report) = salvage(&directory);
    assert_eq!((records.len(), &report.salvaged[..]), (count, &[][..]));
    assert_eq!(salvage_files(directory.path()), [""; 0]);
}

#[test]
fn what_is_wrong_is_told_by_what_stands_there() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 3);
    let file = file_of(directory.path(), ends[4]);
    let whole = std::fs::read(&file).unwrap();
    let (start, end) = (ends[3].offset() as usize, ends[4].offset() as usize);
    // The record 32 places further on begins a whole number of sectors away.
    let moved: Vec<u8> = {
        let (mut moved, distance) = (whole.clone(), 32 * (end - start));
        moved.copy_within(start + distance..end + distance, start);
        moved
    };
    let of_other_use: Vec<u8> = {
        let mut other = whole.clone();
        other[start + 4] ^= 0x40;
        other
    };
    let with = |bytes: &[u8]| {
        let mut file = whole.clone();
        file[start..end].copy_from_slice(bytes);
        file
    };
    let mut wrong_length = whole[start..end].to_vec();
    wrong_length[0] ^= 1;
    let len = end - start;
    let cases = [
        (with(&vec![0; len]), Damage::Zeros),
        (with(&vec![0xEE; len]), Damage::Garbage),
        (with(&wrong_length), Damage::Length),
        (of_other_use, Damage::OtherEpoch),
        (moved, Damage::WrongPlace),
    ];
    for (bytes, damage) in cases {
        std::fs::write(&file, &bytes).unwrap();
        let report = inspect(directory.path(), &mut |_| ()).unwrap();
        let [corruption] = &report.corruptions[..] else {
            panic!("{damage:?}: {:?}", report.corruptions)
        };
        assert_eq!((corruption.damage, corruption.offset), (damage, start as u64));
        assert_eq!(corruption.before_ms, NOW_MS);
        assert_eq!(corruption.after_ms, NOW_MS);
    }
}

#[test]
fn the_newest_file_deleted_went_unnoticed() {
    for number in 1..=4 {
        let directory = tempfile::tempdir().unwrap();
        written(&directory, 4);
        let path = directory.path().join(format!("{number:08}.segment"));
        let held = std::fs::read(&path).unwrap()[16];
        std::fs::remove_file(&path).unwrap();
        assert_refused(&directory);
        let report = inspect(directory.path(), &mut |_| ()).unwrap();
        assert!(
            report.corruptions.iter().any(|one| one.path == path),
            "{held}: {:?}",
            report.corruptions
        );
        let (records, _) = salvage(&directory);
        assert_eq!(sound(&directory), records);
    }
}

#[test]
fn a_directory_whose_segments_are_all_gone_is_not_taken_for_a_new_one() {
    let directory = tempfile::tempdir().unwrap();
    written(&directory, 3);
    for (path, _) in snapshot(directory.path()) {
        if path.extension().is_some_and(|extension| extension == "segment") {
            std::fs::remove_file(path).unwrap();
        }
    }
    assert_refused(&directory);
    assert_eq!(salvage(&directory).0, []);
    assert_eq!(sound(&directory), []);
}
