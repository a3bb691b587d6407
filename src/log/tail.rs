//! The lock-free heart of the log: who owns which bytes, and when others may look.
//!
//! Claim, copy, commit is the scheme of Aeron's log buffers (Thompson and Montgomery, 2014): a writer takes a range
//! by moving the tail, fills it, and stores the record's length last. Here the tail is moved by compare-and-swap
//! rather than fetch-and-add, so that it never overshoots the end of a segment and the end needs no repair; and
//! the commit word carries the segment's epoch, so that memory can be used again without zeroing it.
//!
//! Everything here is plain atomics without memory behind them, so the models in `tests/loom/log.rs` run this very
//! code.

use crate::base::sync::{AtomicU64, Ordering};
use crate::log::position::LogPosition;

/// The place where the next record goes.
#[derive(Debug)]
pub struct Tail {
    word: AtomicU64,
}

impl Tail {
    /// A tail at `position`.
    pub fn new(position: LogPosition) -> Self {
        Self {
            word: AtomicU64::new(position.raw()),
        }
    }

    /// Where it is now. Acquire: whoever sees a segment here also sees it installed.
    #[inline]
    pub fn load(&self) -> LogPosition {
        LogPosition::from_raw(self.word.load(Ordering::Acquire))
    }

    /// Takes `len` bytes, or says at which tail they [did not go](has_place). Never spins without another writer having made
    /// progress.
    #[inline]
    pub fn claim(&self, len: u32, leave_at: u32, segment_bytes: u32) -> Result<LogPosition, LogPosition> {
        let mut at = self.word.load(Ordering::Relaxed);
        loop {
            let position = LogPosition::from_raw(at);
            if !has_place(position, len, leave_at, segment_bytes) {
                return Err(position);
            }
            // Acquire pairs with the Release of `roll`: the claimer sees the segment that it claimed in. The
            // claims between are read-modify-writes and carry that release sequence on.
            match self.word.compare_exchange_weak(
                at,
                position.plus(len).raw(),
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(position),
                Err(now) => at = now,
            }
        }
    }

    /// Moves on to a fresh segment and returns the place where the old one was left: from there to its end the
    /// bytes belong to the caller. Only under the roll lock, which is why it cannot meet another roll.
    pub fn roll(&self, to: LogPosition) -> LogPosition {
        // Release: the new segment, its opening record included, is visible to whoever claims in it.
        LogPosition::from_raw(self.word.swap(to.raw(), Ordering::AcqRel))
    }
}

/// Whether a record of `len` bytes goes where the tail is: it fits below `segment_bytes`, and begins before `leave_at`.
/// A record that is longer than that itself may begin behind it: to leave for its sake would bring it no nearer to what
/// was used last.
#[inline]
pub fn has_place(tail: LogPosition, len: u32, leave_at: u32, segment_bytes: u32) -> bool {
    segment_bytes - tail.offset() >= len && (tail.offset() < leave_at || len > leave_at)
}

/// A word that publishes a record. The mapped memory holds the standard library's atomics; models bring loom's.
pub trait CommitWord {
    /// Loads with Acquire.
    fn load_acquire(&self) -> u64;
    /// Stores with Release.
    fn store_release(&self, value: u64);
}

impl CommitWord for std::sync::atomic::AtomicU64 {
    #[inline]
    fn load_acquire(&self) -> u64 {
        self.load(std::sync::atomic::Ordering::Acquire)
    }

    #[inline]
    fn store_release(&self, value: u64) {
        self.store(value, std::sync::atomic::Ordering::Release);
    }
}

#[cfg(loom)]
impl CommitWord for AtomicU64 {
    fn load_acquire(&self) -> u64 {
        self.load(Ordering::Acquire)
    }

    fn store_release(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
}

/// Publishes a record of `len` bytes. Everything that the writer did before is visible to whoever sees the length.
#[inline]
pub fn commit(word: &impl CommitWord, epoch: u32, len: u32) {
    word.store_release(u64::from(epoch) << 32 | u64::from(len));
}

/// The length of the record that the word publishes in this epoch, or `None` when it is not committed yet.
#[inline]
pub fn committed(word: &impl CommitWord, epoch: u32) -> Option<u32> {
    let value = word.load_acquire();
    ((value >> 32) as u32 == epoch).then_some(value as u32)
}

/// The end of the records that are committed without a gap from `from` on, not beyond `tail`.
///
/// `from` is the beginning of a record or the end of a segment; `record_at` gives the length of the committed
/// record at a place; records begin at `data_start` and the smallest has `record_min` bytes: where fewer are left
/// the segment is at its end.
pub fn committed_prefix(
    from: LogPosition,
    tail: LogPosition,
    segment_bytes: u32,
    (data_start, record_min): (u32, u32),
    mut record_at: impl FnMut(LogPosition) -> Option<u32>,
) -> LogPosition {
    let mut at = from;
    while at < tail {
        if segment_bytes - at.offset() < record_min {
            at = LogPosition::new(at.sequence() + 1, data_start);
            continue;
        }
        match record_at(at) {
            Some(len) => at = at.plus(len),
            None => break,
        }
    }
    at
}

/// Who keeps a segment from being used again: its sequence number and the count of pins in one word.
///
/// A pin is one add, also one that comes too late: it finds another sequence number in the word and takes itself
/// back. So a retired word may show passing pins, and a new number is added to it, not stored.
#[derive(Debug)]
pub struct Holders {
    word: AtomicU64,
}

const SEQUENCE_ONE: u64 = 1 << 32;

impl Holders {
    /// Of a segment that has no place in the log.
    pub fn retired() -> Self {
        Self {
            word: AtomicU64::new(0),
        }
    }

    /// The segment becomes number `sequence` of the log.
    pub fn assign(&self, sequence: u32) {
        self.word
            .fetch_add(u64::from(sequence) * SEQUENCE_ONE, Ordering::Release);
    }

    /// The segment's number; 0 when retired.
    #[inline]
    pub fn sequence(&self) -> u32 {
        (self.word.load(Ordering::Acquire) >> 32) as u32
    }

    /// Holds the segment, if it is still number `sequence`.
    #[inline]
    pub fn pin(&self, sequence: u32) -> bool {
        // Acquire pairs with `assign`: who pins number n sees the segment as it was prepared for n.
        if (self.word.fetch_add(1, Ordering::Acquire) >> 32) as u32 == sequence {
            return true;
        }
        self.unpin();
        false
    }

    /// Lets go. Release: what was read under the pin was read before the segment is written again.
    #[inline]
    pub fn unpin(&self) {
        self.word.fetch_sub(1, Ordering::Release);
    }

    /// Retires number `sequence` if nobody pins it. Acquire: every earlier unpin's reads are over.
    pub fn retire(&self, sequence: u32) -> bool {
        let alone = u64::from(sequence) * SEQUENCE_ONE;
        self.word
            .compare_exchange(alone, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

/// How many jobs need a segment, and how far the log must be on the disk before it goes.
#[derive(Debug, Default)]
pub struct Live {
    jobs: AtomicU64,
    /// Raw position that must be durable before the segment goes: the end of the last copy made of a job in it, or of
    /// the last step that ended one and brought others.
    barrier: AtomicU64,
}

impl Live {
    /// Adds jobs, before the record that brings them is committed or while others are counted already.
    #[inline]
    pub fn retain(&self, jobs: u64) {
        // Relaxed: the commit word's Release carries it to whoever walks over the record.
        self.jobs.fetch_add(jobs, Ordering::Relaxed);
    }

    /// Takes jobs off. Release: what was read of them was read before the segment is written again.
    #[inline]
    pub fn release(&self, jobs: u64) {
        let before = self.jobs.fetch_sub(jobs, Ordering::Release);
        debug_assert!(before >= jobs, "a segment's live count went below zero");
    }

    /// As [`release`](Self::release), for jobs that were copied to a record that ends at `copy_end`: the copy must
    /// be durable before the original goes.
    pub fn release_after(&self, jobs: u64, copy_end: LogPosition) {
        // Relaxed: the Release of the count that follows carries it to whoever finds nothing left.
        self.barrier.fetch_max(copy_end.raw(), Ordering::Relaxed);
        self.release(jobs);
    }

    /// What keeps the segment now goes only once the log is durable up to `until`. For whoever is about to release a
    /// job in it.
    pub fn keep_until(&self, until: LogPosition) {
        // Relaxed: as in `release_after`.
        self.barrier.fetch_max(until.raw(), Ordering::Relaxed);
    }

    /// The count. Acquire: at zero, every release's reads are over.
    #[inline]
    pub fn count(&self) -> u64 {
        self.jobs.load(Ordering::Acquire)
    }

    /// The segment, retired until now, gets its next place in the log.
    pub fn begin(&self) {
        // Relaxed: nobody finds the segment before its holders' word is assigned.
        self.barrier.store(0, Ordering::Relaxed);
    }

    /// Whether nothing needs segment `sequence` any more, pins aside: every record is committed (`passed` gives the
    /// end of those that are, or of those on the disk), no job is live, and `durable` has reached what the
    /// segment's jobs rely on now.
    pub fn is_passed(
        &self,
        sequence: u32,
        passed: impl FnOnce() -> LogPosition,
        durable: impl FnOnce() -> LogPosition,
    ) -> bool {
        // Looked at again behind the walk: a record committed after the first look has added its jobs before its
        // commit word, and the walk that passed it has seen that word.
        self.count() == 0
            && passed().sequence() > sequence
            && self.count() == 0
            && durable() >= LogPosition::from_raw(self.barrier.load(Ordering::Relaxed))
    }
}
