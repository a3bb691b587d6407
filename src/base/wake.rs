//! How those who sleep are woken: small marks that lose no wake, and a bell. The server is built out of them, and
//! the models in `tests/loom/wake.rs` run this very code.
//!
//! | who sleeps | mark | who wakes it |
//! |---|---|---|
//! | a reactor, in its poll | [`Awake`] | whoever has put a message in |
//! | a reactor, for the disk | [`Errand`] | the flusher, by [`run_errands`] |
//! | an agent, on its thread | [`Bell`] | whoever has work for it, or ends it |
//! | workers at a queue | bits in the queue's mask | the publisher, who picks by [`Turns`] |

use super::sync::{AtomicBool, AtomicU32, Lock, Ordering, Signal};
use std::time::Duration;

/// Whether somebody who sleeps in a system call is awake, so that waking it need not cost another.
///
/// The rule that loses no wake: put the message in first, ring afterwards. The sleeper, before it sleeps, takes the
/// mark of being awake away first and looks for messages afterwards. Both change the mark by `swap` with `AcqRel`,
/// so either the sleeper's look finds the message, or the ringer finds the mark gone and wakes it.
#[derive(Debug)]
pub struct Awake {
    mark: AtomicBool,
}

impl Default for Awake {
    fn default() -> Self {
        Self {
            mark: AtomicBool::new(true),
        }
    }
}

impl Awake {
    /// Says whether it is the caller's to wake the sleeper; otherwise it will look before it sleeps.
    #[must_use]
    pub fn ring(&self) -> bool {
        !self.mark.swap(true, Ordering::AcqRel)
    }

    /// The sleeper is about to sleep. It looks at its messages once more after this.
    pub fn doze(&self) {
        self.mark.swap(false, Ordering::AcqRel);
    }

    /// The sleeper is awake and will look at its messages before it sleeps.
    pub fn wake_up(&self) {
        self.mark.swap(true, Ordering::AcqRel);
    }
}

/// Something that one thread asks of another again and again: here, to bring the log to the disk.
#[derive(Debug, Default)]
pub struct Errand {
    asked: AtomicBool,
}

impl Errand {
    /// Asks for it. Says whether that is news: then whoever runs errands is to be rung.
    #[must_use]
    pub fn ask(&self) -> bool {
        !self.asked.swap(true, Ordering::AcqRel)
    }

    /// Whether it was asked for and not run since. Acquire: who finds it run sees what it brought.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn take(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }
}

/// Runs the errands that are asked for, all by one `run`, and tells each asker; says how many there were.
///
/// # Errors
/// What `run` says; nobody is told then.
pub fn run_errands<'a, E>(
    errands: impl Iterator<Item = &'a Errand> + Clone,
    run: impl FnOnce() -> Result<(), E>,
    mut tell: impl FnMut(usize),
) -> Result<usize, E> {
    if !errands.clone().any(Errand::is_asked) {
        return Ok(0);
    }
    run()?;
    let mut told = 0;
    for (asker, errand) in errands.enumerate() {
        // Taken away before the asker looks at what came of it, so that it asks again for what is missing.
        if errand.take() {
            tell(asker);
            told += 1;
        }
    }
    Ok(told)
}

/// A bell for an agent that sleeps on its own thread.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Lock<bool>,
    changed: Signal,
}

impl Bell {
    /// Ends the current or else the next [`wait`](Self::wait).
    pub fn ring(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.changed.notify_one();
        }
    }

    /// Whether it was rung; that is answered with this.
    pub fn take(&self) -> bool {
        std::mem::take(&mut *self.rung.lock())
    }

    /// Sleeps until rung, at most `timeout`; `None` waits for as long as it takes.
    pub fn wait(&self, timeout: Option<Duration>) {
        let mut rung = self.changed.wait_while(self.rung.lock(), timeout, |rung| !*rung);
        *rung = false;
    }
}

/// One in so many single jobs goes to another reactor than the publisher's own although that one waits as well,
/// so that workers there are not left out for ever.
const OTHERS_TURN: u32 = 16;

/// Who of several that wait is told, each bit of a mask being one: in turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// Counts, to take turns.
    turns: AtomicU32,
}

impl Turns {
    /// `jobs` were published, for which those in `bits` wait; `own` is the publisher's bit, or 0. Calls `hand` for
    /// as many as there are jobs, the publisher first, which costs no system call. With the first it says who
    /// was left out.
    pub fn published(&self, bits: u64, own: u64, jobs: usize, mut hand: impl FnMut(u32, u64)) {
        let mut left = bits;
        let mut picks = jobs.min(left.count_ones() as usize);
        let mut first = own & left;
        if left.count_ones() > 1 {
            // Relaxed, here and below: only fairness hangs on it.
            let turn = self.turns.fetch_add(1, Ordering::Relaxed);
            if first == 0 || picks == 1 && turn.is_multiple_of(OTHERS_TURN) {
                first = pick(left & !own, turn);
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
        for (index, who) in chosen[..count].iter().enumerate() {
            hand(*who, if index == 0 { left } else { 0 });
        }
    }

    /// Somebody is done with a queue and does not know it to be empty: calls `hand` for the next of `others`.
    pub fn pass_on(&self, others: u64, hand: impl FnOnce(u32, u64)) {
        if others != 0 {
            let bit = pick(others, self.turns.fetch_add(1, Ordering::Relaxed));
            hand(bit.trailing_zeros(), others & !bit);
        }
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

#[cfg(all(test, not(loom)))]
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

    #[test]
    fn as_many_are_told_as_there_are_jobs_and_the_first_hears_of_the_others() {
        let turns = Turns::default();
        let told = |bits, own, jobs| {
            let mut told = Vec::new();
            turns.published(bits, own, jobs, |who, others| told.push((who, others)));
            told
        };
        assert_eq!(told(0, 0, 3), []);
        assert_eq!(told(0b100, 0, 3), [(2, 0)]);
        let two = told(0b111, 0b010, 2);
        assert_eq!((two.len(), two[0].0, two[1].1), (2, 1, 0));
        assert_eq!((1 << two[0].0) | (1 << two[1].0) | two[0].1, 0b111);
        let mut passed = None;
        turns.pass_on(two[0].1, |who, others| passed = Some((1 << who, others)));
        assert_eq!(passed, Some((two[0].1, 0)));
    }
}
