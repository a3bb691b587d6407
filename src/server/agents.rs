//! The agents beside the reactors: the flusher, the timekeeper, the log's keeper. Each is a step that somebody
//! calls; only the flusher's and the keeper's may wait for the disk.

use super::config::ServeError;
use super::hub::Hub;
use crate::base::wake::run_errands;
use std::sync::Arc;

/// Makes the log durable when an answer waits for it; all that came meanwhile go with the next sync.
pub(super) struct Flusher {
    hub: Arc<Hub>,
}

impl Flusher {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Syncs and wakes the reactors that wait; says how many.
    pub(super) fn step(&mut self) -> usize {
        let mailboxes = self.hub.doors.all();
        let sync = || self.hub.engine.sync().map(|_| ());
        let tell = |reactor: usize| mailboxes[reactor].ring();
        match run_errands(mailboxes.iter().map(|mailbox| &mailbox.disk), sync, tell) {
            Ok(woken) => woken,
            Err(refusal) => {
                self.hub.fail(ServeError::Log(refusal.text));
                0
            }
        }
    }
}

/// Moves time on: leases, delays, retries, TTLs, and the grace of leases whose connection ended.
pub(super) struct Timekeeper {
    hub: Arc<Hub>,
}

impl Timekeeper {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Handles about `budget` deadlines; says how many. More than 0: there may be more.
    pub(super) fn step(&mut self, now_ms: u64, budget: usize) -> usize {
        let engine = &self.hub.engine;
        let grace_ms = u64::from(self.hub.config.grace_ms);
        let over = self
            .hub
            .orphans
            .take_due(now_ms, grace_ms, |token| engine.is_current(token));
        if !over.is_empty() {
            let over = over.into_iter().map(|lease| (lease.token, lease.deadline_ms));
            engine.shorten_leases(over, now_ms);
        }
        engine.timer_step(now_ms, budget)
    }
}

/// Keeps the log: prepares segments, syncs once a second, frees what is no longer needed.
pub(super) struct Keeper {
    hub: Arc<Hub>,
}

impl Keeper {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// Does some of it; says how much. More than 0: there may be more.
    pub(super) fn step(&mut self, now_ms: u64, budget: usize) -> usize {
        let done = self.hub.engine.log_step(now_ms, budget);
        self.hub.check_log();
        done
    }
}
