//! How one 64-bit word says everything: cells, chunk ids and positions.
//!
//! | word | bits 63-62 | bits 61-31 | bits 30-0 |
//! |---|---|---|---|
//! | cell EMPTY | 0 | generation of its chunk | 0 |
//! | cell DATA | 1 | second handle, or all ones for none | first handle |
//! | cell LINK | 2 | generation of the next chunk, 0 for "closed" | index of the next chunk |
//! | chunk id | 0 | generation | index |
//!
//! Only EMPTY needs the generation of its own chunk: it is the one word that a producer swaps, so it is the
//! one that must never come back. That leaves 62 bits of a DATA cell, which is two handles: a pair is
//! published by the same one CAS as a single. And since the private part of a batch is written in the same
//! cells, no word of any generation can be taken for another kind than it is.

use crate::base::sync::{AtomicU64, Ordering};
use std::hint::cold_path;

/// Largest handle that a ring carries. (All ones of 31 bits means "none".)
pub const HANDLE_MAX: u32 = NONE - 1;

const NONE: u32 = 0x7fff_ffff;
const LOW: u64 = NONE as u64;
const KIND: u32 = 62;
const DATA: u64 = 1 << KIND;
const LINK: u64 = 2 << KIND;

/// Largest generation of a chunk; the one behind it is 1, since 0 means "nothing".
pub(super) const GENERATION_MAX: u32 = NONE;

/// The generation behind `generation`.
pub(super) fn next_generation(generation: u32) -> u32 {
    if generation == GENERATION_MAX {
        1
    } else {
        generation + 1
    }
}

/// Swaps `from` for `to` by one CAS; a failure orders nothing. Returns whether it was `from`.
#[inline]
pub(super) fn swap(word: &AtomicU64, from: u64, to: u64, success: Ordering) -> bool {
    word.compare_exchange(from, to, success, Ordering::Relaxed)
        .is_ok()
}

/// One use of one chunk: `(generation, index)`. Does not come back before the generation wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChunkId(pub(super) u64);

impl ChunkId {
    /// No chunk.
    pub(super) const NONE: ChunkId = ChunkId(0);

    pub(super) fn new(generation: u32, index: u32) -> Self {
        Self(u64::from(generation) << 31 | u64::from(index))
    }

    #[inline]
    pub(super) fn generation(self) -> u32 {
        (self.0 >> 31) as u32 & NONE
    }

    #[inline]
    pub(super) fn index(self) -> usize {
        (self.0 & LOW) as usize
    }

    /// The same chunk's next use.
    pub(super) fn reused(self) -> Self {
        Self(u64::from(next_generation(self.generation())) << 31 | self.0 & LOW)
    }
}

/// What a cell holds, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cell {
    /// Not filled yet in that generation.
    Empty { generation: u32 },
    /// One handle or two.
    Data { first: u32, second: Option<u32> },
    /// Nothing follows in this chunk: the ring goes on there. `ChunkId::NONE`: the ring was closed.
    Link(ChunkId),
}

impl Cell {
    #[inline]
    pub(super) fn empty(generation: u32) -> u64 {
        u64::from(generation) << 31
    }

    #[inline]
    pub(super) fn single(handle: u32) -> u64 {
        DATA | LOW << 31 | u64::from(handle)
    }

    #[inline]
    pub(super) fn pair(first: u32, second: u32) -> u64 {
        DATA | u64::from(second) << 31 | u64::from(first)
    }

    #[inline]
    pub(super) fn link(next: ChunkId) -> u64 {
        LINK | next.0
    }

    #[inline]
    pub(super) fn is_data(word: u64) -> bool {
        word >> KIND == DATA >> KIND
    }

    /// The handles of a cell of DATA. The second is not one if it [is no pair](Self::is_pair).
    #[inline]
    pub(super) fn halves(word: u64) -> [u32; 2] {
        [(word & LOW) as u32, (word >> 31 & LOW) as u32]
    }

    /// Whether a cell of DATA has a second handle.
    #[inline]
    pub(super) fn is_pair(word: u64) -> bool {
        word >> 31 & LOW != LOW
    }

    #[inline]
    pub(super) fn decode(word: u64) -> Self {
        let high = (word >> 31) as u32 & NONE;
        match word >> KIND {
            0 => Cell::Empty { generation: high },
            1 => Cell::Data {
                first: (word & LOW) as u32,
                second: (high != NONE).then_some(high),
            },
            2 => Cell::Link(ChunkId(word & !(3 << KIND))),
            _ => unreachable!("no cell is written with kind 3"),
        }
    }
}

/// Where a ring's head or tail stands: `generation 31 | index 28 | half cell 5`; 0 for a ring without chunks.
///
/// A position promises that every cell before it in its chunk is DATA of that generation (consumed or not).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position(pub(super) u64);

const HALF_BITS: u32 = 5;
const INDEX_BITS: u32 = 28;

/// How many chunks a position can tell apart.
pub(super) const CHUNKS_MAX: usize = 1 << INDEX_BITS;
/// How many cells of a chunk a position can tell apart.
pub(super) const CELLS_MAX: usize = 1 << (HALF_BITS - 1);

impl Position {
    #[inline]
    pub(super) fn new(chunk: ChunkId, cell: usize, half: bool) -> Self {
        debug_assert!(chunk.index() < CHUNKS_MAX && cell < CELLS_MAX);
        let place = (chunk.index() as u64) << HALF_BITS | (cell as u64) << 1 | u64::from(half);
        Self(u64::from(chunk.generation()) << (INDEX_BITS + HALF_BITS) | place)
    }

    /// The chunk, or `None` for a ring without chunks.
    #[inline]
    pub(super) fn chunk(self) -> Option<ChunkId> {
        let index = (self.0 >> HALF_BITS) & (CHUNKS_MAX as u64 - 1);
        let generation = self.0 >> (INDEX_BITS + HALF_BITS);
        (generation != 0).then_some(ChunkId(generation << 31 | index))
    }

    /// The cell in the chunk.
    #[inline]
    pub(super) fn cell(self) -> usize {
        (self.0 as usize >> 1) & (CELLS_MAX - 1)
    }

    /// Behind the one handle at this position, which is in `word`, a cell of DATA: from half to half, and over the
    /// half that a single handle leaves empty.
    ///
    /// A branch and no sum on purpose: a processor that guesses the branch has the next head before it has the cell,
    /// and pops of one, each of which waits for the head of the one before, wait for that only.
    #[inline]
    pub(super) fn behind_one(self, word: u64) -> Self {
        if Cell::is_pair(word) {
            cold_path();
            return Self(self.0 + 1);
        }
        Self(self.0 + 2)
    }

    /// Whether the first handle of the cell is already gone.
    #[inline]
    pub(super) fn half(self) -> bool {
        self.0 & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_reads_back_as_it_was_written() {
        for value in [0, 1, 77, HANDLE_MAX] {
            assert_eq!(
                Cell::decode(Cell::empty(value)),
                Cell::Empty { generation: value }
            );
            assert_eq!(
                Cell::decode(Cell::single(value)),
                Cell::Data {
                    first: value,
                    second: None
                }
            );
            for other in [0, 1, HANDLE_MAX] {
                let cell = Cell::Data {
                    first: value,
                    second: Some(other),
                };
                assert_eq!(Cell::decode(Cell::pair(value, other)), cell);
                let id = ChunkId::new(value, other);
                assert_eq!((id.generation(), id.index()), (value, other as usize));
                assert_eq!(Cell::decode(Cell::link(id)), Cell::Link(id));
            }
        }
    }

    #[test]
    fn a_step_over_one_handle_goes_to_the_second_half_or_to_the_next_cell() {
        let id = ChunkId::new(7, 9);
        let (pair, single) = (Cell::pair(1, 2), Cell::single(3));
        assert_eq!((Cell::halves(pair), Cell::is_pair(pair)), ([1, 2], true));
        assert_eq!((Cell::halves(single)[0], Cell::is_pair(single)), (3, false));
        let at = |cell, half| Position::new(id, cell, half);
        assert_eq!(at(4, false).behind_one(pair), at(4, true));
        assert_eq!(at(4, true).behind_one(pair), at(5, false));
        assert_eq!(at(4, false).behind_one(single), at(5, false));
    }

    #[test]
    fn untouched_memory_reads_as_empty_of_the_generation_that_never_is() {
        assert_eq!(Cell::decode(0), Cell::Empty { generation: 0 });
        assert_eq!(Position(0).chunk(), None);
        assert_eq!(next_generation(GENERATION_MAX), 1);
    }

    #[test]
    fn a_position_keeps_chunk_cell_and_half_apart() {
        for index in [0, 1, CHUNKS_MAX as u32 - 1] {
            for generation in [1, 2, GENERATION_MAX] {
                for cell in [0, 1, CELLS_MAX - 1] {
                    for half in [false, true] {
                        let id = ChunkId::new(generation, index);
                        let position = Position::new(id, cell, half);
                        assert_eq!(position.chunk(), Some(id));
                        assert_eq!((position.cell(), position.half()), (cell, half));
                    }
                }
            }
        }
    }
}
