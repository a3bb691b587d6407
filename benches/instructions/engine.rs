//! Lives of jobs in an engine on one thread, its agents included.

use crate::common::{Worker, batch_of};
use ackring::engine::{Engine, EngineConfig, EnqueueReply, QueueId, RequestId};
use ackring::{Durability, EnqueueBatch, JobOptions, QueueOptions};

/// A time that stands for all: 2026-01-01.
const BEGIN_MS: u64 = 1_767_225_600_000;
/// The log is so small that its segments go round while instructions are counted.
const SEGMENT_BYTES: u32 = 1 << 20;

/// Rounds between two steps of the agents, which have threads of their own elsewhere.
pub const AGENTS_EVERY: u64 = 16;

/// What kind of jobs and requests.
pub struct Kind {
    level: Durability,
    is_numbered: bool,
    is_keyed: bool,
}

pub const MEMORY: Kind = Kind {
    level: Durability::Memory,
    is_numbered: false,
    is_keyed: false,
};
pub const WRITTEN: Kind = Kind {
    level: Durability::Written,
    ..MEMORY
};
pub const NUMBERED: Kind = Kind {
    is_numbered: true,
    ..WRITTEN
};
pub const KEYED: Kind = Kind {
    is_keyed: true,
    ..WRITTEN
};

/// A small engine over a log in `directory`, or without one.
pub fn config(directory: Option<&std::path::Path>) -> EngineConfig {
    EngineConfig {
        directory: directory.map(std::path::Path::to_owned),
        slots: 1 << 16,
        segment_bytes: SEGMENT_BYTES,
        log_bytes_max: 64 << 20,
        memory_bytes_max: 64 << 20,
        ..EngineConfig::default()
    }
}

impl Kind {
    /// Enqueues, reserves and acks a batch of 64-byte jobs, again and again.
    pub fn life(&self, batch: usize, rounds: u64) {
        let directory = tempfile::tempdir().unwrap();
        let is_logged = self.level != Durability::Memory;
        let (engine, _) = Engine::open(config(is_logged.then_some(directory.path())), BEGIN_MS).unwrap();
        let options = QueueOptions {
            durability: self.level,
            ..QueueOptions::default()
        };
        let (queue, _) = engine
            .create_queue("bench", &options, RequestId::NONE, BEGIN_MS)
            .unwrap();
        let mut jobs = batch_of(batch, 64, |_| JobOptions {
            key: if self.is_keyed { b"12345678" } else { b"" },
            ..JobOptions::default()
        });
        let (mut reply, mut worker) = (EnqueueReply::default(), Worker::default());
        for round in 1..=rounds {
            let now_ms = BEGIN_MS + round / 8;
            if self.is_keyed {
                number_keys(&mut jobs, batch, round);
            }
            let request = RequestId {
                session: u128::from(self.is_numbered),
                number: if self.is_numbered { round } else { 0 },
            };
            enqueue(&engine, queue, batch, &jobs, request, now_ms, &mut reply);
            assert_eq!(worker.work(&engine, queue, batch, now_ms), batch);
            if round % AGENTS_EVERY == 0 {
                engine.timer_step(now_ms, 10_000);
                engine.log_step(now_ms, 16);
            }
        }
    }
}

fn enqueue(
    engine: &Engine,
    queue: QueueId,
    batch: usize,
    jobs: &[u8],
    request: RequestId,
    now_ms: u64,
    reply: &mut EnqueueReply,
) {
    let jobs = EnqueueBatch::parse(batch, jobs).unwrap();
    engine
        .enqueue(queue, &jobs, None, request, now_ms, reply)
        .unwrap();
}

/// Writes another key into each job: bodies are the payload of 64 bytes and the key of 8.
fn number_keys(jobs: &mut [u8], batch: usize, round: u64) {
    let bodies = &mut jobs[batch * ackring::EnqueueEntry::LEN..];
    for (number, body) in bodies.chunks_exact_mut(72).enumerate() {
        body[64..].copy_from_slice(&(round << 16 | number as u64).to_le_bytes());
    }
}
