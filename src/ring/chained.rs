//! The chained ring: an unbounded lock-free queue of handles, in batches.
//!
//! A ring is a chain of small chunks from a shared pool: linked bounded rings, the idea of LCRQ (Morrison and
//! Afek, "Fast Concurrent Queues for x86 Processors", PPoPP 2013) and LPRQ (Romanov and Koval, "The
//! State-of-the-Art LCRQ Concurrent Queue Algorithm Does NOT Require CAS2", PPoPP 2023), here with cells that
//! are filled by one CAS each. A batch is written into private chunks and published by **one** CAS that links
//! them; a pop reads first and then takes everything that it read by **one** CAS.
//!
//! ```text
//! head = chunk A, cell 2            tail = chunk B (a hint, may lag)
//!            ▼                               ▼
//! A: D D D D D LINK ──► B: D D D D D D LINK ──► C: D D D E E E E
//!                                                        ▲ the next push swaps this E
//! ```
//!
//! **Push** (`publish.rs`). Start at the tail's position, or at the head's when that is out of date. Go over
//! DATA, by strides, since it answers for all cells before it, and follow LINKs. The first EMPTY is the end of
//! the ring: swap it for DATA (one handle or two) or for a LINK to the private chain. The tail moves from chunk
//! to chunk only: a single costs one swap, that of its cell, as its pop costs one, that of the head. Whenever
//! something decisive was read, an EMPTY or a LINK, the chunk's header is checked *afterwards*:
//!
//! * A chunk may have been given back and begun a later generation at any moment. Stamping writes the header,
//!   then a Release fence, then the cells; cells are read with Acquire. So if any cell that was read belonged
//!   to a later generation, the header read after it shows that, and the producer starts again.
//! * Without the check after EMPTY, a producer may go over cells of a later generation, find an EMPTY of its
//!   own generation that has not been overwritten yet, and fill a cell that is then stamped away. Without the
//!   check after LINK, it may walk into another queue.
//! * If the check passes, every cell read was of this generation. Within a generation cells fill in order and
//!   each once, so EMPTY behind DATA, if the CAS still finds it, is the end of the last chunk; and the last
//!   chunk is never given back. EMPTY carries the generation, so the CAS cannot succeed later.
//!
//! **Pop.** Read the head, then cells, following LINKs, up to the first EMPTY; then swap the head. A head
//! value never comes back, so an unchanged head means that nothing that was read had been given back before;
//! the CAS releases, so nothing that happens to the chunks afterwards can have been read. If the CAS fails,
//! all is thrown away. The chunks that were crossed now belong to the popper, who gives them back.
//!
//! Nobody ever waits for anybody: every retry is caused by another operation that took effect.
//!
//! **Idle rings.** A ring that was never used is sixteen zero bytes. Once used, it holds its last chunk even
//! while it is empty, until [`Ring::release_idle`] closes it: a LINK to nothing in the first EMPTY, then head
//! back to 0.
//!
//! Handles of one caller come out in the order in which they went in. Batches of three or more begin a chunk
//! of their own.

use crate::base::sync::{AtomicU64, Ordering, spin_hint};
use crate::ring::PoolExhausted;
use crate::ring::chain::give_run;
use crate::ring::chunk::{CELLS, ChunkPool};
use crate::ring::pause::{Point, point};
use crate::ring::word::{Cell, ChunkId, HANDLE_MAX, Position, swap};

/// One ring, wherever its two words are: a [`Ring`](crate::ring::Ring), or one of [`Rings`](crate::ring::Rings).
///
/// All calls on one ring must name the same pool.
#[derive(Debug, Clone, Copy)]
pub struct RingRef<'r> {
    pub(super) head: &'r AtomicU64,
    pub(super) tail: &'r AtomicU64,
}

/// What a walk over handles found.
struct Found {
    count: usize,
    /// Where the walk stopped: the head after taking what was found.
    chunk: ChunkId,
    end: Position,
    /// What it stopped at, when it stopped before `out` was full.
    stop: Option<Stop>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The end of the ring.
    End,
    /// The end of a ring that was closed.
    Closed,
    /// A chunk that is used for something else by now.
    Stale,
}

impl RingRef<'_> {
    /// Appends `handles`, all or none of them, by one atomic step: nobody sees a part, and no other handle
    /// comes between two of them.
    ///
    /// # Errors
    /// [`PoolExhausted`] when the pool has no chunk for them. Nothing was appended.
    ///
    /// # Panics
    /// When a handle is greater than [`HANDLE_MAX`].
    pub fn push(self, pool: &ChunkPool, handles: &[u32]) -> Result<(), PoolExhausted> {
        // The top bit of one or the other is set exactly when a handle is above the largest one. (Compiles to few
        // instructions for many handles.)
        let bits = handles
            .iter()
            .fold(0, |bits, handle| bits | handle | handle.wrapping_add(1));
        assert!(bits >> 31 == 0, "handles above {HANDLE_MAX:#x} are reserved");
        match *handles {
            [] => Ok(()),
            [one] => self.push_cell(pool, handles, Cell::single(one)),
            [one, two] => self.push_cell(pool, handles, Cell::pair(one, two)),
            _ => self.publish(pool, handles, None),
        }
    }

    /// Takes up to `out.len()` handles in the order in which they were pushed; returns how many, 0 for an
    /// empty ring.
    #[inline]
    pub fn pop(self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        if let [place] = out
            && let Some(handle) = self.take_one(pool)
        {
            *place = handle;
            return 1;
        }
        self.pop_accepted(pool, out, |found| found.len())
    }

    /// The usual way of a single handle, made short: it is in the cell at the head or in the first one behind a
    /// link, and nobody comes first. `None` if it was not so; then nothing happened.
    #[inline]
    fn take_one(self, pool: &ChunkPool) -> Option<u32> {
        // The orderings, and why this holds, are those of `pop_accepted`.
        let head = Position(self.head.load(Ordering::Acquire));
        let chunk = head.chunk()?;
        let mut at = head;
        let mut word = pool.cells(chunk).get(head.cell())?.load(Ordering::Acquire);
        let mut crossed = None;
        if !Cell::is_data(word) {
            let Cell::Link(next) = Cell::decode(word) else {
                return None;
            };
            at = Position::new(Some(next).filter(|next| *next != ChunkId::NONE)?, 0, false);
            word = pool.cells(next)[0].load(Ordering::Acquire);
            if !Cell::is_data(word) {
                return None;
            }
            crossed = Some(chunk);
        }
        let handle = Cell::halves(word)[usize::from(at.half())];
        point(Point::PopBeforeTake);
        if !self.swap_head(head, at.behind_one(word)) {
            return None;
        }
        if let Some(chunk) = crossed {
            point(Point::PopBeforeGive);
            pool.give(&[chunk]);
        }
        Some(handle)
    }

    /// As [`pop`](Self::pop), but `accept` is shown the handles in front and says how many of them, from the first on,
    /// to take. It may be asked several times, and about handles that another thread then takes; what is returned
    /// was accepted by its last answer.
    ///
    /// # Panics
    /// When `accept` asks for more than it was shown.
    pub fn pop_accepted(
        self,
        pool: &ChunkPool,
        out: &mut [u32],
        mut accept: impl FnMut(&[u32]) -> usize,
    ) -> usize {
        if out.is_empty() {
            return 0;
        }
        loop {
            // Acquire: the cells from here on are at least as new as when the head came here.
            let head = Position(self.head.load(Ordering::Acquire));
            let Some(chunk) = head.chunk() else {
                return 0;
            };
            let mut found = walk(pool, head, chunk, out);
            if found.count > 0 {
                let accepted = accept(&out[..found.count]);
                if accepted < found.count {
                    if accepted == 0 {
                        // As in `peek`: an unchanged head means that what was shown was in front.
                        if found.stop != Some(Stop::Stale) && self.head.load(Ordering::Relaxed) == head.0 {
                            return 0;
                        }
                        spin_hint();
                        continue;
                    }
                    // The same walk again, to find where the accepted ones end. If the head is still there at the
                    // swap below, it found the same handles.
                    found = walk(pool, head, chunk, &mut out[..accepted]);
                    if found.count < accepted {
                        spin_hint();
                        continue;
                    }
                }
                assert!(
                    accepted >= found.count,
                    "more handles were accepted than were shown"
                );
                point(Point::PopBeforeTake);
                // Release: nothing done to the chunks after this can be among what was read above. Acquire:
                // what earlier poppers read happens before this thread gives chunks back.
                if self.swap_head(head, found.end) {
                    point(Point::PopBeforeGive);
                    if found.chunk != chunk {
                        give_run(pool, chunk, Some(found.chunk));
                    }
                    return found.count;
                }
            } else {
                match found.stop {
                    // EMPTY of the head's own generation, at the head: when it was read nothing had been
                    // filled there, and the head cannot pass what is not filled. So the ring was empty then.
                    Some(Stop::End) => return 0,
                    Some(Stop::Closed) => _ = self.unhook(pool, found.end, found.chunk),
                    // Crossed a link to an EMPTY or stale chunk: the head has moved on.
                    _ => {}
                }
            }
            spin_hint();
        }
    }

    /// Copies up to `out.len()` handles that a pop would take now and takes none; returns how many.
    pub fn peek(self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        if out.is_empty() {
            return 0;
        }
        loop {
            let head = Position(self.head.load(Ordering::Acquire));
            let Some(chunk) = head.chunk() else {
                return 0;
            };
            let found = walk(pool, head, chunk, out);
            // If anything that was read had been stamped after this head was left, then by the Acquire of
            // that read this load would see the head that left.
            if found.stop != Some(Stop::Stale) && self.head.load(Ordering::Relaxed) == head.0 {
                return found.count;
            }
            spin_hint();
        }
    }

    /// Whether a pop would find nothing now.
    pub fn is_empty(self, pool: &ChunkPool) -> bool {
        self.peek(pool, &mut [0]) == 0
    }

    /// Gives back the chunk that an empty ring holds, so that it costs nothing until the next push. Returns
    /// whether the ring holds no chunk now; false when it is not empty.
    ///
    /// Meant for rings that have been idle for a while: the next push takes a chunk again.
    pub fn release_idle(self, pool: &ChunkPool) -> bool {
        loop {
            let head = Position(self.head.load(Ordering::Acquire));
            let Some(chunk) = head.chunk() else {
                return true;
            };
            let found = walk(pool, head, chunk, &mut [0]);
            if found.count > 0 {
                if self.head.load(Ordering::Relaxed) == head.0 {
                    return false;
                }
            } else if found.chunk == chunk {
                // The head cannot pass an EMPTY cell, so if the swap finds it, the head is still there: a
                // ring that is closed is empty. Relaxed: a LINK to nothing publishes nothing.
                let place = &pool.cells(chunk)[head.cell()];
                let (empty, closed) = (Cell::empty(chunk.generation()), Cell::link(ChunkId::NONE));
                let is_closed = match found.stop {
                    Some(Stop::Closed) => true,
                    Some(Stop::End) => swap(place, empty, closed, Ordering::Relaxed),
                    _ => false,
                };
                if is_closed && self.unhook(pool, head, chunk) {
                    return true;
                }
            }
            spin_hint();
        }
    }

    /// Finishes the closing of a ring whose only chunk ends in a LINK to nothing, at `end`. False if somebody
    /// else did.
    pub(super) fn unhook(self, pool: &ChunkPool, end: Position, chunk: ChunkId) -> bool {
        point(Point::CloseBeforeUnhook);
        let is_mine = self.swap_head(end, Position(0));
        if is_mine {
            pool.give(&[chunk]);
        }
        is_mine
    }

    pub(super) fn swap_head(self, from: Position, to: Position) -> bool {
        swap(self.head, from.0, to.0, Ordering::AcqRel)
    }
}

/// Copies pairs for as long as they come and there is room for both of them; says how many cells. This is most of what
/// a pop of a batch does.
#[inline]
fn copy_pairs(cells: &[AtomicU64], out: &mut [u32]) -> usize {
    let (room, _) = out.as_chunks_mut::<2>();
    let mut count = 0;
    for (cell, room) in cells.iter().zip(room) {
        // Acquire: what the producer did before.
        let word = cell.load(Ordering::Acquire);
        if !Cell::is_data(word) || !Cell::is_pair(word) {
            break;
        }
        *room = Cell::halves(word);
        count += 1;
    }
    count
}

/// Copies handles from `head` on. What it finds holds only if the head is still `head` afterwards.
#[inline]
fn walk(pool: &ChunkPool, head: Position, mut chunk: ChunkId, out: &mut [u32]) -> Found {
    let mut cell = head.cell();
    let mut half = head.half();
    let mut count = 0;
    let mut cells = pool.cells(chunk);
    // A cell is mostly like the one before it.
    let mut expects_pairs = true;
    let stop = loop {
        if expects_pairs && !half {
            let pairs = copy_pairs(&cells[cell.min(CELLS)..], &mut out[count..]);
            cell += pairs;
            count += 2 * pairs;
        }
        let Some(room) = out.get_mut(count) else {
            break None;
        };
        let Some(place) = cells.get(cell) else {
            break Some(Stop::Stale);
        };
        // Acquire: for DATA, what the producer did before; for a LINK, the stamp of the next chunk.
        let word = place.load(Ordering::Acquire);
        if Cell::is_data(word) {
            *room = Cell::halves(word)[usize::from(half)];
            count += 1;
            expects_pairs = Cell::is_pair(word);
            half = expects_pairs && !half;
            cell += usize::from(!half);
            continue;
        }
        match Cell::decode(word) {
            Cell::Link(ChunkId::NONE) => break Some(Stop::Closed),
            Cell::Link(next) => {
                chunk = next;
                cells = pool.cells(chunk);
                cell = 0;
            }
            Cell::Empty { generation } if generation == chunk.generation() => break Some(Stop::End),
            _ => break Some(Stop::Stale),
        }
    };
    Found {
        count,
        chunk,
        end: Position::new(chunk, cell, half),
        stop,
    }
}
