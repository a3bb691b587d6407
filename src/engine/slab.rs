//! All slots, the free ones among them, and the generations that keep ids apart.
//!
//! A job id is a slot number and a generation. The generation of a slot goes up by one each time it is used
//! again; [`Slab::generation_high`] is the highest ever given out; it is logged ahead, so that after a restart new ids
//! start above all old ones, also those of slots whose last job left no trace. Generations wrap after 2^32 uses
//! and are compared as serial numbers (RFC 1982); a slot that lags far behind the highest jumps up to it when it
//! is used again, so that the comparison stays valid.

use crate::base::sync::{AtomicU32, AtomicU64, Ordering, ZeroedWords, fence};
use crate::engine::gate::Gate;
use crate::engine::slot::{SLOT_WORDS, Slot};
use crate::engine::word::{Phase, StateWord};
use crate::ring::SlotPool;

/// How far a generation may lag behind the highest before it jumps.
const LAG_MAX: u32 = 1 << 30;

/// Whether generation `a` was given out after `b`.
pub fn is_newer(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 > 0
}

/// The slots of a slab by their numbers.
#[derive(Clone, Copy)]
pub struct Slots<'a>(&'a [[AtomicU64; SLOT_WORDS]]);

impl<'a> Slots<'a> {
    /// As [`Slab::slot`].
    #[inline]
    pub fn slot(self, number: u32) -> Slot<'a> {
        Slot::new(&self.0[number as usize])
    }

    /// As [`Slab::get`].
    #[inline]
    pub fn get(self, number: u32) -> Option<Slot<'a>> {
        self.0.get(number as usize).map(Slot::new)
    }

    /// Makes a taken slot Busy under its next generation and returns its state word.
    #[inline]
    pub fn begin(self, number: u32, succession: Succession, flags: u8) -> StateWord {
        let slot = self.slot(number);
        let old = slot.state();
        debug_assert_eq!(old.phase(), Phase::Free, "slot {number} was taken while in use");
        let word = StateWord::new(succession.after(old.generation()), 0, Phase::Busy, flags);
        slot.publish(word);
        // As in `Slot::exchange`: the word before the fields.
        fence(Ordering::Release);
        word
    }
}

/// Which generations slots get next, for a batch of them.
#[derive(Clone, Copy)]
pub struct Succession {
    high: u32,
    /// The lowest that is neither too far behind `high` nor may have been used before the last start.
    lowest: u32,
}

impl Succession {
    /// The generation of a slot whose last one was `old`.
    #[inline]
    fn after(self, old: u32) -> u32 {
        let next = old.wrapping_add(1);
        // As far ahead of `high` as behind it: that was read early.
        let usual = self.high.wrapping_sub(self.lowest) + LAG_MAX;
        if next > 1 && next.wrapping_sub(self.lowest) <= usual {
            next
        } else {
            self.after_pause(old)
        }
    }

    /// As [`after`](Self::after) for a slot that was never used, or not for long.
    #[cold]
    fn after_pause(self, old: u32) -> u32 {
        let next = old.wrapping_add(1);
        let is_far = (LAG_MAX..u32::MAX - LAG_MAX).contains(&self.high.wrapping_sub(next));
        let generation = if is_far || old == 0 && is_newer(self.high, next) {
            self.high
        } else if is_newer(self.lowest, next) {
            self.lowest
        } else {
            next
        };
        // 0 means "never used": ids with it do not exist.
        if generation == 0 { 1 } else { generation }
    }
}

/// The slots of one engine.
pub struct Slab {
    words: ZeroedWords,
    slots: u32,
    free: SlotPool,
    gate: Gate,
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
            gate: Gate::default(),
            generation_high: AtomicU32::new(0),
            generation_floor: 0,
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The gate that is passed to change slots by plain stores.
    #[inline]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// All slots at hand, for a loop over many.
    #[inline]
    pub fn all(&self) -> Slots<'_> {
        Slots(self.words.groups())
    }

    /// The slot of that number. Panics for a number that was never given out by this slab.
    #[inline]
    pub fn slot(&self, number: u32) -> Slot<'_> {
        self.all().slot(number)
    }

    /// The slot of that number, or `None` for a number that no slab of this size has (it came from outside).
    #[inline]
    pub fn get(&self, number: u32) -> Option<Slot<'_>> {
        self.all().get(number)
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
        self.all().begin(number, self.succession(high), flags)
    }

    /// Which generations come next, where `high` is the [highest](Self::generation_high) given out.
    pub fn succession(&self, high: u32) -> Succession {
        // Slots that lag so far behind jump up to `high` anyway, which is above the floor too. Beyond that the floor
        // would not even compare as older.
        let floor = self.generation_floor;
        let lowest = if high.wrapping_sub(floor) < LAG_MAX {
            floor
        } else {
            high.wrapping_sub(LAG_MAX - 1)
        };
        Succession { high, lowest }
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
            assert!(seen.insert(crate::engine::word::id_of(number[0], word)));
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

    /// The floor then compared as newer than every id that came, and ids were given twice.
    #[test]
    fn ids_came_again_once_generations_were_2_to_the_31_above_those_of_the_start() {
        let mut slab = Slab::new(1);
        slab.slot(0).publish(StateWord::new(7, 0, Phase::Free, 0));
        slab.restore(1, 10);
        assert_eq!(slab.begin(0, 10, 0).generation(), 10);
        let far = 10 + (1 << 31) + 5;
        slab.slot(0).publish(StateWord::new(far, 0, Phase::Free, 0));
        assert_eq!(slab.begin(0, far, 0).generation(), far + 1);
        slab.slot(0).publish(StateWord::new(far + 1, 0, Phase::Free, 0));
        assert_eq!(slab.begin(0, far, 0).generation(), far + 2);
    }

    #[test]
    fn a_lagging_slot_jumps_up_to_the_highest() {
        let slab = Slab::new(1);
        slab.slot(0).publish(StateWord::new(2, 0, Phase::Free, 0));
        assert_eq!(slab.begin(0, 3_000_000_000, 0).generation(), 3_000_000_000);
    }
}
