//! Draws operations, carries them out on the engine, and holds what comes back against the model.

#[path = "driver/again.rs"]
mod again;
#[path = "driver/enqueue.rs"]
mod enqueue;
#[path = "driver/hurry.rs"]
mod hurry;
#[path = "driver/manage.rs"]
mod manage;
#[path = "driver/reserve.rs"]
mod reserve;
#[path = "driver/settle.rs"]
mod settle;

use super::power::History;
use super::reference::{Job, Model, QueueModel};
use super::source::Rng;
use crate::disk::{SimDisk, SimOptions};
use crate::world::START_MS;
use ackring::engine::{Engine, EngineConfig, QueueId, RequestId};
use ackring::log::disk::Disk;
use ackring::{Backoff, Durability, JobState, JobStatus, QueueOptions, Token};
use again::Sent;
use enqueue::Draft;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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
        self.end_hurry();
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
            91..=92 if self.disk.is_some() => self.hurry(),
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
        self.end_hurry();
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
