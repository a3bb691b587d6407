//! Settlements: ack, nack, reject, release, extend. Each needs the token of the current delivery (G2).

use super::change::{Cause, Change, ChangeSet, Logged};
use super::enqueue::{already_applied, not_fresh};
use super::journal::{self, Kind};
use super::queue::QueueId;
use super::replay::{Applied, Begun, RequestId};
use super::slot::{Phase, StateWord};
use super::{Confirmed, Engine, log_refusal, replayed};
use crate::base::batch::{SettleBatch, Settlement};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::entry::{SettleEntry, Verb};
use crate::base::job::Token;
use crate::base::limits::DELIVERIES_MAX;
use crate::base::queue::Durability;
use crate::base::sync::{spin_hint, yield_now};
use std::collections::HashSet;

impl Engine {
    /// Settles deliveries. What was not plainly done comes in `items`: `LEASE_LOST` and `JOB_NOT_FOUND` change
    /// nothing, `ALREADY_SETTLED` is a success.
    ///
    /// # Errors
    /// A [`Refusal`] that holds for the whole batch: nothing was settled.
    pub fn settle(
        &self,
        batch: &SettleBatch<'_>,
        request: RequestId,
        now_ms: u64,
        items: &mut Vec<ItemError>,
    ) -> Result<Confirmed, Refusal> {
        items.clear();
        self.check_open()?;
        match self.sessions.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_settle(applied, batch, items),
            other => return Err(not_fresh(other)),
        }
        let mut set = ChangeSet::default();
        for (position, settlement) in batch.items().enumerate() {
            if let Err(code) = self.take_settlement(&settlement, now_ms, &mut set) {
                items.push(ItemError {
                    position: position as u32,
                    code,
                });
            }
        }
        match self.log_changes(&mut set, request, now_ms) {
            Ok(logged) => {
                let level = self.apply(&set, now_ms);
                self.sessions.finish(
                    request,
                    Applied {
                        position: logged.at,
                        volatile: false,
                    },
                );
                Ok(self.confirmed(level, logged, items))
            }
            Err(error) => {
                self.undo(&set);
                self.sessions.abandon(request);
                items.clear();
                Err(log_refusal(error))
            }
        }
    }

    /// What a settlement promises. A repeated ack is answered as durable only once the first one is: the tail
    /// lies behind its record.
    pub(super) fn confirmed(&self, level: Durability, logged: Logged, items: &[ItemError]) -> Confirmed {
        let repeated = items.iter().any(|item| item.code == ErrorCode::AlreadySettled);
        let position = if repeated && self.logged {
            Some(self.durable.tail())
        } else {
            logged.end
        };
        let level = if position.is_none() {
            Durability::Memory
        } else {
            level.max(Durability::Written)
        };
        Confirmed {
            level,
            position,
            replayed: false,
        }
    }

    /// Takes the job of a settlement and says what becomes of it, or why not.
    pub(super) fn take_settlement<'a>(
        &self,
        settlement: &Settlement<'a>,
        now_ms: u64,
        set: &mut ChangeSet<'a>,
    ) -> Result<(), ErrorCode> {
        let before = self.take_leased(settlement.token, settlement.verb, set)?;
        let number = settlement.token.id.slot();
        if settlement.verb == Verb::Ack && settlement.note.is_none() {
            set.done.push((number, before));
            return Ok(());
        }
        let slot = self.slab.slot(number);
        let mut fields = slot.fields();
        let queue_lease_ms = self
            .registry
            .get(QueueId(fields.queue))
            .map_or(0, |queue| queue.options.lease_ms);
        let change = match settlement.verb {
            Verb::Ack => Change::to(number, before, fields, Phase::Done, Cause::Ack, now_ms),
            Verb::Nack => {
                let delay_ms = (settlement.arg != SettleEntry::BACKOFF).then_some(u64::from(settlement.arg));
                Change::retried(
                    self,
                    number,
                    before,
                    fields,
                    Cause::Failure,
                    delay_ms,
                    now_ms,
                    settlement.note,
                )
            }
            Verb::Reject => {
                fields.failures = fields.failures.saturating_add(1);
                Change::to(number, before, fields, Phase::Dead, Cause::Failure, now_ms)
            }
            Verb::Release => {
                // One more delivery is allowed, so that this one does not count as an attempt.
                fields.releases = fields.releases.saturating_add(1);
                fields.limit = fields.limit.saturating_add(1);
                let to = if before.attempt() >= DELIVERIES_MAX {
                    Phase::Dead
                } else if fields.expires_ms != 0 && fields.expires_ms <= now_ms {
                    Phase::Expired
                } else {
                    Phase::Ready
                };
                Change::to(number, before, fields, to, Cause::Release, now_ms)
            }
            Verb::Extend => {
                let lease_ms = match (settlement.arg, fields.lease_ms) {
                    (0, 0) => queue_lease_ms,
                    (0, job) => job,
                    (asked, _) => asked,
                };
                let until_ms = now_ms + u64::from(lease_ms);
                Change::to(number, before, fields, Phase::Leased, Cause::Extension, until_ms)
            }
        };
        set.changes.push(Change {
            note: settlement.note,
            ..change
        });
        Ok(())
    }

    /// Takes a leased job by its token: Leased to Busy. Returns the word before.
    fn take_leased(&self, token: Token, verb: Verb, set: &ChangeSet<'_>) -> Result<StateWord, ErrorCode> {
        let slot = self.slab.get(token.id.slot()).ok_or(ErrorCode::JobNotFound)?;
        let mut looks = 0u32;
        loop {
            let word = slot.state();
            if word.generation() != token.id.generation()
                || matches!(word.phase(), Phase::Free | Phase::Zombie)
            {
                return Err(ErrorCode::JobNotFound);
            }
            match word.phase() {
                Phase::Busy if word.attempt() != token.attempt => return Err(ErrorCode::LeaseLost),
                // The same delivery twice in one batch: the first mention decides.
                Phase::Busy if set.holds(token.id.slot()) => {
                    return Err(if verb == Verb::Ack {
                        ErrorCode::AlreadySettled
                    } else {
                        ErrorCode::LeaseLost
                    });
                }
                // Somebody settles or expires this very delivery; what it comes to decides the answer.
                Phase::Busy => wait_a_little(&mut looks),
                Phase::Leased if word.attempt() == token.attempt => {
                    if slot.exchange(word, word.with_phase(Phase::Busy)).is_ok() {
                        return Ok(word);
                    }
                }
                Phase::Done if verb == Verb::Ack && word.attempt() == token.attempt => {
                    return Err(ErrorCode::AlreadySettled);
                }
                _ => return Err(ErrorCode::LeaseLost),
            }
        }
    }

    /// Makes the answer to a settlement again from its record: what stands there was done.
    fn replay_settle(
        &self,
        applied: Applied,
        batch: &SettleBatch<'_>,
        items: &mut Vec<ItemError>,
    ) -> Result<Confirmed, Refusal> {
        let settled: Option<HashSet<u64>> = self.with_record(applied, |kind, body| {
            let body = match kind {
                Kind::Change => journal::parse_change(body)?,
                Kind::Step => journal::parse_change(journal::parse_step(body)?.0)?,
                _ => return None,
            };
            let done = body.done.iter().map(|entry| entry.id.get());
            Some(
                done.chain(body.changes.iter().map(|entry| entry.id.get()))
                    .collect(),
            )
        });
        let settled = settled.ok_or_else(already_applied)?;
        for (position, settlement) in batch.items().enumerate() {
            if !settled.contains(&settlement.token.id.0) {
                let known = self.job(settlement.token.id).is_ok();
                let code = if known {
                    ErrorCode::LeaseLost
                } else {
                    ErrorCode::JobNotFound
                };
                items.push(ItemError {
                    position: position as u32,
                    code,
                });
            }
        }
        Ok(replayed(applied))
    }
}

/// Waits for the owner of a Busy slot, which only has to finish a short piece of work: spins first, then lets
/// others run, since on a busy machine the owner may have lost its core.
pub(super) fn wait_a_little(looks: &mut u32) {
    *looks += 1;
    if *looks < 64 {
        spin_hint();
    } else {
        yield_now();
    }
}
