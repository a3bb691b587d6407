//! Chains: the private chunks of a batch, built before anyone can see them and published by one CAS.

use crate::base::sync::Ordering;
use crate::ring::PoolExhausted;
use crate::ring::chunk::{CELLS, ChunkPool, HANDLES};
use crate::ring::word::{Cell, ChunkId};

/// Chunks that are taken or given back at once.
const RUN: usize = 16;

/// Linked chunks full of handles, the last one with room behind them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    pub(super) first: ChunkId,
    pub(super) last: ChunkId,
    /// Cells of the last chunk that hold handles.
    pub(super) last_cells: usize,
}

impl Chain {
    /// Writes `handles` into chunks of their own. All or nothing.
    pub(super) fn build(pool: &ChunkPool, handles: &[u32]) -> Result<Self, PoolExhausted> {
        debug_assert!(!handles.is_empty());
        if handles.len() <= HANDLES {
            let id = pool.take_one().ok_or(PoolExhausted)?;
            pool.stamp(id, handles, None);
            return Ok(Chain {
                first: id,
                last: id,
                last_cells: handles.len().div_ceil(2),
            });
        }
        // Every chunk but the last is full. Built from the end, so that each knows its successor.
        let mut rest = handles.len();
        let mut ids = [ChunkId::NONE; RUN];
        let mut chain: Option<Chain> = None;
        while rest > 0 {
            let wanted = rest.div_ceil(HANDLES).min(RUN);
            let count = pool.take(&mut ids[..wanted]);
            if count == 0 {
                if let Some(chain) = chain {
                    chain.give_back(pool);
                }
                return Err(PoolExhausted);
            }
            for id in &ids[..count] {
                let start = (rest - 1) / HANDLES * HANDLES;
                pool.stamp(*id, &handles[start..rest], chain.map(|chain| chain.first));
                let alone = Chain {
                    first: *id,
                    last: *id,
                    last_cells: (rest - start).div_ceil(2),
                };
                chain = Some(chain.map_or(alone, |chain| Chain { first: *id, ..chain }));
                rest = start;
            }
        }
        chain.ok_or_else(|| unreachable!("a chain was asked for without handles"))
    }

    /// Returns a chain that was never published.
    pub(super) fn give_back(self, pool: &ChunkPool) {
        give_run(pool, self.first, None);
    }
}

/// Gives back the chunks from `first` on, without `end`, or all when there is no end. The caller owns them:
/// they are out of everyone's reach, except for threads that will find that they came too late.
pub(super) fn give_run(pool: &ChunkPool, first: ChunkId, end: Option<ChunkId>) {
    let mut ids = [ChunkId::NONE; RUN];
    let mut count = 0;
    let mut at = Some(first).filter(|first| Some(*first) != end);
    while let Some(id) = at {
        // The link is read before the chunk goes, and with it the right to look.
        at = successor(pool, id).filter(|next| Some(*next) != end);
        ids[count] = id;
        count += 1;
        if count == RUN || at.is_none() {
            pool.give(&ids[..count]);
            count = 0;
        }
    }
}

/// Where a chunk links to.
fn successor(pool: &ChunkPool, id: ChunkId) -> Option<ChunkId> {
    let cells = pool.cells(id);
    // Relaxed: the caller owns the chunk and has met its cells before.
    let link = |index: usize| match Cell::decode(cells[index].load(Ordering::Relaxed)) {
        Cell::Link(next) if next != ChunkId::NONE => Some(next),
        _ => None,
    };
    // Full chunks have it at the end.
    link(CELLS - 1).or_else(|| (0..CELLS - 1).find_map(link))
}
