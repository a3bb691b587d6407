//! Power cuts: what the model knows of the past, and what of it may come back.
//!
//! Each job's faces are taken down whenever they change. After a power cut a job must show the last face that was on the
//! disk, or one of those after it: records that were not synced may be there or not, each on its own. What comes back
//! becomes the model.

use super::driver::Driver;
use super::reference::Job;
use ackring::engine::RequestId;
use ackring::log::LogPosition;
use ackring::{ErrorCode, JobId, JobState, JobStatus, QueueOptions};
use std::collections::{BTreeMap, BTreeSet};

/// What of a job a power cut may set back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Face {
    state: JobState,
    attempt: u16,
    limit: u16,
    releases: u16,
    failures: u16,
    expiries: u16,
    expires_ms: u64,
    at_ms: u64,
    /// A deadline that was made shorter is not logged, but a copy of the job tells it.
    shortened_ms: u64,
    last_error: Option<Vec<u8>>,
    result: Option<Vec<u8>>,
}

impl Face {
    fn of(job: &Job) -> Self {
        Self {
            state: job.state,
            attempt: job.attempt,
            limit: job.limit,
            releases: job.releases,
            failures: job.failures,
            expiries: job.expiries,
            expires_ms: job.expires_ms,
            at_ms: if job.state == JobState::Leased {
                job.logged_at_ms
            } else {
                job.at_ms
            },
            shortened_ms: job.at_ms,
            last_error: job.last_error.clone(),
            result: job.result.clone(),
        }
    }

    /// As an engine that starts at `now_ms` shows it.
    fn at(&self, now_ms: u64) -> Self {
        let mut face = self.clone();
        if face.state == JobState::Scheduled && face.at_ms <= now_ms {
            face.state = JobState::Ready;
        }
        face
    }

    fn is_shown_by(&self, status: &JobStatus) -> bool {
        let has_time = matches!(self.state, JobState::Leased | JobState::Scheduled);
        let is_over = self.state.is_finished();
        self.state == status.state
            && self.attempt == status.deliveries
            && self.failures == status.failures
            && self.expiries == status.expiries
            && self.expires_ms == status.expires_ms
            && self.last_error == status.last_error
            && self.result == status.result
            && (is_over || self.limit.checked_sub(self.releases) == Some(status.max_attempts))
            && (is_over || self.attempt.checked_sub(self.releases) == Some(status.attempts))
            && (!has_time || [self.at_ms, self.shortened_ms].contains(&status.at_ms))
    }

    /// This face with the counters of an earlier one: a hand-out is logged without them, and the record that
    /// raised them may be lost.
    fn counted_as(&self, earlier: &Self) -> Self {
        Self {
            limit: earlier.limit,
            releases: earlier.releases,
            failures: earlier.failures,
            expiries: earlier.expiries,
            expires_ms: earlier.expires_ms,
            last_error: earlier.last_error.clone(),
            ..self.clone()
        }
    }

    fn put_on(&self, job: &mut Job) {
        job.state = self.state;
        job.attempt = self.attempt;
        job.limit = self.limit;
        job.releases = self.releases;
        job.failures = self.failures;
        job.expiries = self.expiries;
        job.expires_ms = self.expires_ms;
        job.at_ms = self.at_ms;
        job.logged_at_ms = self.at_ms;
        job.last_error.clone_from(&self.last_error);
        job.result.clone_from(&self.result);
    }
}

/// What was, and since when.
#[derive(Debug, Default)]
pub struct History {
    /// Entries taken down so far.
    pub op: u64,
    /// Everything up to there is on the disk.
    durable_op: u64,
    /// Where the log ended at each entry since.
    ends: Vec<(u64, LogPosition)>,
    faces: BTreeMap<JobId, Vec<(u64, Face)>>,
    /// The jobs as they last were, for those that are forgotten by the model.
    jobs: BTreeMap<JobId, Job>,
    paused: BTreeMap<usize, Vec<(u64, bool)>>,
}

/// Leaves of a list what may still be: the last one that is durable, and all after it. Says whether there was
/// nothing at the durable point.
fn possible<T>(entries: &[(u64, T)], durable_op: u64) -> (&[(u64, T)], bool) {
    let durable = entries.iter().rposition(|(op, _)| *op <= durable_op);
    (&entries[durable.unwrap_or(0)..], durable.is_none())
}

impl Driver {
    /// Takes down what changed.
    pub fn take_down(&mut self) {
        if self.disk.is_none() {
            return;
        }
        let (durable, end) = (self.engine().durable(), self.engine().log_end());
        let history = &mut self.history;
        history.op += 1;
        history.ends.push((history.op, end));
        for job in self.model.jobs.values().filter(|job| !job.volatile) {
            let faces = history.faces.entry(job.id).or_default();
            let face = Face::of(job);
            if faces.last().is_none_or(|(_, last)| *last != face) {
                faces.push((history.op, face));
                history.jobs.insert(job.id, job.clone());
            }
        }
        for (index, queue) in self.model.queues.iter().enumerate() {
            let paused = history.paused.entry(index).or_default();
            if paused.last().is_none_or(|(_, last)| *last != queue.paused) {
                paused.push((history.op, queue.paused));
            }
        }
        self.history.learn_durable(durable);
    }

    /// Everything is on the disk as the model has it.
    pub fn make_certain(&mut self) {
        if self.disk.is_none() {
            return;
        }
        self.engine().sync().unwrap();
        self.history = History {
            op: self.history.op,
            ..History::default()
        };
        self.take_down();
    }

    /// A disk that does not do what it is told.
    pub fn trouble(&mut self) {
        let disk = self.disk.clone().unwrap();
        match self.rng.below(3) {
            0 => {
                disk.fail_sync_in(self.rng.below(2));
                let synced = self.engine().sync();
                self.note(format!("sync that may fail: {synced:?}"));
                if synced.is_ok() {
                    disk.fail_no_sync();
                    return;
                }
                self.check_poisoned();
            }
            1 => {
                disk.die_in(1 + self.rng.below(25));
                self.note("the machine stops at a call".into());
                for _ in 0..30 {
                    self.engine().log_step(self.now_ms, 4);
                    let _ = self.engine().sync();
                    if disk.is_off() {
                        break;
                    }
                    self.now_ms += 1_100;
                }
            }
            _ => {
                disk.die_in(1);
                let synced = self.engine().sync();
                self.note(format!("the machine stops at a sync: {synced:?}"));
            }
        }
        self.crash_on_disk();
    }

    /// Nothing is confirmed after a sync that failed.
    fn check_poisoned(&mut self) {
        assert!(self.engine().poisoned().is_some());
        assert!(self.engine().sync().is_err(), "a later sync worked");
        let made = self
            .engine()
            .create_queue("late", &QueueOptions::default(), RequestId::NONE, self.now_ms);
        let code = made.unwrap_err().code;
        assert!(code != ErrorCode::LogFull, "{code:?}");
    }

    /// The process ends or the power fails; the engine comes back, perhaps after dying on the way.
    pub fn crash_on_disk(&mut self) {
        let disk = self.disk.clone().unwrap();
        let failed = disk.counters().syncs_failed;
        disk.stop();
        let durable = self.engine().durable();
        self.history.learn_durable(durable);
        self.engine = None;
        let mut loses = failed > self.syncs_failed;
        self.syncs_failed = failed;
        loop {
            if self.rng.one_in(2) {
                disk.crash_kill();
            } else {
                disk.crash_power();
                loses = true;
            }
            if self.rng.one_in(3) {
                self.now_ms += 10 * self.rng.below(100);
            }
            if !self.rng.one_in(3) {
                break;
            }
            disk.die_in(1 + self.rng.below(60));
            let opened = ackring::engine::Engine::open(self.config.clone(), self.now_ms);
            disk.stop();
            drop(opened);
        }
        self.note(format!(
            "crash, loses {loses}, durable op {}",
            self.history.durable_op
        ));
        self.open();
        if loses {
            self.adopt();
        } else {
            self.survive();
        }
        self.make_certain();
        self.now_ms += 20;
        self.run_timers();
        self.check();
    }

    /// Holds what came back against what may, and goes on with it.
    fn adopt(&mut self) {
        let durable_op = self.history.durable_op;
        let mut there = BTreeSet::new();
        for queue in self.queues() {
            let paused = self.engine().queue_stats(self.id(queue)).unwrap().paused;
            let (may_be, _) = possible(&self.history.paused[&queue], durable_op);
            assert!(
                may_be.iter().any(|(_, known)| *known == paused),
                "paused {paused}: {may_be:?}"
            );
            let queue_model = &mut self.model.queues[queue];
            queue_model.paused = paused;
            queue_model.first_out.clear();
            queue_model.first_out_delayed.clear();
            for status in self.list(queue) {
                there.insert(status.id);
                self.adopt_job(&status, queue, durable_op);
            }
        }
        let mut over = BTreeSet::new();
        for (id, faces) in &self.history.faces {
            if there.contains(id) || self.model.queues[self.history.jobs[id].queue].name.is_empty() {
                continue;
            }
            let (may_be, may_be_new) = possible(faces, durable_op);
            let finished = may_be.iter().rfind(|(_, face)| face.state.is_finished());
            assert!(
                may_be_new || finished.is_some(),
                "{id} is lost; durable op {durable_op}: {may_be:?}"
            );
            // Not kept any more, but what the log tells of it may be read again by a later start.
            if let Some((_, face)) = finished {
                let mut job = self.history.jobs[id].clone();
                face.put_on(&mut job);
                self.model.jobs.insert(*id, job);
                over.insert(*id);
            }
        }
        let stays = |id: &JobId| there.contains(id) || over.contains(id);
        self.model.jobs.retain(|id, job| stays(id) && !job.volatile);
        for queue in &mut self.model.queues {
            queue.keys.retain(|_, known| !known.volatile);
            for known in queue.keys.values_mut() {
                known.is_uncertain |= known.op > durable_op && !there.contains(&known.id);
            }
        }
        self.sent.retain(|sent| sent.logged && sent.op <= durable_op);
    }

    fn adopt_job(&mut self, status: &JobStatus, queue: usize, durable_op: u64) {
        let Some(faces) = self.history.faces.get(&status.id) else {
            panic!("{} was never there: {status:?}", status.id);
        };
        let now_ms = self.now_ms;
        let (may_be, _) = possible(faces, durable_op);
        let shown = (0..may_be.len()).rev().flat_map(|now| {
            let face = may_be[now].1.at(now_ms);
            let counted = (0..=now).rev().map(|then| face.counted_as(&may_be[then].1));
            // An error text stands only in the record that brought it.
            let told = (0..=now).any(|then| may_be[then].1.last_error == status.last_error);
            let with_text = counted.map(|face| Face {
                last_error: if told {
                    status.last_error.clone()
                } else {
                    face.last_error.clone()
                },
                ..face
            });
            with_text.collect::<Vec<_>>()
        });
        let mut shown = shown.flat_map(|face| {
            // A retry and the end of its TTL may fall together, as two records.
            let before = Face {
                state: status.state,
                at_ms: status.at_ms,
                ..face.clone()
            };
            let is_waiting = matches!(status.state, JobState::Ready | JobState::Scheduled);
            let may_wait = face.state == JobState::Expired && is_waiting;
            [Some(face), may_wait.then_some(before)].into_iter().flatten()
        });
        let Some(face) = shown.find(|face| face.is_shown_by(status)) else {
            panic!(
                "{} shows {status:?}; durable op {durable_op}, may be {may_be:#?}",
                status.id
            );
        };
        drop(shown);
        let mut job = self.history.jobs[&status.id].clone();
        assert_eq!(job.queue, queue);
        if !status.state.is_finished() {
            assert_eq!(status.meta, job.meta);
        }
        face.put_on(&mut job);
        if job.state == JobState::Leased {
            (job.at_ms, job.logged_at_ms) = (status.at_ms, status.at_ms);
        }
        self.model.jobs.insert(job.id, job);
    }
}

impl History {
    fn learn_durable(&mut self, durable: LogPosition) {
        let known = self.ends.iter().filter(|(_, end)| *end <= durable);
        self.durable_op = known.map(|(op, _)| *op).max().unwrap_or(0).max(self.durable_op);
        let durable_op = self.durable_op;
        self.ends.retain(|(op, _)| *op > durable_op);
    }
}
