//! Emptying the older part of a log that has room: at most about once a second, all of it, a segment a step. Then one sync
//! behind all of it lets it go (`anchoring`), and jobs that stand still are copied once a round, however many segments
//! their copies came to stand in. A segment at a time would have the disk write everything in between, each time.

use super::Engine;
use super::reclaim::{Reclaim, SLACK_SEGMENTS, is_short, is_tight, segments_for};
use crate::base::limits::{SWEEP_BYTES_MAX, SYNC_INTERVAL_MS};

/// The shortest and the longest pause behind a sweep, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = SYNC_INTERVAL_MS / 5..=SYNC_INTERVAL_MS * 7 / 10;
/// Where more than such a part of the segments that may exist is in use, there is no pause.
const PART_IN_USE: usize = 4;

/// Where the reclaimer is with that. Times are in milliseconds since the Unix epoch.
#[derive(Clone, Copy)]
pub(super) enum Sweep {
    /// The next one does not begin before that time.
    Paused { until_ms: u64 },
    /// These segments are being emptied.
    Emptying(Stretch),
    /// What was copied is not durable yet.
    Waiting { began_ms: u64 },
}

/// What one sweep empties.
#[derive(Clone, Copy)]
pub(super) struct Stretch {
    /// Segments below this.
    below: u32,
    /// Before the tail comes to that one.
    tail_max: u32,
    /// When it began, in milliseconds since the Unix epoch.
    began_ms: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Sweep::Paused { until_ms: 0 }
    }
}

/// The pause behind a sweep that took so long until its copies were durable: the next one is to be through, though it should
/// take twice as long, before the background sync comes to write all that would go with it.
fn pause_ms(took_ms: u64) -> u64 {
    SYNC_INTERVAL_MS
        .saturating_sub(2 * took_ms)
        .clamp(*PAUSE_MS.start(), *PAUSE_MS.end())
}

impl Engine {
    /// Copies the jobs of segment `next`, the oldest that holds any, if it is time for that. `false`: it is not.
    pub(super) fn sweep(&self, reclaim: &mut Reclaim, next: u32, now_ms: u64) -> bool {
        let log = &self.durable;
        if is_tight(log) {
            // It goes by what each segment brings then.
            reclaim.sweep = Sweep::default();
            return false;
        }
        if let Sweep::Waiting { began_ms } = reclaim.sweep
            && reclaim.copied <= log.durable()
        {
            let until_ms = now_ms + pause_ms(now_ms.saturating_sub(began_ms));
            reclaim.sweep = Sweep::Paused { until_ms };
        }
        let stretch = match reclaim.sweep {
            Sweep::Emptying(stretch) => Some(stretch),
            Sweep::Paused { until_ms } if until_ms <= now_ms => self.begin_sweep(reclaim, 0, now_ms),
            _ => self.begin_sweep(reclaim, log.segments_max() / PART_IN_USE, now_ms),
        };
        let Some(stretch) = stretch else {
            return false;
        };
        // An empty one has gone as far as it goes here: it is to be cleared.
        let holds_jobs = |sequence| {
            log.segment_info(sequence)
                .is_some_and(|info| info.sealed && info.live > 0)
        };
        let goes_on = next < stretch.below
            && !is_short(log)
            && log.tail().sequence() < stretch.tail_max
            && holds_jobs(next)
            && self.copy_durable_stragglers(reclaim, next, now_ms);
        reclaim.sweep = if goes_on {
            Sweep::Emptying(stretch)
        } else {
            Sweep::Waiting {
                began_ms: stretch.began_ms,
            }
        };
        goes_on
    }

    /// Whether more segments are in use than `at_least`, and than the jobs would take twice, with some slack.
    fn has_outgrown(&self, reclaim: &Reclaim, at_least: usize) -> bool {
        let in_use = self.durable.segments_in_use();
        let needed = segments_for(reclaim.tally.live_bytes(), &self.durable);
        in_use > at_least && in_use > 2 * needed + SLACK_SEGMENTS
    }

    /// A sweep up to what came last, which is mostly about to be over, where more than `at_least` segments are in use and
    /// something is to be gained. It takes no more than half of the room that new jobs have, and ends before its copies are
    /// too much for one sync.
    fn begin_sweep(&self, reclaim: &mut Reclaim, at_least: usize, began_ms: u64) -> Option<Stretch> {
        if !self.has_outgrown(reclaim, at_least) {
            return None;
        }
        // The last look may have been before the jobs came that fill these segments: then nothing is to be gained.
        reclaim.tally.look(&self.registry);
        if !self.has_outgrown(reclaim, at_least) {
            return None;
        }
        let log = &self.durable;
        let needed = segments_for(reclaim.tally.live_bytes(), log) as u32;
        let tail = log.tail().sequence();
        let segments_max = (SWEEP_BYTES_MAX / u64::from(log.segment_bytes())) as u32;
        let segments = segments_max.min(log.segments_to_enqueue() / 2).max(1);
        Some(Stretch {
            below: tail.saturating_sub(needed + 1),
            tail_max: tail.saturating_add(segments),
            began_ms,
        })
    }
}
