//! The free list of slot numbers.
//!
//! Those who enqueue take slots on one thread, those who ack give them back on another; that case decides. So
//! slots move in **magazines** (Bonwick and Adams, "Magazines and Vmem: Extending the Slab Allocator to Many
//! CPUs and Arbitrary Resources", USENIX 2001): arrays of 64 numbers that are copied in and out, and never
//! links through the slots themselves, which would chase cache lines that are dirty elsewhere.
//!
//! ```text
//! thread's shard (up to 128 numbers)  ──full: 64 at once──►  full magazines (stack)
//!                                     ◄──empty: 64 at once──
//!                                     ◄──none full──────────  loose numbers (stack), then never-used ones
//! ```
//!
//! * **Shards** make most operations touch nothing shared. Their order is last in, first out, and so is that
//!   of the magazines: warm slots are used again first, and slots never used stay untouched until nothing
//!   else is left.
//! * **Loose numbers** are what does not fit into this scheme: a thread that finds its shard busy, or no
//!   magazine to put 64 numbers into, links them one by one. That is slow and needs no room; it is the reason
//!   why nothing here ever waits for a paused thread.
//! * **Nothing in the stacks is not "full"**: when all else is empty, a taker looks into everybody's shard.

use crate::base::limits::SLOTS_MAX;
use crate::base::sync::{AtomicU32, AtomicU64, Ordering, ZeroedWords, spin_hint};
use crate::ring::magazine::{MAGAZINE, Magazines};
use crate::ring::shard::{Held, SHARDS, Shards};
use crate::ring::stack::Stack;
use crossbeam_utils::CachePadded;

/// Numbers that a shard holds: two magazines, so that one that is full or empty is half way to either.
const SHARD: usize = 2 * MAGAZINE;
/// How often a taker looks again when it found nothing and somebody held a shard.
const BUSY_ROUNDS: usize = 16;

/// Slot numbers that are free: taken and given in batches, without locks.
///
/// ```
/// use ackring::ring::SlotPool;
/// let slots = SlotPool::new(1_000);
/// let mut mine = [0; 3];
/// assert_eq!(slots.take(&mut mine), 3);
/// assert_eq!(mine, [0, 1, 2]);
/// slots.give(&mine);
/// ```
pub struct SlotPool {
    slots: u32,
    /// The first number that was never handed out.
    fresh: CachePadded<AtomicU32>,
    /// Numbers that are in no magazine.
    loose: Stack,
    loose_links: ZeroedWords,
    magazines: Magazines,
    shards: Shards<Cache>,
}

/// The numbers of one shard, the warmest last. Used only by who holds the shard.
struct Cache {
    len: AtomicU32,
    /// Times that numbers were put in here.
    puts: AtomicU64,
    numbers: [AtomicU32; SHARD],
}

impl Cache {
    fn new() -> Self {
        let numbers = std::array::from_fn(|_| AtomicU32::new(0));
        Self {
            len: AtomicU32::new(0),
            puts: AtomicU64::new(0),
            numbers,
        }
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed) as usize
    }

    fn set_len(&self, len: usize) {
        self.len.store(len as u32, Ordering::Relaxed);
    }

    /// Moves numbers out, the warmest first; returns how many.
    fn take(&self, out: &mut [u32]) -> usize {
        let len = self.len();
        let count = len.min(out.len());
        for (place, number) in out.iter_mut().zip(self.numbers[..len].iter().rev()) {
            *place = number.load(Ordering::Relaxed);
        }
        self.set_len(len - count);
        count
    }

    /// Moves the colder half of a full shard out, its warmest first.
    fn spill(&self) -> [u32; MAGAZINE] {
        debug_assert_eq!(self.len(), SHARD);
        let (cold, warm) = self.numbers.split_at(MAGAZINE);
        let mut out = [0; MAGAZINE];
        for ((place, cold), warm) in out.iter_mut().rev().zip(cold).zip(warm) {
            *place = cold.load(Ordering::Relaxed);
            cold.store(warm.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.set_len(MAGAZINE);
        out
    }

    /// Takes numbers in as far as there is room; returns how many.
    fn put(&self, numbers: &[u32]) -> usize {
        let len = self.len();
        let count = numbers.len().min(SHARD - len);
        for (place, number) in self.numbers[len..].iter().zip(&numbers[..count]) {
            place.store(*number, Ordering::Relaxed);
        }
        self.set_len(len + count);
        self.puts.store(
            self.puts.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        count
    }
}

impl SlotPool {
    /// All numbers below `slots`, none of them used yet. Costs address space until they are.
    ///
    /// # Panics
    /// When there are more than [`SLOTS_MAX`] slots.
    pub fn new(slots: u32) -> Self {
        assert!(slots <= SLOTS_MAX, "a slot pool has at most {SLOTS_MAX} slots");
        // Full magazines hold different numbers, so there are never more of them than this; a few more are in
        // somebody's hands. Should they ever run out, numbers go loose.
        let magazines = (slots as usize).div_ceil(MAGAZINE) + SHARDS;
        Self {
            slots,
            fresh: CachePadded::new(AtomicU32::new(0)),
            loose: Stack::new(),
            loose_links: ZeroedWords::new(slots as usize),
            magazines: Magazines::new(magazines),
            shards: Shards::new(Cache::new),
        }
    }

    /// The pool after a recovery: numbers below `fresh_from` that are not used are free, those from it on
    /// were never used. Low numbers are handed out first.
    ///
    /// # Panics
    /// When `fresh_from` exceeds `slots`, or as [`new`](Self::new).
    pub fn restore(slots: u32, is_used: impl Fn(u32) -> bool, fresh_from: u32) -> Self {
        assert!(fresh_from <= slots, "slots were used that do not exist");
        let pool = Self::new(slots);
        pool.fresh.store(fresh_from, Ordering::Relaxed);
        let mut batch = Vec::with_capacity(MAGAZINE);
        for number in (0..fresh_from).rev().filter(|number| !is_used(*number)) {
            batch.push(number);
            if batch.len() == MAGAZINE {
                batch.reverse();
                pool.give_magazine(&batch);
                batch.clear();
            }
        }
        pool.give(&batch);
        pool
    }

    /// The first number that was never handed out: all numbers below were, at least once.
    pub fn fresh_from(&self) -> u32 {
        self.fresh.load(Ordering::Relaxed)
    }

    /// How many numbers there are.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes up to `out.len()` free numbers; returns how many. Fewer only if the pool is nearly empty, and 0
    /// only if every number is out or in the hands of an operation that has not returned yet.
    pub fn take(&self, out: &mut [u32]) -> usize {
        let mut count = match self.shards.own() {
            Some(own) => self.take_through(&own, out),
            None => self.take_magazines(out),
        };
        while count < out.len() {
            match self.take_leftovers(&mut out[count..]) {
                0 => break,
                more => count += more,
            }
        }
        count
    }

    /// Gives numbers back, each of which was taken before and is out no more.
    pub fn give(&self, numbers: &[u32]) {
        debug_assert!(numbers.iter().all(|number| *number < self.slots));
        match self.shards.own() {
            Some(own) => self.give_through(&own, numbers),
            None => self.loose.push(&self.loose_links, self.give_magazines(numbers)),
        }
    }

    /// Into the shard, which makes room for as much again when it is full.
    fn give_through(&self, own: &Held<'_, Cache>, numbers: &[u32]) {
        let rest = &numbers[own.put(numbers)..];
        if !rest.is_empty() {
            self.give_magazine(&own.spill());
            own.put(self.give_magazines(rest));
        }
    }

    /// Whole magazines, as many as there are; returns the rest.
    fn give_magazines<'a>(&self, numbers: &'a [u32]) -> &'a [u32] {
        let magazines = numbers.chunks_exact(MAGAZINE);
        let rest = magazines.remainder();
        magazines.for_each(|magazine| self.give_magazine(magazine));
        rest
    }

    /// From the shard, which is filled again on the way.
    fn take_through(&self, own: &Held<'_, Cache>, out: &mut [u32]) -> usize {
        let mut count = own.take(out);
        count += self.take_magazines(&mut out[count..]);
        if count < out.len() {
            let mut batch = [0; MAGAZINE];
            let got = match self.magazines.take(&mut batch) {
                true => MAGAZINE,
                false => self.take_fresh(&mut batch),
            };
            let wanted = got.min(out.len() - count);
            out[count..count + wanted].copy_from_slice(&batch[..wanted]);
            count += wanted;
            batch[wanted..got].reverse();
            own.put(&batch[wanted..got]);
        }
        count
    }

    /// Whole magazines, as many as fit.
    fn take_magazines(&self, out: &mut [u32]) -> usize {
        let mut count = 0;
        for magazine in out.chunks_exact_mut(MAGAZINE) {
            if !self.magazines.take(magazine) {
                break;
            }
            count += MAGAZINE;
        }
        count
    }

    /// What the quick ways do not find: loose numbers, parts of magazines, never-used numbers, and in the end
    /// what lies in the shards. Returns 0 only if there is none.
    ///
    /// While it looks from place to place, numbers may move to where it has already been. So it believes that
    /// there is nothing only if nobody has put anything anywhere since it began. (Whoever gave a number and
    /// then emptied the last place has let that place go with Release, so that this thread, coming there,
    /// sees that put.)
    #[cold]
    fn take_leftovers(&self, out: &mut [u32]) -> usize {
        let mut busy_rounds = 0;
        loop {
            let before = self.version();
            let count = self.take_loose(out);
            if count > 0 {
                return count;
            }
            let count = self.take_part(out);
            if count > 0 {
                return count;
            }
            let count = self.take_fresh(out);
            if count > 0 {
                return count;
            }
            let mut busy = false;
            for cache in self.shards.each() {
                busy |= cache.is_none();
                let count = cache.map_or(0, |cache| cache.take(out));
                if count > 0 {
                    return count;
                }
            }
            if self.version() == before {
                busy_rounds += 1;
                if !busy || busy_rounds == BUSY_ROUNDS {
                    return 0;
                }
            }
            spin_hint();
        }
    }

    /// Something that changes whenever a number is put anywhere.
    fn version(&self) -> (u64, u64, u64) {
        let puts = self
            .shards
            .contents()
            .map(|cache| cache.puts.load(Ordering::Relaxed));
        (
            puts.fold(0, u64::wrapping_add),
            self.magazines.version(),
            self.loose.version(),
        )
    }

    /// Loose numbers.
    fn take_loose(&self, out: &mut [u32]) -> usize {
        let numbers = std::iter::from_fn(|| self.loose.pop(&self.loose_links));
        out.iter_mut()
            .zip(numbers)
            .map(|(place, number)| *place = number)
            .count()
    }

    /// Part of a magazine. The rest goes loose.
    fn take_part(&self, out: &mut [u32]) -> usize {
        let mut batch = [0; MAGAZINE];
        if !self.magazines.take(&mut batch) {
            return 0;
        }
        let wanted = out.len().min(MAGAZINE);
        out[..wanted].copy_from_slice(&batch[..wanted]);
        self.loose.push(&self.loose_links, &batch[wanted..]);
        wanted
    }

    /// Numbers that were never used.
    fn take_fresh(&self, out: &mut [u32]) -> usize {
        let bump = |fresh: u32| (fresh < self.slots).then(|| self.slots.min(fresh + out.len() as u32));
        // Relaxed: the number is all there is to it.
        let Ok(first) = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, bump)
        else {
            return 0;
        };
        let count = out.len().min((self.slots - first) as usize);
        for (place, number) in out[..count].iter_mut().zip(first..) {
            *place = number;
        }
        count
    }

    /// Puts numbers into a magazine, if they fill one and there is one, and loose otherwise.
    fn give_magazine(&self, numbers: &[u32]) {
        if numbers.len() < MAGAZINE || !self.magazines.give(numbers) {
            self.loose.push(&self.loose_links, numbers);
        }
    }
}

impl std::fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("SlotPool");
        f.field("slots", &self.slots)
            .field("fresh_from", &self.fresh_from())
            .finish()
    }
}
