//! The free chunks: a lock-free FIFO after Michael and Scott ("Simple, Fast, and Practical Non-Blocking and
//! Blocking Concurrent Queue Algorithms", PODC 1996), taken and given in runs.
//!
//! First in, first out, so that a chunk's generation rises as slowly as it can. The nodes are the free chunks
//! themselves; their links stand in an array of their own, so that giving a chunk back does not touch its
//! cache lines. As in the original one node, the dummy, always stays: it is the chunk before the first free
//! one.
//!
//! ```text
//! head ──► dummy ──► free ──► free ──► free ◄── tail (may lag; whoever finds it lagging moves it on)
//! ```
//!
//! `head` and `tail` hold chunk ids. A chunk is given back once for each generation, so neither value ever
//! comes back (until 31 bits wrap), and an unchanged value means that nothing happened to it in between.

use crate::base::sync::{AtomicU64, Ordering, ZeroedWords, spin_hint};
use crate::ring::pause::{Point, point};
use crate::ring::word::{ChunkId, swap};
use crossbeam_utils::CachePadded;

/// Marks a link that has no successor yet, with the id of its own chunk, so that it belongs to one free time
/// only.
const LAST: u64 = 1 << 63;

/// Free chunks in the order in which they were given back.
pub(super) struct FreeQueue {
    head: CachePadded<AtomicU64>,
    tail: CachePadded<AtomicU64>,
    links: ZeroedWords,
}

impl FreeQueue {
    /// An empty queue for chunks with an index below `chunks`. `dummy` is a chunk that nobody else has.
    pub(super) fn new(chunks: usize, dummy: ChunkId) -> Self {
        let links = ZeroedWords::new(chunks);
        links.word(dummy.index()).store(LAST | dummy.0, Ordering::Relaxed);
        Self {
            head: CachePadded::new(AtomicU64::new(dummy.0)),
            tail: CachePadded::new(AtomicU64::new(dummy.0)),
            links,
        }
    }

    /// Takes up to `out.len()` chunks, each with its next generation; returns how many, 0 for none free.
    pub(super) fn take(&self, out: &mut [ChunkId]) -> usize {
        loop {
            let head = self.head.load(Ordering::Acquire);
            let tail = self.tail.load(Ordering::Acquire);
            if head == tail {
                // Nothing that the tail knows of: either nothing at all, or it lags.
                let link = self.link(ChunkId(head)).load(Ordering::Acquire);
                if link == LAST | head {
                    return 0;
                }
                if link & LAST == 0 {
                    self.move_tail(tail, link);
                }
                spin_hint();
                continue;
            }
            if let Some((count, end)) = self.read_run(head, tail, out) {
                point(Point::FreeBeforeTake);
                // Release: so that no link read above can be one that a later owner of the chunk writes.
                // (What the givers did before was acquired with the head and the links.)
                if swap(&self.head, head, end, Ordering::Release) {
                    return count;
                }
            }
            spin_hint();
        }
    }

    /// Reads the run that starts at `head` and never passes `tail`, which was the tail at some time after
    /// `head` was the head. If the head is still `head` afterwards then every link read lies between the two
    /// and is final. Returns how many, and the id of the last one as it was given, which becomes the dummy.
    ///
    /// The nodes handed out are the dummy and those behind it, except the last one reached.
    fn read_run(&self, head: u64, tail: u64, out: &mut [ChunkId]) -> Option<(usize, u64)> {
        let mut at = head;
        let mut count = 0;
        while count < out.len() && at != tail {
            // Acquire: pairs with the Release that set the link; what was done to the chunk before it was
            // given is over.
            let next = self.link(ChunkId(at)).load(Ordering::Acquire);
            if next & LAST != 0 {
                return None; // The head has moved on and this chunk is somewhere else by now.
            }
            out[count] = ChunkId(at).reused();
            count += 1;
            at = next;
        }
        (count > 0).then_some((count, at))
    }

    /// Gives chunks back, in that order.
    pub(super) fn give(&self, chunks: &[ChunkId]) {
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return;
        };
        for pair in chunks.windows(2) {
            self.link(pair[0]).store(pair[1].0, Ordering::Relaxed);
        }
        self.link(*last).store(LAST | last.0, Ordering::Relaxed);
        loop {
            let tail = self.tail.load(Ordering::Acquire);
            let link = self.link(ChunkId(tail)).load(Ordering::Acquire);
            if link == LAST | tail {
                point(Point::FreeBeforeLink);
                // Release: publishes the links above and everything done with the chunks before.
                if swap(self.link(ChunkId(tail)), link, first.0, Ordering::Release) {
                    point(Point::FreeBeforeTail);
                    self.move_tail(tail, last.0);
                    return;
                }
            } else if link & LAST == 0 {
                self.move_tail(tail, link);
            }
            spin_hint();
        }
    }

    /// Moves the tail on if it is still there. Failing is fine: then somebody else did.
    fn move_tail(&self, from: u64, to: u64) {
        // Release: whoever reads the new tail may read the link of that chunk, which must not be older.
        swap(&self.tail, from, to, Ordering::Release);
    }

    fn link(&self, chunk: ChunkId) -> &AtomicU64 {
        self.links.word(chunk.index())
    }
}
