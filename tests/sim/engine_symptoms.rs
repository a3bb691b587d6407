//! What the simulation found wrong in the engine and needs the simulated disk to be shown, each under its symptom.

use crate::disk::{SimDisk, SimOptions};
use ackring::engine::{Engine, EngineConfig, EnqueueReply, RequestId};
use ackring::{EnqueueBatch, EnqueueBuilder, JobOptions};
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
    let queue = engine.open_queue("q", NOW_MS).unwrap();
    let mut builder = EnqueueBuilder::new();
    builder.push(b"job", &JobOptions::default());
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    let batch = EnqueueBatch::parse(1, &bytes).unwrap();
    let mut reply = EnqueueReply::default();
    engine
        .enqueue(queue, &batch, None, RequestId::NONE, NOW_MS, &mut reply)
        .unwrap();
    reply.ids[0]
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
