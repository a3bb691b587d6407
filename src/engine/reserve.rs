//! Handing out: pop, take, log the attempt, deliver.

use super::deliver::DeliverySink;
use super::enqueue::not_fresh;
use super::expire::Unserved;
use super::journal::{Kind, NUMBERED, Prelude, ReserveEntry};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, Begun, RequestId, Sessions};
use super::slot::Slot;
use super::transition::Popped;
use super::word::{Phase, QUEUED, StateWord, VOLATILE, id_of};
use super::{Confirmed, Engine, log_refusal};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::{LEASE_MS_MAX, QUEUES_PER_REQUEST_MAX, RESERVE_JOBS_MAX};
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::Durability;
use crate::base::sync::{Ordering, fence};
use crate::log::{Body, Content, LogError, LogPosition, Room};
use smallvec::SmallVec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Handles popped at once.
const POP_MAX: usize = 64;

/// Jobs taken for one reserve, in the order in which they will be delivered.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) entries: SmallVec<[ReserveEntry; 64]>,
    /// How many of them are logged ones.
    durable: usize,
    /// Bytes that the sink still has room for.
    bytes_room: usize,
    /// Of the queues that they came from.
    strongest: Option<Durability>,
}

impl Taken {
    /// What their delivery can be called.
    fn level(&self) -> Durability {
        if self.durable == 0 {
            Durability::Memory
        } else {
            Durability::Written.max(self.strongest.unwrap_or(Durability::Written))
        }
    }
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
        sink: &mut (impl DeliverySink + ?Sized),
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
        let mut taken = Taken::default();
        self.take_jobs(queues, jobs_max, lease_ms, now_ms, sink.room(), &mut taken)?;
        if taken.entries.is_empty() {
            return Ok(self.unlogged());
        }
        if is_planted(Plant::CountAttemptLate) {
            self.log_reserve_late(&taken);
            let level = taken.level();
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
        let level = taken.level();
        self.deliver(&taken, now_ms, sink);
        Ok(Confirmed {
            level,
            position,
            replayed: false,
        })
    }

    /// Takes jobs of the queues, the first one's first, as many as are wanted and there is room for.
    fn take_jobs(
        &self,
        queues: &[QueueId],
        jobs_max: usize,
        lease_ms: u32,
        now_ms: u64,
        (bytes_room, jobs_room): (usize, usize),
        taken: &mut Taken,
    ) -> Result<(), Refusal> {
        // All looked up before any job is taken: a refusal hands nothing out.
        for queue in queues {
            self.registry.live(*queue)?;
        }
        let wish = Wish {
            jobs_max: jobs_max.min(jobs_room).min(RESERVE_JOBS_MAX),
            lease_ms,
            now_ms,
        };
        taken.bytes_room = bytes_room;
        let queues = queues.iter().filter_map(|queue| self.registry.get(*queue));
        for queue in queues.filter(|queue| !queue.is_paused()) {
            let before = taken.entries.len();
            let is_full = self.take_from(queue, wish, taken);
            if taken.entries.len() > before {
                taken.strongest = taken.strongest.max(Some(queue.durability()));
            }
            if is_full {
                break;
            }
        }
        Ok(())
    }

    /// Pops and takes jobs of one queue, highest priority first. Says whether the answer is full: there are as
    /// many jobs as asked for, or the next one in order does not fit.
    fn take_from(&self, queue: &Queue, wish: Wish, taken: &mut Taken) -> bool {
        let mut handles = [0; POP_MAX];
        let mut levels = queue.levels();
        while let Some(priority) = levels.checked_ilog2() {
            levels ^= 1 << priority;
            let priority = priority as u8;
            loop {
                let left = wish.jobs_max - taken.entries.len();
                if left == 0 {
                    return true;
                }
                let places = &mut handles[..left.min(POP_MAX)];
                let is_first = taken.entries.is_empty();
                let popped = match self.fitting(queue, priority, places, taken.bytes_room, is_first) {
                    Fitting::Jobs(0) => 0,
                    Fitting::Jobs(want) => queue.pop_ready(&self.pool, priority, &mut places[..want]),
                    // Nothing behind it goes first: not in its level, nor from a lower one.
                    Fitting::TooLarge => return true,
                };
                if popped == 0 {
                    break;
                }
                if !self.take_popped(queue, wish, &handles[..popped], taken) {
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
        // Whoever takes everything does not look at counters that others write.
        if bytes_room == usize::MAX || queue.counters.bytes() <= bytes_room as u64 {
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

    /// Takes the jobs of popped handles, each Ready to Busy under its next attempt number. `false`: the log refused that
    /// one expires.
    fn take_popped(&self, queue: &Queue, wish: Wish, mut handles: &[u32], taken: &mut Taken) -> bool {
        let slots = self.slab.all();
        let mut refused = false;
        taken.entries.reserve(handles.len());
        loop {
            let before = taken.entries.len();
            // Where the first is not as nearly all are, there is nothing to be passed for.
            let is_plain = |number: &&u32| {
                let slot = slots.slot(**number);
                slot.state().is(Phase::Ready) && slot.expires_ms() == 0
            };
            let first = handles.first().filter(is_plain);
            let passing = first.and_then(|_| self.slab.gate().pass(handles.len()));
            // Nearly all are simply there.
            taken.entries.extend(handles.iter().map_while(|number| {
                let slot = slots.slot(*number);
                let word = slot.state();
                if !word.is(Phase::Ready) || slot.expires_ms() != 0 {
                    return None;
                }
                let busy = match &passing {
                    Some(passing) => slot.take_passing(word, passing),
                    None => slot.take_popped(word)?,
                };
                taken.bytes_room = taken.bytes_room.saturating_sub(slot.body_bytes());
                taken.durable += usize::from(!word.has(VOLATILE));
                Some(entry_of(*number, slot, busy, queue, wish))
            }));
            drop(passing);
            handles = &handles[taken.entries.len() - before..];
            let Some((number, others)) = handles.split_first() else {
                return !refused;
            };
            handles = others;
            match self.take_unusual(*number, wish.now_ms) {
                Unusual::Taken(busy) => {
                    let slot = slots.slot(*number);
                    taken.bytes_room = taken.bytes_room.saturating_sub(slot.body_bytes());
                    taken.durable += usize::from(!busy.has(VOLATILE));
                    taken.entries.push(entry_of(*number, slot, busy, queue, wish));
                }
                Unusual::Gone => {}
                Unusual::Refused => refused = true,
            }
        }
    }

    /// Takes a popped job that has a TTL, or moved, or is not there any more.
    fn take_unusual(&self, number: u32, now_ms: u64) -> Unusual {
        let slot = self.slab.slot(number);
        loop {
            let Popped::Ready(word) = self.slab.meet(number) else {
                return Unusual::Gone;
            };
            let expires_ms = slot.expires_ms();
            if expires_ms != 0 && expires_ms <= now_ms {
                match self.expire_unserved(number, word, now_ms) {
                    Unserved::Gone => return Unusual::Gone,
                    Unserved::Refused => return Unusual::Refused,
                    Unserved::Moved => continue,
                }
            }
            if let Some(busy) = slot.take_popped(word) {
                return Unusual::Taken(busy);
            }
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
        let kind = (Kind::Reserve as u8, if prelude > 0 { NUMBERED } else { 0 });
        let entries = taken.entries.as_slice();
        let attempts = Attempts { request, entries };
        let (at, end) = self
            .log(volatile)
            .append(attempts, Room::HandOut, kind, now_ms, 0)?;
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
        let volatile = |entry: &&ReserveEntry| self.slab.slot(entry.slot()).state().has(VOLATILE);
        let logged = taken.entries.iter().filter(|entry| !volatile(entry)).copied();
        self.late_attempts.lock().extend(logged);
    }

    #[cfg(not(planted))]
    fn log_reserve_late(&self, _: &Taken) {}

    /// The log refused: the jobs go back to where they were.
    fn put_back(&self, taken: &Taken) {
        for entry in taken.entries.iter().rev() {
            let number = entry.slot();
            let slot = self.slab.slot(number);
            let ready = slot
                .state()
                .with_attempt(entry.attempt.get() - 1)
                .with_phase(Phase::Ready)
                .with(QUEUED);
            let priority = slot.fields().priority;
            let queue = self.registry.get(QueueId(slot.queue()));
            slot.publish(ready);
            if let Some(queue) = queue {
                queue.put_front(priority, number);
                self.wake(queue, 1);
                self.drop_stale_if_deleted(queue);
            }
        }
    }
}

/// What the log is told of a reserve.
struct Attempts<'a> {
    request: RequestId,
    entries: &'a [ReserveEntry],
}

impl Content for Attempts<'_> {
    #[inline]
    fn body_len(&self) -> usize {
        Prelude::len_for(self.request) + 8 + size_of_val(self.entries)
    }

    #[inline]
    fn put_into(self, body: &mut impl Body) {
        Prelude::put(self.request, body);
        body.put(&(self.entries.len() as u64).to_le_bytes());
        body.put(self.entries.as_bytes());
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

/// What a reserve asks for.
#[derive(Clone, Copy)]
struct Wish {
    jobs_max: usize,
    /// 0 for each job's own.
    lease_ms: u32,
    now_ms: u64,
}

/// As the log tells of a job that was taken out of its queue.
#[inline]
fn entry_of(number: u32, slot: Slot<'_>, busy: StateWord, queue: &Queue, wish: Wish) -> ReserveEntry {
    let lease_ms = match (wish.lease_ms, slot.lease_ms()) {
        (0, 0) => queue.options.lease_ms,
        (0, job) => job,
        (asked, _) => asked,
    };
    ReserveEntry {
        id: U64::new(id_of(number, busy).0),
        lease_ms: U32::new(lease_ms),
        attempt: U16::new(busy.attempt()),
        reserved: U16::ZERO,
    }
}

/// What came of a popped handle that was not simply taken.
enum Unusual {
    /// Its job is Busy under this word.
    Taken(StateWord),
    /// There is none any more.
    Gone,
    /// The job's time is over, and the log refused that: it stands in front again.
    Refused,
}

/// What of the jobs in front fits.
enum Fitting {
    /// So many.
    Jobs(usize),
    /// There are some, and the first is too large.
    TooLarge,
}
