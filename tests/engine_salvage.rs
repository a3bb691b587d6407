//! Random damage to a log, then salvage: what the damage has not touched is all there, byte for byte; what is lost is
//! named; and nobody notices anything at the next start.
//!
//! `ACKRING_SEED=n` replays one log with all its damages, `ACKRING_RUNS=n` says how many logs there are.
#![cfg(all(feature = "engine", not(loom)))]
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should panic where it stands"
)]

#[path = "engine/world.rs"]
#[allow(dead_code, reason = "the tests of the engine use the rest of it")]
mod world;

use ackring::engine::journal::{self, Group, JobHead, Kind, Prelude};
use ackring::engine::{Engine, EngineConfig, Examination, examine};
use ackring::log::{HEADER_LEN, LogPosition, OpenError, Recovered, inspect};
use ackring::{JobId, JobOptions, JobState, JobStatus, QueueOptions, Token};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use world::World;
use zerocopy::FromBytes;

/// Damages tried on each log.
const DAMAGES: u64 = 8;

struct Rng(u64);

impl Rng {
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

/// What a job was enqueued with.
type Bodies = BTreeMap<JobId, (Vec<u8>, Vec<u8>)>;

/// A log of a few starts in which a good deal has happened, and is closed or not.
fn write_log(rng: &mut Rng, directory: &Path) -> (Bodies, u64) {
    let mut world = World::with(|config| config.directory = Some(directory.to_owned()));
    let mut bodies = Bodies::new();
    let names = ["mail", "images", "reports"];
    for name in names {
        world.create(name, QueueOptions::default());
    }
    let mut held: Vec<Token> = Vec::new();
    for _ in 0..200 + rng.below(400) {
        world.now_ms += 1 + rng.below(20);
        let queue = world.queue(names[rng.below(3) as usize]);
        match rng.below(20) {
            0..=9 => enqueue(rng, &world, queue, &mut bodies),
            10..=13 => {
                let jobs = world.reserve(queue, 1 + rng.below(4) as usize);
                held.extend(jobs.into_iter().map(|job| job.token));
            }
            14..=17 if !held.is_empty() => {
                let token = held.swap_remove(rng.below(held.len() as u64) as usize);
                let verb = rng.below(3);
                world.settle(|batch| match verb {
                    0 => batch.ack(token, Some(b"a result")),
                    1 => batch.ack(token, None),
                    _ => batch.nack(token, Some(50), Some(b"an error")),
                });
            }
            18 => world.tidy_log(),
            19 if rng.below(5) == 0 => {
                world.crash();
            }
            _ => {}
        }
    }
    if rng.below(2) == 0 {
        world.engine().close(world.now_ms).unwrap();
    }
    (bodies, world.now_ms)
}

fn enqueue(rng: &mut Rng, world: &World, queue: ackring::engine::QueueId, bodies: &mut Bodies) {
    let jobs: Vec<(Vec<u8>, Vec<u8>)> = (0..1 + rng.below(6))
        .map(|_| {
            let meta = rng.next().to_le_bytes().to_vec();
            let byte = rng.next() as u8;
            (vec![byte; rng.below(2_000) as usize], meta)
        })
        .collect();
    let options = |meta| JobOptions {
        meta,
        ..JobOptions::default()
    };
    let batch: Vec<(&[u8], JobOptions<'_>)> = jobs
        .iter()
        .map(|(payload, meta)| (&payload[..], options(&meta[..])))
        .collect();
    let reply = world.try_push(queue, &batch).unwrap();
    let ids = reply.ids.iter().map(|id| JobId(*id));
    bodies.extend(ids.zip(jobs));
}

fn config(directory: &Path, salvage: bool) -> EngineConfig {
    EngineConfig {
        directory: Some(directory.to_owned()),
        slots: 4_096,
        segment_bytes: 64 * 1024,
        log_bytes_max: 256 * 64 * 1024,
        salvage,
        ..EngineConfig::default()
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The status of every job that is there.
fn statuses(engine: &Engine, bodies: &Bodies) -> BTreeMap<JobId, JobStatus> {
    let found = bodies.keys().filter_map(|id| Some((*id, engine.job(*id).ok()?)));
    found.collect()
}

/// What a record says of jobs.
#[derive(Default)]
struct Told {
    bodies: Vec<u64>,
    changes: Vec<(u64, u8)>,
    is_queue: bool,
}

fn told(record: &Recovered<'_>) -> Told {
    let (_, body) = Prelude::split(record.flags, record.body).unwrap();
    let mut told = Told::default();
    let change = |told: &mut Told, body: &[u8]| {
        let parsed = journal::parse_change(body).unwrap();
        let done = parsed
            .done
            .iter()
            .map(|entry| (entry.id.get(), JobState::Done as u8));
        told.changes.extend(done);
        told.changes
            .extend(parsed.changes.iter().map(|entry| (entry.id.get(), entry.phase)));
    };
    let enqueue = |told: &mut Told, body: &[u8]| {
        let parsed = journal::parse_enqueue(body).unwrap();
        told.bodies.extend(parsed.ids.iter().map(|id| id.get()));
    };
    match Kind::from_u8(record.kind).unwrap() {
        Kind::Enqueue => enqueue(&mut told, body),
        Kind::Reserve => {
            let entries = journal::parse_reserve(body).unwrap().iter();
            told.changes
                .extend(entries.map(|entry| (entry.id.get(), JobState::Leased as u8)));
        }
        Kind::Change => change(&mut told, body),
        Kind::Step => {
            let (changes, groups) = journal::parse_step(body).unwrap();
            change(&mut told, changes);
            for group in groups {
                if let Group::Jobs(_, body) = group {
                    enqueue(&mut told, body);
                }
            }
        }
        Kind::Job => {
            let (head, _) = JobHead::ref_from_prefix(body).unwrap();
            told.bodies.push(head.id.get());
        }
        Kind::Queue => told.is_queue = true,
        _ => {}
    }
    told
}

/// Every record: where it stands, and what it says.
fn records(directory: &Path) -> Vec<(Range<LogPosition>, Told)> {
    let mut records = Vec::new();
    let report = inspect(directory, &mut |record| {
        let end = record.position.plus((HEADER_LEN + record.body.len()) as u32);
        records.push((record.position..end, told(&record)));
    });
    assert_eq!(report.unwrap().corruptions, []);
    records
}

/// Damages a file and says which bytes of the log that has touched.
fn damage(rng: &mut Rng, directory: &Path) -> (String, Range<LogPosition>) {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .filter(|path| std::fs::read(path).unwrap()[16..20] != [0; 4])
        .collect();
    files.sort();
    let path = &files[rng.below(files.len() as u64) as usize];
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut bytes = std::fs::read(path).unwrap();
    let sequence = u32::from_le_bytes(bytes[16..20].try_into().unwrap());
    let touched = |from: usize, to: usize| {
        LogPosition::new(sequence, from as u32)..LogPosition::new(sequence, to as u32)
    };
    let len = bytes.len();
    // Mostly where something stands.
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0).max(100) as u64;
    let from = rng.below(used) as usize;
    let to = (from + 1 + rng.below(6_000) as usize).min(len);
    let (what, range) = match rng.below(8) {
        0 => {
            bytes[from] ^= 1 << rng.below(8);
            ("flip", touched(from, from + 1))
        }
        1 | 2 => {
            bytes[from..to].fill(0);
            ("zeros", touched(from, to))
        }
        3 => {
            bytes[from..to]
                .iter_mut()
                .for_each(|byte| *byte = rng.next() as u8);
            ("garbage", touched(from, to))
        }
        4 => {
            bytes.truncate(from);
            ("cut", touched(from, len))
        }
        5 => {
            bytes[..64].fill(0xAA);
            ("header", touched(0, 64))
        }
        6 => {
            let distance = 512 * (1 + rng.below(16) as usize);
            let to = to.min(len - distance);
            let from = from.min(to);
            bytes.copy_within(from + distance..to + distance, from);
            ("moved", touched(from, to))
        }
        _ => {
            std::fs::remove_file(path).unwrap();
            return (format!("{name} is gone"), touched(0, len));
        }
    };
    std::fs::write(path, bytes).unwrap();
    (format!("{what} in {name}, {range:?}"), range)
}

fn overlaps(record: &Range<LogPosition>, damage: &Range<LogPosition>) -> bool {
    record.start < damage.end && damage.start < record.end
}

/// `None`: the damage makes it look like a log of a later format.
fn found(directory: &Path, now_ms: u64) -> Option<Examination> {
    match examine(directory, now_ms, &mut |_| ControlFlow::Continue(())) {
        Err(OpenError::NewerFormat { .. }) => None,
        found => found.unwrap(),
    }
}

/// Jobs of which a record outside the damage says that they are not over, and whose every body was inside it.
fn must_be_named(records: &[(Range<LogPosition>, Told)], damage: &Range<LogPosition>) -> BTreeSet<u64> {
    let mut body_left = BTreeSet::new();
    let mut body_lost = BTreeSet::new();
    let mut last = BTreeMap::new();
    for (range, told) in records {
        if overlaps(range, damage) {
            body_lost.extend(told.bodies.iter().copied());
        } else {
            body_left.extend(told.bodies.iter().copied());
            last.extend(told.changes.iter().copied());
        }
    }
    let is_open = |id: &u64| matches!(last.get(id), Some(1..=4));
    body_lost
        .into_iter()
        .filter(|id| !body_left.contains(id) && is_open(id))
        .collect()
}

fn run(seed: u64) {
    println!("ACKRING_SEED={seed} cargo test --test engine_salvage");
    let mut rng = Rng(seed);
    let whole = tempfile::tempdir().unwrap();
    let (bodies, now_ms) = write_log(&mut rng, whole.path());
    let records = records(whole.path());
    let expected = {
        let directory = tempfile::tempdir().unwrap();
        copy(whole.path(), directory.path());
        let (engine, _) = Engine::open(config(directory.path(), false), now_ms).unwrap();
        statuses(&engine, &bodies)
    };
    for round in 0..DAMAGES {
        let directory = tempfile::tempdir().unwrap();
        copy(whole.path(), directory.path());
        let (what, range) = damage(&mut rng, directory.path());
        let case = format!("ACKRING_SEED={seed}, damage {round}: {what}");
        check(
            &case,
            directory.path(),
            now_ms,
            &bodies,
            &expected,
            &records,
            &range,
        );
    }
}

fn check(
    case: &str,
    directory: &Path,
    now_ms: u64,
    bodies: &Bodies,
    expected: &BTreeMap<JobId, JobStatus>,
    records: &[(Range<LogPosition>, Told)],
    range: &Range<LogPosition>,
) {
    let touched = records.iter().filter(|(record, _)| overlaps(record, range));
    let mut touched_jobs: BTreeSet<u64> = BTreeSet::new();
    let mut queue_touched = false;
    for (_, told) in touched {
        touched_jobs.extend(told.bodies.iter().copied());
        touched_jobs.extend(told.changes.iter().map(|(id, _)| *id));
        queue_touched |= told.is_queue;
    }
    let Some(found) = found(directory, now_ms) else {
        return;
    };
    let is_corrupt = !found.losses.places.is_empty();
    let refused = Engine::open(config(directory, false), now_ms);
    assert_eq!(refused.is_err(), is_corrupt, "{case}");
    drop(refused);
    let named: BTreeSet<u64> = found.losses.jobs.iter().map(|job| job.id.0).collect();
    if is_corrupt {
        let missing: Vec<u64> = must_be_named(records, range)
            .difference(&named)
            .copied()
            .collect();
        assert!(missing.is_empty(), "{case}: lost and not named: {missing:x?}");
    }
    for salvage in [true, false] {
        let (engine, summary) = Engine::open(config(directory, salvage), now_ms)
            .unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(summary.salvage_report.is_some(), is_corrupt && salvage, "{case}");
        let there = statuses(&engine, bodies);
        for (id, status) in expected {
            let Some(now) = there.get(id) else {
                assert!(touched_jobs.contains(&id.0), "{case}: {id} is not there");
                continue;
            };
            let is_finished = matches!(
                now.state,
                JobState::Done | JobState::Cancelled | JobState::Expired
            );
            assert!(
                is_finished || now.meta == bodies[id].1,
                "{case}: {id} has another body"
            );
            assert!(!named.contains(&id.0), "{case}: {id} is there and named as lost");
            if !touched_jobs.contains(&id.0) && !queue_touched {
                let mut now = now.clone();
                if !salvage && status.state == JobState::Scheduled {
                    // Its time has come meanwhile.
                    now.state = status.state;
                }
                assert_eq!(now, *status, "{case}");
            }
        }
        use_it(case, &engine, now_ms, bodies, &there);
    }
}

/// Works on with what came back: hands everything out, and keeps the log going round.
fn use_it(case: &str, engine: &Engine, mut now_ms: u64, bodies: &Bodies, there: &BTreeMap<JobId, JobStatus>) {
    let queue = engine.open_queue("filler", now_ms).unwrap();
    let mut builder = ackring::EnqueueBuilder::new();
    for _ in 0..16 {
        builder.push(&[7; 1_000], &JobOptions::default());
    }
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = ackring::EnqueueBatch::parse(builder.count(), &bytes).unwrap();
    for _ in 0..25 {
        now_ms += 200;
        let mut reply = ackring::engine::EnqueueReply::default();
        let none = ackring::engine::RequestId::NONE;
        engine
            .enqueue(queue, &batch, None, none, now_ms, &mut reply)
            .unwrap();
        let mut sink = world::Collect::new();
        engine.reserve(&[queue], 16, 0, none, now_ms, &mut sink).unwrap();
        let mut settle = ackring::SettleBuilder::new();
        sink.jobs.iter().for_each(|job| settle.ack(job.token, None));
        let mut bytes = Vec::new();
        settle.write_to(&mut bytes);
        let settle = ackring::SettleBatch::parse(settle.count(), &bytes).unwrap();
        engine.settle(&settle, none, now_ms, &mut Vec::new()).unwrap();
        engine.log_step(now_ms, 64);
    }
    // No job of another queue has moved on; the ready ones still have their payloads.
    for (id, before) in there {
        let now = engine
            .job(*id)
            .unwrap_or_else(|error| panic!("{case}: {id}: {error}, was {before:?}"));
        assert_eq!(
            (now.state, &now.meta),
            (before.state, &before.meta),
            "{case}: {id}"
        );
    }
    for name in ["mail", "images", "reports"] {
        let Ok(queue) = engine.find_queue(name) else {
            continue;
        };
        for job in engine.peek(queue, 1_000).unwrap() {
            let Some((payload, _)) = bodies.get(&job.id) else {
                panic!("{case}: nobody has enqueued {}", job.id)
            };
            assert!(job.payload == *payload, "{case}: {} has another payload", job.id);
        }
    }
}

#[test]
fn what_the_damage_has_not_touched_comes_back_byte_for_byte() {
    if let Ok(seed) = std::env::var("ACKRING_SEED") {
        return run(seed.parse().unwrap());
    }
    let runs = std::env::var("ACKRING_RUNS").map_or(2, |runs| runs.parse().unwrap());
    for seed in 1..=runs {
        run(seed);
    }
}
