//! The log as a whole: what goes in comes out, in order, also after a restart.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod log_common;

use ackring::limits::{SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MIN, UNSYNCED_BYTES_MAX};
use ackring::log::{Log, LogConfig, LogError, LogPosition, OpenError, Room};
use log_common::{NOW_MS, append, body_of, durable_config, open, reopen};

#[test]
fn memory_keeps_what_is_put_into_it() {
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..LogConfig::default()
    };
    let (log, records) = open(config);
    assert!(records.is_empty());
    let mut claim = log.claim(24, Room::Enqueue).unwrap();
    let body = claim.body_position();
    claim.put(b"twelve bytes");
    claim.put(b"!");
    let end = claim.commit(1, 2, NOW_MS, 1);
    assert_eq!(end, body.plus(24));
    let pin = log.pin(body).unwrap();
    assert_eq!(pin.bytes(body, 13), Some(&b"twelve bytes!"[..]));
    assert_eq!(
        pin.bytes(body.plus(13), 11),
        Some(&[0u8; 11][..]),
        "what was not written is zero"
    );
    assert_eq!(pin.bytes(body, SEGMENT_BYTES_MIN as usize), None);
    assert_eq!(log.sync().unwrap(), log.tail());
    assert!(log.durable() >= end);
}

#[test]
fn a_restart_gives_back_every_record_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let count = 5_000u64;
    let ends: Vec<LogPosition> = (0..count)
        .map(|n| append(&log, n, 8 * (n as usize % 20)))
        .collect();
    assert!(ends.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(log.tail().sequence() > 3, "several segments were used");
    drop(log);
    let (_log, records) = open(durable_config(&directory));
    assert_eq!(records.len() as u64, count);
    for (n, record) in records.iter().enumerate() {
        assert_eq!(record.number(), n as u64);
        assert_eq!(record.body, body_of(n as u64, 8 * (n % 20)));
        assert_eq!((record.kind, record.flags, record.now_ms), (7, 1, NOW_MS));
    }
}

#[test]
fn payloads_of_a_former_start_are_read_from_the_mapping() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append(&log, 42, 64);
    drop(log);
    let (log, records) = open(durable_config(&directory));
    let position = records[0].body_position;
    log.retain(position, 1);
    let pin = log.pin(position).unwrap();
    assert_eq!(pin.bytes(position, 72).unwrap(), &records[0].body[..]);
}

#[test]
fn starts_alone_do_not_use_up_segments() {
    let directory = tempfile::tempdir().unwrap();
    for _ in 0..10 {
        let (log, _) = open(durable_config(&directory));
        assert_eq!(log.segments_in_use(), 1);
    }
    let (log, _) = open(durable_config(&directory));
    append(&log, 1, 8);
    drop(log);
    for _ in 0..10 {
        let (log, records) = open(durable_config(&directory));
        assert_eq!((log.segments_in_use(), records.len()), (2, 1));
    }
}

#[test]
fn a_claim_that_is_dropped_is_padding() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    append(&log, 1, 8);
    drop(log.claim(800, Room::Enqueue).unwrap());
    let end = append(&log, 2, 8);
    assert!(
        log.sync().unwrap() >= end,
        "padding does not stop the durable prefix"
    );
    let (_, records) = reopen(log, &directory);
    assert_eq!(
        records.iter().map(|record| record.number()).collect::<Vec<_>>(),
        [1, 2]
    );
}

#[test]
fn durable_stops_at_a_claim_that_is_still_open() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let first = append(&log, 1, 8);
    let open_claim = log.claim(8, Room::Enqueue).unwrap();
    let behind = append(&log, 2, 8);
    assert_eq!(log.sync().unwrap(), first);
    open_claim.commit(7, 0, NOW_MS, 0);
    assert!(log.sync().unwrap() >= behind);
    log.sync_to(behind).unwrap();
}

#[test]
fn a_second_opener_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_log, _) = open(durable_config(&directory));
    let error = Log::open(durable_config(&directory), NOW_MS, &mut |_| ()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(
        error.to_string().contains("already in use by another server"),
        "{error}"
    );
}

#[test]
fn too_large_a_record_is_refused_and_the_largest_is_taken() {
    let config = LogConfig {
        segment_bytes: SEGMENT_BYTES_MIN,
        ..LogConfig::default()
    };
    let (log, _) = open(config);
    let max = log.body_len_max();
    assert!(matches!(
        log.claim(max + 8, Room::Enqueue),
        Err(LogError::TooLarge { .. })
    ));
    for _ in 0..3 {
        log.claim(max, Room::Enqueue).unwrap().commit(1, 0, NOW_MS, 0);
    }
    assert_eq!(
        log.tail().sequence(),
        3 + u32::from(max + 32 + 88 + 32 < SEGMENT_BYTES_MIN as usize)
    );
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let wrong = [
        LogConfig {
            segment_bytes: 4096,
            ..LogConfig::default()
        },
        LogConfig {
            segment_bytes: SEGMENT_BYTES_MIN + 8,
            ..LogConfig::default()
        },
        LogConfig {
            log_bytes_max: 0,
            ..LogConfig::default()
        },
    ];
    for config in wrong {
        assert!(matches!(
            Log::open(config, NOW_MS, &mut |_| ()),
            Err(OpenError::Config(_))
        ));
    }
}

#[test]
fn the_note_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    log.set_segment_note(77);
    log.set_segment_note(5);
    for n in 0..200 {
        append(&log, n, 1000);
    }
    drop(log);
    let (_, report) = Log::open(durable_config(&directory), NOW_MS, &mut |_| ()).unwrap();
    assert_eq!(report.note_max, 77);
    let (_, report) = Log::open(durable_config(&directory), NOW_MS, &mut |_| ()).unwrap();
    assert_eq!(report.note_max, 77);
}

#[test]
fn segments_are_visited_from_memory_once_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let mut written = Vec::new();
    while log.tail().sequence() == 1 {
        written.push(written.len() as u64);
        append(&log, written.len() as u64 - 1, 504);
    }
    let mut seen = Vec::new();
    let visited = log.visit_segment(1, &mut |record| {
        seen.push(u64::from_le_bytes(record.body[..8].try_into().unwrap()));
    });
    assert!(visited);
    assert_eq!(
        seen,
        written[..written.len() - 1],
        "all but the one that went to the next segment"
    );
    assert!(!log.visit_segment(2, &mut |_| ()));
    assert!(!log.visit_segment(9, &mut |_| ()));
}

/// As an engine's log is: its segments may be used again unsynced, which these may not yet, as they hold jobs.
#[test]
fn a_burst_stayed_unsynced_for_a_second_however_large_it_was() {
    const BODY_LEN: usize = 4 << 20;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(LogConfig {
        segment_bytes: SEGMENT_BYTES_DEFAULT,
        ..durable_config(&directory)
    });
    log.set_recycles_unsynced(true);
    let append = || {
        let mut claim = log.claim(BODY_LEN, Room::Migrate).unwrap();
        claim.put(b"a job");
        claim.commit(7, 1, NOW_MS, 1)
    };
    let first = append();
    log.step(NOW_MS, 1);
    assert!(log.durable() < first, "it is not time for a sync");
    let last = (0..UNSYNCED_BYTES_MAX as usize / BODY_LEN)
        .map(|_| append())
        .max()
        .unwrap();
    log.set_live_bytes(UNSYNCED_BYTES_MAX - 1);
    log.step(NOW_MS, 1);
    assert!(log.durable() < first, "most of it is said to be over");
    log.set_live_bytes(UNSYNCED_BYTES_MAX);
    log.step(NOW_MS, 1);
    assert!(log.durable() >= last);
}
