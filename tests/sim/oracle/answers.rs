//! What was answered: facts.

use super::jobs::Excuse;
use super::{ConnRef, Delivery, Event, IntentRef, Oracle, Safe, Settling, Source, Verdict, broken};
use crate::oracle::{Ask, RequestRef};
use ackring::wire::{Outcome, OutcomeHead};
use ackring::{Durability, ErrorCode, ItemError, JobState, JobStatus, Verb};
use std::collections::HashMap;

pub use super::deliveries::Seen;

/// An answer as a client reads it.
#[derive(Debug, Clone)]
pub enum Answer {
    Outcome(Outcome),
    Deliveries(Vec<Seen>),
    Refused(ErrorCode),
}

impl Oracle {
    /// A request that was sent at `sent` was answered.
    pub fn answered(&mut self, request: RequestRef, conn: ConnRef, sent: (Event, u64), answer: Answer) {
        self.tick();
        self.conn_alive(conn, sent.0, sent.1);
        let line = match &answer {
            Answer::Deliveries(seen) => {
                let seen: Vec<_> = seen.iter().map(|one| (one.id, one.attempt)).collect();
                format!("#{} request {request} on {conn}: {seen:x?}", self.event)
            }
            other => format!("#{} request {request} on {conn}: {other:?}", self.event),
        };
        self.trace.note(line);
        let record = &mut self.requests[request];
        record.unanswered = record.unanswered.saturating_sub(1);
        match answer {
            Answer::Refused(code) => self.refused(request, code),
            Answer::Deliveries(seen) => {
                self.delivered(conn, Source::Reserve(request), &seen);
                if !seen.is_empty() {
                    self.requests[request].verdict = Verdict::Applied(Safe::Memory);
                } else if self.requests[request].sends > 1 {
                    // It may have handed out jobs whose leases are over by now.
                    self.requests[request].verdict = Verdict::Unknown;
                } else if self.requests[request].unanswered == 0 {
                    self.requests[request].verdict = Verdict::Unsent;
                }
            }
            Answer::Outcome(outcome) => self.carried_out(request, &outcome),
        }
    }

    /// A quiet settlement that was sent at `sent` was applied, or it would have been answered: a kill takes it no more.
    /// Repeated acks are not told from others that way.
    pub fn applied_quietly(&mut self, request: RequestRef, conn: ConnRef, sent: (Event, u64)) {
        self.counts.quiet += 1;
        let settlings = self.requests[request].ask.settlings().to_vec();
        let is_repeated = |(position, settling): (usize, &Settling)| {
            let job = self.jobs.get(&settling.token.id.0)?;
            let mut before = settlings[..position].iter();
            let is_acked = |(_, _, acked): (_, _, Option<u16>)| acked == Some(settling.token.attempt);
            let is_known = job.over.is_some_and(is_acked)
                || before.any(|other| other.token == settling.token)
                || self.may_be_acked(settling, request);
            (settling.verb == Verb::Ack && is_known).then_some(ItemError {
                position: position as u32,
                code: ErrorCode::AlreadySettled,
            })
        };
        let items = settlings.iter().enumerate().filter_map(is_repeated).collect();
        let head = OutcomeHead {
            level: Some(Durability::Written),
            replayed: false,
            count: settlings.len() as u32,
        };
        let outcome = Outcome {
            head,
            ids: Vec::new(),
            items,
        };
        self.answered(request, conn, sent, Answer::Outcome(outcome));
    }

    /// Jobs were pushed to a subscription that was asked for then.
    pub fn pushed(&mut self, conn: ConnRef, asked: (Event, u64), seen: &[Seen]) {
        let jobs: Vec<_> = seen.iter().map(|one| (one.id, one.attempt)).collect();
        self.trace
            .note(format!("#{} push on {conn}: {jobs:x?}", self.event));
        self.delivered(conn, Source::Push(asked.0, asked.1), seen);
    }

    fn refused(&mut self, request: RequestRef, code: ErrorCode) {
        self.counts.refusals += 1;
        let ask = self.requests[request].ask.clone();
        match code {
            ErrorCode::AlreadyApplied => return self.already_applied(request),
            ErrorCode::SessionExpired | ErrorCode::InProgress | ErrorCode::LogPoisoned => return,
            ErrorCode::StepRefused => self.check_step_refused(request, ask.settlings()),
            _ => {}
        }
        let was = self.requests[request].verdict;
        if let Verdict::Applied(_) = was {
            if self.requests[request].is_logged {
                broken!(
                    "forgotten",
                    "request {request} was applied, and sent again it is refused with {code}"
                );
            }
            return;
        }
        // A purge may have got a part of the way.
        let is_part = matches!(ask, Ask::Purge(..));
        let none_left = self.requests[request].unanswered == 0;
        self.requests[request].verdict = if none_left && !is_part {
            Verdict::Unsent
        } else {
            Verdict::Unknown
        };
        if is_part && none_left {
            self.end_sweep(request);
        }
    }

    fn end_sweep(&mut self, request: RequestRef) {
        let event = self.event;
        for facts in &mut self.queues {
            for sweep in facts.sweeps.iter_mut().filter(|sweep| sweep.request == request) {
                sweep.until = sweep.until.or(Some(event));
            }
        }
    }

    /// It was applied, and the server knows no more.
    fn already_applied(&mut self, request: RequestRef) {
        self.counts.replays += 1;
        let record = &self.requests[request];
        if record.sends_ever <= 1 {
            broken!(
                "applied-unasked",
                "request {request} was sent once and is said to have been applied before"
            );
        }
        let fresh = record.sends_this_boot <= 1;
        for intent in record.ask.intents().to_vec() {
            let facts = &self.intents[intent];
            let excused = facts.ttl_ms > 0
                || facts.key.is_some()
                || facts.level == Durability::Memory
                || facts.perhaps_over
                || self.may_be_swept(facts.queue, self.requests[request].first_sent);
            if facts.job.is_none() && fresh && !excused {
                broken!(
                    "remembered-but-lost",
                    "request {request} is said to have been applied, and its job with stamp {:x} is not there",
                    facts.stamp
                );
            }
        }
        if self.requests[request].verdict == Verdict::Open {
            self.requests[request].verdict = Verdict::Applied(Safe::Memory);
        }
        self.end_sweep(request);
        self.note_paused(request, Safe::Memory);
    }

    /// A request that changes something was carried out, now or before.
    fn carried_out(&mut self, request: RequestRef, outcome: &Outcome) {
        let record = self.requests[request].clone();
        let replayed = outcome.head.replayed;
        self.counts.replays += u64::from(replayed);
        if replayed && record.sends_ever <= 1 {
            broken!(
                "applied-unasked",
                "request {request} was sent once and is said to have been applied before"
            );
        }
        let level = outcome.head.level;
        if level == Some(Durability::Synced) {
            self.synced_before = self.synced_before.max(record.first_sent);
        }
        let codes: HashMap<usize, ErrorCode> = outcome
            .items
            .iter()
            .map(|item| (item.position as usize, item.code))
            .collect();
        match &record.ask {
            Ask::Enqueue(intents) => self.accepted(intents, outcome, &codes),
            Ask::Settle(settlings) => self.settled(request, settlings, &codes, level, replayed),
            Ask::Step(settlings, intents) => {
                self.counts.steps += 1;
                self.accepted(intents, outcome, &codes);
                self.settled(request, settlings, &HashMap::new(), level, replayed);
            }
            Ask::Cancel(ids) => {
                let ids: Vec<u64> = ids.iter().map(|id| id.0).collect();
                self.cancelled(request, &ids, &codes, level);
            }
            Ask::Purge(queue, true) | Ask::Delete(queue) => {
                self.end_sweep(request);
                self.swept(*queue, record.first_sent, level);
                if matches!(record.ask, Ask::Delete(_)) {
                    self.void_keys(*queue);
                }
            }
            Ask::Purge(..) => self.end_sweep(request),
            Ask::Pause(_) | Ask::Resume(_) | Ask::Redrive | Ask::Reserve => {}
        }
        let safe = self.safe(level.unwrap_or(Durability::Memory));
        if outcome.head.count > 0 {
            let is_logged = level.is_some_and(|level| level > Durability::Memory);
            let record = &mut self.requests[request];
            // What was so already changed nothing, and need not be remembered.
            let repeated = |item: &&ackring::ItemError| item.code == ErrorCode::AlreadySettled;
            let repeats = outcome.items.iter().filter(repeated).count();
            let has_changed = outcome.head.count as usize > repeats;
            record.is_logged |= is_logged && has_changed && !matches!(record.ask, Ask::Purge(..));
            record.verdict = match record.verdict {
                Verdict::Applied(known) => Verdict::Applied(known.or_safer(safe)),
                _ => Verdict::Applied(safe),
            };
            if record.answered == 0 {
                record.answered = self.event;
            }
        } else if record.unanswered == 0 && !matches!(record.ask, Ask::Purge(..)) {
            self.requests[request].verdict = Verdict::Unsent;
        }
        self.note_paused(request, safe);
    }

    fn note_paused(&mut self, request: RequestRef, safe: Safe) {
        let event = self.event;
        match self.requests[request].ask {
            Ask::Pause(queue) => {
                self.queues[queue].pauses.remove(&request);
                let open = self.queues[queue]
                    .resumes
                    .iter()
                    .any(|resume| self.may_apply(*resume));
                let swept = self.may_be_swept(queue, self.requests[request].first_sent);
                let resumed = self.queues[queue].resume_at > self.requests[request].first_sent;
                if !open && !resumed && !swept && safe != Safe::Memory && self.requests[request].sends == 1 {
                    self.queues[queue].paused = Some(event);
                }
            }
            Ask::Resume(queue) => {
                let others = &self.requests[request];
                if others.unanswered == 0 {
                    self.queues[queue].resumes.remove(&request);
                }
                // It may have been carried out just now, behind a pause that was sent in between.
                self.queues[queue].resume_at = event;
                self.queues[queue].paused = None;
            }
            _ => {}
        }
    }

    fn accepted(&mut self, intents: &[IntentRef], outcome: &Outcome, codes: &HashMap<usize, ErrorCode>) {
        if outcome.ids.len() != intents.len() {
            broken!(
                "answer",
                "{} jobs were sent and {} ids came",
                intents.len(),
                outcome.ids.len()
            );
        }
        let level = outcome.head.level;
        let mut repeats = false;
        for (position, (intent, id)) in intents.iter().zip(&outcome.ids).enumerate() {
            match codes.get(&position) {
                None if id.0 != 0 => {
                    let safe = self.worth(*intent, level.unwrap_or(Durability::Memory));
                    self.learn(*intent, id.0, safe, outcome.head.replayed);
                    self.note_key(*intent, id.0, safe, outcome.head.replayed);
                }
                Some(ErrorCode::Duplicate) if id.0 != 0 => {
                    repeats = true;
                    self.duplicate(*intent, id.0, level, outcome.head.replayed);
                }
                // The one of then may be out of its window by now.
                Some(ErrorCode::KeyConflict) if id.0 == 0 && outcome.head.replayed => {}
                Some(ErrorCode::KeyConflict) if id.0 == 0 => self.conflict(*intent),
                code => broken!("answer", "job {position}: id {id} and code {code:?}"),
            }
        }
        let asked = intents.iter().map(|intent| self.intents[*intent].level).max();
        if !repeats && outcome.head.count > 0 && level < asked {
            broken!("level", "asked for {asked:?}, confirmed with {level:?}");
        }
    }

    fn settled(
        &mut self,
        request: RequestRef,
        settlings: &[Settling],
        codes: &HashMap<usize, ErrorCode>,
        level: Option<Durability>,
        replayed: bool,
    ) {
        let named = level.unwrap_or(Durability::Memory);
        for (position, settling) in settlings.iter().enumerate() {
            let id = settling.token.id.0;
            if !self.jobs.contains_key(&id) {
                continue;
            }
            match codes.get(&position) {
                None => self.settled_one(request, settling, named, replayed),
                Some(ErrorCode::AlreadySettled) => {
                    let twice = settlings
                        .iter()
                        .filter(|other| other.token == settling.token)
                        .count()
                        > 1;
                    self.already_settled(request, settling, named, twice);
                }
                Some(ErrorCode::LeaseLost) => self.lease_lost(request, settling, settlings),
                Some(ErrorCode::JobNotFound) => self.not_found(id, Some(request)),
                Some(code) => broken!("answer", "settlement {position}: {code}"),
            }
        }
        // What was refused is no excuse for a job that is gone.
        for (position, settling) in settlings.iter().enumerate() {
            let refused = matches!(
                codes.get(&position),
                Some(ErrorCode::LeaseLost | ErrorCode::JobNotFound)
            );
            let granted = settlings.iter().enumerate().any(|(other, one)| {
                one.token == settling.token
                    && !matches!(
                        codes.get(&other),
                        Some(ErrorCode::LeaseLost | ErrorCode::JobNotFound)
                    )
            });
            let once = self.requests[request].unanswered == 0 || settlings.len() > codes.len();
            if refused
                && !granted
                && once
                && let Some(job) = self.jobs.get_mut(&settling.token.id.0)
            {
                let attempt = settling.token.attempt;
                let mut own = job.deliveries.iter_mut();
                if let Some(own) = own.find(|own| own.attempt == attempt) {
                    own.touched.remove(&request);
                }
                let is_named_again = settlings
                    .iter()
                    .any(|other| other.token.id == settling.token.id && other.token != settling.token);
                if !is_named_again {
                    job.may_end.remove(&request);
                }
            }
        }
    }

    fn settled_one(&mut self, request: RequestRef, settling: &Settling, named: Durability, replayed: bool) {
        let id = settling.token.id.0;
        let attempt = settling.token.attempt;
        let (safe, sent) = (self.safe(named), self.requests[request].first_sent);
        let sent_ms = self.requests[request].first_sent_ms;
        let job = &self.jobs[&id];
        let later = job
            .deliveries
            .iter()
            .find(|later| later.attempt > attempt && later.received < sent);
        if let Some(later) = later
            && !replayed
        {
            broken!(
                "stale-token",
                "job {id:016x}: {:?} under attempt {attempt} was accepted although attempt {} was out",
                settling.verb,
                later.attempt
            );
        }
        let own = job.deliveries.iter().position(|own| own.attempt == attempt);
        if let Some((first, _)) = own.and_then(|own| job.deliveries[own].settled)
            && first != request
            && !(settling.verb == Verb::Extend && sent <= self.settled_before(first))
        {
            broken!(
                "settled-twice",
                "job {id:016x}, attempt {attempt}: {:?} was accepted after request {first} had settled it",
                settling.verb
            );
        }
        if let Some((_, _, Some(acked))) = job.over
            && (acked < attempt || acked != attempt && settling.verb == Verb::Ack)
        {
            broken!(
                "settled-twice",
                "job {id:016x}: {:?} under attempt {attempt} was accepted, and an ack under {acked}",
                settling.verb
            );
        }
        if settling.verb == Verb::Ack {
            self.counts.acks += 1;
            self.end(id, safe, Some(attempt));
        }
        let queue_lease_ms = self.lease_of(id);
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if let Some(own) = own {
            let delivery = &mut job.deliveries[own];
            if settling.verb == Verb::Extend {
                let lease_ms = if settling.arg == 0 {
                    queue_lease_ms
                } else {
                    settling.arg
                };
                delivery.extends.remove(&request);
                // Where others are under way nobody knows which one comes last.
                if delivery.extends.is_empty() && !replayed {
                    delivery.lease_ms = sent_ms + u64::from(lease_ms);
                    delivery.extended = Some(safe);
                }
            } else {
                delivery.settled = Some((request, safe));
            }
        }
    }

    /// The request was carried out before that at the latest.
    fn settled_before(&self, request: RequestRef) -> Event {
        let record = &self.requests[request];
        record.answered.max(record.last_sent)
    }

    fn lease_of(&self, id: u64) -> u32 {
        let intent = &self.intents[self.jobs[&id].intent];
        match intent.lease_ms {
            0 => self.queues[intent.queue].options.lease_ms,
            own => own,
        }
    }

    fn already_settled(&mut self, request: RequestRef, settling: &Settling, named: Durability, twice: bool) {
        let id = settling.token.id.0;
        let job = &self.jobs[&id];
        let by_other = self.may_be_acked(settling, request);
        if !by_other && !twice && job.over.is_none() {
            broken!(
                "settled-by-nobody",
                "job {id:016x}, attempt {}: ALREADY_SETTLED, and nobody acked it before",
                settling.token.attempt
            );
        }
        let safe = self.safe(named);
        self.end(id, safe, Some(settling.token.attempt));
    }

    /// Whether a request other than `but` may have acked this delivery.
    fn may_be_acked(&self, settling: &Settling, but: RequestRef) -> bool {
        let acks = |one: &Settling| one.token == settling.token && one.verb == Verb::Ack;
        self.jobs[&settling.token.id.0].may_end.iter().any(|other| {
            *other != but && self.may_apply(*other) && self.requests[*other].ask.settlings().iter().any(acks)
        })
    }

    fn lease_lost(&mut self, request: RequestRef, settling: &Settling, all: &[Settling]) {
        let id = settling.token.id.0;
        // Settled twice in one request: the first mention decides.
        if all
            .iter()
            .filter(|other| other.token.id == settling.token.id)
            .count()
            > 1
        {
            return;
        }
        let job = &self.jobs[&id];
        let Some(own) = job
            .deliveries
            .iter()
            .find(|own| own.attempt == settling.token.attempt)
        else {
            return;
        };
        if job.deliveries.iter().any(|later| later.attempt > own.attempt) || self.is_early(request, own) {
            return;
        }
        let conn = own.conn;
        match self.excuse(id, own, Some(request)) {
            Excuse::Given => {}
            Excuse::IfLost => {
                let text = format!(
                    "job {id:016x}, attempt {}: LEASE_LOST before its lease ended",
                    settling.token.attempt
                );
                let suspect = (self.event, text);
                self.conns[conn].suspects.push(suspect);
            }
            Excuse::None(text) => broken!("lease-lost", "{text}; and a settlement is told LEASE_LOST"),
        }
    }

    /// Whether a settlement may have been judged before the delivery that it names was made: a crash has taken one
    /// with that number, whose token is older than the delivery.
    fn is_early(&self, request: RequestRef, delivery: &Delivery) -> bool {
        self.requests[request].first_sent < delivery.received
    }

    fn check_step_refused(&mut self, request: RequestRef, settlings: &[Settling]) {
        let mut tokens = std::collections::HashSet::new();
        let mut suspect = None;
        for settling in settlings {
            if !tokens.insert(settling.token.id) {
                return;
            }
            let Some(job) = self.jobs.get(&settling.token.id.0) else {
                return;
            };
            let Some(own) = job
                .deliveries
                .iter()
                .find(|own| own.attempt == settling.token.attempt)
            else {
                return;
            };
            if job.deliveries.iter().any(|later| later.attempt > own.attempt) || self.is_early(request, own) {
                return;
            }
            match self.excuse(settling.token.id.0, own, Some(request)) {
                Excuse::Given => return,
                Excuse::IfLost => suspect = Some(own.conn),
                Excuse::None(_) => {}
            }
        }
        let text = "a step was refused, and all its leases were held".to_owned();
        match suspect {
            Some(conn) => {
                let suspect = (self.event, text);
                self.conns[conn].suspects.push(suspect);
            }
            None if settlings.is_empty() => broken!("lease-lost", "a step without settlements was refused"),
            None => broken!("lease-lost", "{text}"),
        }
    }

    /// Somebody was told that there is no such job.
    fn not_found(&mut self, id: u64, but: Option<RequestRef>) {
        if !self.may_be_over(id, but) {
            let job = &self.jobs[&id];
            broken!(
                "lost-job",
                "job {id:016x} (born {:?}, there at {}) is said not to be there, and nothing can have ended it: {:?}",
                job.born,
                job.alive_at,
                self.queues[self.intents[job.intent].queue].sweeps
            );
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            job.perhaps_over = true;
        }
    }

    fn cancelled(
        &mut self,
        request: RequestRef,
        ids: &[u64],
        codes: &HashMap<usize, ErrorCode>,
        level: Option<Durability>,
    ) {
        let safe = self.safe(level.unwrap_or(Durability::Memory));
        for (position, id) in ids.iter().enumerate() {
            if !self.jobs.contains_key(id) {
                continue;
            }
            match codes.get(&position) {
                None | Some(ErrorCode::AlreadySettled) => self.end(*id, safe, None),
                Some(ErrorCode::JobNotFound) => self.not_found(*id, Some(request)),
                Some(ErrorCode::WrongState) => {
                    if !self.may_be_over(*id, Some(request)) {
                        broken!(
                            "lost-job",
                            "job {id:016x} is said to be finished, and nothing can have ended it"
                        );
                    }
                    if let Some(job) = self.jobs.get_mut(id) {
                        job.perhaps_over = true;
                    }
                }
                Some(code) => broken!("answer", "cancel {position}: {code}"),
            }
        }
    }

    /// Everything that certainly was in the queue when the request was sent is over.
    fn swept(&mut self, queue: usize, sent: Event, level: Option<Durability>) {
        let safe = self.safe(level.unwrap_or(Durability::Memory));
        let ids: Vec<u64> = self
            .jobs
            .iter()
            .filter(|(_, job)| {
                job.known_at < sent && self.intents[job.intent].queue == queue && job.over.is_none()
            })
            .map(|(id, _)| *id)
            .collect();
        ids.into_iter().for_each(|id| self.end(id, safe, None));
    }

    /// The status of a job was answered to somebody who asked at `asked`.
    pub fn saw(&mut self, asked: Event, status: &JobStatus) {
        self.tick();
        let id = status.id.0;
        let Some(job) = self.jobs.get(&id) else { return };
        let known = job
            .deliveries
            .iter()
            .filter(|known| known.received < asked)
            .map(|known| known.attempt)
            .max()
            .unwrap_or(0)
            .max(job.floor.0);
        if status.deliveries < known {
            broken!(
                "attempt-fell",
                "job {id:016x} is said to have had {} deliveries, it had {known}",
                status.deliveries
            );
        }
        let is_over = matches!(job.over, Some((_, at, _)) if at < asked);
        if is_over && !status.state.is_finished() {
            broken!("back-after-end", "job {id:016x} was over and is {}", status.state);
        }
        if status.state.is_finished() && !self.may_be_over(id, None) {
            broken!(
                "lost-job",
                "job {id:016x} is {}, and nothing can have ended it",
                status.state
            );
        }
        self.check_dead(status);
    }

    /// Somebody was told `JOB_NOT_FOUND`.
    pub fn saw_none(&mut self, id: u64) {
        self.tick();
        if self.jobs.contains_key(&id) {
            self.not_found(id, None);
        }
    }

    /// A job dies of its limit or of a rejection.
    pub(super) fn check_dead(&self, status: &JobStatus) {
        let rejected = self.jobs.get(&status.id.0).is_some_and(|job| job.reject_sent);
        if status.state == JobState::Dead && !rejected && status.attempts < status.max_attempts {
            broken!(
                "dead-too-early",
                "job {} is dead after {} of {} attempts",
                status.id,
                status.attempts,
                status.max_attempts
            );
        }
    }
}
