//! Making log segments free again: oldest first, in order, copying what is still needed to the tail.
//!
//! In order, because a job's later records must outlive its first one. A segment may go when (a) no job's body
//! is in it any more and (b) queues, sessions and keys that only it tells of have been logged again *and* that is
//! durable, there or in an anchor (`remains`). Usually jobs are acked in about the order in which they came and (a)
//! happens by itself; when too many segments are held by a few stragglers, those jobs are copied (the cleaner of a
//! log-structured file system, Rosenblum & Ousterhout 1991), so that a dead or far-future job never pins the disk: all
//! of them together where the log has room (`sweep`), the oldest segment's where it has not.

use super::Engine;
use super::remains::{Reach, Remains};
use super::sweep::Sweep;
use super::tally::Tally;
use crate::base::plant::{Plant, is_planted};
use crate::log::{Log, LogPosition};

/// Segments that a log may hold beyond twice what its live jobs need, before stragglers are copied.
pub(super) const SLACK_SEGMENTS: usize = 4;
/// A log that may have no more segments than these is a small one.
const SMALL_LOG_SEGMENTS: usize = 2 * SLACK_SEGMENTS;
/// Of a segment this share is the log's own: headers, and marks behind what was synced.
const OWN_SHARE: u32 = 32;
/// What a key takes in the log, about.
const KEY_BYTES: u64 = 96;
/// Time between two looks at whether stragglers should be copied, in milliseconds.
const LOOK_INTERVAL_MS: u64 = 100;
/// Segments cleared at once.
const CLEAR_MAX: u32 = 1_024;

/// What the reclaimer remembers between two steps.
#[derive(Default)]
pub(super) struct Reclaim {
    /// Segments up to this one may go once the log is durable up to there.
    pending: Option<(u32, LogPosition)>,
    /// Segments below this may go as soon as they are empty.
    cleared: u32,
    /// While the log is tight, everything below this is copied, so that what deliveries left behind it can go.
    round_until: u32,
    /// What was needed at most since a round began last, in bytes.
    needed_bytes: u64,
    /// Where the log ended behind the last copies: no segment goes before those are durable.
    pub(super) copied: LogPosition,
    pub(super) remains: Remains,
    pub(super) tally: Tally,
    pub(super) sweep: Sweep,
    looked_ms: u64,
}

impl Engine {
    /// The log agent: prepares and recycles segments, syncs in the background, copies stragglers. To be called
    /// several times a second by one thread that may block on the disk. Says how much it did.
    pub fn log_step(&self, now_ms: u64, budget: usize) -> usize {
        #[cfg(planted)]
        self.log_late_attempts(now_ms);
        let mut work = 0;
        // Before the log makes segments, which takes as long as to write all of one: what is empty is used again first.
        if let Some(mut reclaim) = self.reclaim.try_lock() {
            let is_time_to_look = now_ms.saturating_sub(reclaim.looked_ms) >= LOOK_INTERVAL_MS;
            if is_time_to_look {
                reclaim.looked_ms = now_ms;
                self.dedupe.expire_all(now_ms);
                reclaim.tally.look(&self.registry);
                self.durable.set_jobs_over(reclaim.tally.jobs_over());
                self.durable.set_live_bytes(reclaim.tally.live_bytes());
            }
            work += self.clear_oldest(&mut reclaim, now_ms);
            if is_time_to_look {
                work += self.copy_volatile_stragglers(&reclaim, now_ms);
            }
        }
        work + self.durable.step(now_ms, budget) + self.volatile.step(now_ms, budget)
    }

    /// A planted bug: attempts are logged long after the jobs were handed out.
    #[cfg(planted)]
    fn log_late_attempts(&self, now_ms: u64) {
        use super::journal::Kind;
        use crate::log::Room;
        use zerocopy::IntoBytes;
        let entries = std::mem::take(&mut *self.late_attempts.lock());
        if !entries.is_empty() {
            let mut body = (entries.len() as u64).to_le_bytes().to_vec();
            body.extend_from_slice(entries.as_bytes());
            // A full log is none of this bug's business.
            let _ = self.append(Kind::Reserve, 0, &body, Room::Settle, now_ms);
        }
    }

    /// Clears segments of the durable log for recycling: all that are empty from the oldest on, or the oldest alone
    /// if it is worth emptying.
    fn clear_oldest(&self, reclaim: &mut Reclaim, now_ms: u64) -> usize {
        if let Some((sequence, until)) = reclaim.pending {
            let durable = self.durable.durable();
            if durable < until {
                if !self.is_worth_a_sync(reclaim) {
                    return 0;
                }
                // A sync ends where somebody is in the middle of a record, which may be before what it is waited for.
                let is_durable = || self.durable.sync().is_ok() && self.durable.durable() >= until;
                if !self.anchor_behind(reclaim, sequence, now_ms) && !is_durable() {
                    return 0;
                }
            }
            reclaim.pending = None;
            self.clear(reclaim, sequence);
            return 1;
        }
        let Some(oldest) = self.durable.oldest() else {
            return 0;
        };
        let first = oldest.sequence.max(reclaim.cleared);
        if oldest.sequence < first && oldest.live > 0 && self.wants_copies(reclaim, oldest.sequence) {
            // A job that was just being accepted when its segment was looked through is known only now.
            self.copy_durable_stragglers(reclaim, oldest.sequence, now_ms);
            return 0;
        }
        if oldest.sequence < first && oldest.live == 0 && is_short(&self.durable) {
            // It waits for nothing but the disk. A log that failed says so to whoever asks it for something.
            let _ = self.durable.sync();
        }
        let empty = |sequence: &u32| {
            let info = self.durable.segment_info(*sequence);
            info.is_some_and(|info| info.sealed && info.live == 0)
        };
        let mut last = (first..first + CLEAR_MAX).take_while(empty).last();
        if self.sweep(reclaim, last.map_or(first, |last| last + 1), now_ms) {
            return 1;
        }
        let is_alone = last.is_none() && oldest.sealed && oldest.sequence == first;
        if is_alone && is_tight(&self.durable) && self.wants_copies(reclaim, first) {
            if !self.copy_durable_stragglers(reclaim, first, now_ms) {
                return 0;
            }
            last = Some(first);
        }
        let Some(last) = last else {
            return 0;
        };
        // A request that is under way may have its record there, which nobody has noted yet.
        if self.sessions.is_begun_by(last) {
            return 0;
        }
        // Before what they tell is looked at: it is all told then.
        let may_be_anchored = self.may_be_anchored(last, self.durable.durable());
        let reach = Reach::to_durable(last, self.durable.durable());
        let Reclaim { remains, tally, .. } = reclaim;
        let Ok(due) = self.log_remains(remains, tally, reach, now_ms) else {
            return 0;
        };
        let until = match is_planted(Plant::RecycleEarly) {
            // The log has a guard of its own, so the bug has to take both.
            true => LogPosition::NONE,
            false => due.until.max(reclaim.copied),
        };
        let durable = self.durable.durable();
        let is_told = until <= durable
            || may_be_anchored
                && reclaim.copied <= durable
                && !due.is_cut
                && self.anchor(last, due.statements, now_ms);
        if is_told {
            self.clear(reclaim, last);
        } else {
            reclaim.pending = Some((last, until));
        }
        1
    }

    /// Whether segments that wait for the disk are worth a sync of their own, before it is time for one. They are where
    /// the log is short, and where it has grown well beyond what is needed: jobs come at full speed meanwhile, and each
    /// of their segments that cannot go yet is one more to be made and written. Where the log is mostly what is needed,
    /// keys above all, to go round faster would be to log that again more often.
    fn is_worth_a_sync(&self, reclaim: &Reclaim) -> bool {
        let log = &self.durable;
        let needed = segments_for(self.needed_bytes(reclaim), log);
        is_short(log) || log.segments_in_use() > 2 * needed + SLACK_SEGMENTS
    }

    /// Bytes that copies of all jobs and keys would have, about.
    fn needed_bytes(&self, reclaim: &Reclaim) -> u64 {
        reclaim.tally.live_bytes() + self.dedupe.len() as u64 * KEY_BYTES
    }

    /// Whether the tally is what a walk over all queues gives: for tests, while nothing else goes on.
    #[doc(hidden)]
    pub fn is_tally_right(&self) -> bool {
        let mut reclaim = self.reclaim.lock();
        reclaim.tally.look(&self.registry);
        reclaim.tally.is_right(&self.registry)
    }

    pub(super) fn clear(&self, reclaim: &mut Reclaim, sequence: u32) {
        reclaim.cleared = sequence + 1;
        self.durable.set_hold(reclaim.cleared);
    }

    /// Memory is reclaimed by the log itself once a segment is empty; only stragglers need help.
    fn copy_volatile_stragglers(&self, reclaim: &Reclaim, now_ms: u64) -> usize {
        match self.volatile.oldest() {
            Some(oldest) if oldest.sealed && oldest.live > 0 && self.wants_volatile_copies(reclaim) => {
                usize::from(self.copy_stragglers(&self.volatile, true, oldest.sequence, now_ms))
            }
            _ => 0,
        }
    }

    fn wants_volatile_copies(&self, reclaim: &Reclaim) -> bool {
        let is_tight = is_tight(&self.volatile);
        // What was left early holds little, and is used again as it is for as long as there is room.
        let early = if is_tight {
            0
        } else {
            self.volatile.segments_left_early()
        };
        let in_use = self.volatile.segments_in_use().saturating_sub(early);
        let needed = segments_for(reclaim.tally.live_bytes(), &self.volatile);
        let slack = match (is_tight, self.volatile.segments_max() <= SMALL_LOG_SEGMENTS) {
            // A log of few segments has none to spare: whatever frees one is worth it there.
            (true, true) => 1,
            (true, false) => SLACK_SEGMENTS / 2,
            (false, _) => needed + SLACK_SEGMENTS,
        };
        (in_use > SLACK_SEGMENTS || is_tight) && in_use > needed + slack
    }

    /// Whether the jobs of segment `first`, the oldest of the durable log, are to be copied.
    fn wants_copies(&self, reclaim: &mut Reclaim, first: u32) -> bool {
        let log = &self.durable;
        let (in_use, tail) = (log.segments_in_use(), log.tail().sequence());
        let is_tight = is_tight(log);
        if !is_tight && in_use <= 2 + SLACK_SEGMENTS {
            return false;
        }
        // Asked at every step; only a log that is about to refuse something needs to know to the millisecond.
        if is_tight {
            reclaim.tally.look(&self.registry);
        }
        let live_bytes = reclaim.tally.live_bytes();
        if in_use > 2 * segments_for(live_bytes, log) + SLACK_SEGMENTS {
            return true;
        }
        if !is_tight {
            return false;
        }
        let needed_bytes = self.needed_bytes(reclaim);
        reclaim.needed_bytes = reclaim.needed_bytes.max(needed_bytes);
        if first < reclaim.round_until {
            return true;
        }
        if first == tail || self.gain_of_round(reclaim, first, tail, needed_bytes) < self.least_gain(in_use) {
            return false;
        }
        reclaim.round_until = tail;
        reclaim.needed_bytes = needed_bytes;
        true
    }

    /// Bytes that copying all of the segments `first..tail` would free, or let go soon: what was written there and in
    /// the one being written since they were copied last, and what was needed then and is not now. Without either a
    /// round would only copy copies, for ever.
    fn gain_of_round(&self, reclaim: &Reclaim, first: u32, tail: u32, needed_bytes: u64) -> u64 {
        let own_bytes = self.durable.segment_bytes() / OWN_SHARE;
        let segments = (first..=tail).filter_map(|sequence| self.durable.segment_info(sequence));
        let written = segments.map(|info| info.bytes_used.saturating_sub(info.bytes_copied + own_bytes));
        written.map(u64::from).sum::<u64>() + (reclaim.needed_bytes - needed_bytes)
    }

    /// Bytes that are worth a round of copies: little, where nothing goes on without.
    fn least_gain(&self, in_use: usize) -> u64 {
        let segment_bytes = self.durable.segment_bytes() as u64;
        let segments = if self.durable.segments_to_hand_out() > 0 {
            in_use as u64 / 16
        } else {
            0
        };
        (segments * segment_bytes).max(segment_bytes / 8)
    }
}

/// Segments that so many bytes would fill.
pub(super) fn segments_for(bytes: u64, log: &Log) -> usize {
    (bytes / log.segment_bytes() as u64) as usize + 1
}

/// Whether the log is about to refuse new jobs, or does so already.
pub(super) fn is_short(log: &Log) -> bool {
    log.segments_to_enqueue() <= 2
}

/// Whether the log is about to refuse hand-outs, or does so already.
pub(super) fn is_tight(log: &Log) -> bool {
    log.segments_to_hand_out() <= 2
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::base::batch::{EnqueueBatch, EnqueueBuilder, JobOptions};
    use crate::base::job::JobId;
    use crate::engine::copy::tests::{NOW_MS, open};
    use crate::engine::{Engine, EnqueueReply, QueueId, RequestId};
    use crate::log::{LogPosition, Room};

    fn push(engine: &Engine, queue: QueueId, payload: &[u8]) -> JobId {
        let mut builder = EnqueueBuilder::new();
        builder.push(payload, &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(1, &bytes).unwrap();
        let mut reply = EnqueueReply::default();
        let done = engine.enqueue(queue, &batch, None, RequestId::NONE, NOW_MS, &mut reply);
        done.unwrap();
        JobId(reply.ids[0])
    }

    #[test]
    fn segments_went_although_what_they_told_stood_behind_a_record_that_was_not_done() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, queue) = open(&directory);
        let mut over: Vec<JobId> = (0..5).map(|_| push(&engine, queue, &[0; 40_000])).collect();
        push(&engine, queue, b"stands still");
        over.extend((0..12).map(|_| push(&engine, queue, &[0; 40_000])));
        engine.durable.sync().unwrap();
        let mut items = Vec::new();
        let cancelled = engine.cancel(&over, RequestId::NONE, NOW_MS, &mut items);
        cancelled.unwrap();
        // Somebody is in the middle of a record, and behind it the queue and the copied job are logged again.
        let claim = engine.durable.claim(64, Room::Settle).unwrap();
        let mut wanted = LogPosition::NONE;
        let mut steps = |engine: &Engine| {
            for _ in 0..20 {
                engine.log_step(NOW_MS, 64);
                let pending = engine.reclaim.lock().pending;
                wanted = pending.map_or(wanted, |(_, until)| until.max(wanted));
            }
            (engine.reclaim.lock().cleared, wanted)
        };
        let (cleared, wanted) = steps(&engine);
        assert!(engine.durable.durable() < wanted, "the test is about that");
        assert_eq!(cleared, 0, "what {wanted} tells is not on the disk");
        claim.commit(1, 0, NOW_MS, 0);
        assert!(steps(&engine).0 > 4, "now they go");
    }
}
