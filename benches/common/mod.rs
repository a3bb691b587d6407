//! What benchmarks of the engine share: batches of jobs, and a worker that works in place.

use ackring::engine::{Confirmed, DeliveryHead, DeliverySink, Engine, QueueId, RequestId};
use ackring::{Durability, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder, Token};
use std::hint::black_box;

/// Counts payload bytes and keeps the tokens, as a worker that works in place.
#[derive(Default)]
pub struct Worker {
    tokens: Vec<Token>,
    sum: u64,
    settles: SettleBuilder,
    bytes: Vec<u8>,
    items: Vec<ackring::ItemError>,
}

impl DeliverySink for Worker {
    fn room(&self) -> (usize, usize) {
        (usize::MAX, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        self.sum += u64::from(black_box(body)[0]);
        self.tokens.push(head.token);
    }
}

impl Worker {
    /// Reserves up to `batch` jobs and acks them, to the level of their queue; says how many.
    pub fn work(&mut self, engine: &Engine, queue: QueueId, batch: usize, now_ms: u64) -> usize {
        self.tokens.clear();
        engine
            .reserve(&[queue], batch, 0, RequestId::NONE, now_ms, self)
            .unwrap();
        if self.tokens.is_empty() {
            return 0;
        }
        self.settles.clear();
        self.tokens
            .iter()
            .for_each(|token| self.settles.ack(*token, None));
        self.bytes.clear();
        self.settles.write_to(&mut self.bytes);
        let settles = SettleBatch::parse(self.tokens.len(), &self.bytes).unwrap();
        let confirmed = engine
            .settle(&settles, RequestId::NONE, now_ms, &mut self.items)
            .unwrap();
        wait_for(engine, confirmed);
        assert!(self.items.is_empty());
        self.tokens.len()
    }
}

/// Waits for what a confirmation promises, as an embedded engine does.
pub fn wait_for(engine: &Engine, confirmed: Confirmed) {
    if let (Durability::Synced, Some(position)) = (confirmed.level, confirmed.position) {
        engine.sync_to(position).unwrap();
    }
}

/// That many jobs with payloads of that many bytes, as the engine takes them.
pub fn batch_of(jobs: usize, payload: usize, options: impl Fn(usize) -> JobOptions<'static>) -> Vec<u8> {
    let mut builder = EnqueueBuilder::new();
    (0..jobs).for_each(|number| builder.push(&vec![1; payload], &options(number)));
    let mut bytes = Vec::new();
    builder.write_to(&mut bytes);
    bytes
}
