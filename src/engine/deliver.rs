//! Bringing jobs that were taken to the worker, and bringing them again when the answer was lost.

use super::enqueue::already_applied;
use super::journal::{Kind, ReserveEntry, parse_reserve};
use super::queue::{Queue, QueueId};
use super::replay::{Applied, RequestId};
use super::reserve::Taken;
use super::slot::{Fields, Slot};
use super::word::{Phase, StateWord, TIMED, VOLATILE};
use super::{Confirmed, Engine, replayed};
use crate::base::batch::{SettleBatch, SettleBuilder};
use crate::base::code::Refusal;
use crate::base::job::{JobId, Token};
use crate::log::{Log, Pin};

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

/// Takes deliveries, typically by copying the payload once into an output buffer. If it panics, the jobs that it has
/// not taken go back to their queues.
pub trait DeliverySink {
    /// How many more bytes of metadata and payload fit, and how many more jobs. Asked before jobs are taken.
    fn room(&self) -> (usize, usize);

    /// One delivery. `body` is metadata and payload; it is only borrowed from the log.
    fn push(&mut self, head: &DeliveryHead, body: &[u8]);
}

impl Engine {
    /// Hands jobs out whose attempts are logged.
    pub(super) fn deliver(&self, taken: &Taken, now_ms: u64, sink: &mut (impl DeliverySink + ?Sized)) {
        let slots = self.slab.all();
        let mut reader = BodyReader::new(self);
        let mut round = Round {
            engine: self,
            taken,
            now_ms,
            published: 0,
            counted: None,
        };
        for entry in &taken.entries {
            let slot = slots.slot(entry.slot());
            let lease_ms = entry.lease_ms.get();
            slot.write_at(now_ms + u64::from(lease_ms));
            let word = slot.state();
            let fields = slot.delivered();
            let token = token_of(entry);
            // Published only after the body was read: until then nobody else can settle the job, so its segment
            // stays (the live count covers it) apart from being moved, which `read` follows.
            reader.read(word.has(VOLATILE), slot, &fields, |body| {
                sink.push(&head_of(token, &fields, lease_ms), body)
            });
            round.publish(slot, word, fields.queue);
        }
    }

    /// Makes the answer to a reserve again: those of its deliveries that are still current.
    pub(super) fn replay_reserve(
        &self,
        applied: Applied,
        now_ms: u64,
        sink: &mut (impl DeliverySink + ?Sized),
    ) -> Result<Confirmed, Refusal> {
        let mut reader = BodyReader::new(self);
        let found = self.with_record(applied, |kind, body| {
            if kind != Kind::Reserve {
                return None;
            }
            for entry in parse_reserve(body)? {
                let token = token_of(entry);
                let Some(slot) = self.slab.get(token.id.slot()) else {
                    continue;
                };
                let Some((word, fields)) = slot.snapshot() else {
                    continue;
                };
                let current = word.generation() == token.id.generation() && word.attempt() == token.attempt;
                let left_ms = fields.at_ms.saturating_sub(now_ms) as u32;
                if current && word.phase() == Phase::Leased && left_ms > 0 {
                    reader.read(word.has(VOLATILE), slot, &fields, |body| {
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

/// Jobs on their way to one sink. Dropped behind the last of them, or when the sink panics: then the others, which
/// nobody got, are given back.
struct Round<'a> {
    engine: &'a Engine,
    taken: &'a Taken,
    now_ms: u64,
    /// How many are leased.
    published: usize,
    /// Jobs of one queue that are leased and not counted yet.
    counted: Option<(&'a Queue, u64)>,
}

impl Round<'_> {
    /// Leases the next job, which the sink has got.
    #[inline]
    fn publish(&mut self, slot: Slot<'_>, word: StateWord, queue: u32) {
        slot.publish(word.with_phase(Phase::Leased).without(TIMED));
        self.published += 1;
        match &mut self.counted {
            Some((counted, n)) if counted.id.0 == queue => *n += 1,
            other => {
                count_delivered(other.take());
                *other = self.engine.registry.get(QueueId(queue)).map(|queue| (queue, 1));
            }
        }
    }

    /// The sink panicked. Nobody has the rest, so they are leased like the others, which is what the log says of
    /// them, and released. Where even that is refused their leases end by themselves.
    #[cold]
    fn give_back_the_rest(&mut self) {
        let mut batch = SettleBuilder::new();
        for entry in &self.taken.entries[self.published..] {
            let slot = self.engine.slab.slot(entry.slot());
            slot.write_at(self.now_ms + u64::from(entry.lease_ms.get()));
            batch.release(token_of(entry));
            self.publish(slot, slot.state(), slot.queue());
        }
        let mut bytes = Vec::new();
        batch.write_to(&mut bytes);
        if let Ok(batch) = SettleBatch::parse(batch.count(), &bytes) {
            let _ = self
                .engine
                .settle(&batch, RequestId::NONE, self.now_ms, &mut Vec::new());
        }
    }
}

impl Drop for Round<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.published < self.taken.entries.len() {
            self.give_back_the_rest();
        }
        count_delivered(self.counted.take());
        self.engine.watch_leases(&self.taken.entries);
    }
}

fn token_of(entry: &ReserveEntry) -> Token {
    Token {
        id: JobId(entry.id.get()),
        attempt: entry.attempt.get(),
    }
}

fn count_delivered(counted: Option<(&Queue, u64)>) {
    if let Some((queue, n)) = counted {
        queue.counters.delivered(n);
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

/// Reads bodies out of the logs, holding on to one segment for as long as bodies come from it.
pub(super) struct BodyReader<'a> {
    engine: &'a Engine,
    pin: Option<Pin<'a>>,
    /// Whether the pin is in the volatile log.
    volatile: bool,
}

impl<'a> BodyReader<'a> {
    /// Holds nothing yet.
    pub(super) fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            pin: None,
            volatile: false,
        }
    }

    /// Hands the body of a job to `with`. A job whose body is gone (it ended meanwhile) is passed over.
    #[inline]
    pub(super) fn read(&mut self, volatile: bool, slot: Slot<'_>, fields: &Fields, with: impl FnOnce(&[u8])) {
        let len = fields.payload_len as usize + usize::from(fields.meta_len);
        // Nearly always it stands in the segment that is held.
        if let Some(pin) = &self.pin
            && self.volatile == volatile
            && let Some(bytes) = pin.bytes(slot.body(), len)
        {
            return with(bytes);
        }
        if let Some(bytes) = self.follow(volatile, slot, len) {
            with(bytes);
        }
    }

    /// Takes hold of the segment where the body stands.
    #[inline(never)]
    fn follow(&mut self, volatile: bool, slot: Slot<'_>, len: usize) -> Option<&[u8]> {
        let log: &'a Log = self.engine.log(volatile);
        if self.volatile != volatile {
            self.pin = None;
            self.volatile = volatile;
        }
        let pin = &mut self.pin;
        // The body may be moved between reading where it is and pinning that segment; it then stands elsewhere.
        // Each round that fails means that it was moved once more, so there are not many.
        let body = loop {
            let body = slot.body();
            if body.is_none() {
                return None;
            }
            if pin.as_ref().is_some_and(|pin| pin.covers(body)) {
                break body;
            }
            *pin = log.pin(body);
            if pin.is_some() {
                break body;
            }
            if slot.body() == body {
                return None;
            }
        };
        // None where the slot has another job by now, and the length is not that of its body.
        pin.as_ref()?.bytes(body, len)
    }
}
