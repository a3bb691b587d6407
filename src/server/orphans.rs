//! Leases whose connection ended: for the grace time they wait for their session to come back (G10).
//!
//! A connection that greets under their session takes them over. When the grace is over and the session has no
//! connection, the timekeeper ends those that nobody extended since. One that is extended by a connection of its session
//! is that connection's from then on. A connection may greet before the server notices
//! that the one before it is gone; therefore leases of a session that has a connection are not ended either.

use crate::base::job::Token;
use crate::base::limits::ORPHANS_MAX;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A lease as a connection knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// Whose it is.
    pub(super) token: Token,
    /// When it ends, unless it was extended through another connection.
    pub(super) deadline_ms: u64,
}

/// See the [module](self). Touched when connections come and go, and every tick.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    inner: Mutex<Inner>,
    /// Leases in all entries, to be read without the lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Inner {
    /// By session and a number that sets the entries of one session apart.
    left: BTreeMap<(u128, u64), Left>,
    /// When the grace of which entry is over.
    due: BTreeSet<(u64, (u128, u64))>,
    /// Connections that a session has.
    open: HashMap<u128, usize>,
    next: u64,
    /// Leases in all entries.
    total: usize,
}

/// What one connection left.
#[derive(Debug)]
struct Left {
    due_ms: u64,
    /// By job.
    leases: HashMap<u64, Lease>,
}

impl Orphans {
    /// A connection greeted under a session: it takes these leases over.
    pub(super) fn enter(&self, session: u128) -> Vec<Lease> {
        if session == 0 {
            return Vec::new();
        }
        let mut inner = self.inner.lock();
        *inner.open.entry(session).or_default() += 1;
        let mut taken = Vec::new();
        for key in inner.keys_of(session) {
            taken.extend(inner.remove(key));
        }
        self.publish(&inner);
        taken
    }

    /// Whether no lease waits for its session.
    pub(super) fn is_empty(&self) -> bool {
        // Relaxed: a lease that comes at this moment may as well come a moment later.
        self.count.load(Ordering::Relaxed) == 0
    }

    fn publish(&self, inner: &Inner) {
        self.count.store(inner.total, Ordering::Relaxed);
    }

    /// A connection has extended a lease that it does not hold. Whether it is to hold it from now on: another
    /// connection of its session did so, and is gone or may be without the server knowing yet.
    pub(super) fn adopt(&self, session: u128, token: Token) -> bool {
        if session == 0 {
            return false;
        }
        let mut inner = self.inner.lock();
        let was_left = inner.take_out(session, token);
        self.publish(&inner);
        was_left || inner.open.get(&session).is_some_and(|open| *open > 1)
    }

    /// A connection that had greeted ended, and its leases are kept until `due_ms`. Where there are too many already
    /// they come back.
    pub(super) fn leave(&self, session: u128, leases: Vec<Lease>, due_ms: u64) -> Vec<Lease> {
        let mut inner = self.inner.lock();
        if session != 0 {
            inner.close(session, due_ms);
        }
        if inner.total + leases.len() > ORPHANS_MAX {
            return leases;
        }
        if !leases.is_empty() {
            inner.next += 1;
            let key = (session, inner.next);
            inner.insert(key, due_ms, leases);
        }
        self.publish(&inner);
        Vec::new()
    }

    /// Takes out what is to be ended at `now_ms`. What belongs to a session that has a connection is looked at again
    /// after `grace_ms`.
    pub(super) fn take_due(
        &self,
        now_ms: u64,
        grace_ms: u64,
        is_current: impl Fn(Token) -> bool,
    ) -> Vec<Lease> {
        let mut inner = self.inner.lock();
        let mut over = Vec::new();
        while let Some((due_ms, key)) = inner.due.first().copied() {
            if due_ms > now_ms {
                break;
            }
            let mut leases = inner.remove(key);
            if !inner.open.contains_key(&key.0) {
                over.append(&mut leases);
                continue;
            }
            leases.retain(|lease| is_current(lease.token));
            if !leases.is_empty() {
                // Later than now in any case, or this would not end.
                let due_ms = now_ms + grace_ms.max(1);
                inner.insert(key, due_ms, leases);
            }
        }
        self.publish(&inner);
        over
    }
}

impl Inner {
    fn keys_of(&self, session: u128) -> Vec<(u128, u64)> {
        self.left
            .range((session, 0)..=(session, u64::MAX))
            .map(|(key, _)| *key)
            .collect()
    }

    fn insert(&mut self, key: (u128, u64), due_ms: u64, leases: Vec<Lease>) {
        let by_job = leases.into_iter().map(|lease| (lease.token.id.0, lease));
        let leases: HashMap<u64, Lease> = by_job.collect();
        self.total += leases.len();
        self.due.insert((due_ms, key));
        self.left.insert(key, Left { due_ms, leases });
    }

    /// Takes one lease out of what a session left; says whether it was there.
    fn take_out(&mut self, session: u128, token: Token) -> bool {
        for key in self.keys_of(session) {
            let Some(left) = self.left.get_mut(&key) else {
                continue;
            };
            if left
                .leases
                .get(&token.id.0)
                .is_some_and(|lease| lease.token == token)
            {
                left.leases.remove(&token.id.0);
                self.total -= 1;
                if left.leases.is_empty() {
                    self.remove(key);
                }
                return true;
            }
        }
        false
    }

    fn remove(&mut self, key: (u128, u64)) -> Vec<Lease> {
        let Some(left) = self.left.remove(&key) else {
            return Vec::new();
        };
        self.due.remove(&(left.due_ms, key));
        self.total -= left.leases.len();
        left.leases.into_values().collect()
    }

    /// One connection of a session less. With the last one the grace begins anew for all that the session left.
    fn close(&mut self, session: u128, due_ms: u64) {
        match self.open.get_mut(&session) {
            Some(open) if *open > 1 => {
                *open -= 1;
                return;
            }
            _ => self.open.remove(&session),
        };
        for key in self.keys_of(session) {
            let leases = self.remove(key);
            self.insert(key, due_ms, leases);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::job::JobId;

    fn lease(job: u32) -> Lease {
        Lease {
            token: Token {
                id: JobId::new(1, job),
                attempt: 1,
            },
            deadline_ms: 1_000,
        }
    }

    #[test]
    fn the_session_takes_its_own_and_only_within_the_grace() {
        let orphans = Orphans::default();
        assert_eq!(orphans.enter(7), []);
        assert_eq!(orphans.leave(7, vec![lease(1)], 100), []);
        assert_eq!(orphans.leave(0, vec![lease(2)], 100), []);
        assert_eq!(orphans.enter(8), []);
        assert_eq!(orphans.enter(0), []);
        assert_eq!(orphans.take_due(99, 50, |_| true), []);
        assert_eq!(orphans.enter(7), [lease(1)]);
        assert_eq!(orphans.take_due(100, 50, |_| true), [lease(2)]);
        assert_eq!(orphans.leave(7, vec![lease(1)], 200), []);
        assert_eq!(orphans.take_due(200, 50, |_| true), [lease(1)]);
        assert_eq!(orphans.enter(7), []);
    }

    #[test]
    fn a_loss_noticed_after_the_return_costs_nothing_until_the_session_is_gone() {
        let orphans = Orphans::default();
        orphans.enter(7);
        orphans.enter(7);
        orphans.leave(7, vec![lease(1), lease(2)], 100);
        // The second has ended by itself.
        let is_current = |token| token == lease(1).token;
        assert_eq!(orphans.take_due(100, 50, is_current), []);
        orphans.leave(7, Vec::new(), 180);
        assert_eq!(orphans.take_due(179, 50, is_current), []);
        assert_eq!(orphans.take_due(180, 50, is_current), [lease(1)]);
    }

    #[test]
    fn an_extended_lease_is_taken_over_from_a_connection_that_is_or_may_be_gone() {
        let orphans = Orphans::default();
        orphans.enter(7);
        // Not known to be lost yet: there are two connections.
        orphans.enter(7);
        assert!(orphans.adopt(7, lease(1).token) && !orphans.adopt(8, lease(1).token));
        orphans.leave(7, vec![lease(1), lease(2)], 100);
        assert!(orphans.adopt(7, lease(1).token));
        assert!(!orphans.adopt(7, lease(1).token) && !orphans.is_empty());
        assert!(orphans.adopt(7, lease(2).token) && orphans.is_empty());
        assert!(!orphans.adopt(0, lease(2).token));
    }

    #[test]
    fn what_is_too_much_comes_back() {
        let orphans = Orphans::default();
        let many: Vec<Lease> = (10..).take(ORPHANS_MAX).map(lease).collect();
        assert_eq!(orphans.leave(0, many, 100), []);
        assert_eq!(orphans.leave(0, vec![lease(2)], 100), [lease(2)]);
        assert_eq!(orphans.take_due(100, 50, |_| true).len(), ORPHANS_MAX);
        assert_eq!(orphans.leave(0, vec![lease(2)], 200), []);
    }
}
