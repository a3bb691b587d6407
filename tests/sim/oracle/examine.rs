//! At rest, and after every start: everything that must be there is, nothing else, and it is counted right.

use super::{Loss, Oracle, Safe, Verdict, broken, stamp_of};
use ackring::engine::Engine;
use ackring::{Durability, JobState, JobStatus, QueueCounts, Verb};
use std::collections::{BTreeMap, BTreeSet};

impl Oracle {
    /// The server is gone, or the machine. Connections end with it.
    pub fn ended(&mut self, loss: Loss) {
        self.tick();
        let worse = match (self.loss, loss) {
            (Some(Loss::Power), _) | (_, Loss::Power) => Loss::Power,
            (Some(Loss::Kill), _) | (_, Loss::Kill) => Loss::Kill,
            _ => Loss::Orderly,
        };
        self.loss = Some(worse);
        self.power_cuts += u64::from(loss == Loss::Power);
        if loss == Loss::Orderly {
            self.synced_before = self.event;
        }
    }

    /// The server is there (again), and nobody has asked it anything yet.
    pub fn started(&mut self, engine: &Engine, now_ms: u64) {
        self.now_ms = now_ms;
        self.tick();
        let listed = self.examine(engine);
        self.check_steps(&listed);
        self.keys_after_crash();
        self.settle_requests();
        self.after_start(&listed);
        self.boots += 1;
        self.boot_event = self.tick();
        // What was read back is synced before anything is served.
        self.synced_before = self.event;
        self.forget_order();
        self.counts.restarts += u64::from(self.boots > 1);
        self.loss = None;
    }

    /// Looks at everything in the engine. Requests may be on their way, but no call is.
    pub fn at_rest(&mut self, engine: &Engine) {
        self.tick();
        if !engine.is_tally_right() {
            broken!(
                "tally",
                "queues that moved were missed by who sums up over all queues"
            );
        }
        self.examine(engine);
    }

    fn examine(&mut self, engine: &Engine) -> BTreeMap<u64, JobStatus> {
        let mut listed = BTreeMap::new();
        for stats in engine.queue_list("", 1_000) {
            let Some(queue) = self.queues.iter().position(|queue| queue.name == stats.name) else {
                broken!("unexpected-queue", "there is a queue {}", stats.name);
            };
            let jobs = list(engine, &stats.name);
            self.check_counts(queue, &stats.counts, &jobs);
            for status in jobs {
                self.counts.listed += 1;
                self.check_listed(queue, &status);
                self.trace.note(format!(
                    "listed {} in {queue}: {}, {} deliveries",
                    status.id, status.state, status.deliveries
                ));
                listed.insert(status.id.0, status);
            }
        }
        let missing: Vec<u64> = self
            .jobs
            .keys()
            .filter(|id| !listed.contains_key(id))
            .copied()
            .collect();
        for id in missing {
            self.check_missing(id);
        }
        listed
    }

    /// The numbers of a queue are those of what is there.
    fn check_counts(&self, queue: usize, counts: &QueueCounts, jobs: &[JobStatus]) {
        let of = |state: JobState| jobs.iter().filter(|job| job.state == state).count() as u64;
        let finished = jobs.iter().filter(|job| job.state.is_finished()).count() as u64;
        let bytes = jobs
            .iter()
            .filter(|job| !job.state.is_finished())
            .map(|job| u64::from(job.payload_bytes) + job.meta.len() as u64)
            .sum::<u64>();
        let there = (
            of(JobState::Ready),
            of(JobState::Scheduled),
            of(JobState::Leased),
            of(JobState::Dead),
            finished,
            bytes,
        );
        let said = (
            counts.ready,
            counts.scheduled,
            counts.leased,
            counts.dead,
            counts.kept,
            counts.bytes,
        );
        if there != said {
            broken!(
                "stats",
                "queue {queue} says {said:?} (ready, scheduled, leased, dead, kept, bytes), there are {there:?}"
            );
        }
        let alive = counts.ready + counts.scheduled + counts.leased + counts.dead;
        let over = counts.done + counts.cancelled + counts.expired;
        // Events of jobs that are not logged outlive the jobs where their queue was logged again.
        let in_memory = self
            .intents
            .iter()
            .any(|intent| intent.queue == queue && intent.level == Durability::Memory);
        if self.power_cuts == 0 && !in_memory && counts.enqueued != alive + over {
            broken!(
                "stats",
                "queue {queue}: {} jobs were accepted, {alive} are there and {over} are over: {counts:?}",
                counts.enqueued
            );
        }
    }

    /// A job that is there may be there, as it is.
    fn check_listed(&mut self, queue: usize, status: &JobStatus) {
        let id = status.id.0;
        let is_over = status.state.is_finished();
        if !self.jobs.contains_key(&id) {
            // A finished job has no content any more, so nobody can say which one it was.
            if is_over {
                return;
            }
            let Some(stamp) = stamp_of(&status.meta) else {
                broken!("body", "job {id:016x} is listed without its metadata");
            };
            let intent = self.recognise(id, stamp, queue, "listed");
            let born = match self.intents[intent].level {
                Durability::Memory => Safe::Memory,
                _ => Safe::Written(self.event),
            };
            self.learn(intent, id, born, false);
        }
        let job = &self.jobs[&id];
        let intent = &self.intents[job.intent];
        let own = self.survived(job.born);
        if !own && intent.level == Durability::Memory && self.loss.is_some() {
            broken!(
                "unexpected-job",
                "job {id:016x} of durability memory survived a restart"
            );
        }
        if !is_over {
            let expected = (intent.queue, intent.priority, intent.payload_len as u32);
            if (queue, status.priority, status.payload_bytes) != expected
                || status.meta != super::meta_of(intent.stamp, intent.meta_len)
            {
                broken!(
                    "body",
                    "job {id:016x} is listed as {status:?}, expected {expected:?}"
                );
            }
            if let Some((safe, _, _)) = job.over
                && self.survived(safe)
            {
                broken!(
                    "back-after-end",
                    "job {id:016x} was over ({safe:?}) and is {} ({:?})",
                    status.state,
                    self.loss
                );
            }
        }
        self.check_attempts(status);
        self.check_dead(status);
        self.check_end(status);
    }

    /// Deliveries that were certain are counted, and a lease that was held still is.
    fn check_attempts(&self, status: &JobStatus) {
        let id = status.id.0;
        let job = &self.jobs[&id];
        let certain = job.deliveries.iter().filter(|known| self.survived(known.safe));
        // What a start found is synced.
        let floor = job.floor.0;
        let known = certain.map(|known| known.attempt).max().unwrap_or(0).max(floor);
        if status.deliveries < known {
            broken!(
                "attempt-fell",
                "job {id:016x} had attempt {known}, which was certain, and has {} ({:?})",
                status.deliveries,
                self.loss
            );
        }
        let last = job.deliveries.iter().max_by_key(|known| known.attempt);
        let Some(last) = last.filter(|last| self.survived(last.safe)) else {
            return;
        };
        let conn = &self.conns[last.conn];
        let free = job.over.is_some()
            || last.attempt != status.deliveries
            || self.now_ms >= last.lease_ms
            || last.touched.iter().any(|request| self.may_apply(*request))
            || self.may_be_over(id, None)
            || self.now_ms >= conn.alive_ms + self.grace_ms;
        if !free && status.state != JobState::Leased {
            broken!(
                "lease-lost",
                "job {id:016x} was leased for attempt {} until {} at least, it is {} and the job is {} ({:?})",
                last.attempt,
                last.lease_ms,
                self.now_ms,
                status.state,
                self.loss
            );
        }
    }

    /// A job that is over was ended by somebody.
    fn check_end(&self, status: &JobStatus) {
        let id = status.id.0;
        let job = &self.jobs[&id];
        let swept = self.may_be_swept(self.intents[job.intent].queue, 0);
        let why = match status.state {
            JobState::Done => job.ack_sent,
            JobState::Cancelled => job.cancel_sent || swept,
            JobState::Expired => self.may_be_expired(job.intent),
            _ => true,
        };
        if !why {
            broken!(
                "lost-job",
                "job {id:016x} is {}, and nobody asked for that",
                status.state
            );
        }
        if status.state.is_finished() && !self.may_be_over(id, None) {
            broken!(
                "lost-job",
                "job {id:016x} is {}, and nothing can have ended it",
                status.state
            );
        }
    }

    /// A job that is not there need not be.
    fn check_missing(&mut self, id: u64) {
        if self.may_be_over(id, None) {
            return;
        }
        let job = &self.jobs[&id];
        if !self.survived(job.born) {
            self.counts.lost_as_allowed += 1;
            return;
        }
        broken!(
            "lost-job",
            "job {id:016x} with stamp {:x} (born {:?}, synced before {}, deliveries {:?}) is not there after {:?}",
            self.intents[job.intent].stamp,
            job.born,
            self.synced_before,
            job.deliveries
                .iter()
                .map(|known| known.attempt)
                .collect::<Vec<_>>(),
            self.loss
        );
    }

    /// A request with more than one effect is there as a whole, or not at all.
    fn check_steps(&self, listed: &BTreeMap<u64, JobStatus>) {
        let by_stamp: BTreeSet<u64> = listed
            .values()
            .filter(|status| !status.state.is_finished())
            .filter_map(|status| stamp_of(&status.meta))
            .collect();
        for (number, record) in self.requests.iter().enumerate() {
            let is_open = match record.verdict {
                Verdict::Open | Verdict::Unknown => true,
                Verdict::Applied(safe) => !self.survived(safe),
                Verdict::Unsent => false,
            };
            if !is_open || record.ask.intents().len() + record.ask.settlings().len() < 2 {
                continue;
            }
            let mut there = Vec::new();
            let mut absent = Vec::new();
            for intent in record.ask.intents() {
                let facts = &self.intents[*intent];
                if facts.key.is_some() || facts.level == Durability::Memory {
                    continue;
                }
                let known = facts.job.is_some_and(|id| listed.contains_key(&id));
                let may_be_gone = match facts.job {
                    Some(id) => self.may_be_over(id, None),
                    None => {
                        facts.perhaps_over
                            || facts.ttl_ms > 0
                            || self.may_be_swept(facts.queue, record.first_sent)
                    }
                };
                if known || by_stamp.contains(&facts.stamp) {
                    there.push(format!("job {:x}", facts.stamp));
                } else if !may_be_gone {
                    absent.push(format!("job {:x}", facts.stamp));
                }
            }
            for settling in record.ask.settlings() {
                let Some(status) = listed.get(&settling.token.id.0) else {
                    continue;
                };
                if settling.verb != Verb::Ack || status.deliveries < settling.token.attempt {
                    continue;
                }
                let Some(job) = self.jobs.get(&settling.token.id.0) else {
                    continue;
                };
                if self.intents[job.intent].level == Durability::Memory {
                    continue;
                }
                let alone = job
                    .may_end
                    .iter()
                    .all(|other| *other == number || !self.may_apply(*other));
                if !status.state.is_finished() {
                    absent.push(format!("ack of {}", settling.token.id));
                } else if status.state == JobState::Done
                    && alone
                    && status.deliveries == settling.token.attempt
                {
                    there.push(format!("ack of {}", settling.token.id));
                }
            }
            // Of settlements some may have been refused; only a step is all or nothing there.
            let is_settle = record.ask.intents().is_empty();
            if !there.is_empty() && !absent.is_empty() && !is_settle {
                broken!(
                    "torn-step",
                    "request {number} was applied in part: {there:?} are there, {absent:?} are not ({:?})",
                    self.loss
                );
            }
        }
    }

    /// Everything was seen: what is there is safe from now on, and what is not there is gone.
    fn after_start(&mut self, listed: &BTreeMap<u64, JobStatus>) {
        let loss = self.loss;
        let ids: Vec<u64> = self.jobs.keys().copied().collect();
        for id in ids {
            let survived = self.survived(self.jobs[&id].born);
            let is_lost = |known: &super::Delivery| known.extended.is_some_and(|safe| !self.survived(safe));
            let lost: Vec<bool> = self.jobs[&id].deliveries.iter().map(is_lost).collect();
            let may_be_over = self.may_be_over(id, None);
            let Some(job) = self.jobs.get_mut(&id) else {
                continue;
            };
            match listed.get(&id) {
                Some(status) => {
                    let is_over = status.state.is_finished();
                    job.born = Safe::Synced;
                    job.floor = (status.deliveries, status.state == JobState::Leased);
                    for (known, is_lost) in job.deliveries.iter_mut().zip(lost) {
                        // What the crash took of an extension, it took of the lease.
                        if is_lost {
                            known.lease_ms = known.lease_ms.min(status.at_ms);
                        }
                    }
                    job.deliveries.retain(|known| known.attempt <= status.deliveries);
                    for known in &mut job.deliveries {
                        if !is_over && known.attempt == status.deliveries && status.state == JobState::Leased
                        {
                            known.settled = None;
                        }
                        known.safe = Safe::Synced;
                    }
                    if is_over {
                        let acked = (status.state == JobState::Done).then_some(status.deliveries);
                        job.over = Some((Safe::Synced, self.event, acked));
                    } else {
                        job.over = None;
                        job.perhaps_over = false;
                        job.alive_at = self.event;
                    }
                }
                None if !survived && loss.is_some() => {
                    let intent = job.intent;
                    let level = self.intents[intent].level;
                    // Lost, or over: who sends it again may get another one.
                    self.intents[intent].job = None;
                    self.intents[intent].lost = level > Durability::Memory && !may_be_over;
                    self.intents[intent].perhaps_over |= may_be_over;
                    if may_be_over {
                        job.over = Some((Safe::Synced, self.event, None));
                    } else {
                        self.jobs.remove(&id);
                        self.gone.insert(id, self.intents[intent].stamp);
                    }
                }
                None => {
                    let safe = Safe::Synced;
                    job.over = job
                        .over
                        .map(|(_, at, acked)| (safe, at, acked))
                        .or(Some((safe, self.event, None)));
                }
            }
        }
    }

    /// After everything was drained: every job that must have been handed out and acked was, and nothing is left.
    pub fn finished(&mut self, engine: &Engine) {
        self.at_rest(engine);
        for stats in engine.queue_list("", 1_000) {
            let counts = stats.counts;
            let left = counts.ready + counts.scheduled + counts.leased + counts.dead + counts.bytes;
            if left > 0 {
                broken!("leak", "queue {} is drained and says {counts:?}", stats.name);
            }
        }
    }
}

fn list(engine: &Engine, name: &str) -> Vec<JobStatus> {
    let mut jobs = Vec::new();
    let Ok(queue) = engine.find_queue(name) else {
        return jobs;
    };
    let mut cursor = 0;
    loop {
        match engine.list_jobs(queue, None, cursor, 1_000) {
            Ok(page) => {
                jobs.extend(page.jobs);
                cursor = page.next_cursor;
            }
            Err(refusal) => broken!("answer", "queue {name} is listed and then {refusal}"),
        }
        if cursor == 0 {
            return jobs;
        }
    }
}
