//! What people and tools do with queues and jobs, beside the work itself.

use super::change::{Cause, Change, ChangeSet};
use super::codec::{self, QueueRecord};
use super::enqueue::not_fresh;
use super::journal::{Kind, NUMBERED, Prelude};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, Begun, RequestId};
use super::settle::wait_a_little;
use super::slot::{Phase, StateWord};
use super::{Confirmed, Engine, log_refusal};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, JobState};
use crate::base::limits::DELIVERIES_MAX;
use crate::base::queue::{Durability, QueueOptions};
use crate::base::sync::Ordering;
use crate::log::Room;
use zerocopy::IntoBytes;

/// Changes in one record of a purge or a redrive of all.
const SWEEP_BATCH: usize = 512;

impl Engine {
    /// The queue of that name, made with the engine's defaults if there is none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a name that is none, `LIMIT_REACHED`, or what the log says.
    pub fn open_queue(&self, name: &str, now_ms: u64) -> Result<QueueId, Refusal> {
        if let Some(queue) = self.registry.find(name) {
            return Ok(queue.id);
        }
        self.check_open()?;
        let define = |queue: &Queue| self.define(queue, RequestId::NONE, now_ms).map(|_| ());
        self.registry
            .open(name, self.queue_defaults.clone(), define)
            .map(|(queue, _)| queue.id)
    }

    /// Makes a queue with these options; one that is there with the same options is as good.
    ///
    /// # Errors
    /// `QUEUE_EXISTS` where it has other options; `INVALID_ARGUMENT`, `LIMIT_REACHED`, or what the log says.
    pub fn create_queue(
        &self,
        name: &str,
        options: &QueueOptions,
        request: RequestId,
        now_ms: u64,
    ) -> Result<(QueueId, Confirmed), Refusal> {
        self.check_open()?;
        let mut confirmed = self.unlogged();
        let define = |queue: &Queue| {
            confirmed = self.define(queue, request, now_ms)?;
            Ok(())
        };
        let (queue, is_new) = self.registry.open(name, options.clone(), define)?;
        if !is_new && queue.options != *options {
            let text =
                format!("queue {name} exists with other options; see `queue info`, or delete it first");
            return Err(Refusal::new(ErrorCode::QueueExists, text));
        }
        Ok((queue.id, confirmed))
    }

    /// The queue of that name.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`.
    pub fn find_queue(&self, name: &str) -> Result<QueueId, Refusal> {
        let text = || format!("there is no queue {name}; `queue ls` shows those there are");
        self.registry
            .find(name)
            .map(|queue| queue.id)
            .ok_or_else(|| Refusal::new(ErrorCode::QueueNotFound, text()))
    }

    /// Stops handing out jobs of a queue; all else goes on. Pausing a paused queue is a success.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`, or what the log says.
    pub fn pause(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        self.set_paused(queue, true, request, now_ms)
    }

    /// Hands out jobs of a paused queue again.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn resume(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        let confirmed = self.set_paused(queue, false, request, now_ms)?;
        let queue = self.registry.live(queue)?;
        self.wake(queue, usize::MAX);
        Ok(confirmed)
    }

    fn set_paused(
        &self,
        queue: QueueId,
        paused: bool,
        request: RequestId,
        now_ms: u64,
    ) -> Result<Confirmed, Refusal> {
        self.check_open()?;
        let queue = self.registry.live(queue)?;
        self.once(request, now_ms, || {
            let changed = queue.set_paused(paused);
            let confirmed = self.define(queue, request, now_ms);
            if confirmed.is_err() && changed {
                queue.set_paused(!paused);
            }
            confirmed
        })
    }

    /// Deletes a queue and everything in it. Its name may be used again at once.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub fn delete(&self, queue: QueueId, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        self.check_open()?;
        self.once(request, now_ms, || {
            let queue = self.registry.live(queue)?;
            if !queue.set_deleted() {
                return Ok(self.unlogged());
            }
            let confirmed = self.define(queue, request, now_ms)?;
            self.registry.forget(queue);
            self.dedupe.forget(queue.id);
            self.drop_jobs(queue, now_ms);
            Ok(confirmed)
        })
    }

    /// Ends every job of a deleted queue. Not logged job by job: the queue's own record says it all.
    pub(super) fn drop_jobs(&self, queue: &Queue, now_ms: u64) {
        let all = |phase: Phase| phase.public().is_some() && !phase.is_finished();
        let mut set = ChangeSet::default();
        for number in 0..self.slab.fresh_from() {
            if let Some(before) = self.take_where(number, queue, all) {
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
                set.changes.clear();
            }
        }
        self.apply(&set, now_ms);
        self.trim_finished(queue, 0);
        self.drain_rings(queue);
    }

    /// Pops handles of jobs that are over, so that their slots are freed.
    fn drain_rings(&self, queue: &Queue) {
        let mut handles = [0; 256];
        for priority in 0..crate::base::limits::PRIORITIES {
            let ring = queue.ring(priority);
            // A live handle that is met goes back behind the others; one round over what was there is enough.
            let mut live = Vec::new();
            loop {
                let popped = ring.pop(&self.pool, &mut handles);
                for number in &handles[..popped] {
                    let slot = self.slab.slot(*number);
                    let word = slot.state();
                    if matches!(word.phase(), Phase::Ready | Phase::Busy) {
                        live.push(*number);
                    } else {
                        self.drop_queued(*number, slot, word);
                    }
                }
                if popped == 0 {
                    break;
                }
            }
            queue.push_ready(&self.pool, priority as u8, &live);
        }
    }

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
        self.once(request, now_ms, || {
            let mut set = ChangeSet::default();
            for (position, id) in ids.iter().enumerate() {
                match self.take_by_id(*id, &set, |phase| {
                    phase.public().is_some() && !phase.is_finished()
                }) {
                    Ok(before) => {
                        let fields = self.slab.slot(id.slot()).fields();
                        let number = id.slot();
                        let change =
                            Change::to(number, before, fields, Phase::Cancelled, Cause::Cancel, now_ms);
                        set.changes.push(change);
                    }
                    Err(found) => {
                        let code = match found {
                            Some(Phase::Cancelled | Phase::Busy) => ErrorCode::AlreadySettled,
                            Some(_) => ErrorCode::WrongState,
                            None => ErrorCode::JobNotFound,
                        };
                        items.push(ItemError {
                            position: position as u32,
                            code,
                        });
                    }
                }
            }
            self.carry_out(&mut set, request, now_ms, items)
        })
    }

    /// Brings dead jobs back: these, or with `None` up to `limit` of the queue's. Their attempt numbers go on;
    /// their limit is raised by as many attempts as they had (at most the queue's). A TTL no longer holds.
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
        let mut count = 0;
        let confirmed = self.once(request, now_ms, || {
            let mut set = ChangeSet::default();
            match ids {
                Some(ids) => {
                    for (position, id) in ids.iter().enumerate() {
                        match self.take_by_id(*id, &set, |phase| phase == Phase::Dead) {
                            Ok(before) => self.add_redrive(queue, id.slot(), before, now_ms, &mut set),
                            Err(found) => {
                                let code = found.map_or(ErrorCode::JobNotFound, |_| ErrorCode::WrongState);
                                items.push(ItemError {
                                    position: position as u32,
                                    code,
                                });
                            }
                        }
                    }
                }
                None => {
                    for number in 0..self.slab.fresh_from() {
                        if set.changes.len() >= limit {
                            break;
                        }
                        if let Some(before) = self.take_where(number, queue, |phase| phase == Phase::Dead) {
                            self.add_redrive(queue, number, before, now_ms, &mut set);
                        }
                    }
                    // Oldest deaths first, so that they come back in that order.
                    set.changes
                        .sort_by_key(|change| self.slab.slot(change.slot).at_ms());
                }
            }
            count = set.changes.len();
            self.carry_out(&mut set, request, now_ms, items)
        })?;
        Ok((count, confirmed))
    }

    fn add_redrive(
        &self,
        queue: &Queue,
        number: u32,
        before: StateWord,
        now_ms: u64,
        set: &mut ChangeSet<'_>,
    ) {
        let mut fields = self.slab.slot(number).fields();
        let more = fields.max_attempts().min(queue.options.max_attempts).max(1);
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

    /// Cancels every job of a queue that is in one of `states`, and forgets finished ones if asked to; says how
    /// many.
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
        let mut count = 0u64;
        let confirmed = self.once(request, now_ms, || {
            let wanted = |phase: Phase| {
                !phase.is_finished() && phase.public().is_some_and(|state| states.contains(&state))
            };
            let mut set = ChangeSet::default();
            let mut confirmed = self.unlogged();
            for number in 0..self.slab.fresh_from() {
                if let Some(before) = self.take_where(number, queue, wanted) {
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
                if set.changes.len() == SWEEP_BATCH {
                    self.carry_out(&mut set, RequestId::NONE, now_ms, &[])?;
                    set.changes.clear();
                }
            }
            if !set.changes.is_empty() || request.is_numbered() {
                confirmed = self.carry_out(&mut set, request, now_ms, &[])?;
            }
            if states.iter().any(|state| state.is_finished()) {
                count += queue.counts().kept;
                self.trim_finished(queue, 0);
            }
            self.drain_rings(queue);
            Ok(confirmed)
        })?;
        Ok((count, confirmed))
    }

    /// Logs and applies a set of changes.
    pub(super) fn carry_out(
        &self,
        set: &mut ChangeSet<'_>,
        request: RequestId,
        now_ms: u64,
        items: &[ItemError],
    ) -> Result<Confirmed, Refusal> {
        match self.log_changes(set, request, now_ms) {
            Ok(logged) => {
                let level = self.apply(set, now_ms);
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
                self.undo(set);
                Err(log_refusal(error))
            }
        }
    }

    /// Runs a request unless its session has seen it; then the state it led to is there already.
    fn once(
        &self,
        request: RequestId,
        now_ms: u64,
        run: impl FnOnce() -> Result<Confirmed, Refusal>,
    ) -> Result<Confirmed, Refusal> {
        match self.sessions.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(_) => return Err(super::enqueue::already_applied()),
            other => return Err(not_fresh(other)),
        }
        let done = run();
        match &done {
            Ok(_) => self.sessions.settle_if_pending(request),
            Err(_) => self.sessions.abandon(request),
        }
        done
    }

    /// Logs a queue as it stands.
    fn define(&self, queue: &Queue, request: RequestId, now_ms: u64) -> Result<Confirmed, Refusal> {
        let mut body = Vec::new();
        if request.is_numbered() {
            body.extend_from_slice(Prelude::new(request).as_bytes());
        }
        body.extend_from_slice(&codec::encode(&queue_record(queue)));
        let flags = if request.is_numbered() { NUMBERED } else { 0 };
        let room = if queue.is_deleted() {
            Room::Settle
        } else {
            Room::Enqueue
        };
        let (at, end) = self
            .append(Kind::Queue, flags, &body, room, now_ms)
            .map_err(log_refusal)?;
        queue.defined_at.store(at.raw(), Ordering::Release);
        let level = if self.logged {
            Durability::Written.max(queue.durability())
        } else {
            Durability::Memory
        };
        self.sessions.finish(
            request,
            Applied {
                position: at,
                volatile: false,
            },
        );
        Ok(Confirmed {
            level,
            position: Some(end),
            replayed: false,
        })
    }

    /// Takes a job by its id if its phase is wanted. Returns the word before, or the phase it was found in;
    /// `None` where there is no such job. Busy means that `set` itself has taken it.
    fn take_by_id(
        &self,
        id: JobId,
        set: &ChangeSet<'_>,
        wanted: impl Fn(Phase) -> bool,
    ) -> Result<StateWord, Option<Phase>> {
        let slot = self.slab.get(id.slot()).ok_or(None)?;
        let mut looks = 0;
        loop {
            let word = slot.state();
            if word.generation() != id.generation() || matches!(word.phase(), Phase::Free | Phase::Zombie) {
                return Err(None);
            }
            if word.phase() == Phase::Busy {
                if set.holds(id.slot()) {
                    return Err(Some(Phase::Busy));
                }
                wait_a_little(&mut looks);
                continue;
            }
            if !wanted(word.phase()) {
                return Err(Some(word.phase()));
            }
            if slot.exchange(word, word.with_phase(Phase::Busy)).is_ok() {
                return Ok(word);
            }
        }
    }

    /// Takes the job in a slot if it belongs to the queue and its phase is wanted.
    fn take_where(&self, number: u32, queue: &Queue, wanted: impl Fn(Phase) -> bool) -> Option<StateWord> {
        let slot = self.slab.slot(number);
        let mut looks = 0;
        loop {
            let word = slot.state();
            if word.phase() == Phase::Busy && slot.queue() == queue.id.0 && looks < 1_000 {
                wait_a_little(&mut looks);
                continue;
            }
            if slot.queue() != queue.id.0 || !wanted(word.phase()) {
                return None;
            }
            if slot.exchange(word, word.with_phase(Phase::Busy)).is_ok() {
                // The slot may have got a job of another queue between the look and the claim.
                if slot.queue() == queue.id.0 {
                    return Some(word);
                }
                slot.publish(word);
                return None;
            }
        }
    }
}

/// A queue as it goes into the log.
pub(super) fn queue_record(queue: &Queue) -> QueueRecord {
    QueueRecord {
        index: queue.id.0,
        name: queue.name.clone(),
        options: queue.options.clone(),
        paused: queue.is_paused(),
        deleted: queue.is_deleted(),
        events: None,
    }
}
