//! The numbers of a session's requests, and the window in which the server remembers them.

use std::collections::VecDeque;

/// Gives numbers out, and keeps the oldest unanswered one within the window of the next.
#[derive(Debug)]
pub(crate) struct Numbers {
    /// The next number.
    next: u64,
    /// Whether each number below `next` is answered, from the oldest one that is not.
    answered: VecDeque<bool>,
    /// How many of the latest numbers the server remembers.
    window: u64,
}

impl Numbers {
    pub(crate) fn new(first: u64, window: u64) -> Self {
        Self {
            next: first.max(1),
            answered: VecDeque::new(),
            window: window.max(1),
        }
    }

    pub(crate) fn set_window(&mut self, window: u64) {
        self.window = window.max(1);
    }

    /// Whether the next number could be sent without pushing an unanswered one out of the window.
    pub(crate) fn has_room(&self) -> bool {
        (self.answered.len() as u64) < self.window
    }

    /// The next number. One that is not `held` does not keep the window: a reserve may wait for an hour, and losing
    /// its number costs no more than the end of a lease.
    pub(crate) fn take(&mut self, held: bool) -> u64 {
        let number = self.next;
        self.next += 1;
        self.answered.push_back(!held);
        self.trim();
        number
    }

    /// The number will not be sent again.
    pub(crate) fn answered(&mut self, number: u64) {
        let oldest = self.next - self.answered.len() as u64;
        if let Some(place) = number
            .checked_sub(oldest)
            .and_then(|at| self.answered.get_mut(at as usize))
        {
            *place = true;
            self.trim();
        }
    }

    fn trim(&mut self) {
        while self.answered.front() == Some(&true) {
            self.answered.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unanswered_number_holds_the_window() {
        let mut numbers = Numbers::new(1, 4);
        assert_eq!([1, 2, 3, 4].map(|_| numbers.take(true)), [1, 2, 3, 4]);
        assert!(!numbers.has_room(), "number 5 would push 1 out");
        (2..=4).for_each(|number| numbers.answered(number));
        assert!(!numbers.has_room());
        numbers.answered(1);
        assert!(numbers.has_room());
        assert_eq!(numbers.take(true), 5);
    }

    #[test]
    fn a_reserve_does_not_hold_the_window() {
        let mut numbers = Numbers::new(1, 2);
        assert_eq!(numbers.take(false), 1);
        for _ in 0..10 {
            assert!(numbers.has_room());
            let number = numbers.take(true);
            numbers.answered(number);
        }
        numbers.answered(1);
        assert!(numbers.has_room());
    }
}
