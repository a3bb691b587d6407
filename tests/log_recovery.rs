//! Real directories that a crash, a bad disk or a person has changed.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod log_common;

use ackring::limits::{SEGMENT_BYTES_MIN, SYNC_INTERVAL_MS};
use ackring::log::{FORMAT_VERSION, Log, LogConfig, LogPosition, OpenError, Recovered, Room, inspect};
use log_common::{
    NOW_MS, OwnedRecord, append, durable_config, file_of, flip_bit, open, open_reported, overwrite,
    segment_files, snapshot,
};
use tempfile::TempDir;

const RECORD: u32 = 40;

fn numbers(records: &[OwnedRecord]) -> Vec<u64> {
    records.iter().map(OwnedRecord::number).collect()
}

/// A log of `count` records of 40 bytes, closed without a word. Returns their ends.
fn written(directory: &TempDir, count: u64) -> Vec<LogPosition> {
    let (log, _) = open(durable_config(directory));
    (0..count).map(|n| append(&log, n, 0)).collect()
}

fn refusal(directory: &TempDir) -> OpenError {
    let before = snapshot(directory.path());
    let error = Log::open(durable_config(directory), NOW_MS, &mut |_| ())
        .err()
        .unwrap();
    assert_eq!(
        snapshot(directory.path()),
        before,
        "a refused open changes nothing"
    );
    error
}

#[track_caller]
fn assert_corrupt(error: &OpenError, offset: u32, file: &std::path::Path) {
    match error {
        OpenError::Corrupt {
            path, offset: found, ..
        } => {
            assert_eq!((path.as_path(), *found), (file, u64::from(offset)), "{error}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_torn_tail_is_cut_and_stays_cut() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 10);
    flip_bit(directory.path(), LogPosition::from_raw(ends[9].raw() - 4));
    let (log, records, report) = open_reported(durable_config(&directory));
    assert_eq!(numbers(&records), (0..9).collect::<Vec<_>>());
    assert!(report.torn_tail && report.holes.is_empty());
    append(&log, 10, 0);
    drop(log);
    let (_, records, report) = open_reported(durable_config(&directory));
    assert_eq!(numbers(&records), [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]);
    assert!(!report.torn_tail);
}

/// What `kill -9` leaves when one writer dies in the middle of its record and others had gone on.
#[test]
fn a_hole_that_a_dead_writer_left_hides_nothing_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append(&log, 1, 0);
    std::mem::forget(log.claim(800, Room::Enqueue).unwrap());
    let end = append(&log, 2, 0);
    let durable = log.sync().unwrap();
    assert!(durable < end);
    append(&log, 3, 0);
    drop(log);
    for round in 0..3 {
        let (log, records, report) = open_reported(durable_config(&directory));
        assert_eq!(numbers(&records)[..3], [1, 2, 3]);
        assert_eq!(
            report.holes.len(),
            usize::from(round == 0),
            "a hole is told of once, then it is known"
        );
        append(&log, 9, 0);
    }
}

/// Who looks for the jobs of a segment finds those behind a hole too, or they would keep it for ever.
#[test]
fn records_behind_a_hole_of_a_former_start_were_not_visited() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append(&log, 1, 0);
    std::mem::forget(log.claim(800, Room::Enqueue).unwrap());
    append(&log, 2, 0);
    drop(log);
    let (log, records) = open(durable_config(&directory));
    let mut visited = Vec::new();
    let visit = &mut |record: Recovered<'_>| visited.push(record.position);
    assert!(log.visit_segment(records[0].position.sequence(), visit));
    assert_eq!(visited, [records[0].position, records[1].position]);
}

#[test]
fn a_hole_of_an_earlier_start_hid_what_is_behind_it_from_the_reclaimer() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append(&log, 1, 0);
    std::mem::forget(log.claim(800, Room::Enqueue).unwrap());
    append(&log, 2, 0);
    drop(log);
    let (log, records) = open(durable_config(&directory));
    assert_eq!(numbers(&records), [1, 2]);
    let mut seen = Vec::new();
    assert!(log.visit_segment(1, &mut |record| seen.push(record.position)));
    assert_eq!(
        seen,
        records.iter().map(|record| record.position).collect::<Vec<_>>()
    );
}

#[test]
fn a_flipped_bit_in_what_was_synced_is_refused_with_file_and_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let mut ends: Vec<_> = (0..10).map(|n| append(&log, n, 0)).collect();
    log.sync().unwrap();
    ends.push(append(&log, 10, 0));
    drop(log);
    flip_bit(directory.path(), LogPosition::from_raw(ends[4].raw() - 8));
    let error = refusal(&directory);
    assert_corrupt(&error, ends[3].offset(), &file_of(directory.path(), ends[3]));
    assert!(error.to_string().contains("open with salvage"), "{error}");
}

#[test]
fn even_the_last_synced_record_is_guarded_once_the_background_sync_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let end = append(&log, 1, 0);
    log.step(NOW_MS + SYNC_INTERVAL_MS, 0);
    drop(log);
    flip_bit(directory.path(), LogPosition::from_raw(end.raw() - 8));
    assert_corrupt(
        &refusal(&directory),
        end.offset() - RECORD,
        &file_of(directory.path(), end),
    );
}

#[test]
fn closing_in_good_order_guards_the_last_record_too() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let end = append(&log, 1, 0);
    log.close(NOW_MS).unwrap();
    assert_eq!(log.durable(), log.tail());
    drop(log);
    flip_bit(directory.path(), LogPosition::from_raw(end.raw() - 8));
    assert_corrupt(
        &refusal(&directory),
        end.offset() - RECORD,
        &file_of(directory.path(), end),
    );
}

#[test]
fn damage_to_an_older_boot_is_refused_even_if_it_was_never_synced_there() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 10);
    drop(open(durable_config(&directory)));
    let (log, _) = open(durable_config(&directory));
    append(&log, 10, 0);
    drop(log);
    flip_bit(directory.path(), LogPosition::from_raw(ends[9].raw() - 8));
    assert_corrupt(
        &refusal(&directory),
        ends[8].offset(),
        &file_of(directory.path(), ends[8]),
    );
}

#[test]
fn salvage_gives_up_what_is_corrupt_and_remembers_that() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let ends: Vec<_> = (0..10).map(|n| append(&log, n, 0)).collect();
    log.close(NOW_MS).unwrap();
    drop(log);
    flip_bit(directory.path(), LogPosition::from_raw(ends[4].raw() - 8));
    flip_bit(directory.path(), LogPosition::from_raw(ends[9].raw() - 8));
    refusal(&directory);
    let salvage = LogConfig {
        salvage: true,
        ..durable_config(&directory)
    };
    let (log, records, report) = open_reported(salvage);
    assert_eq!(numbers(&records), [0, 1, 2, 3, 5, 6, 7, 8]);
    assert_eq!(report.salvaged.len(), 2);
    append(&log, 10, 0);
    drop(log);
    let (_, records, report) = open_reported(durable_config(&directory));
    assert_eq!(numbers(&records), [0, 1, 2, 3, 5, 6, 7, 8, 10]);
    assert_eq!(report.salvaged, []);
}

/// Appends until the log has moved on to segment `sequence`.
fn append_until(log: &Log, sequence: u32) -> u64 {
    let mut count = 0;
    while log.tail().sequence() < sequence {
        append(log, count, 1000);
        count += 1;
    }
    count
}

#[test]
fn a_missing_segment_is_refused_and_salvage_goes_on_without_it() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let count = append_until(&log, 5);
    let lost = file_of(directory.path(), LogPosition::new(3, 0));
    drop(log);
    std::fs::remove_file(lost).unwrap();
    let error = refusal(&directory);
    assert!(error.to_string().contains("gone"), "{error}");
    let (log, records) = open(LogConfig {
        salvage: true,
        ..durable_config(&directory)
    });
    assert!((records.len() as u64) < count && records.len() as u64 > count / 2);
    append_until(&log, 8);
    let mut now_ms = NOW_MS;
    for _ in 0..10 {
        now_ms += SYNC_INTERVAL_MS;
        log.step(now_ms, 100);
    }
    assert_eq!(log.segments_in_use(), 1, "recycling steps over the gap");
    drop(log);
    open(durable_config(&directory));
}

#[test]
fn a_segment_of_which_nothing_can_be_read_is_refused_and_set_aside_by_salvage() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append_until(&log, 3);
    drop(log);
    let file = file_of(directory.path(), LogPosition::new(2, 0));
    overwrite(&file, 20, &vec![0xFF; SEGMENT_BYTES_MIN as usize - 20]);
    assert_corrupt(&refusal(&directory), 0, &file);
    let damaged = std::fs::read(&file).unwrap();
    drop(open(LogConfig {
        salvage: true,
        ..durable_config(&directory)
    }));
    assert_eq!(
        std::fs::read(file.with_extension("segment.damaged")).unwrap(),
        damaged
    );
    assert_eq!(
        std::fs::read(&file).unwrap().len(),
        SEGMENT_BYTES_MIN as usize,
        "a spare takes its place"
    );
    open(durable_config(&directory));
}

#[test]
fn a_segment_that_was_cut_is_refused_and_filled_up_by_salvage() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 100);
    let file = file_of(directory.path(), ends[0]);
    let handle = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    handle.set_len(u64::from(ends[49].offset()) + 8).unwrap();
    assert!(matches!(refusal(&directory), OpenError::Corrupt { .. }));
    let (_, records) = open(LogConfig {
        salvage: true,
        ..durable_config(&directory)
    });
    assert_eq!(numbers(&records), (0..50).collect::<Vec<_>>());
    assert_eq!(
        std::fs::metadata(&file).unwrap().len(),
        u64::from(SEGMENT_BYTES_MIN)
    );
}

#[test]
fn a_later_format_is_refused_whatever_else_it_says() {
    let directory = tempfile::tempdir().unwrap();
    written(&directory, 10);
    let file = &segment_files(directory.path())[0];
    overwrite(file, 8, &(FORMAT_VERSION + 1).to_le_bytes());
    for salvage in [false, true] {
        let config = LogConfig {
            salvage,
            ..durable_config(&directory)
        };
        let before = snapshot(directory.path());
        let error = Log::open(config, NOW_MS, &mut |_| ()).err().unwrap();
        assert!(
            matches!(&error, OpenError::NewerFormat { path, found, .. } if path == file && *found == FORMAT_VERSION + 1)
        );
        assert_eq!(snapshot(directory.path()), before);
    }
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written(&ours, 10);
    let (log, _) = open(durable_config(&theirs));
    append_until(&log, 3);
    drop(log);
    let stranger = file_of(theirs.path(), LogPosition::new(2, 0));
    std::fs::copy(stranger, ours.path().join("00000002.segment")).unwrap();
    assert!(refusal(&ours).to_string().contains("another log"));
}

#[test]
fn two_files_with_one_place_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append_until(&log, 4);
    drop(log);
    let path = directory.path();
    let [third, first] = [3, 1].map(|sequence| file_of(path, LogPosition::new(sequence, 0)));
    std::fs::copy(third, first).unwrap();
    assert!(
        refusal(&directory)
            .to_string()
            .contains("another file with the same place")
    );
}

/// Numbers were believed as they stood in a name: one file with a date for a name had twenty million others missed,
/// each with a line of its own, and a salvage would have made them all.
#[test]
fn a_stray_file_with_a_large_number_does_not_have_all_below_it_missed() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 10);
    let names = [
        "20231123.segment",
        "4294967295.segment",
        "1.segment",
        "+0000001.segment",
    ];
    for name in names {
        let stray = directory.path().join(name);
        std::fs::copy(file_of(directory.path(), ends[0]), &stray).unwrap();
        let report = inspect(directory.path(), &mut |_| ()).unwrap();
        assert_eq!(
            report.corruptions.len(),
            1,
            "{name}: {:?}",
            report.corruptions.first()
        );
        assert_corrupt(&refusal(&directory), 0, &stray);
        let salvage = LogConfig {
            salvage: true,
            ..durable_config(&directory)
        };
        let (_, records, _) = open_reported(salvage);
        assert_eq!(numbers(&records), (0..10).collect::<Vec<_>>());
        assert!(!stray.exists(), "{name} was set aside");
        assert!(segment_files(directory.path()).len() < 10);
        open(durable_config(&directory));
    }
}

/// The salvage filled the file up with zeros, and so made whole what had been cut in its zeros: the next start found
/// records that had not been there before, and refused the log.
#[test]
fn a_segment_cut_within_zeros_opens_again_after_its_salvage() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let mut claim = log.claim(64, Room::Enqueue).unwrap();
    claim.put(&[7; 16]);
    let end = claim.commit(7, 1, NOW_MS, 0);
    drop(log);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(file_of(directory.path(), end))
        .unwrap();
    file.set_len(u64::from(end.offset()) - 24).unwrap();
    let salvage = LogConfig {
        salvage: true,
        ..durable_config(&directory)
    };
    let (_, salvaged) = open(salvage);
    let (_, again) = open(durable_config(&directory));
    assert_eq!(again, salvaged);
    assert_eq!(again.len(), 1, "nothing but zeros was cut off");
}

/// As much memory was set aside as the file seemed to be long.
#[test]
fn a_file_that_was_made_long_is_read_no_further_than_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let ends = written(&directory, 10);
    let path = file_of(directory.path(), ends[0]);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len((1 << 40) + 8).unwrap();
    let (_, records) = open(durable_config(&directory));
    assert_eq!(numbers(&records), (0..10).collect::<Vec<_>>());
    overwrite(&path, 20, &[0xFF; 4]);
    let (_, records) = open(LogConfig {
        salvage: true,
        ..durable_config(&directory)
    });
    assert_eq!(
        numbers(&records),
        (0..10).collect::<Vec<_>>(),
        "with a damaged header too"
    );
}

/// The oldest place decided which log it was, so a salvage gave up all of the own log for one stranger in front.
#[test]
fn a_segment_of_another_log_in_front_does_not_take_the_log_over() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (log, _) = open(durable_config(&ours));
    let count = append_until(&log, 4);
    drop(log);
    let first = file_of(ours.path(), LogPosition::new(1, 0));
    written(&theirs, 3);
    std::fs::copy(file_of(theirs.path(), LogPosition::new(1, 0)), &first).unwrap();
    let (_, records) = open(LogConfig {
        salvage: true,
        ..durable_config(&ours)
    });
    assert!(
        records.len() as u64 > count / 2,
        "three segments of four are ours"
    );
}

#[test]
fn another_segment_size_is_refused_with_the_right_one() {
    let directory = tempfile::tempdir().unwrap();
    written(&directory, 10);
    let config = LogConfig {
        segment_bytes: 2 * SEGMENT_BYTES_MIN,
        ..durable_config(&directory)
    };
    let error = Log::open(config, NOW_MS, &mut |_| ()).err().unwrap();
    assert!(
        matches!(
            error,
            OpenError::SegmentSize {
                found: SEGMENT_BYTES_MIN,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_directory_that_cannot_be_one_is_named_in_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let config = LogConfig {
        directory: Some(file.clone()),
        ..durable_config(&directory)
    };
    let error = Log::open(config, NOW_MS, &mut |_| ()).err().unwrap();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[test]
fn what_a_crash_left_half_made_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    written(&directory, 1);
    let unfinished = directory.path().join("00000002.unfinished");
    std::fs::write(&unfinished, b"half").unwrap();
    open(durable_config(&directory));
    assert!(!unfinished.exists());
}

#[test]
fn the_oldest_segment_missing_is_noticed_too() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append_until(&log, 4);
    drop(log);
    std::fs::remove_file(file_of(directory.path(), LogPosition::new(1, 0))).unwrap();
    let error = refusal(&directory);
    assert!(
        error.to_string().contains("00000001.segment") && error.to_string().contains("gone"),
        "{error}"
    );
    let (log, _) = open(LogConfig {
        salvage: true,
        ..durable_config(&directory)
    });
    append(&log, 1, 0);
    drop(log);
    open(durable_config(&directory));
}

#[test]
fn inspecting_tells_everything_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let count = append_until(&log, 3);
    assert!(matches!(
        inspect(directory.path(), &mut |_| ()),
        Err(OpenError::Locked { .. })
    ));
    log.close(NOW_MS).unwrap();
    drop(log);
    let before = snapshot(directory.path());
    let mut seen = 0;
    let report = inspect(directory.path(), &mut |_| seen += 1).unwrap();
    assert_eq!(
        (report.records, seen, report.corruptions.len()),
        (count, count, 0)
    );
    assert_eq!(
        report.segments.iter().map(|segment| segment.records).sum::<u64>(),
        count
    );
    assert_eq!(
        report
            .segments
            .iter()
            .map(|segment| segment.sequence)
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(report.segment_bytes, SEGMENT_BYTES_MIN);
    assert_eq!(snapshot(directory.path()), before);
    flip_bit(directory.path(), LogPosition::new(2, 500));
    let report = inspect(directory.path(), &mut |_| ()).unwrap();
    assert_eq!(report.corruptions.len(), 1);
    assert_eq!(
        report.corruptions[0].path,
        file_of(directory.path(), LogPosition::new(2, 0))
    );
    let nowhere = directory.path().join("nowhere");
    assert!(matches!(
        inspect(&nowhere, &mut |_| ()),
        Err(OpenError::Io { .. })
    ));
    assert!(!nowhere.exists());
}

/// A power cut takes the contents of segments that were prepared but not synced; the headers stay.
#[test]
fn a_segment_whose_records_never_reached_the_disk_is_a_hole() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append_until(&log, 4);
    drop(log);
    let file = file_of(directory.path(), LogPosition::new(2, 0));
    overwrite(&file, 64, &vec![0; SEGMENT_BYTES_MIN as usize - 64]);
    let (log, records, report) = open_reported(durable_config(&directory));
    assert_eq!(report.holes.len(), 1);
    assert!(records.iter().all(|record| record.position.sequence() != 2));
    append(&log, 1, 0);
    drop(log);
    let (_, again, report) = open_reported(durable_config(&directory));
    assert_eq!((again.len(), report.holes.len()), (records.len() + 1, 0));
}
