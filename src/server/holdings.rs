//! The deliveries that were handed out on one connection and are not known to have ended.
//!
//! They serve two ends: the window of a subscription counts them, and when the connection ends their leases
//! become [orphans](super::orphans). A delivery leaves when it is settled on this connection; one that ended
//! otherwise (its lease ran out, it was settled elsewhere, its job was cancelled) is found by
//! [`sweep`](Holdings::sweep), so a window never leaks. A lease itself belongs to its token, not to this table.

use super::orphans::Lease;
use crate::base::job::{JobId, Token};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

/// Entries below which it is not worth looking for ended ones, where no window waits for them.
const PRUNE_AT_MIN: usize = 16 * 1024;

/// Spreads job ids. They are the engine's own numbers, so nobody can choose ones that collide.
#[derive(Debug, Default)]
pub(super) struct JobHasher(u64);

impl Hasher for JobHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the rotation brings the well mixed upper bits to where the table looks.
        self.0 = (self.0 ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(26);
    }
}

#[derive(Debug, Clone, Copy)]
struct Holding {
    attempt: u16,
    /// The subscription it was pushed to; 0 for the answer to a RESERVE.
    subscription: u32,
    bytes: u32,
    /// When its lease ends, as this connection was told.
    deadline_ms: u64,
}

/// What a delivery that ended had taken of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Freed {
    /// The subscription; 0 for none.
    pub(super) subscription: u32,
    /// Bytes of metadata and payload.
    pub(super) bytes: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Holdings {
    by_job: HashMap<u64, Holding, BuildHasherDefault<JobHasher>>,
    /// How many of them count against a window.
    windowed: usize,
    /// From how many entries on the next sweep looks at all.
    prune_at: usize,
}

impl Default for Holdings {
    fn default() -> Self {
        Self {
            by_job: HashMap::default(),
            windowed: 0,
            prune_at: PRUNE_AT_MIN,
        }
    }
}

impl Holdings {
    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.by_job.is_empty()
    }

    /// A delivery was handed out. Returns the earlier delivery of the same job that this one replaces.
    #[inline]
    pub(super) fn add(&mut self, lease: Lease, subscription: u32, bytes: u32) -> Option<Freed> {
        self.windowed += usize::from(subscription != 0);
        let holding = Holding {
            attempt: lease.token.attempt,
            subscription,
            bytes,
            deadline_ms: lease.deadline_ms,
        };
        let replaced = self.by_job.insert(lease.token.id.0, holding)?;
        Some(self.freed(replaced))
    }

    /// A delivery ended, if it is one of these.
    #[inline]
    pub(super) fn remove(&mut self, token: Token) -> Option<Freed> {
        match self.by_job.entry(token.id.0) {
            Entry::Occupied(held) if held.get().attempt == token.attempt => {
                let holding = held.remove();
                Some(self.freed(holding))
            }
            _ => None,
        }
    }

    /// The lease was extended on this connection; says whether it is held here.
    pub(super) fn extend(&mut self, lease: Lease) -> bool {
        match self.by_job.get_mut(&lease.token.id.0) {
            Some(holding) if holding.attempt == lease.token.attempt => {
                holding.deadline_ms = lease.deadline_ms;
                true
            }
            _ => false,
        }
    }

    fn freed(&mut self, holding: Holding) -> Freed {
        self.windowed -= usize::from(holding.subscription != 0);
        Freed {
            subscription: holding.subscription,
            bytes: holding.bytes,
        }
    }

    /// Deliveries of that subscription no longer count against a window, but their leases go on.
    pub(super) fn detach(&mut self, subscription: u32) {
        for holding in self.by_job.values_mut() {
            if holding.subscription == subscription {
                holding.subscription = 0;
                self.windowed -= 1;
            }
        }
    }

    /// Whether a sweep could matter: a window waits for it, or the table has grown to twice what was alive when it
    /// was last looked through, which bounds it by the leases that really are.
    pub(super) fn wants_sweep(&self) -> bool {
        self.windowed > 0 || self.by_job.len() >= self.prune_at
    }

    /// Drops what is not current any more and reports each to `freed`.
    pub(super) fn sweep(&mut self, is_current: impl Fn(Token) -> bool, mut freed: impl FnMut(Freed)) {
        let windowed = &mut self.windowed;
        self.by_job.retain(|id, holding| {
            let keep = is_current(Token {
                id: JobId(*id),
                attempt: holding.attempt,
            });
            if !keep {
                *windowed -= usize::from(holding.subscription != 0);
                freed(Freed {
                    subscription: holding.subscription,
                    bytes: holding.bytes,
                });
            }
            keep
        });
        self.prune_at = (2 * self.by_job.len()).max(PRUNE_AT_MIN);
        self.by_job.shrink_to(self.prune_at);
    }

    /// All leases, for the end of the connection.
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.by_job.iter().map(|(id, holding)| Lease {
            token: Token {
                id: JobId(*id),
                attempt: holding.attempt,
            },
            deadline_ms: holding.deadline_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(job: u32, attempt: u16) -> Token {
        Token {
            id: JobId::new(1, job),
            attempt,
        }
    }

    fn lease(job: u32, attempt: u16) -> Lease {
        Lease {
            token: token(job, attempt),
            deadline_ms: 1_000,
        }
    }

    #[test]
    fn only_the_delivery_that_is_held_is_removed() {
        let mut holdings = Holdings::default();
        assert_eq!(holdings.add(lease(1, 1), 7, 100), None);
        assert_eq!(holdings.remove(token(1, 2)), None);
        assert_eq!(holdings.remove(token(2, 1)), None);
        assert_eq!(
            holdings.remove(token(1, 1)),
            Some(Freed {
                subscription: 7,
                bytes: 100
            })
        );
        assert_eq!(holdings.remove(token(1, 1)), None);
    }

    #[test]
    fn a_later_delivery_of_the_same_job_frees_the_earlier_one() {
        let mut holdings = Holdings::default();
        holdings.add(lease(1, 1), 7, 100);
        assert_eq!(
            holdings.add(lease(1, 2), 8, 100),
            Some(Freed {
                subscription: 7,
                bytes: 100
            })
        );
        assert_eq!(holdings.leases().collect::<Vec<_>>(), [lease(1, 2)]);
    }

    #[test]
    fn a_sweep_gives_back_what_ended_elsewhere() {
        let mut holdings = Holdings::default();
        for job in 0..10 {
            holdings.add(lease(job, 1), 7, 10);
        }
        let mut bytes = 0;
        holdings.sweep(|token| token.id.slot() % 2 == 0, |freed| bytes += freed.bytes);
        assert_eq!((bytes, holdings.leases().count()), (50, 5));
        holdings.detach(7);
        assert!(!holdings.wants_sweep());
    }
}
