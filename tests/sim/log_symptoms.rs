//! What the simulation of the log found, each as a short story.

use crate::disk::{SimDisk, SimOptions};
use ackring::limits::{SEGMENT_RETRY_MS, SYNC_INTERVAL_MS};
use ackring::log::{Log, LogConfig, OpenError, Room};
use rustix::io::Errno;
use std::path::PathBuf;
use std::sync::Arc;

const NOW_MS: u64 = 1_700_000_000_000;

fn config(disk: &SimDisk, segments: u64) -> LogConfig {
    LogConfig {
        directory: Some(PathBuf::from("/sim")),
        segment_bytes: 4096,
        log_bytes_max: segments * 4096,
        disk: disk.handle(),
        ..LogConfig::default()
    }
}

/// Opens and gives back the first number of each record.
fn open(disk: &SimDisk, segments: u64) -> Result<(Log, Vec<u64>), OpenError> {
    let mut numbers = Vec::new();
    let (log, _) = Log::open(config(disk, segments), NOW_MS, &mut |record| {
        numbers.push(u64::from_le_bytes(*record.body.first_chunk().unwrap()));
    })?;
    Ok((log, numbers))
}

fn append(log: &Log, number: u64, len: usize, live: u32) {
    let mut claim = log.claim(len, Room::Migrate).unwrap();
    claim.put(&number.to_le_bytes());
    claim.commit(1, 0, NOW_MS, live);
}

/// Fills the segment under the tail and begins the next one.
fn roll(log: &Log, number: u64) {
    let sequence = log.tail().sequence();
    while log.tail().sequence() == sequence {
        append(log, number, 1024, 0);
    }
}

/// A process may have too many files open, or may lose a permission, at the moment at which the log needs a segment more.
#[test]
fn a_log_that_could_open_no_file_for_a_moment_was_poisoned() {
    for errno in [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::PERM,
        Errno::ACCESS,
    ] {
        let disk = SimDisk::new(1, SimOptions::default());
        let (log, _) = open(&disk, 24).unwrap();
        let mut now_ms = NOW_MS;
        let mut step = |log: &Log| {
            now_ms += SEGMENT_RETRY_MS;
            log.step(now_ms, 10);
        };
        step(&log);
        disk.refuse_opens(Some(errno));
        let mut numbers = 0..;
        let mut refused_in = |room: Room| loop {
            match log.claim(1024, room) {
                Ok(mut claim) => {
                    claim.put(&numbers.next().unwrap_or(0u64).to_le_bytes());
                    claim.commit(1, 0, NOW_MS, 1);
                }
                Err(error) => break error.to_string(),
            }
        };
        // New jobs first, and then there is still room for what frees the log.
        let refused = refused_in(Room::Enqueue);
        assert!(refused.contains(&errno.to_string()), "{refused}");
        let before = log.tail();
        step(&log);
        refused_in(Room::Settle);
        assert!(log.tail() > before, "what was refused has left room to settle");
        assert_eq!((log.poisoned(), log.sync().is_ok()), (None, true));
        disk.refuse_opens(None);
        step(&log);
        let before = log.tail();
        refused_in(Room::Enqueue);
        assert!(log.tail() > before, "a segment is tried again");
        let written = numbers.start;
        drop(log);
        disk.crash_kill();
        let (_, found) = open(&disk, 24).unwrap();
        assert!(found.into_iter().eq(0..written), "{written} were written");
    }
}

/// Producers at full speed may want the next segment before one is made, again and again.
#[test]
fn a_log_that_needed_one_segment_after_another_was_not_synced_meanwhile() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (log, _) = open(&disk, 24).unwrap();
    let segments = || {
        disk.names()
            .iter()
            .filter(|name| name.ends_with(".segment"))
            .count()
    };
    append(&log, 1, 64, 1);
    let (end, before) = (log.tail(), segments());
    log.step(NOW_MS + SYNC_INTERVAL_MS, 1_024);
    assert!(log.durable() >= end);
    assert_eq!(segments(), before + 1, "one, and then it was time for the sync");
}

#[test]
fn a_record_written_while_a_segment_is_retired_does_not_make_a_power_cut_look_like_damage() {
    let disk = SimDisk::new(1, SimOptions::default());
    let log = Arc::new(open(&disk, 8).unwrap().0);
    log.set_recycles_unsynced(true);
    roll(&log, 1);
    // Another thread appends while the header of the retired segment is on its way to the disk. What it wrote is
    // written back by the kernel; the header is not.
    let weak = Arc::downgrade(&log);
    let mut calls = 0;
    let disk_of_hook = disk.clone();
    disk.set_meanwhile(move || {
        calls += 1;
        if let (1, Some(log)) = (calls, weak.upgrade()) {
            append(&log, 2, 64, 1);
            disk_of_hook.write_back(|name, _| name != "00000001.segment");
            disk_of_hook.stop();
        }
    });
    log.step(NOW_MS, 1);
    assert!(disk.is_off());
    drop(log);
    disk.crash_power_losing_all();
    // The kernel had written the second record, but nothing of what stood in front of it.
    let (_, numbers) = open(&disk, 8).unwrap();
    assert!(numbers.is_empty(), "{numbers:?}");
}

#[test]
fn a_segment_file_whose_name_was_not_synced_is_not_lost_after_a_kill_and_a_power_cut() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (log, _) = open(&disk, 8).unwrap();
    append(&log, 1, 64, 1);
    // Up to the moment at which a new file has its name, and the directory is not synced: made, written twice,
    // synced, renamed.
    disk.die_in(6);
    log.step(NOW_MS, 1);
    assert!(disk.is_off());
    assert_eq!(disk.unsynced_names(), 2);
    drop(log);
    disk.crash_kill();
    // The next start finds the file, uses it, and syncs what it wrote there.
    let (log, _) = open(&disk, 8).unwrap();
    roll(&log, 2);
    log.sync().unwrap();
    drop(log);
    disk.crash_power_losing_all();
    let (_, numbers) = open(&disk, 8).unwrap();
    assert!(numbers.contains(&2), "{numbers:?}");
}

#[test]
fn a_segment_that_was_retired_in_the_cache_only_does_not_come_back() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (log, _) = open(&disk, 8).unwrap();
    log.step(NOW_MS, 8);
    append(&log, 1, 512, 0);
    // A writer that died in the middle: a hole, which the next start accepts and lists.
    let claim = log.claim(512, Room::Migrate).unwrap();
    append(&log, 2, 64, 0);
    disk.stop();
    drop(claim);
    drop(log);
    disk.crash_kill();
    let (log, _) = open(&disk, 8).unwrap();
    append(&log, 3, 64, 0);
    log.sync().unwrap();
    // Its segment is retired, and the process killed before the header is on the disk.
    disk.die_in(1);
    log.step(NOW_MS, 1);
    assert!(disk.is_off());
    drop(log);
    disk.crash_kill();
    // The list goes with the next segment, too.
    let (log, _) = open(&disk, 8).unwrap();
    roll(&log, 4);
    log.sync().unwrap();
    while log.oldest().unwrap().sequence < log.tail().sequence() {
        assert!(log.step(NOW_MS, 1) > 0);
    }
    drop(log);
    disk.crash_power_losing_all();
    let (_, numbers) = open(&disk, 8).unwrap();
    assert!(!numbers.contains(&1), "{numbers:?}");
}

#[test]
fn a_log_of_many_segments_is_opened_with_few_files_open_at_once() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (log, _) = open(&disk, 200).unwrap();
    (0..150).for_each(|number| roll(&log, number));
    drop(log);
    disk.crash_kill();
    let (_, numbers) = open(&disk, 200).unwrap();
    assert!(numbers.len() > 150 && disk.names().len() > 150);
    let most = disk.counters().open_files_max;
    assert!(most <= 4, "{most} files were open at once");
}

/// A gap, and a record behind it that was written back: what the record says may rely on what is lost.
fn write_with_gap(disk: &SimDisk) -> Log {
    let (log, _) = open(disk, 8).unwrap();
    append(&log, 1, 512, 1);
    log.sync().unwrap();
    append(&log, 2, 512, 1);
    let of_second = disk.unsynced();
    append(&log, 3, 512, 1);
    let last = of_second.iter().map(|place| place.sector).max().unwrap();
    disk.write_back(|_, sector| sector > last);
    log
}

#[test]
fn what_stood_behind_a_gap_that_a_power_cut_left_came_back() {
    let disk = SimDisk::new(1, SimOptions::default());
    let log = write_with_gap(&disk);
    disk.stop();
    drop(log);
    disk.crash_power_losing_all();
    let (log, numbers) = open(&disk, 8).unwrap();
    assert_eq!(numbers, [1]);
    // It does not come back later either.
    append(&log, 4, 64, 1);
    log.sync().unwrap();
    drop(log);
    disk.crash_kill();
    assert_eq!(open(&disk, 8).unwrap().1, [1, 4]);
}

#[test]
fn what_stood_behind_a_gap_that_a_failed_sync_left_came_back() {
    let disk = SimDisk::new(1, SimOptions::default());
    let log = write_with_gap(&disk);
    disk.fail_sync_in(0);
    log.sync().unwrap_err();
    drop(log);
    disk.crash_kill();
    assert_eq!(open(&disk, 8).unwrap().1, [1]);
}

/// The log could not say that it must not be believed, and the next start took what stood behind the gap for whole.
#[test]
fn what_stood_behind_a_gap_came_back_where_no_file_could_be_opened_as_the_sync_failed() {
    let disk = SimDisk::new(1, SimOptions::default());
    let log = write_with_gap(&disk);
    disk.fail_sync_in(0);
    disk.refuse_opens(Some(Errno::MFILE));
    log.sync().unwrap_err();
    drop(log);
    disk.crash_kill();
    assert_eq!(open(&disk, 8).unwrap().1, [1]);
}

/// Where the process was killed the gap is a writer's that died, and the others' records count; also when the power
/// fails once a start has seen them.
#[test]
fn what_stands_behind_a_dead_writer_is_lost_neither_at_once_nor_later() {
    let disk = SimDisk::new(1, SimOptions::default());
    let (log, _) = open(&disk, 8).unwrap();
    append(&log, 1, 512, 1);
    let claim = log.claim(512, Room::Migrate).unwrap();
    append(&log, 2, 512, 1);
    disk.stop();
    drop(claim);
    drop(log);
    disk.crash_kill();
    let (log, numbers) = open(&disk, 8).unwrap();
    assert_eq!(numbers, [1, 2]);
    disk.stop();
    drop(log);
    disk.crash_power_losing_all();
    // A start that dies takes the segment of the start before it, in which nothing stands.
    disk.die_in(20);
    drop(open(&disk, 8));
    disk.crash_power_losing_all();
    assert_eq!(open(&disk, 8).unwrap().1, [1, 2]);
}
