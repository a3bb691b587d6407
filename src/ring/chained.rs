//! The chained ring: an unbounded lock-free queue of handles, in batches.
//!
//! A ring is a chain of small chunks from a shared pool: linked bounded rings, the idea of LCRQ (Morrison and Afek,
//! "Fast Concurrent Queues for x86 Processors", PPoPP 2013) and LPRQ (Romanov and Koval, "The State-of-the-Art
//! LCRQ Concurrent Queue Algorithm Does NOT Require CAS2", PPoPP 2023), here with cells that are filled by one CAS
//! each. A batch is written into private chunks and published by **one** CAS that links them; a pop reads first
//! and then takes everything that it read by **one** CAS.
//!
//! ```text
//! head = chunk A, cell 2            tail = chunk B (a hint, may lag)
//!            ▼                               ▼
//! A: D D D D D LINK ──► B: D D D D D D LINK ──► C: D D D E E E E
//!                                                        ▲ the next push swaps this E
//! ```
//!
//! **Push.** Start at the tail's position, or at the head's when that is out of date. Go over DATA and follow LINKs.
//! The first EMPTY is the end of the ring: swap it for DATA (one handle or two) or for a LINK to the private chain.
//! Whenever something decisive was read, an EMPTY or a LINK, the chunk's header is checked *afterwards*:
//!
//! * A chunk may have been given back and begun a later generation at any moment. Stamping writes the header, then a
//!   Release fence, then the cells; cells are read with Acquire. So if any cell that was read belonged to a later
//!   generation, the header read after it shows that, and the producer starts again.
//! * Without the check after EMPTY, a producer may go over cells of a later generation, find an EMPTY of its own
//!   generation that has not been overwritten yet, and fill a cell that is then stamped away. Without the check after
//!   LINK, it may walk into another queue.
//! * If the check passes, every cell read was of this generation. Within a generation cells fill in order and each
//!   once, so EMPTY behind DATA, if the CAS still finds it, is the end of the last chunk; and the last chunk is never
//!   given back. EMPTY carries the generation, so the CAS cannot succeed later.
//!
//! **Pop.** Read the head, then cells, following LINKs, up to the first EMPTY; then swap the head. A head value never
//! comes back, so an unchanged head means that nothing that was read had been given back before; the CAS releases,
//! so nothing that happens to the chunks afterwards can have been read. If the CAS fails, all is thrown away.
//! The chunks that were crossed now belong to the popper, who gives them back.
//!
//! Nobody ever waits for anybody: every retry is caused by another operation that took effect.
//!
//! **Idle rings.** A ring that was never used is sixteen zero bytes. Once used, it holds its last chunk even while it
//! is empty, until [`Ring::release_idle`] closes it: a LINK to nothing in the first EMPTY, then head back to 0.
//!
//! Handles of one caller come out in the order in which they went in. Batches of three or more begin a chunk of
//! their own.

use crate::base::sync::{AtomicU64, Ordering, spin_hint};
use crate::ring::PoolExhausted;
use crate::ring::chain::{Chain, give_run};
use crate::ring::chunk::{CELLS, ChunkPool};
use crate::ring::pause::{Point, point};
use crate::ring::word::{Cell, ChunkId, HANDLE_MAX, Position, swap};

/// Cells by which the tail may lag behind in its chunk before a push corrects it.
const TAIL_LAG: usize = 4;

/// A lock-free FIFO of handles for any number of producers and consumers.
///
/// All calls on one ring must name the same pool.
#[derive(Debug, Default)]
pub struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
}

/// A cell of a chunk: where a producer looks.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    chunk: ChunkId,
    cell: usize,
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

impl Ring {
    /// A ring that holds nothing, not even a chunk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `handles`, all or none of them, by one atomic step: nobody sees a part, and no other handle comes
    /// between two of them.
    ///
    /// # Errors
    /// [`PoolExhausted`] when the pool has no chunk for them. Nothing was appended.
    ///
    /// # Panics
    /// When a handle is greater than [`HANDLE_MAX`].
    pub fn push(&self, pool: &ChunkPool, handles: &[u32]) -> Result<(), PoolExhausted> {
        let legal = handles
            .iter()
            .fold(true, |legal, handle| legal & (*handle <= HANDLE_MAX));
        assert!(legal, "handles above {HANDLE_MAX:#x} are reserved");
        match *handles {
            [] => Ok(()),
            [one] => self.push_cell(pool, handles, Cell::single(one)),
            [one, two] => self.push_cell(pool, handles, Cell::pair(one, two)),
            _ => self.publish(pool, handles, None),
        }
    }

    fn push_cell(&self, pool: &ChunkPool, handles: &[u32], cell: u64) -> Result<(), PoolExhausted> {
        if self.fill_at_tail(pool, cell) {
            Ok(())
        } else {
            self.publish(pool, handles, Some(cell))
        }
    }

    /// The usual way of a cell, made short: the tail's chunk is the last and has room. False if it was not so, or
    /// somebody came first; then nothing happened.
    #[inline]
    fn fill_at_tail(&self, pool: &ChunkPool, word: u64) -> bool {
        // Acquire: pairs with the Release of who moved the tail, so that the chunk's stamp is seen.
        let hint = Position(self.tail.load(Ordering::Acquire));
        let Some(chunk) = hint.chunk() else {
            return false;
        };
        let empty = Cell::empty(chunk.generation());
        for (cell, place) in pool.cells(chunk)[..CELLS - 1]
            .iter()
            .enumerate()
            .skip(hint.cell())
        {
            // Acquire: see `is_current`.
            let seen = place.load(Ordering::Acquire);
            if seen == empty {
                if !pool.is_current(chunk) {
                    return false;
                }
                point(Point::PushBeforePublish);
                // Release: what the caller did before is seen by who pops this.
                let filled = swap(place, empty, word, Ordering::Release);
                if filled && cell >= hint.cell() + TAIL_LAG {
                    self.correct_tail(hint, chunk, cell);
                }
                return filled;
            }
            if !Cell::is_data(seen) {
                return false;
            }
        }
        false
    }

    /// Takes up to `out.len()` handles in the order in which they were pushed; returns how many, 0 for an empty ring.
    #[inline]
    pub fn pop(&self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        self.pop_accepted(pool, out, |found| found.len())
    }

    /// As [`pop`](Self::pop), but `accept` is shown the handles in front and says how many of them, from the first on,
    /// to take. It may be asked several times, and about handles that another thread then takes; what is returned
    /// was accepted by its last answer.
    ///
    /// # Panics
    /// When `accept` asks for more than it was shown.
    pub fn pop_accepted(
        &self,
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
                // Release: nothing done to the chunks after this can be among what was read above. Acquire: what
                // earlier poppers read happens before this thread gives chunks back.
                if self.swap_head(head, found.end) {
                    point(Point::PopBeforeGive);
                    if found.chunk != chunk {
                        give_run(pool, chunk, Some(found.chunk));
                    }
                    return found.count;
                }
            } else {
                match found.stop {
                    // EMPTY of the head's own generation, at the head: when it was read nothing had been filled
                    // there, and the head cannot pass what is not filled. So the ring was empty then.
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
    pub fn peek(&self, pool: &ChunkPool, out: &mut [u32]) -> usize {
        if out.is_empty() {
            return 0;
        }
        loop {
            let head = Position(self.head.load(Ordering::Acquire));
            let Some(chunk) = head.chunk() else {
                return 0;
            };
            let found = walk(pool, head, chunk, out);
            // If anything that was read had been stamped after this head was left, then by the Acquire of that read
            // this load would see the head that left.
            if found.stop != Some(Stop::Stale) && self.head.load(Ordering::Relaxed) == head.0 {
                return found.count;
            }
            spin_hint();
        }
    }

    /// Whether a pop would find nothing now.
    pub fn is_empty(&self, pool: &ChunkPool) -> bool {
        self.peek(pool, &mut [0]) == 0
    }

    /// Gives back the chunk that an empty ring holds, so that it costs nothing until the next push. Returns whether
    /// the ring holds no chunk now; false when it is not empty.
    ///
    /// Meant for rings that have been idle for a while: the next push takes a chunk again.
    pub fn release_idle(&self, pool: &ChunkPool) -> bool {
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
                // The head cannot pass an EMPTY cell, so if the swap finds it, the head is still there: a ring that
                // is closed is empty. Relaxed: a LINK to nothing publishes nothing.
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

    /// Appends the handles. `cell` is what they are as one cell, if they fit into one.
    fn publish(&self, pool: &ChunkPool, handles: &[u32], cell: Option<u64>) -> Result<(), PoolExhausted> {
        let mut chain = match cell {
            Some(_) => None,
            None => Some(Chain::build(pool, handles)?),
        };
        // Acquire: pairs with the Release of who moved the tail, so that the chunk's stamp is seen.
        let hint = Position(self.tail.load(Ordering::Acquire));
        let mut cursor = hint.chunk().map(|chunk| Cursor {
            chunk,
            cell: hint.cell(),
        });
        loop {
            cursor = match cursor.and_then(|cursor| self.find_end(pool, cursor)) {
                Some(end) => Some(end),
                None => self.restart(pool),
            };
            let private = |chain: &mut Option<Chain>| match *chain {
                Some(chain) => Ok(chain),
                None => Chain::build(pool, handles).inspect(|built| *chain = Some(*built)),
            };
            let Some(at) = cursor else {
                let chain = private(&mut chain)?;
                point(Point::PushBeforePublish);
                // Release: publishes the chain. The ring holds nothing, whether it was so all the time or not.
                if self.swap_head(Position(0), Position::new(chain.first, 0, false)) {
                    self.correct_tail(hint, chain.last, chain.last_cells);
                    return Ok(());
                }
                continue;
            };
            let place = &pool.cells(at.chunk)[at.cell];
            let empty = Cell::empty(at.chunk.generation());
            if let (Some(word), true) = (cell, at.cell < CELLS - 1) {
                point(Point::PushBeforePublish);
                // Release: what the caller did before is seen by who pops this.
                if swap(place, empty, word, Ordering::Release) {
                    point(Point::PushBeforeTail);
                    if hint.chunk() != Some(at.chunk) || at.cell >= hint.cell() + TAIL_LAG {
                        self.correct_tail(hint, at.chunk, at.cell);
                    }
                    if let Some(unused) = chain {
                        unused.give_back(pool);
                    }
                    return Ok(());
                }
            } else {
                let chain = private(&mut chain)?;
                point(Point::PushBeforePublish);
                let link = Cell::link(chain.first);
                // Release: publishes the chain with the whole batch.
                if swap(place, empty, link, Ordering::Release) {
                    point(Point::PushBeforeTail);
                    self.correct_tail(hint, chain.last, chain.last_cells);
                    return Ok(());
                }
            }
            // Somebody else filled the cell: the end is further on. Look again from there.
            spin_hint();
        }
    }

    /// The end of the ring, found from the head; `None` for a ring without chunks.
    fn restart(&self, pool: &ChunkPool) -> Option<Cursor> {
        loop {
            let head = Position(self.head.load(Ordering::Acquire));
            let chunk = head.chunk()?;
            if let Some(end) = self.find_end(
                pool,
                Cursor {
                    chunk,
                    cell: head.cell(),
                },
            ) {
                return Some(end);
            }
            spin_hint();
        }
    }

    /// Walks to the first EMPTY. `None` when the walk came into a chunk that had been given back, or to the end of a
    /// ring that was closed: start again at the head.
    ///
    /// `at` keeps a position's promise: the cells before it are DATA. It was read with Acquire from where it was
    /// published, so no cell is read as it was before its chunk's stamp.
    fn find_end(&self, pool: &ChunkPool, mut at: Cursor) -> Option<Cursor> {
        loop {
            let cells = pool.cells(at.chunk);
            let decisive = loop {
                // Acquire: see `is_current`; and for a LINK, the stamp of the next chunk.
                match Cell::decode(cells.get(at.cell)?.load(Ordering::Acquire)) {
                    Cell::Data { .. } => at.cell += 1,
                    other => break other,
                }
            };
            if !pool.is_current(at.chunk) {
                return None;
            }
            match decisive {
                Cell::Link(ChunkId::NONE) => {
                    self.unhook(pool, Position::new(at.chunk, at.cell, false), at.chunk);
                    return None;
                }
                Cell::Link(next) => at = Cursor { chunk: next, cell: 0 },
                _ => return Some(at),
            }
        }
    }

    /// Finishes the closing of a ring whose only chunk ends in a LINK to nothing, at `end`. False if somebody else did.
    fn unhook(&self, pool: &ChunkPool, end: Position, chunk: ChunkId) -> bool {
        point(Point::CloseBeforeUnhook);
        let is_mine = self.swap_head(end, Position(0));
        if is_mine {
            pool.give(&[chunk]);
        }
        is_mine
    }

    fn swap_head(&self, from: Position, to: Position) -> bool {
        swap(&self.head, from.0, to.0, Ordering::AcqRel)
    }

    /// Moves the tail on unless somebody has moved it since it was `from`.
    ///
    /// It is only a hint, but it must never go back for long: the walk from it would grow without bound. A CAS from
    /// what was read makes every stale correction fail; whoever pushes next walks on from what is there, and corrects.
    fn correct_tail(&self, from: Position, chunk: ChunkId, cell: usize) {
        let to = Position::new(chunk, cell, false);
        // Release: hands the stamp of the chunk on to who reads the tail.
        swap(&self.tail, from.0, to.0, Ordering::Release);
    }
}

#[inline(always)]
/// Copies handles from `head` on. What it finds holds only if the head is still `head` afterwards.
fn walk(pool: &ChunkPool, head: Position, mut chunk: ChunkId, out: &mut [u32]) -> Found {
    let mut cell = head.cell();
    let mut half = head.half();
    let mut count = 0;
    let mut cells = pool.cells(chunk);
    let stop = loop {
        if count == out.len() {
            break None;
        }
        let Some(place) = cells.get(cell) else {
            break Some(Stop::Stale);
        };
        // Acquire: for DATA, what the producer did before; for a LINK, the stamp of the next chunk.
        match Cell::decode(place.load(Ordering::Acquire)) {
            Cell::Data { first, second } => {
                if !half {
                    out[count] = first;
                    count += 1;
                }
                match second {
                    Some(_) if count == out.len() && !half => {
                        half = true;
                        break None;
                    }
                    Some(second) => {
                        out[count] = second;
                        count += 1;
                    }
                    None => {}
                }
                half = false;
                cell += 1;
            }
            Cell::Link(ChunkId::NONE) => break Some(Stop::Closed),
            Cell::Link(next) => {
                chunk = next;
                cells = pool.cells(chunk);
                cell = 0;
            }
            Cell::Empty { generation } if generation == chunk.generation() => break Some(Stop::End),
            Cell::Empty { .. } => break Some(Stop::Stale),
        }
    };
    Found {
        count,
        chunk,
        end: Position::new(chunk, cell, half),
        stop,
    }
}
