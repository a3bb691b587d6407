//! Deliveries: bodies, attempts, leases, order.

use super::jobs::Excuse;
use super::{
    ConnRef, Delivery, Event, IntentRef, Oracle, Safe, Source, broken, meta_of, payload_of, stamp_of,
};
use ackring::Durability;
use std::collections::{BTreeSet, HashMap};

/// A delivery as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub id: u64,
    pub attempt: u16,
    pub attempts: u16,
    pub max_attempts: u16,
    pub lease_ms: u32,
    pub priority: u8,
    pub redelivered: bool,
    pub queue: usize,
    pub meta: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Where a job stands in what one connection enqueued: queue, priority, and the connection.
type Stream = (usize, u8, ConnRef);
/// Its place there.
type Place = (Event, usize);

/// First hand-outs since the server started.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// When they came, and the highest place until then.
    anywhere: HashMap<Stream, Vec<(Event, Place)>>,
    /// The highest place that came on a connection, in frames that wait for the same: others overtake.
    here: HashMap<(Stream, ConnRef, Waits), Place>,
}

/// What a frame of deliveries waits for before it is sent: whether any of them is logged, and the highest level of their
/// queues.
type Waits = (bool, Option<Durability>);

impl Oracle {
    /// Deliveries came, in this order, in one frame.
    pub(super) fn delivered(&mut self, conn: ConnRef, source: Source, seen: &[Seen]) {
        self.tick();
        let level = seen
            .iter()
            .map(|one| self.queues[one.queue].options.durability)
            .max();
        let mut is_logged = false;
        for one in seen {
            let intent = self.recognise_delivery(one);
            is_logged |= self.intents[intent].level > Durability::Memory;
        }
        for one in seen {
            self.counts.deliveries += 1;
            let intent = self.recognise_delivery(one);
            self.check_body(intent, one);
            let is_new = self.check_attempt(conn, source, one);
            if !is_new {
                continue;
            }
            self.check_lease(one);
            if one.attempt == 1 {
                self.check_order(conn, source, intent, (is_logged, level));
            }
            self.check_paused(source, one);
            self.note_delivery(conn, source, intent, one, level);
        }
    }

    fn recognise_delivery(&mut self, seen: &Seen) -> IntentRef {
        let Some(stamp) = stamp_of(&seen.meta) else {
            broken!("body", "job {:016x} came without its metadata", seen.id);
        };
        if let Some(job) = self.jobs.get(&seen.id) {
            let intent = job.intent;
            if self.intents[intent].stamp != stamp {
                broken!(
                    "body",
                    "job {:016x} came with stamp {stamp:x}, it is {:x}",
                    seen.id,
                    self.intents[intent].stamp
                );
            }
            return intent;
        }
        let intent = self.recognise(seen.id, stamp, seen.queue, "delivered");
        let born = if self.intents[intent].level == Durability::Memory {
            Safe::Memory
        } else {
            Safe::Written(self.event)
        };
        self.learn(intent, seen.id, born, false);
        intent
    }

    fn check_body(&self, intent: IntentRef, seen: &Seen) {
        let intent = &self.intents[intent];
        let id = seen.id;
        if seen.meta != meta_of(intent.stamp, intent.meta_len)
            || seen.payload != payload_of(intent.stamp, intent.payload_len)
        {
            broken!(
                "body",
                "job {id:016x} came with another body than it was sent with: stamp {:x}, {:x?} and {:x?}",
                intent.stamp,
                seen.meta,
                seen.payload
            );
        }
        if (seen.queue, seen.priority) != (intent.queue, intent.priority) {
            broken!(
                "body",
                "job {id:016x} came from another queue or level than it was sent to"
            );
        }
        if seen.redelivered != (seen.attempt > 1) {
            broken!("body", "job {id:016x}: attempt {} and its flag", seen.attempt);
        }
        // A redrive gives as many attempts anew as the queue would, which may be fewer than there were left.
        let allowed = match intent.max_attempts {
            _ if self.was_redriven() => 1,
            0 => self.queues[intent.queue].options.max_attempts,
            own => own,
        };
        if seen.attempts > seen.max_attempts || seen.attempts == 0 || seen.max_attempts < allowed {
            broken!(
                "over-limit",
                "job {id:016x} was handed out for attempt {} of {}, with {allowed} allowed",
                seen.attempts,
                seen.max_attempts
            );
        }
    }

    fn was_redriven(&self) -> bool {
        let mut asks = self.requests.iter().map(|record| &record.ask);
        asks.any(|ask| matches!(ask, super::Ask::Redrive))
    }

    /// Attempt numbers rise, and nothing comes that is over. Says whether the delivery is new.
    fn check_attempt(&mut self, conn: ConnRef, source: Source, seen: &Seen) -> bool {
        let (id, attempt) = (seen.id, seen.attempt);
        let job = &self.jobs[&id];
        if let Some(known) = job.deliveries.iter().find(|known| known.attempt == attempt) {
            let again = matches!((known.source, source), (Source::Reserve(a), Source::Reserve(b)) if a == b);
            if !again {
                broken!(
                    "attempt-repeated",
                    "job {id:016x}: attempt {attempt} was handed out twice: {:?} and now {source:?}",
                    known.source
                );
            }
            // The lease is now held by this connection as well.
            let known_conn = known.conn;
            self.move_lease(id, attempt, known_conn, conn);
            return false;
        }
        let asked_before_boot = match source {
            Source::Reserve(request) => self.requests[request].first_sent < self.boot_event,
            Source::Push(..) => false,
        };
        let (floor, was_current) = job.floor;
        if attempt < floor || attempt == floor && floor > 0 && !(was_current && asked_before_boot) {
            broken!(
                "attempt-repeated",
                "job {id:016x}: attempt {attempt} after the server was started with {floor} deliveries of it"
            );
        }
        if let Some((safe, at, acked)) = job.over {
            let later = match acked {
                Some(acked) => attempt > acked,
                None => match source {
                    Source::Reserve(request) => self.requests[request].first_sent > at,
                    Source::Push(..) => false,
                },
            };
            if later {
                broken!(
                    "back-after-end",
                    "job {id:016x}: attempt {attempt} although it was over ({safe:?}, acked {acked:?})"
                );
            }
        }
        true
    }

    /// A delivery that was answered again belongs to the connection of the answer.
    fn move_lease(&mut self, id: u64, attempt: u16, from: ConnRef, to: ConnRef) {
        if from != to
            && let Some(job) = self.jobs.get_mut(&id)
        {
            for delivery in &mut job.deliveries {
                if delivery.attempt == attempt && !self.conns[from].is_open {
                    delivery.conn = to;
                }
            }
        }
    }

    /// The delivery before must be over for a reason.
    fn check_lease(&mut self, seen: &Seen) {
        let job = &self.jobs[&seen.id];
        let before = job
            .deliveries
            .iter()
            .filter(|known| known.attempt < seen.attempt)
            .max_by_key(|known| known.attempt);
        let Some(before) = before else { return };
        match self.excuse(seen.id, before, None) {
            Excuse::Given => {}
            Excuse::IfLost => {
                let conn = before.conn;
                let text = format!(
                    "job {:016x}: attempt {} was handed out while attempt {} was current",
                    seen.id, seen.attempt, before.attempt
                );
                let suspect = (self.event, text);
                self.conns[conn].suspects.push(suspect);
            }
            Excuse::None(text) => {
                broken!(
                    "two-leases",
                    "{text}; and attempt {} was handed out",
                    seen.attempt
                )
            }
        }
    }

    /// Per queue and priority, what one connection enqueued is first handed out in that order.
    fn check_order(&mut self, conn: ConnRef, source: Source, intent: IntentRef, waits: Waits) {
        let facts = &self.intents[intent];
        let record = &self.requests[facts.request];
        if facts.delay_ms > 0 || record.sends != 1 || facts.key.is_some() {
            return;
        }
        let stream = (facts.queue, facts.priority, record.conn);
        let Some(position) = record.ask.intents().iter().position(|other| *other == intent) else {
            return;
        };
        let place = (record.first_sent, position);
        let handed_after = match source {
            Source::Reserve(request) => self.requests[request].first_sent,
            Source::Push(asked, _) => asked,
        };
        let anywhere = self.order.anywhere.entry(stream).or_default();
        let earlier = anywhere.partition_point(|(at, _)| *at < handed_after);
        let highest = earlier.checked_sub(1).map(|last| anywhere[last].1);
        // The answer to a RESERVE that was sent again may tell of a hand-out of long ago.
        let is_fresh = match source {
            Source::Reserve(request) => self.requests[request].sends == 1,
            Source::Push(..) => true,
        };
        let here = self.order.here.entry((stream, conn, waits)).or_default();
        if highest.is_some_and(|highest| highest > place) || is_fresh && *here > place {
            broken!(
                "order",
                "queue {} priority {}: a job enqueued at {place:?} was first handed out after one enqueued at \
                 {highest:?} or {here:?} by the same connection",
                facts.queue,
                facts.priority
            );
        }
        *here = place.max(*here);
        let highest = anywhere.last().map_or(place, |(_, last)| place.max(*last));
        anywhere.push((self.event, highest));
    }

    fn check_paused(&self, source: Source, seen: &Seen) {
        let asked = match source {
            Source::Reserve(request) => self.requests[request].first_sent,
            Source::Push(asked, _) => asked,
        };
        if self.queues[seen.queue].paused.is_some_and(|since| since < asked) {
            broken!("paused", "job {:016x} was handed out of a paused queue", seen.id);
        }
    }

    fn note_delivery(
        &mut self,
        conn: ConnRef,
        source: Source,
        intent: IntentRef,
        seen: &Seen,
        level: Option<Durability>,
    ) {
        let (asked, asked_ms) = match source {
            Source::Reserve(request) => {
                let record = &self.requests[request];
                (record.first_sent, record.first_sent_ms)
            }
            Source::Push(asked, asked_ms) => (asked, asked_ms),
        };
        let safe = match (self.intents[intent].level, level) {
            (Durability::Memory, _) => Safe::Memory,
            // A delivery out of a queue of durability `memory` is logged where the job is.
            (_, Some(Durability::Synced)) => Safe::Synced,
            _ => Safe::Written(self.event),
        };
        let born_ms = self.earliest(intent).first_sent_ms;
        let held_ms = asked_ms.max(born_ms);
        let touched = self.sent_under(seen.id, seen.attempt);
        let delivery = Delivery {
            attempt: seen.attempt,
            source,
            conn,
            safe,
            received: self.event,
            lease_ms: held_ms + u64::from(seen.lease_ms),
            extended: None,
            touched,
            extends: BTreeSet::new(),
            settled: None,
        };
        let known = &mut self.conns[conn];
        known.alive_ms = known.alive_ms.max(held_ms);
        if let Some(job) = self.jobs.get_mut(&seen.id) {
            job.alive_at = job.alive_at.max(asked);
            job.deliveries.push(delivery);
        }
    }

    /// A start: nothing was handed out yet.
    pub(super) fn forget_order(&mut self) {
        self.order = Order::default();
    }
}
