//! The state word of a slot: which job it holds, where that stands, and how often it was handed out.

use crate::base::job::{JobId, JobState};
#[cfg(doc)]
use crate::base::limits::DELIVERIES_MAX;

/// Where a slot stands: the job's public state, or one of the three that only the engine sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// No job here.
    Free = 0,
    /// See [`JobState::Scheduled`].
    Scheduled = 1,
    /// See [`JobState::Ready`].
    Ready = 2,
    /// See [`JobState::Leased`].
    Leased = 3,
    /// See [`JobState::Dead`].
    Dead = 4,
    /// See [`JobState::Done`].
    Done = 5,
    /// See [`JobState::Cancelled`].
    Cancelled = 6,
    /// See [`JobState::Expired`].
    Expired = 7,
    /// One thread is logging a change of this job and will publish the outcome shortly.
    Busy = 8,
    /// The job is over and forgotten, but its handle still stands in a ready ring; whoever pops it frees the slot.
    Zombie = 9,
}

impl Phase {
    fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Phase::Free,
            1 => Phase::Scheduled,
            2 => Phase::Ready,
            3 => Phase::Leased,
            4 => Phase::Dead,
            5 => Phase::Done,
            6 => Phase::Cancelled,
            7 => Phase::Expired,
            8 => Phase::Busy,
            9 => Phase::Zombie,
            _ => unreachable!("a state word is written from a Phase only"),
        }
    }

    /// The public state, where there is one.
    pub fn public(self) -> Option<JobState> {
        JobState::from_u8(self as u8)
    }

    /// Done, cancelled or expired.
    pub fn is_finished(self) -> bool {
        matches!(self, Phase::Done | Phase::Cancelled | Phase::Expired)
    }
}

impl From<JobState> for Phase {
    fn from(state: JobState) -> Self {
        Phase::from_bits(state as u8)
    }
}

/// The handle stands in a ready ring.
pub const QUEUED: u8 = 1;
/// The deadline of this state stands in the timer wheel.
pub const TIMED: u8 = 2;
/// The body is in the volatile log, and nothing of this job is in the durable one.
pub const VOLATILE: u8 = 4;
/// The note is a result, not an error text.
pub const RESULT: u8 = 8;
/// The job was enqueued under an idempotency key.
pub const KEYED: u8 = 16;
/// Moved by every extension, so that a word that was read before it never compares equal after it.
pub const TURN_MASK: u8 = 0b1110_0000;
const TURN_ONE: u8 = 0b0010_0000;

/// A state word: generation 32 | attempt 16 | phase 8 | flags 8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StateWord(pub u64);

impl std::fmt::Debug for StateWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "gen {} attempt {} {:?} flags {:#010b}",
            self.generation(),
            self.attempt(),
            self.phase(),
            self.flags()
        )
    }
}

impl StateWord {
    /// Puts a word together.
    pub fn new(generation: u32, attempt: u16, phase: Phase, flags: u8) -> Self {
        Self(
            u64::from(generation) << 32
                | u64::from(attempt) << 16
                | u64::from(phase as u8) << 8
                | u64::from(flags),
        )
    }

    /// Which job of this slot, from 1.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Deliveries so far.
    pub fn attempt(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Where the slot stands.
    pub fn phase(self) -> Phase {
        Phase::from_bits((self.0 >> 8) as u8)
    }

    /// The flag bits.
    pub fn flags(self) -> u8 {
        self.0 as u8
    }

    /// Whether a flag is set.
    pub fn has(self, flag: u8) -> bool {
        self.flags() & flag != 0
    }

    /// Whether the slot stands in that phase: as a comparison with [`phase`](Self::phase), for loops that ask nothing
    /// else.
    #[inline]
    pub fn is(self, phase: Phase) -> bool {
        (self.0 >> 8) as u8 == phase as u8
    }

    /// The same with another phase; the deadline of the old one no longer counts as timed.
    #[inline]
    pub fn with_phase(self, phase: Phase) -> Self {
        Self(self.0 & !(0xFF00 | u64::from(TIMED)) | u64::from(phase as u8) << 8)
    }

    /// The same with flags set.
    pub fn with(self, flags: u8) -> Self {
        Self(self.0 | u64::from(flags))
    }

    /// The same with flags cleared.
    pub fn without(self, flags: u8) -> Self {
        Self(self.0 & !u64::from(flags))
    }

    /// The same for the next attempt. There always is one: a job that had [`DELIVERIES_MAX`] is dead.
    #[inline]
    pub fn next_attempt(self) -> Self {
        debug_assert!(self.attempt() < u16::MAX);
        Self(self.0 + (1 << 16))
    }

    /// The same with another attempt number.
    pub fn with_attempt(self, attempt: u16) -> Self {
        Self::new(self.generation(), attempt, self.phase(), self.flags())
    }

    /// The same with the turn bits moved on.
    pub fn next_turn(self) -> Self {
        let turn = self.flags().wrapping_add(TURN_ONE) & TURN_MASK;
        Self::new(
            self.generation(),
            self.attempt(),
            self.phase(),
            (self.flags() & !TURN_MASK) | turn,
        )
    }
}

/// The id that a state word in slot number `slot` stands for.
pub fn id_of(slot: u32, state: StateWord) -> JobId {
    JobId::new(state.generation(), slot)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn turns_come_round_and_leave_other_flags_alone() {
        let start = StateWord::new(3, 2, Phase::Leased, TIMED | VOLATILE);
        let mut word = start;
        for _ in 0..7 {
            word = word.next_turn();
            assert_ne!(word, start);
            assert_eq!(
                (word.generation(), word.attempt(), word.phase()),
                (3, 2, Phase::Leased)
            );
            assert!(word.has(TIMED) && word.has(VOLATILE));
        }
        assert_eq!(word.next_turn(), start);
    }
}
