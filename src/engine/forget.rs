//! Forgetting finished jobs because somebody asked for it, which a restart must not undo.
//!
//! A job that falls out of its queue's retention is forgotten without a word in the log: after a restart the retention
//! drops it again. One that is purged would come back into the room that the purge has made, so the log says that it is
//! over and forgotten.

use super::journal::{ChangeEntry, ChangeHead, Kind};
use super::queue::Queue;
use super::word::{VOLATILE, id_of};
use super::{Engine, log_refusal};
use crate::base::code::Refusal;
use crate::base::job::JobState;
use crate::log::{LogError, Room};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

impl Engine {
    /// Forgets the finished jobs of a queue that are in one of `states`; says how many. The others stay, behind any
    /// that finish meanwhile.
    pub(super) fn forget_finished(
        &self,
        queue: &Queue,
        states: &[JobState],
        now_ms: u64,
    ) -> Result<u64, Refusal> {
        if !states.iter().any(|state| state.is_finished()) {
            return Ok(0);
        }
        let is_wanted = |number: &u32| {
            let phase = self.slab.slot(*number).state().phase();
            phase.public().is_some_and(|state| states.contains(&state))
        };
        // Those that are there now, and no others: whoever finishes jobs at the same time must not keep this going.
        let mut left = queue.counts().kept;
        let (mut stay, mut total, mut done) = (Vec::new(), 0, Ok(()));
        let mut handles = [0; 256];
        while left > 0 && done.is_ok() {
            let room = left.min(handles.len() as u64) as usize;
            let taken = queue.trim_finished(&self.pool, 0, &mut handles[..room]);
            if taken == 0 {
                break;
            }
            left -= taken as u64;
            let (go, others): (Vec<u32>, Vec<u32>) =
                handles[..taken].iter().partition(|number| is_wanted(number));
            stay.extend(others);
            // A copy made in between would stand behind the record, and say that the job is there.
            let _copies_none = self.reclaim.lock();
            // In the log first: nobody may miss a job that a restart would bring back.
            done = self.log_forgotten(&go, now_ms).map_err(log_refusal);
            match done {
                Ok(()) => {
                    total += go.len() as u64;
                    self.free(queue, &go);
                }
                Err(_) => stay.extend(go),
            }
        }
        if !stay.is_empty() {
            self.retain_finished(queue, &stay);
        }
        done.map(|()| total)
    }

    fn log_forgotten(&self, numbers: &[u32], now_ms: u64) -> Result<(), LogError> {
        let entries: Vec<ChangeEntry> = numbers
            .iter()
            .map(|number| (*number, self.slab.slot(*number).state()))
            .filter(|(_, word)| !word.has(VOLATILE))
            .map(|(number, word)| {
                let fields = self.slab.slot(number).fields();
                ChangeEntry::of_purged(id_of(number, word), fields.queue, fields.at_ms)
            })
            .collect();
        if entries.is_empty() || !self.logged {
            return Ok(());
        }
        let head = ChangeHead {
            done: U32::ZERO,
            changes: U32::new(entries.len() as u32),
            refused: U32::ZERO,
            reserved: U32::ZERO,
        };
        let mut body = head.as_bytes().to_vec();
        body.extend_from_slice(entries.as_bytes());
        self.append(Kind::Change, 0, &body, Room::Settle, now_ms)
            .map(|_| ())
    }
}
