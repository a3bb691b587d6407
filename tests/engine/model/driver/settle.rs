//! Settlements as drawn, by themselves and in atomic steps, and what must come of them.

use super::super::reference::Settled;
use super::Driver;
use super::again::{Call, Sent};
use super::enqueue::Draft;
use ackring::engine::{EnqueueReply, QueueId, RequestId};
use ackring::{
    Durability, EnqueueBatch, ErrorCode, ItemError, JobId, JobState, Refusal, SettleBatch, SettleBuilder,
    Token, Verb,
};
use std::collections::BTreeMap;

#[derive(Clone)]
pub(super) struct Settling {
    pub(super) token: Token,
    pub(super) verb: Verb,
    pub(super) arg: Option<u64>,
    pub(super) note: Option<Vec<u8>>,
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

impl Driver {
    pub(super) fn draw_settling(&mut self) -> Option<Settling> {
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

    pub(super) fn encode_settlings(settlings: &[Settling]) -> Vec<u8> {
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

    pub(super) fn send_settle(
        &self,
        settlings: &[Settling],
        request: RequestId,
    ) -> Result<Vec<ItemError>, Refusal> {
        let bytes = Self::encode_settlings(settlings);
        let batch = SettleBatch::parse(settlings.len(), &bytes).unwrap();
        let mut items = Vec::new();
        self.engine()
            .settle(&batch, request, self.now_ms, &mut items)
            .map(|_| items)
    }

    /// What must come of each, by the model; nothing is changed.
    pub(super) fn expect(&self, settlings: &[Settling]) -> Vec<Settled> {
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

    pub(super) fn carry_out(&mut self, settlings: &[Settling], expected: &[Settled]) -> bool {
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

    pub(super) fn settle(&mut self) {
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

    pub(super) fn send_step(
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

    pub(super) fn step_atomic(&mut self) {
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
