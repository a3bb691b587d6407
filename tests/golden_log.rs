//! A log that format version 1 wrote on the day it was made, in `tests/fixtures/log_v1`, kept for ever: every later
//! version opens it and finds the same jobs.
//!
//! The files are hexadecimal text of 16 bytes a line behind their offset, where `*` stands for the line above it again
//! until the next offset. `state.txt` says what the engine that wrote them held at that moment. How they were made:
//! `cargo test --test golden_log -- --ignored`, which never overwrites them.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "log_common/reader.rs"]
mod reader;
#[path = "golden_log/writer.rs"]
mod writer;

use ackring::engine::journal::{Kind, NUMBERED};
use ackring::engine::{Engine, EngineConfig, QueueId, RequestId};
use ackring::log::inspect;
use ackring::{JobStatus, QueueCounts, QueueStats};
use reader::{Stone, half, records_of, word};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// When the log was left, in milliseconds since the Unix epoch.
const LEFT_MS: u64 = 1_700_000_100_000;
const SESSION: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;

fn fixture() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/log_v1")
}

fn config(directory: &Path) -> EngineConfig {
    EngineConfig {
        directory: Some(directory.to_owned()),
        slots: 4_096,
        segment_bytes: 64 * 1024,
        log_bytes_max: 16 * 64 * 1024,
        memory_bytes_max: 16 * 64 * 1024,
        ..EngineConfig::default()
    }
}

/// Text as the fixture has it.
fn to_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut last: Option<&[u8]> = None;
    let mut repeats = false;
    for (line, chunk) in bytes.chunks(16).enumerate() {
        if last == Some(chunk) {
            if !repeats {
                text.push_str("*\n");
            }
            repeats = true;
            continue;
        }
        repeats = false;
        last = Some(chunk);
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{:08x}  {}", line * 16, hex.join(" ")).unwrap();
    }
    writeln!(text, "{:08x}", bytes.len()).unwrap();
    text
}

fn to_bytes(text: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    for line in text.lines().filter(|line| *line != "*") {
        let (offset, hex) = line.split_once("  ").unwrap_or((line, ""));
        let offset = usize::from_str_radix(offset, 16).unwrap();
        while bytes.len() < offset {
            // The last line again, as often as it takes.
            bytes.extend_from_within(bytes.len() - 16..);
        }
        bytes.extend(
            hex.split_whitespace()
                .map(|byte| u8::from_str_radix(byte, 16).unwrap()),
        );
    }
    bytes
}

/// The fixture's directory as it was.
fn unpacked() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lock"), "").unwrap();
    for (name, bytes) in segments() {
        std::fs::write(directory.path().join(name), bytes).unwrap();
    }
    directory
}

/// Names and bytes of the segments, by name.
fn segments() -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(fixture())
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut found: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "hex"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            (name, to_bytes(&std::fs::read_to_string(path).unwrap()))
        })
        .collect();
    found.sort();
    found
}

fn records() -> Vec<Stone> {
    let mut found: Vec<Stone> = segments()
        .iter()
        .flat_map(|(_, bytes)| records_of(bytes))
        .collect();
    found.sort_by_key(Stone::position);
    found
}

/// Everything that an engine holds, in words that do not change with the code.
fn state_of(engine: &Engine) -> String {
    let mut text = String::new();
    for stats in engine.queue_list("", 1_000) {
        write_queue(&mut text, &stats);
        let id = engine.find_queue(&stats.name).unwrap();
        let mut jobs = jobs_of(engine, id);
        jobs.sort_by_key(|job| job.id);
        jobs.iter().for_each(|job| write_job(&mut text, job));
        let next: Vec<String> = engine
            .peek(id, 100)
            .unwrap()
            .iter()
            .map(|job| job.id.to_string())
            .collect();
        writeln!(text, "  next: {}", next.join(" ")).unwrap();
    }
    let applied = |number| {
        engine.is_applied(RequestId {
            session: SESSION,
            number,
        })
    };
    let numbers: Vec<String> = (1..100)
        .filter(|number| applied(*number))
        .map(|n| n.to_string())
        .collect();
    writeln!(text, "session {SESSION:032x}: {}", numbers.join(" ")).unwrap();
    text
}

fn jobs_of(engine: &Engine, queue: QueueId) -> Vec<JobStatus> {
    let page = engine.list_jobs(queue, None, 0, 1_000).unwrap();
    assert_eq!(page.next_cursor, 0);
    let mut jobs = page.jobs;
    for peeked in engine.peek(queue, 1_000).unwrap() {
        jobs.iter_mut()
            .filter(|job| job.id == peeked.id)
            .for_each(|job| job.payload.clone_from(&peeked.payload));
    }
    jobs
}

fn write_queue(text: &mut String, stats: &QueueStats) {
    let QueueStats {
        name,
        paused,
        options,
        counts,
    } = stats;
    writeln!(text, "queue {name} paused {paused}").unwrap();
    writeln!(
        text,
        "  {} lease {} attempts {} {:?} jobs {} bytes {} payload {} window {} keep {}",
        options.durability,
        options.lease_ms,
        options.max_attempts,
        options.backoff,
        options.capacity_jobs,
        options.capacity_bytes,
        options.payload_bytes_max,
        options.dedupe_window_ms,
        options.keep_finished
    )
    .unwrap();
    // Taken apart, so that a counter that is added later does not change the text.
    let QueueCounts {
        ready,
        scheduled,
        leased,
        dead,
        kept,
        bytes,
        enqueued,
        done,
        deliveries,
        failures,
        expiries,
        releases,
        buried,
        redriven,
        cancelled,
        expired,
    } = counts;
    writeln!(
        text,
        "  ready {ready} scheduled {scheduled} leased {leased} dead {dead} kept {kept} bytes {bytes}"
    )
    .unwrap();
    writeln!(
        text,
        "  enqueued {enqueued} done {done} deliveries {deliveries} failures {failures} expiries {expiries} \
         releases {releases} buried {buried} redriven {redriven} cancelled {cancelled} expired {expired}"
    )
    .unwrap();
}

fn write_job(text: &mut String, job: &JobStatus) {
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    writeln!(
        text,
        "  job {} {} priority {} attempts {}/{} deliveries {} failures {} expiries {} enqueued {} at {} expires {} \
         bytes {} meta {:?} payload {:?} error {:?} result {:?}",
        job.id,
        job.state,
        job.priority,
        job.attempts,
        job.max_attempts,
        job.deliveries,
        job.failures,
        job.expiries,
        job.enqueued_ms,
        job.at_ms,
        job.expires_ms,
        job.payload_bytes,
        shown(&job.meta),
        shown(&job.payload),
        job.last_error.as_deref().map(shown),
        job.result.as_deref().map(shown),
    )
    .unwrap();
}

#[test]
fn a_log_of_version_1_opens_with_everything_that_it_held() {
    let directory = unpacked();
    let report = inspect(directory.path(), &mut |_| ()).unwrap();
    assert_eq!((&report.corruptions[..], &report.holes[..]), (&[][..], &[][..]));
    let (engine, summary) = Engine::open(config(directory.path()), LEFT_MS).unwrap();
    assert_eq!(summary.salvaged, Vec::<String>::new());
    let expected = std::fs::read_to_string(fixture().join("state.txt")).unwrap();
    let found = state_of(&engine);
    for (line, (found, expected)) in found.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of state.txt", line + 1);
    }
    assert_eq!(found.len(), expected.len());
    writer::goes_on(&engine);
}

#[test]
fn it_holds_every_kind_of_record() {
    let kinds: BTreeSet<u8> = records().iter().map(|record| record.bytes[12]).collect();
    let expected = Kind::ALL.iter().map(|kind| *kind as u8).chain([0xF0, 0xF1, 0xF2]);
    assert_eq!(kinds, expected.collect());
    // And what the engine's own may carry.
    assert!(
        records()
            .iter()
            .any(|record| record.bytes[12] == Kind::Enqueue as u8 && record.bytes[13] == NUMBERED)
    );
    assert!(
        segments().iter().any(|(_, bytes)| half(bytes, 16) == 0),
        "a spare"
    );
}

#[test]
fn its_bytes_stand_where_the_format_says() {
    let segments = segments();
    for (index, (name, bytes)) in segments.iter().enumerate() {
        assert_eq!(*name, format!("{:08}.segment", index + 1));
        assert_eq!(bytes.len(), 65_536);
        assert_eq!((&bytes[..8], half(bytes, 8)), (&b"ackringL"[..], 1));
        assert_eq!(half(bytes, 12), reader::header_crc(bytes), "{name}");
        assert_eq!(half(bytes, 28), 65_536, "segment_bytes");
        assert_eq!(bytes[32..48], segments[0].1[32..48], "one log id");
        assert!((half(bytes, 48) as usize) <= segments.len(), "files");
        assert_eq!(bytes[52..64], [0; 12]);
    }
    let records = records();
    let first = |kind: u8, wanted: &dyn Fn(&[u8]) -> bool| -> Vec<u8> {
        let mut found = records.iter().filter(|record| record.bytes[12] == kind);
        found
            .find(|record| wanted(&record.bytes))
            .unwrap_or_else(|| panic!("kind {kind}"))
            .bytes
            .clone()
    };
    writer::look_at(&first);
    for record in &records {
        assert_eq!(half(&record.bytes, 0) as usize, record.bytes.len());
        assert_eq!(half(&record.bytes, 4), record.epoch);
        assert_eq!(record.bytes[14..16], [0, 0]);
        assert!(
            word(&record.bytes, 16) <= record.position().raw(),
            "nobody knows more durable than there is"
        );
    }
    let starts = records.iter().filter(|record| record.bytes[12] == 0xF1);
    assert!(
        starts.clone().all(|record| record.offset == 64),
        "the first of its segment"
    );
    assert_eq!(
        starts.filter(|record| record.bytes[13] == 1).count(),
        2,
        "two boots"
    );
}

#[test]
fn the_text_form_brings_every_byte_back() {
    let mut bytes = vec![0; 64];
    bytes.extend((0..40).flat_map(|n| [n as u8; 8]));
    bytes.extend([7; 100]);
    bytes.resize(65_536, 0);
    assert_eq!(to_bytes(&to_text(&bytes)), bytes);
}
