//! What the simulation found wrong in the engine and needs the simulated disk to be shown, each under its symptom.

use crate::disk::{SimDisk, SimOptions};
use ackring::engine::{Engine, EngineConfig, EnqueueReply, RequestId};
use ackring::{EnqueueBatch, EnqueueBuilder, JobId, JobOptions};
use std::path::PathBuf;

const NOW_MS: u64 = 1_700_000_000_000;

fn open(disk: &SimDisk) -> Engine {
    let config = EngineConfig {
        directory: Some(PathBuf::from("/simulated")),
        disk: disk.handle(),
        slots: 64,
        segment_bytes: 64 * 1024,
        log_bytes_max: 6 * 64 * 1024,
        memory_bytes_max: 6 * 64 * 1024,
        ..EngineConfig::default()
    };
    Engine::open(config, NOW_MS).unwrap().0
}

fn push(engine: &Engine) -> u64 {
    enqueue(engine, b"", b"job", RequestId::NONE).0
}

/// The id, and whether the job is called a duplicate.
fn enqueue(engine: &Engine, key: &[u8], payload: &[u8], request: RequestId) -> (u64, bool) {
    let queue = engine.open_queue("q", NOW_MS).unwrap();
    let mut builder = EnqueueBuilder::new();
    let options = JobOptions {
        key,
        ..JobOptions::default()
    };
    builder.push(payload, &options);
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = EnqueueBatch::parse(1, &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    engine
        .enqueue(queue, &batch, None, request, NOW_MS, &mut reply)
        .unwrap();
    (reply.ids[0], !reply.items.is_empty())
}

#[test]
fn the_id_of_a_job_that_a_power_cut_took_is_not_given_to_another() {
    let disk = SimDisk::new(1, SimOptions::default());
    let mut given = Vec::new();
    // The first start, one behind it, and one behind a start that gave out nothing.
    for gives in [true, true, false, true] {
        let engine = open(&disk);
        if gives {
            given.push(push(&engine));
        }
        disk.stop();
        drop(engine);
        disk.crash_power_losing_all();
    }
    let mut ids = given.clone();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), given.len(), "{given:x?}");
}

/// The record of a repeated job had reached the disk and that of the first had not; the request was remembered, and
/// sent again it was told *duplicate* of a job that was gone, on the disk.
#[test]
fn a_request_was_a_duplicate_of_a_job_that_a_power_cut_had_taken() {
    let disk = SimDisk::new(1, SimOptions::default());
    let engine = open(&disk);
    enqueue(&engine, b"", b"one before", RequestId::NONE);
    engine.sync().unwrap();
    let payload = [7; 4_000];
    let (first, _) = enqueue(&engine, b"key", &payload, RequestId::NONE);
    let from_first = disk.unsynced();
    let request = RequestId {
        session: 9,
        number: 1,
    };
    assert_eq!(enqueue(&engine, b"key", &payload, request), (first, true));
    // The kernel writes back what came last, and a little less of the first.
    let is_of_first = |name: &str, sector| {
        let mut places = from_first.iter();
        places.any(|place| place.name == name && place.sector == sector)
    };
    disk.write_back(|name, sector| !is_of_first(name, sector));
    let last = from_first.iter().max_by_key(|place| place.sector).unwrap();
    disk.write_back(|name, sector| (name, sector) == (&last.name, last.sector));
    disk.stop();
    drop(engine);
    disk.crash_power_losing_all();
    let engine = open(&disk);
    let (id, is_repeated) = enqueue(&engine, b"key", &payload, request);
    assert!(!is_repeated && id != first && engine.job(JobId(id)).is_ok());
}
