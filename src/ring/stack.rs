//! A lock-free stack of numbers (R. K. Treiber, "Systems Programming: Coping with Parallelism", IBM RJ 5118,
//! 1986) with a tag in its head against ABA.
//!
//! The links stand in an array with one word for each number, so a number can be on one stack of that array
//! at a time, and nothing is ever allocated. The tag rises with every pop; a stale pop succeeds only if it
//! slept through exactly 2^33 pops and its number is on top again.

use crate::base::sync::{AtomicU64, Ordering, ZeroedWords, spin_hint};
use crate::ring::pause::{Point, point};
use crossbeam_utils::CachePadded;

/// Bits of a head that name the top: its number plus one, 0 for an empty stack. The rest is the tag.
const TOP_BITS: u32 = 31;
const TOP: u64 = (1 << TOP_BITS) - 1;

/// Numbers below the length of the links, last in, first out.
pub(super) struct Stack {
    head: CachePadded<AtomicU64>,
}

impl Stack {
    pub(super) fn new() -> Self {
        Self {
            head: CachePadded::new(AtomicU64::new(0)),
        }
    }

    /// A value that changes with every push and every pop.
    pub(super) fn version(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// Pushes all numbers by one step, the first one to be popped first. The caller owns them.
    pub(super) fn push(&self, links: &ZeroedWords, numbers: &[u32]) {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return;
        };
        for pair in numbers.windows(2) {
            links
                .word(pair[0] as usize)
                .store(u64::from(pair[1]) + 1, Ordering::Relaxed);
        }
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            links.word(*last as usize).store(head & TOP, Ordering::Relaxed);
            let new = head & !TOP | (u64::from(*first) + 1);
            point(Point::StackBeforeSwap);
            // Release: publishes the links above and what was done with the numbers before. What lies below
            // was published by earlier pushes, whose Release this swap carries on.
            match self
                .head
                .compare_exchange(head, new, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
            spin_hint();
        }
    }

    /// Pops the top, or `None` for an empty stack.
    pub(super) fn pop(&self, links: &ZeroedWords) -> Option<u32> {
        // Acquire: pairs with the Release of the push that made this the top.
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let top = u32::try_from(head & TOP).unwrap_or(0).checked_sub(1)?;
            // If the head does not change until the swap, then the top was on the stack and its link is
            // final. If it does, whatever was read here is thrown away.
            let below = links.word(top as usize).load(Ordering::Relaxed);
            let tag = (head & !TOP).wrapping_add(1 << TOP_BITS);
            point(Point::StackBeforeSwap);
            // Acquire: what the pushers did with the number before. Release: so that the link read above
            // cannot be one that a later owner of the number writes.
            match self
                .head
                .compare_exchange(head, tag | below, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(top),
                Err(now) => head = now,
            }
            spin_hint();
        }
    }
}

/// A stack with links of its own, for the models in `tests/loom`.
#[cfg(loom)]
pub struct LinkedStack {
    stack: Stack,
    links: ZeroedWords,
}

#[cfg(loom)]
impl LinkedStack {
    /// An empty stack for numbers below `numbers`.
    pub fn new(numbers: usize) -> Self {
        Self {
            stack: Stack::new(),
            links: ZeroedWords::new(numbers),
        }
    }

    /// See [`Stack::push`].
    pub fn push(&self, numbers: &[u32]) {
        self.stack.push(&self.links, numbers);
    }

    /// See [`Stack::pop`].
    pub fn pop(&self) -> Option<u32> {
        self.stack.pop(&self.links)
    }
}
