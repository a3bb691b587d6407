//! From a frame to its answer: the greeting and the operations of the hot path.

use super::desk::Desk;
use super::orphans::Lease;
use super::peer::{self, Peer, Stage};
use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{Class, ErrorCode, ItemError, Refusal, Scope};
use crate::base::entry::Verb;
use crate::base::limits;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::engine::{Confirmed, QueueId};
use crate::wire::hello::VERSION;
use crate::wire::{Frame, Hello, Op, OutcomeHead, Reply, Request, Welcome};

/// Who answers, for people.
const SERVER_NAME: &str = concat!("ackring ", env!("CARGO_PKG_VERSION"));

impl Desk {
    /// Carries out one request and appends its answer, unless it waits for jobs.
    pub(super) fn handle(&mut self, peer: &mut Peer, frame: Frame<'_>) {
        let reply = Reply::to(frame.header);
        let is_hello = frame.header.op.get() == Op::Hello as u16;
        if is_hello != (peer.stage == Stage::Greeting) {
            let text = if is_hello {
                "HELLO came twice"
            } else {
                "the first frame must be HELLO"
            };
            return self.refuse(peer, reply, &Refusal::new(ErrorCode::HelloExpected, text));
        }
        self.answer_request(peer, reply, Request::decode(frame.header, frame.body));
    }

    /// Carries out a request that was read, or refuses one that could not be.
    pub(super) fn answer_request(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        request: Result<Request<'_>, Refusal>,
    ) {
        if let Err(refusal) = request.and_then(|request| self.carry_out(peer, reply, request)) {
            self.refuse(peer, reply, &refusal);
        }
    }

    /// Carries out a request, unless one before it has ended the connection.
    pub(super) fn answer_next(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        carry_out: impl FnOnce(&mut Self, &mut Peer) -> Result<(), Refusal>,
    ) {
        if !peer.is_served() {
            return;
        }
        if let Err(refusal) = carry_out(self, peer) {
            self.refuse(peer, reply, &refusal);
        }
    }

    /// Answers a request with an error, and does what the error means for the connection and the server.
    pub(super) fn refuse(&mut self, peer: &mut Peer, reply: Reply, refusal: &Refusal) {
        let mark = peer.outbox.mark();
        reply.error(peer.outbox.buffer(), refusal);
        if refusal.code == ErrorCode::LogPoisoned {
            self.hub.check_log();
        }
        if refusal.code.scope() == Scope::Connection {
            peer.outbox.put_behind_held(mark);
            peer.leave(true);
        }
    }

    fn carry_out(&mut self, peer: &mut Peer, reply: Reply, request: Request<'_>) -> Result<(), Refusal> {
        match request {
            Request::Enqueue {
                number,
                queue,
                durability,
                batch,
            } => self.enqueue(peer, reply, number, QueueId(queue), durability, &batch),
            Request::Settle { number, batch, .. } => self.settle(peer, reply, number, &batch),
            Request::Reserve(request) => self.reserve(peer, reply, &request),
            Request::Step {
                number,
                settlements,
                groups,
            } => self.step(peer, reply, number, settlements.as_ref(), &groups),
            Request::Subscribe(request) => self.subscribe(peer, reply, &request),
            Request::Unsubscribe { subscription } => self.unsubscribe(peer, reply, subscription),
            Request::Hello(hello) => self.greet(peer, reply, &hello),
            Request::Ping => {
                reply.empty(peer.outbox.buffer());
                Ok(())
            }
            other => self.administer(peer, reply, other),
        }
    }

    fn greet(&mut self, peer: &mut Peer, reply: Reply, hello: &Hello<'_>) -> Result<(), Refusal> {
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            let (min, max) = (hello.version_min, hello.version_max);
            let text = format!("this server speaks version {VERSION}, the client {min} to {max}");
            return Err(Refusal::new(ErrorCode::VersionMismatch, text));
        }
        if hello.frame_bytes_max != 0 && hello.frame_bytes_max < limits::FRAME_BYTES_MAX {
            let text = format!("a client takes frames of up to {} bytes", limits::FRAME_BYTES_MAX);
            return Err(Refusal::new(ErrorCode::InvalidArgument, text));
        }
        peer.session = hello.session;
        peer.heartbeat_ms = hello.heartbeat_ms;
        for lease in self.hub.orphans.enter(hello.session) {
            // They count against no window; that of their subscription ended with its connection.
            peer.holdings.add(lease, 0, 0);
        }
        peer.stage = Stage::Open;
        let welcome = Welcome {
            version: VERSION,
            session_known: hello.session != 0 && self.hub.engine.knows_session(hello.session),
            features: 0,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            heartbeat_ms: hello.heartbeat_ms,
            boot: self.hub.boot,
            session_window: limits::SESSION_WINDOW as u32,
            name: SERVER_NAME.to_owned(),
        };
        welcome.encode(peer.outbox.buffer(), reply.correlation());
        Ok(())
    }

    pub(super) fn enqueue(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        queue: QueueId,
        durability: Option<Durability>,
        batch: &EnqueueBatch<'_>,
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        let engine = &self.hub.engine;
        let confirmed = engine.enqueue(queue, batch, durability, request, self.now_ms, &mut self.reply)?;
        self.answer(peer, reply, &confirmed, batch.count(), true);
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        batch: &SettleBatch<'_>,
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        self.reply.clear();
        let engine = &self.hub.engine;
        let confirmed = engine.settle(batch, request, self.now_ms, &mut self.reply.items)?;
        self.account(peer, batch, false);
        self.answer(peer, reply, &confirmed, batch.count(), false);
        Ok(())
    }

    fn step(
        &mut self,
        peer: &mut Peer,
        reply: Reply,
        number: u64,
        settlements: Option<&SettleBatch<'_>>,
        groups: &[(u32, EnqueueBatch<'_>)],
    ) -> Result<(), Refusal> {
        let request = self.request(peer, number);
        let groups: Vec<_> = groups
            .iter()
            .map(|(queue, batch)| (QueueId(*queue), *batch))
            .collect();
        let engine = &self.hub.engine;
        let confirmed = engine.step_atomic(settlements, &groups, request, self.now_ms, &mut self.reply)?;
        let mut total = groups.iter().map(|(_, batch)| batch.count()).sum();
        if let Some(batch) = settlements {
            total += batch.count();
            self.account(peer, batch, true);
        }
        self.answer(peer, reply, &confirmed, total, true);
        Ok(())
    }

    /// Takes settled deliveries off the connection's books. Whatever the engine said about a token, it is settled
    /// or was lost before; only an extended lease goes on.
    pub(super) fn account(&mut self, peer: &mut Peer, batch: &SettleBatch<'_>, is_step: bool) {
        if peer.holdings.is_empty() && self.hub.orphans.is_empty() {
            return;
        }
        let Peer {
            holdings,
            subscriptions,
            session,
            ..
        } = peer;
        // Nothing of a step was refused: its exceptions are about the jobs that it made.
        let refused = if is_step { &[] } else { &self.reply.items[..] };
        let mut free = |freed| peer::free(subscriptions, freed);
        let plain = batch.items().take_while(|item| item.verb != Verb::Extend);
        let known = holdings.remove_oldest(plain.map(|item| item.token), &mut free);
        let mut refused = refused.iter().peekable();
        for (position, settlement) in batch.items().enumerate().skip(known) {
            let token = settlement.token;
            while refused
                .next_if(|item| (item.position as usize) < position)
                .is_some()
            {}
            let is_refused = refused
                .peek()
                .is_some_and(|item| item.position as usize == position);
            if settlement.verb != Verb::Extend || is_refused {
                holdings.remove(token, &mut free);
            } else if let Some(deadline_ms) = self.hub.engine.lease_end_ms(token) {
                let lease = Lease { token, deadline_ms };
                if !holdings.extend(lease, &mut free) && self.hub.orphans.adopt(*session, token) {
                    // It counts against no window, as those taken over in the greeting.
                    holdings.add(lease, 0, 0);
                }
            }
        }
        self.line_up_again(peer);
    }

    /// Appends the outcome in the work space, unless nobody wants to hear it.
    fn answer(&mut self, peer: &mut Peer, reply: Reply, confirmed: &Confirmed, total: usize, has_ids: bool) {
        let failures = self.reply.items.iter().filter(|item| is_failure(item)).count();
        if reply.is_quiet() && failures == 0 {
            return;
        }
        let count = total - failures;
        let (level, until) = if reply.is_quiet() && !is_planted(Plant::HoldQuiet) {
            // It comes before the answers to later requests, which tell by coming that nothing went wrong. So it waits
            // for nothing, and promises no more than that.
            (confirmed.level.min(Durability::Written), None)
        } else {
            self.promise(confirmed)
        };
        let head = OutcomeHead {
            level: (count > 0).then_some(level),
            replayed: confirmed.replayed,
            count: count as u32,
        };
        let ids = if has_ids { &self.reply.ids[..] } else { &[] };
        let mark = peer.outbox.mark();
        reply.outcome(peer.outbox.buffer(), head, ids, &self.reply.items);
        self.hold(peer, mark, until);
    }

    /// Appends the outcome of a request of which all `count` jobs went the plain way.
    pub(super) fn answer_plain(
        &self,
        peer: &mut Peer,
        reply: Reply,
        confirmed: &Confirmed,
        ids: &[u64],
        count: usize,
    ) {
        let (level, until) = self.promise(confirmed);
        let head = OutcomeHead {
            level: Some(level),
            replayed: confirmed.replayed,
            count: count as u32,
        };
        let mark = peer.outbox.mark();
        reply.outcome(peer.outbox.buffer(), head, ids, &[]);
        self.hold(peer, mark, until);
    }

    /// Appends the outcome of a request that answers no ids, with the exceptions in the work space.
    pub(super) fn answer_count(&mut self, peer: &mut Peer, reply: Reply, confirmed: &Confirmed, count: u64) {
        let (level, until) = self.promise(confirmed);
        let head = OutcomeHead {
            level: Some(level),
            replayed: confirmed.replayed,
            count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        let mark = peer.outbox.mark();
        reply.outcome(peer.outbox.buffer(), head, &[], &self.items);
        self.hold(peer, mark, until);
    }
}

/// Whether an exception is no success.
pub(super) fn is_failure(item: &ItemError) -> bool {
    item.code.class() != Class::Success
}
