//! One queue: its rings, who waits for it, and what is known of it as a whole.

use super::counters::Counters;
use super::definitions::Definitions;
use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits::PRIORITIES;
use crate::base::queue::{Durability, QueueCounts, QueueOptions};
use crate::base::sync::{AtomicBool, AtomicU32, AtomicU64, Lock, Ordering, fence};
use crate::log::LogPosition;
use crate::ring::{ChunkPool, Ring, RingRef, Rings};
use crossbeam_utils::CachePadded;
use std::collections::{BTreeMap, VecDeque};

/// Numbers a queue for as long as the engine is open. Not stable across restarts; names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// One queue.
pub struct Queue {
    /// Its number.
    pub id: QueueId,
    /// Its name.
    pub name: String,
    /// How it behaves.
    pub options: QueueOptions,
    /// One ring a priority level.
    ready: Rings<PRIORITIES>,
    /// Levels that ever had a job, a bit each: the others need not be looked at.
    levels: AtomicU32,
    /// Handles that were popped and had to be given back, by level: they come before the rings. Nearly always
    /// empty, and then nobody takes the lock.
    front: Lock<BTreeMap<u8, VecDeque<u32>>>,
    front_len: AtomicU64,
    /// Held while the queue's definition is logged, so that definitions stand in the log in the order in which
    /// they came into force.
    pub(super) definition: Lock<Definitions>,
    /// Finished jobs, for the retention. In cache lines of their own, as each batch of acks writes there, and whoever
    /// enqueues reads what stands beside it.
    finished: CachePadded<Kept>,
    /// Reactors (a bit each) and blocked threads that wait for a job.
    waiting: AtomicU64,
    paused: AtomicBool,
    deleted: AtomicBool,
    /// Where its definition stands in the log.
    defined_at: AtomicU64,
    /// Gauges and counters.
    pub counters: Counters,
}

/// Jobs in the order in which they finished.
#[derive(Default)]
struct Kept {
    ring: Ring,
    len: AtomicU64,
}

impl Queue {
    /// An empty queue.
    pub fn new(id: QueueId, name: &str, options: QueueOptions) -> Self {
        Self {
            id,
            name: name.to_owned(),
            options,
            ready: Rings::new(),
            levels: AtomicU32::new(0),
            front: Lock::new(BTreeMap::new()),
            front_len: AtomicU64::new(0),
            definition: Lock::new(Definitions::default()),
            finished: CachePadded::new(Kept::default()),
            waiting: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            deleted: AtomicBool::new(false),
            defined_at: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// Counts a batch against the capacity, or refuses it whole.
    pub fn admit(&self, jobs: u64, bytes: u64) -> Result<(), Refusal> {
        let (capacity_jobs, capacity_bytes) = (self.options.capacity_jobs, self.options.capacity_bytes);
        let Err(held) = self.counters.admit(jobs, bytes, (capacity_jobs, capacity_bytes)) else {
            return Ok(());
        };
        let text = if held.jobs + jobs <= capacity_jobs {
            format!(
                "queue {} holds {} of {capacity_bytes} bytes",
                self.name, held.bytes
            )
        } else {
            format!("queue {} holds {} of {capacity_jobs} jobs", self.name, held.jobs)
        };
        Err(Refusal::new(ErrorCode::QueueFull, text))
    }

    /// Makes handles poppable, in order, behind what is there.
    pub fn push_ready(&self, pool: &ChunkPool, priority: u8, handles: &[u32]) {
        if !handles.is_empty() {
            self.use_level(priority);
            push(self.ready.at(usize::from(priority)), pool, handles);
        }
    }

    /// Says that a level is about to have a handle.
    #[inline]
    fn use_level(&self, priority: u8) {
        // Relaxed: the bit stays, and it is there before the handle, so that whoever knows of the handle, by what it
        // was told or by the fences of `announce` and `waiters`, finds the bit.
        if self.levels() & (1 << priority) == 0 {
            self.levels.fetch_or(1 << priority, Ordering::Relaxed);
        }
    }

    /// The levels that may have handles, a bit each.
    #[inline]
    pub fn levels(&self) -> u32 {
        self.levels.load(Ordering::Relaxed)
    }

    /// Puts a popped handle back before everything else of its level, so that the order of first hand-outs
    /// stays (G7).
    pub fn put_front(&self, priority: u8, handle: u32) {
        self.use_level(priority);
        let mut front = self.front.lock();
        front.entry(priority).or_default().push_front(handle);
        // Release: whoever sees the count finds the handle under the lock.
        self.front_len.fetch_add(1, Ordering::Release);
    }

    /// Takes handles of a level, those given back first; says how many. May take fewer than there are.
    #[inline]
    pub fn pop_ready(&self, pool: &ChunkPool, priority: u8, out: &mut [u32]) -> usize {
        if self.front_len.load(Ordering::Acquire) > 0 {
            let taken = self.pop_front(priority, out);
            if taken > 0 {
                return taken;
            }
        }
        self.ready.at(usize::from(priority)).pop(pool, out)
    }

    /// Takes handles in front of a level's ring for as long as `wanted` holds for them; says how many. Those given
    /// back to the front are left alone.
    pub fn pop_while(
        &self,
        pool: &ChunkPool,
        priority: u8,
        out: &mut [u32],
        wanted: impl Fn(u32) -> bool,
    ) -> usize {
        self.ready
            .at(usize::from(priority))
            .pop_accepted(pool, out, |found| {
                found.iter().take_while(|handle| wanted(**handle)).count()
            })
    }

    #[cold]
    fn pop_front(&self, priority: u8, out: &mut [u32]) -> usize {
        let mut front = self.front.lock();
        let Some(handles) = front.get_mut(&priority) else {
            return 0;
        };
        let taken = handles.len().min(out.len());
        out.iter_mut()
            .zip(handles.drain(..taken))
            .for_each(|(place, handle)| *place = handle);
        if handles.is_empty() {
            front.remove(&priority);
        }
        self.front_len.fetch_sub(taken as u64, Ordering::Relaxed);
        taken
    }

    /// Takes those of the handles given back to a level's front that are not wanted there.
    pub fn take_from_front(&self, priority: u8, is_unwanted: impl Fn(u32) -> bool) -> Vec<u32> {
        if self.front_len.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut front = self.front.lock();
        let Some(handles) = front.get_mut(&priority) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        handles.retain(|handle| {
            let is_unwanted = is_unwanted(*handle);
            if is_unwanted {
                taken.push(*handle);
            }
            !is_unwanted
        });
        if handles.is_empty() {
            front.remove(&priority);
        }
        self.front_len.fetch_sub(taken.len() as u64, Ordering::Relaxed);
        taken
    }

    /// Looks at handles of a level in the order in which they would be taken, and takes none.
    pub fn peek_ready(&self, pool: &ChunkPool, priority: u8, out: &mut [u32]) -> usize {
        let mut seen = 0;
        if self.front_len.load(Ordering::Acquire) > 0 {
            let front = self.front.lock();
            for handle in front.get(&priority).into_iter().flatten().take(out.len()) {
                out[seen] = *handle;
                seen += 1;
            }
        }
        seen + self.ready.at(usize::from(priority)).peek(pool, &mut out[seen..])
    }

    /// Whether no handle stands in any ready ring (there may be stale ones).
    pub fn looks_empty(&self, pool: &ChunkPool) -> bool {
        self.front_len.load(Ordering::Acquire) == 0
            && (0..PRIORITIES).all(|level| self.ready.at(level).is_empty(pool))
    }

    /// Remembers finished jobs and takes those out of `excess` that fall out of the retention; says how many.
    /// Called again while it fills `excess`. The caller then looks whether the queue
    /// [was deleted](Self::is_deleted) meanwhile, since nobody else may ever come to trim it.
    pub fn keep_finished(&self, pool: &ChunkPool, handles: &[u32], excess: &mut [u32]) -> usize {
        if !handles.is_empty() {
            push(self.finished.ring.by_ref(), pool, handles);
        }
        self.trim(pool, u64::from(self.options.keep_finished), handles.len(), excess)
    }

    /// Takes finished jobs out of `excess` until at most `keep` are left; says how many this call took.
    pub fn trim_finished(&self, pool: &ChunkPool, keep: u64, excess: &mut [u32]) -> usize {
        self.trim(pool, keep, 0, excess)
    }

    /// As [`trim_finished`](Self::trim_finished), after `more` were pushed.
    fn trim(&self, pool: &ChunkPool, keep: u64, more: usize, excess: &mut [u32]) -> usize {
        // One add, also of nothing, since it sees the latest count and orders those who come here: of a deletion
        // that trims and one who keeps a job at the same time, either the deletion counts the job, or the other
        // sees the deletion. AcqRel: who sees a count finds what was counted in the ring.
        let more = more as u64;
        let mut len = self.finished.len.fetch_add(more, Ordering::AcqRel) + more;
        let over = loop {
            let over = len.saturating_sub(keep).min(excess.len() as u64);
            if over == 0 {
                return 0;
            }
            // The right to evict first, so that two threads do not evict more than there is too much.
            match self
                .finished
                .len
                .compare_exchange(len, len - over, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => break over as usize,
                Err(now) => len = now,
            }
        };
        let mut taken = 0;
        // A pop may stop at the end of a chunk.
        while taken < over {
            match self.finished.ring.pop(pool, &mut excess[taken..over]) {
                0 => break,
                popped => taken += popped,
            }
        }
        if taken < over {
            debug_assert!(false, "what is counted is in the ring");
            self.finished
                .len
                .fetch_add((over - taken) as u64, Ordering::AcqRel);
        }
        taken
    }

    /// Whether handing out is paused.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Pauses or resumes handing out; says whether that changed anything.
    pub fn set_paused(&self, paused: bool) -> bool {
        self.paused.swap(paused, Ordering::AcqRel) != paused
    }

    /// Whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Deletes it; says whether it was this call that did.
    pub fn set_deleted(&self) -> bool {
        let was_deleted = self.deleted.swap(true, Ordering::AcqRel);
        self.counters.mark.set();
        !was_deleted
    }

    /// Announces a waiter before it looks a last time and sleeps. SeqCst pairs with [`waiters`](Self::waiters):
    /// either the waiter's last look finds the job, or the publisher finds the waiter.
    pub fn announce(&self, bits: u64) {
        self.waiting.fetch_or(bits, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The waiter no longer waits.
    pub fn retire(&self, bits: u64) {
        self.waiting.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Who waits; asked by whoever has just published jobs.
    pub fn waiters(&self) -> u64 {
        // SeqCst fence: the ring push before it and the load after it are not reordered (Dekker's pattern).
        fence(Ordering::SeqCst);
        self.waiting.load(Ordering::Relaxed)
    }

    /// The numbers for people.
    pub fn counts(&self) -> QueueCounts {
        self.counters.counts()
    }

    /// The durability that a confirmation of this queue stands for.
    pub fn durability(&self) -> Durability {
        self.options.durability
    }

    /// Where its definition stands in the log.
    pub fn defined_at(&self) -> LogPosition {
        LogPosition::from_raw(self.defined_at.load(Ordering::Acquire))
    }

    /// Its definition was logged there.
    pub fn set_defined_at(&self, at: LogPosition) {
        self.defined_at.store(at.raw(), Ordering::Release);
        self.counters.mark.set();
    }
}

/// Pushes where running out of chunks is a bug: the pool is sized for every slot at once (see `Engine::open`).
fn push(ring: RingRef<'_>, pool: &ChunkPool, handles: &[u32]) {
    if ring.push(pool, handles).is_err() {
        unreachable!("the chunk pool is smaller than the slab needs");
    }
}
