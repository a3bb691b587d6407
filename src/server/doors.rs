//! Who is woken when jobs become ready.
//!
//! A reactor with waiters announces itself at the queue (a bit in the queue's mask), looks a last time, and
//! sleeps. Whoever publishes jobs finds the mask, takes bits out of it and hands a *baton* for the queue to their
//! reactors: to as many as there are jobs, and first to its own reactor, which costs no system call. The first
//! baton names those who were not woken. A reactor that is done with a queue and has not found it empty passes the
//! baton on, so no job lies while somebody waits for it, and nobody is woken for nothing to find.

use super::mailbox::{Baton, Mailbox};
use crate::engine::{Engine, QueueId};
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

/// One in so many single jobs goes to another reactor than the publisher's own although that one waits as well,
/// so that workers there are not left out for ever.
const OTHERS_TURN: u32 = 16;

thread_local! {
    /// The bit of the reactor that runs on this thread; 0 where none does.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// The doors of all reactors of a server.
pub(super) struct Doors {
    mailboxes: Box<[Mailbox]>,
    /// Counts wakes, to take turns.
    turns: AtomicU32,
}

impl Doors {
    pub(super) fn new(mailboxes: Vec<Mailbox>) -> Self {
        Self {
            mailboxes: mailboxes.into(),
            turns: AtomicU32::new(0),
        }
    }

    /// All of them, by reactor number.
    pub(super) fn all(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// The door of one reactor.
    pub(super) fn of(&self, reactor: usize) -> &Mailbox {
        &self.mailboxes[reactor]
    }

    /// Says that reactor `reactor` runs on this thread from now on.
    pub(super) fn enter(reactor: usize) {
        OWN.set(1 << reactor);
    }

    /// Says that no reactor runs on this thread.
    pub(super) fn leave() {
        OWN.set(0);
    }

    /// `jobs` were published in `queue`, for which the reactors in `bits` wait.
    pub(super) fn published(&self, engine: &Engine, queue: QueueId, bits: u64, jobs: usize) {
        let mut left = bits & self.mask();
        let mut picks = jobs.min(left.count_ones() as usize);
        let mut first = OWN.get() & left;
        if left.count_ones() > 1 {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            if first == 0 || picks == 1 && turn.is_multiple_of(OTHERS_TURN) {
                first = pick(left & !OWN.get(), turn);
            }
        } else {
            first = left;
        }
        let mut chosen = [0u32; 64];
        let mut count = 0;
        while picks > 0 && left != 0 {
            let bit = if count == 0 {
                first
            } else {
                1 << left.trailing_zeros()
            };
            left &= !bit;
            chosen[count] = bit.trailing_zeros();
            count += 1;
            picks -= 1;
        }
        for (index, reactor) in chosen[..count].iter().enumerate() {
            let others = if index == 0 { left } else { 0 };
            self.hand(engine, Baton { queue, others }, *reactor);
        }
    }

    /// A reactor is done with a queue and does not know it to be empty: the next of `others` shall look.
    pub(super) fn pass_on(&self, engine: &Engine, queue: QueueId, others: u64) {
        let others = others & self.mask();
        if others != 0 {
            let bit = pick(others, self.turns.fetch_add(1, Ordering::Relaxed));
            self.hand(
                engine,
                Baton {
                    queue,
                    others: others & !bit,
                },
                bit.trailing_zeros(),
            );
        }
    }

    /// Something about a queue changed that every waiter must hear of: it was deleted.
    pub(super) fn tell_all(&self, queue: QueueId) {
        for mailbox in &self.mailboxes {
            mailbox.batons.push(Baton { queue, others: 0 });
            mailbox.ring();
        }
    }

    fn hand(&self, engine: &Engine, baton: Baton, reactor: u32) {
        // The bit is taken out before the baton is put down: the reactor announces itself again only after it
        // found the baton, so its new bit cannot be taken out by this.
        engine.retire(baton.queue, reactor);
        let mailbox = self.of(reactor as usize);
        mailbox.batons.push(baton);
        // The publisher's own reactor looks at its batons at the end of its turn.
        if OWN.get() != 1 << reactor {
            mailbox.ring();
        }
    }

    fn mask(&self) -> u64 {
        (1 << self.mailboxes.len()) - 1
    }
}

/// The bit of `bits` whose turn it is; 0 only for 0.
fn pick(bits: u64, turn: u32) -> u64 {
    let mut left = bits;
    for _ in 0..turn % bits.count_ones().max(1) {
        left &= left - 1;
    }
    left & left.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_waiter_gets_its_turn() {
        let bits = 0b1011;
        let mut seen = 0;
        for turn in 0..64 {
            let bit = pick(bits, turn);
            assert!(bit.is_power_of_two() && bits & bit != 0, "turn {turn}");
            seen |= bit;
        }
        assert_eq!(seen, bits);
    }
}
