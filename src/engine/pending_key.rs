//! Keys of jobs that the log tells of: how long each is kept is known only once its queue is.

use super::dedupe::{Dedupe, Known};
use super::queue::QueueId;
use crate::base::job::JobId;
use crate::base::plant::{Plant, is_planted};
use crate::base::queue::QueueOptions;

/// A key under which a job was accepted.
pub(super) struct PendingKey {
    pub(super) queue: u32,
    pub(super) key: Vec<u8>,
    pub(super) id: JobId,
    pub(super) body_hash: u128,
    pub(super) accepted_ms: u64,
    pub(super) sequence: u32,
}

impl PendingKey {
    /// Enters it, unless its window in a queue of these options is over.
    pub(super) fn settle(self, options: &QueueOptions, dedupe: &Dedupe, now_ms: u64) {
        let expires_ms = self.accepted_ms + options.dedupe_window_ms;
        if expires_ms <= now_ms || is_planted(Plant::ForgetKey) {
            return;
        }
        let known = Known {
            id: self.id,
            body_hash: self.body_hash,
            expires_ms,
            sequence: self.sequence,
        };
        let keys = dedupe.keys(QueueId(self.queue));
        dedupe.insert(&mut keys.lock(), &self.key, known);
    }
}
