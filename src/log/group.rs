//! Group commit: one sync for all who wait for the disk at the same moment.
//!
//! Leader and follower without a hand-over: whoever wants something on the disk and gets the lock is the leader;
//! the others wait for the lock and mostly find that a leader did their work. Plain atomics and a lock with no disk
//! behind them, so that the models in `tests/loom/group.rs` run this very code.

use crate::base::sync::{AtomicU64, Lock, Ordering};
use crate::log::position::LogPosition;

/// How far the log is on the disk, and who brings it further.
#[derive(Debug)]
pub struct GroupCommit {
    /// Raw position up to which everything is on the disk.
    durable: AtomicU64,
    /// Held by the leader while it talks to the disk.
    leading: Lock<()>,
}

impl GroupCommit {
    /// With everything before `start` on the disk.
    pub fn new(start: LogPosition) -> Self {
        Self {
            durable: AtomicU64::new(start.raw()),
            leading: Lock::new(()),
        }
    }

    /// Everything before this place is on the disk. Acquire: whoever sees it may confirm that.
    #[inline]
    pub fn durable(&self) -> LogPosition {
        LogPosition::from_raw(self.durable.load(Ordering::Acquire))
    }

    /// As [`durable`](Self::durable), for those who confirm nothing by it; an older value is as true.
    #[inline]
    pub fn mark(&self) -> LogPosition {
        LogPosition::from_raw(self.durable.load(Ordering::Relaxed))
    }

    /// What is before `position` needs the disk no more. Release: whoever sees the new value may confirm what is
    /// before it. Maximum, because a leader and the recycler both move it; by a loop, since a sanitizer does not see
    /// the edge of a `fetch_max`.
    pub fn raise(&self, position: LogPosition) {
        let higher = |durable| (durable < position.raw()).then_some(position.raw());
        // An error says that it is there already.
        let _ = self
            .durable
            .fetch_update(Ordering::Release, Ordering::Relaxed, higher);
    }

    /// Brings the log to the disk up to `wanted`, as far as it is committed, or waits for whoever does. The leader
    /// calls `flush` with how far the disk is; `flush` finds the end of what is committed without a gap *first*,
    /// then syncs, then returns just that end: a record committed in between is not called durable by mistake, nor
    /// one behind a hole.
    ///
    /// # Errors
    /// What `check` says, which is asked again by whoever has waited, or `flush`.
    pub fn sync<E>(
        &self,
        wanted: LogPosition,
        check: impl Fn() -> Result<(), E>,
        flush: impl FnOnce(LogPosition) -> Result<LogPosition, E>,
    ) -> Result<LogPosition, E> {
        let _leading = self.leading.lock();
        check()?;
        if self.durable() < wanted {
            self.raise(flush(self.durable())?);
        }
        Ok(self.durable())
    }

    /// Has the disk to itself, as a leader, for something that makes nothing durable here yet. `flush` is told how far the
    /// disk is.
    pub fn lead<T>(&self, flush: impl FnOnce(LogPosition) -> T) -> T {
        let _leading = self.leading.lock();
        flush(self.durable())
    }
}
