//! Judges a history by what clients sent and what was confirmed to them, and by nothing that the engine says of
//! itself but what it lists at rest. Naive on purpose, and without a line of the engine's code.
//!
//! What is certain is kept as facts: a job was accepted, a job is over, a delivery was made. Each fact has a
//! level at which it is [`Safe`]. What was sent and not answered may have happened; it is an excuse for a job that is
//! not there, and never a reason to expect one. After each start everything is there to be seen, so all uncertainty of
//! the life before ends then.

mod answers;
mod deliveries;
mod examine;
mod jobs;
mod keys;
mod requests;

pub use answers::{Answer, Seen};
pub use requests::{Ask, RequestRef, Settling, Verdict};

use crate::plan::Plan;
use crate::trace::Trace;
use ackring::{Durability, JobId, QueueOptions};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Ends the history: a guarantee is broken. The name of the check comes first, for the table of planted bugs.
macro_rules! broken {
    ($check:literal, $($text:tt)+) => {
        panic!("CHECK {}: {}", $check, format!($($text)+))
    };
}
pub(crate) use broken;

/// Counts what happens, so that "before" has a meaning where clocks stand still.
pub type Event = u64;

/// What a fact survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Safe {
    /// No end of the process.
    Memory,
    /// A killed process; and a power cut, if something that was asked for later is known to be synced.
    Written(Event),
    /// Everything.
    Synced,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// In good order: all that was logged is on the disk.
    Orderly,
    /// `kill -9`: all that was logged is there.
    Kill,
    /// The power was cut, or the disk failed: what was not synced may be gone.
    Power,
}

/// A job that somebody asked for.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Its content: unique, but for jobs under the same key that are meant to be the same.
    pub stamp: u64,
    pub queue: usize,
    pub key: Option<u64>,
    pub priority: u8,
    pub delay_ms: u64,
    pub ttl_ms: u64,
    pub lease_ms: u32,
    pub max_attempts: u16,
    pub payload_len: usize,
    pub meta_len: usize,
    /// The level that it is to have.
    pub level: Durability,
    pub request: RequestRef,
    /// The job that came of it, as far as that is known.
    job: Option<u64>,
    /// Its job was there once and may have come to its end.
    perhaps_over: bool,
    /// Confirmed once, and found gone after a crash that it did not have to survive.
    lost: bool,
}

pub type IntentRef = usize;

/// A delivery that somebody received.
#[derive(Debug, Clone)]
struct Delivery {
    attempt: u16,
    source: Source,
    conn: ConnRef,
    safe: Safe,
    received: Event,
    /// The lease lasts at least until then, by the server's clock.
    lease_ms: u64,
    /// What the last extension of it survives.
    extended: Option<Safe>,
    /// Settlements sent under it that may have ended it.
    touched: BTreeSet<RequestRef>,
    /// Extensions that may be applied.
    extends: BTreeSet<RequestRef>,
    /// What ended it, for certain.
    settled: Option<(RequestRef, Safe)>,
}

/// What brought a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The answer to a RESERVE.
    Reserve(RequestRef),
    /// A push of a subscription: when it was asked for, and the clock then.
    Push(Event, u64),
}

/// A job that is or was there.
#[derive(Debug, Clone)]
struct Job {
    intent: IntentRef,
    /// That it was accepted.
    born: Safe,
    /// When that was learnt.
    known_at: Event,
    /// That it is over, and the attempt that was acked if it was an ack.
    over: Option<(Safe, Event, Option<u16>)>,
    /// Requests that may have ended it.
    may_end: BTreeSet<RequestRef>,
    /// It was there at this moment.
    alive_at: Event,
    /// Somebody was told that it is not there.
    perhaps_over: bool,
    ack_sent: bool,
    reject_sent: bool,
    cancel_sent: bool,
    deliveries: Vec<Delivery>,
    /// Its deliveries when the server started, and whether the last one was current then.
    floor: (u16, bool),
}

/// A connection as its client saw it.
#[derive(Debug, Clone)]
struct Conn {
    is_open: bool,
    /// The server had it at least until then, by the server's clock.
    alive_ms: u64,
    /// Hand-outs that are wrong unless the server has lost this connection: when they came, and what to say.
    suspects: Vec<(Event, String)>,
}

pub type ConnRef = usize;

/// Something that may have ended all jobs of a queue.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    request: RequestRef,
    until: Option<Event>,
}

#[derive(Debug)]
struct QueueFacts {
    name: String,
    options: QueueOptions,
    sweeps: Vec<Sweep>,
    /// Since when it certainly is paused.
    paused: Option<Event>,
    pauses: BTreeSet<RequestRef>,
    resumes: BTreeSet<RequestRef>,
    /// When one of them was last sent or answered.
    resume_at: Event,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Oracle {
    trace: Trace,
    /// The server's clock.
    now_ms: u64,
    event: Event,
    boots: u64,
    boot_event: Event,
    grace_ms: u64,
    /// Everything written that was confirmed before this is synced.
    synced_before: Event,
    loss: Option<Loss>,
    /// Power cuts so far.
    power_cuts: u64,
    queues: Vec<QueueFacts>,
    intents: Vec<Intent>,
    stamps: HashMap<u64, Vec<IntentRef>>,
    jobs: BTreeMap<u64, Job>,
    /// Ids that were lost in crashes, and what they were.
    gone: BTreeMap<u64, u64>,
    requests: Vec<requests::Record>,
    conns: Vec<Conn>,
    keys: Vec<keys::Use>,
    order: deliveries::Order,
    pub counts: Counts,
}

/// What was done and checked, so that a run can say that it did something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    pub deliveries: u64,
    pub acks: u64,
    pub refusals: u64,
    pub replays: u64,
    pub restarts: u64,
    pub listed: u64,
    pub lost_as_allowed: u64,
    pub steps: u64,
    pub quiet: u64,
    pub duplicates: u64,
}

impl Counts {
    pub fn listed(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("jobs accepted", self.accepted),
            ("deliveries", self.deliveries),
            ("acks confirmed", self.acks),
            ("requests refused", self.refusals),
            ("answers made again", self.replays),
            ("restarts examined", self.restarts),
            ("jobs listed and checked", self.listed),
            ("jobs lost as their durability allows", self.lost_as_allowed),
            ("atomic steps confirmed", self.steps),
            ("quiet settlements that went well", self.quiet),
            ("duplicates named", self.duplicates),
        ]
    }
}

impl Oracle {
    pub fn new(plan: &Plan, trace: Trace) -> Self {
        let queue = |queue: &crate::plan::QueuePlan| QueueFacts {
            name: queue.name.clone(),
            options: queue.options.clone(),
            sweeps: Vec::new(),
            paused: None,
            pauses: BTreeSet::new(),
            resumes: BTreeSet::new(),
            resume_at: 0,
        };
        Self {
            trace,
            now_ms: 0,
            event: 0,
            boots: 0,
            boot_event: 0,
            grace_ms: u64::from(plan.grace_ms),
            synced_before: 0,
            loss: None,
            power_cuts: 0,
            queues: plan.queues.iter().map(queue).collect(),
            intents: Vec::new(),
            stamps: HashMap::new(),
            jobs: BTreeMap::new(),
            gone: BTreeMap::new(),
            requests: Vec::new(),
            conns: Vec::new(),
            keys: Vec::new(),
            order: deliveries::Order::default(),
            counts: Counts::default(),
        }
    }

    /// What the server's clock says now. To be called before anything happens at another time.
    pub fn clock(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Something for those who read the trace.
    pub fn remark(&self, line: String) {
        self.trace.note(line);
    }

    fn tick(&mut self) -> Event {
        self.event += 1;
        self.event
    }

    /// Whether a fact is still one after the last crash.
    fn survived(&self, safe: Safe) -> bool {
        match (safe, self.loss) {
            (_, None) | (Safe::Synced, _) => true,
            (Safe::Memory, Some(_)) => false,
            (Safe::Written(_), Some(Loss::Kill | Loss::Orderly)) => true,
            (Safe::Written(event), Some(Loss::Power)) => event < self.synced_before,
        }
    }

    /// A fact of that level, learnt now.
    fn safe(&self, level: Durability) -> Safe {
        match level {
            Durability::Memory => Safe::Memory,
            Durability::Written => Safe::Written(self.event),
            Durability::Synced => Safe::Synced,
        }
    }

    /// A client's connection was made.
    pub fn conn_opened(&mut self) -> ConnRef {
        self.tick();
        self.conns.push(Conn {
            is_open: true,
            alive_ms: 0,
            suspects: Vec::new(),
        });
        self.conns.len() - 1
    }

    /// A client saw the end of its connection.
    pub fn conn_closed(&mut self, conn: ConnRef) {
        self.tick();
        self.conns[conn].is_open = false;
        self.conns[conn].suspects.clear();
    }

    /// Something that was sent at `sent` was answered on that connection, so the server had it then.
    pub fn conn_alive(&mut self, conn: ConnRef, sent: Event, sent_ms: u64) {
        let conn = &mut self.conns[conn];
        conn.alive_ms = conn.alive_ms.max(sent_ms);
        if let Some((_, text)) = conn.suspects.iter().find(|(at, _)| *at < sent) {
            broken!(
                "two-leases",
                "{text}; and the connection of the first was never lost"
            );
        }
    }

    /// Now, as an event and by the server's clock.
    pub fn moment(&mut self) -> (Event, u64) {
        (self.tick(), self.now_ms)
    }

    /// Whether a session's answered request must be remembered by somebody who is asked at `asked`: its effect was
    /// logged and has survived.
    pub fn must_remember(&self, request: RequestRef, asked: Event) -> bool {
        let record = &self.requests[request];
        match record.verdict {
            Verdict::Applied(Safe::Memory) => false,
            Verdict::Applied(_) => record.is_logged && self.was_answered(request, asked),
            _ => false,
        }
    }

    /// Whether that a request was applied was known before `asked`.
    pub fn was_answered(&self, request: RequestRef, asked: Event) -> bool {
        (1..asked).contains(&self.requests[request].answered)
    }

    /// Jobs that were handed to somebody, for those who like to meddle.
    pub fn known_jobs(&self) -> Vec<JobId> {
        self.jobs
            .iter()
            .filter(|(_, job)| job.over.is_none())
            .map(|(id, _)| JobId(*id))
            .collect()
    }

    /// Makes an intent known, before its request is.
    pub fn intend(&mut self, mut intent: Intent) -> IntentRef {
        intent.request = self.requests.len();
        self.stamps
            .entry(intent.stamp)
            .or_default()
            .push(self.intents.len());
        self.intents.push(intent);
        self.intents.len() - 1
    }
}

impl Intent {
    #[allow(
        clippy::too_many_arguments,
        reason = "a flat list of what a job is asked for with"
    )]
    pub fn new(
        stamp: u64,
        queue: usize,
        key: Option<u64>,
        options: &ackring::JobOptions<'_>,
        payload_len: usize,
        meta_len: usize,
        level: Durability,
    ) -> Self {
        Self {
            stamp,
            queue,
            key,
            priority: options.priority,
            delay_ms: options.delay_ms,
            ttl_ms: options.ttl_ms,
            lease_ms: options.lease_ms,
            max_attempts: options.max_attempts,
            payload_len,
            meta_len,
            level,
            request: 0,
            job: None,
            perhaps_over: false,
            lost: false,
        }
    }
}

/// The metadata of a job with that stamp: at least the stamp itself.
pub fn meta_of(stamp: u64, len: usize) -> Vec<u8> {
    let mut meta = stamp.to_le_bytes().to_vec();
    meta.resize(len.max(8), stamp as u8);
    meta
}

/// The payload of a job with that stamp.
pub fn payload_of(stamp: u64, len: usize) -> Vec<u8> {
    let mut dice = crate::rng::Rng::new(stamp, "payload");
    let mut payload = Vec::with_capacity(len + 8);
    while payload.len() < len {
        payload.extend_from_slice(&dice.next().to_le_bytes());
    }
    payload.truncate(len);
    payload
}

/// The stamp that a job's metadata begins with.
fn stamp_of(meta: &[u8]) -> Option<u64> {
    meta.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
