//! Syncing what stands behind segments that are about to go, and not those: where they are all that is in front of it, the
//! log can begin behind them, by an anchor that says so. Else a job that stands still, and is copied once a round of the
//! log, would have the disk write all that went round meanwhile though nobody needs it any more.

use crate::base::plant::{Plant, is_planted};
use crate::log::anchor::Statement;
use crate::log::error::LogError;
use crate::log::log::Log;
use crate::log::position::LogPosition;

impl Log {
    /// Brings what is committed from segment `cleared` on to the disk, and not what stands before. Returns up to where it
    /// is there: as the log's beginning counts once [`anchor_behind`](Self::anchor_behind) says that it begins there.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when the disk fails, and ever after.
    pub fn sync_from(&self, cleared: u32) -> Result<LogPosition, LogError> {
        self.check_poison()?;
        let first = LogPosition::new(cleared, 0);
        // With whoever syncs all of it, since both walk over what is committed and one failure is everybody's.
        self.durable.lead(|durable| {
            self.check_poison()
                .and_then(|()| self.flush_prefix(durable.max(first)))
        })
    }

    /// As [`anchor`](Self::anchor), where [`sync_from`](Self::sync_from) the same segment returned `until`: from then on the
    /// log is durable up to there.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn anchor_behind(
        &self,
        cleared: u32,
        until: LogPosition,
        statements: Vec<Statement>,
        now_ms: u64,
    ) -> Result<bool, LogError> {
        let is_said = is_planted(Plant::BeginEarly) || self.anchor(cleared, statements, now_ms)?;
        if is_said {
            // Only now: a record that carries this mark and survives a power cut which the anchor does not would make the
            // loss of what was never synced look like damage.
            self.durable.raise(until);
            self.syncer.note_synced(now_ms);
        }
        Ok(is_said)
    }
}
