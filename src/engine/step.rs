//! The atomic step (G6): settle some jobs and enqueue others, in one record, all or nothing.

use super::change::{ChangeSet, Logged};
use super::dedupe::Keys;
use super::enqueue::{Admitted, EnqueueReply, already_applied, not_fresh, put_enqueue};
use super::journal::{self, Kind, NUMBERED, Prelude, StepHead};
use super::queue::QueueId;
use super::replay::{Applied, Begun, RequestId};
use super::{Confirmed, Engine, log_refusal};
use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::queue::Durability;
use crate::log::{LogError, LogPosition, Room};
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

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
        match self.sessions.begin(request, now_ms) {
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
        for (position, settlement) in settles.into_iter().flat_map(|batch| batch.items()).enumerate() {
            if let Err(code) = self.take_settlement(&settlement, now_ms, &mut set) {
                self.undo(&set);
                reply.items.push(ItemError {
                    position: position as u32,
                    code,
                });
                let text = format!("settlement {position} of the step: {code}; nothing was done");
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
                    let level = self.apply(&set, now_ms);
                    drop(guards);
                    self.sessions.finish(
                        request,
                        Applied {
                            position: logged.at,
                            volatile: false,
                        },
                    );
                    admitted
                        .iter()
                        .for_each(|group| self.wake(group.1.queue, group.1.len()));
                    let level = admitted.iter().map(|group| group.0).fold(level, Durability::max);
                    return Ok(self.confirmed(level, logged, &[]));
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
        Ok((level, self.admit(queue, batch, level, keys, now_ms, reply)?))
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
        let durable = || {
            groups
                .iter()
                .filter(|(_, group)| !group.volatile)
                .map(|(_, group)| group)
        };
        let prelude = Prelude::len_for(request);
        let change_len = self.change_len(set);
        let groups_len: usize = durable()
            .map(|group| 8 + journal::enqueue_len(&group.batch))
            .sum();
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
        let mut claim = self.durable.claim(len, room)?;
        if prelude > 0 {
            claim.put(Prelude::new(request).as_bytes());
        }
        let head = StepHead {
            change_len: U32::new(change_len as u32),
            groups: U32::new(durable().count() as u32),
        };
        claim.put(head.as_bytes());
        let change_at = claim
            .body_position()
            .plus((prelude + size_of::<StepHead>()) as u32);
        self.put_changes(&mut claim, change_at, set);
        let mut group_at = change_at.plus(change_len as u32);
        let mut live = 0;
        for (index, (_, group)) in groups
            .iter()
            .enumerate()
            .filter(|(_, (_, group))| !group.volatile)
        {
            let group_len = journal::enqueue_len(&group.batch);
            claim.put(&(group_len as u64).to_le_bytes());
            bodies[index].1 = group_at.plus(8 + journal::enqueue_bodies_offset(group.batch.count()) as u32);
            put_enqueue(&mut claim, group, reply);
            group_at = group_at.plus(8 + group_len as u32);
            live += group.len() as u32;
        }
        let at = claim.position();
        let end = claim.commit(
            Kind::Step as u8,
            if prelude > 0 { NUMBERED } else { 0 },
            now_ms,
            live,
        );
        Ok(Logged { at, end: Some(end) })
    }

    fn replay_step(&self, applied: Applied, reply: &mut EnqueueReply) -> Result<Confirmed, Refusal> {
        self.replay_enqueue(applied, reply)
    }
}

/// Locks key tables in their order.
fn lock_all(tables: &[(QueueId, Arc<Mutex<Keys>>)]) -> Vec<(QueueId, Option<MutexGuard<'_, Keys>>)> {
    tables
        .iter()
        .map(|(queue, table)| (*queue, Some(table.lock())))
        .collect()
}
