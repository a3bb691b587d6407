//! Which spare segments in memory nobody needs: their pages go back to the system.

use crate::base::limits;

/// How many spares nobody needed for a while: what is needed now and then costs more to have back than to keep.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The fewest spares since this while began.
    fewest: usize,
    /// When it is over, in milliseconds since the Unix epoch.
    until_ms: u64,
    /// Of the spares that were there all through the one before, how many are more than are wanted: the first ones.
    pub(super) surplus: usize,
    /// When the memory of the next one may be given back, in milliseconds since the Unix epoch.
    discard_ms: u64,
}

impl Idle {
    /// Takes note of how many spares there are.
    pub(super) fn note(&mut self, spares: usize) {
        self.fewest = self.fewest.min(spares);
        self.surplus = self.surplus.min(spares);
    }

    /// Whether the memory of one is to be given back now.
    pub(super) fn is_due(&mut self, spares: usize, now_ms: u64) -> bool {
        self.note(spares);
        if now_ms >= self.until_ms {
            self.surplus = self.fewest.saturating_sub(limits::SEGMENTS_SPARE);
            self.fewest = spares;
            self.until_ms = now_ms + limits::SEGMENT_IDLE_MS;
        }
        let is_due = self.surplus > 0 && now_ms >= self.discard_ms;
        if is_due {
            self.discard_ms = now_ms + limits::SYNC_INTERVAL_MS;
        }
        is_due
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const SPARES: usize = limits::SEGMENTS_SPARE + 3;
    const PAUSE_MS: u64 = limits::SYNC_INTERVAL_MS;

    /// An `Idle` that has just seen so many spares for as long as it takes.
    fn idle_with(spares: usize, now_ms: u64) -> Idle {
        let mut idle = Idle::default();
        assert!(!idle.is_due(spares, now_ms), "nothing is known yet");
        assert!(!idle.is_due(spares, now_ms + limits::SEGMENT_IDLE_MS - 1));
        idle
    }

    #[test]
    fn what_nobody_needs_for_long_goes_one_at_a_time() {
        let mut idle = idle_with(SPARES, 0);
        assert!(idle.is_due(SPARES, limits::SEGMENT_IDLE_MS));
        assert_eq!(idle.surplus, 3, "all but those that are wanted");
        assert!(!idle.is_due(SPARES, limits::SEGMENT_IDLE_MS + PAUSE_MS - 1));
        assert!(idle.is_due(SPARES, limits::SEGMENT_IDLE_MS + PAUSE_MS));
    }

    #[test]
    fn memory_that_was_needed_meanwhile_went_and_was_touched_anew() {
        let mut idle = idle_with(SPARES, 0);
        // A backlog that sways: some come, some go.
        idle.note(limits::SEGMENTS_SPARE - 1);
        assert!(!idle.is_due(SPARES, limits::SEGMENT_IDLE_MS));
        assert!(idle.is_due(SPARES, 2 * limits::SEGMENT_IDLE_MS), "not since");
        // And it ends as soon as they are needed.
        idle.note(1);
        assert_eq!(idle.surplus, 1);
        idle.note(0);
        assert!(!idle.is_due(SPARES, 2 * limits::SEGMENT_IDLE_MS + PAUSE_MS));
    }
}
