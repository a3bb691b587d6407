//! Appending to the log: 16 B, 96 B, 1 KiB and 64 KiB records, by one writer and by two:
//! `memory`; `written` to mapped files, where segments may be used again before they were synced (`hot`) or only
//! after; `synced` after each 64 records.
//!
//! Everything that is appended is given up at once, so segments go round in a small circle, as they do under a
//! queue that keeps up. The background agent runs on its own thread, as in a server.
#![cfg(not(loom))]
#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on should panic where it stands"
)]

use ackring::limits::SYNC_INTERVAL_MS;
use ackring::log::{Log, LogConfig, LogError, Room};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [16, 96, 1024, 64 * 1024];
/// Records behind one sync in the `synced` group.
const SYNC_BATCH: u64 = 64;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Memory,
    Hot,
    Written,
    Synced,
}

fn append(log: &Log, body: &[u8]) {
    loop {
        match log.claim(body.len(), Room::Enqueue) {
            Ok(mut claim) => {
                claim.put(black_box(body));
                claim.commit(1, 0, 1, 0);
                return;
            }
            // The disk cannot keep up: what a server would tell its producers.
            Err(LogError::Full { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn append_many(log: &Log, body: &[u8], count: u64, level: Level) {
    for n in 1..=count {
        append(log, body);
        if level == Level::Synced && n % SYNC_BATCH == 0 {
            log.sync_to(log.tail()).unwrap();
        }
    }
}

/// Runs `work` while another thread is the log's background agent.
fn with_agent<T>(log: &Log, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let agent = scope.spawn(|| {
            let started = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let now_ms = SYNC_INTERVAL_MS + started.elapsed().as_millis() as u64;
                if log.step(now_ms, 16) == 0 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        agent.join().unwrap();
        result
    })
}

fn timed(log: &Log, body: &[u8], count: u64, writers: u64, level: Level) -> Duration {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 1..writers {
            scope.spawn(|| append_many(log, body, count / writers, level));
        }
        append_many(log, body, count / writers, level);
    });
    started.elapsed()
}

fn bench_level(c: &mut Criterion, name: &str, level: Level) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut group = c.benchmark_group(format!("log_append_{name}"));
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_millis(500));
    for size in SIZES {
        for writers in [1, 2] {
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(format!("{size}B"), writers), |b| {
                let path = directory.path().join(format!("{size}-{writers}"));
                let config = LogConfig {
                    directory: (level != Level::Memory).then(|| path.clone()),
                    log_bytes_max: 4 << 30,
                    ..LogConfig::default()
                };
                let (log, _) = Log::open(config, 1, &mut |_| ()).unwrap();
                let body = vec![7u8; size];
                log.set_recycles_unsynced(level == Level::Hot);
                with_agent(&log, || {
                    // Once round the circle, so that page faults of fresh memory are not what is measured.
                    let round = if level == Level::Synced {
                        0
                    } else {
                        8 * u64::from(log.segment_bytes())
                    };
                    append_many(&log, &body, round / (size as u64 + 32), level);
                    b.iter_custom(|count| timed(&log, &body, count, writers, level))
                });
                drop(log);
                let _ = std::fs::remove_dir_all(path);
            });
        }
    }
    group.finish();
}

fn benches(c: &mut Criterion) {
    bench_level(c, "memory", Level::Memory);
    bench_level(c, "hot", Level::Hot);
    bench_level(c, "written", Level::Written);
    bench_level(c, "synced", Level::Synced);
}

criterion_group!(log, benches);
criterion_main!(log);
