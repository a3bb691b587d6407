//! Draws operations, carries them out on the engine, and holds what comes back against the model.

use super::power::History;
use super::reference::{Job, KeyUse, Model, QueueModel, Settled};
use super::source::Rng;
use crate::disk::{SimDisk, SimOptions};
use crate::world::{Collect, START_MS};
use ackring::engine::{Engine, EngineConfig, EnqueueReply, QueueId, RequestId};
use ackring::log::disk::Disk;
use ackring::{
    Backoff, Durability, EnqueueBatch, EnqueueBuilder, ErrorCode, ItemError, JobId, JobOptions, JobState,
    JobStatus, QueueOptions, Refusal, SettleBatch, SettleBuilder, Token, Verb,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A job to be enqueued, as drawn.
#[derive(Clone)]
struct Draft {
    payload: Vec<u8>,
    meta: Vec<u8>,
    key: Vec<u8>,
    priority: u8,
    delay_ms: u64,
    ttl_ms: u64,
    max_attempts: u16,
    lease_ms: u32,
}

#[derive(Clone)]
struct Settling {
    token: Token,
    verb: Verb,
    arg: Option<u64>,
    note: Option<Vec<u8>>,
}

impl std::fmt::Debug for Settling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let note = self.note.as_ref().map(Vec::len);
        let token = self.token;
        write!(
            f,
            "{:?} {}/{} {:?} {note:?}",
            self.verb, token.id, token.attempt, self.arg
        )
    }
}

impl std::fmt::Debug for Draft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "draft of {}", self.payload.len())
    }
}

/// A numbered request with what was answered, to be sent again.
#[derive(Debug, Clone)]
enum Call {
    Enqueue(usize, Vec<Draft>, Option<Durability>),
    Settle(Vec<Settling>),
    Step(Vec<Settling>, Vec<(usize, Vec<Draft>)>),
    Reserve(Vec<usize>, usize),
    Cancel(Vec<JobId>),
}

#[derive(Debug, Clone)]
pub(super) struct Sent {
    request: RequestId,
    call: Call,
    ids: Vec<u64>,
    items: Vec<ItemError>,
    tokens: Vec<Token>,
    /// Something of it is in the durable log, so a restart knows it.
    pub(super) logged: bool,
    /// After how many entries of the history.
    pub(super) op: u64,
}

pub struct Driver {
    pub(super) rng: Rng,
    pub(super) engine: Option<Engine>,
    pub(super) config: EngineConfig,
    _directory: Option<tempfile::TempDir>,
    /// In place of the directory: a disk that loses what was not synced.
    pub(super) disk: Option<SimDisk>,
    pub(super) history: History,
    pub(super) syncs_failed: u64,
    pub(super) now_ms: u64,
    pub(super) model: Model,
    pub(super) tokens: Vec<Token>,
    pub(super) sent: Vec<Sent>,
    pub(super) number: u64,
    pub(super) drafts: u64,
    pub(super) trail: Vec<String>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.trail.iter().rev().take(40).rev() {
                eprintln!("  {line}");
            }
        }
    }
}

const SESSION: u128 = 0xfeed_0000_0000_0000_0000_0000_0000_0001;

impl Driver {
    /// Over files of the system.
    #[allow(dead_code, reason = "a simulation brings its own disk")]
    pub fn new(rng: Rng) -> Self {
        Self::over(rng, None, None)
    }

    /// As [`new`](Self::new), on another disk than the file system; crashes are kills.
    #[allow(dead_code, reason = "one caller has one, another has none")]
    pub fn on(rng: Rng, disk: Option<Arc<dyn Disk>>) -> Self {
        Self::over(rng, disk, None)
    }

    /// On a disk whose power is cut, too.
    #[allow(dead_code, reason = "only where a seed decides")]
    pub fn on_disk(seed: u64) -> Self {
        let options = SimOptions {
            writeback_one_in: [0, 20, 60][(seed % 3) as usize],
            ..SimOptions::default()
        };
        let disk = SimDisk::new(seed, options);
        Self::over(Rng::from_seed(seed), disk.handle(), Some(disk))
    }

    fn over(mut rng: Rng, handle: Option<Arc<dyn Disk>>, disk: Option<SimDisk>) -> Self {
        let temporary = handle.is_none().then(|| tempfile::tempdir().unwrap());
        let directory = temporary
            .as_ref()
            .map_or("log".into(), |made| made.path().to_owned());
        let config = EngineConfig {
            directory: Some(directory),
            disk: handle,
            slots: rng.pick(&[96, 200, 600]),
            segment_bytes: 64 * 1024,
            log_bytes_max: rng.pick(&[12, 16, 40]) * 64 * 1024,
            memory_bytes_max: rng.pick(&[12, 16, 40]) * 64 * 1024,
            ..EngineConfig::default()
        };
        let mut driver = Self {
            rng,
            engine: None,
            config,
            _directory: temporary,
            disk,
            history: History::default(),
            syncs_failed: 0,
            now_ms: START_MS,
            model: Model::default(),
            tokens: Vec::new(),
            sent: Vec::new(),
            number: 0,
            drafts: 0,
            trail: Vec::new(),
        };
        driver.open();
        for n in 0..4 {
            let options = driver.draw_options();
            driver.create(format!("q{n}"), options);
        }
        driver.make_certain();
        driver
    }

    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(super) fn open(&mut self) {
        let (engine, summary) = Engine::open(self.config.clone(), self.now_ms).unwrap();
        assert_eq!(summary.salvaged, Vec::<String>::new());
        self.engine = Some(engine);
    }

    pub(super) fn note(&mut self, line: String) {
        self.trail.push(format!("{} {line}", self.now_ms - START_MS));
    }

    pub(super) fn id(&self, queue: usize) -> QueueId {
        self.engine().find_queue(&self.model.queues[queue].name).unwrap()
    }

    fn draw_options(&mut self) -> QueueOptions {
        let last_level = self.last_level();
        let rng = &mut self.rng;
        QueueOptions {
            durability: rng.pick(&[Durability::Memory, Durability::Written, last_level]),
            lease_ms: rng.pick(&[200, 1_000]),
            max_attempts: rng.pick(&[1, 2, 5]),
            backoff: Backoff::List(rng.pick(&[vec![0], vec![0, 100], vec![50, 500]])),
            capacity_jobs: rng.pick(&[20, 60, 1_000]),
            capacity_bytes: rng.pick(&[5_000, 1_000_000]),
            dedupe_window_ms: rng.pick(&[0, 500, 60_000]),
            keep_finished: rng.pick(&[0, 3, 20]),
            ..QueueOptions::default()
        }
    }

    fn create(&mut self, name: String, options: QueueOptions) {
        self.engine()
            .create_queue(&name, &options, RequestId::NONE, self.now_ms)
            .unwrap();
        self.model.queues.push(QueueModel {
            name,
            options,
            paused: false,
            keys: BTreeMap::new(),
            first_out: BTreeMap::new(),
            first_out_delayed: BTreeMap::new(),
        });
    }

    /// Queues that are not deleted; a deleted one keeps its place and has no name.
    pub(super) fn queues(&self) -> Vec<usize> {
        let named = |queue: &usize| !self.model.queues[*queue].name.is_empty();
        (0..self.model.queues.len()).filter(named).collect()
    }

    fn draw_request(&mut self) -> RequestId {
        if self.rng.one_in(3) {
            return RequestId::NONE;
        }
        self.number += 1;
        RequestId {
            session: SESSION,
            number: self.number,
        }
    }

    /// Whether the bytes that decide are used up.
    #[allow(dead_code, reason = "only where bytes decide")]
    pub fn is_used_up(&self) -> bool {
        self.rng.is_used_up()
    }

    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..=29 => self.enqueue(),
            30..=49 => self.reserve(),
            50..=68 => self.settle(),
            69..=72 => self.step_atomic(),
            73..=75 => self.cancel(),
            76..=77 => self.redrive(),
            78 => self.purge(),
            79..=80 => self.pause(),
            81 => self.delete(),
            82..=83 => self.shorten(),
            84..=87 => self.resend(),
            88..=92 => self.pass(),
            93..=96 => self.tidy(),
            97..=98 => self.crash(),
            99 if self.disk.is_some() => self.trouble(),
            _ => self.look(),
        }
        self.take_down();
        if self.rng.one_in(4) {
            self.engine().log_step(self.now_ms, 8);
        }
        if self.rng.one_in(5) {
            self.check();
        }
    }

    /// The level that promises most: `synced` means something on a disk that forgets.
    fn last_level(&self) -> Durability {
        if self.disk.is_some() {
            Durability::Synced
        } else {
            Durability::Written
        }
    }

    // ---- enqueue -------------------------------------------------------------------------------------------

    fn draft(&mut self) -> Draft {
        self.drafts += 1;
        let size = match self.rng.below(20) {
            0 => self.rng.below(8_000),
            _ => self.rng.below(120),
        } as usize;
        let mut payload = self.drafts.to_le_bytes().to_vec();
        payload.resize(8 + size, self.drafts as u8);
        let rng = &mut self.rng;
        let mut draft = Draft {
            payload,
            meta: vec![7; rng.pick(&[0, 0, 3, 16])],
            key: Vec::new(),
            priority: rng.pick(&[0, 0, 0, 3, 7]),
            delay_ms: if rng.one_in(5) {
                10 * (1 + rng.below(200))
            } else {
                0
            },
            ttl_ms: if rng.one_in(6) {
                10 * (1 + rng.below(300))
            } else {
                0
            },
            max_attempts: rng.pick(&[0, 0, 1, 3]),
            lease_ms: rng.pick(&[0, 0, 150, 700]),
        };
        if rng.one_in(4) {
            draft.key = vec![b'a' + rng.below(6) as u8];
            if rng.one_in(2) {
                // The same body again and again, so that keys find it.
                draft.payload = b"the same".to_vec();
                draft.meta = Vec::new();
            }
        }
        draft
    }

    fn drafts(&mut self) -> Vec<Draft> {
        let count = match self.rng.below(10) {
            0..=4 => 1,
            5..=8 => 1 + self.rng.below(6),
            _ => 1 + self.rng.below(40),
        };
        (0..count).map(|_| self.draft()).collect()
    }

    fn encode(drafts: &[Draft]) -> Vec<u8> {
        let mut builder = EnqueueBuilder::new();
        for draft in drafts {
            let options = JobOptions {
                priority: draft.priority,
                delay_ms: draft.delay_ms,
                due_ms: 0,
                ttl_ms: draft.ttl_ms,
                lease_ms: draft.lease_ms,
                max_attempts: draft.max_attempts,
                key: &draft.key,
                meta: &draft.meta,
            };
            builder.push(&draft.payload, &options);
        }
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        bytes
    }

    fn send_enqueue(
        &self,
        queue: QueueId,
        drafts: &[Draft],
        level: Option<Durability>,
        request: RequestId,
    ) -> Result<(EnqueueReply, Durability), Refusal> {
        let bytes = Self::encode(drafts);
        let batch = EnqueueBatch::parse(drafts.len(), &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        let confirmed = self
            .engine()
            .enqueue(queue, &batch, level, request, self.now_ms, &mut reply)?;
        Ok((reply, confirmed.level))
    }

    fn enqueue(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let drafts = self.drafts();
        let level = self.rng.pick(&[
            None,
            None,
            None,
            Some(Durability::Memory),
            Some(self.last_level()),
        ]);
        let request = self.draw_request();
        let asked = level.unwrap_or(self.model.queues[queue].options.durability);
        let answer = self.send_enqueue(self.id(queue), &drafts, level, request);
        self.note(format!(
            "enqueue {} into {queue} {asked} {} {:?}",
            drafts.len(),
            request.number,
            answer
                .as_ref()
                .map(|(reply, _)| reply.ids.iter().map(|id| JobId(*id)).collect::<Vec<_>>())
        ));
        match answer {
            Ok((reply, reached)) => {
                let volatile = asked == Durability::Memory;
                let repeats_volatile = self.accept(queue, &drafts, &reply.ids, &reply.items, 0, volatile);
                let expected = if repeats_volatile {
                    Durability::Memory
                } else {
                    asked
                };
                assert_eq!(reached, expected, "what is confirmed");
                if reached == Durability::Synced {
                    // As the server does before it says so.
                    self.engine().sync().unwrap();
                }
                self.remember(Sent {
                    request,
                    call: Call::Enqueue(queue, drafts, level),
                    ids: reply.ids,
                    items: reply.items,
                    tokens: Vec::new(),
                    logged: !volatile,
                    op: self.history.op + 1,
                });
            }
            Err(refusal) => self.judge_refusal(&refusal, queue, &drafts),
        }
    }

    fn judge_refusal(&self, refusal: &Refusal, queue: usize, drafts: &[Draft]) {
        let options = &self.model.queues[queue].options;
        let jobs = self.model.live(queue).count() + drafts.len();
        let bytes: u64 = self.model.live(queue).map(Job::bytes).sum::<u64>()
            + drafts
                .iter()
                .map(|draft| (draft.payload.len() + draft.meta.len()) as u64)
                .sum::<u64>();
        match refusal.code {
            ErrorCode::QueueFull => assert!(
                jobs as u64 > options.capacity_jobs || bytes > options.capacity_bytes,
                "refused as full with {jobs} jobs and {bytes} bytes: {refusal}"
            ),
            ErrorCode::SlabFull | ErrorCode::LogFull => {}
            _ => panic!("{refusal}"),
        }
    }

    /// Takes over what an enqueue answered. Says whether an entry repeats a job that is not logged.
    fn accept(
        &mut self,
        queue: usize,
        drafts: &[Draft],
        ids: &[u64],
        items: &[ItemError],
        from: usize,
        volatile: bool,
    ) -> bool {
        assert_eq!(ids.len(), drafts.len());
        let mut repeats_volatile = false;
        for (position, (draft, id)) in drafts.iter().zip(ids).enumerate() {
            let code = items
                .iter()
                .find(|item| item.position as usize == from + position)
                .map(|item| item.code);
            let body = (draft.payload.clone(), draft.meta.clone());
            let known = self.model.queues[queue]
                .keys
                .get(&draft.key)
                .filter(|known| !draft.key.is_empty() && known.expires_ms > self.now_ms)
                // After a power cut a key that was not synced may be there or not.
                .filter(|known| !known.is_uncertain || code.is_some())
                .cloned();
            match known {
                Some(known) if known.body == body => {
                    self.model.key_is_there(queue, &draft.key);
                    assert_eq!((code, *id), (Some(ErrorCode::Duplicate), known.id.0));
                    repeats_volatile |= known.volatile;
                    continue;
                }
                Some(_) => {
                    self.model.key_is_there(queue, &draft.key);
                    assert_eq!((code, *id), (Some(ErrorCode::KeyConflict), 0));
                    continue;
                }
                None => assert_eq!(code, None, "{}", JobId(*id)),
            }
            let options = &self.model.queues[queue].options;
            let id = JobId(*id);
            let job = Job {
                id,
                queue,
                priority: draft.priority,
                payload: draft.payload.clone(),
                meta: draft.meta.clone(),
                state: if draft.delay_ms > 0 {
                    JobState::Scheduled
                } else {
                    JobState::Ready
                },
                attempt: 0,
                limit: if draft.max_attempts == 0 {
                    options.max_attempts
                } else {
                    draft.max_attempts
                },
                releases: 0,
                failures: 0,
                expiries: 0,
                expires_ms: if draft.ttl_ms == 0 {
                    0
                } else {
                    self.now_ms + draft.ttl_ms
                },
                at_ms: self.now_ms + draft.delay_ms,
                logged_at_ms: 0,
                lease_ms: draft.lease_ms,
                volatile,
                delayed: draft.delay_ms > 0,
                order: 0,
                last_error: None,
                result: None,
            };
            if !draft.key.is_empty() {
                let known = KeyUse {
                    id,
                    body,
                    expires_ms: self.now_ms + options.dedupe_window_ms,
                    volatile,
                    op: self.history.op + 1,
                    is_uncertain: false,
                };
                self.model.queues[queue].keys.insert(draft.key.clone(), known);
            }
            self.model.accept(job);
        }
        let options = &self.model.queues[queue].options;
        assert!(self.model.live(queue).count() as u64 <= options.capacity_jobs);
        assert!(self.model.live(queue).map(Job::bytes).sum::<u64>() <= options.capacity_bytes);
        repeats_volatile
    }

    // ---- reserve -------------------------------------------------------------------------------------------

    fn reserve(&mut self) {
        let all = self.queues();
        let mut queues = vec![self.rng.pick(&all)];
        if self.rng.one_in(4) {
            let second = self.rng.pick(&all);
            if second != queues[0] {
                queues.push(second);
            }
        }
        let max = self.rng.pick(&[1, 1, 3, 10, 100]);
        let asked_lease_ms = self.rng.pick(&[0, 0, 0, 400]);
        let request = self.draw_request();
        let late = self.rng.one_in(8);
        if late {
            // The clock is ahead of the timers.
            self.now_ms += 10 * self.rng.below(60);
        }
        let mut sink = Collect::new();
        if self.rng.one_in(4) {
            sink.bytes_left = 50 + self.rng.below(500) as usize;
        }
        let room = sink.bytes_left;
        let ids: Vec<QueueId> = queues.iter().map(|queue| self.id(*queue)).collect();
        let answer = self
            .engine()
            .reserve(&ids, max, asked_lease_ms, request, self.now_ms, &mut sink);
        let tokens: Vec<Token> = sink.jobs.iter().map(|job| job.token).collect();
        self.note(format!(
            "reserve {max} of {queues:?} late {late} {} {answer:?} {tokens:?}",
            request.number
        ));
        if let Err(refusal) = answer {
            assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
            assert_eq!(tokens, []);
            if late {
                // What it found past its TTL it has ended, although it hands nothing out.
                self.run_timers();
            }
            return;
        }
        let mut logged = false;
        let mut bytes = 0;
        let places: Vec<(usize, u8)> = tokens
            .iter()
            .map(|token| {
                let job = &self.model.jobs[&token.id];
                let place = queues.iter().position(|queue| *queue == job.queue).unwrap();
                (place, 7 - job.priority)
            })
            .collect();
        assert!(places.is_sorted(), "queues and levels in order: {places:?}");
        for job in &sink.jobs {
            self.model
                .deliver(job.token, job.lease_ms, asked_lease_ms, self.now_ms);
            let known = &self.model.jobs[&job.token.id];
            assert_eq!((&job.payload, &job.meta), (&known.payload, &known.meta));
            assert_eq!(job.attempts, known.attempt - known.releases);
            bytes += known.bytes() as usize;
            logged |= !known.volatile;
        }
        assert!(tokens.len() <= max && (bytes <= room || tokens.len() == 1));
        // Nothing was passed over.
        let now_ms = self.now_ms;
        let left = |queue: usize| {
            let paused = self.model.queues[queue].paused;
            let ready = move |job: &&Job| {
                !paused && job.state == JobState::Ready && (job.expires_ms == 0 || job.expires_ms > now_ms)
            };
            self.model.live(queue).filter(ready)
        };
        let last = places.last().copied().unwrap_or((0, 0));
        for (place, queue) in queues.iter().enumerate() {
            for job in left(*queue) {
                let is_full = tokens.len() == max || bytes + 8_200 > room;
                assert!(is_full, "{} is ready and was not handed out", job.id);
                assert!((place, 7 - job.priority) >= last, "{} was passed over", job.id);
            }
        }
        self.tokens.extend(&tokens);
        self.remember(Sent {
            request,
            call: Call::Reserve(queues, max),
            ids: Vec::new(),
            items: Vec::new(),
            tokens,
            logged,
            op: self.history.op + 1,
        });
        if late {
            self.run_timers();
        }
    }

    // ---- settle --------------------------------------------------------------------------------------------

    fn draw_settling(&mut self) -> Option<Settling> {
        let current: Vec<Token> = self
            .model
            .jobs
            .values()
            .filter(|job| job.state == JobState::Leased)
            .map(|job| Token {
                id: job.id,
                attempt: job.attempt,
            })
            .collect();
        let token = if self.rng.one_in(8) && !self.tokens.is_empty() {
            // Any that there ever was.
            let tokens = std::mem::take(&mut self.tokens);
            let token = self.rng.pick(&tokens);
            self.tokens = tokens;
            token
        } else if current.is_empty() {
            return None;
        } else {
            self.rng.pick(&current)
        };
        let verb = self.rng.pick(&[
            Verb::Ack,
            Verb::Ack,
            Verb::Ack,
            Verb::Ack,
            Verb::Nack,
            Verb::Nack,
            Verb::Reject,
            Verb::Release,
            Verb::Extend,
        ]);
        let rng = &mut self.rng;
        Some(Settling {
            token,
            verb,
            arg: match verb {
                Verb::Nack => rng.pick(&[None, None, Some(0), Some(70)]),
                Verb::Extend => rng.pick(&[Some(0), Some(100), Some(2_000)]),
                _ => None,
            },
            note: match verb {
                Verb::Ack | Verb::Nack | Verb::Reject if rng.one_in(3) => {
                    let len = rng.pick(&[1, 9, 30, 700]);
                    Some(vec![b'n'; len])
                }
                _ => None,
            },
        })
    }

    fn encode_settlings(settlings: &[Settling]) -> Vec<u8> {
        let mut builder = SettleBuilder::new();
        for settling in settlings {
            let (token, note) = (settling.token, settling.note.as_deref());
            match settling.verb {
                Verb::Ack => builder.ack(token, note),
                Verb::Nack => builder.nack(token, settling.arg.map(|arg| arg as u32), note),
                Verb::Reject => builder.reject(token, note),
                Verb::Release => builder.release(token),
                Verb::Extend => builder.extend(token, settling.arg.unwrap_or(0) as u32),
            }
        }
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        bytes
    }

    fn send_settle(&self, settlings: &[Settling], request: RequestId) -> Result<Vec<ItemError>, Refusal> {
        let bytes = Self::encode_settlings(settlings);
        let batch = SettleBatch::parse(settlings.len(), &bytes).unwrap();
        let mut items = Vec::new();
        self.engine()
            .settle(&batch, request, self.now_ms, &mut items)
            .map(|_| items)
    }

    /// What must come of each, by the model; nothing is changed.
    fn expect(&self, settlings: &[Settling]) -> Vec<Settled> {
        let mut held = BTreeMap::new();
        settlings
            .iter()
            .map(|settling| {
                let is_known = self.engine().job(settling.token.id).is_ok();
                let settled = self.model.judge(settling.token, settling.verb, &held, is_known);
                if settled == Settled::Done {
                    held.insert(settling.token.id, settling.verb);
                }
                settled
            })
            .collect()
    }

    fn carry_out(&mut self, settlings: &[Settling], expected: &[Settled]) -> bool {
        let mut logged = false;
        for (settling, settled) in settlings.iter().zip(expected) {
            if *settled == Settled::Done {
                logged |= !self.model.jobs[&settling.token.id].volatile;
                self.model.settle(
                    settling.token,
                    settling.verb,
                    settling.arg,
                    settling.note.as_deref(),
                    self.now_ms,
                );
            }
        }
        logged
    }

    fn settle(&mut self) {
        let count = self.rng.pick(&[1, 1, 2, 5, 20]);
        let settlings: Vec<Settling> = (0..count).filter_map(|_| self.draw_settling()).collect();
        if settlings.is_empty() {
            return;
        }
        let request = self.draw_request();
        let expected = self.expect(&settlings);
        let answer = self.send_settle(&settlings, request);
        self.note(format!("settle {} {settlings:?} {answer:?}", request.number));
        match answer {
            Ok(items) => {
                assert_eq!(items, items_of(&expected));
                let logged = self.carry_out(&settlings, &expected);
                if expected.contains(&Settled::Done) {
                    self.remember(Sent {
                        request,
                        call: Call::Settle(settlings),
                        ids: Vec::new(),
                        items,
                        tokens: Vec::new(),
                        logged,
                        op: self.history.op + 1,
                    });
                }
            }
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}"),
        }
    }

    fn send_step(
        &self,
        settlings: &[Settling],
        groups: &[(usize, Vec<Draft>)],
        request: RequestId,
    ) -> (Result<(), Refusal>, EnqueueReply) {
        let settle_bytes = Self::encode_settlings(settlings);
        let batch =
            (!settlings.is_empty()).then(|| SettleBatch::parse(settlings.len(), &settle_bytes).unwrap());
        let encoded: Vec<Vec<u8>> = groups.iter().map(|(_, drafts)| Self::encode(drafts)).collect();
        let parsed: Vec<(QueueId, EnqueueBatch<'_>)> = groups
            .iter()
            .zip(&encoded)
            .map(|((queue, drafts), bytes)| {
                (self.id(*queue), EnqueueBatch::parse(drafts.len(), bytes).unwrap())
            })
            .collect();
        let mut reply = EnqueueReply::default();
        let answer = self
            .engine()
            .step_atomic(batch.as_ref(), &parsed, request, self.now_ms, &mut reply);
        (answer.map(|_| ()), reply)
    }

    fn step_atomic(&mut self) {
        let count = self.rng.below(4);
        let settlings: Vec<Settling> = (0..count).filter_map(|_| self.draw_settling()).collect();
        let all = self.queues();
        let groups: Vec<(usize, Vec<Draft>)> = (0..self.rng.below(3))
            .map(|_| {
                (
                    self.rng.pick(&all),
                    (0..1 + self.rng.below(3)).map(|_| self.draft()).collect(),
                )
            })
            .collect();
        if settlings.is_empty() && groups.is_empty() {
            return;
        }
        let request = self.draw_request();
        let expected = self.expect(&settlings);
        let (answer, reply) = self.send_step(&settlings, &groups, request);
        self.note(format!(
            "step {} {settlings:?} groups {:?} {answer:?} {:?}",
            request.number,
            groups
                .iter()
                .map(|(queue, drafts)| (*queue, drafts.len()))
                .collect::<Vec<_>>(),
            reply.ids.iter().map(|id| JobId(*id)).collect::<Vec<_>>(),
        ));
        let refused = items_of(&expected);
        match answer {
            Ok(()) => {
                assert_eq!(refused, [], "a step went through although a settlement could not");
                let mut from = 0;
                for (queue, drafts) in &groups {
                    let volatile = self.model.queues[*queue].options.durability == Durability::Memory;
                    let ids = &reply.ids[from..from + drafts.len()];
                    self.accept(*queue, drafts, ids, &reply.items, from, volatile);
                    from += drafts.len();
                }
                assert_eq!(from, reply.ids.len());
                self.carry_out(&settlings, &expected);
                self.remember(Sent {
                    request,
                    call: Call::Step(settlings, groups),
                    ids: reply.ids,
                    items: reply.items,
                    tokens: Vec::new(),
                    logged: true,
                    op: self.history.op + 1,
                });
            }
            Err(refusal) if refusal.code == ErrorCode::StepRefused => {
                assert_eq!(reply.items, refused[..1]);
                assert!(reply.ids.is_empty());
            }
            Err(refusal) => {
                assert!(
                    [ErrorCode::LogFull, ErrorCode::QueueFull, ErrorCode::SlabFull].contains(&refusal.code),
                    "{refusal}"
                );
            }
        }
        self.check();
    }

    // ---- the others ----------------------------------------------------------------------------------------

    fn cancel(&mut self) {
        let known: Vec<JobId> = self.model.jobs.keys().copied().collect();
        if known.is_empty() {
            return;
        }
        let ids: Vec<JobId> = (0..self.rng.pick(&[1, 2, 5]))
            .map(|_| self.rng.pick(&known))
            .collect();
        let request = self.draw_request();
        let mut cancelled = BTreeSet::new();
        let mut expected = Vec::new();
        for (position, id) in ids.iter().enumerate() {
            let job = &self.model.jobs[id];
            let code = if job.is_live() {
                (!cancelled.insert(*id)).then_some(ErrorCode::AlreadySettled)
            } else if self.engine().job(*id).is_err() {
                Some(ErrorCode::JobNotFound)
            } else if job.state == JobState::Cancelled {
                Some(ErrorCode::AlreadySettled)
            } else {
                Some(ErrorCode::WrongState)
            };
            expected.extend(code.map(|code| ItemError {
                position: position as u32,
                code,
            }));
        }
        let mut items = Vec::new();
        let answer = self.engine().cancel(&ids, request, self.now_ms, &mut items);
        self.note(format!("cancel {} {ids:?} {answer:?} {items:?}", request.number));
        if let Err(refusal) = answer {
            return assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
        }
        assert_eq!(items, expected);
        let mut logged = false;
        for id in &cancelled {
            let job = self.model.jobs.get_mut(id).unwrap();
            job.state = JobState::Cancelled;
            logged |= !job.volatile;
        }
        if !cancelled.is_empty() {
            self.remember(Sent {
                request,
                call: Call::Cancel(ids),
                ids: Vec::new(),
                items,
                tokens: Vec::new(),
                logged,
                op: self.history.op + 1,
            });
        }
    }

    fn redrive(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let dead: Vec<JobId> = self
            .model
            .live(queue)
            .filter(|job| job.state == JobState::Dead)
            .map(|job| job.id)
            .collect();
        let some: Option<Vec<JobId>> = self
            .rng
            .one_in(2)
            .then(|| dead.iter().copied().filter(|_| self.rng.one_in(2)).collect());
        let limit = 1 + self.rng.below(5) as usize;
        let mut items = Vec::new();
        let answer = self.engine().redrive(
            self.id(queue),
            some.as_deref(),
            limit,
            RequestId::NONE,
            self.now_ms,
            &mut items,
        );
        self.note(format!("redrive {queue} {some:?} limit {limit} {answer:?}"));
        let Ok((count, _)) = answer else {
            return assert_eq!(answer.unwrap_err().code, ErrorCode::LogFull);
        };
        let brought: Vec<JobId> = match some {
            Some(ids) => ids,
            None => {
                let back = |id: &JobId| self.engine().job(*id).unwrap().state != JobState::Dead;
                dead.iter().copied().filter(back).collect()
            }
        };
        assert_eq!(items, []);
        assert_eq!(count, brought.len());
        brought.into_iter().for_each(|id| self.model.redrive(id));
    }

    fn purge(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let states: Vec<JobState> = JobState::ALL.into_iter().filter(|_| self.rng.one_in(3)).collect();
        let forgotten = self.finished_in(queue, &states);
        let answer = self
            .engine()
            .purge(self.id(queue), &states, RequestId::NONE, self.now_ms);
        self.note(format!("purge {queue} {states:?} {answer:?}"));
        let Ok((count, _)) = answer else {
            return assert_eq!(answer.unwrap_err().code, ErrorCode::LogFull);
        };
        let mut expected = forgotten;
        for job in self
            .model
            .jobs
            .values_mut()
            .filter(|job| job.queue == queue && job.is_live())
        {
            if states.contains(&job.state) {
                job.state = JobState::Cancelled;
                expected += 1;
            }
        }
        assert_eq!(count, expected, "what a purge says it purged");
        assert_eq!(self.finished_in(queue, &states), 0);
    }

    /// Finished jobs of a queue that are still kept and in one of the states.
    fn finished_in(&self, queue: usize, states: &[JobState]) -> u64 {
        let finished = states.iter().filter(|state| state.is_finished());
        let count_in = |state: &JobState| {
            let (mut count, mut cursor) = (0, 0);
            loop {
                let page = self
                    .engine()
                    .list_jobs(self.id(queue), Some(*state), cursor, 1_000)
                    .unwrap();
                count += page.jobs.len() as u64;
                if page.next_cursor == 0 {
                    return count;
                }
                cursor = page.next_cursor;
            }
        };
        finished.map(count_in).sum()
    }

    fn pause(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let paused = !self.model.queues[queue].paused;
        let id = self.id(queue);
        let answer = if paused {
            self.engine().pause(id, RequestId::NONE, self.now_ms)
        } else {
            self.engine().resume(id, RequestId::NONE, self.now_ms)
        };
        self.note(format!("pause {queue} {paused} {answer:?}"));
        match answer {
            Ok(_) => self.model.queues[queue].paused = paused,
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}"),
        }
    }

    fn delete(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let answer = self.engine().delete(self.id(queue), RequestId::NONE, self.now_ms);
        self.note(format!("delete {queue} {answer:?}"));
        if let Err(refusal) = answer {
            return assert_eq!(refusal.code, ErrorCode::LogFull, "{refusal}");
        }
        let name = std::mem::take(&mut self.model.queues[queue].name);
        let gone: Vec<JobId> = self
            .model
            .jobs
            .values()
            .filter(|job| job.queue == queue)
            .map(|job| job.id)
            .collect();
        for id in gone {
            self.model.jobs.remove(&id);
            assert_eq!(self.engine().job(id).unwrap_err().code, ErrorCode::JobNotFound);
        }
        assert_eq!(
            self.engine().find_queue(&name).unwrap_err().code,
            ErrorCode::QueueNotFound
        );
        // Whether the deletion is there after a power cut is not what is asked here.
        self.engine().sync().unwrap();
        let options = self.draw_options();
        for _ in 0..50 {
            let made = self
                .engine()
                .create_queue(&name, &options, RequestId::NONE, self.now_ms);
            match made {
                Ok(_) => break,
                // A full log: the agent makes room.
                Err(_) => self.tidy(),
            }
        }
        self.create(name, options);
        self.engine().sync().unwrap();
    }

    fn shorten(&mut self) {
        let until_ms = self.now_ms + 50;
        let mut tokens = Vec::new();
        for job in self.model.jobs.values_mut() {
            if job.state == JobState::Leased && self.rng.one_in(3) {
                let token = Token {
                    id: job.id,
                    attempt: job.attempt,
                };
                tokens.push((token, job.at_ms));
                job.at_ms = job.at_ms.min(until_ms);
            }
        }
        self.engine().shorten_leases(tokens.iter().copied(), until_ms);
        self.note(format!("shorten {tokens:?}"));
    }

    fn remember(&mut self, sent: Sent) {
        if sent.request.is_numbered() {
            self.sent.push(sent);
            if self.sent.len() > 200 {
                self.sent.remove(0);
            }
        }
    }

    /// A numbered request comes again: same answer, and nothing changes.
    fn resend(&mut self) {
        if self.sent.is_empty() {
            return;
        }
        let index = self.rng.below(self.sent.len() as u64) as usize;
        let sent = self.sent[index].clone();
        self.note(format!("resend {} {:?}", sent.request.number, sent.call));
        let is_gone = |queue: &usize| self.model.queues[*queue].name.is_empty();
        let (refusal, ids, items) = match &sent.call {
            Call::Enqueue(queue, ..) if is_gone(queue) => return,
            Call::Step(_, groups) if groups.iter().any(|(queue, _)| is_gone(queue)) => return,
            Call::Reserve(queues, _) if queues.iter().any(is_gone) => return,
            Call::Enqueue(queue, drafts, level) => {
                match self.send_enqueue(self.id(*queue), drafts, *level, sent.request) {
                    Ok((reply, _)) => (None, reply.ids, reply.items),
                    Err(refusal) => (Some(refusal), Vec::new(), Vec::new()),
                }
            }
            Call::Settle(settlings) => match self.send_settle(settlings, sent.request) {
                Ok(items) => (None, Vec::new(), items),
                Err(refusal) => (Some(refusal), Vec::new(), Vec::new()),
            },
            Call::Step(settlings, groups) => {
                let (answer, reply) = self.send_step(settlings, groups, sent.request);
                (answer.err(), reply.ids, reply.items)
            }
            Call::Cancel(ids) => {
                let mut items = Vec::new();
                let answer = self.engine().cancel(ids, sent.request, self.now_ms, &mut items);
                (answer.err(), Vec::new(), items)
            }
            Call::Reserve(queues, max) => {
                if sent.tokens.is_empty() {
                    return;
                }
                return self.resend_reserve(&sent, queues, *max);
            }
        };
        match refusal {
            None => assert_eq!((ids, items), (sent.ids, sent.items), "the same answer"),
            Some(refusal) => assert_eq!(refusal.code, ErrorCode::AlreadyApplied, "{refusal}"),
        }
        self.check();
    }

    fn resend_reserve(&mut self, sent: &Sent, queues: &[usize], max: usize) {
        let ids: Vec<QueueId> = queues.iter().map(|queue| self.id(*queue)).collect();
        let mut sink = Collect::new();
        let answer = self
            .engine()
            .reserve(&ids, max, 0, sent.request, self.now_ms, &mut sink);
        match answer {
            Ok(_) => {
                let current = |token: &&Token| {
                    self.model.jobs.get(&token.id).is_some_and(|job| {
                        job.state == JobState::Leased
                            && job.attempt == token.attempt
                            && job.at_ms > self.now_ms
                    })
                };
                let expected: Vec<Token> = sent.tokens.iter().filter(current).copied().collect();
                let found: Vec<Token> = sink.jobs.iter().map(|job| job.token).collect();
                assert_eq!(found, expected, "a reserve answered again");
            }
            Err(refusal) => assert_eq!(refusal.code, ErrorCode::AlreadyApplied, "{refusal}"),
        }
        self.check();
    }

    pub(super) fn run_timers(&mut self) {
        self.take_down();
        self.run_due();
        self.take_down();
    }

    fn run_due(&mut self) {
        for round in 0..200 {
            while self.engine().timer_step(self.now_ms, 64) > 0 {}
            let overdue = self.model.jobs.values().any(|job| {
                let status = self.engine().job(job.id);
                status.is_ok_and(|status| {
                    status.state == JobState::Leased && status.at_ms <= self.now_ms
                        || matches!(status.state, JobState::Ready | JobState::Scheduled)
                            && status.expires_ms != 0
                            && status.expires_ms <= self.now_ms
                })
            });
            if !overdue {
                break;
            }
            // The log was full when a lease or TTL ended: it is tried again a little later.
            assert!(round < 199, "the timers do not come to rest");
            self.engine().sync().unwrap();
            self.engine().log_step(self.now_ms, 64);
            self.model.timers(self.now_ms);
            self.now_ms += 10;
        }
        self.model.timers(self.now_ms);
        // What was found dead or due earlier than the last round counts as the engine saw it.
        self.adopt_times();
    }

    /// Due times of retried jobs where a full log made the engine late.
    fn adopt_times(&mut self) {
        let engine = self.engine.as_ref().unwrap();
        for job in self
            .model
            .jobs
            .values_mut()
            .filter(|job| job.state == JobState::Scheduled && job.attempt > 0)
        {
            if let Ok(status) = engine.job(job.id)
                && status.state == JobState::Scheduled
            {
                assert!(status.at_ms >= job.at_ms, "{} is due too early", job.id);
                job.at_ms = status.at_ms;
            }
        }
    }

    fn pass(&mut self) {
        self.now_ms += 10 * self.rng.pick(&[1, 2, 7, 30, 90, 400]);
        self.note("pass".into());
        self.run_timers();
    }

    fn tidy(&mut self) {
        self.note("tidy".into());
        for _ in 0..1 + self.rng.below(20) {
            self.now_ms += 110;
            self.run_timers();
            if self.rng.one_in(3) {
                self.engine().sync().unwrap();
            }
            self.engine().log_step(self.now_ms, 16);
        }
    }

    fn crash(&mut self) {
        if self.disk.is_some() {
            return self.crash_on_disk();
        }
        self.note("crash".into());
        self.engine = None;
        if self.rng.one_in(3) {
            self.now_ms += 10 * self.rng.below(100);
        }
        self.open();
        self.survive();
        // Leases and TTLs that ran out meanwhile end with the first ticks.
        self.now_ms += 20;
        self.run_timers();
        self.check();
    }

    /// The model after an end of the process that lost nothing.
    pub(super) fn survive(&mut self) {
        let engine = self.engine.as_ref().unwrap();
        let time_of = |id| engine.job(id).ok().map(|status| status.at_ms);
        self.model.crash(self.now_ms, time_of);
        self.sent.retain(|sent| sent.logged);
    }

    fn look(&mut self) {
        let queue = {
            let queues = self.queues();
            self.rng.pick(&queues)
        };
        let peeked = self.engine().peek(self.id(queue), 50).unwrap();
        let ready = self.model.count(queue, JobState::Ready);
        assert_eq!(peeked.len() as u64, ready.min(50));
        for status in &peeked {
            assert_eq!(status.payload, self.model.jobs[&status.id].payload);
        }
    }

    pub(super) fn list(&self, queue: usize) -> Vec<JobStatus> {
        let (mut cursor, mut all) = (0, Vec::new());
        loop {
            let page = self
                .engine()
                .list_jobs(self.id(queue), None, cursor, 1_000)
                .unwrap();
            all.extend(page.jobs);
            if page.next_cursor == 0 {
                return all;
            }
            cursor = page.next_cursor;
        }
    }

    /// Everything that the engine says against everything that the model knows.
    pub fn check(&mut self) {
        for queue in self.queues() {
            let listed = self.list(queue);
            let mut kept = 0;
            let mut live = BTreeSet::new();
            for status in &listed {
                let job = self
                    .model
                    .jobs
                    .get(&status.id)
                    .unwrap_or_else(|| panic!("{} is listed and should be gone", status.id));
                assert_eq!(status.state, job.state, "state of {}", job.id);
                if status.state.is_finished() {
                    kept += 1;
                } else {
                    live.insert(status.id);
                    assert_eq!(status.meta, job.meta, "metadata of {}", job.id);
                    assert_eq!(
                        status.max_attempts,
                        job.limit - job.releases,
                        "limit of {}",
                        job.id
                    );
                    if matches!(status.state, JobState::Leased | JobState::Scheduled) {
                        assert_eq!(status.at_ms, job.at_ms, "time of {}", job.id);
                    }
                }
                assert_eq!(status.deliveries, job.attempt, "attempt of {}", job.id);
                assert_eq!(status.failures, job.failures, "failures of {}", job.id);
                assert_eq!(status.expiries, job.expiries, "expiries of {}", job.id);
                assert_eq!(status.priority, job.priority);
                assert_eq!(status.expires_ms, job.expires_ms, "TTL of {}", job.id);
                assert_eq!(status.last_error, job.last_error, "error of {}", job.id);
                assert_eq!(status.result, job.result, "result of {}", job.id);
            }
            for job in self.model.live(queue) {
                assert!(live.contains(&job.id), "{} is lost: {job:?}", job.id);
            }
            let stats = self.engine().queue_stats(self.id(queue)).unwrap();
            let model = &self.model;
            assert_eq!(stats.paused, model.queues[queue].paused);
            assert_eq!(stats.options, model.queues[queue].options);
            let counts = stats.counts;
            let states = [
                JobState::Ready,
                JobState::Scheduled,
                JobState::Leased,
                JobState::Dead,
            ];
            assert_eq!(
                [counts.ready, counts.scheduled, counts.leased, counts.dead],
                states.map(|state| model.count(queue, state)),
                "counts of queue {queue}: {counts:?}"
            );
            assert_eq!(counts.bytes, model.live(queue).map(Job::bytes).sum::<u64>());
            assert_eq!(counts.kept, kept, "finished jobs kept");
            assert!(kept <= u64::from(model.queues[queue].options.keep_finished));
        }
    }

    /// Works everything off; then nothing may be left of it anywhere.
    pub fn finish(&mut self) {
        self.check();
        if self.rng.one_in(2) {
            self.crash();
        }
        for queue in self.queues() {
            if self.model.queues[queue].paused {
                self.tidy();
                self.pause();
            }
        }
        for queue in self.queues() {
            let id = self.id(queue);
            for _ in 0..50 {
                if self
                    .engine()
                    .purge(id, &JobState::ALL, RequestId::NONE, self.now_ms)
                    .is_ok()
                {
                    break;
                }
                self.tidy();
            }
            for job in self
                .model
                .jobs
                .values_mut()
                .filter(|job| job.queue == queue && job.is_live())
            {
                job.state = JobState::Cancelled;
            }
        }
        self.check();
        for _ in 0..400 {
            self.now_ms += 1_010;
            self.engine().timer_step(self.now_ms, 1_000);
            self.engine().log_step(self.now_ms, 64);
        }
        let (durable, volatile) = self.engine().segments_in_use();
        assert!(
            durable <= 4 && volatile <= 2,
            "segments leaked: {durable} and {volatile}"
        );
        let all = self
            .engine()
            .create_queue("all", &QueueOptions::default(), RequestId::NONE, self.now_ms)
            .unwrap()
            .0;
        let draft = Draft {
            payload: vec![1],
            meta: Vec::new(),
            key: Vec::new(),
            priority: 0,
            delay_ms: 0,
            ttl_ms: 0,
            max_attempts: 0,
            lease_ms: 0,
        };
        let slots = vec![draft; self.config.slots as usize];
        for some in slots.chunks(50) {
            self.send_enqueue(all, some, None, RequestId::NONE)
                .unwrap_or_else(|refusal| panic!("some of {} slots leaked: {refusal}", slots.len()));
        }
    }
}

fn items_of(settled: &[Settled]) -> Vec<ItemError> {
    settled
        .iter()
        .enumerate()
        .filter_map(|(position, settled)| {
            let code = match settled {
                Settled::Done => return None,
                Settled::Before => ErrorCode::AlreadySettled,
                Settled::LeaseLost => ErrorCode::LeaseLost,
                Settled::JobNotFound => ErrorCode::JobNotFound,
            };
            Some(ItemError {
                position: position as u32,
                code,
            })
        })
        .collect()
}
