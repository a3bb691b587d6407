//! Which jobs were confirmed and which were delivered: a bit a job, in blocks that are made as numbers get there.

use super::pace::Portion;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words of a block: 2^20 jobs, 128 KiB.
const BLOCK_WORDS: usize = 1 << 14;
/// Jobs of a block.
const BLOCK_JOBS: u64 = (BLOCK_WORDS * 64) as u64;
/// Most blocks: 2^32 jobs and 512 MiB. What comes behind is counted and not checked.
const BLOCKS_MAX: usize = 1 << 12;

type Block = Box<[AtomicU64]>;

/// A set of job numbers that many threads add to.
pub(super) struct Ledger {
    blocks: Vec<OnceLock<Block>>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            blocks: (0..BLOCKS_MAX).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Adds the numbers of the mask's bits in the word that holds `number`; returns those that were there before.
    fn mark(&self, number: u64, mask: u64) -> u64 {
        let Some(block) = self.blocks.get((number / BLOCK_JOBS) as usize) else {
            return 0;
        };
        let block = block.get_or_init(|| (0..BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect());
        let word = &block[(number % BLOCK_JOBS / 64) as usize];
        word.fetch_or(mask, Relaxed) & mask
    }

    /// Adds the numbers of a portion, of which none is there before.
    pub(super) fn add(&self, portion: Portion) {
        let mut marker = Marker::new(self);
        marker.add_new(portion);
        marker.finish();
    }

    /// How many numbers are in this set and not in the other.
    pub(super) fn missing_in(&self, other: &Ledger) -> u64 {
        let mut missing = 0;
        for (mine, others) in self.blocks.iter().zip(&other.blocks) {
            let Some(mine) = mine.get() else { continue };
            let others = others.get();
            for (index, word) in mine.iter().enumerate() {
                let there = others.map_or(0, |others| others[index].load(Relaxed));
                missing += u64::from((word.load(Relaxed) & !there).count_ones());
            }
        }
        missing
    }
}

/// Adds numbers that come mostly in a row: one atomic operation for up to 64 of them.
pub(super) struct Marker<'a> {
    ledger: &'a Ledger,
    /// The first number of the word that is being filled.
    base: u64,
    mask: u64,
    repeated: u64,
}

impl<'a> Marker<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        Self {
            ledger,
            base: 0,
            mask: 0,
            repeated: 0,
        }
    }

    #[inline]
    pub(super) fn add(&mut self, number: u64) {
        let base = number & !63;
        if base != self.base {
            self.write();
            self.base = base;
        }
        let bit = 1 << (number & 63);
        self.repeated += u64::from(self.mask & bit != 0);
        self.mask |= bit;
    }

    /// Adds the numbers of a portion, of which none is there before.
    pub(super) fn add_new(&mut self, portion: Portion) {
        let (mut number, end) = (portion.first, portion.first + portion.count as u64);
        while number < end {
            let base = number & !63;
            if base != self.base {
                self.write();
                self.base = base;
            }
            let count = (base + 64).min(end) - number;
            self.mask |= (u64::MAX >> (64 - count)) << (number - base);
            number += count;
        }
    }

    fn write(&mut self) {
        if self.mask != 0 {
            let before = self.ledger.mark(self.base, self.mask);
            self.repeated += u64::from(before.count_ones());
            self.mask = 0;
        }
    }

    /// Writes what is left, and returns how many numbers were added before.
    pub(super) fn finish(mut self) -> u64 {
        self.write();
        self.repeated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_and_repeats_are_counted_one_by_one() {
        let (sent, came) = (Ledger::new(), Ledger::new());
        let mut marker = Marker::new(&sent);
        marker.add_new(Portion { first: 60, count: 9 });
        marker.add_new(Portion { first: 69, count: 1 });
        assert_eq!(marker.finish(), 0);
        let mut marker = Marker::new(&came);
        [60, 61, 61, 65, 60]
            .into_iter()
            .for_each(|number| marker.add(number));
        assert_eq!(marker.finish(), 2);
        let mut marker = Marker::new(&came);
        marker.add(65);
        assert_eq!(marker.finish(), 1, "also across markers");
        assert_eq!(sent.missing_in(&came), 7);
        assert_eq!(came.missing_in(&sent), 0);
    }

    #[test]
    fn numbers_beyond_the_bound_take_no_memory() {
        let ledger = Ledger::new();
        let mut marker = Marker::new(&ledger);
        marker.add(u64::MAX);
        assert_eq!(marker.finish(), 0);
        assert_eq!(ledger.missing_in(&Ledger::new()), 0);
    }
}
