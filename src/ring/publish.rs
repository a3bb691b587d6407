//! The producer's side of the chained ring: finding its end and publishing there. The algorithm is told in
//! `chained.rs`.

use crate::base::sync::{AtomicU64, Ordering, spin_hint};
use crate::ring::PoolExhausted;
use crate::ring::chain::Chain;
use crate::ring::chained::RingRef;
use crate::ring::chunk::{CELLS, ChunkPool};
use crate::ring::pause::{Point, point};
use crate::ring::word::{Cell, ChunkId, Position, swap};

/// Cells that a push looks at before it goes from cell to cell, the last of them first. The tail tells the chunk and
/// stays as it is while singles fill that: nothing is written for a single but its cell, and nobody who pushes takes the
/// tail's cache line from another.
const PROBES: &[usize] = if cfg!(loom) { &[1] } else { &[9, 4] };

/// A cell of a chunk: where a producer looks.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    chunk: ChunkId,
    cell: usize,
}

impl RingRef<'_> {
    /// Appends one handle or two, which are `cell`.
    pub(super) fn push_cell(self, pool: &ChunkPool, handles: &[u32], cell: u64) -> Result<(), PoolExhausted> {
        if self.fill_at_tail(pool, cell) {
            Ok(())
        } else {
            self.publish(pool, handles, Some(cell))
        }
    }

    /// The usual way of a cell, made short: the tail's chunk is the last and has room. False if it was not
    /// so, or somebody came first; then nothing happened.
    #[inline]
    fn fill_at_tail(self, pool: &ChunkPool, filled: u64) -> bool {
        // Acquire: pairs with the Release of who moved the tail, so that the chunk's stamp is seen.
        let hint = Position(self.tail.load(Ordering::Acquire));
        let Some(chunk) = hint.chunk() else {
            return false;
        };
        let cells = pool.cells(chunk);
        let empty = Cell::empty(chunk.generation());
        match first_open(cells, hint.cell()) {
            Some((cell, word)) if word == empty && cell < CELLS - 1 && pool.is_current(chunk) => {
                point(Point::PushBeforePublish);
                // Release: what the caller did before is seen by who pops this.
                swap(&cells[cell], empty, filled, Ordering::Release)
            }
            _ => false,
        }
    }

    /// Appends the handles. `cell` is what they are as one cell, if they fit into one.
    pub(super) fn publish(
        self,
        pool: &ChunkPool,
        handles: &[u32],
        cell: Option<u64>,
    ) -> Result<(), PoolExhausted> {
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
                // Release: publishes the chain. The ring holds nothing, whether it was so all the time or
                // not.
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
                    if hint.chunk() != Some(at.chunk) {
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
    fn restart(self, pool: &ChunkPool) -> Option<Cursor> {
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

    /// Walks to the first EMPTY. `None` when the walk came into a chunk that had been given back, or to the
    /// end of a ring that was closed: start again at the head.
    ///
    /// `at` keeps a position's promise: the cells before it are DATA. It was read with Acquire from where it
    /// was published, so no cell is read as it was before its chunk's stamp.
    fn find_end(self, pool: &ChunkPool, mut at: Cursor) -> Option<Cursor> {
        loop {
            let (cell, word) = first_open(pool.cells(at.chunk), at.cell)?;
            at.cell = cell;
            if !pool.is_current(at.chunk) {
                return None;
            }
            match Cell::decode(word) {
                Cell::Link(ChunkId::NONE) => {
                    self.unhook(pool, Position::new(at.chunk, at.cell, false), at.chunk);
                    return None;
                }
                Cell::Link(next) => at = Cursor { chunk: next, cell: 0 },
                _ => return Some(at),
            }
        }
    }

    /// Moves the tail on unless somebody has moved it since it was `from`.
    ///
    /// It is only a hint, but it must never go back for long: the walk from it would grow without bound. A
    /// CAS from what was read makes every stale correction fail; whoever pushes next walks on from what is
    /// there, and corrects.
    fn correct_tail(self, from: Position, chunk: ChunkId, cell: usize) {
        let to = Position::new(chunk, cell, false);
        // Release: hands the stamp of the chunk on to who reads the tail.
        swap(self.tail, from.0, to.0, Ordering::Release);
    }
}

/// The first cell from `from` on that is not DATA, and its word. Within a generation cells fill in order, so one that
/// is DATA answers for all before it.
#[inline]
fn first_open(cells: &[AtomicU64; CELLS], from: usize) -> Option<(usize, u64)> {
    // Acquire: see `is_current`, which the caller asks; and for a LINK, the stamp of the next chunk.
    let look = |cell: usize| cells.get(cell).map(|word| word.load(Ordering::Acquire));
    let mut cell = from;
    for probe in PROBES {
        if *probe >= from && look(*probe).is_some_and(Cell::is_data) {
            cell = probe + 1;
            break;
        }
    }
    loop {
        let word = look(cell)?;
        if !Cell::is_data(word) {
            return Some((cell, word));
        }
        cell += 1;
    }
}
