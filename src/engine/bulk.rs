//! Changing many jobs at once, by id or by state: cancel, redrive, purge, and the end of a deleted queue.

use super::change::{Cause, Change, ChangeSet, Logged};
use super::enqueue::not_fresh;
use super::gate::Closing;
use super::journal::{ChangeHead, Kind, NUMBERED, Prelude};
use super::queue::{Queue, QueueId};
use super::replay::{Begun, RequestId};
use super::settle::{NotTaken, Patience, wait_a_little};
use super::transition::Popped;
use super::word::{Phase, StateWord};
use super::{Confirmed, Engine, log_refusal};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, JobState};
use crate::base::limits::{DELIVERIES_MAX, PRIORITIES};
use crate::base::sync::{Ordering, fence};
use crate::log::Room;
use zerocopy::IntoBytes;

/// Changes in one record of a purge.
const SWEEP_BATCH: usize = 512;

impl Engine {
    /// Cancels jobs, whatever they are doing; a worker that holds one loses its lease. `WRONG_STATE` and
    /// `JOB_NOT_FOUND` come in `items`; a job cancelled before is `ALREADY_SETTLED`.
    ///
    /// # Errors
    /// A [`Refusal`] for the whole request: nothing was cancelled.
    pub fn cancel(
        &self,
        ids: &[JobId],
        request: RequestId,
        now_ms: u64,
        items: &mut Vec<ItemError>,
    ) -> Result<Confirmed, Refusal> {
        items.clear();
        self.check_open()?;
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => {
                return self
                    .replay_changes(applied, items)
                    .map(|(_, confirmed)| confirmed);
            }
            other => return Err(not_fresh(other)),
        }
        let wanted = |word: StateWord| word.phase().public().is_some() && !word.phase().is_finished();
        let mut set = ChangeSet::default();
        self.take_ids(
            ids,
            wanted,
            &mut set,
            items,
            |number, before, set| {
                let fields = self.slab.slot(number).fields();
                let change = Change::to(number, before, fields, Phase::Cancelled, Cause::Cancel, now_ms);
                set.changes.push(change);
            },
            |found| match found {
                Some(Phase::Cancelled | Phase::Busy) => ErrorCode::AlreadySettled,
                Some(_) => ErrorCode::WrongState,
                None => ErrorCode::JobNotFound,
            },
        );
        self.carry_out_changes(&mut set, request, now_ms, items)
    }

    /// Brings dead jobs back: these, or with `None` up to `limit` of the queue's. Their attempt numbers go on;
    /// their limit is raised by as many attempts as they had (at most the queue's). A TTL no longer holds. A job that
    /// was delivered [`DELIVERIES_MAX`] times stays dead (`WRONG_STATE`), as there is no further attempt number.
    ///
    /// Returns how many came back.
    ///
    /// # Errors
    /// A [`Refusal`] for the whole request.
    pub fn redrive(
        &self,
        queue: QueueId,
        ids: Option<&[JobId]>,
        limit: usize,
        request: RequestId,
        now_ms: u64,
        items: &mut Vec<ItemError>,
    ) -> Result<(usize, Confirmed), Refusal> {
        items.clear();
        self.check_open()?;
        let queue = self.registry.live(queue)?;
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_changes(applied, items),
            other => return Err(not_fresh(other)),
        }
        let wanted = |word: StateWord| word.phase() == Phase::Dead && word.attempt() < DELIVERIES_MAX;
        let mut set = ChangeSet::default();
        match ids {
            Some(ids) => self.take_ids(
                ids,
                wanted,
                &mut set,
                items,
                |number, before, set| self.add_redrive(number, before, now_ms, set),
                |found| found.map_or(ErrorCode::JobNotFound, |_| ErrorCode::WrongState),
            ),
            None => {
                let mut closing = self.slab.gate().closing();
                for number in 0..self.slab.fresh_from() {
                    if set.changes.len() >= limit {
                        break;
                    }
                    if let Some(before) = self.take_where(number, queue, &mut closing, wanted) {
                        self.add_redrive(number, before, now_ms, &mut set);
                    }
                }
                // Oldest deaths first, so that they come back in that order.
                set.changes
                    .sort_by_key(|change| self.slab.slot(change.slot).at_ms());
            }
        }
        let count = set.changes.len();
        let confirmed = self.carry_out_changes(&mut set, request, now_ms, items)?;
        Ok((count, confirmed))
    }

    fn add_redrive(&self, number: u32, before: StateWord, now_ms: u64, set: &mut ChangeSet<'_>) {
        let mut fields = self.slab.slot(number).fields();
        let usual = self
            .registry
            .get(QueueId(fields.queue))
            .map_or(1, |queue| queue.options.max_attempts);
        let more = fields.max_attempts().min(usual).max(1);
        fields.limit = before.attempt().saturating_add(more).min(DELIVERIES_MAX);
        fields.expires_ms = 0;
        set.changes.push(Change::to(
            number,
            before,
            fields,
            Phase::Ready,
            Cause::Redrive,
            now_ms,
        ));
    }

    /// Cancels every job of a queue that is in one of `states`, and forgets those in the finished ones of them; says
    /// how many of both.
    ///
    /// # Errors
    /// A [`Refusal`]; what was purged until then stays purged.
    pub fn purge(
        &self,
        queue: QueueId,
        states: &[JobState],
        request: RequestId,
        now_ms: u64,
    ) -> Result<(u64, Confirmed), Refusal> {
        self.check_open()?;
        let queue = self.registry.live(queue)?;
        let wanted = |word: StateWord| {
            let phase = word.phase();
            !phase.is_finished() && phase.public().is_some_and(|state| states.contains(&state))
        };
        let mut count = 0u64;
        let confirmed = self.once(
            request,
            now_ms,
            |_, _| None,
            || {
                count += self.forget_finished(queue, states, now_ms)?;
                let mut set = ChangeSet::default();
                let mut closing = self.slab.gate().closing();
                for number in 0..self.slab.fresh_from() {
                    if let Some(before) = self.take_where(number, queue, &mut closing, wanted) {
                        let fields = self.slab.slot(number).fields();
                        set.changes.push(Change::to(
                            number,
                            before,
                            fields,
                            Phase::Cancelled,
                            Cause::Cancel,
                            now_ms,
                        ));
                        count += 1;
                    }
                    if set.changes.len() > SWEEP_BATCH {
                        self.purge_all_but_last(&mut set, now_ms)?;
                    }
                }
                drop(closing);
                let confirmed = if set.is_empty() && count > 0 {
                    self.note_done(queue, request, now_ms)?
                } else {
                    self.carry_out(&mut set, request, now_ms, &[])?
                };
                // Those that were cancelled just now are counted already.
                self.forget_finished(queue, states, now_ms)?;
                self.drop_stale(queue);
                Ok(confirmed)
            },
        )?;
        Ok((count, confirmed))
    }

    /// Notes a request as carried out that changed something and has no record of its own to say so.
    fn note_done(&self, queue: &Queue, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        if !request.is_numbered() {
            return Ok(self.unlogged());
        }
        let mut body = Prelude::new(request).as_bytes().to_vec();
        body.extend_from_slice(ChangeHead::default().as_bytes());
        let (at, end) = self
            .append(Kind::Change, NUMBERED, &body, Room::Settle, now_ms)
            .map_err(log_refusal)?;
        let logged = Logged {
            at,
            end: Some(end),
            volatile: false,
        };
        self.sessions.finish(request, logged.applied());
        Ok(self.confirmed(self.level(queue, None), logged, &[]))
    }

    /// Carries a set out but for its last change: the record that ends a purge bears the request's number, and so
    /// must not be empty.
    fn purge_all_but_last(&self, set: &mut ChangeSet<'_>, now_ms: u64) -> Result<(), Refusal> {
        let last = set.changes.pop();
        let done = self.carry_out(set, RequestId::NONE, now_ms, &[]);
        set.clear();
        set.changes.extend(last);
        done.map(|_| ()).inspect_err(|_| self.undo(set))
    }

    /// Logs and applies a set of changes, and notes the request as carried out if it changed anything.
    pub(super) fn carry_out(
        &self,
        set: &mut ChangeSet<'_>,
        request: RequestId,
        now_ms: u64,
        items: &[ItemError],
    ) -> Result<Confirmed, Refusal> {
        set.note_refused(request, items);
        match self.log_changes(set, request, now_ms) {
            Ok(logged) => {
                let level = self.apply(set, now_ms);
                if !set.is_empty() {
                    self.sessions.finish(request, logged.applied());
                }
                Ok(self.confirmed(level, logged, items))
            }
            Err(error) => {
                self.undo(set);
                Err(log_refusal(error))
            }
        }
    }

    /// As [`carry_out`](Self::carry_out), the last act of a request.
    pub(super) fn carry_out_changes(
        &self,
        set: &mut ChangeSet<'_>,
        request: RequestId,
        now_ms: u64,
        items: &mut Vec<ItemError>,
    ) -> Result<Confirmed, Refusal> {
        let done = self.carry_out(set, request, now_ms, items);
        // One that changed nothing need not be remembered: asked again, it still may.
        self.sessions.abandon(request);
        if done.is_err() {
            items.clear();
        }
        done
    }

    /// Takes jobs by their ids and lets `add` say what becomes of them; the others come in `items`, with the code
    /// that `refuse` has for the phase they were found in.
    fn take_ids<'s>(
        &self,
        ids: &[JobId],
        wanted: impl Fn(StateWord) -> bool,
        set: &mut ChangeSet<'s>,
        items: &mut Vec<ItemError>,
        add: impl Fn(u32, StateWord, &mut ChangeSet<'s>),
        refuse: impl Fn(Option<Phase>) -> ErrorCode,
    ) {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        let mut patience = Patience::Limited;
        let mut closing = self.slab.gate().closing();
        loop {
            let mut contended = false;
            for position in &order {
                let id = ids[*position];
                match self.take_by_id(id, set, patience, &mut closing, &wanted, &refuse) {
                    Ok(before) => add(id.slot(), before, set),
                    Err(NotTaken::Refused(code)) => items.push(ItemError {
                        position: *position as u32,
                        code,
                    }),
                    Err(NotTaken::Contended) => {
                        contended = true;
                        break;
                    }
                }
            }
            if !contended {
                break;
            }
            // Once more, in the order in which it is safe to wait.
            self.undo(set);
            set.clear();
            items.clear();
            order.sort_by_key(|position| ids[*position].slot());
            patience = Patience::Endless;
        }
        items.sort_by_key(|item| item.position);
    }

    /// Takes a job by its id if its phase is wanted. Returns the word before. `refuse` is asked with the phase it
    /// was found in, `None` where there is no such job; Busy means that `set` itself has taken it.
    fn take_by_id(
        &self,
        id: JobId,
        set: &ChangeSet<'_>,
        patience: Patience,
        closing: &mut Closing<'_>,
        wanted: &impl Fn(StateWord) -> bool,
        refuse: &impl Fn(Option<Phase>) -> ErrorCode,
    ) -> Result<StateWord, NotTaken> {
        let refused = |found| Err(NotTaken::Refused(refuse(found)));
        let Some(slot) = self.slab.get(id.slot()) else {
            return refused(None);
        };
        let mut looks = 0;
        loop {
            let word = slot.state();
            if word.generation() != id.generation() || matches!(word.phase(), Phase::Free | Phase::Zombie) {
                return refused(None);
            }
            if word.phase() == Phase::Busy {
                if set.holds(id.slot()) {
                    return refused(Some(Phase::Busy));
                }
                if patience.is_over(looks, set) {
                    return Err(NotTaken::Contended);
                }
                wait_a_little(&mut looks);
                continue;
            }
            if !wanted(word) {
                return refused(Some(word.phase()));
            }
            if slot.take_closing(word, closing) {
                return Ok(word);
            }
        }
    }

    /// Takes the job in a slot if it belongs to the queue and its phase is wanted. Waits for one that is Busy, so
    /// it is for those who go through the slots in order.
    fn take_where(
        &self,
        number: u32,
        queue: &Queue,
        closing: &mut Closing<'_>,
        wanted: impl Fn(StateWord) -> bool,
    ) -> Option<StateWord> {
        let slot = self.slab.slot(number);
        let mut looks = 0;
        loop {
            let word = slot.state();
            // Read after the word; so if the word has not moved by then, it is the queue of the word's job.
            if slot.queue() != queue.id.0 {
                return None;
            }
            if word.phase() == Phase::Busy {
                wait_a_little(&mut looks);
                continue;
            }
            if !wanted(word) {
                return None;
            }
            if slot.take_closing(word, closing) {
                return Some(word);
            }
        }
    }

    /// For whoever has just published jobs of a queue, and [told its waiters](Self::wake): if it was deleted meanwhile,
    /// they go the same way.
    #[inline]
    pub(super) fn drop_if_deleted(&self, queue: &Queue, now_ms: u64) {
        // SeqCst: either this sees the deletion, or the deletion, which says so first and then looks for jobs, sees
        // what was published before (Dekker's pattern). The fence stands between the push and the look for waiters.
        if queue.is_deleted() {
            self.drop_jobs(queue, now_ms);
        }
    }

    /// For whoever has just put handles into a ring of the queue, and [told its waiters](Self::wake): if it was
    /// deleted meanwhile, the jobs may have ended before their handles came there, and nobody else pops those.
    #[inline]
    pub(super) fn drop_stale_if_deleted(&self, queue: &Queue) {
        // As above; the fence stands between the push and the look for waiters.
        if queue.is_deleted() {
            self.drop_stale(queue);
        }
    }

    /// Ends every job of a deleted queue. Not logged job by job: the queue's own record says it all.
    pub(super) fn drop_jobs(&self, queue: &Queue, now_ms: u64) {
        fence(Ordering::SeqCst);
        let all = |word: StateWord| word.phase().public().is_some() && !word.phase().is_finished();
        let mut set = ChangeSet::default();
        let mut closing = self.slab.gate().closing();
        for number in 0..self.slab.fresh_from() {
            if let Some(before) = self.take_where(number, queue, &mut closing, all) {
                let fields = self.slab.slot(number).fields();
                set.changes.push(Change::to(
                    number,
                    before,
                    fields,
                    Phase::Cancelled,
                    Cause::Cancel,
                    now_ms,
                ));
            }
            if set.changes.len() == SWEEP_BATCH {
                self.apply(&set, now_ms);
                set.clear();
            }
        }
        drop(closing);
        self.apply(&set, now_ms);
        self.trim_finished(queue, 0);
        self.drop_stale(queue);
    }

    /// Takes handles of jobs that are over out of the rings, as far as they stand in front, so that their slots
    /// are freed. What stands behind a live job is left to whoever pops that.
    pub(super) fn drop_stale(&self, queue: &Queue) {
        // A job that is over stays so at least until its handle has come out.
        let is_over = |number: u32| {
            let phase = self.slab.slot(number).state().phase();
            phase == Phase::Zombie || phase.is_finished()
        };
        let meet = |number: u32| {
            let met = self.slab.meet(number);
            assert_eq!(met, Popped::Stale, "a job that was over came back");
        };
        let mut handles = [0; 256];
        for priority in 0..PRIORITIES as u8 {
            queue
                .take_from_front(priority, is_over)
                .into_iter()
                .for_each(meet);
            loop {
                let popped = queue.pop_while(&self.pool, priority, &mut handles, is_over);
                handles[..popped].iter().copied().for_each(meet);
                if popped == 0 {
                    break;
                }
            }
        }
    }
}
