//! What was sent: every request, how often, and what is known of its outcome.

use super::{ConnRef, Event, IntentRef, Loss, Oracle, Safe, Sweep};
use ackring::{JobId, Token, Verb};
use std::collections::BTreeSet;

/// One settlement that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settling {
    pub token: Token,
    pub verb: Verb,
    pub arg: u32,
}

/// What a request asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    Enqueue(Vec<IntentRef>),
    Settle(Vec<Settling>),
    Step(Vec<Settling>, Vec<IntentRef>),
    Reserve,
    Cancel(Vec<JobId>),
    Redrive,
    /// Which queue, and whether jobs in all states are meant.
    Purge(usize, bool),
    Delete(usize),
    Pause(usize),
    Resume(usize),
}

impl Ask {
    pub(super) fn intents(&self) -> &[IntentRef] {
        match self {
            Ask::Enqueue(intents) | Ask::Step(_, intents) => intents,
            _ => &[],
        }
    }

    pub(super) fn settlings(&self) -> &[Settling] {
        match self {
            Ask::Settle(settlings) | Ask::Step(settlings, _) => settlings,
            _ => &[],
        }
    }
}

pub type RequestRef = usize;

/// What is known of a request's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was not sent yet, or was refused and can only be applied if it is sent again.
    Unsent,
    /// It may be applied now or later.
    Open,
    /// It was applied.
    Applied(Safe),
    /// It was or was not.
    Unknown,
}

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub ask: Ask,
    pub verdict: Verdict,
    /// It was not applied before this.
    pub first_sent: Event,
    pub first_sent_ms: u64,
    pub last_sent: Event,
    pub sends: u32,
    /// The same, those that were refused included.
    pub sends_ever: u32,
    /// Sent since the server started, and not answered.
    pub unanswered: u32,
    pub sends_this_boot: u32,
    pub boot: u64,
    /// When it was known to be applied.
    pub answered: Event,
    /// Where it was sent last.
    pub conn: ConnRef,
    pub is_logged: bool,
}

impl Oracle {
    /// Makes a request known; its intents come just before.
    pub fn request(&mut self, ask: Ask) -> RequestRef {
        self.requests.push(Record {
            ask,
            verdict: Verdict::Unsent,
            first_sent: 0,
            first_sent_ms: 0,
            last_sent: 0,
            sends: 0,
            sends_ever: 0,
            unanswered: 0,
            sends_this_boot: 0,
            boot: 0,
            answered: 0,
            conn: 0,
            is_logged: false,
        });
        self.requests.len() - 1
    }

    /// A request goes out, for the first time or again.
    pub fn sent(&mut self, request: RequestRef, conn: ConnRef) -> (Event, u64) {
        let event = self.tick();
        let (now_ms, boots) = (self.now_ms, self.boots);
        let line = format!("#{event} request {request} on {conn}: {}", self.describe(request));
        self.trace.note(line);
        let record = &mut self.requests[request];
        record.sends += 1;
        record.sends_ever += 1;
        record.last_sent = event;
        record.conn = conn;
        if record.boot != boots {
            record.boot = boots;
            record.unanswered = 0;
            record.sends_this_boot = 0;
        }
        record.unanswered += 1;
        record.sends_this_boot += 1;
        match record.verdict {
            Verdict::Unsent => {
                record.first_sent = event;
                record.first_sent_ms = now_ms;
                record.sends = 1;
                record.verdict = Verdict::Open;
                self.expect(request);
            }
            Verdict::Unknown | Verdict::Open => {
                record.verdict = Verdict::Open;
                self.expect_settlings(request);
                // A purge or a deletion may go on from now on.
                let sweeps = self.queues.iter_mut().flat_map(|queue| &mut queue.sweeps);
                for sweep in sweeps.filter(|sweep| sweep.request == request) {
                    sweep.until = None;
                }
            }
            Verdict::Applied(_) => {}
        }
        (event, now_ms)
    }

    fn describe(&self, request: RequestRef) -> String {
        let record = &self.requests[request];
        let intents: Vec<String> = record
            .ask
            .intents()
            .iter()
            .map(|intent| {
                let intent = &self.intents[*intent];
                format!(
                    "{:x}@{}{:?}{}",
                    intent.stamp,
                    intent.queue,
                    intent.level,
                    if intent.delay_ms + intent.ttl_ms > 0 {
                        "~"
                    } else {
                        ""
                    }
                )
            })
            .collect();
        match &record.ask {
            Ask::Enqueue(_) => format!("enqueue {intents:?}"),
            Ask::Step(settlings, _) => format!("step {settlings:?} {intents:?}"),
            other => format!("{other:?}"),
        }
    }

    /// Notes what may happen now that a request is on its way.
    fn expect(&mut self, request: RequestRef) {
        self.expect_settlings(request);
        let ask = self.requests[request].ask.clone();
        match ask {
            Ask::Cancel(ids) => {
                for id in ids {
                    if let Some(job) = self.jobs.get_mut(&id.0) {
                        job.may_end.insert(request);
                        job.cancel_sent = true;
                    }
                }
            }
            Ask::Purge(queue, _) | Ask::Delete(queue) => {
                self.queues[queue].sweeps.push(Sweep { request, until: None });
                if matches!(ask, Ask::Delete(_)) {
                    self.void_keys(queue);
                    self.queues[queue].paused = None;
                }
            }
            Ask::Pause(queue) => {
                self.queues[queue].pauses.insert(request);
            }
            Ask::Resume(queue) => {
                self.queues[queue].resumes.insert(request);
                self.queues[queue].resume_at = self.event;
                self.queues[queue].paused = None;
            }
            _ => {}
        }
    }

    /// Notes the deliveries that a request may settle. Anew with every sending: a power cut takes hand-outs that were
    /// no more than written, their numbers with them, and what the server had applied of the request. So the same
    /// token, sent again on its word that it knows nothing of it, is that of a delivery made since, and settles it.
    fn expect_settlings(&mut self, request: RequestRef) {
        for settling in self.requests[request].ask.clone().settlings() {
            self.expect_settling(request, settling);
        }
    }

    fn expect_settling(&mut self, request: RequestRef, settling: &Settling) {
        let now_ms = self.now_ms;
        let queue_lease_ms =
            |oracle: &Self, intent: IntentRef| oracle.queues[oracle.intents[intent].queue].options.lease_ms;
        let Some(job) = self.jobs.get(&settling.token.id.0) else {
            return;
        };
        let own_ms = match self.intents[job.intent].lease_ms {
            0 => queue_lease_ms(self, job.intent),
            own => own,
        };
        let Some(job) = self.jobs.get_mut(&settling.token.id.0) else {
            return;
        };
        if settling.verb == Verb::Ack {
            job.ack_sent = true;
            job.may_end.insert(request);
        }
        // What a rejection, a failure or a release does to a job whose TTL has passed is told by its TTL.
        job.reject_sent |= settling.verb == Verb::Reject;
        for delivery in &mut job.deliveries {
            if delivery.attempt != settling.token.attempt {
                continue;
            }
            if settling.verb == Verb::Extend {
                let lease_ms = if settling.arg == 0 { own_ms } else { settling.arg };
                delivery.lease_ms = delivery.lease_ms.min(now_ms + u64::from(lease_ms));
                delivery.extends.insert(request);
            } else {
                delivery.touched.insert(request);
            }
        }
    }

    /// Requests on their way that settle a delivery which nobody knows of yet: where a crash took attempts, a token
    /// from before it means a later delivery.
    pub(super) fn sent_under(&self, id: u64, attempt: u16) -> BTreeSet<RequestRef> {
        let is_meant = |settling: &Settling| settling.token.id.0 == id && settling.token.attempt == attempt;
        let sent = |request: &RequestRef| {
            let record = &self.requests[*request];
            record.boot == self.boots
                && record.verdict != Verdict::Unsent
                && record.ask.settlings().iter().any(is_meant)
        };
        (0..self.requests.len()).filter(sent).collect()
    }

    /// The client gives up on a request that may be applied.
    pub fn abandoned(&mut self, request: RequestRef) {
        if self.requests[request].verdict == Verdict::Open {
            self.requests[request].verdict = Verdict::Unknown;
        }
    }

    /// Whether a request may have been applied, or may be yet.
    pub(super) fn may_apply(&self, request: RequestRef) -> bool {
        self.requests[request].verdict != Verdict::Unsent
    }

    /// Whether anything other than `but` may have ended the job by now.
    pub(super) fn may_be_over(&self, id: u64, but: Option<RequestRef>) -> bool {
        let job = &self.jobs[&id];
        job.over.is_some()
            || job.perhaps_over
            || self.may_be_swept(self.intents[job.intent].queue, job.alive_at)
            || self.may_be_expired(job.intent)
            || job
                .may_end
                .iter()
                .any(|request| Some(*request) != but && self.may_apply(*request))
    }

    /// Whether a purge or a deletion may have hit what was there at `alive_at`.
    pub(super) fn may_be_swept(&self, queue: usize, alive_at: Event) -> bool {
        self.queues[queue]
            .sweeps
            .iter()
            .any(|sweep| self.may_apply(sweep.request) && sweep.until.is_none_or(|until| until > alive_at))
    }

    /// Whether the TTL of a job may have passed.
    pub(super) fn may_be_expired(&self, intent: IntentRef) -> bool {
        let intent = &self.intents[intent];
        let asked_ms = self.requests[intent.request].first_sent_ms;
        intent.ttl_ms > 0 && self.now_ms >= asked_ms + intent.ttl_ms
    }

    /// After a start: what was on its way is gone with the connections, and what did not survive may happen again.
    pub(super) fn settle_requests(&mut self) {
        let event = self.event;
        for record in &mut self.requests {
            // The clock may have been set back.
            record.first_sent_ms = record.first_sent_ms.min(self.now_ms);
        }
        for number in 0..self.requests.len() {
            if let Verdict::Applied(safe) = self.requests[number].verdict
                && !self.survived(safe)
            {
                self.requests[number].verdict = Verdict::Unknown;
            }
        }
        let cuts = self.loss == Some(Loss::Power);
        for queue in 0..self.queues.len() {
            let mut sweeps = std::mem::take(&mut self.queues[queue].sweeps);
            for sweep in &mut sweeps {
                if self.requests[sweep.request].verdict != Verdict::Open {
                    sweep.until = sweep.until.or(Some(event));
                }
            }
            let facts = &mut self.queues[queue];
            facts.sweeps = sweeps;
            if cuts {
                facts.paused = None;
            }
        }
    }
}
