//! Segments coming and going: spares, recycling, limits, a full disk.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod log_common;

use ackring::limits::{
    HOT_SEGMENT_BYTES_MIN, HOT_SEGMENT_PART, LOG_KEPT_BY_HAND_OUT_BYTES, SEGMENT_BYTES_MIN,
    SEGMENTS_FOR_COPIES, SEGMENTS_READY, SEGMENTS_SPARE, SYNC_INTERVAL_MS,
};
use ackring::log::{HEADER_LEN, Log, LogConfig, LogError, LogPosition, Room};
use log_common::{NOW_MS, append, durable_config, open, segment_files};

const SEGMENT: u64 = SEGMENT_BYTES_MIN as u64;

fn small(directory: &tempfile::TempDir, segments: u64) -> LogConfig {
    LogConfig {
        log_bytes_max: segments * SEGMENT,
        ..durable_config(directory)
    }
}

fn append_live(log: &Log, room: Room) -> Result<LogPosition, LogError> {
    let mut claim = log.claim(1000, room)?;
    claim.put(&[7; 1000]);
    let position = claim.position();
    claim.commit(1, 0, NOW_MS, 1);
    Ok(position)
}

/// Appends until refused.
fn fill(log: &Log, room: Room) -> Vec<LogPosition> {
    let mut positions = Vec::new();
    loop {
        match append_live(log, room) {
            Ok(position) => positions.push(position),
            Err(LogError::Full { .. }) => return positions,
            Err(error) => panic!("{error}"),
        }
        assert!(positions.len() < 100_000, "a limit must be met");
    }
}

/// Lets the background agent do all that it finds to do, syncs included.
fn settle_down(log: &Log, now_ms: &mut u64) {
    for _ in 0..100 {
        *now_ms += SYNC_INTERVAL_MS;
        if log.step(*now_ms, 100) == 0 {
            return;
        }
    }
    panic!("the background agent does not come to rest");
}

#[test]
fn the_background_agent_prepares_spares_and_then_rests() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    assert_eq!(
        log.spare_segments(),
        0,
        "opening prepares what it needs and no more"
    );
    settle_down(&log, &mut NOW_MS.clone());
    assert_eq!(log.spare_segments(), SEGMENTS_SPARE.max(SEGMENTS_READY));
    assert_eq!(segment_files(directory.path()).len(), 1 + SEGMENTS_SPARE);
    let files = segment_files(directory.path());
    use std::os::unix::fs::MetadataExt;
    for file in files {
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), SEGMENT);
        assert!(metadata.blocks() * 512 >= SEGMENT, "{} has holes", file.display());
    }
}

#[test]
fn segments_are_recycled_in_order_when_nothing_needs_them() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let mut now_ms = NOW_MS;
    let positions: Vec<_> = (0..300)
        .map(|_| append_live(&log, Room::Enqueue).unwrap())
        .collect();
    let in_use = log.segments_in_use();
    assert!(in_use > 4);
    let (first, rest): (Vec<_>, Vec<_>) = positions.into_iter().partition(|p| p.sequence() == 1);
    for position in &rest {
        log.release(*position, 1);
    }
    settle_down(&log, &mut now_ms);
    assert_eq!(
        log.segments_in_use(),
        in_use,
        "the oldest is still needed, so all are kept"
    );
    assert_eq!(log.oldest().unwrap().sequence, 1);
    assert_eq!(log.oldest().unwrap().live, first.len() as u64);
    for position in &first {
        log.release(*position, 1);
    }
    settle_down(&log, &mut now_ms);
    assert_eq!(log.segments_in_use(), 1);
    let oldest = log.oldest().unwrap();
    assert_eq!((oldest.sequence, oldest.sealed), (log.tail().sequence(), false));
    assert!(log.pin(first[0]).is_none(), "a retired segment cannot be pinned");
}

/// A pin that failed let go of what it never held; what was then written into the segment could not be read, and the
/// segment was never free again.
#[test]
fn bodies_can_be_read_from_a_segment_that_somebody_looked_for_too_late() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(small(&directory, 5));
    let mut now_ms = NOW_MS;
    let mut before = Vec::new();
    for _ in 0..40 {
        let positions: Vec<_> = (0..80)
            .map(|_| append_live(&log, Room::Settle).unwrap())
            .collect();
        for position in &positions {
            assert!(log.pin(*position).is_some(), "{position} cannot be read");
            log.release(*position, 1);
        }
        settle_down(&log, &mut now_ms);
        before.extend(positions);
        // Of segments that are retired, or in use again under another number, or where they were.
        let found = before.iter().filter(|position| log.pin(**position).is_some());
        assert!(found.count() <= 80);
    }
    assert_eq!(log.segments_in_use(), 1);
}

#[test]
fn pins_holds_and_open_claims_keep_a_segment() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let mut now_ms = NOW_MS;
    let claim = log.claim(8, Room::Enqueue).unwrap();
    for n in 0..200 {
        append(&log, n, 1000);
    }
    settle_down(&log, &mut now_ms);
    assert_eq!(
        log.oldest().unwrap().sequence,
        1,
        "an open claim keeps its segment"
    );
    let position = claim.position();
    claim.commit(1, 0, NOW_MS, 0);
    let pin = log.pin(position).unwrap();
    settle_down(&log, &mut now_ms);
    assert_eq!(log.oldest().unwrap().sequence, 1, "a pin keeps its segment");
    log.set_hold(2);
    drop(pin);
    settle_down(&log, &mut now_ms);
    assert_eq!(
        log.oldest().unwrap().sequence,
        2,
        "a hold keeps the segments from its number on"
    );
    log.set_hold(u32::MAX);
    settle_down(&log, &mut now_ms);
    assert_eq!(log.segments_in_use(), 1);
}

#[test]
fn nothing_is_recycled_before_it_is_durable_unless_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    for n in 0..200 {
        append(&log, n, 1000);
    }
    // The time of the last sync: no sync is due.
    while log.step(NOW_MS, 100) > 0 {}
    assert_eq!(log.oldest().unwrap().sequence, 1);
    log.set_recycles_unsynced(true);
    while log.step(NOW_MS, 100) > 0 {}
    assert_eq!(log.oldest().unwrap().sequence, log.tail().sequence());
    assert_eq!(
        log.durable().sequence(),
        log.tail().sequence(),
        "what is gone is waited for by nobody"
    );
}

#[test]
fn a_copied_job_frees_its_old_segment_only_when_the_copy_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    log.set_recycles_unsynced(true);
    let old = append_live(&log, Room::Enqueue).unwrap();
    for n in 0..200 {
        append(&log, n, 1000);
    }
    append_live(&log, Room::Migrate).unwrap();
    log.release_after(old, 1, log.tail());
    while log.step(NOW_MS, 100) > 0 {}
    assert_eq!(log.oldest().unwrap().sequence, 1);
    log.sync().unwrap();
    while log.step(NOW_MS, 100) > 0 {}
    assert_eq!(log.oldest().unwrap().sequence, log.tail().sequence());
}

#[test]
fn at_the_limit_enqueues_are_refused_first_and_the_rest_has_a_reserve() {
    let directory = tempfile::tempdir().unwrap();
    for config in [
        small(&directory, 8),
        LogConfig {
            directory: None,
            ..small(&directory, 8)
        },
    ] {
        let beyond = if config.directory.is_some() {
            SEGMENTS_FOR_COPIES
        } else {
            0
        };
        let (log, _) = open(config);
        let mut now_ms = NOW_MS;
        let jobs = fill(&log, Room::Enqueue);
        assert!(append_live(&log, Room::Enqueue).is_err());
        let settles = fill(&log, Room::Settle);
        assert!(
            settles.len() >= 60,
            "about a segment's worth for settling: {}",
            settles.len()
        );
        let copies = fill(&log, Room::Migrate);
        assert!(
            copies.len() >= 60,
            "about a segment's worth for copies: {}",
            copies.len()
        );
        assert_eq!(log.segments_in_use(), 8 + beyond);
        let error = log.claim(1000, Room::Migrate).err().unwrap();
        assert!(error.to_string().contains("the log is full"), "{error}");
        assert!(log.poisoned().is_none(), "a full log is not a broken one");
        for position in jobs.iter().chain(&settles).chain(&copies) {
            log.release(*position, 1);
        }
        settle_down(&log, &mut now_ms);
        assert_eq!(log.segments_in_use(), 1);
        let again = fill(&log, Room::Enqueue);
        assert!(!again.is_empty(), "segments that came free are used again");
        assert!(
            again.len() <= jobs.len(),
            "what copies needed is not for new jobs"
        );
    }
}

#[test]
fn a_full_log_is_opened_and_can_be_emptied() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(small(&directory, 4));
    fill(&log, Room::Migrate);
    drop(log);
    for _ in 0..3 {
        let (log, records) = open(small(&directory, 4));
        assert!(log.claim(8, Room::Enqueue).is_err());
        assert!(!records.is_empty());
        drop(log);
    }
    let (log, records) = open(small(&directory, 4));
    assert!(records.iter().all(|record| log.pin(record.position).is_some()));
    let mut now_ms = NOW_MS;
    settle_down(&log, &mut now_ms);
    assert!(append_live(&log, Room::Enqueue).is_ok());
}

/// Two jobs fill a segment of the log, and the start after that takes a segment for its own records: no further one can
/// be had. Then nobody got a job any more, though there was room for all that would have become of them.
#[test]
fn a_full_log_handed_nothing_out_after_a_start_though_the_segment_that_it_writes_was_empty() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(small(&directory, 4));
    while let Ok(mut claim) = log.claim(30_000, Room::Migrate) {
        claim.put(&[7; 30_000]);
        claim.commit(1, 0, NOW_MS, 1);
    }
    drop(log);
    let (log, records) = open(small(&directory, 4));
    assert!(records.len() > 6, "the log is full: {} jobs", records.len());
    records.iter().for_each(|record| log.retain(record.position, 1));
    log.step(NOW_MS, 100);
    assert_eq!(log.segments_to_hand_out(), 0);
    let mut bytes = 0;
    while let Ok(claim) = log.claim(64, Room::HandOut) {
        claim.commit(1, 0, NOW_MS, 0);
        bytes += 64;
    }
    assert!(bytes > 20_000, "{bytes} bytes of hand-outs");
    // What each job's settlement and its copy have beyond its body was left.
    for _ in &records {
        let claim = log.claim(LOG_KEPT_BY_HAND_OUT_BYTES as usize - HEADER_LEN, Room::Settle);
        claim.unwrap().commit(1, 0, NOW_MS, 0);
    }
}

#[test]
fn memory_that_was_given_back_can_be_used_again() {
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..LogConfig::default()
    };
    let (log, _) = open(config);
    let mut now_ms = NOW_MS;
    for _ in 0..3 {
        let positions: Vec<_> = (0..1_000)
            .map(|_| append_live(&log, Room::Enqueue).unwrap())
            .collect();
        assert!(log.segments_in_use() > 10);
        for position in &positions {
            let body = position.plus(32);
            assert_eq!(log.pin(body).unwrap().bytes(body, 1000), Some(&[7; 1000][..]));
            log.release(*position, 1);
        }
        for _ in 0..30 {
            now_ms += SYNC_INTERVAL_MS;
            log.step(now_ms, 100);
        }
        assert_eq!(log.segments_in_use(), 1);
    }
}

#[test]
fn recycled_memory_never_shows_through() {
    let directory = tempfile::tempdir().unwrap();
    let mut written = 0u64;
    let mut now_ms = NOW_MS;
    for round in 0..6 {
        let (log, records) = open(small(&directory, 6));
        // Only what was not recycled is there, and all of it in order up to the last one.
        let numbers: Vec<u64> = records.iter().map(|record| record.number()).collect();
        let expected: Vec<u64> = (written - numbers.len() as u64..written).collect();
        assert_eq!(numbers, expected, "round {round}");
        for _ in 0..500 {
            append(&log, written, 8 * (written as usize % 60));
            written += 1;
            if written.is_multiple_of(100) {
                settle_down(&log, &mut now_ms);
            }
        }
    }
}

/// On a file system of its own that is as small as the test needs. Only root may mount one.
#[test]
fn a_full_disk_refuses_enqueues_without_poison() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k,mode=700", "ackring-test"])
        .arg(directory.path())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        println!("SKIPPED: mounting a small tmpfs needs root");
        return;
    }
    struct Unmount<'a>(&'a std::path::Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0)
                .status();
        }
    }
    let _unmount = Unmount(directory.path());
    let (log, _) = open(durable_config(&directory));
    let mut now_ms = NOW_MS;
    settle_down(&log, &mut now_ms);
    let jobs = fill(&log, Room::Enqueue);
    let settles = fill(&log, Room::Settle);
    assert!(!settles.is_empty(), "settling goes on in the reserve");
    let copies = fill(&log, Room::Migrate);
    assert!(log.poisoned().is_none());
    log.sync().unwrap();
    for position in jobs.iter().chain(&settles).chain(&copies) {
        log.release(*position, 1);
    }
    settle_down(&log, &mut now_ms);
    assert!(
        append_live(&log, Room::Enqueue).is_ok(),
        "freed segments admit jobs again"
    );
    drop(log);
    open(durable_config(&directory));
}

/// A reader that came too late let go of a segment that it did not hold: one that somebody else held was used again
/// under their eyes, and one that nobody held never was, so that the log was full for ever.
#[test]
fn a_refused_pin_let_go_of_what_others_held_or_filled_the_log_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(small(&directory, 8));
    let mut now_ms = NOW_MS;
    let release_all = |positions: &[LogPosition]| {
        positions.iter().for_each(|position| log.release(*position, 1));
    };
    let old = fill(&log, Room::Enqueue);
    release_all(&old);
    settle_down(&log, &mut now_ms);
    let late = || {
        old.iter()
            .filter(|position| log.pin(**position).is_some())
            .count()
    };
    assert!(late() < old.len(), "most of them are gone");
    for _ in 0..3 {
        let positions = fill(&log, Room::Enqueue);
        assert!(positions.len() > old.len() / 2, "the log was freed");
        let oldest = log.oldest().unwrap().sequence;
        let held = positions
            .iter()
            .find(|position| position.sequence() > oldest)
            .unwrap();
        let pin = log.pin(*held).unwrap();
        late();
        release_all(&positions);
        settle_down(&log, &mut now_ms);
        assert_eq!(
            log.oldest().unwrap().sequence,
            held.sequence(),
            "a reader holds it"
        );
        let body = held.plus(HEADER_LEN as u32);
        assert_eq!(pin.bytes(body, 1000), Some(&[7; 1000][..]));
        drop(pin);
        late();
        settle_down(&log, &mut now_ms);
        assert!(log.oldest().unwrap().sequence > held.sequence());
    }
}

/// A log in memory of so many segments that are large enough to be left early.
fn in_memory(segments: u64) -> LogConfig {
    let segment_bytes = HOT_SEGMENT_BYTES_MIN * HOT_SEGMENT_PART;
    LogConfig {
        segment_bytes,
        log_bytes_max: segments * u64::from(segment_bytes),
        ..LogConfig::default()
    }
}

/// Appends a record of 64 KiB with a job.
fn append_large(log: &Log) -> Result<LogPosition, LogError> {
    const LEN: usize = 64 * 1024;
    let mut claim = log.claim(LEN, Room::Enqueue)?;
    claim.put(&[7; LEN]);
    let position = claim.position();
    claim.commit(1, 0, NOW_MS, 1);
    Ok(position)
}

#[test]
fn a_log_in_memory_goes_round_in_the_beginnings_of_a_few_segments() {
    let (log, _) = open(in_memory(64));
    let first = log.tail();
    // The first one is filled, as nobody knows yet what will come.
    for _ in 0..2_000 {
        let position = append_large(&log).unwrap();
        let is_first = position.sequence() == first.sequence();
        assert!(
            is_first || position.offset() < HOT_SEGMENT_BYTES_MIN,
            "{position}"
        );
        log.release(position, 1);
    }
    assert!(log.tail().sequence() > first.sequence() + 300);
    let in_use = log.tail().sequence() - log.oldest().unwrap().sequence;
    let existing = in_use as usize + 1 + log.spare_segments();
    assert!(existing <= 8, "{existing} segments");
}

#[test]
fn large_records_in_memory_share_segments() {
    let (log, _) = open(in_memory(64));
    let first = log.tail().sequence();
    // Three of a quarter each go into a segment, beside what is small.
    let len = log.segment_bytes() as usize / 4;
    let append = |len: usize| {
        let mut claim = log.claim(len, Room::Enqueue).unwrap();
        claim.put(&vec![7; len]);
        let position = claim.position();
        claim.commit(1, 0, NOW_MS, 1);
        log.release(position, 1);
    };
    for _ in 0..60 {
        append(len);
        append(64);
    }
    let segments = log.tail().sequence() - first;
    assert!((19..=25).contains(&segments), "{segments}");
}

#[test]
fn a_log_in_memory_is_full_when_a_quarter_of_it_may_have_been_left_early() {
    let segments = 8;
    let (log, _) = open(in_memory(segments));
    for _ in 0..3 {
        let mut jobs = Vec::new();
        while let Ok(position) = append_large(&log) {
            jobs.push(position);
        }
        // Two segments are the reserve, one may be left with a rest that is too short, and two may have been left early.
        let bytes = jobs.len() as u64 * 64 * 1024;
        let segment_bytes = u64::from(log.segment_bytes());
        assert!(bytes >= (segments - 5) * segment_bytes, "{bytes}");
        assert!(bytes <= segments * segment_bytes, "{bytes}");
        jobs.iter().for_each(|position| log.release(*position, 1));
        // Now few are in use, so that some are left early the next time.
        for _ in 0..20 {
            let position = append_large(&log).unwrap();
            log.release(position, 1);
        }
    }
}

#[test]
fn a_segment_is_not_retired_before_the_roll_that_left_it_is_done() {
    // One thread moves on all the time, another retires what it finds: a seal that came late would end the next use of
    // the segment, and the count of those left early would go wrong.
    let (log, _) = open(in_memory(64));
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                log.step(NOW_MS, 100);
            }
        });
        for _ in 0..10_000 {
            let position = append_large(&log).unwrap();
            log.release(position, 1);
            let info = log.segment_info(log.tail().sequence());
            assert!(info.is_none_or(|info| !info.sealed || info.sequence < log.tail().sequence()));
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    while log.step(NOW_MS, 100) > 0 {}
    assert!(log.segments_in_use() <= 2, "{}", log.segments_in_use());
}
