//! Which leases the worker holds, and when they must be extended. Time is an argument here.

use crate::base::job::Token;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The leases of all runs.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_run: HashMap<u64, Held>,
}

/// The leases of one run.
#[derive(Debug)]
struct Held {
    tokens: Vec<Token>,
    every: Duration,
    due: Instant,
    /// The outcome is on its way to the server, after which a lost lease means nothing.
    is_settling: bool,
}

impl Leases {
    /// Keeps leases of a run that last for `lease`: they are due for an extension whenever a third of it is over.
    pub(super) fn add(&mut self, run: u64, tokens: Vec<Token>, lease: Duration, now: Instant) {
        let every = (lease / 3).max(Duration::from_millis(1));
        let held = Held {
            tokens,
            every,
            due: now + every,
            is_settling: false,
        };
        self.by_run.insert(run, held);
    }

    /// The run's outcome is about to be sent.
    pub(super) fn settling(&mut self, run: u64) {
        if let Some(held) = self.by_run.get_mut(&run) {
            held.is_settling = true;
        }
    }

    /// The run's leases are of no interest any more.
    pub(super) fn remove(&mut self, run: u64) {
        self.by_run.remove(&run);
    }

    /// The leases to extend now; they are due again a third of a lease later.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Token> {
        let mut tokens = Vec::new();
        for held in self.by_run.values_mut().filter(|held| held.due <= now) {
            held.due = now + held.every;
            tokens.extend_from_slice(&held.tokens);
        }
        tokens
    }

    /// When leases will be due next.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.by_run.values().map(|held| held.due).min()
    }

    /// Gives up a lease that could not be extended. Returns whether that is worth telling: not when its job is
    /// being settled.
    pub(super) fn lost(&mut self, token: Token) -> bool {
        for held in self.by_run.values_mut().filter(|held| !held.is_settling) {
            let before = held.tokens.len();
            held.tokens.retain(|kept| *kept != token);
            if held.tokens.len() < before {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::job::JobId;

    #[test]
    fn leases_are_due_whenever_a_third_is_over() {
        let token = |number| Token {
            id: JobId::new(1, number),
            attempt: 1,
        };
        let mut leases = Leases::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        leases.add(0, vec![token(0)], Duration::from_secs(30), start);
        leases.add(1, vec![token(1), token(2)], Duration::from_secs(60), start);
        assert_eq!(leases.next_due(), Some(after(10)));
        assert_eq!(leases.take_due(after(9)), []);
        assert_eq!(leases.take_due(after(10)), [token(0)]);
        assert_eq!(leases.take_due(after(19)), []);
        assert_eq!(leases.take_due(after(20)).len(), 3);
        assert!(leases.lost(token(1)));
        assert!(!leases.lost(token(1)), "it is told once");
        leases.settling(1);
        assert!(!leases.lost(token(2)), "its outcome is on the way");
        leases.remove(0);
        assert_eq!(leases.take_due(after(100)), [token(2)]);
    }
}
