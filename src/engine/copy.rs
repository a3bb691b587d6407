//! Copying jobs out of segments that are to be used again, while they go on living.
//!
//! Nobody waits for a copy: it is made of what was seen of the job, and it becomes a record only if the job has not
//! moved since when the copy has its place in the log. So a copy is as late as every record of its job before it, and
//! all that happens to the job from then on stands behind it.

use super::Engine;
use super::change::change_entry;
use super::deliver::BodyReader;
use super::gate::Closing;
use super::journal::{JobHead, Kind};
use super::reclaim::Reclaim;
use super::settle::wait_a_little;
use super::slot::{Fields, Slot};
use super::stragglers::{Origin, Straggler, find_stragglers};
use super::word::{KEYED, Phase, RESULT, StateWord};
use crate::base::batch::put_note;
use crate::base::entry::pad8;
use crate::log::{Claim, Log, LogError, LogPosition, Room};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// How often a job that keeps changing is tried before its segment is left for the next look.
const COPIES_MAX: u32 = 64;
/// Looks at a job whose note is to be moved before it is left where it was.
const NOTE_LOOKS_MAX: u32 = 10_000;

/// A job as it was found at rest.
pub(super) struct Look {
    word: StateWord,
    fields: Fields,
}

/// A copy that stands in the log.
struct Copy {
    body: LogPosition,
    note: LogPosition,
    end: LogPosition,
}

impl Engine {
    /// As [`copy_stragglers`](Self::copy_stragglers) in the durable log.
    pub(super) fn copy_durable_stragglers(&self, reclaim: &mut Reclaim, sequence: u32, now_ms: u64) -> bool {
        let all = self.copy_stragglers(&self.durable, false, sequence, now_ms);
        // Also of those that were not all: what stands behind them must not be there without them.
        reclaim.copied = self.durable.tail();
        all
    }

    /// Copies every job whose body is in the segment to the tail. `false`: not all, try again later.
    pub(super) fn copy_stragglers(&self, log: &Log, volatile: bool, sequence: u32, now_ms: u64) -> bool {
        let mut copier = Copier::new(self, log, volatile, now_ms);
        let mut visit = |from: Origin| {
            let visited = log.visit_segment(sequence, &mut |record| {
                find_stragglers(&record, from, &mut |straggler| copier.take(&straggler));
            });
            visited && copier.has_all()
        };
        // Who stands still has been copied here mostly. The many that came here and are over need not be looked for.
        let has_copies = visit(Origin::Copy);
        let is_empty = log.segment_info(sequence).is_some_and(|info| info.live == 0);
        (is_empty || visit(Origin::Arrival)) && has_copies
    }
}

/// Copies one job after the other, with room to put them together in.
struct Copier<'e> {
    engine: &'e Engine,
    log: &'e Log,
    /// Nobody drops a body in passing while it is moved.
    closing: Closing<'e>,
    volatile: bool,
    now_ms: u64,
    reader: BodyReader<'e>,
    /// The body of the record that is put together.
    record: Vec<u8>,
    /// Some job was not copied that is to be tried again later.
    has_missed: bool,
    /// The log took no more.
    is_refused: bool,
}

impl<'e> Copier<'e> {
    fn new(engine: &'e Engine, log: &'e Log, volatile: bool, now_ms: u64) -> Self {
        Self {
            engine,
            log,
            closing: engine.slab.gate().closing(),
            volatile,
            now_ms,
            reader: BodyReader::new(engine),
            record: Vec::new(),
            has_missed: false,
            is_refused: false,
        }
    }

    /// Whether every job that was taken is copied, or needs no copy.
    fn has_all(&self) -> bool {
        !self.has_missed && !self.is_refused
    }

    /// Copies a job that was found in a segment, if it stands there still.
    fn take(&mut self, straggler: &Straggler) {
        let Some(slot) = self.engine.slab.get(straggler.id.slot()) else {
            return;
        };
        if self.is_refused {
            return;
        }
        if slot.body() != straggler.body {
            // It was moved, or ended, or it is just being accepted and its slot does not say yet where it stands.
            let word = slot.state();
            self.has_missed |= word.generation() == straggler.id.generation() && word.phase() == Phase::Busy;
            return;
        }
        match self.copy_job(slot, straggler) {
            Ok(copied) => self.has_missed |= !copied,
            Err(_) => self.is_refused = true,
        }
    }

    /// Copies one job and moves its body there. `false`: it moved on all the time.
    fn copy_job(&mut self, slot: Slot<'_>, straggler: &Straggler) -> Result<bool, LogError> {
        let from = straggler.body;
        let mut looks = 0;
        for _ in 0..COPIES_MAX {
            let Some((word, fields)) = slot.snapshot() else {
                wait_a_little(&mut looks);
                continue;
            };
            if word.generation() != straggler.id.generation() || slot.body() != from {
                return Ok(true);
            }
            let look = Look { word, fields };
            let Some(copy) = self.append(slot, &look, straggler)? else {
                continue;
            };
            if slot.move_body(from, copy.body, self.closing.closed()) {
                self.log.release_after(from, 1, copy.end);
                move_note(slot, &look, copy.note);
            } else {
                // It ended: that stands behind the copy, or in it.
                self.log.release(copy.body, 1);
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Appends a Job record, or returns `None` where the job has moved on since the look.
    fn append(
        &mut self,
        slot: Slot<'_>,
        look: &Look,
        straggler: &Straggler,
    ) -> Result<Option<Copy>, LogError> {
        let (word, fields) = (look.word, &look.fields);
        let (error, result) = self.engine.notes(self.volatile, fields.note, word.has(RESULT));
        // Nobody asks for the body of a job that is over; copying it on and on would fill the log with it.
        let is_over = word.phase().is_finished();
        let has = |note: &Option<Vec<u8>>, flag: u8| if note.is_some() { flag } else { 0 };
        let mut head = JobHead {
            id: U64::new(straggler.id.0),
            order: U64::new(straggler.order),
            as_of: U64::ZERO,
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
        let body = &mut self.record;
        body.clear();
        body.extend_from_slice(head.as_bytes());
        let mut is_there = is_over;
        if !is_over {
            self.reader.read(self.volatile, slot, fields, |data| {
                body.extend_from_slice(data);
                is_there = true;
            });
        }
        if !is_there {
            return Ok(None);
        }
        body.resize(pad8(body.len()), 0);
        let error_at = body.len();
        if let Some(error) = &error {
            put_note(body, error);
        }
        let result_at = body.len();
        if let Some(result) = &result {
            put_note(body, result);
            body.extend_from_slice(&[0; 8]);
        }
        // Rather no claim than one that becomes padding.
        if !slot.is_still(word, fields.at_ms) {
            return Ok(None);
        }
        let Some(mut claim) = claim_copy(self.log, slot, look, body.len())? else {
            return Ok(None);
        };
        head.as_of = U64::new(claim.position().raw());
        body[..size_of::<JobHead>()].copy_from_slice(head.as_bytes());
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
        claim.put(body);
        let end = claim.commit(Kind::Job as u8, 0, self.now_ms, 1);
        Ok(Some(Copy {
            body: at.plus(size_of::<JobHead>() as u32),
            note: note_at,
            end,
        }))
    }
}

/// Takes the place of a copy, or none where the job has moved on since the look. Only what is seen behind the claim
/// counts: whoever has a record before that place had taken the job before, and made that known (a Release fence before
/// its claim). A claim that is dropped becomes padding.
fn claim_copy<'l>(
    log: &'l Log,
    slot: Slot<'_>,
    look: &Look,
    len: usize,
) -> Result<Option<Claim<'l>>, LogError> {
    let claim = log.claim(len, Room::Migrate)?;
    Ok(slot.is_still(look.word, look.fields.at_ms).then_some(claim))
}

/// Moves a copied job's note along. Whoever changes the job meanwhile may write the old place back.
fn move_note(slot: Slot<'_>, look: &Look, to: LogPosition) {
    let from = look.fields.note;
    let mut looks = 0;
    while !from.is_none() && looks < NOTE_LOOKS_MAX {
        slot.move_note(from, to);
        match slot.snapshot() {
            Some((_, fields)) if fields.note != from => return,
            _ => wait_a_little(&mut looks),
        }
    }
}

#[cfg(all(test, not(loom)))]
pub(super) mod tests {
    use super::*;
    use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions, SettleBatch, SettleBuilder};
    use crate::base::job::JobId;
    use crate::base::queue::QueueOptions;
    use crate::engine::{DeliveryHead, DeliverySink, EngineConfig, EnqueueReply, QueueId, RequestId};
    use crate::log::LogConfig;
    use zerocopy::FromBytes;

    pub(in crate::engine) const NOW_MS: u64 = 1_700_000_000_000;

    struct Tokens(Vec<crate::base::job::Token>);

    impl DeliverySink for Tokens {
        fn room(&self) -> (usize, usize) {
            (usize::MAX, 1)
        }

        fn push(&mut self, head: &DeliveryHead, _: &[u8]) {
            self.0.push(head.token);
        }
    }

    /// An engine of few slots and small segments, with a queue that keeps nothing that is over.
    pub(in crate::engine) fn open(directory: &tempfile::TempDir) -> (Engine, QueueId) {
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

    /// A settlement that came while its job was copied stood before the copy in the log. A server that was killed before
    /// it had made another copy, or one whose log was full just then, left the older copy behind as the last word: the
    /// job was there again as soon as the settlement was gone with its segment, acked or not.
    #[test]
    fn a_settlement_was_forgotten_behind_an_older_copy_of_its_job() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let look = |tokens: &Tokens| {
            let slot = engine.slab.slot(tokens.0[0].id.slot());
            let (word, fields) = slot.snapshot().unwrap();
            Look { word, fields }
        };
        let mut looks = Vec::new();
        let mut ids = Vec::new();
        ids.push(live(&engine, queue, |batch, tokens| {
            looks.push(look(tokens));
            batch.reject(tokens.0[0], None);
        }));
        // Nothing but the deadline and the turn are new.
        ids.push(live(&engine, queue, |batch, tokens| {
            looks.push(look(tokens));
            batch.extend(tokens.0[0], 77_000);
        }));
        // This one has moved on, and is over.
        ids.push(live(&engine, queue, |batch, tokens| {
            looks.push(look(tokens));
            batch.ack(tokens.0[0], None);
        }));
        for (id, look) in ids.iter().zip(&looks) {
            let slot = engine.slab.slot(id.slot());
            let (id, body, order) = (*id, look.fields.body, 0);
            let job = Straggler { id, body, order };
            let mut copier = Copier::new(&engine, &engine.durable, false, NOW_MS);
            assert!(
                copier.append(slot, look, &job).unwrap().is_none(),
                "{:?} is not how it stands",
                look.word
            );
            // Nor where it moved on so late.
            let claimed = claim_copy(&engine.durable, slot, look, 64);
            assert!(claimed.unwrap().is_none(), "{:?} is not how it stands", look.word);
        }
        // How they stand now is told.
        for id in &ids[..2] {
            let slot = engine.slab.slot(id.slot());
            let (id, body, order) = (*id, slot.body(), 0);
            let job = Straggler { id, body, order };
            let mut copier = Copier::new(&engine, &engine.durable, false, NOW_MS);
            assert!(copier.copy_job(slot, &job).unwrap());
        }
        drop(engine);
        let config = LogConfig {
            directory: Some(directory.path().to_owned()),
            segment_bytes: 64 * 1024,
            ..LogConfig::default()
        };
        let mut told = Vec::new();
        Log::open(config, NOW_MS, &mut |record| {
            if record.kind == Kind::Job as u8 {
                let change = JobHead::ref_from_prefix(record.body).unwrap().0.change;
                told.push((change.phase, change.at_ms.get() - NOW_MS));
            }
        })
        .unwrap();
        assert_eq!(told, [(Phase::Dead as u8, 0), (Phase::Leased as u8, 77_000)]);
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
