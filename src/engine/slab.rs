//! All slots, the free ones among them, and the generations that keep ids apart.
//!
//! A job id is a slot number and a generation. The generation of a slot goes up by one each time it is used
//! again; [`Slab::generation_high`] is the highest ever given out; it is logged ahead, so that after a restart new ids
//! start above all old ones, also those of slots whose last job left no trace. Generations wrap after 2^32 uses
//! and are compared as serial numbers (RFC 1982); a slot that lags far behind the highest jumps up to it when it
//! is used again, so that the comparison stays valid.

use crate::base::sync::{AtomicU32, Ordering, ZeroedWords, fence};
use crate::engine::slot::{Phase, SLOT_WORDS, Slot, StateWord};
use crate::ring::SlotPool;

/// How far a generation may lag behind the highest before it jumps.
const LAG_MAX: u32 = 1 << 30;

/// Whether generation `a` was given out after `b`.
pub fn is_newer(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// The slots of one engine.
pub struct Slab {
    words: ZeroedWords,
    slots: u32,
    free: SlotPool,
    generation_high: AtomicU32,
    /// Generations below this may have been used in any slot before the last start, without a trace.
    generation_floor: u32,
}

impl Slab {
    /// Room for `slots` jobs, all free. Costs address space until used.
    pub fn new(slots: u32) -> Self {
        Self {
            words: ZeroedWords::new(slots as usize * SLOT_WORDS),
            slots,
            free: SlotPool::new(slots),
            generation_high: AtomicU32::new(0),
            generation_floor: 0,
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The slot of that number. Panics for a number that was never given out by this slab.
    #[inline]
    pub fn slot(&self, number: u32) -> Slot<'_> {
        Slot::new(self.words.slice(number as usize * SLOT_WORDS, SLOT_WORDS))
    }

    /// The slot of that number, or `None` for a number that no slab of this size has (it came from outside).
    #[inline]
    pub fn get(&self, number: u32) -> Option<Slot<'_>> {
        (number < self.slots).then(|| self.slot(number))
    }

    /// Slots below this number have held a job; those at or above it never have.
    pub fn fresh_from(&self) -> u32 {
        self.free.fresh_from()
    }

    /// Takes free slots, up to as many as `numbers` has room for, and says how many.
    pub fn take(&self, numbers: &mut [u32]) -> usize {
        self.free.take(numbers)
    }

    /// Gives slots back. They must have been made [`Phase::Free`].
    pub fn give(&self, numbers: &[u32]) {
        self.free.give(numbers);
    }

    /// Makes a taken slot Busy under its next generation and returns its state word.
    #[inline]
    pub fn begin(&self, number: u32, high: u32, flags: u8) -> StateWord {
        let slot = self.slot(number);
        let old = slot.state();
        debug_assert_eq!(old.phase(), Phase::Free, "slot {number} was taken while in use");
        let mut generation = old.generation().wrapping_add(1);
        // Behind by more than the limit, and not just a little ahead of a `high` that was read early.
        let lag = high.wrapping_sub(generation);
        if (LAG_MAX..u32::MAX - LAG_MAX).contains(&lag) || old.generation() == 0 && is_newer(high, generation)
        {
            generation = high;
        } else if is_newer(self.generation_floor, generation) {
            generation = self.generation_floor;
        }
        // 0 means "never used": ids with it do not exist.
        let word = StateWord::new(
            if generation == 0 { 1 } else { generation },
            0,
            Phase::Busy,
            flags,
        );
        slot.publish(word);
        // As in `Slot::exchange`: the word before the fields.
        fence(Ordering::Release);
        word
    }

    /// The highest generation given out.
    pub fn generation_high(&self) -> u32 {
        self.generation_high.load(Ordering::Relaxed)
    }

    /// Notes that `generation` was given out; returns the previous highest.
    pub fn raise_generation(&self, generation: u32) -> u32 {
        let mut high = self.generation_high.load(Ordering::Relaxed);
        while is_newer(generation, high) {
            match self.generation_high.compare_exchange_weak(
                high,
                generation,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return high,
                Err(now) => high = now,
            }
        }
        high
    }

    /// After recovery has written slots below `fresh_from`: those that hold no job become free.
    pub fn restore(&mut self, fresh_from: u32, generation_high: u32) {
        let free = SlotPool::restore(
            self.slots,
            |number| self.slot(number).state().phase() != Phase::Free,
            fresh_from,
        );
        self.free = free;
        self.generation_floor = generation_high;
        self.generation_high.store(generation_high, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_slot_used_again_has_another_id() {
        let slab = Slab::new(64);
        let mut seen = std::collections::HashSet::new();
        for _ in 0..1_000 {
            let mut number = [0];
            assert_eq!(slab.take(&mut number), 1);
            let word = slab.begin(number[0], slab.generation_high(), 0);
            slab.raise_generation(word.generation());
            assert!(seen.insert(crate::engine::slot::id_of(number[0], word)));
            slab.slot(number[0]).publish(word.with_phase(Phase::Free));
            slab.give(&number);
        }
    }

    #[test]
    fn generations_wrap_past_zero() {
        let slab = Slab::new(1);
        slab.slot(0).publish(StateWord::new(u32::MAX, 0, Phase::Free, 0));
        assert_eq!(slab.begin(0, u32::MAX, 0).generation(), 1);
        assert!(is_newer(1, u32::MAX));
    }

    #[test]
    fn a_lagging_slot_jumps_up_to_the_highest() {
        let slab = Slab::new(1);
        slab.slot(0).publish(StateWord::new(2, 0, Phase::Free, 0));
        assert_eq!(slab.begin(0, 3_000_000_000, 0).generation(), 3_000_000_000);
    }
}
