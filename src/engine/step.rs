//! The atomic step (G6): settle some jobs and enqueue others, in one record, all or nothing.

use super::admit::Admitted;
use super::change::{ChangeSet, Logged};
use super::dedupe::Keys;
use super::enqueue::{EnqueueReply, already_applied, not_fresh, put_enqueue};
use super::journal::{self, AnswerEntry, GroupHead, Kind, NUMBERED, Prelude, StepHead};
use super::queue::QueueId;
use super::replay::{Applied, Begun, RequestId};
use super::word::{StateWord, VOLATILE};
use super::{Confirmed, Engine, log_refusal};
use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::queue::Durability;
use crate::base::sync::{Ordering, fence};
use crate::log::{Claim, LogError, LogPosition, Room};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

impl Engine {
    /// Settles and enqueues in one step. Every settlement must hold its lease, or nothing happens and
    /// `reply.items` names the first that does not. The ids of all groups come in order in `reply.ids`.
    ///
    /// Jobs of durability `memory` take part like all others while the process lives; what is logged is logged
    /// as one record.
    ///
    /// # Errors
    /// `STEP_REFUSED` for a settlement; otherwise as [`enqueue`](Self::enqueue) and [`settle`](Self::settle).
    pub fn step_atomic(
        &self,
        settles: Option<&SettleBatch<'_>>,
        groups: &[(QueueId, EnqueueBatch<'_>)],
        request: RequestId,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<Confirmed, Refusal> {
        reply.clear();
        self.check_open()?;
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_step(applied, reply),
            other => return Err(not_fresh(other)),
        }
        let done = self.step_fresh(settles, groups, request, now_ms, reply);
        if done.is_err() {
            self.sessions.abandon(request);
        }
        done
    }

    fn step_fresh(
        &self,
        settles: Option<&SettleBatch<'_>>,
        groups: &[(QueueId, EnqueueBatch<'_>)],
        request: RequestId,
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<Confirmed, Refusal> {
        let mut set = ChangeSet::default();
        if let Some(batch) = settles {
            let mut items = Vec::new();
            self.take_settlements(batch, now_ms, &mut set, &mut items);
            if let Some(first) = items.first() {
                self.undo(&set);
                reply.items.push(*first);
                let text = format!(
                    "settlement {} of the step: {}; nothing was done",
                    first.position, first.code
                );
                return Err(Refusal::new(ErrorCode::StepRefused, text));
            }
        }
        let mut keyed: Vec<QueueId> = groups
            .iter()
            .filter(|(_, batch)| batch.has_keys())
            .map(|(queue, _)| *queue)
            .collect();
        let tables = self.key_tables(&mut keyed);
        let mut guards: Vec<(QueueId, Option<MutexGuard<'_, Keys>>)> = lock_all(&tables);
        let mut admitted = Vec::with_capacity(groups.len());
        let mut refused = None;
        for (queue, batch) in groups {
            match self.admit_group(*queue, *batch, &mut guards, now_ms, reply) {
                Ok(group) => admitted.push(group),
                Err(refusal) => {
                    refused = Some(refusal);
                    break;
                }
            }
        }
        if refused.is_none() {
            match self.log_step_record(&mut set, &admitted, request, now_ms, reply) {
                Ok((logged, bodies)) => {
                    for (group, (_, bodies_at)) in admitted.iter().zip(&bodies) {
                        self.publish_admitted(&group.1, *bodies_at, now_ms);
                    }
                    if !groups.is_empty() {
                        self.keep_until_durable(&set, logged.end);
                    }
                    let level = self.apply(&set, now_ms);
                    drop(guards);
                    self.sessions.finish(request, logged.applied());
                    admitted
                        .iter()
                        .for_each(|group| self.wake(group.1.queue, group.1.len()));
                    for (_, group) in &admitted {
                        self.drop_if_deleted(group.queue, now_ms);
                    }
                    let level = admitted.iter().map(|group| group.0).fold(level, Durability::max);
                    let confirmed = self.confirmed(level, logged, &[]);
                    if admitted.iter().all(|(_, group)| group.volatile) && !changes_logged(&set) {
                        // The log has the answer, for a numbered request, and nothing of the jobs.
                        return Ok(Confirmed {
                            level: Durability::Memory,
                            position: None,
                            ..confirmed
                        });
                    }
                    return Ok(confirmed);
                }
                Err(error) => refused = Some(log_refusal(error)),
            }
        }
        for (_, group) in admitted.iter().rev() {
            let mut none = None;
            let keys = guards
                .iter_mut()
                .find(|(queue, _)| *queue == group.queue.id)
                .map(|(_, keys)| keys);
            self.unadmit(group, keys.unwrap_or(&mut none));
        }
        reply.clear();
        self.undo(&set);
        Err(refused.unwrap_or_else(already_applied))
    }

    /// Jobs that a step ends leave the disk only after the step is on it: a power cut that took the step and the jobs
    /// that came with it would otherwise find those gone as well.
    fn keep_until_durable(&self, set: &ChangeSet<'_>, end: Option<LogPosition>) {
        let Some(end) = end.filter(|_| self.logged) else {
            return;
        };
        let changed = set.changes.iter().map(|change| (change.slot, change.before));
        let ended = set.done.iter().copied().chain(changed);
        for (number, _) in ended.filter(|(_, before)| !before.has(VOLATILE)) {
            let slot = self.slab.slot(number);
            let mut body = slot.body();
            loop {
                self.durable.keep_until(body, end);
                // The reclaimer may be moving it.
                match slot.body() {
                    same if same == body => break,
                    moved => body = moved,
                }
            }
        }
    }

    fn admit_group<'a>(
        &'a self,
        queue: QueueId,
        batch: EnqueueBatch<'a>,
        guards: &mut [(QueueId, Option<MutexGuard<'_, Keys>>)],
        now_ms: u64,
        reply: &mut EnqueueReply,
    ) -> Result<(Durability, Admitted<'a>), Refusal> {
        let queue = self.registry.live(queue)?;
        let level = self.level(queue, None);
        let mut none = None;
        let keys = match guards
            .iter_mut()
            .find(|(id, _)| *id == queue.id && batch.has_keys())
        {
            Some((_, keys)) => keys,
            None => &mut none,
        };
        let mut admitted = Admitted::new(queue, batch, level, reply);
        self.admit(&mut admitted, keys, now_ms, reply)?;
        Ok((admitted.level, admitted))
    }

    /// Writes the step's record, and bodies of volatile jobs into the volatile log. Returns the record and where
    /// each group's bodies begin.
    fn log_step_record(
        &self,
        set: &mut ChangeSet<'_>,
        groups: &[(Durability, Admitted<'_>)],
        request: RequestId,
        now_ms: u64,
        reply: &EnqueueReply,
    ) -> Result<(Logged, Vec<(LogPosition, LogPosition)>), LogError> {
        self.put_volatile_notes(set, now_ms)?;
        let mut bodies = vec![(LogPosition::NONE, LogPosition::NONE); groups.len()];
        // Volatile groups first: if the durable log then refuses, their records are dead weight and nothing else.
        for (index, (_, group)) in groups.iter().enumerate().filter(|(_, (_, group))| group.volatile) {
            self.note_generation(group.highest_generation, now_ms)?;
            let mut claim = self
                .volatile
                .claim(journal::enqueue_len(&group.batch), Room::Enqueue)?;
            bodies[index].1 = claim
                .body_position()
                .plus(journal::enqueue_bodies_offset(group.batch.count()) as u32);
            put_enqueue(&mut claim, group, reply);
            bodies[index].0 = claim.commit(Kind::Enqueue as u8, 0, now_ms, group.len() as u32);
        }
        let written = self.put_step(set, groups, request, now_ms, reply, &mut bodies);
        if written.is_err() {
            for (index, (_, group)) in groups.iter().enumerate().filter(|(_, (_, group))| group.volatile) {
                self.volatile.release(bodies[index].1, group.len() as u32);
            }
        }
        written.map(|logged| (logged, bodies))
    }

    fn put_step(
        &self,
        set: &mut ChangeSet<'_>,
        groups: &[(Durability, Admitted<'_>)],
        request: RequestId,
        now_ms: u64,
        reply: &EnqueueReply,
        bodies: &mut [(LogPosition, LogPosition)],
    ) -> Result<Logged, LogError> {
        let told = groups
            .iter()
            .filter(|(_, group)| group_len(group, request) > 0)
            .count();
        let prelude = Prelude::len_for(request);
        let change_len = self.change_len(set);
        let groups_len: usize = groups.iter().map(|(_, group)| group_len(group, request)).sum();
        let room = if groups.is_empty() {
            Room::Settle
        } else {
            Room::Enqueue
        };
        let highest = groups.iter().map(|(_, group)| group.highest_generation);
        highest
            .into_iter()
            .try_for_each(|generation| self.note_generation(generation, now_ms))?;
        let len = prelude + size_of::<StepHead>() + change_len + groups_len;
        // Release: who reads the log's tail behind this record finds the jobs taken (see `claim_copy`).
        fence(Ordering::Release);
        let mut claim = self.durable.claim(len, room)?;
        if prelude > 0 {
            claim.put(Prelude::new(request).as_bytes());
        }
        let head = StepHead {
            change_len: U32::new(change_len as u32),
            groups: U32::new(told as u32),
        };
        claim.put(head.as_bytes());
        let change_at = claim
            .body_position()
            .plus((prelude + size_of::<StepHead>()) as u32);
        self.put_changes(&mut claim, change_at, set);
        let mut group_at = change_at.plus(change_len as u32);
        let mut live = 0;
        for (index, (_, group)) in groups.iter().enumerate() {
            let len = group_len(group, request);
            if len == 0 {
                continue;
            }
            let head = GroupHead {
                len: U32::new((len - size_of::<GroupHead>()) as u32),
                kind: U32::new(if group.volatile {
                    GroupHead::ANSWER
                } else {
                    GroupHead::JOBS
                }),
            };
            claim.put(head.as_bytes());
            if group.volatile {
                put_answers(&mut claim, group, reply);
            } else {
                let bodies_offset =
                    size_of::<GroupHead>() + journal::enqueue_bodies_offset(group.batch.count());
                bodies[index].1 = group_at.plus(bodies_offset as u32);
                put_enqueue(&mut claim, group, reply);
                live += group.len() as u32;
            }
            group_at = group_at.plus(len as u32);
        }
        let at = claim.position();
        let end = claim.commit(
            Kind::Step as u8,
            if prelude > 0 { NUMBERED } else { 0 },
            now_ms,
            live,
        );
        Ok(Logged {
            at,
            end: Some(end),
            volatile: false,
        })
    }

    fn replay_step(&self, applied: Applied, reply: &mut EnqueueReply) -> Result<Confirmed, Refusal> {
        self.replay_enqueue(applied, reply)
    }
}

/// Whether any of the settled jobs is in the log.
fn changes_logged(set: &ChangeSet<'_>) -> bool {
    let is_logged = |before: StateWord| !before.has(VOLATILE);
    set.done.iter().any(|(_, before)| is_logged(*before))
        || set.changes.iter().any(|change| is_logged(change.before))
}

/// Length of a group in the record, head included. Of jobs that are not logged only a numbered request keeps
/// something: what it was answered.
fn group_len(group: &Admitted<'_>, request: RequestId) -> usize {
    if !group.volatile {
        size_of::<GroupHead>() + journal::enqueue_len(&group.batch)
    } else if request.is_numbered() {
        size_of::<GroupHead>() + group.batch.count() * size_of::<AnswerEntry>()
    } else {
        0
    }
}

fn put_answers(claim: &mut Claim<'_>, group: &Admitted<'_>, reply: &EnqueueReply) {
    let mut others = group.others.iter().peekable();
    let ids = &reply.ids[group.ids_from..group.ids_from + group.batch.count()];
    for (position, id) in ids.iter().enumerate() {
        let other = others.next_if(|(other, _)| *other as usize == position);
        let entry = AnswerEntry {
            id: U64::new(*id),
            flags: U16::new(other.map_or(0, |(_, flag)| *flag)),
            reserved: [0; 6],
        };
        claim.put(entry.as_bytes());
    }
}

/// Locks key tables in their order.
fn lock_all(tables: &[(QueueId, Arc<Mutex<Keys>>)]) -> Vec<(QueueId, Option<MutexGuard<'_, Keys>>)> {
    tables
        .iter()
        .map(|(queue, table)| (*queue, Some(table.lock())))
        .collect()
}
