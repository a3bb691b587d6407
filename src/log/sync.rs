//! Making the log last: the contiguous committed prefix, what a leader of the group commit
//! ([`group`](crate::log::group)) does with the disk, and the poison.

use crate::base::limits;
use crate::base::plant::{Plant, is_planted};
use crate::base::sync::{AtomicU64, Ordering};
use crate::log::error::LogError;
use crate::log::header::DATA_START;
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::record::{HEADER_LEN, KIND_MARK};
use crate::log::tail::committed_prefix;
use crossbeam_utils::Backoff;
use parking_lot::Mutex;
use std::io;
use std::sync::OnceLock;

/// Called before each flush with the segment's sequence number; an error stands for one of the disk.
pub type FlushHook = Box<dyn Fn(u32) -> io::Result<()> + Send + Sync>;

/// State of the syncs.
pub(super) struct Syncer {
    /// End of the committed prefix as far as anyone has walked.
    prefix: Mutex<LogPosition>,
    /// When the background sync last ran, in milliseconds since the Unix epoch.
    last_ms: AtomicU64,
    marked: Mutex<Mark>,
    reason: OnceLock<String>,
    hook: OnceLock<FlushHook>,
}

/// The last mark written: nothing to do in the background while the log ends with it and it was alone in not being
/// durable, or while nothing more was committed than it knew to be durable.
#[derive(Clone, Copy, Default)]
struct Mark {
    durable: LogPosition,
    end: LogPosition,
}

impl Syncer {
    /// For a log whose records begin at `start`.
    pub(super) fn new(start: LogPosition, now_ms: u64) -> Self {
        Self {
            prefix: Mutex::new(start),
            last_ms: AtomicU64::new(now_ms),
            marked: Mutex::new(Mark::default()),
            reason: OnceLock::new(),
            hook: OnceLock::new(),
        }
    }

    /// The log was brought to the disk in another way: the background sync has its time from here.
    pub(super) fn note_synced(&self, now_ms: u64) {
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }
}

impl Log {
    /// Everything before this place is on the disk. In a log without a directory: the tail, as nothing there
    /// waits for a disk.
    #[inline]
    pub fn durable(&self) -> LogPosition {
        if self.directory.is_none() {
            return self.tail();
        }
        self.durable.durable()
    }

    /// Why the log is poisoned, if it is.
    pub fn poisoned(&self) -> Option<String> {
        self.syncer.reason.get().cloned()
    }

    pub(super) fn poisoned_error(&self) -> LogError {
        LogError::Poisoned(
            self.syncer
                .reason
                .get()
                .cloned()
                .unwrap_or_else(|| "a disk error".into()),
        )
    }

    /// After this nothing is confirmed any more, whatever a later call to the disk would answer: the pages that
    /// a failed sync did not write may be marked clean.
    pub(super) fn poison(&self, action: &str, error: &io::Error) -> LogError {
        let is_first = self
            .syncer
            .reason
            .set(format!("could not {action}: {error}"))
            .is_ok();
        if let Some(directory) = self.directory.as_ref().filter(|_| is_first) {
            directory.disown();
        }
        self.is_poisoned.store(true, Ordering::Release);
        self.poisoned_error()
    }

    pub(super) fn check_poison(&self) -> Result<(), LogError> {
        if self.is_poisoned.load(Ordering::Acquire) {
            Err(self.poisoned_error())
        } else {
            Ok(())
        }
    }

    /// Lets `hook` decide whether a flush fails. For tests; once.
    #[doc(hidden)]
    pub fn set_flush_hook(&self, hook: FlushHook) {
        let _ = self.syncer.hook.set(hook);
    }

    /// Walks over what has been committed since the last walk and returns its end.
    pub(super) fn advance_prefix(&self) -> LogPosition {
        let mut prefix = self.syncer.prefix.lock();
        let bounds = (DATA_START, HEADER_LEN as u32);
        *prefix = committed_prefix(*prefix, self.tail(), self.segment_bytes, bounds, |at| {
            // A segment that the prefix has not passed is not recycled, so it is found.
            self.segments
                .by_sequence(at.sequence())?
                .committed_at(at.offset())
        });
        *prefix
    }

    /// Brings what is committed without a gap to the disk, or waits for someone who does, and returns
    /// [`durable`](Self::durable).
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when the disk fails, and ever after.
    pub fn sync(&self) -> Result<LogPosition, LogError> {
        self.check_poison()?;
        if self.directory.is_none() {
            return Ok(self.tail());
        }
        self.durable.sync(
            self.tail(),
            || self.check_poison(),
            |from| self.flush_prefix(from),
        )
    }

    /// Returns when everything before `position` is on the disk. `position` is the end of a committed record; the
    /// caller holds no open claim, which would make it wait for itself.
    ///
    /// # Errors
    /// [`LogError::Poisoned`] when the disk fails, and ever after.
    pub fn sync_to(&self, position: LogPosition) -> Result<(), LogError> {
        // A no-op but where bugs are planted.
        self.go_on();
        let backoff = Backoff::new();
        loop {
            if self.sync()? >= position {
                return Ok(());
            }
            // Another writer is in the middle of an earlier record: for the time of a copy, unless it lost its
            // processor.
            if backoff.is_completed() {
                std::thread::park_timeout(std::time::Duration::from_micros(50));
            } else {
                backoff.snooze();
            }
        }
    }

    /// As the leader: brings what is committed behind `from` to the disk and returns its end.
    pub(super) fn flush_prefix(&self, from: LogPosition) -> Result<LogPosition, LogError> {
        let to = if is_planted(Plant::PublishHole) {
            self.tail()
        } else {
            self.advance_prefix()
        };
        if is_planted(Plant::ConfirmBeforeSync) {
            self.durable.raise(to);
        }
        for sequence in from.sequence()..=to.sequence() {
            let start = if sequence == from.sequence() {
                from.offset()
            } else {
                0
            };
            let end = if sequence == to.sequence() {
                to.offset()
            } else {
                self.segment_bytes
            };
            if start < end {
                let flushed = self.flush_segment(sequence, start, end);
                flushed.map_err(|error| self.poison("sync the log", &error))?;
            }
        }
        Ok(to)
    }

    fn flush_segment(&self, sequence: u32, start: u32, end: u32) -> io::Result<()> {
        if let Some(hook) = self.syncer.hook.get() {
            hook(sequence)?;
        }
        // A segment that was retired meanwhile has nothing to bring to the disk. (Flushing one that is used again
        // under the leader's hands would only be needless.)
        let Some(segment) = self.segments.by_sequence(sequence) else {
            return Ok(());
        };
        segment.flush(start, end - start)
    }

    /// Syncs when it is time, and leaves a mark behind what it synced.
    pub(super) fn sync_in_background(&self, now_ms: u64) -> usize {
        if self.directory.is_none() {
            return 0;
        }
        let last = self.syncer.last_ms.load(Ordering::Relaxed);
        // A clock that was set back must not stop the syncs.
        let is_early = now_ms >= last && now_ms - last < limits::SYNC_INTERVAL_MS;
        if is_early && !self.has_much_unsynced() {
            return 0;
        }
        self.syncer.last_ms.store(now_ms, Ordering::Relaxed);
        let Some(mut marked) = self.syncer.marked.try_lock() else {
            return 0;
        };
        let prefix = self.advance_prefix();
        if prefix == marked.end || prefix <= marked.durable || self.sync().is_err() {
            return 0;
        }
        if self.durable() > marked.durable {
            *marked = self.mark(now_ms);
        }
        1
    }

    fn has_much_unsynced(&self) -> bool {
        let linear = |at: LogPosition| {
            u64::from(at.sequence()) * u64::from(self.segment_bytes) + u64::from(at.offset())
        };
        let unsynced = linear(self.tail()) - linear(self.durable());
        unsynced.min(self.live_bytes.load(Ordering::Relaxed)) >= limits::UNSYNCED_BYTES_MAX
    }

    /// Appends a record that says how far the log is on the disk, so that damage to the last records that were
    /// synced is told from a torn tail. Only where it fits: it is not worth a segment.
    fn mark(&self, now_ms: u64) -> Mark {
        let durable = self.durable();
        let mut end = LogPosition::NONE;
        if let Ok(position) = self
            .tail
            .claim(HEADER_LEN as u32, self.segment_bytes, self.segment_bytes)
        {
            let mark_end = self
                .claimed(position, HEADER_LEN as u32)
                .publish(KIND_MARK, 0, now_ms);
            // Only a mark right behind what is durable leaves nothing to do.
            if position == durable {
                end = mark_end;
            }
        }
        Mark { durable, end }
    }

    /// Syncs, marks and syncs again: the last act before the log is dropped in good order.
    ///
    /// # Errors
    /// [`LogError::Poisoned`].
    pub fn close(&self, now_ms: u64) -> Result<(), LogError> {
        self.go_on();
        self.sync()?;
        if self.directory.is_some() {
            *self.syncer.marked.lock() = self.mark(now_ms);
            self.sync()?;
        }
        Ok(())
    }
}
