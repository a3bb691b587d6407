//! Idempotency keys: the same key is not accepted twice within its window, and never takes a job for one that it is
//! not.

use super::{Ask, Event, IntentRef, Oracle, Safe, Verdict, broken};
use ackring::Durability;

/// A key was accepted with a job.
#[derive(Debug, Clone)]
pub(super) struct Use {
    queue: usize,
    key: u64,
    stamp: u64,
    id: u64,
    /// Between these two, by the server's clock.
    from_ms: u64,
    to_ms: u64,
    safe: Safe,
    /// Whether it must be remembered.
    is_certain: bool,
    learnt: Event,
}

impl Oracle {
    /// A job was accepted under a key.
    pub(super) fn note_key(&mut self, intent: IntentRef, id: u64, safe: Safe, replayed: bool) {
        let facts = &self.intents[intent];
        let Some(key) = facts.key else { return };
        let (queue, stamp) = (facts.queue, facts.stamp);
        let sent_ms = self.requests[facts.request].first_sent_ms;
        let now_ms = self.now_ms;
        if let Some(known) = self
            .keys
            .iter_mut()
            .find(|known| known.id == id && known.queue == queue)
        {
            known.safe = known.safe.or_safer(safe);
            return;
        }
        let window_ms = self.queues[queue].options.dedupe_window_ms;
        let clash = self.keys.iter().find(|known| {
            known.is_certain
                && (known.queue, known.key) == (queue, key)
                && now_ms.max(known.to_ms) < sent_ms.min(known.from_ms) + window_ms
        });
        if let Some(first) = clash.filter(|_| !replayed) {
            broken!(
                "key-accepted-twice",
                "key {key} of queue {queue}: job {:016x} between {} and {}, job {id:016x} between {sent_ms} and \
                 {now_ms}, window {window_ms} (replayed: {replayed})",
                first.id,
                first.from_ms,
                first.to_ms
            );
        }
        let first_sent = self.requests[facts.request].first_sent;
        let may_be_deleted = self.requests.iter().any(|record| {
            matches!(record.ask, Ask::Delete(deleted) if deleted == queue)
                && match record.verdict {
                    Verdict::Open | Verdict::Unknown => true,
                    // Carried out between the job and the answer that tells of it: on another connection that was
                    // heard first.
                    Verdict::Applied(_) => record.answered == 0 || record.answered > first_sent,
                    Verdict::Unsent => false,
                }
        });
        self.keys.push(Use {
            queue,
            key,
            stamp,
            id,
            from_ms: sent_ms,
            to_ms: now_ms,
            safe,
            // An answer made again tells of a time long ago, and of jobs that may be gone; and a deletion that is on
            // its way may take the key with it.
            is_certain: !replayed && !may_be_deleted,
            learnt: self.event,
        });
    }

    /// The answer was `DUPLICATE` with this id.
    pub(super) fn duplicate(
        &mut self,
        intent: IntentRef,
        id: u64,
        named: Option<Durability>,
        replayed: bool,
    ) {
        self.counts.duplicates += 1;
        let facts = self.intents[intent].clone();
        let Some(key) = facts.key else {
            broken!(
                "duplicate",
                "a job without a key is said to be a duplicate of {id:016x}"
            );
        };
        let asked_ms = self.requests[facts.request].first_sent_ms;
        let window_ms = self.queues[facts.queue].options.dedupe_window_ms;
        if let Some(job) = self.jobs.get(&id) {
            if self.intents[job.intent].stamp != facts.stamp {
                broken!(
                    "duplicate",
                    "stamp {:x} is said to be a duplicate of job {id:016x}, which is another",
                    facts.stamp
                );
            }
        } else {
            // A step keeps what it was answered, and of jobs that are not logged nothing else: an outcome of then may
            // name one that went with the server, before anybody else heard of it for one.
            let is_of_then = replayed
                && facts.level == Durability::Memory
                && self.requests[facts.request].first_sent < self.boot_event;
            if is_of_then {
                return;
            }
            let gone = self
                .keys
                .iter()
                .any(|known| known.id == id && known.queue == facts.queue);
            if gone {
                broken!(
                    "remembered-but-lost",
                    "stamp {:x} is said to be a duplicate of job {id:016x}, which was lost",
                    facts.stamp
                );
            }
            let first = self.recognise(id, facts.stamp, facts.queue, "named by DUPLICATE");
            let safe = self.worth(first, named.unwrap_or(Durability::Memory));
            self.learn(first, id, safe, replayed);
            self.note_key(first, id, safe, true);
        }
        let first = self
            .keys
            .iter()
            .find(|known| known.id == id && known.queue == facts.queue);
        if let Some(first) = first
            && asked_ms >= first.to_ms + window_ms
        {
            broken!(
                "duplicate",
                "key {key}: DUPLICATE of job {id:016x} at {asked_ms} or later, accepted at {} or before, window \
                 {window_ms}",
                first.to_ms
            );
        }
        let Some(level) = named else { return };
        let representative = self.jobs[&id].intent;
        let safe = self.worth(representative, level);
        if let Some(job) = self.jobs.get_mut(&id) {
            job.born = job.born.or_safer(safe);
        }
    }

    /// The answer was `KEY_CONFLICT`.
    pub(super) fn conflict(&self, intent: IntentRef) {
        let facts = &self.intents[intent];
        let asked_ms = self.requests[facts.request].first_sent_ms;
        let window_ms = self.queues[facts.queue].options.dedupe_window_ms;
        let known = self.keys.iter().any(|known| {
            (known.queue, Some(known.key)) == (facts.queue, facts.key)
                && known.stamp != facts.stamp
                && asked_ms < known.to_ms + window_ms
        });
        // Sent, and nobody knows when it was accepted.
        let perhaps = self.intents.iter().any(|other| {
            (other.queue, other.key) == (facts.queue, facts.key)
                && other.stamp != facts.stamp
                && self.may_apply(other.request)
                && !self
                    .keys
                    .iter()
                    .any(|known| known.queue == other.queue && Some(known.id) == other.job)
        });
        if facts.key.is_none() || !known && !perhaps {
            broken!(
                "key-conflict",
                "stamp {:x}: KEY_CONFLICT, and nobody used key {:?} of queue {} within {window_ms} ms",
                facts.stamp,
                facts.key,
                facts.queue
            );
        }
    }

    /// A queue may be deleted: its keys may be forgotten.
    pub(super) fn void_keys(&mut self, queue: usize) {
        for known in self.keys.iter_mut().filter(|known| known.queue == queue) {
            known.is_certain = false;
        }
    }

    /// After a crash only those keys are certain whose jobs survived.
    pub(super) fn keys_after_crash(&mut self) {
        for number in 0..self.keys.len() {
            let known = &self.keys[number];
            let survived = self.survived(known.safe);
            debug_assert!(known.learnt <= self.event);
            let known = &mut self.keys[number];
            if survived {
                known.safe = match known.safe {
                    Safe::Memory => Safe::Memory,
                    _ => Safe::Synced,
                };
            } else {
                known.is_certain = false;
            }
        }
    }
}
