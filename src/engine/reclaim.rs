//! Making log segments free again: oldest first, in order, copying what is still needed to the tail.
//!
//! In order, because a job's later records must outlive its first one. A segment may go when (a) no job's body
//! is in it any more and (b) queues, sessions and keys that only it tells of have been logged again *and* that is
//! durable. Usually jobs are acked in about the order in which they came and (a) happens by itself; when too many
//! segments are held by a few stragglers, those jobs are copied (the cleaner of a log-structured file system,
//! Rosenblum & Ousterhout 1991), so that a dead or far-future job never pins the disk.

use super::change::change_entry;
use super::codec::{self, KeyRecord, SessionRecord};
use super::deliver::BodyReader;
use super::journal::{self, ChangeEntry, ChangeHead, Group, JobHead, Kind, Prelude};
use super::settle::wait_a_little;
use super::slot::{Fields, KEYED, Phase, RESULT, Slot, StateWord};
use super::{Engine, admin};
use crate::base::entry::pad8;
use crate::base::job::JobId;
use crate::base::sync::Ordering;
use crate::log::{Log, LogError, LogPosition, Recovered, Room};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Segments that a log may hold beyond twice what its live jobs need, before stragglers are copied.
const SLACK_SEGMENTS: usize = 4;
/// A log that may have no more segments than these is a small one.
const SMALL_LOG_SEGMENTS: usize = 2 * SLACK_SEGMENTS;
/// Time between two looks at whether stragglers should be copied, in milliseconds.
const LOOK_INTERVAL_MS: u64 = 100;
/// Segments cleared at once.
const CLEAR_MAX: u32 = 1_024;
/// How often a job that keeps changing is copied anew before its segment is left for the next look.
const COPIES_MAX: u32 = 64;

/// What the reclaimer remembers between two steps.
#[derive(Default)]
pub(super) struct Reclaim {
    /// Segments up to this one may go once the log is durable up to there.
    pending: Option<(u32, LogPosition)>,
    /// Segments below this may go as soon as they are empty.
    cleared: u32,
    /// Where the log ended behind the last copies: no segment goes before those are durable.
    copied: LogPosition,
    /// Jobs whose last copy may be older than a record before it.
    stale: Vec<Stale>,
    looked_ms: u64,
}

/// A job found in a segment: slot, id, and its place in the order of jobs never handed out.
#[derive(Clone, Copy)]
struct Straggler {
    id: JobId,
    body: LogPosition,
    order: u64,
}

/// A job that moved on while it was copied, and could not be told of behind the copy: the log had no room.
struct Stale {
    job: Straggler,
    /// What it went through since may stand in this segment or a later one.
    since: u32,
}

/// A job as it was found at rest, and where the log ended before.
struct Look {
    word: StateWord,
    fields: Fields,
    as_of: LogPosition,
}

impl Engine {
    /// The log agent: prepares and recycles segments, syncs in the background, copies stragglers. To be called
    /// several times a second by one thread that may block on the disk. Says how much it did.
    pub fn log_step(&self, now_ms: u64, budget: usize) -> usize {
        let mut work = self.durable.step(now_ms, budget) + self.volatile.step(now_ms, budget);
        if let Some(mut reclaim) = self.reclaim.try_lock() {
            work += self.clear_oldest(&mut reclaim, now_ms);
            if now_ms.saturating_sub(reclaim.looked_ms) >= LOOK_INTERVAL_MS {
                reclaim.looked_ms = now_ms;
                self.dedupe.expire_all(now_ms);
                work += self.copy_volatile_stragglers(now_ms);
            }
        }
        work
    }

    /// Clears segments of the durable log for recycling: all that are empty from the oldest on, or the oldest alone
    /// if it is worth emptying.
    fn clear_oldest(&self, reclaim: &mut Reclaim, now_ms: u64) -> usize {
        if let Some((sequence, until)) = reclaim.pending {
            if self.durable.durable() < until
                && (!self.is_tight(&self.durable) || self.durable.sync().is_err())
            {
                return 0;
            }
            reclaim.pending = None;
            self.clear(reclaim, sequence);
            return 1;
        }
        let Some(oldest) = self.durable.oldest() else {
            return 0;
        };
        self.copy_stale(reclaim, now_ms);
        let first = oldest.sequence.max(reclaim.cleared);
        if oldest.sequence < first && oldest.live > 0 && self.is_worth_copying(&self.durable) {
            // A job that was just being accepted when its segment was looked through is known only now.
            self.copy_durable_stragglers(reclaim, oldest.sequence, now_ms);
            return 0;
        }
        if oldest.sequence < first && oldest.live == 0 && self.is_tight(&self.durable) {
            // It waits for nothing but the disk. A log that failed says so to whoever asks it for something.
            let _ = self.durable.sync();
        }
        let empty = |sequence: &u32| {
            let info = self.durable.segment_info(*sequence);
            info.is_some_and(|info| info.sealed && info.live == 0)
        };
        let mut last = (first..first + CLEAR_MAX).take_while(empty).last();
        if last.is_none() && oldest.sealed && oldest.sequence == first && self.is_worth_copying(&self.durable)
        {
            if !self.copy_durable_stragglers(reclaim, first, now_ms) {
                return 0;
            }
            last = Some(first);
        }
        // Beyond that stand records that a stale copy must not outlive.
        let bound = reclaim.stale.iter().map(|stale| stale.since).min();
        let last = last.map(|last| bound.map_or(last, |bound| last.min(bound.saturating_sub(1))));
        let Some(last) = last.filter(|last| *last >= first) else {
            return 0;
        };
        // A request that is under way may have its record there, which nobody has noted yet.
        if self.sessions.is_begun_by(last) {
            return 0;
        }
        let until = match self.log_remains(last, now_ms) {
            Ok(remains) => remains.max(reclaim.copied),
            Err(_) => return 0,
        };
        if until > self.durable.durable() {
            reclaim.pending = Some((last, until));
        } else {
            self.clear(reclaim, last);
        }
        1
    }

    fn clear(&self, reclaim: &mut Reclaim, sequence: u32) {
        reclaim.cleared = sequence + 1;
        self.durable.set_hold(reclaim.cleared);
    }

    /// Whether the log is about to refuse new jobs.
    fn is_tight(&self, log: &Log) -> bool {
        log.spare_segments() <= 2 && log.segments_in_use() + 3 >= log.segments_max()
    }

    /// Memory is reclaimed by the log itself once a segment is empty; only stragglers need help.
    fn copy_volatile_stragglers(&self, now_ms: u64) -> usize {
        match self.volatile.oldest() {
            Some(oldest) if oldest.sealed && oldest.live > 0 && self.is_worth_copying(&self.volatile) => {
                usize::from(self.copy_stragglers(
                    &self.volatile,
                    true,
                    oldest.sequence,
                    now_ms,
                    &mut Vec::new(),
                ))
            }
            _ => 0,
        }
    }

    /// Whether the log holds many more segments than its live jobs would fill.
    fn is_worth_copying(&self, log: &Log) -> bool {
        let (in_use, is_tight) = (log.segments_in_use(), self.is_tight(log));
        if in_use <= SLACK_SEGMENTS && !is_tight {
            return false;
        }
        let per_job = (size_of::<JobHead>() + 64) as u64;
        let live: u64 = self
            .registry
            .all()
            .iter()
            .map(|queue| {
                let counts = queue.counts();
                let jobs = counts.ready + counts.scheduled + counts.leased + counts.dead + counts.kept;
                counts.bytes + jobs * per_job
            })
            .sum();
        let needed = (live / log.segment_bytes() as u64) as usize + 1;
        // A log of few segments has none to spare: whatever frees one is worth it there.
        let slack = if log.segments_max() <= SMALL_LOG_SEGMENTS {
            1
        } else {
            SLACK_SEGMENTS / 2
        };
        in_use > 2 * needed + SLACK_SEGMENTS || (is_tight && in_use > needed + slack)
    }

    /// As [`copy_stragglers`](Self::copy_stragglers) in the durable log.
    fn copy_durable_stragglers(&self, reclaim: &mut Reclaim, sequence: u32, now_ms: u64) -> bool {
        let all = self.copy_stragglers(&self.durable, false, sequence, now_ms, &mut reclaim.stale);
        // Also of those that were not all: what stands behind them must not be there without them.
        reclaim.copied = self.durable.tail();
        all
    }

    /// Tells of jobs again whose last copy may be older than a record before it.
    fn copy_stale(&self, reclaim: &mut Reclaim, now_ms: u64) {
        if reclaim.stale.is_empty() {
            return;
        }
        reclaim.stale.retain_mut(|stale| {
            let Some(slot) = self.slab.get(stale.job.id.slot()) else {
                return false;
            };
            stale.job.body = slot.body();
            let since = &mut Some(stale.since);
            let copied = self.copy_job(&self.durable, false, slot, &stale.job, since, now_ms);
            !matches!(copied, Ok(true))
        });
        reclaim.copied = self.durable.tail();
    }

    /// Copies every job whose body is in the segment to the tail. `false`: not all, try again later.
    fn copy_stragglers(
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
        for straggler in &stragglers {
            let Some(slot) = self.slab.get(straggler.id.slot()) else {
                continue;
            };
            if slot.body() != straggler.body {
                // It was moved, or ended, or it is just being accepted and its slot does not say yet where it stands.
                let word = slot.state();
                all &= word.generation() != straggler.id.generation() || word.phase() != Phase::Busy;
                continue;
            }
            let mut since = None;
            let copied = self.copy_job(log, volatile, slot, straggler, &mut since, now_ms);
            if !matches!(copied, Ok(true)) {
                all = false;
                let job = *straggler;
                stale.extend(since.map(|since| Stale { job, since }));
            }
            if copied.is_err() {
                break;
            }
        }
        all
    }

    /// Copies one job and moves its body there. The copy tells where the job stood; if the job moves on in
    /// between, it is told of again, so that the last copy is at least as late as every record before it.
    /// `since` is the segment from which on a record may be later than the last copy, where there is a copy.
    fn copy_job(
        &self,
        log: &Log,
        volatile: bool,
        slot: Slot<'_>,
        straggler: &Straggler,
        since: &mut Option<u32>,
        now_ms: u64,
    ) -> Result<bool, LogError> {
        let id = straggler.id;
        let mut from = straggler.body;
        let mut looks = 0;
        for _ in 0..COPIES_MAX {
            // Read before the job is. A record before this place was claimed by somebody who had taken the job
            // already and made that known (a Release fence before the claim), so a snapshot that finds the job at
            // rest includes it. Records behind it may be as late as the snapshot or later.
            let as_of = log.tail();
            let Some((word, fields)) = slot.snapshot() else {
                wait_a_little(&mut looks);
                continue;
            };
            if word.generation() != id.generation() || from.is_none() || slot.body() != from {
                // It ended. Copies made so far must not outlive the record that says so.
                return self
                    .bury_copies(since.is_some(), volatile, id, now_ms)
                    .map(|()| true);
            }
            let look = Look { word, fields, as_of };
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

    /// Logs queues, sessions, keys and generations again that segments up to `sequence` tell of. Returns up to where the log
    /// must be durable before those may go; none where nothing depends on it.
    fn log_remains(&self, sequence: u32, now_ms: u64) -> Result<LogPosition, LogError> {
        let mut until = self.repeat_generations(sequence, now_ms)?;
        for queue in self.registry.all() {
            // In the order in which definitions come into force, and never behind a deletion.
            let _defining = queue.definition.lock();
            let events = queue.counters.events();
            let defined = queue.defined_at();
            let is_due = !defined.is_none() && defined.sequence() <= sequence;
            let is_told = queue.counters.told_events() == events.iter().sum::<u64>();
            if queue.is_deleted() || !is_due && is_told {
                continue;
            }
            let mut record = admin::queue_record(queue);
            record.events = Some(events);
            let (at, end) = self.append(Kind::Queue, 0, &codec::encode(&record), Room::Migrate, now_ms)?;
            queue.defined_at.store(at.raw(), Ordering::Release);
            queue.counters.set_told_events(events.iter().sum());
            if is_due {
                until = until.max(end);
            }
        }
        let tail = self.durable.tail().sequence();
        for session in self.sessions.needing(sequence) {
            let record = SessionRecord {
                session: session.session,
                applied: session.applied.clone(),
                highest: session.highest,
            };
            let (_, end) = self.append(Kind::Session, 0, &codec::encode(&record), Room::Migrate, now_ms)?;
            self.sessions.logged(&session, tail);
            until = until.max(end);
        }
        self.dedupe.needing(sequence, tail, now_ms, |queue, key, known| {
            let record = KeyRecord {
                queue: queue.0,
                key: key.to_vec(),
                id: known.id.0,
                body_hash: known.body_hash,
                expires_ms: known.expires_ms,
            };
            let (_, end) = self.append(Kind::Key, 0, &codec::encode(&record), Room::Migrate, now_ms)?;
            until = until.max(end);
            Ok(())
        })?;
        Ok(until)
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
