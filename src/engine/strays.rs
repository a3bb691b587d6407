//! Jobs that records tell of though what was enqueued is not there.
//!
//! In a whole log these are jobs that are over and whose segment was used again. In a damaged one they may be jobs
//! that are lost, and a person wants to know which. So they are noted only where somebody will ask.

use super::word::Phase;
use crate::base::job::JobId;
use crate::log::LogPosition;
use std::collections::HashMap;

/// Most jobs that are noted; further ones are counted.
const STRAYS_MAX: usize = 1 << 20;

/// What was last told of a job whose body is not there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stray {
    /// Where it stood.
    pub(super) phase: Phase,
    pub(super) attempt: u16,
    /// Where the first record that tells of it stands.
    pub(super) first_at: LogPosition,
}

/// The jobs that were told of and are not there.
#[derive(Debug, Default)]
pub(super) struct Strays {
    is_wanted: bool,
    jobs: HashMap<JobId, Stray>,
    /// Records that told of further ones.
    pub(super) more: u64,
}

impl Strays {
    /// Notes them from now on.
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// A record at `at` (raw) tells of a job that is not there.
    pub(super) fn saw(&mut self, id: JobId, phase: Phase, attempt: u16, at: u64) {
        if !self.is_wanted {
            return;
        }
        if self.jobs.len() >= STRAYS_MAX && !self.jobs.contains_key(&id) {
            self.more += 1;
            return;
        }
        let first_at = LogPosition::from_raw(at);
        let stray = self.jobs.entry(id).or_insert(Stray {
            phase,
            attempt,
            first_at,
        });
        (stray.phase, stray.attempt) = (phase, attempt);
    }

    /// Its body was found after all, in a copy.
    pub(super) fn found(&mut self, id: JobId) {
        if !self.jobs.is_empty() {
            self.jobs.remove(&id);
        }
    }

    /// Those that were not over when they were last told of and that were first told of behind `damage`, by id.
    pub(super) fn lost_behind(&self, damage: LogPosition) -> Vec<(JobId, Stray)> {
        let is_lost = |stray: &Stray| {
            let is_over = stray.phase == Phase::Free || stray.phase.is_finished();
            !is_over && stray.first_at >= damage
        };
        let lost = self.jobs.iter().filter(|(_, stray)| is_lost(stray));
        let mut lost: Vec<(JobId, Stray)> = lost.map(|(id, stray)| (*id, *stray)).collect();
        lost.sort_unstable_by_key(|(id, _)| *id);
        lost
    }
}
