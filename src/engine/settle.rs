//! Settlements: ack, nack, reject, release, extend. Each needs the token of the current delivery (G2).

use super::change::{Cause, Change, ChangeSet, Logged};
use super::enqueue::{already_applied, not_fresh};
use super::journal::{self, Kind};
use super::queue::QueueId;
use super::replay::{Applied, Begun, RequestId};
use super::word::{Phase, StateWord};
use super::{Confirmed, Engine, replayed};
use crate::base::batch::{SettleBatch, Settlement};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::entry::{SettleEntry, Verb};
use crate::base::job::{JobId, Token};
use crate::base::limits::DELIVERIES_MAX;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::base::sync::{spin_hint, yield_now};

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
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_settle(applied, items),
            other => return Err(not_fresh(other)),
        }
        let mut set = ChangeSet::default();
        self.take_settlements(batch, now_ms, &mut set, items);
        let done = self.carry_out(&mut set, request, now_ms, items);
        if set.is_empty() || done.is_err() {
            // Nothing was done, so nothing needs to be remembered: asked again, the answer is no other.
            self.sessions.abandon(request);
        }
        if done.is_err() {
            items.clear();
        }
        done
    }

    /// Takes what the batch settles; what is refused comes in `items`.
    pub(super) fn take_settlements<'a>(
        &self,
        batch: &SettleBatch<'a>,
        now_ms: u64,
        set: &mut ChangeSet<'a>,
        items: &mut Vec<ItemError>,
    ) {
        let plain = if batch.is_plain() {
            self.take_acks(batch.entries(), set)
        } else {
            0
        };
        if plain == batch.count() {
            return;
        }
        for (position, settlement) in batch.items().enumerate().skip(plain) {
            match self.take_settlement(&settlement, now_ms, set, Patience::Limited) {
                Ok(()) => {}
                Err(NotTaken::Refused(code)) => items.push(ItemError {
                    position: position as u32,
                    code,
                }),
                Err(NotTaken::Contended) => {
                    self.undo(set);
                    set.clear();
                    items.clear();
                    return self.take_in_order(batch, now_ms, set, items);
                }
            }
        }
    }

    /// As [`take_settlements`](Self::take_settlements), slot by slot in ascending order. Whoever waits for a slot
    /// while holding others takes them in this order, so that no two wait for each other.
    fn take_in_order<'a>(
        &self,
        batch: &SettleBatch<'a>,
        now_ms: u64,
        set: &mut ChangeSet<'a>,
        items: &mut Vec<ItemError>,
    ) {
        let mut settlements: Vec<_> = batch.items().enumerate().collect();
        settlements.sort_by_key(|(_, settlement)| settlement.token.id.slot());
        for (position, settlement) in settlements {
            if let Err(NotTaken::Refused(code)) =
                self.take_settlement(&settlement, now_ms, set, Patience::Endless)
            {
                items.push(ItemError {
                    position: position as u32,
                    code,
                });
            }
        }
        items.sort_by_key(|item| item.position);
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
        // What was changed may be jobs that are not logged, and then the request is not either.
        let is_volatile = logged.end.is_none() && !logged.at.is_none();
        let level = if position.is_none() || is_volatile {
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
    fn take_settlement<'a>(
        &self,
        settlement: &Settlement<'a>,
        now_ms: u64,
        set: &mut ChangeSet<'a>,
        patience: Patience,
    ) -> Result<(), NotTaken> {
        let before = self.take_leased(settlement.token, settlement.verb, set, patience)?;
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
                Change::retried(self, number, before, fields, Cause::Failure, delay_ms, now_ms)
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

    /// Takes a leased job by its token, if that is as simple as it mostly is.
    #[inline]
    pub(super) fn take_current(&self, token: Token) -> Option<StateWord> {
        let slot = self.slab.get(token.id.slot())?;
        let word = slot.state();
        let current = word.generation() == token.id.generation()
            && (word.attempt() == token.attempt || is_planted(Plant::AcceptStaleToken));
        (current && word.phase() == Phase::Leased && slot.take(word)).then_some(word)
    }

    /// Takes the jobs of plain acks from the first on, up to one that is not as simple as nearly all are. Says how
    /// many. It is all that most settlements cost.
    fn take_acks(&self, acks: &[SettleEntry], set: &mut ChangeSet<'_>) -> usize {
        let slots = self.slab.all();
        let before = set.done.len();
        set.done.reserve(acks.len());
        set.done.extend(acks.iter().map_while(|ack| {
            let id = JobId(ack.id.get());
            let slot = slots.get(id.slot())?;
            let word = slot.state();
            let leased = StateWord::new(id.generation(), ack.attempt.get(), Phase::Leased, word.flags());
            (word == leased && slot.take(word)).then_some((id.slot(), word))
        }));
        set.done.len() - before
    }

    /// Takes a leased job by its token: Leased to Busy. Returns the word before.
    fn take_leased(
        &self,
        token: Token,
        verb: Verb,
        set: &ChangeSet<'_>,
        patience: Patience,
    ) -> Result<StateWord, NotTaken> {
        let refused = |code| Err(NotTaken::Refused(code));
        let Some(slot) = self.slab.get(token.id.slot()) else {
            return refused(ErrorCode::JobNotFound);
        };
        let mut looks = 0u32;
        loop {
            let word = slot.state();
            if word.generation() != token.id.generation()
                || matches!(word.phase(), Phase::Free | Phase::Zombie)
            {
                return refused(ErrorCode::JobNotFound);
            }
            match word.phase() {
                Phase::Busy if word.attempt() != token.attempt => return refused(ErrorCode::LeaseLost),
                // The same delivery twice in one batch: the first mention decides.
                Phase::Busy if set.holds(token.id.slot()) => {
                    return refused(if verb == Verb::Ack && set.acks(token.id.slot()) {
                        ErrorCode::AlreadySettled
                    } else {
                        ErrorCode::LeaseLost
                    });
                }
                // Somebody settles or expires this very delivery; what it comes to decides the answer.
                Phase::Busy => {
                    if patience.is_over(looks, set) {
                        return Err(NotTaken::Contended);
                    }
                    wait_a_little(&mut looks);
                }
                Phase::Leased if word.attempt() == token.attempt || is_planted(Plant::AcceptStaleToken) => {
                    if slot.take(word) {
                        return Ok(word);
                    }
                }
                Phase::Done if verb == Verb::Ack && word.attempt() == token.attempt => {
                    return refused(ErrorCode::AlreadySettled);
                }
                _ => return refused(ErrorCode::LeaseLost),
            }
        }
    }

    /// Makes the answer to a settlement again from its record.
    fn replay_settle(&self, applied: Applied, items: &mut Vec<ItemError>) -> Result<Confirmed, Refusal> {
        self.replay_changes(applied, items)
            .map(|(_, confirmed)| confirmed)
    }

    /// Makes the answer to a request again that changed jobs: how many, and in `items` what was refused.
    pub(super) fn replay_changes(
        &self,
        applied: Applied,
        items: &mut Vec<ItemError>,
    ) -> Result<(usize, Confirmed), Refusal> {
        let changed = self.with_record(applied, |kind, body| {
            let body = match kind {
                Kind::Change => journal::parse_change(body)?,
                _ => return None,
            };
            for refused in body.refused {
                items.push(ItemError {
                    position: refused.position.get(),
                    code: ErrorCode::from_u16(refused.code.get())?,
                });
            }
            Some(body.done.len() + body.changes.len())
        });
        changed
            .map(|count| (count, replayed(applied)))
            .ok_or_else(already_applied)
    }
}

/// How long to wait for a job that somebody else has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A moment, if other jobs are held meanwhile: somebody may hold this one and wait for those.
    Limited,
    /// Until it is given back. Only for those who take jobs in the order of their slots.
    Endless,
}

impl Patience {
    /// Looks before somebody who holds other jobs gives them back first.
    const LOOKS: u32 = 96;

    pub(super) fn is_over(self, looks: u32, held: &ChangeSet<'_>) -> bool {
        self == Patience::Limited && looks >= Self::LOOKS && !held.is_empty()
    }
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// It is not to be had for this.
    Refused(ErrorCode),
    /// Somebody else has it, and the caller holds others: give those back, and take all in order.
    Contended,
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
