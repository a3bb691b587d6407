//! Facts about single jobs.

use super::{Delivery, Event, Intent, IntentRef, Job, Oracle, Safe, Verdict, broken};
use crate::oracle::RequestRef;
use crate::oracle::requests::Record;
use ackring::Durability;
use std::collections::BTreeSet;

/// Why a lease may be over.
pub(super) enum Excuse {
    Given,
    /// The server may have lost the connection; its client has not.
    IfLost,
    None(String),
}

impl Safe {
    pub(super) fn or_safer(self, other: Self) -> Self {
        match (self, other) {
            (Safe::Synced, _) | (_, Safe::Synced) => Safe::Synced,
            (Safe::Written(a), Safe::Written(b)) => Safe::Written(a.min(b)),
            (Safe::Written(a), _) | (_, Safe::Written(a)) => Safe::Written(a),
            _ => Safe::Memory,
        }
    }
}

impl Oracle {
    /// What somebody's word for a job of that intent is worth.
    pub(super) fn worth(&self, intent: IntentRef, named: Durability) -> Safe {
        if self.intents[intent].level == Durability::Memory {
            return Safe::Memory;
        }
        self.safe(named)
    }

    /// A job of that intent exists, or did.
    pub(super) fn learn(&mut self, intent: IntentRef, id: u64, born: Safe, replayed: bool) {
        let stamp = self.intents[intent].stamp;
        // Which of the requests under one key a job came from is a guess until they are answered.
        if let Some(other) = self.intents[intent].job
            && other != id
            && self.intents[intent].key.is_none()
        {
            broken!(
                "applied-twice",
                "the job with stamp {stamp:x} is {other:016x} and {id:016x}"
            );
        }
        if let Some(job) = self.jobs.get_mut(&id) {
            let first = self.intents[job.intent].stamp;
            if first != stamp {
                broken!(
                    "id-given-twice",
                    "{id:016x} is the job with stamp {first:x} and the one with stamp {stamp:x}"
                );
            }
            job.born = job.born.or_safer(born);
            let guessed = std::mem::replace(&mut job.intent, intent);
            if guessed != intent {
                self.exchange(guessed, intent);
            }
            self.intents[intent].job = Some(id);
            return;
        }
        if let Some(first) = self.gone.get(&id)
            && *first != stamp
        {
            broken!(
                "id-given-twice",
                "{id:016x} was the job with stamp {first:x}, lost in a crash, and is the one with stamp {stamp:x}"
            );
        }
        let request = self.intents[intent].request;
        if replayed && self.intents[intent].lost && self.requests[request].sends_this_boot <= 1 {
            broken!(
                "remembered-but-lost",
                "request {request} is said to have been applied, and its job with stamp {stamp:x} was lost"
            );
        }
        self.intents[intent].job = Some(id);
        self.intents[intent].lost = false;
        let alive_at = self.earliest(intent).first_sent;
        self.jobs.insert(
            id,
            Job {
                intent,
                born,
                known_at: self.event,
                over: None,
                may_end: BTreeSet::new(),
                alive_at,
                // An answer made again may be about a job that ended long ago.
                perhaps_over: replayed && (self.intents[intent].perhaps_over || born == Safe::Memory),
                ack_sent: false,
                reject_sent: false,
                cancel_sent: false,
                deliveries: Vec::new(),
                floor: (0, false),
            },
        );
        self.counts.accepted += 1;
    }

    /// The request that the job of an intent came from. Of requests under one key that are not answered any may be it:
    /// the one that was sent first.
    pub(super) fn earliest(&self, intent: IntentRef) -> &Record {
        let Intent { stamp, request, .. } = self.intents[intent];
        let is_same = |other: &&Intent| {
            let is_open = matches!(
                self.requests[other.request].verdict,
                Verdict::Open | Verdict::Unknown
            );
            other.stamp == stamp && other.job.is_none() && is_open
        };
        let others = self.intents.iter().filter(is_same);
        let others = others.map(|other| &self.requests[other.request]);
        let own = &self.requests[request];
        others.fold(own, |first, other| {
            if other.first_sent < first.first_sent {
                other
            } else {
                first
            }
        })
    }

    /// A job that was seen before an answer told of it was taken for another's of the same content: that one has the
    /// job that the right one was taken for, or none that is known.
    fn exchange(&mut self, guessed: IntentRef, right: IntentRef) {
        let other = self.intents[right].job.take();
        self.intents[guessed].job = other;
        if let Some(other) = other.and_then(|id| self.jobs.get_mut(&id)) {
            other.intent = guessed;
        }
    }

    /// The intent of a job that was seen and is not known by its id.
    pub(super) fn recognise(&mut self, id: u64, stamp: u64, queue: usize, seen: &str) -> IntentRef {
        let Some(intents) = self.stamps.get(&stamp) else {
            broken!(
                "unexpected-job",
                "{seen}: job {id:016x} has stamp {stamp:x}, which nobody sent"
            );
        };
        let fits = |intent: &&IntentRef| {
            let intent = &self.intents[**intent];
            intent.queue == queue && intent.job.is_none() && self.may_apply(intent.request)
        };
        let Some(intent) = intents.iter().find(fits).copied() else {
            let known: Vec<_> = intents
                .iter()
                .map(|intent| {
                    let intent = &self.intents[*intent];
                    (intent.queue, intent.job, self.requests[intent.request].verdict)
                })
                .collect();
            broken!(
                "unexpected-job",
                "{seen}: job {id:016x} with stamp {stamp:x} in queue {queue}; all requests for it have their jobs \
                 or were refused: {known:x?}"
            );
        };
        intent
    }

    /// That a job is over.
    pub(super) fn end(&mut self, id: u64, safe: Safe, attempt: Option<u16>) {
        let event: Event = self.event;
        if let Some(job) = self.jobs.get_mut(&id) {
            job.over = match job.over {
                None => Some((safe, event, attempt)),
                Some((known, at, first)) => Some((known.or_safer(safe), at, first.or(attempt))),
            };
        }
    }

    /// Whether there is a reason why a delivery is not current any more, `but` for that request.
    pub(super) fn excuse(&self, id: u64, delivery: &Delivery, but: Option<RequestRef>) -> Excuse {
        let settled = delivery
            .touched
            .iter()
            .any(|request| Some(*request) != but && self.may_apply(*request));
        if settled || self.now_ms >= delivery.lease_ms || self.may_be_over(id, but) {
            return Excuse::Given;
        }
        let conn = &self.conns[delivery.conn];
        let text = format!(
            "job {id:016x}, attempt {}: its lease lasts at least until {}, it is {}",
            delivery.attempt, delivery.lease_ms, self.now_ms
        );
        if conn.is_open {
            return Excuse::IfLost;
        }
        if self.now_ms >= conn.alive_ms + self.grace_ms {
            return Excuse::Given;
        }
        Excuse::None(format!(
            "{text}; its connection was there at {} and the grace is {}",
            conn.alive_ms, self.grace_ms
        ))
    }
}
