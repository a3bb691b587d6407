//! Emptying the older part of a log that has room: at most about once a second, all of it, a segment a step. Then one sync
//! behind all of it lets it go (`anchoring`), and jobs that stand still are copied once a round, however many segments
//! their copies came to stand in. A segment at a time would have the disk write everything in between, each time.

use super::Engine;
use super::reclaim::{Reclaim, SLACK_SEGMENTS, is_tight, segments_for};
use crate::base::limits::SYNC_INTERVAL_MS;

/// From the end of a sweep to the beginning of the next one, in milliseconds: so that it ends, and with it the sync behind
/// what it emptied, before the background sync would come to write all of that.
const PAUSE_MS: u64 = SYNC_INTERVAL_MS * 6 / 10;
/// Where more than such a part of the segments that may exist is in use, there is no pause.
const PART_IN_USE: usize = 4;

/// A sweep, or the pause behind one.
#[derive(Default)]
pub(super) struct Sweep {
    /// Segments below this are to be emptied; 0 in the pause.
    until: u32,
    /// When the pause began, in milliseconds since the Unix epoch.
    paused_ms: u64,
}

impl Engine {
    /// Copies the jobs of segment `next`, the oldest that holds any, if it is time for that. `false`: it is not.
    pub(super) fn sweep(&self, reclaim: &mut Reclaim, next: u32, now_ms: u64) -> bool {
        let log = &self.durable;
        if is_tight(log) {
            // It goes by what each segment brings then.
            reclaim.sweep.until = 0;
            return false;
        }
        let mut needed = segments_for(reclaim.tally.live_bytes(), log);
        if reclaim.sweep.until == 0 {
            let in_use = log.segments_in_use();
            let is_early = now_ms.saturating_sub(reclaim.sweep.paused_ms) < PAUSE_MS;
            let has_outgrown = |needed: usize| in_use > 2 * needed + SLACK_SEGMENTS;
            if !has_outgrown(needed) || is_early && in_use <= log.segments_max() / PART_IN_USE {
                return false;
            }
            // The last look may have been before the jobs came that fill these segments: then nothing is to be gained.
            reclaim.tally.look(&self.registry);
            needed = segments_for(reclaim.tally.live_bytes(), log);
            if !has_outgrown(needed) {
                return false;
            }
            // What came last is mostly about to be over.
            reclaim.sweep.until = log.tail().sequence().saturating_sub(needed as u32 + 1);
        }
        let is_sealed = log.segment_info(next).is_some_and(|info| info.sealed);
        if next < reclaim.sweep.until && is_sealed && self.copy_durable_stragglers(reclaim, next, now_ms) {
            return true;
        }
        reclaim.sweep = Sweep {
            until: 0,
            paused_ms: now_ms,
        };
        false
    }
}
