//! An engine in a temporary directory, a clock, and short words for what tests do.

use ackring::engine::{DeliveryHead, DeliverySink, Engine, EngineConfig, EnqueueReply, QueueId, RequestId};
use ackring::{
    EnqueueBatch, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState, JobStatus, QueueOptions,
    Refusal, SettleBatch, SettleBuilder, Token,
};
use std::path::PathBuf;

pub const START_MS: u64 = 1_700_000_000_000;

/// A delivery as a worker has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub token: Token,
    pub payload: Vec<u8>,
    pub meta: Vec<u8>,
    pub attempts: u16,
    pub lease_ms: u32,
}

/// Collects deliveries, up to so many bytes.
pub struct Collect {
    pub jobs: Vec<Delivered>,
    pub bytes_left: usize,
}

impl Collect {
    pub fn new() -> Self {
        Self {
            jobs: Vec::new(),
            bytes_left: usize::MAX,
        }
    }
}

impl DeliverySink for Collect {
    fn room(&self) -> (usize, usize) {
        (self.bytes_left, usize::MAX)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        self.bytes_left = self.bytes_left.saturating_sub(body.len());
        let (meta, payload) = body.split_at(usize::from(head.meta_len));
        assert_eq!(payload.len(), head.payload_len as usize);
        self.jobs.push(Delivered {
            token: head.token,
            payload: payload.to_vec(),
            meta: meta.to_vec(),
            attempts: head.attempts,
            lease_ms: head.lease_ms,
        });
    }
}

pub struct World {
    engine: Option<Engine>,
    /// Removed with the world.
    _directory: Option<tempfile::TempDir>,
    pub config: EngineConfig,
    pub now_ms: u64,
    pub restarts: u32,
}

impl World {
    /// An engine over a directory.
    pub fn logged() -> Self {
        Self::with(|_| {})
    }

    /// An engine in memory.
    pub fn in_memory() -> Self {
        Self::small_in_memory(small(None).slots)
    }

    /// An engine in memory with so many slots.
    pub fn small_in_memory(slots: u32) -> Self {
        let mut world = Self {
            engine: None,
            _directory: None,
            config: EngineConfig { slots, ..small(None) },
            now_ms: START_MS,
            restarts: 0,
        };
        world.open();
        world
    }

    pub fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = small(Some(directory.path().to_owned()));
        change(&mut config);
        let mut world = Self {
            engine: None,
            _directory: Some(directory),
            config,
            now_ms: START_MS,
            restarts: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let (engine, _) = Engine::open(self.config.clone(), self.now_ms).unwrap();
        self.engine = Some(engine);
    }

    /// What `kill -9` leaves: the mapped files as they are, nothing closed, nothing synced.
    pub fn crash(&mut self) -> &mut Self {
        self.crash_with(|| ())
    }

    /// The end of the process, and what happens to its disk before the next one starts.
    pub fn crash_with(&mut self, what_happens: impl FnOnce()) -> &mut Self {
        self.engine = None;
        what_happens();
        self.restarts += 1;
        self.open();
        self
    }

    /// The end of the process, after which something is done to the files.
    pub fn end(&mut self, damage: impl FnOnce(&std::path::Path)) {
        self.engine = None;
        damage(self.config.directory.as_ref().unwrap());
    }

    /// The start after [`end`](Self::end).
    pub fn begin(&mut self) {
        self.restarts += 1;
        self.open();
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    /// Lets time pass and the timers run.
    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        while self.engine().timer_step(self.now_ms, 1_000) > 0 {}
    }

    /// Runs the log agent until it has nothing to do.
    pub fn tidy_log(&mut self) {
        for _ in 0..1_000 {
            self.now_ms += 101;
            self.engine().sync().unwrap();
            if self.engine().log_step(self.now_ms, 64) == 0 {
                return;
            }
        }
        panic!("the log agent does not come to rest");
    }

    pub fn queue(&self, name: &str) -> QueueId {
        self.engine().open_queue(name, self.now_ms).unwrap()
    }

    pub fn create(&self, name: &str, options: QueueOptions) -> QueueId {
        self.engine()
            .create_queue(name, &options, RequestId::NONE, self.now_ms)
            .unwrap()
            .0
    }

    pub fn try_push(
        &self,
        queue: QueueId,
        jobs: &[(&[u8], JobOptions<'_>)],
    ) -> Result<EnqueueReply, Refusal> {
        self.push_as(queue, jobs, RequestId::NONE)
    }

    pub fn push_as(
        &self,
        queue: QueueId,
        jobs: &[(&[u8], JobOptions<'_>)],
        request: RequestId,
    ) -> Result<EnqueueReply, Refusal> {
        let mut builder = EnqueueBuilder::new();
        jobs.iter()
            .for_each(|(payload, options)| builder.push(payload, options));
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(builder.count(), &bytes)?;
        let mut reply = EnqueueReply::default();
        self.engine()
            .enqueue(queue, &batch, None, request, self.now_ms, &mut reply)?;
        Ok(reply)
    }

    pub fn push(&self, queue: QueueId, payload: &[u8]) -> JobId {
        self.push_with(queue, payload, JobOptions::default())
    }

    pub fn push_with(&self, queue: QueueId, payload: &[u8], options: JobOptions<'_>) -> JobId {
        JobId(self.try_push(queue, &[(payload, options)]).unwrap().ids[0])
    }

    pub fn reserve(&self, queue: QueueId, max: usize) -> Vec<Delivered> {
        let mut sink = Collect::new();
        self.engine()
            .reserve(&[queue], max, 0, RequestId::NONE, self.now_ms, &mut sink)
            .unwrap();
        sink.jobs
    }

    pub fn reserve_one(&self, queue: QueueId) -> Delivered {
        let mut jobs = self.reserve(queue, 1);
        assert_eq!(jobs.len(), 1, "nothing to reserve");
        jobs.remove(0)
    }

    pub fn settle(&self, build: impl FnOnce(&mut SettleBuilder)) -> Vec<ItemError> {
        self.settle_as(RequestId::NONE, build).unwrap()
    }

    pub fn settle_as(
        &self,
        request: RequestId,
        build: impl FnOnce(&mut SettleBuilder),
    ) -> Result<Vec<ItemError>, Refusal> {
        let mut builder = SettleBuilder::new();
        build(&mut builder);
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = SettleBatch::parse(builder.count(), &bytes)?;
        let mut items = Vec::new();
        self.engine().settle(&batch, request, self.now_ms, &mut items)?;
        Ok(items)
    }

    pub fn ack(&self, token: Token) -> Option<ErrorCode> {
        self.settle(|batch| batch.ack(token, None))
            .first()
            .map(|item| item.code)
    }

    pub fn job(&self, id: JobId) -> JobStatus {
        self.engine().job(id).unwrap()
    }

    pub fn state(&self, id: JobId) -> JobState {
        self.job(id).state
    }

    /// Payloads in the order in which they are handed out, acked as they come.
    pub fn drain(&self, queue: QueueId) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        loop {
            let jobs = self.reserve(queue, 7);
            if jobs.is_empty() {
                return payloads;
            }
            for job in jobs {
                payloads.push(job.payload);
                assert_eq!(self.ack(job.token), None);
            }
        }
    }
}

fn small(directory: Option<PathBuf>) -> EngineConfig {
    EngineConfig {
        directory,
        slots: 4_096,
        segment_bytes: 64 * 1024,
        log_bytes_max: 64 * 64 * 1024,
        memory_bytes_max: 64 * 64 * 1024,
        ..EngineConfig::default()
    }
}
