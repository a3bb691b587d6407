//! Copying jobs out of segments that are to be used again, while they go on living.
//!
//! Nobody waits for a copy: it tells where the job stood when it was looked at, and says as of when that was. If the
//! job has moved on by the time its body is moved, it is told of again. What it tells is on the disk before it is:
//! a power cut that left the copy and took the record behind it would leave a part of a batch or of an atomic step.

use super::Engine;
use super::change::change_entry;
use super::deliver::BodyReader;
use super::journal::{self, ChangeEntry, ChangeHead, Group, JobHead, Kind, Prelude};
use super::reclaim::Reclaim;
use super::settle::wait_a_little;
use super::slot::{Fields, KEYED, Phase, RESULT, Slot, StateWord};
use crate::base::entry::pad8;
use crate::base::job::JobId;
use crate::log::{Log, LogError, LogPosition, Recovered, Room};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// How often a job that keeps changing is copied anew before its segment is left for the next look.
const COPIES_MAX: u32 = 64;

/// Jobs that are looked at before the disk is waited for.
const LOOKS_MAX: usize = 1_024;

/// A job found in a segment: slot, id, and its place in the order of jobs never handed out.
#[derive(Clone, Copy)]
pub(super) struct Straggler {
    id: JobId,
    body: LogPosition,
    order: u64,
}

/// A job that moved on while it was copied, and could not be told of behind the copy: the log had no room.
pub(super) struct Stale {
    pub(super) job: Straggler,
    /// What it went through since may stand in this segment or a later one.
    pub(super) since: u32,
}

/// A job as it was found at rest, and where the log ended before.
pub(super) struct Look {
    word: StateWord,
    fields: Fields,
    as_of: LogPosition,
}

impl Engine {
    /// As [`copy_stragglers`](Self::copy_stragglers) in the durable log.
    pub(super) fn copy_durable_stragglers(&self, reclaim: &mut Reclaim, sequence: u32, now_ms: u64) -> bool {
        let all = self.copy_stragglers(&self.durable, false, sequence, now_ms, &mut reclaim.stale);
        // Also of those that were not all: what stands behind them must not be there without them.
        reclaim.copied = self.durable.tail();
        all
    }

    /// Tells of jobs again whose last copy may be older than a record before it.
    pub(super) fn copy_stale(&self, reclaim: &mut Reclaim, now_ms: u64) {
        if reclaim.stale.is_empty() {
            return;
        }
        reclaim.stale.retain_mut(|stale| {
            let Some(slot) = self.slab.get(stale.job.id.slot()) else {
                return false;
            };
            stale.job.body = slot.body();
            let since = &mut Some(stale.since);
            let copied = self.copy_job(&self.durable, false, &stale.job, None, since, now_ms);
            !matches!(copied, Ok(true))
        });
        reclaim.copied = self.durable.tail();
    }

    /// Copies every job whose body is in the segment to the tail. `false`: not all, try again later.
    pub(super) fn copy_stragglers(
        &self,
        log: &Log,
        volatile: bool,
        sequence: u32,
        now_ms: u64,
        stale: &mut Vec<Stale>,
    ) -> bool {
        let mut stragglers = Vec::new();
        let mut all = log.visit_segment(sequence, &mut |record| {
            find_stragglers(&record, &mut stragglers);
        });
        for some in stragglers.chunks(LOOKS_MAX) {
            // One wait for the disk for all of them.
            let looks: Vec<_> = some.iter().map(|straggler| self.look(log, straggler)).collect();
            if !volatile && log.sync_to(log.tail()).is_err() {
                return false;
            }
            for (straggler, look) in some.iter().zip(looks) {
                let Some(slot) = self.slab.get(straggler.id.slot()) else {
                    continue;
                };
                if slot.body() != straggler.body {
                    // It was moved, or ended, or it is just being accepted and its slot does not say yet where it
                    // stands.
                    let word = slot.state();
                    all &= word.generation() != straggler.id.generation() || word.phase() != Phase::Busy;
                    continue;
                }
                let mut since = None;
                let copied = self.copy_job(log, volatile, straggler, look, &mut since, now_ms);
                if !matches!(copied, Ok(true)) {
                    all = false;
                    let job = *straggler;
                    stale.extend(since.map(|since| Stale { job, since }));
                }
                if copied.is_err() {
                    return false;
                }
            }
        }
        all
    }

    /// How a job stands, if it is at rest.
    fn look(&self, log: &Log, straggler: &Straggler) -> Option<Look> {
        // Read before the job is. A record before this place was claimed by somebody who had taken the job
        // already and made that known (a Release fence before the claim), so a snapshot that finds the job at
        // rest includes it. Records behind it may be as late as the snapshot or later.
        let as_of = log.tail();
        let (word, fields) = self.slab.get(straggler.id.slot())?.snapshot()?;
        Some(Look { word, fields, as_of })
    }

    /// Copies one job and moves its body there. The copy tells where the job stood; if the job moves on in
    /// between, it is told of again, so that the last copy is at least as late as every record before it.
    /// `look` is how it stood at first, if that is on the disk by now. `since` is the segment from which on a record
    /// may be later than the last copy, where there is a copy.
    fn copy_job(
        &self,
        log: &Log,
        volatile: bool,
        straggler: &Straggler,
        mut look: Option<Look>,
        since: &mut Option<u32>,
        now_ms: u64,
    ) -> Result<bool, LogError> {
        let id = straggler.id;
        let Some(slot) = self.slab.get(id.slot()) else {
            return Ok(true);
        };
        let mut from = straggler.body;
        let mut looks = 0;
        for _ in 0..COPIES_MAX {
            let look = match look.take() {
                Some(look) => look,
                None => {
                    let Some(look) = self.look(log, straggler) else {
                        wait_a_little(&mut looks);
                        continue;
                    };
                    if !volatile {
                        log.sync_to(look.as_of)?;
                    }
                    look
                }
            };
            let Look { word, fields, as_of } = look;
            if word.generation() != id.generation() || from.is_none() || slot.body() != from {
                // It ended. Copies made so far must not outlive the record that says so.
                return self
                    .bury_copies(since.is_some(), volatile, id, now_ms)
                    .map(|()| true);
            }
            let Some((to, note, end)) = self.append_copy(log, volatile, slot, &look, straggler, now_ms)?
            else {
                continue;
            };
            since.get_or_insert(as_of.sequence());
            if !slot.move_body(from, to) {
                log.release(to, 1);
                return self.bury_copies(true, volatile, id, now_ms).map(|()| true);
            }
            log.release_after(from, 1, end);
            from = to;
            slot.move_note(fields.note, note);
            // An extension leaves nothing but the deadline behind once the turns have come round.
            if slot.state() == word && slot.at_ms() == fields.at_ms {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says behind copies of a job that it is over and forgotten: the record that said so first may go before the
    /// copies do.
    fn bury_copies(&self, copied: bool, volatile: bool, id: JobId, now_ms: u64) -> Result<(), LogError> {
        if !copied || volatile {
            return Ok(());
        }
        // As any copy: it tells what is on the disk.
        self.durable.sync_to(self.durable.tail())?;
        let head = ChangeHead {
            done: U32::ZERO,
            changes: U32::new(1),
            refused: U32::ZERO,
            reserved: U32::ZERO,
        };
        let entry = ChangeEntry {
            id: U64::new(id.0),
            at_ms: U64::new(now_ms),
            phase: Phase::Free as u8,
            ..ChangeEntry::default()
        };
        let mut body = head.as_bytes().to_vec();
        body.extend_from_slice(entry.as_bytes());
        self.append(Kind::Change, 0, &body, Room::Migrate, now_ms)
            .map(|_| ())
    }

    /// Appends a Job record; returns where body and note stand in it and where it ends, or `None` where the body is
    /// gone.
    fn append_copy(
        &self,
        log: &Log,
        volatile: bool,
        slot: Slot<'_>,
        look: &Look,
        straggler: &Straggler,
        now_ms: u64,
    ) -> Result<Option<(LogPosition, LogPosition, LogPosition)>, LogError> {
        let (word, fields) = (look.word, &look.fields);
        let (error, result) = self.notes(volatile, fields.note, word.has(RESULT));
        // Nobody asks for the body of a job that is over; copying it on and on would fill the log with it.
        let is_over = word.phase().is_finished();
        let mut data = is_over.then(Vec::new);
        if !is_over {
            BodyReader::new(self).read(volatile, slot, fields, |body| data = Some(body.to_vec()));
        }
        let Some(data) = data else { return Ok(None) };
        let has = |note: &Option<Vec<u8>>, flag: u8| if note.is_some() { flag } else { 0 };
        let head = JobHead {
            id: U64::new(straggler.id.0),
            order: U64::new(straggler.order),
            as_of: U64::new(look.as_of.raw()),
            enqueued_ms: U64::new(fields.enqueued_ms),
            expires_ms: U64::new(fields.expires_ms),
            change: change_entry(word, word.phase(), fields),
            queue: U32::new(fields.queue),
            payload_len: U32::new(fields.payload_len),
            lease_ms: U32::new(fields.lease_ms),
            meta_len: U16::new(fields.meta_len),
            priority: fields.priority,
            flags: has(&error, JobHead::ERROR)
                | has(&result, JobHead::RESULT)
                | if word.has(KEYED) { JobHead::KEYED } else { 0 }
                | if is_over { JobHead::BODILESS } else { 0 },
        };
        let mut body = head.as_bytes().to_vec();
        body.extend_from_slice(&data);
        body.resize(size_of::<JobHead>() + pad8(data.len()), 0);
        let error_at = body.len();
        if let Some(error) = &error {
            crate::base::batch::put_note(&mut body, error);
        }
        let result_at = body.len();
        if let Some(result) = &result {
            crate::base::batch::put_note(&mut body, result);
            body.extend_from_slice(&[0; 8]);
        }
        let mut claim = log.claim(body.len(), Room::Migrate)?;
        let at = claim.body_position();
        let note_at = match (&error, &result) {
            (_, Some(_)) => at.plus(result_at as u32),
            (Some(_), None) => at.plus(error_at as u32),
            (None, None) => LogPosition::NONE,
        };
        if let (Some(_), Some(_)) = (&error, &result) {
            // The result is followed by where the error text before it stands.
            let tail = body.len() - 8;
            body[tail..].copy_from_slice(&at.plus(error_at as u32).raw().to_le_bytes());
        }
        claim.put(&body);
        let end = claim.commit(Kind::Job as u8, 0, now_ms, 1);
        Ok(Some((at.plus(size_of::<JobHead>() as u32), note_at, end)))
    }
}

fn find_stragglers(record: &Recovered<'_>, found: &mut Vec<Straggler>) -> Option<()> {
    let (_, body) = Prelude::split(record.flags, record.body)?;
    let body_at = record
        .body_position()
        .plus((record.body.len() - body.len()) as u32);
    let mut group = |body: &[u8], at: LogPosition| {
        let parsed = journal::parse_enqueue(body)?;
        let bodies_at = at.plus(journal::enqueue_bodies_offset(parsed.batch.count()) as u32);
        for (item, id) in parsed.batch.items().zip(parsed.ids) {
            let body = bodies_at.plus(item.body_offset as u32);
            found.push(Straggler {
                id: JobId(id.get()),
                body,
                order: body.raw(),
            });
        }
        Some(())
    };
    match Kind::from_u8(record.kind)? {
        Kind::Enqueue => group(body, body_at),
        Kind::Step => {
            let (_, groups) = journal::parse_step(body)?;
            groups.into_iter().try_for_each(|part| match part {
                Group::Jobs(offset, bytes) => group(bytes, body_at.plus(offset as u32)),
                Group::Answer(_) => Some(()),
            })
        }
        Kind::Job => {
            let (head, _) = JobHead::ref_from_prefix(body).ok()?;
            let body = body_at.plus(size_of::<JobHead>() as u32);
            found.push(Straggler {
                id: JobId(head.id.get()),
                body,
                order: head.order.get(),
            });
            Some(())
        }
        _ => Some(()),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder};
    use crate::base::queue::QueueOptions;
    use crate::engine::{DeliveryHead, DeliverySink, EngineConfig, EnqueueReply, QueueId, RequestId};
    use crate::log::LogConfig;

    const NOW_MS: u64 = 1_700_000_000_000;

    struct Tokens(Vec<crate::base::job::Token>);

    impl DeliverySink for Tokens {
        fn room(&self) -> (usize, usize) {
            (usize::MAX, 1)
        }

        fn push(&mut self, head: &DeliveryHead, _: &[u8]) {
            self.0.push(head.token);
        }
    }

    fn open(directory: &tempfile::TempDir) -> (Engine, QueueId) {
        let config = EngineConfig {
            directory: Some(directory.path().to_owned()),
            slots: 64,
            segment_bytes: 64 * 1024,
            log_bytes_max: 64 * 64 * 1024,
            ..EngineConfig::default()
        };
        let (engine, _) = Engine::open(config, NOW_MS).unwrap();
        let options = QueueOptions {
            keep_finished: 0,
            ..QueueOptions::default()
        };
        let (queue, _) = engine
            .create_queue("q", &options, RequestId::NONE, NOW_MS)
            .unwrap();
        (engine, queue)
    }

    /// A job comes, is handed out, and ends as `settle` says. Returns its id.
    fn live(engine: &Engine, queue: QueueId, settle: impl FnOnce(&mut SettleBuilder, &Tokens)) -> JobId {
        let mut builder = EnqueueBuilder::new();
        builder.push(&[1; 1_000], &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(1, &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        engine
            .enqueue(queue, &batch, None, RequestId::NONE, NOW_MS, &mut reply)
            .unwrap();
        let mut tokens = Tokens(Vec::new());
        engine
            .reserve(&[queue], 1, 0, RequestId::NONE, NOW_MS, &mut tokens)
            .unwrap();
        let mut builder = SettleBuilder::new();
        settle(&mut builder, &tokens);
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = SettleBatch::parse(1, &bytes).unwrap();
        engine
            .settle(&batch, RequestId::NONE, NOW_MS, &mut Vec::new())
            .unwrap();
        JobId(reply.ids[0])
    }

    fn bury(engine: &Engine, queue: QueueId) -> JobId {
        live(engine, queue, |batch, tokens| batch.reject(tokens.0[0], None))
    }

    /// A settlement that came while its job was copied stood before the copy in the log; when the log was full just
    /// then, the copy remained the last word, and the settlement was forgotten with its segment.
    #[test]
    fn a_settlement_was_forgotten_behind_an_older_copy_of_its_job() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let mut look = None;
        let id = live(&engine, queue, |batch, tokens| {
            let slot = engine.slab.slot(tokens.0[0].id.slot());
            let (word, fields) = slot.snapshot().unwrap();
            let as_of = engine.durable.tail();
            look = Some(Look { word, fields, as_of });
            batch.reject(tokens.0[0], None);
        });
        // What `copy_job` does, up to where it is refused a second copy.
        let (look, slot) = (look.unwrap(), engine.slab.slot(id.slot()));
        let (body, order) = (slot.body(), 0);
        let job = Straggler { id, body, order };
        let copied = engine.append_copy(&engine.durable, false, slot, &look, &job, NOW_MS);
        let (to, _, end) = copied.unwrap().unwrap();
        assert!(slot.move_body(body, to));
        engine.durable.release_after(body, 1, end);
        let since = look.as_of.sequence();
        engine.reclaim.lock().stale.push(Stale { job, since });
        engine.log_step(NOW_MS, 1);
        assert!(engine.reclaim.lock().stale.is_empty());
        drop(engine);
        let config = LogConfig {
            directory: Some(directory.path().to_owned()),
            segment_bytes: 64 * 1024,
            ..LogConfig::default()
        };
        let mut phases = Vec::new();
        Log::open(config, NOW_MS, &mut |record| {
            if record.kind == Kind::Job as u8 {
                phases.push(JobHead::ref_from_prefix(record.body).unwrap().0.change.phase);
            }
        })
        .unwrap();
        assert_eq!(phases, [Phase::Leased as u8, Phase::Dead as u8]);
    }

    /// A job whose record was committed but not yet published when its segment was looked through.
    #[test]
    fn a_job_accepted_while_its_segment_was_cleared_kept_the_log_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let id = bury(&engine, queue);
        while engine.segments_in_use().0 < 12 {
            live(&engine, queue, |batch, tokens| batch.ack(tokens.0[0], None));
        }
        {
            let mut reclaim = engine.reclaim.lock();
            engine.clear(&mut reclaim, 3);
        }
        for step in 0..100 {
            engine.sync().unwrap();
            engine.log_step(NOW_MS + step, 64);
        }
        assert!(engine.segments_in_use().0 < 4, "{:?}", engine.segments_in_use());
        assert_eq!(engine.job(id).unwrap().state, crate::base::job::JobState::Dead);
    }
}
