//! The pool of chunks that all rings of a process share.
//!
//! A chunk is a header and fifteen cells in two adjacent cache lines, 128 bytes. (Measured beside 256 bytes:
//! those are a tenth faster for singles and batches of 64 and a quarter for 256, equal or slower for 8; but
//! every ring in use and every small batch would cost twice as much, and there may be hundreds of thousands
//! of rings.) Chunks are named by `(generation, index)`; taking one from the pool begins its next generation.
//! Memory is taken from the operating system only as chunks are first used, so a large pool costs address
//! space.
//!
//! Chunks come from, in this order: the thread's shard (a few, so that most takes touch nothing shared),
//! never-used ones until a certain population circulates, the free queue (FIFO), never-used ones, and at last
//! the shards of other threads. No step waits for anybody.
//!
//! The population bounds how fast a generation can wrap: a thread would have to be paused inside one push or
//! pop while every chunk was reused 2^31 times, which at 20 million chunks a second takes more than a day,
//! and then find its chunk in exactly the generation in which it left it.

use crate::base::sync::{AtomicU64, Ordering, ZeroedWords, fence};
use crate::ring::free::FreeQueue;
use crate::ring::shard::{Held, Shards};
use crate::ring::word::{CHUNKS_MAX, Cell, ChunkId};
use crossbeam_utils::CachePadded;

/// Words of a chunk: the header and the cells. Tiny under loom, so that chunks fill and are reused in short
/// models.
pub(super) const WORDS: usize = if cfg!(loom) { 5 } else { 16 };
/// Cells of a chunk. The last one takes only a LINK.
pub(super) const CELLS: usize = WORDS - 1;
/// Handles that fit into one chunk.
pub(super) const HANDLES: usize = 2 * (CELLS - 1);

/// Chunks that circulate before the first one is used again.
const POPULATION: u64 = if cfg!(loom) { 0 } else { 1024 };
/// Chunks that move between a shard and the free queue at once; 0 switches the shards off, for small models.
const RUN: usize = if cfg!(loom) { 0 } else { 16 };

/// Chunks for all rings of a process, taken and given back without locks.
///
/// ```
/// use ackring::ring::{ChunkPool, Ring};
/// let pool = ChunkPool::new(1_000);
/// let ring = Ring::default();
/// ring.push(&pool, &[7, 8, 9])?;
/// let mut out = [0; 8];
/// assert_eq!(ring.pop(&pool, &mut out), 3);
/// assert_eq!(out[..3], [7, 8, 9]);
/// # Ok::<(), ackring::ring::PoolExhausted>(())
/// ```
pub struct ChunkPool {
    words: ZeroedWords,
    free: FreeQueue,
    /// Index of the first chunk that was never used.
    fresh: CachePadded<AtomicU64>,
    shards: Shards<Cache>,
    /// Chunks taken minus chunks given past the shards, wrapping.
    balance: CachePadded<AtomicU64>,
    chunks_max: usize,
}

/// What one shard holds, besides the count of chunks that left through it minus those that came back,
/// wrapping.
struct Cache {
    ready: Stock,
    spent: Stock,
    balance: AtomicU64,
}

/// Up to `RUN` chunk ids. Used only by who holds the shard.
struct Stock {
    len: AtomicU64,
    ids: [AtomicU64; RUN],
}

impl Stock {
    fn new() -> Self {
        Self {
            len: AtomicU64::new(0),
            ids: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Moves up to `out.len()` ids out; returns how many.
    #[inline]
    fn take(&self, out: &mut [ChunkId]) -> usize {
        let len = self.len.load(Ordering::Relaxed) as usize;
        let count = len.min(out.len());
        for (place, id) in out.iter_mut().zip(self.ids[..len].iter().rev()) {
            *place = ChunkId(id.load(Ordering::Relaxed));
        }
        self.len.store((len - count) as u64, Ordering::Relaxed);
        count
    }

    #[inline]
    fn take_one(&self) -> Option<ChunkId> {
        let last = (self.len.load(Ordering::Relaxed) as usize).checked_sub(1)?;
        let id = ChunkId(self.ids.get(last)?.load(Ordering::Relaxed));
        self.len.store(last as u64, Ordering::Relaxed);
        Some(id)
    }

    /// Takes ids in as far as there is room; returns how many.
    #[inline]
    fn put(&self, chunks: &[ChunkId]) -> usize {
        let len = self.len.load(Ordering::Relaxed) as usize;
        let count = chunks.len().min(RUN - len);
        for (place, id) in self.ids[len..].iter().zip(&chunks[..count]) {
            place.store(id.0, Ordering::Relaxed);
        }
        self.len.store((len + count) as u64, Ordering::Relaxed);
        count
    }
}

impl Cache {
    fn new() -> Self {
        Self {
            ready: Stock::new(),
            spent: Stock::new(),
            balance: AtomicU64::new(0),
        }
    }

    #[inline]
    fn count(&self, change: usize) {
        let balance = self.balance.load(Ordering::Relaxed);
        self.balance
            .store(balance.wrapping_add(change as u64), Ordering::Relaxed);
    }
}

impl ChunkPool {
    /// A pool of at most `chunks_max` chunks of 128 bytes. Nothing of it is touched yet.
    ///
    /// How many are enough: one for each ring that was used and not released, and one for each three handles
    /// (a batch of three begins a chunk of its own; singles and pairs share one), and a few for each thread
    /// that is inside an operation.
    ///
    /// # Panics
    /// When `chunks_max` is 2^28 or more.
    pub fn new(chunks_max: usize) -> Self {
        assert!(
            chunks_max < CHUNKS_MAX,
            "a ring's position has no room for more than 2^28 chunks"
        );
        // One more, which is the dummy of the free queue.
        let chunks = chunks_max + 1;
        Self {
            words: ZeroedWords::new(chunks * WORDS),
            free: FreeQueue::new(chunks, ChunkId::new(0, 0)),
            fresh: CachePadded::new(AtomicU64::new(1)),
            shards: Shards::new(Cache::new),
            balance: CachePadded::new(AtomicU64::new(0)),
            chunks_max,
        }
    }

    /// How many chunks rings hold: exact while nobody pushes or pops, otherwise a little behind or ahead.
    pub fn in_use(&self) -> usize {
        let start = self.balance.load(Ordering::Relaxed);
        let shards = self
            .shards
            .contents()
            .map(|cache| cache.balance.load(Ordering::Relaxed));
        let sum = shards.fold(start, u64::wrapping_add);
        // Counters read one after another may come out below zero for a moment.
        if sum as i64 > 0 { sum as usize } else { 0 }
    }

    /// How many chunks there can be.
    pub fn chunks_max(&self) -> usize {
        self.chunks_max
    }

    /// Header and cells of a chunk.
    #[inline]
    fn chunk(&self, id: ChunkId) -> &[AtomicU64; WORDS] {
        self.words.group(id.index() * WORDS)
    }

    /// The cells of a chunk.
    #[inline]
    pub(super) fn cells(&self, id: ChunkId) -> &[AtomicU64; CELLS] {
        let [_, cells @ ..] = self.chunk(id);
        cells
    }

    /// Whether the chunk still is of that generation.
    ///
    /// Asked *after* a cell was read with Acquire, a yes proves that the cell was of that generation too: a
    /// later generation stamps the header before any cell, with a Release fence in between.
    #[inline]
    pub(super) fn is_current(&self, id: ChunkId) -> bool {
        self.chunk(id)[0].load(Ordering::Relaxed) == u64::from(id.generation())
    }

    /// Writes a chunk that this thread has taken and nobody else can reach: the handles, then a LINK if
    /// `next` is given, then EMPTY.
    pub(super) fn stamp(&self, id: ChunkId, handles: &[u32], next: Option<ChunkId>) {
        debug_assert!(!handles.is_empty() && handles.len() <= HANDLES);
        let [header, cells @ ..] = self.chunk(id);
        header.store(u64::from(id.generation()), Ordering::Relaxed);
        // Orders the header before the cells for anyone who still reads this chunk in an earlier generation.
        fence(Ordering::Release);
        let (pairs, single) = handles.as_chunks::<2>();
        for (cell, [first, second]) in cells.iter().zip(pairs) {
            cell.store(Cell::pair(*first, *second), Ordering::Relaxed);
        }
        let single = single.first().map(|handle| Cell::single(*handle));
        let mut filled = pairs.len();
        for word in single.into_iter().chain(next.map(Cell::link)) {
            cells[filled].store(word, Ordering::Relaxed);
            filled += 1;
        }
        for cell in &cells[filled..] {
            cell.store(Cell::empty(id.generation()), Ordering::Relaxed);
        }
    }

    /// Takes one chunk, the usual way made short.
    #[inline]
    pub(super) fn take_one(&self) -> Option<ChunkId> {
        let own = if RUN > 0 { self.shards.own() } else { None };
        if let Some(own) = own
            && let Some(id) = own.ready.take_one()
        {
            own.count(1);
            return Some(id);
        }
        let mut one = [ChunkId::NONE];
        (self.take(&mut one) == 1).then_some(one[0])
    }

    /// Takes up to `out.len()` chunks; 0 when none is to be had.
    pub(super) fn take(&self, out: &mut [ChunkId]) -> usize {
        let own = if RUN > 0 { self.shards.own() } else { None };
        let Some(own) = own else {
            let count = self.take_shared(out);
            self.balance.fetch_add(count as u64, Ordering::Relaxed);
            return if count == 0 {
                self.take_from_any(out)
            } else {
                count
            };
        };
        let mut count = own.ready.take(out);
        if count < out.len() {
            count += self.refill(&own, &mut out[count..]);
        }
        own.count(count);
        drop(own);
        if count == 0 {
            self.take_from_any(out)
        } else {
            count
        }
    }

    /// Fills `out` from what the threads share, and the shard along with it when little is wanted.
    fn refill(&self, own: &Held<'_, Cache>, out: &mut [ChunkId]) -> usize {
        if out.len() >= RUN {
            return self.take_shared(out);
        }
        let mut run = [ChunkId::NONE; RUN];
        let count = self.take_shared(&mut run);
        let wanted = count.min(out.len());
        out[..wanted].copy_from_slice(&run[..wanted]);
        own.ready.put(&run[wanted..count]);
        wanted
    }

    fn take_shared(&self, out: &mut [ChunkId]) -> usize {
        if self.fresh.load(Ordering::Relaxed) < POPULATION {
            let count = self.take_fresh(out);
            if count > 0 {
                return count;
            }
        }
        match self.free.take(out) {
            0 => self.take_fresh(out),
            count => count,
        }
    }

    fn take_fresh(&self, out: &mut [ChunkId]) -> usize {
        let end = self.chunks_max as u64 + 1;
        let bump = |fresh: u64| (fresh < end).then(|| end.min(fresh + out.len() as u64));
        // Relaxed: the number is all there is to it; the memory behind it is zero for everyone.
        let Ok(first) = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, bump)
        else {
            return 0;
        };
        let count = out.len().min((end - first) as usize);
        for (place, index) in out[..count].iter_mut().zip(first..) {
            *place = ChunkId::new(1, index as u32);
        }
        count
    }

    /// The last resort: what lies in the shards. Also what was given back meanwhile.
    #[cold]
    fn take_from_any(&self, out: &mut [ChunkId]) -> usize {
        for cache in self.shards.each().flatten() {
            let ready = cache.ready.take(out);
            let count = ready + cache.spent.take(&mut out[ready..]);
            // These do not pass through the free queue, which is where a chunk's next generation begins
            // otherwise.
            out[ready..count].iter_mut().for_each(|id| *id = id.reused());
            if count > 0 {
                cache.count(count);
                return count;
            }
        }
        0
    }

    /// Gives chunks back, each once for each time it was taken, with the id that it was taken under.
    pub(super) fn give(&self, chunks: &[ChunkId]) {
        let own = if RUN > 0 { self.shards.own() } else { None };
        let Some(own) = own else {
            self.balance.fetch_sub(chunks.len() as u64, Ordering::Relaxed);
            return self.free.give(chunks);
        };
        own.count(chunks.len().wrapping_neg());
        if chunks.len() >= RUN {
            return self.free.give(chunks);
        }
        let count = own.spent.put(chunks);
        if count < chunks.len() {
            let mut run = [ChunkId::NONE; RUN];
            let full = own.spent.take(&mut run);
            self.free.give(&run[..full]);
            own.spent.put(&chunks[count..]);
        }
    }
}

impl std::fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("ChunkPool");
        f.field("in_use", &self.in_use())
            .field("chunks_max", &self.chunks_max)
            .finish()
    }
}
