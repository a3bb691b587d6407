//! The moves of a state word on which several threads may meet: small, and run as they are by the models in
//! `tests/loom/state.rs`.
//!
//! A handle stands for its job in at most one ready ring at a time, and QUEUED says that it does. A job that is
//! taken out of Ready (cancelled, expired) keeps the mark, since its handle stays in the ring; the slot is not free
//! before that handle has come out.

use super::gate::{Closing, Passing};
use super::slab::Slab;
use super::slot::Slot;
use super::word::{Phase, QUEUED, StateWord, TURN_MASK};
use crate::base::sync::{Ordering, fence};
use crate::log::LogPosition;

/// What a handle that came out of a ready ring stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popped {
    /// A job that is Ready under this word.
    Ready(StateWord),
    /// Nothing (any more): the handle is dealt with.
    Stale,
}

impl Slot<'_> {
    /// Takes the job out of the word, which is not Ready: it is Busy then, and the caller owns its fields.
    #[inline]
    pub fn take(self, word: StateWord) -> bool {
        assert!(!word.is(Phase::Ready), "whoever passes the gate may have it");
        self.take_any(word)
    }

    /// As [`take`](Self::take), of a job that may be Ready, by one who has not popped its handle: closes the gate then.
    pub fn take_closing(self, word: StateWord, closing: &mut Closing<'_>) -> bool {
        if word.is(Phase::Ready) {
            closing.closed();
        }
        self.take_any(word)
    }

    /// As [`take`](Self::take), of a job that has a TTL: nobody passes the gate to take such a one.
    pub fn take_mortal(self, word: StateWord) -> bool {
        debug_assert_ne!(
            self.expires_ms(),
            0,
            "a job without a TTL is taken behind the gate"
        );
        self.take_any(word)
    }

    fn take_any(self, word: StateWord) -> bool {
        self.exchange(word, word.with_phase(Phase::Busy)).is_ok()
    }

    /// Takes a Ready job whose handle the caller has popped, for its next delivery. Returns the new word.
    #[inline]
    pub fn take_popped(self, word: StateWord) -> Option<StateWord> {
        let busy = popped(word);
        self.exchange(word, busy).is_ok().then_some(busy)
    }

    /// As [`take_popped`](Self::take_popped), in passing: for a job without a TTL, which nobody takes then but who has
    /// its handle.
    #[inline]
    pub fn take_passing(self, word: StateWord, _: &Passing<'_>) -> StateWord {
        debug_assert!(
            word.is(Phase::Ready) && self.expires_ms() == 0,
            "nobody else takes it"
        );
        let busy = popped(word);
        self.publish(busy);
        // As in `exchange`: the word before the fields.
        fence(Ordering::Release);
        busy
    }

    /// Publishes the end of a Busy job. One taken from Ready keeps its QUEUED mark, unless a popper has dropped the
    /// handle while the job was Busy.
    #[inline]
    pub fn finish(self, mut word: StateWord) {
        if !word.has(QUEUED) {
            return self.publish(word.without(TURN_MASK));
        }
        loop {
            let busy = self.state();
            if !busy.has(QUEUED) {
                word = word.without(QUEUED);
            }
            if self.exchange(busy, word).is_ok() {
                return;
            }
        }
    }

    /// Gives a Busy job back under the word that it was taken out of. Says whether its handle was dropped meanwhile
    /// and has to be put into the ring again, by the caller and soon: the word says that it is there.
    pub fn restore(self, before: StateWord) -> bool {
        loop {
            let busy = self.state();
            if self.exchange(busy, before).is_ok() {
                return before.has(QUEUED) && !busy.has(QUEUED);
            }
        }
    }

    /// Forgets a job that is over. Only for the one who took its handle out of the retention. Returns the word that
    /// it was over under, the body to be released, and whether the slot is the caller's to give back; if not,
    /// whoever pops the handle does that.
    ///
    /// `passing` if the caller passes the gate: then nobody moves the body, and it need not be swapped out.
    #[inline]
    pub fn forget(self, passing: Option<&Passing<'_>>) -> (StateWord, LogPosition, bool) {
        // The body goes first: a zombie's slot may be freed and used again by a popper the moment it is one.
        let body = match passing {
            Some(passing) => self.leave_body(passing),
            None => self.drop_body(),
        };
        loop {
            let word = self.state();
            debug_assert!(word.phase().is_finished(), "{word:?} is not over");
            if !word.has(QUEUED) {
                // A store does: who takes a job by its id or its place takes none that is over, and a popper only
                // drops the mark, which is gone.
                self.publish(freed(word));
                return (word, body, true);
            }
            if self.exchange(word, word.with_phase(Phase::Zombie)).is_ok() {
                return (word, body, false);
            }
        }
    }
}

impl Slab {
    /// Looks at the job of a handle that the caller has popped, and deals with the handle unless the job is Ready.
    #[inline]
    pub fn meet(&self, number: u32) -> Popped {
        let slot = self.slot(number);
        loop {
            let word = slot.state();
            match word.phase() {
                Phase::Ready => return Popped::Ready(word),
                // Forgotten, and only the handle kept the slot.
                Phase::Zombie => {
                    slot.publish(freed(word));
                    self.give(&[number]);
                    return Popped::Stale;
                }
                // Busy: somebody cancels or expires it at this moment; if that is taken back, the one who does so
                // finds the mark gone and puts the handle back. Over: from now on only the retention holds it.
                _ => {
                    if slot.exchange(word, word.without(QUEUED)).is_ok() {
                        return Popped::Stale;
                    }
                }
            }
        }
    }
}

/// The word of a job that is being handed out.
fn popped(word: StateWord) -> StateWord {
    word.next_attempt().with_phase(Phase::Busy).without(QUEUED)
}

/// The word of a free slot: only the generation lives on.
fn freed(word: StateWord) -> StateWord {
    StateWord::new(word.generation(), 0, Phase::Free, 0)
}
