//! Which queues have changed since somebody looked at them: who sums up over a hundred thousand queues, several times a
//! second, looks at those and leaves the others in peace.

use crate::base::limits::QUEUES_MAX;
use crate::base::sync::{AtomicU64, Ordering, fence, model_fence};
use std::sync::Arc;

/// A model pays for each atomic.
const WORDS: usize = if cfg!(loom) { 1 } else { QUEUES_MAX / 64 };

/// A bit a queue, by number. One level and no lists: between a change and the moment at which whoever looks would find
/// it there is nothing that a thread could be stopped at, having promised others to do it for them.
pub struct Moved {
    words: [AtomicU64; WORDS],
}

impl Default for Moved {
    fn default() -> Self {
        Self {
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Moved {
    /// Takes the numbers below `end` of queues that have moved since they were taken last, in order. Whatever was
    /// changed before a mark that was taken is seen behind this, and what is changed later is marked again.
    pub fn take(&self, end: u32) -> Vec<u32> {
        let mut numbers = Vec::new();
        let words = (end as usize).div_ceil(64).min(WORDS);
        for (index, word) in self.words[..words].iter().enumerate() {
            // Most are zero for as long as their queues stand still, and stay in the caches of those who read them.
            if word.load(Ordering::SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::SeqCst);
            while bits != 0 {
                numbers.push(index as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        // Before the looks at the queues, see `Mark::touch`.
        fence(Ordering::SeqCst);
        numbers
    }

    /// Whether that queue has moved since it was taken last. What changed it before it was found not to have is what whoever
    /// took it has seen.
    #[inline]
    pub fn has(&self, number: u32) -> bool {
        let word = self.words.get((number / 64) as usize);
        word.is_none_or(|word| word.load(Ordering::SeqCst) & 1 << (number % 64) != 0)
    }
}

/// A queue's bit.
#[derive(Default)]
pub struct Mark {
    /// None while the queue has no place yet: it is marked when it gets one.
    moved: Option<Arc<Moved>>,
    /// Where the bit is, found once since it is looked at so often.
    word: u32,
    bit: u64,
}

impl Mark {
    /// That of the queue of that number.
    pub fn new(moved: Arc<Moved>, number: u32) -> Self {
        Self {
            moved: Some(moved),
            word: number / 64,
            bit: 1 << (number % 64),
        }
    }

    #[inline]
    fn word(&self) -> Option<&AtomicU64> {
        let moved = self.moved.as_ref()?;
        Some(&moved.words[self.word as usize % WORDS])
    }

    /// To be called after each change of what is looked at, by who changed it with a SeqCst read-modify-write. Where the
    /// mark is set already, as nearly always, that costs a load of a word that nobody writes.
    ///
    /// Dekker's pattern: who changes does so, and then looks for the mark; who looks takes the mark, and then looks at
    /// the queue behind a SeqCst fence. In the one order of all SeqCst accesses and fences either the mark is found
    /// missing, and is set again, or the change comes before the fence, and is seen. On x86 neither the change nor this
    /// load costs more than a relaxed one.
    #[inline]
    pub fn touch(&self) {
        let Some(word) = self.word() else { return };
        model_fence();
        if word.load(Ordering::SeqCst) & self.bit == 0 {
            self.set();
        }
    }

    /// As [`touch`](Self::touch) behind a change of any other kind.
    #[cold]
    pub fn set(&self) {
        if let Some(word) = self.word() {
            // AcqRel: who takes it sees the change; and where it was taken just before, it is there again.
            word.fetch_or(self.bit, Ordering::AcqRel);
        }
    }

    /// As [`Moved::take`] for this queue alone.
    pub fn clear(&self) {
        if let Some(word) = self.word() {
            word.fetch_and(!self.bit, Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }
}
