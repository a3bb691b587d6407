//! Handing out: pop, take, log the attempt, deliver.

use super::deliver::DeliverySink;
use super::enqueue::not_fresh;
use super::expire::Unserved;
use super::journal::{Kind, NUMBERED, Prelude, ReserveEntry};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, Begun, RequestId, Sessions};
use super::slot::{Phase, QUEUED, VOLATILE, id_of};
use super::transition::Popped;
use super::{Confirmed, Engine, log_refusal};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::{LEASE_MS_MAX, PRIORITIES, QUEUES_PER_REQUEST_MAX, RESERVE_JOBS_MAX};
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::base::sync::{Ordering, fence};
use crate::log::{LogError, LogPosition, Room};
use smallvec::SmallVec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Handles popped at once.
const POP_MAX: usize = 256;

/// Jobs taken for one reserve, in the order in which they will be delivered.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) slots: SmallVec<[u32; 64]>,
    pub(super) entries: SmallVec<[ReserveEntry; 64]>,
    /// How many of them are logged ones.
    durable: usize,
}

impl Engine {
    /// Reserves up to `jobs_max` jobs, from the first queue that has any on, each queue's highest priority
    /// first. Never waits; an empty answer is a success. `lease_ms` 0 takes each job's own lease time.
    ///
    /// # Errors
    /// `QUEUE_NOT_FOUND`, `INVALID_ARGUMENT`, or what the log says; nothing is handed out then.
    pub fn reserve(
        &self,
        queues: &[QueueId],
        jobs_max: usize,
        lease_ms: u32,
        request: RequestId,
        now_ms: u64,
        sink: &mut dyn DeliverySink,
    ) -> Result<Confirmed, Refusal> {
        self.check_open()?;
        if queues.is_empty() || queues.len() > QUEUES_PER_REQUEST_MAX || lease_ms > LEASE_MS_MAX {
            let text =
                format!("a reserve names 1 to {QUEUES_PER_REQUEST_MAX} queues and a lease of at most 24 h");
            return Err(Refusal::new(ErrorCode::InvalidArgument, text));
        }
        match self.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_reserve(applied, now_ms, sink),
            other => return Err(not_fresh(other)),
        }
        let mut request = OpenRequest {
            sessions: &self.sessions,
            id: request,
            applied: None,
        };
        self.reserve_fresh(queues, jobs_max, lease_ms, &mut request, now_ms, sink)
    }

    fn reserve_fresh(
        &self,
        queues: &[QueueId],
        jobs_max: usize,
        lease_ms: u32,
        request: &mut OpenRequest<'_>,
        now_ms: u64,
        sink: &mut dyn DeliverySink,
    ) -> Result<Confirmed, Refusal> {
        let mut taken = Taken::default();
        let (mut bytes_room, jobs_room) = sink.room();
        let jobs_max = jobs_max.min(jobs_room).min(RESERVE_JOBS_MAX);
        // All looked up before any job is taken: a refusal hands nothing out.
        let queues: SmallVec<[&Queue; 8]> = queues
            .iter()
            .map(|queue| self.registry.live(*queue))
            .collect::<Result<_, _>>()?;
        for queue in queues.into_iter().filter(|queue| !queue.is_paused()) {
            if self.take_from(queue, jobs_max, lease_ms, now_ms, &mut bytes_room, &mut taken) {
                break;
            }
        }
        if taken.slots.is_empty() {
            return Ok(self.unlogged());
        }
        if is_planted(Plant::CountAttemptLate) {
            self.log_reserve_late(&taken);
            let level = self.level_of(&taken);
            self.deliver(&taken, now_ms, sink);
            let unlogged = self.unlogged();
            return Ok(Confirmed { level, ..unlogged });
        }
        let (applied, position) = match self.log_reserve(&taken, request.id, now_ms) {
            Ok(logged) => logged,
            Err(error) => {
                self.put_back(&taken);
                return Err(log_refusal(error));
            }
        };
        request.applied = Some(applied);
        let level = self.level_of(&taken);
        self.deliver(&taken, now_ms, sink);
        Ok(Confirmed {
            level,
            position,
            replayed: false,
        })
    }

    /// The strongest durability among the queues of what was taken.
    fn level_of(&self, taken: &Taken) -> Durability {
        if taken.durable == 0 {
            return Durability::Memory;
        }
        let mut level = Durability::Written;
        let mut last = None;
        for number in &taken.slots {
            let queue = self.slab.slot(*number).queue();
            if last != Some(queue) {
                last = Some(queue);
                level = self
                    .registry
                    .get(QueueId(queue))
                    .map_or(level, |queue| level.max(queue.durability()));
            }
        }
        level
    }

    /// Pops and takes jobs of one queue, highest priority first. Says whether the answer is full: there are as
    /// many jobs as asked for, or the next one in order does not fit.
    fn take_from(
        &self,
        queue: &Queue,
        jobs_max: usize,
        lease_ms: u32,
        now_ms: u64,
        bytes_room: &mut usize,
        taken: &mut Taken,
    ) -> bool {
        let mut popped: SmallVec<[u32; 64]> = SmallVec::new();
        for priority in (0..PRIORITIES as u8).rev() {
            loop {
                let left = jobs_max - taken.slots.len();
                if left == 0 {
                    return true;
                }
                popped.resize(left.min(POP_MAX), 0);
                let is_first = taken.slots.is_empty();
                let want = match self.fitting(queue, priority, &mut popped, *bytes_room, is_first) {
                    Fitting::Jobs(0) => break,
                    Fitting::Jobs(want) => want,
                    // Nothing behind it goes first: not in its level, nor from a lower one.
                    Fitting::TooLarge => return true,
                };
                let count = queue.pop_ready(&self.pool, priority, &mut popped[..want]);
                if count == 0 {
                    break;
                }
                let mut refused = false;
                for number in &popped[..count] {
                    refused |= !self.take_popped(*number, queue, lease_ms, now_ms, taken, bytes_room);
                }
                if refused {
                    // What the log refused stands in front again, and would be popped again and again.
                    return true;
                }
            }
        }
        false
    }

    /// How many of the jobs in front fit into `bytes_room`; looks without taking. The first job of an answer may
    /// always come, so that a job larger than the caller's wish is not stuck.
    fn fitting(
        &self,
        queue: &Queue,
        priority: u8,
        peeked: &mut [u32],
        bytes_room: usize,
        is_first: bool,
    ) -> Fitting {
        if queue.counters.bytes() <= bytes_room as u64 {
            return Fitting::Jobs(peeked.len());
        }
        let seen = queue.peek_ready(&self.pool, priority, peeked);
        let mut room = bytes_room;
        for (count, number) in peeked[..seen].iter().enumerate() {
            let slot = self.slab.slot(*number);
            if slot.state().phase() != Phase::Ready {
                continue;
            }
            let need = slot.body_bytes();
            if need > room && !(is_first && count == 0) {
                return if count == 0 {
                    Fitting::TooLarge
                } else {
                    Fitting::Jobs(count)
                };
            }
            room = room.saturating_sub(need);
        }
        Fitting::Jobs(seen)
    }

    /// Takes one popped job: Ready to Busy under its next attempt number. `false`: the log refused that it expires.
    fn take_popped(
        &self,
        number: u32,
        queue: &Queue,
        lease_ms: u32,
        now_ms: u64,
        taken: &mut Taken,
        bytes_room: &mut usize,
    ) -> bool {
        let slot = self.slab.slot(number);
        loop {
            let Popped::Ready(word) = self.slab.meet(number) else {
                return true;
            };
            let expires_ms = slot.expires_ms();
            if expires_ms != 0 && expires_ms <= now_ms {
                match self.expire_unserved(number, word, now_ms) {
                    Unserved::Gone => return true,
                    Unserved::Refused => return false,
                    Unserved::Moved => continue,
                }
            }
            let Some(busy) = slot.take_popped(word) else {
                continue;
            };
            let lease_ms = match (lease_ms, slot.lease_ms()) {
                (0, 0) => queue.options.lease_ms,
                (0, job) => job,
                (asked, _) => asked,
            };
            *bytes_room = bytes_room.saturating_sub(slot.body_bytes());
            taken.durable += usize::from(!word.has(VOLATILE));
            taken.slots.push(number);
            taken.entries.push(ReserveEntry {
                id: U64::new(id_of(number, busy).0),
                lease_ms: U32::new(lease_ms),
                attempt: U16::new(busy.attempt()),
                reserved: U16::ZERO,
            });
            return true;
        }
    }

    /// Logs the attempts (G3). Volatile jobs alone are told of only for a numbered request, so that its answer can
    /// be made again; beside logged ones they do no harm, since their ids mean nothing to a recovery.
    fn log_reserve(
        &self,
        taken: &Taken,
        request: RequestId,
        now_ms: u64,
    ) -> Result<(Applied, Option<LogPosition>), LogError> {
        let prelude = Prelude::len_for(request);
        let volatile = taken.durable == 0;
        if volatile && prelude == 0 {
            return Ok((
                Applied {
                    position: LogPosition::NONE,
                    volatile: true,
                },
                None,
            ));
        }
        // Release: who reads the log's tail behind this record finds the jobs taken (see `claim_copy`).
        fence(Ordering::Release);
        let entries = taken.entries.as_bytes();
        let mut claim = self
            .log(volatile)
            .claim(prelude + 8 + entries.len(), Room::HandOut)?;
        if prelude > 0 {
            claim.put(Prelude::new(request).as_bytes());
        }
        claim.put(&(taken.entries.len() as u64).to_le_bytes());
        claim.put(entries);
        let at = claim.position();
        let end = claim.commit(
            Kind::Reserve as u8,
            if prelude > 0 { NUMBERED } else { 0 },
            now_ms,
            0,
        );
        Ok((
            Applied {
                position: at,
                volatile,
            },
            (!volatile).then_some(end),
        ))
    }

    /// A planted bug: the attempts are logged when the log's agent comes by.
    #[cfg(planted)]
    fn log_reserve_late(&self, taken: &Taken) {
        let volatile = |number: &u32| self.slab.slot(*number).state().has(VOLATILE);
        let entries = taken.slots.iter().zip(&taken.entries);
        let logged = entries
            .filter(|(number, _)| !volatile(number))
            .map(|(_, entry)| *entry);
        self.late_attempts.lock().extend(logged);
    }

    #[cfg(not(planted))]
    fn log_reserve_late(&self, _: &Taken) {}

    /// The log refused: the jobs go back to where they were.
    fn put_back(&self, taken: &Taken) {
        for (number, entry) in taken.slots.iter().zip(&taken.entries).rev() {
            let slot = self.slab.slot(*number);
            let ready = slot
                .state()
                .with_attempt(entry.attempt.get() - 1)
                .with_phase(Phase::Ready)
                .with(QUEUED);
            let priority = slot.fields().priority;
            let queue = self.registry.get(QueueId(slot.queue()));
            slot.publish(ready);
            if let Some(queue) = queue {
                queue.put_front(priority, *number);
                self.wake(queue, 1);
                self.drop_stale_if_deleted(queue);
            }
        }
    }
}

/// A request under way; its session hears of its end also when a sink panics.
struct OpenRequest<'a> {
    sessions: &'a Sessions,
    id: RequestId,
    applied: Option<Applied>,
}

impl Drop for OpenRequest<'_> {
    #[inline]
    fn drop(&mut self) {
        match self.applied {
            Some(applied) if !applied.position.is_none() => self.sessions.finish(self.id, applied),
            // Nothing was handed out, so nothing needs to be remembered.
            _ => self.sessions.abandon(self.id),
        }
    }
}

/// What of the jobs in front fits.
enum Fitting {
    /// So many.
    Jobs(usize),
    /// There are some, and the first is too large.
    TooLarge,
}
