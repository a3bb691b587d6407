//! Letting segments go by an anchor beside the log: at once where it takes all that they told, or else behind a sync of
//! what stands behind them alone.

use super::Engine;
use super::reclaim::Reclaim;
use super::remains::Reach;
use crate::base::plant::{Plant, is_planted};
use crate::log::{LogPosition, Statement};

impl Engine {
    /// Whether the segments up to `last` could be gone now but for what they tell besides jobs, were the log durable up to
    /// `durable`: from then on an anchor would stand for them, even if a power cut found them still there.
    pub(super) fn may_be_anchored(&self, last: u32, durable: LogPosition) -> bool {
        let Some(oldest) = self.durable.oldest() else {
            return false;
        };
        // What an earlier start wrote is durable, and events are counted as of its end.
        last + 1 >= self.durable.first_sequence()
            && (oldest.sequence..=last).all(|sequence| self.durable.is_over(sequence, durable))
    }

    /// Says beside the log what it does not tell durably yet. A failure has poisoned the log.
    pub(super) fn anchor(&self, last: u32, statements: Vec<Statement>, now_ms: u64) -> bool {
        let anchored = self.durable.anchor(last + 1, statements, now_ms);
        anchored.unwrap_or(false)
    }

    /// Lets the segments up to `last` go, which wait for the log to be durable, without the disk writing what stands in them
    /// and is needed no more: what is behind them is synced, copies and all that was logged again included, and then
    /// the log begins there. `false`: that cannot be, or would spare nothing, or the log has failed.
    pub(super) fn anchor_behind(&self, reclaim: &mut Reclaim, last: u32, now_ms: u64) -> bool {
        let durable = self.durable.durable();
        if durable.sequence() > last || !self.may_be_anchored(last, self.durable.tail()) {
            return false;
        }
        let Ok(until) = self.durable.sync_from(last + 1) else {
            return false;
        };
        // All copies are behind those segments: a job in one of them would keep it.
        let is_held = reclaim.copied > until || !self.may_be_anchored(last, until);
        if is_held && !is_planted(Plant::AnchorBlind) {
            return false;
        }
        let reach = Reach {
            durable,
            behind: last,
            until,
        };
        let Reclaim { remains, tally, .. } = reclaim;
        // What has moved since it was logged again is told by the anchor. What this reach has is forgotten before the anchor
        // is on the disk: whoever is told `false` syncs all of it, or the log has failed.
        let Ok(due) = self.log_remains(remains, tally, reach, now_ms) else {
            return false;
        };
        if due.is_cut {
            return false;
        }
        let said = self
            .durable
            .anchor_behind(last + 1, until, due.statements, now_ms);
        said.unwrap_or(false)
    }
}
