//! What new jobs leave alone for hand-outs, and those for settlements and copies, so that a full log can be emptied.

use crate::base::limits;
use crate::base::sync::Ordering;
use crate::log::log::Log;

impl Log {
    /// Says how many further segments enqueues leave alone, and how many hand-outs do. Whoever is refused then is
    /// refused before it can take the room of an ack, or that of the copies without which deliveries that came to
    /// nothing would fill the log for good. That a disk is full is only known when there is no more, though.
    pub(super) fn weigh(&self) {
        if self.directory.is_none() {
            return;
        }
        let (oldest, tail) = (self.oldest.load(Ordering::Acquire), self.tail().sequence());
        let live = |sequence: u32| {
            let segment = self.segments.by_sequence(sequence);
            segment.map_or(0, |segment| segment.live.count())
        };
        let segments = |jobs: u64, bytes: u64| {
            let segments = (jobs * bytes).div_ceil(u64::from(self.segment_bytes));
            segments.clamp(1, limits::SEGMENTS_MAX as u64) as u32
        };
        let all = (oldest..=tail).map(live).sum::<u64>();
        let jobs = all.saturating_sub(self.jobs_over.load(Ordering::Relaxed));
        // One more segment like the last may come before this is asked again.
        let soon = jobs + live(tail.saturating_sub(1)).min(jobs);
        let (most, beyond) = {
            let space = self.space.lock();
            (space.existing_max() as u32, space.beyond() as u32)
        };
        let kept_bytes = jobs * limits::LOG_KEPT_BY_HAND_OUT_BYTES;
        self.kept_bytes.store(kept_bytes, Ordering::Relaxed);
        let hand_outs = 1 + segments(jobs, limits::LOG_KEPT_BY_HAND_OUT_BYTES);
        let enqueues = 1 + segments(soon, limits::LOG_KEPT_BY_ENQUEUE_BYTES);
        // Two more than hand-outs leave: one is theirs, and copies may need one more segment than what they are of. The
        // smallest logs have two segments for jobs, and no more.
        let enqueues = enqueues.max(hand_outs + 2).min(most - 2).max(2);
        self.kept_from_enqueues
            .store(enqueues + beyond, Ordering::Relaxed);
        // On a full disk the few spares are all there is, and nothing would drain if hand-outs left those alone.
        let is_disk_full = self.space.lock().has_obstacle();
        let hand_outs = if is_disk_full {
            0
        } else {
            hand_outs.min(enqueues - 1)
        };
        self.kept_from_hand_outs.store(hand_outs, Ordering::Relaxed);
    }

    /// Whether a record of `len` bytes for a hand-out fits the segment being written and leaves there what settling
    /// and copying all jobs may take. Then nothing is put at risk though no further segment could be had: after a start
    /// the last one may be the one being written, and all that is needed is in it. A guess where others claim at the
    /// same time; they are few, and each of their records was counted with the jobs.
    #[cold]
    pub(super) fn tail_takes_hand_out(&self, len: u32) -> bool {
        let rest = self.segment_bytes - self.tail().offset();
        u64::from(rest) >= u64::from(len) + self.kept_bytes.load(Ordering::Relaxed)
    }

    /// How many further segments could be had before enqueues are refused.
    pub fn segments_to_enqueue(&self) -> u32 {
        let kept = self.kept_from_enqueues.load(Ordering::Relaxed);
        self.obtainable.load(Ordering::Relaxed).saturating_sub(kept)
    }

    /// How many further segments could be had before hand-outs are refused.
    pub fn segments_to_hand_out(&self) -> u32 {
        let kept = self.kept_from_hand_outs.load(Ordering::Relaxed);
        self.obtainable.load(Ordering::Relaxed).saturating_sub(kept)
    }
}
