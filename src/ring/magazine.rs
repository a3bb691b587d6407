//! Magazines: arrays of slot numbers that are copied in and out whole, on two stacks, one of full ones and
//! one of empty ones.

use crate::base::sync::{AtomicU32, Ordering, ZeroedWords};
use crate::ring::stack::Stack;
use crossbeam_utils::CachePadded;

/// Numbers in a magazine.
pub(super) const MAGAZINE: usize = if cfg!(loom) { 2 } else { 64 };
/// Words of a magazine: two numbers a word, the first to be handed out first.
const WORDS: usize = MAGAZINE / 2;

/// All magazines of a pool. A magazine is on one of the stacks, or nobody has used it yet, or somebody is
/// copying.
pub(super) struct Magazines {
    full: Stack,
    empty: Stack,
    links: ZeroedWords,
    words: ZeroedWords,
    /// The first magazine that was never used.
    fresh: CachePadded<AtomicU32>,
}

impl Magazines {
    pub(super) fn new(count: usize) -> Self {
        Self {
            full: Stack::new(),
            empty: Stack::new(),
            links: ZeroedWords::new(count),
            words: ZeroedWords::new(count * WORDS),
            fresh: CachePadded::new(AtomicU32::new(0)),
        }
    }

    /// Something that changes whenever a magazine is filled.
    pub(super) fn version(&self) -> u64 {
        self.full.version()
    }

    /// Empties a full magazine into the front of `out`; false if there is none.
    pub(super) fn take(&self, out: &mut [u32]) -> bool {
        let Some(magazine) = self.full.pop(&self.links) else {
            return false;
        };
        // Relaxed: the pop's Acquire has ordered them; nobody else has this magazine now.
        let words = self.words.slice(magazine as usize * WORDS, WORDS);
        for (pair, word) in out.chunks_exact_mut(2).zip(words) {
            let word = word.load(Ordering::Relaxed);
            pair[0] = word as u32;
            pair[1] = (word >> 32) as u32;
        }
        self.empty.push(&self.links, &[magazine]);
        true
    }

    /// Fills an empty magazine with `MAGAZINE` numbers; false if there is none.
    pub(super) fn give(&self, numbers: &[u32]) -> bool {
        debug_assert_eq!(numbers.len(), MAGAZINE);
        let Some(magazine) = self.empty.pop(&self.links).or_else(|| self.fresh()) else {
            return false;
        };
        // Relaxed: the push's Release publishes them.
        let words = self.words.slice(magazine as usize * WORDS, WORDS);
        for (pair, word) in numbers.chunks_exact(2).zip(words) {
            word.store(u64::from(pair[1]) << 32 | u64::from(pair[0]), Ordering::Relaxed);
        }
        self.full.push(&self.links, &[magazine]);
        true
    }

    fn fresh(&self) -> Option<u32> {
        let end = self.links.len() as u32;
        let bump = |fresh: u32| (fresh < end).then_some(fresh + 1);
        self.fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, bump)
            .ok()
    }
}
