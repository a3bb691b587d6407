//! Numbered requests that come again.

use super::Driver;
use super::enqueue::Draft;
use super::settle::Settling;
use crate::world::Collect;
use ackring::engine::{QueueId, RequestId};
use ackring::{Durability, ErrorCode, ItemError, JobId, JobState, Token};

/// A numbered request with what was answered, to be sent again.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Enqueue(usize, Vec<Draft>, Option<Durability>),
    Settle(Vec<Settling>),
    Step(Vec<Settling>, Vec<(usize, Vec<Draft>)>),
    Reserve(Vec<usize>, usize),
    Cancel(Vec<JobId>),
}

#[derive(Debug, Clone)]
pub struct Sent {
    pub(super) request: RequestId,
    pub(super) call: Call,
    pub(super) ids: Vec<u64>,
    pub(super) items: Vec<ItemError>,
    pub(super) tokens: Vec<Token>,
    /// Something of it is in the durable log, so a restart knows it.
    pub logged: bool,
    /// After how many entries of the history.
    pub op: u64,
}

impl Driver {
    pub(super) fn remember(&mut self, sent: Sent) {
        if sent.request.is_numbered() {
            self.sent.push(sent);
            if self.sent.len() > 200 {
                self.sent.remove(0);
            }
        }
    }

    /// A numbered request comes again: same answer, and nothing changes.
    pub(super) fn resend(&mut self) {
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

    pub(super) fn resend_reserve(&mut self, sent: &Sent, queues: &[usize], max: usize) {
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
}
