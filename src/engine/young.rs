//! Leases that began lately: which slots have one, a bit each.
//!
//! A lease is not entered into the timer wheel when it begins. Its slot is marked here, and the timer, which comes every
//! tick, takes the marks and looks at the slots: most jobs are settled by then, and the wheel only sees leases that
//! last. A slot that is used again and again between two ticks has one mark all the while, so what a lease costs here is
//! mostly a bit that is set already.
//!
//! Marks are in words of 64. Whoever sets the first mark of a word puts the word's number into a ring, where the timer
//! finds it: a word is in the ring or in the hands of one timer while it has a mark, and nowhere else. So the ring never
//! holds more numbers than there are words.

use crate::base::sync::{Ordering, ZeroedWords};
use crate::ring::{ChunkPool, Ring};
use smallvec::SmallVec;

const WORD_BITS: u32 = u64::BITS;
/// Numbers of words that go into the ring or come out of it at once.
const WORDS_AT_ONCE: usize = 64;

/// The marks of all slots.
pub struct YoungLeases {
    words: ZeroedWords,
    /// Numbers of words that have marks.
    marked: Ring,
}

impl YoungLeases {
    /// No marks, for so many slots. Costs address space until used.
    pub fn new(slots: u32) -> Self {
        Self {
            words: ZeroedWords::new(Self::words_for(slots)),
            marked: Ring::default(),
        }
    }

    /// How many words, and so numbers in the ring at most, so many slots have.
    pub fn words_for(slots: u32) -> usize {
        slots.div_ceil(WORD_BITS) as usize
    }

    /// Marks slots whose leases have begun: their state words say so already. `pool` is the same at every call.
    #[inline]
    pub fn mark(&self, pool: &ChunkPool, slots: impl IntoIterator<Item = u32>) {
        let mut slots = slots.into_iter();
        let Some(first) = slots.next() else { return };
        let mut fresh: SmallVec<[u32; WORDS_AT_ONCE]> = SmallVec::new();
        let (mut word, mut marks) = place_of(first);
        for slot in slots {
            // Slots are taken in runs, so a mark mostly goes with the one before.
            let (same, mark) = place_of(slot);
            if same != word {
                self.set(word, marks, &mut fresh);
                (word, marks) = (same, 0);
            }
            marks |= mark;
        }
        self.set(word, marks, &mut fresh);
        if !fresh.is_empty() && self.marked.push(pool, &fresh).is_err() {
            unreachable!("the chunk pool is smaller than the slab needs");
        }
    }

    #[inline]
    fn set(&self, word: u32, marks: u64, fresh: &mut SmallVec<[u32; WORDS_AT_ONCE]>) {
        // AcqRel, and also where the marks are set already: if the timer takes this word later it has this, and what the
        // slots said before it (Release); if it took the word before, this finds no marks, and calls it again.
        if self.words.word(word as usize).fetch_or(marks, Ordering::AcqRel) == 0 {
            fresh.push(word);
        }
    }

    /// Takes all marks that are there when it begins, and perhaps some that come meanwhile, and shows the slot of each:
    /// how it stood when it was marked last, or later.
    pub fn take(&self, pool: &ChunkPool, mut show: impl FnMut(u32)) {
        // All of them before any mark is taken, so that no word comes twice and this has an end.
        let mut words: SmallVec<[u32; 4 * WORDS_AT_ONCE]> = SmallVec::new();
        let mut some = [0; WORDS_AT_ONCE];
        loop {
            match self.marked.pop(pool, &mut some) {
                0 => break,
                taken => words.extend_from_slice(&some[..taken]),
            }
        }
        for word in words {
            // AcqRel: see `set`.
            let mut marks = self.words.word(word as usize).swap(0, Ordering::AcqRel);
            while marks != 0 {
                show(word * WORD_BITS + marks.trailing_zeros());
                marks &= marks - 1;
            }
        }
    }
}

/// The word in which a slot has its mark, and the mark.
#[inline]
fn place_of(slot: u32) -> (u32, u64) {
    (slot / WORD_BITS, 1 << (slot % WORD_BITS))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn taken(young: &YoungLeases, pool: &ChunkPool) -> Vec<u32> {
        let mut taken = Vec::new();
        young.take(pool, |slot| taken.push(slot));
        taken.sort_unstable();
        taken
    }

    #[test]
    fn every_marked_slot_is_shown_once_however_often_it_was_marked() {
        let (young, pool) = (YoungLeases::new(1_000), ChunkPool::new(16));
        young.mark(&pool, []);
        assert!(taken(&young, &pool).is_empty());
        for _ in 0..3 {
            young.mark(&pool, [3, 2, 1, 64, 63, 999, 3]);
            young.mark(&pool, [2, 500]);
            assert_eq!(taken(&young, &pool), [1, 2, 3, 63, 64, 500, 999]);
            assert!(taken(&young, &pool).is_empty());
        }
    }

    #[test]
    fn slots_marked_without_end_take_no_more_room_than_there_are_words() {
        let slots = 64 * 300;
        // Chunks for the words, and no more: three to a chunk, and one for the ring's end.
        let pool = ChunkPool::new(YoungLeases::words_for(slots) / 3 + 2);
        let young = YoungLeases::new(slots);
        for round in 0..50 {
            (0..slots).for_each(|slot| young.mark(&pool, [(slot * 7 + round) % slots]));
        }
        assert_eq!(taken(&young, &pool).len(), slots as usize);
    }
}
