//! What segments that are to go tell besides jobs: queues, sessions, keys and generations. All of it is logged again
//! at the tail. Until the log is durable that far, an *anchor* beside it can say the same, so that the segments go at
//! once (`log/anchor`). An anchor says what held at the end of the segments that go and nothing later, as a power cut may
//! take all that comes behind.

use super::codec::{self, KeyRecord, SessionRecord};
use super::journal::Kind;
use super::tally::{Tally, Untold};
use super::{Engine, admin};
use crate::base::limits::ANCHOR_BYTES_MAX;
use crate::log::{LogError, LogPosition, Room, Statement};
use std::collections::BTreeMap;

/// What was logged again and may not be durable yet, each with where its record ends.
#[derive(Default)]
pub(super) struct Remains {
    sessions: BTreeMap<u128, LogPosition>,
    keys: Vec<(LogPosition, Vec<u8>)>,
    keys_bytes: usize,
    /// No anchor can be written before the log is durable up to there: it would have to say more than it takes.
    left_out: LogPosition,
}

/// How far what is logged again is durable, when segments are to go.
#[derive(Clone, Copy)]
pub(super) struct Reach {
    /// The log is, up to here.
    pub(super) durable: LogPosition,
    /// The last segment that is to go.
    pub(super) behind: u32,
    /// What stands behind it is, up to here, once the log begins there; not before `durable`.
    pub(super) until: LogPosition,
}

impl Reach {
    /// Where nothing more is durable behind segment `last` than the log is.
    pub(super) fn to_durable(last: u32, durable: LogPosition) -> Self {
        Self {
            durable,
            behind: last,
            until: durable,
        }
    }

    /// Whether a record that ends there is still told, and durably, when the segments are gone; or was told durably by them.
    fn has(self, end: LogPosition) -> bool {
        end <= self.durable || end.sequence() > self.behind && end <= self.until
    }
}

/// What the log must tell, durably, before segments go.
#[derive(Default)]
pub(super) struct Due {
    /// It does once it is durable up to there; none where nothing depends on it.
    pub(super) until: LogPosition,
    /// The same for an anchor.
    pub(super) statements: Vec<Statement>,
    /// More than an anchor takes was left out of it.
    pub(super) is_cut: bool,
    bytes: usize,
}

impl Due {
    pub(super) fn say(&mut self, kind: Kind, body: Vec<u8>) {
        self.bytes += body.len();
        self.is_cut |= self.bytes > ANCHOR_BYTES_MAX as usize;
        if !self.is_cut {
            let kind = kind as u8;
            self.statements.push(Statement { kind, body });
        }
    }
}

impl Remains {
    /// The log is durable so far.
    fn forget(&mut self, reach: Reach) {
        self.sessions.retain(|_, end| !reach.has(*end));
        self.keys.retain(|(end, _)| !reach.has(*end));
        self.keys_bytes = self.keys.iter().map(|(_, body)| body.len()).sum();
    }

    fn add_key(&mut self, end: LogPosition, body: Vec<u8>) {
        if self.keys_bytes + body.len() > ANCHOR_BYTES_MAX as usize {
            self.left_out = self.left_out.max(end);
            return;
        }
        self.keys_bytes += body.len();
        self.keys.push((end, body));
    }

    fn until(&self) -> LogPosition {
        let keys = self.keys.iter().map(|(end, _)| *end);
        let all = self.sessions.values().copied().chain(keys);
        all.fold(self.left_out, LogPosition::max)
    }
}

impl Engine {
    /// Logs queues, sessions, keys and generations again that segments up to the last one that is to go tell of and no later
    /// one. Says what of these, and of those that went before, is not durable yet.
    ///
    /// # Errors
    /// The log's. What was logged until then counts all the same when this is called again.
    pub(super) fn log_remains(
        &self,
        remains: &mut Remains,
        tally: &mut Tally,
        reach: Reach,
        now_ms: u64,
    ) -> Result<Due, LogError> {
        let sequence = reach.behind;
        remains.forget(reach);
        let mut due = Due::default();
        if let Some((high, end)) = self.repeat_generations(sequence, now_ms)?
            && !reach.has(end)
        {
            due.until = end;
            due.say(Kind::Generation, u64::from(high).to_le_bytes().to_vec());
        }
        self.log_queues(&mut due, tally, reach, now_ms)?;
        let tail = self.durable.tail().sequence();
        for session in self.sessions.needing(sequence) {
            let body = codec::encode(&SessionRecord {
                session: session.session,
                applied: session.applied.clone(),
                highest: session.highest,
            });
            let (_, end) = self.append(Kind::Session, 0, &body, Room::Migrate, now_ms)?;
            self.sessions.logged(&session, tail);
            remains.sessions.insert(session.session, end);
        }
        self.dedupe.needing(sequence, tail, now_ms, |queue, key, known| {
            let body = codec::encode(&KeyRecord {
                queue: queue.0,
                key: key.to_vec(),
                id: known.id.0,
                body_hash: known.body_hash,
                expires_ms: known.expires_ms,
            });
            let (_, end) = self.append(Kind::Key, 0, &body, Room::Migrate, now_ms)?;
            remains.add_key(end, body);
            Ok(())
        })?;
        due.until = due.until.max(remains.until());
        due.is_cut |= !reach.has(remains.left_out);
        if due.until > reach.durable && !due.is_cut {
            self.say_sessions(&mut due, remains, sequence);
            remains
                .keys
                .iter()
                .for_each(|(_, body)| due.say(Kind::Key, body.clone()));
        }
        Ok(due)
    }

    fn log_queues(
        &self,
        due: &mut Due,
        tally: &mut Tally,
        reach: Reach,
        now_ms: u64,
    ) -> Result<(), LogError> {
        // What a queue's older records tell in segments that go is passed over; the others are durable so far.
        let (sequence, durable) = (reach.behind, reach.until);
        tally.look(&self.registry);
        let mut body = Vec::new();
        let Untold { still, mut others } = tally.untold(sequence, durable);
        others.extend(self.carry_definitions(still, due, tally, now_ms)?);
        for id in others {
            let Some(queue) = self.registry.get(id) else {
                continue;
            };
            // In the order in which definitions come into force, and never behind a deletion.
            let mut definitions = queue.definition.lock();
            if queue.is_deleted() {
                continue;
            }
            if let Some(carried) = tally.carried(id) {
                definitions.carry(carried.from, carried.at, carried.end);
                // Unless it was defined anew since that was looked at: then the copy is of what was.
                if queue.defined_at() == carried.from {
                    queue.set_defined_at(carried.at);
                }
            }
            let events = queue.counters.events();
            let sum = events.iter().sum();
            let mut record = admin::queue_record(queue);
            if definitions.pass(sequence) || queue.counters.told_events() != sum {
                record.events = Some(events);
                codec::encode_into(&record, &mut body);
                let (at, end) = self.append(Kind::Queue, 0, &body, Room::Migrate, now_ms)?;
                queue.set_defined_at(at);
                queue.counters.set_told_events(sum);
                definitions.tell(at, end, Some(events));
                tally.look_at(queue);
            }
            if let Some(needed) = definitions.needed(sequence, durable) {
                due.until = due.until.max(needed.until);
                if due.is_cut {
                    continue;
                }
                let mut record = needed.older.unwrap_or(record);
                // Never more than there were: records behind are counted on top. Fewer may come back where a power
                // cut takes the record with the others.
                record.events = Some(needed.events);
                due.say(Kind::Queue, codec::encode(&record));
            }
        }
        Ok(())
    }

    /// Sessions as far as segments up to `sequence` tell of them: a number whose record comes later may be lost with
    /// that, and is then to be applied.
    fn say_sessions(&self, due: &mut Due, remains: &Remains, sequence: u32) {
        for session in remains.sessions.keys() {
            // One that was forgotten meanwhile is as good as one that never was.
            if let Some(told) = self.sessions.told_through(*session, sequence) {
                let record = SessionRecord {
                    session: told.session,
                    applied: told.applied,
                    highest: told.highest,
                };
                due.say(Kind::Session, codec::encode(&record));
            }
        }
    }
}
