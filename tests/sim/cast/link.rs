//! One connection: greets, opens the queues, sends, reads, tells the oracle.

use super::party::{Held, Party};
use super::{Mood, Stage};
use crate::actor::Actor;
use crate::oracle::{Answer, ConnRef, Event, Seen};
use crate::plan::Role;
use crate::rng::Rng;
use ackring::wire::{
    DeliverEntry, DeliveryBatch, ErrorReply, Frame, FrameDecoder, Header, Hello, Op, Outcome, Welcome,
    compose, response,
};
use ackring::{Class, ErrorCode, JobId, limits};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Without an answer for this long a client connects anew, in milliseconds.
const PATIENCE_MS: u64 = 3_000;

/// The same where nothing goes wrong but time, which may jump.
const CALM_PATIENCE_MS: u64 = 600_000;

/// What an answer will be the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Hello,
    Open(usize),
    /// A request of the party, under its key there.
    Request(u64),
    /// A request that was answered before, sent once more.
    Again(crate::oracle::RequestRef),
    /// The same, answered only where something of it was not applied.
    Quiet(u64),
    /// A PING behind quiet requests.
    Silence,
    Subscribe,
    Get(u64),
    /// Something that is only looked at.
    Look,
    Nothing,
}

/// How far the conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Talk {
    Closed,
    Greeting,
    Open,
}

pub struct Link {
    pub party: Rc<RefCell<Party>>,
    pub stage: Rc<Stage>,
    pub dice: Rng,
    pub conn: Option<ConnRef>,
    talk: Talk,
    decoder: FrameDecoder,
    pub out: Vec<u8>,
    /// What was sent and is not answered, with when.
    pub sent: HashMap<u32, (What, (Event, u64))>,
    next_correlation: u32,
    /// Queue handles, as far as they are known.
    pub handles: Vec<Option<u32>>,
    by_handle: HashMap<u32, usize>,
    /// Subscriptions, and when they were asked for.
    pub subscriptions: HashMap<u32, (Event, u64)>,
    pub next_ms: u64,
    /// It stays away until then.
    pub away_until_ms: u64,
    /// It has heard nothing for long, or was told to go.
    gives_up: bool,
    pub heard_ms: u64,
    pub said_ms: u64,
    now_ms: u64,
    pub drain: super::drain::Drain,
}

/// No server asks a client to wait for longer.
const RETRY_MS_MAX: u64 = 60_000;

impl Link {
    pub fn new(party: Rc<RefCell<Party>>, stage: Rc<Stage>, dice: Rng) -> Self {
        let queues = stage.plan.queues.len();
        Self {
            party,
            stage,
            dice,
            conn: None,
            talk: Talk::Closed,
            decoder: FrameDecoder::new(limits::FRAME_BYTES_MAX),
            out: Vec::new(),
            sent: HashMap::new(),
            next_correlation: 1,
            handles: vec![None; queues],
            by_handle: HashMap::new(),
            subscriptions: HashMap::new(),
            next_ms: 0,
            away_until_ms: 0,
            gives_up: false,
            heard_ms: 0,
            said_ms: 0,
            now_ms: 0,
            drain: super::drain::Drain::default(),
        }
    }

    pub fn role(&self) -> Role {
        self.party.borrow().plan.role
    }

    pub fn is_ready(&self) -> bool {
        self.talk == Talk::Open && self.handles.iter().any(Option::is_some)
    }

    /// A correlation for something that is sent now.
    pub fn expect(&mut self, what: What) -> u32 {
        let moment = self.stage.oracle.borrow_mut().moment();
        self.expect_since(what, moment)
    }

    fn expect_since(&mut self, what: What, moment: (Event, u64)) -> u32 {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        self.sent.insert(correlation, (what, moment));
        correlation
    }

    fn greet(&mut self) {
        let plan = self.party.borrow().plan.clone();
        let correlation = self.expect(What::Hello);
        let hello = Hello {
            heartbeat_ms: match self.stage.mood.get() {
                Mood::Work => plan.heartbeat_ms,
                // Time may jump further than any heartbeat, and no connection is lost any more.
                _ => 0,
            },
            ..Hello::new(plan.session, "sim")
        };
        hello.encode(&mut self.out, correlation);
        for queue in 0..self.handles.len() {
            self.open_queue(queue);
        }
    }

    /// Makes the queue if it is not there; both answer its handle.
    pub fn open_queue(&mut self, queue: usize) {
        self.handles[queue] = None;
        let correlation = self.expect(What::Open(queue));
        let plan = &self.stage.plan.queues[queue];
        compose::queue_create(&mut self.out, correlation, 0, &plan.name, &plan.options);
    }

    /// Sends an open request, or sends it again.
    pub fn send(&mut self, key: u64) {
        let Some(conn) = self.conn else { return };
        let party = self.party.clone();
        let mut party = party.borrow_mut();
        let Some(pending) = party.pending.get_mut(&key) else {
            return;
        };
        let handles: Option<Vec<u32>> = pending.queues.iter().map(|queue| self.handles[*queue]).collect();
        let Some(handles) = handles else { return };
        pending.on = Some(conn);
        let moment = self.stage.oracle.borrow_mut().sent(pending.request, conn);
        let what = if pending.is_quiet {
            What::Quiet(key)
        } else {
            What::Request(key)
        };
        let correlation = self.expect_since(what, moment);
        put(&mut self.out, &pending.frame, correlation, &handles);
    }

    /// Asks for an answer behind quiet requests.
    fn listen(&mut self) {
        let is_quiet = |(what, _): &(What, _)| matches!(what, What::Quiet(_));
        let asks = self.sent.values().any(|(what, _)| *what == What::Silence);
        if !asks && self.sent.values().any(is_quiet) {
            let correlation = self.expect(What::Silence);
            compose::ping(&mut self.out, correlation);
        }
    }

    /// Sends an answered request once more, which must change nothing.
    pub fn send_again(&mut self) {
        let Some(conn) = self.conn else { return };
        let party = self.party.clone();
        let party = party.borrow();
        if party.answered.is_empty() {
            return;
        }
        let which = self.dice.below(party.answered.len() as u64) as usize;
        let pending = &party.answered[which];
        let handles: Option<Vec<u32>> = pending.queues.iter().map(|queue| self.handles[*queue]).collect();
        let Some(handles) = handles else { return };
        let moment = self.stage.oracle.borrow_mut().sent(pending.request, conn);
        let correlation = self.expect_since(What::Again(pending.request), moment);
        put(&mut self.out, &pending.frame, correlation, &handles);
    }

    /// Sends what is open and not under way anywhere.
    fn resend(&mut self) {
        let keys: Vec<u64> = {
            let party = self.party.borrow();
            let idle = |pending: &super::party::Pending| {
                // Later than any server asks for: the wall clock was set back meanwhile.
                let is_due = pending.retry_ms <= self.now_ms || pending.retry_ms > self.now_ms + RETRY_MS_MAX;
                pending.on.is_none() && is_due
            };
            let idle = party.pending.iter().filter(|(_, pending)| idle(pending));
            idle.map(|(key, _)| *key).collect()
        };
        keys.into_iter().for_each(|key| self.send(key));
    }

    fn read(&mut self, frame: Frame<'_>) {
        let header = *frame.header;
        if header.is_push() {
            return self.pushed(&header, frame.body);
        }
        if header.correlation.get() == 0 {
            // The server says why it closes the connection.
            self.gives_up = true;
            return;
        }
        let Some((what, sent)) = self.sent.remove(&header.correlation.get()) else {
            panic!("an answer to nothing: {header:?}");
        };
        let Some(conn) = self.conn else { return };
        let error = header.is_error().then(|| {
            let reply = ErrorReply::decode(frame.body).expect("an error reply");
            let code = ErrorCode::from_u16(reply.number).expect("a known code");
            (code, reply)
        });
        if let Some((code, reply)) = &error {
            let oracle = self.stage.oracle.borrow();
            oracle.remark(format!("{what:?} on {conn} is refused: {code}: {}", reply.text));
        }
        if !matches!(what, What::Request(_) | What::Quiet(_) | What::Again(_)) {
            self.stage.oracle.borrow_mut().conn_alive(conn, sent.0, sent.1);
        }
        match (what, error) {
            (What::Hello, None) => self.welcomed(frame.body, sent.0),
            (What::Hello, Some((code, reply))) => {
                assert!(
                    code.class() == Class::Reconnect,
                    "HELLO is answered {code}: {}",
                    reply.text
                );
                self.gives_up = true;
            }
            (What::Open(queue), None) => {
                let handle = response::decode_handle(frame.body).expect("a handle");
                self.handles[queue] = Some(handle);
                self.by_handle.insert(handle, queue);
            }
            // A full log makes no queue before jobs of others are worked off, and the drainer, who does that, waits for
            // everybody to come to an end.
            (What::Open(queue), Some((ErrorCode::LogFull, _))) if self.stage.mood.get() == Mood::Finish => {
                self.party.borrow_mut().give_up(queue);
            }
            // No space for it: once more, later.
            (What::Open(_) | What::Nothing | What::Silence | What::Look, Some(_)) => {}
            (What::Request(key) | What::Quiet(key), error) => {
                self.request_answered(key, sent, &header, frame.body, error)
            }
            (What::Again(request), error) => {
                let answer = self.answer(&header, frame.body, error.map(|(code, _)| code));
                self.stage
                    .oracle
                    .borrow_mut()
                    .answered(request, conn, sent, answer);
            }
            (What::Subscribe, None) => {
                let subscription = response::decode_handle(frame.body).expect("a subscription");
                self.subscriptions.insert(subscription, sent);
            }
            (What::Subscribe, Some(_)) => {}
            (What::Get(_), None) => {
                let status = response::decode_job(frame.body).expect("a status");
                self.stage.oracle.borrow_mut().saw(sent.0, &status);
            }
            (What::Get(id), Some((ErrorCode::JobNotFound, _))) => self.stage.oracle.borrow_mut().saw_none(id),
            (What::Get(_), Some((code, _))) => {
                assert!(is_end(code), "JOB_GET is answered {code}");
            }
            (What::Look, None) => self.looked(sent.0, &header, frame.body),
            (What::Silence, None) => self.heard_nothing(header.correlation.get(), conn),
            (What::Nothing, None) => {}
        }
    }

    fn looked(&mut self, sent: Event, header: &Header, body: &[u8]) {
        match header.answered_op() {
            Some(Op::JobList | Op::JobPeek) => {
                let (jobs, _) = response::decode_jobs(body).expect("a page of jobs");
                let oracle = self.stage.oracle.clone();
                jobs.iter().for_each(|job| oracle.borrow_mut().saw(sent, job));
            }
            Some(Op::QueueList) => {
                let (queues, _) = response::decode_queue_list(body).expect("a page of queues");
                self.drain.listed = Some(queues);
            }
            _ => {}
        }
    }

    fn welcomed(&mut self, body: &[u8], asked: Event) {
        let welcome = Welcome::decode(body).expect("an answer to HELLO");
        self.talk = Talk::Open;
        let party = self.party.clone();
        let mut party = party.borrow_mut();
        if welcome.session_known || !party.is_numbered() {
            return;
        }
        let remembered = {
            let oracle = self.stage.oracle.borrow();
            let window = party.next_number.saturating_sub(limits::SESSION_WINDOW);
            let mut answered = party.answered.iter();
            answered
                .find(|one| one.number > window && oracle.must_remember(one.request, asked))
                .map(|one| one.request)
        };
        if let Some(request) = remembered {
            panic!("CHECK session-forgotten: the server forgot a session although request {request} is safe");
        }
        // Something was answered once, so what is open may or may not have been applied.
        let was_answered = {
            let oracle = self.stage.oracle.borrow();
            let mut answered = party.answered.iter();
            answered.any(|one| oracle.was_answered(one.request, asked))
        };
        if was_answered {
            party.forgotten();
        }
    }

    /// The answer to a request behind quiet ones: what of those was not answered before was applied, all of it.
    fn heard_nothing(&mut self, behind: u32, conn: ConnRef) {
        let mut quiet: Vec<(u32, u64)> = Vec::new();
        for (correlation, (what, _)) in &self.sent {
            if let What::Quiet(key) = what
                && *correlation < behind
            {
                quiet.push((*correlation, *key));
            }
        }
        quiet.sort_unstable();
        for (correlation, key) in quiet {
            let Some((_, sent)) = self.sent.remove(&correlation) else {
                continue;
            };
            let mut party = self.party.borrow_mut();
            if let Some(pending) = party.pending.get(&key) {
                let request = pending.request;
                self.stage
                    .oracle
                    .borrow_mut()
                    .applied_quietly(request, conn, sent);
                party.close(key, false);
            }
        }
    }

    fn request_answered(
        &mut self,
        key: u64,
        sent: (Event, u64),
        header: &Header,
        body: &[u8],
        error: Option<(ErrorCode, ErrorReply)>,
    ) {
        let Some(conn) = self.conn else { return };
        let Some(request) = self
            .party
            .borrow()
            .pending
            .get(&key)
            .map(|pending| pending.request)
        else {
            // Answered on another connection before.
            return;
        };
        let code = error.as_ref().map(|(code, _)| *code);
        let answer = self.answer(header, body, code);
        if let Answer::Deliveries(seen) = &answer {
            self.hold(seen);
        }
        let is_repeatable = match &answer {
            Answer::Outcome(outcome) => outcome.head.count > 0,
            Answer::Deliveries(seen) => !seen.is_empty(),
            Answer::Refused(_) => false,
        };
        self.stage
            .oracle
            .borrow_mut()
            .answered(request, conn, sent, answer);
        if self.drain.waits_for == Some(key) {
            self.drain.refused = code;
        }
        let retries = self.retries(key, code, error.map_or(0, |(_, reply)| reply.retry_ms));
        if !retries {
            if code.is_some_and(|code| code.class() == Class::OutcomeUnknown) {
                self.stage.oracle.borrow_mut().abandoned(request);
            }
            self.party.borrow_mut().close(key, is_repeatable);
        }
    }

    /// Whether a refused request is tried again, and sees to it.
    fn retries(&mut self, key: u64, code: Option<ErrorCode>, retry_ms: u32) -> bool {
        let Some(code) = code else { return false };
        if code == ErrorCode::QueueNotFound {
            (0..self.handles.len()).for_each(|queue| self.open_queue(queue));
        }
        let works = self.stage.mood.get() == Mood::Work || self.role() == Role::Drainer;
        let again = match code {
            ErrorCode::InProgress => true,
            code if is_end(code) => self.party.borrow().is_numbered(),
            ErrorCode::LogFull if self.role() == Role::Drainer => self.insists(),
            ErrorCode::QueueFull | ErrorCode::SlabFull | ErrorCode::LogFull | ErrorCode::LimitReached => {
                works && self.role() != Role::Drainer && self.dice.per_mille(500)
            }
            ErrorCode::QueueNotFound => works && self.role() != Role::Drainer && self.dice.per_mille(500),
            _ => false,
        };
        let mut party = self.party.borrow_mut();
        if let Some(pending) = party.pending.get_mut(&key)
            && again
        {
            pending.on = None;
            pending.retry_ms = self.now_ms + u64::from(retry_ms.max(1));
        }
        again
    }

    fn answer(&self, header: &Header, body: &[u8], error: Option<ErrorCode>) -> Answer {
        if let Some(code) = error {
            return Answer::Refused(code);
        }
        match header.answered_op() {
            Some(Op::Reserve) => Answer::Deliveries(self.deliveries(body)),
            _ => Answer::Outcome(Outcome::decode(body).expect("an outcome")),
        }
    }

    fn deliveries(&self, body: &[u8]) -> Vec<Seen> {
        let batch = DeliveryBatch::parse(body)
            .unwrap_or_else(|refusal| panic!("deliveries on {:?}: {refusal}: {body:x?}", self.conn));
        let seen = |item: ackring::wire::DeliveryItem<'_>| {
            let entry = item.entry;
            let handle = entry.queue.get();
            let Some(queue) = self.by_handle.get(&handle) else {
                panic!("a delivery from the queue with handle {handle}, which nobody opened");
            };
            Seen {
                id: entry.id.get(),
                attempt: entry.attempt.get(),
                attempts: entry.attempts.get(),
                max_attempts: entry.max_attempts.get(),
                lease_ms: entry.lease_ms.get(),
                priority: entry.priority,
                redelivered: entry.flags & DeliverEntry::REDELIVERED != 0,
                queue: *queue,
                meta: item.meta().to_vec(),
                payload: item.payload().to_vec(),
            }
        };
        batch.items().map(seen).collect()
    }

    fn pushed(&mut self, header: &Header, body: &[u8]) {
        let subscription = header.aux.get();
        if header.is_error() {
            self.subscriptions.remove(&subscription);
            return;
        }
        let Some(conn) = self.conn else { return };
        let Some(asked) = self.subscriptions.get(&subscription).copied() else {
            panic!("CHECK subscription: a push for subscription {subscription}, which is not there");
        };
        let seen = self.deliveries(body);
        self.stage.oracle.borrow_mut().pushed(conn, asked, &seen);
        self.hold(&seen);
    }

    fn hold(&mut self, seen: &[Seen]) {
        let is_drainer = self.role() == Role::Drainer;
        let mut party = self.party.borrow_mut();
        for one in seen {
            let token = ackring::Token {
                id: JobId(one.id),
                attempt: one.attempt,
            };
            // Some never settle; some only when it is too late.
            let act_ms = match self.dice.below(20) {
                0 if !is_drainer => continue,
                1 => u64::from(one.lease_ms) + self.dice.below(100),
                2..5 => self.dice.below(u64::from(one.lease_ms) + 50),
                _ => self.dice.below(u64::from(one.lease_ms) / 4 + 1),
            };
            let act_ms = if is_drainer { 0 } else { act_ms };
            let known = party.held.iter().any(|held| held.token == token);
            if !known {
                party.held.push(Held {
                    token,
                    act_ms: self.now_ms + act_ms,
                });
            }
        }
    }

    fn is_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.stage.oracle.borrow_mut().clock(now_ms);
    }

    fn stay_alive(&mut self) {
        let is_calm = self.stage.mood.get() != Mood::Work;
        let patience_ms = if is_calm { CALM_PATIENCE_MS } else { PATIENCE_MS };
        if !self.sent.is_empty() && self.now_ms > self.heard_ms + patience_ms {
            self.gives_up = true;
        }
        let heartbeat_ms = u64::from(self.party.borrow().plan.heartbeat_ms);
        let silent = heartbeat_ms > 0 && self.now_ms >= self.said_ms + heartbeat_ms;
        if self.talk == Talk::Open && (silent || self.dice.per_mille(10)) {
            let correlation = self.expect(What::Nothing);
            compose::ping(&mut self.out, correlation);
        }
    }
}

/// Whether the server is about to end.
fn is_end(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::ShuttingDown | ErrorCode::LogPoisoned)
}

/// Puts a composed frame out, with what is only known when it is sent.
fn put(out: &mut Vec<u8>, frame: &[u8], correlation: u32, handles: &[u32]) {
    let start = out.len();
    out.extend_from_slice(frame);
    compose::set_queues(&mut out[start..], handles);
    out[start + 8..start + 12].copy_from_slice(&correlation.to_le_bytes());
}

impl Actor for Link {
    fn connected(&mut self, now_ms: u64) {
        self.is_now(now_ms);
        self.gives_up = false;
        self.conn = Some(self.stage.oracle.borrow_mut().conn_opened());
        self.decoder = FrameDecoder::new(limits::FRAME_BYTES_MAX);
        self.out.clear();
        self.sent.clear();
        self.by_handle.clear();
        self.subscriptions.clear();
        self.handles.fill(None);
        self.talk = Talk::Greeting;
        self.heard_ms = now_ms;
        self.said_ms = now_ms;
        self.greet();
    }

    fn receive(&mut self, bytes: &[u8], now_ms: u64) {
        self.is_now(now_ms);
        self.heard_ms = now_ms;
        if self.conn.is_none() {
            return;
        }
        let mut decoder = std::mem::replace(&mut self.decoder, FrameDecoder::new(limits::FRAME_BYTES_MAX));
        decoder.extend(bytes);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => self.read(frame),
                Ok(None) => break,
                Err(bad) => panic!("CHECK framing: {bad}"),
            }
        }
        self.decoder = decoder;
    }

    fn output(&mut self, now_ms: u64) -> Vec<u8> {
        self.is_now(now_ms);
        if self.conn.is_some() {
            if self.is_ready() {
                self.resend();
                if self.role() == Role::Drainer {
                    self.drain_on(now_ms);
                } else {
                    self.choose(now_ms);
                }
            }
            let missing = self.talk == Talk::Open && self.handles.contains(&None) && self.sent.is_empty();
            if missing && self.dice.per_mille(200) {
                let queues = 0..self.handles.len();
                let unknown: Vec<usize> = queues.filter(|queue| self.handles[*queue].is_none()).collect();
                unknown.into_iter().for_each(|queue| self.open_queue(queue));
            }
            self.listen();
            self.stay_alive();
        }
        if !self.out.is_empty() {
            self.said_ms = now_ms;
        }
        std::mem::take(&mut self.out)
    }

    fn disconnected(&mut self, now_ms: u64) {
        self.is_now(now_ms);
        let Some(conn) = self.conn.take() else { return };
        self.talk = Talk::Closed;
        self.party.borrow_mut().lost(conn);
        let again: Vec<_> = self
            .sent
            .values()
            .filter_map(|(what, _)| match what {
                What::Again(request) => Some(*request),
                _ => None,
            })
            .collect();
        let mut oracle = self.stage.oracle.borrow_mut();
        again.into_iter().for_each(|request| oracle.abandoned(request));
        oracle.conn_closed(conn);
    }

    fn wants_connection(&self, now_ms: u64) -> bool {
        if self.conn.is_some() && self.gives_up {
            return false;
        }
        let is_drainer = self.role() == Role::Drainer;
        let is_drained = self.stage.drained.get();
        match self.stage.mood.get() {
            Mood::Drain => is_drainer && !is_drained,
            _ if is_drainer => false,
            Mood::Work => now_ms >= self.away_until_ms,
            // There may be room for a few only.
            Mood::Finish => !self.party.borrow().is_finished(),
        }
    }
}
