//! Many writers, failing disks, and damage drawn from a seed.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

mod log_common;

use ackring::limits::{SEGMENT_BYTES_MIN, SYNC_INTERVAL_MS};
use ackring::log::{Log, LogConfig, LogError, LogPosition, OpenError, Room};
use log_common::{NOW_MS, append, body_of, durable_config, open, overwrite, segment_files};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Numbers that follow from a seed: splitmix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The seed of this run, printed: `ACKRING_TEST_SEED=… cargo test …` runs it again.
fn seed() -> u64 {
    let seed = match std::env::var("ACKRING_TEST_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => u64::from(std::process::id()) << 20 ^ SEEDS.fetch_add(1, Ordering::Relaxed),
    };
    println!("seed {seed}; run again with ACKRING_TEST_SEED={seed}");
    seed
}

/// How many random logs to try.
fn rounds() -> u64 {
    std::env::var("ACKRING_TEST_ROUNDS").map_or(60, |text| text.parse().unwrap())
}

static SEEDS: AtomicU64 = AtomicU64::new(1);

#[test]
fn every_record_of_many_writers_is_there_once_and_in_order() {
    const WRITERS: u64 = 6;
    const EACH: u64 = 3_000;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let stop = AtomicBool::new(false);
    let ends = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut now_ms = NOW_MS;
            while !stop.load(Ordering::Relaxed) {
                now_ms += SYNC_INTERVAL_MS;
                log.step(now_ms, 4);
            }
        });
        log.set_hold(1);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (log, ends) = (&log, &ends);
                scope.spawn(move || {
                    let mut mine = Vec::new();
                    for n in 0..EACH {
                        let end = append(log, writer * EACH + n, 8 * (n as usize % 30));
                        mine.push((end, writer * EACH + n));
                        if n % 500 == 0 {
                            log.sync_to(end).unwrap();
                            assert!(log.durable() >= end);
                        }
                        if n % 100 == 7 {
                            drop(log.claim(160, Room::Enqueue).unwrap());
                        }
                    }
                    ends.lock().unwrap().extend(mine);
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(log);
    let mut ends = ends.into_inner().unwrap();
    ends.sort();
    let (_, records) = open(durable_config(&directory));
    assert_eq!(records.len() as u64, WRITERS * EACH);
    for (record, (end, number)) in records.iter().zip(&ends) {
        assert_eq!(record.number(), *number);
        assert_eq!(record.body_position.plus(record.body.len() as u32), *end);
        assert_eq!(record.body, body_of(*number, record.body.len() - 8));
    }
    for writer in 0..WRITERS {
        let own = records.iter().map(|r| r.number()).filter(|n| n / EACH == writer);
        assert!(own.is_sorted(), "what one writer appends stands in its order");
    }
}

/// Jobs come and go while readers look at them: a pin never shows a byte of another job.
#[test]
fn a_pin_never_shows_recycled_bytes() {
    const JOBS: u64 = 30_000;
    for durable in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let config = LogConfig {
            log_bytes_max: 6 * u64::from(SEGMENT_BYTES_MIN),
            ..durable_config(&directory)
        };
        let config = if durable {
            config
        } else {
            LogConfig {
                directory: None,
                ..config
            }
        };
        let (log, _) = open(config);
        log.set_recycles_unsynced(true);
        let (send, receive) = std::sync::mpsc::sync_channel::<(u64, LogPosition)>(50);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..JOBS {
                    let body = body_of(number, 120);
                    loop {
                        match log.claim(body.len(), Room::Enqueue) {
                            Ok(mut claim) => {
                                claim.put(&body);
                                let position = claim.body_position();
                                claim.commit(1, 0, NOW_MS, 1);
                                send.send((number, position)).unwrap();
                                break;
                            }
                            Err(LogError::Full { .. }) => {
                                log.step(NOW_MS, 4);
                                std::thread::yield_now();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                drop(send);
            });
            scope.spawn(|| {
                let mut stale: Vec<(u64, LogPosition)> = Vec::new();
                for (number, position) in receive {
                    let pin = log.pin(position).unwrap();
                    log.release(position, 1);
                    assert_eq!(pin.bytes(position, 128).unwrap(), body_of(number, 120));
                    drop(pin);
                    stale.push((number, position));
                    if number % 64 == 0 {
                        // Long gone, or still there untouched; never something else.
                        for (number, position) in stale.drain(..) {
                            if let Some(pin) = log.pin(position) {
                                assert_eq!(pin.bytes(position, 128).unwrap(), body_of(number, 120));
                            }
                        }
                    }
                }
            });
        });
        assert!(log.tail().sequence() > 20, "segments were used again");
    }
}

#[test]
fn waiters_share_the_leaders_sync() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let flushes = Arc::new(AtomicU64::new(0));
    let counter = flushes.clone();
    log.set_flush_hook(Box::new(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }));
    let end = append(&log, 1, 0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| log.sync_to(end).unwrap());
        }
    });
    assert_eq!(flushes.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failed_sync_poisons_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    let before = append(&log, 1, 0);
    log.sync().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let switch = fails.clone();
    log.set_flush_hook(Box::new(move |_| {
        if switch.load(Ordering::Relaxed) {
            Err(std::io::Error::from_raw_os_error(5))
        } else {
            Ok(())
        }
    }));
    let end = append(&log, 2, 0);
    let open_claim = log.claim(8, Room::Enqueue).unwrap();
    let error = log.sync_to(end).unwrap_err();
    assert!(
        matches!(&error, LogError::Poisoned(reason) if reason.contains("sync the log")),
        "{error}"
    );
    assert!(error.to_string().contains("restart the server"), "{error}");
    assert_eq!(log.durable(), before, "nothing more is called durable");
    fails.store(false, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(
            matches!(log.sync(), Err(LogError::Poisoned(_))),
            "a disk that works again changes nothing"
        );
        assert!(matches!(log.claim(8, Room::Migrate), Err(LogError::Poisoned(_))));
        assert_eq!(log.step(NOW_MS + 10 * SYNC_INTERVAL_MS, 10), 0);
    }
    open_claim.commit(1, 0, NOW_MS, 0);
    assert!(log.close(NOW_MS).is_err());
    assert_eq!(log.durable(), before);
    assert!(log.poisoned().unwrap().contains("os error 5"));
    drop(log);
    open(durable_config(&directory));
}

#[test]
fn the_background_sync_poisons_too() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    log.set_flush_hook(Box::new(|_| Err(std::io::Error::from_raw_os_error(5))));
    append(&log, 1, 0);
    log.step(NOW_MS, 0);
    assert!(log.poisoned().is_none(), "no sync is due yet");
    log.step(NOW_MS + SYNC_INTERVAL_MS, 0);
    assert!(log.poisoned().is_some());
}

/// A record that was committed.
struct Known {
    boot: u64,
    /// What was durable when it was committed, at least.
    durable: LogPosition,
    body: Vec<u8>,
}

/// A log whose committed records, by position, are known; of several boots, partly synced, with holes.
fn random_log(random: &mut Random, directory: &tempfile::TempDir) -> BTreeMap<LogPosition, Known> {
    let mut known = BTreeMap::new();
    for boot in 0..=random.below(3) {
        let (log, _) = open(durable_config(directory));
        log.set_hold(1);
        for _ in 0..random.below(400) {
            let body = body_of(random.next(), 8 * random.below(100) as usize);
            let mut claim = log.claim(body.len(), Room::Enqueue).unwrap();
            let position = claim.position();
            claim.put(&body);
            match random.below(50) {
                0 => drop(claim),
                1 => std::mem::forget(claim),
                _ => {
                    let durable = log.durable();
                    claim.commit(7, 1, NOW_MS, 0);
                    known.insert(position, Known { boot, durable, body });
                }
            }
            match random.below(40) {
                0 => drop(log.sync().unwrap()),
                1 => drop(log.step(NOW_MS + 2 * SYNC_INTERVAL_MS, 0)),
                _ => {}
            }
        }
    }
    known
}

/// An opened log shows every record that a record it shows knew to be durable, and all of the boots before.
fn check_nothing_lost(known: &BTreeMap<LogPosition, Known>, shown: &[LogPosition], seed: u64) {
    let durable = shown
        .iter()
        .map(|position| known[position].durable)
        .max()
        .unwrap_or_default();
    let newest = shown
        .iter()
        .map(|position| known[position].boot)
        .max()
        .unwrap_or_default();
    for (position, record) in known {
        let must_be_there = record.boot < newest || *position < durable;
        assert!(
            !must_be_there || shown.binary_search(position).is_ok(),
            "seed {seed}: {position} is lost"
        );
    }
}

/// One to five flips, zeroed pages or cuts.
fn damage(random: &mut Random, directory: &tempfile::TempDir) {
    let files = segment_files(directory.path());
    for _ in 0..=random.below(4) {
        let file = &files[random.below(files.len() as u64) as usize];
        let len = std::fs::metadata(file).unwrap().len();
        if len == 0 {
            continue;
        }
        let at = random.below(len);
        match random.below(8) {
            0 => std::fs::OpenOptions::new()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(at)
                .unwrap(),
            1 => overwrite(
                file,
                at & !4095,
                &vec![0; (len - (at & !4095)).min(4096) as usize],
            ),
            2 => overwrite(
                file,
                at,
                &random.next().to_le_bytes()[..(len - at).min(8) as usize],
            ),
            _ => {
                let byte = std::fs::read(file).unwrap()[at as usize];
                overwrite(file, at, &[byte ^ 1 << random.below(8)]);
            }
        }
    }
}

#[test]
fn no_damage_makes_recovery_panic_show_what_was_not_written_or_lose_what_was_durable() {
    let seed = seed();
    let mut random = Random(seed);
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..rounds() {
        let directory = tempfile::tempdir().unwrap();
        let known = random_log(&mut random, &directory);
        damage(&mut random, &directory);
        let salvage = random.below(3) == 0;
        let config = LogConfig {
            salvage,
            ..durable_config(&directory)
        };
        let mut shown = Vec::new();
        let result = Log::open(config, NOW_MS, &mut |record| {
            let known = known.get(&record.position);
            assert_eq!(
                known.map(|known| &known.body[..]),
                Some(record.body),
                "seed {seed}"
            );
            shown.push(record.position);
        });
        assert!(shown.is_sorted(), "seed {seed}");
        match result {
            Ok((log, _)) => {
                taken += 1;
                if !salvage {
                    check_nothing_lost(&known, &shown, seed);
                }
                let end = append(&log, 1, 0);
                log.sync_to(end).unwrap();
                drop(log);
                let (_, again) = open(durable_config(&directory));
                assert_eq!(
                    again.len(),
                    shown.len() + 1,
                    "seed {seed}: what was accepted once is accepted again"
                );
            }
            Err(OpenError::Corrupt { .. } | OpenError::NewerFormat { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    println!("{taken} taken, {refused} refused");
    assert!(taken > 0 && refused > 0);
}

/// What it claimed becomes padding as it unwinds, so nobody waits for it for ever.
#[test]
fn a_writer_that_panics_in_the_middle_of_a_record_holds_nobody_up() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    std::thread::scope(|scope| {
        let broken = scope.spawn(|| {
            let mut claim = log.claim(80, Room::Enqueue).unwrap();
            claim.put(&[1; 24]);
            panic!("a writer that panics");
        });
        assert!(broken.join().is_err());
    });
    let end = append(&log, 7, 16);
    log.sync_to(end).unwrap();
    assert!(log.durable() >= end);
    drop(log);
    let (_, records) = open(durable_config(&directory));
    assert_eq!(
        records.iter().map(|record| record.number()).collect::<Vec<_>>(),
        [7]
    );
}

/// Who looks a segment through meets records of writers whom nothing but their commit orders before it.
#[test]
fn a_segment_is_looked_through_while_the_next_is_written() {
    const WRITERS: u64 = 3;
    const EACH: u64 = 4_000;
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(durable_config(&directory));
    log.set_hold(1);
    let written = AtomicU64::new(0);
    let mut seen = vec![0; (WRITERS * EACH) as usize];
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (log, written) = (&log, &written);
            scope.spawn(move || {
                for n in 0..EACH {
                    append(log, writer * EACH + n, 8 * (n as usize % 30));
                }
                written.fetch_add(1, Ordering::Relaxed);
            });
        }
        let mut sequence = 1;
        loop {
            let is_over = written.load(Ordering::Relaxed) == WRITERS;
            let looked = log.visit_segment(sequence, &mut |record| {
                let number = u64::from_le_bytes(record.body[..8].try_into().unwrap());
                assert_eq!(record.body, body_of(number, record.body.len() - 8));
                seen[number as usize] += 1;
            });
            match looked {
                true => sequence += 1,
                false if is_over => break,
                // Whatever was shown of it will be shown again.
                false => std::thread::yield_now(),
            }
        }
        assert!(sequence > 10, "only {sequence} segments");
    });
    let first = log.tail().sequence();
    let early = seen.iter().filter(|times| **times > 0).count();
    assert!(early > seen.len() / 2, "{early} records before segment {first}");
}
