//! Handing out: pop, take, log the attempt, deliver.

use super::enqueue::{already_applied, not_fresh};
use super::journal::{Kind, NUMBERED, Prelude, ReserveEntry, parse_reserve};
use super::queue::{Event, Queue, QueueId};
use super::replay::{Applied, Begun, RequestId};
use super::slot::{Fields, Phase, QUEUED, Slot, TIMED, VOLATILE, id_of};
use super::{Confirmed, Engine, log_refusal, replayed};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, Token};
use crate::base::limits::{LEASE_MS_MAX, PRIORITIES, QUEUES_PER_REQUEST_MAX, RESERVE_JOBS_MAX};
use crate::base::queue::Durability;
use crate::log::{Log, LogError, LogPosition, Pin, Room};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// What a worker is told about a delivery besides its metadata and payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryHead {
    /// What settles it.
    pub token: Token,
    /// The queue it came from.
    pub queue: QueueId,
    /// When the job was accepted, in milliseconds since the Unix epoch.
    pub enqueued_ms: u64,
    /// How long the lease runs from now, in milliseconds.
    pub lease_ms: u32,
    /// Length of the payload.
    pub payload_len: u32,
    /// Length of the metadata, which stands before the payload.
    pub meta_len: u16,
    /// Attempts used, this one included.
    pub attempts: u16,
    /// Attempts allowed.
    pub max_attempts: u16,
    /// Priority level.
    pub priority: u8,
}

/// Takes deliveries, typically by copying the payload once into an output buffer.
pub trait DeliverySink {
    /// How many more bytes of metadata and payload fit, and how many more jobs. Asked before jobs are taken.
    fn room(&self) -> (usize, usize);

    /// One delivery. `body` is metadata and payload; it is only borrowed from the log.
    fn push(&mut self, head: &DeliveryHead, body: &[u8]);
}

/// Jobs taken for one reserve, in the order in which they will be delivered.
struct Taken {
    slots: [u32; RESERVE_JOBS_MAX],
    entries: [ReserveEntry; RESERVE_JOBS_MAX],
    len: usize,
    /// Whether these are volatile jobs; one reserve hands out only one kind, since it has one record.
    volatile: bool,
    level: Durability,
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
        match self.sessions.begin(request, now_ms) {
            Begun::Fresh => {}
            Begun::Applied(applied) => return self.replay_reserve(applied, now_ms, sink),
            other => return Err(not_fresh(other)),
        }
        let done = self.reserve_fresh(queues, jobs_max, lease_ms, request, now_ms, sink);
        match &done {
            Ok((_, applied)) if !applied.position.is_none() => self.sessions.finish(request, *applied),
            // Nothing was handed out, so nothing needs to be remembered.
            _ => self.sessions.abandon(request),
        }
        done.map(|(confirmed, _)| confirmed)
    }

    fn reserve_fresh(
        &self,
        queues: &[QueueId],
        jobs_max: usize,
        lease_ms: u32,
        request: RequestId,
        now_ms: u64,
        sink: &mut dyn DeliverySink,
    ) -> Result<(Confirmed, Applied), Refusal> {
        let mut taken = Taken {
            slots: [0; RESERVE_JOBS_MAX],
            entries: [ReserveEntry::default(); RESERVE_JOBS_MAX],
            len: 0,
            volatile: false,
            level: Durability::Memory,
        };
        let (mut bytes_room, jobs_room) = sink.room();
        let jobs_max = jobs_max.min(jobs_room).min(RESERVE_JOBS_MAX);
        for queue in queues {
            let queue = self.registry.live(*queue)?;
            if queue.is_paused() {
                continue;
            }
            self.take_from(queue, jobs_max, lease_ms, now_ms, &mut bytes_room, &mut taken);
            if taken.len == jobs_max {
                break;
            }
        }
        let nothing = Applied {
            position: LogPosition::NONE,
            volatile: false,
        };
        if taken.len == 0 {
            return Ok((
                Confirmed {
                    level: taken.level,
                    position: None,
                    replayed: false,
                },
                nothing,
            ));
        }
        let (applied, position) = match self.log_reserve(&taken, request, now_ms) {
            Ok(logged) => logged,
            Err(error) => {
                self.put_back(&taken);
                return Err(log_refusal(error));
            }
        };
        self.deliver(&taken, now_ms, sink);
        Ok((
            Confirmed {
                level: taken.level,
                position,
                replayed: false,
            },
            applied,
        ))
    }

    /// Pops and takes jobs of one queue, highest priority first.
    fn take_from(
        &self,
        queue: &Queue,
        jobs_max: usize,
        lease_ms: u32,
        now_ms: u64,
        bytes_room: &mut usize,
        taken: &mut Taken,
    ) {
        for priority in (0..PRIORITIES).rev() {
            while taken.len < jobs_max {
                let start = taken.len;
                let want = self.fitting(
                    queue,
                    priority,
                    &mut taken.slots[start..jobs_max],
                    *bytes_room,
                    start == 0,
                );
                if want == 0 {
                    break;
                }
                let popped = queue
                    .ring(priority)
                    .pop(&self.pool, &mut taken.slots[start..start + want]);
                if popped == 0 {
                    break;
                }
                let mut mismatch = None;
                for index in start..start + popped {
                    let number = taken.slots[index];
                    match self.take_popped(number, queue, lease_ms, now_ms, taken, bytes_room) {
                        Ok(()) => {}
                        Err(NotTaken::OtherLog) => {
                            mismatch = Some(index);
                            break;
                        }
                        Err(NotTaken::Stale) => {}
                    }
                }
                if let Some(from) = mismatch {
                    // Jobs of the other log wait for the next reserve: back into the ring, order among them kept.
                    let rest: Vec<u32> = taken.slots[from..start + popped].to_vec();
                    queue.push_ready(&self.pool, priority as u8, &rest);
                    return;
                }
            }
        }
    }

    /// How many of the jobs in front fit into `bytes_room`; looks without taking. The first job of an answer may
    /// always come, so that a job larger than the caller's wish is not stuck.
    fn fitting(
        &self,
        queue: &Queue,
        priority: usize,
        peeked: &mut [u32],
        bytes_room: usize,
        is_first: bool,
    ) -> usize {
        if queue.counters.bytes() <= bytes_room as u64 {
            return peeked.len();
        }
        let seen = queue.ring(priority).peek(&self.pool, peeked);
        let mut room = bytes_room;
        for (count, number) in peeked[..seen].iter().enumerate() {
            let need = self.slab.slot(*number).body_bytes();
            if need > room && !(is_first && count == 0) {
                return count;
            }
            room = room.saturating_sub(need);
        }
        seen
    }

    /// Takes one popped job: Ready to Busy under its next attempt number.
    fn take_popped(
        &self,
        number: u32,
        queue: &Queue,
        lease_ms: u32,
        now_ms: u64,
        taken: &mut Taken,
        bytes_room: &mut usize,
    ) -> Result<(), NotTaken> {
        let slot = self.slab.slot(number);
        loop {
            let word = slot.state();
            match word.phase() {
                Phase::Ready => {}
                Phase::Busy => {
                    // Somebody cancels or expires it at this moment; the handle is ours to give up. If that
                    // change is taken back, its maker finds the mark gone and pushes the handle again.
                    if slot.exchange(word, word.without(QUEUED)).is_ok() {
                        return Err(NotTaken::Stale);
                    }
                    continue;
                }
                _ => {
                    self.drop_queued(number, slot, word);
                    return Err(NotTaken::Stale);
                }
            }
            if taken.len > 0 && word.has(VOLATILE) != taken.volatile {
                return Err(NotTaken::OtherLog);
            }
            let fields = slot.fields();
            if fields.expires_ms != 0 && fields.expires_ms <= now_ms {
                if self.expire_unserved(number, word, now_ms) {
                    return Err(NotTaken::Stale);
                }
                continue;
            }
            let attempt = word.attempt() + 1;
            let busy = word.with_attempt(attempt).with_phase(Phase::Busy).without(QUEUED);
            if slot.exchange(word, busy).is_err() {
                continue;
            }
            let lease_ms = match (lease_ms, fields.lease_ms) {
                (0, 0) => queue.options.lease_ms,
                (0, job) => job,
                (asked, _) => asked,
            };
            *bytes_room = bytes_room.saturating_sub(fields.body_bytes() as usize);
            taken.volatile = word.has(VOLATILE);
            if !taken.volatile {
                taken.level = taken.level.max(queue.durability()).max(Durability::Written);
            }
            taken.slots[taken.len] = number;
            taken.entries[taken.len] = ReserveEntry {
                id: U64::new(id_of(number, busy).0),
                lease_ms: U32::new(lease_ms),
                attempt: U16::new(attempt),
                reserved: U16::ZERO,
            };
            taken.len += 1;
            return Ok(());
        }
    }

    /// Logs the attempts (G3). Volatile ones only for a numbered request, so that its answer can be made again.
    fn log_reserve(
        &self,
        taken: &Taken,
        request: RequestId,
        now_ms: u64,
    ) -> Result<(Applied, Option<LogPosition>), LogError> {
        let prelude = Prelude::len_for(request);
        if taken.volatile && prelude == 0 {
            return Ok((
                Applied {
                    position: LogPosition::NONE,
                    volatile: true,
                },
                None,
            ));
        }
        let entries = taken.entries[..taken.len].as_bytes();
        let mut claim = self
            .log(taken.volatile)
            .claim(prelude + 8 + entries.len(), Room::Settle)?;
        if prelude > 0 {
            claim.put(Prelude::new(request).as_bytes());
        }
        claim.put(&(taken.len as u64).to_le_bytes());
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
                volatile: taken.volatile,
            },
            (!taken.volatile).then_some(end),
        ))
    }

    /// The log refused: the jobs go back as they were, behind what is there.
    fn put_back(&self, taken: &Taken) {
        for (number, entry) in taken.slots[..taken.len].iter().zip(&taken.entries) {
            let slot = self.slab.slot(*number);
            let attempt = entry.attempt.get() - 1;
            slot.publish(
                slot.state()
                    .with_attempt(attempt)
                    .with_phase(Phase::Ready)
                    .with(QUEUED),
            );
            if let Some(queue) = self.registry.get(QueueId(slot.queue())) {
                queue.push_ready(&self.pool, slot.fields().priority, &[*number]);
            }
        }
    }

    fn deliver(&self, taken: &Taken, now_ms: u64, sink: &mut dyn DeliverySink) {
        let mut reader = BodyReader::new(self.log(taken.volatile));
        let mut counted: Option<(&Queue, u64)> = None;
        let slots = &taken.slots[..taken.len];
        for (number, entry) in slots.iter().zip(&taken.entries) {
            let slot = self.slab.slot(*number);
            let lease_ms = entry.lease_ms.get();
            slot.write_at(now_ms + u64::from(lease_ms));
            let word = slot.state();
            let fields = slot.fields();
            let token = Token {
                id: JobId(entry.id.get()),
                attempt: entry.attempt.get(),
            };
            // Published only after the body was read: until then nobody else can settle the job, so its segment
            // stays (the live count covers it) apart from being moved, which `read` follows.
            reader.read(slot, &fields, |body| {
                sink.push(&head_of(token, &fields, lease_ms), body)
            });
            slot.publish(word.with_phase(Phase::Leased).without(TIMED));
            match &mut counted {
                Some((queue, n)) if queue.id.0 == fields.queue => *n += 1,
                other => {
                    count_delivered(other.take());
                    *other = self.registry.get(QueueId(fields.queue)).map(|queue| (queue, 1));
                }
            }
        }
        count_delivered(counted);
        self.watch_leases(slots);
    }

    /// Makes the answer to a reserve again: those of its deliveries that are still current.
    fn replay_reserve(
        &self,
        applied: Applied,
        now_ms: u64,
        sink: &mut dyn DeliverySink,
    ) -> Result<Confirmed, Refusal> {
        let mut reader = BodyReader::new(self.log(applied.volatile));
        let found = self.with_record(applied, |kind, body| {
            if kind != Kind::Reserve {
                return None;
            }
            for entry in parse_reserve(body)? {
                let token = Token {
                    id: JobId(entry.id.get()),
                    attempt: entry.attempt.get(),
                };
                let Some(slot) = self.slab.get(token.id.slot()) else {
                    continue;
                };
                let Some((word, fields)) = slot.snapshot() else {
                    continue;
                };
                let current = word.generation() == token.id.generation() && word.attempt() == token.attempt;
                let left_ms = fields.at_ms.saturating_sub(now_ms) as u32;
                if current && word.phase() == Phase::Leased && left_ms > 0 {
                    reader.read(slot, &fields, |body| {
                        if slot.state() == word {
                            sink.push(&head_of(token, &fields, left_ms), body);
                        }
                    });
                }
            }
            Some(())
        });
        found.map(|()| replayed(applied)).ok_or_else(already_applied)
    }

    /// Whether a delivery is still the current one of its job and leased.
    pub fn is_current(&self, token: Token) -> bool {
        self.slab.get(token.id.slot()).is_some_and(|slot| {
            let word = slot.state();
            word.generation() == token.id.generation()
                && word.attempt() == token.attempt
                && matches!(word.phase(), Phase::Leased | Phase::Busy)
        })
    }
}

enum NotTaken {
    /// The handle was out of date, or the job has expired.
    Stale,
    /// The job belongs to the other log than those already taken.
    OtherLog,
}

fn count_delivered(counted: Option<(&Queue, u64)>) {
    if let Some((queue, n)) = counted {
        queue.counters.moved(Phase::Ready, Phase::Leased, n);
        queue.counters.count(Event::Delivered, n);
    }
}

fn head_of(token: Token, fields: &Fields, lease_ms: u32) -> DeliveryHead {
    DeliveryHead {
        token,
        queue: QueueId(fields.queue),
        enqueued_ms: fields.enqueued_ms,
        lease_ms,
        payload_len: fields.payload_len,
        meta_len: fields.meta_len,
        attempts: fields.attempts(token.attempt),
        max_attempts: fields.max_attempts(),
        priority: fields.priority,
    }
}

/// Reads bodies out of the log, holding on to one segment for as long as bodies come from it.
pub(super) struct BodyReader<'a> {
    log: &'a Log,
    pin: Option<Pin<'a>>,
}

impl<'a> BodyReader<'a> {
    /// Reads from `log`.
    pub(super) fn new(log: &'a Log) -> Self {
        Self { log, pin: None }
    }

    /// Hands the body of a job to `with`. A job whose body is gone (it ended meanwhile) is passed over.
    pub(super) fn read(&mut self, slot: Slot<'_>, fields: &Fields, with: impl FnOnce(&[u8])) {
        let len = fields.payload_len as usize + usize::from(fields.meta_len);
        // The body may be moved between reading where it is and pinning that segment; it then stands elsewhere.
        for _ in 0..3 {
            let body = slot.body();
            if body.is_none() {
                return;
            }
            if !self.pin.as_ref().is_some_and(|pin| pin.covers(body)) {
                self.pin = self.log.pin(body);
            }
            if let Some(bytes) = self.pin.as_ref().and_then(|pin| pin.bytes(body, len)) {
                return with(bytes);
            }
        }
    }
}
