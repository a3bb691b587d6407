//! The deliveries that were handed out on one connection and are not known to have ended.
//!
//! They serve two ends: the window of a subscription counts them, and when the connection ends their leases
//! become [orphans](super::orphans). A delivery leaves when it is settled on this connection; one that ended
//! otherwise (its lease ran out, it was settled elsewhere, its job was cancelled) is found by
//! [`sweep`](Holdings::sweep), so a window never leaks. A lease itself belongs to its token, not to this table.

use super::numbers::NumberMap;
use super::orphans::Lease;
use crate::base::job::{JobId, Token};
use std::collections::VecDeque;

/// Entries below which it is not worth looking for ended ones, where no window waits for them.
const PRUNE_AT_MIN: usize = 16 * 1024;

#[derive(Debug, Clone, Copy)]
struct Holding {
    attempt: u16,
    /// The subscription it was pushed to; 0 for the answer to a RESERVE.
    subscription: u32,
    bytes: u32,
    /// When its lease ends, as this connection was told.
    deadline_ms: u64,
}

impl Holding {
    fn lease(&self, id: u64) -> Lease {
        let token = Token {
            id: JobId(id),
            attempt: self.attempt,
        };
        Lease {
            token,
            deadline_ms: self.deadline_ms,
        }
    }
}

/// What deliveries that ended had taken of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Freed {
    /// The subscription; 0 for none.
    pub(super) subscription: u32,
    /// How many deliveries.
    pub(super) jobs: u32,
    /// Bytes of metadata and payload.
    pub(super) bytes: u64,
}

/// See the [module](self).
///
/// Most workers settle in the order in which they were handed the jobs. So a delivery first stands in a row, where
/// settling the oldest ones takes no look-up; only when somebody asks for another one are all of the row
/// put into a table, each at most once.
#[derive(Debug)]
pub(super) struct Holdings {
    /// Handed out later than all in `by_job`, oldest first; a job may be in both.
    recent: VecDeque<(u64, Holding)>,
    by_job: NumberMap<u64, Holding>,
    /// Whether `recent` may hold a job that is there before.
    has_repeats: bool,
    /// How many of them count against a window.
    windowed: usize,
    /// From how many entries on the next sweep looks at all.
    prune_at: usize,
}

impl Default for Holdings {
    fn default() -> Self {
        Self {
            recent: VecDeque::new(),
            by_job: NumberMap::default(),
            has_repeats: false,
            windowed: 0,
            prune_at: PRUNE_AT_MIN,
        }
    }
}

impl Holdings {
    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        self.recent.len() + self.by_job.len()
    }

    /// A delivery was handed out. Behind the last one of an answer or a push comes
    /// [`replace_repeated`](Self::replace_repeated).
    #[inline]
    pub(super) fn add(&mut self, lease: Lease, subscription: u32, bytes: u32) {
        self.windowed += usize::from(subscription != 0);
        // The first delivery of a job cannot be there before, unless an answer is made again.
        self.has_repeats |= lease.token.attempt > 1;
        let holding = Holding {
            attempt: lease.token.attempt,
            subscription,
            bytes,
            deadline_ms: lease.deadline_ms,
        };
        self.recent.push_back((lease.token.id.0, holding));
    }

    /// Reports to `freed` the earlier deliveries that those handed out since replace. `again`: they are those of an
    /// answer that was made before.
    pub(super) fn replace_repeated(&mut self, again: bool, freed: impl FnMut(Freed)) {
        if again || self.has_repeats {
            self.index(freed);
        }
    }

    /// Puts all into the table.
    fn index(&mut self, mut freed: impl FnMut(Freed)) {
        self.has_repeats = false;
        while let Some((id, holding)) = self.recent.pop_front() {
            if let Some(replaced) = self.by_job.insert(id, holding) {
                freed(self.freed(replaced));
            }
        }
    }

    /// Deliveries ended: as many of `tokens` as are the oldest ones of the row, in this order. Says how many those
    /// are, and reports them to `freed`.
    pub(super) fn remove_oldest(
        &mut self,
        tokens: impl Iterator<Item = Token>,
        mut freed: impl FnMut(Freed),
    ) -> usize {
        let (mut count, mut run) = (0, Freed::default());
        for ((id, holding), token) in self.recent.iter().zip(tokens) {
            if *id != token.id.0 || holding.attempt != token.attempt {
                break;
            }
            if holding.subscription != run.subscription {
                freed(run);
                run = Freed {
                    subscription: holding.subscription,
                    ..Freed::default()
                };
            }
            self.windowed -= usize::from(holding.subscription != 0);
            run.jobs += 1;
            run.bytes += u64::from(holding.bytes);
            count += 1;
        }
        freed(run);
        self.recent.drain(..count);
        count
    }

    /// A delivery ended, if it is one of these. Reports to `freed` what it takes with it.
    pub(super) fn remove(&mut self, token: Token, mut freed: impl FnMut(Freed)) {
        if self.find(token, &mut freed).is_some()
            && let Some(holding) = self.by_job.remove(&token.id.0)
        {
            freed(self.freed(holding));
        }
    }

    /// The lease was extended on this connection; says whether it is held here.
    pub(super) fn extend(&mut self, lease: Lease, freed: impl FnMut(Freed)) -> bool {
        let found = self.find(lease.token, freed);
        let is_held = found.is_some();
        if let Some(holding) = found {
            holding.deadline_ms = lease.deadline_ms;
        }
        is_held
    }

    /// A delivery, in the table; those of the row go there if it is not one of the others.
    fn find(&mut self, token: Token, freed: impl FnMut(Freed)) -> Option<&mut Holding> {
        let is_it = |holding: &Holding| holding.attempt == token.attempt;
        if !self.by_job.get(&token.id.0).is_some_and(is_it) {
            self.index(freed);
        }
        self.by_job.get_mut(&token.id.0).filter(|holding| is_it(holding))
    }

    fn freed(&mut self, holding: Holding) -> Freed {
        self.windowed -= usize::from(holding.subscription != 0);
        Freed {
            subscription: holding.subscription,
            jobs: 1,
            bytes: u64::from(holding.bytes),
        }
    }

    /// Deliveries of that subscription no longer count against a window, but their leases go on.
    pub(super) fn detach(&mut self, subscription: u32) {
        let recent = self.recent.iter_mut().map(|(_, holding)| holding);
        for holding in self.by_job.values_mut().chain(recent) {
            if holding.subscription == subscription {
                holding.subscription = 0;
                self.windowed -= 1;
            }
        }
    }

    /// Whether a sweep could matter: a window waits for it, or there are twice as many as were alive when this
    /// was last looked through, which bounds it by the leases that really are.
    pub(super) fn wants_sweep(&self) -> bool {
        self.windowed > 0 || self.len() >= self.prune_at
    }

    /// Drops what is not current any more and reports each to `freed`.
    pub(super) fn sweep(&mut self, is_current: impl Fn(Token) -> bool, mut freed: impl FnMut(Freed)) {
        let windowed = &mut self.windowed;
        let mut keeps = |id: u64, holding: &Holding| {
            let keep = is_current(holding.lease(id).token);
            if !keep {
                *windowed -= usize::from(holding.subscription != 0);
                freed(Freed {
                    subscription: holding.subscription,
                    jobs: 1,
                    bytes: u64::from(holding.bytes),
                });
            }
            keep
        };
        self.by_job.retain(|id, holding| keeps(*id, holding));
        self.recent.retain(|(id, holding)| keeps(*id, holding));
        self.prune_at = (2 * self.len()).max(PRUNE_AT_MIN);
        self.by_job.shrink_to(self.prune_at);
        self.recent.shrink_to(self.prune_at);
    }

    /// All leases, for the end of the connection.
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        let recent = self.recent.iter().map(|(id, holding)| (id, holding));
        self.by_job
            .iter()
            .chain(recent)
            .map(|(id, holding)| holding.lease(*id))
    }

    /// Gives the memory back when nothing is held; for connections that are idle.
    pub(super) fn release_memory(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
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

    fn freed(subscription: u32, jobs: u32, bytes: u64) -> Freed {
        Freed {
            subscription,
            jobs,
            bytes,
        }
    }

    fn remove(holdings: &mut Holdings, token: Token) -> Vec<Freed> {
        let mut all = Vec::new();
        holdings.remove(token, |one| all.push(one));
        all
    }

    fn remove_oldest(holdings: &mut Holdings, tokens: &[Token]) -> (usize, Vec<Freed>) {
        let mut all = Vec::new();
        let count = holdings.remove_oldest(tokens.iter().copied(), |one| all.push(one));
        all.retain(|one| one.jobs > 0);
        (count, all)
    }

    #[test]
    fn only_the_delivery_that_is_held_is_removed() {
        let mut holdings = Holdings::default();
        holdings.add(lease(1, 1), 7, 100);
        assert_eq!(remove(&mut holdings, token(1, 2)), []);
        assert_eq!(remove(&mut holdings, token(2, 1)), []);
        assert_eq!(remove(&mut holdings, token(1, 1)), [freed(7, 1, 100)]);
        assert_eq!(remove(&mut holdings, token(1, 1)), []);
    }

    #[test]
    fn the_oldest_are_removed_together_and_others_one_by_one() {
        let mut holdings = Holdings::default();
        (1..=3).for_each(|job| holdings.add(lease(job, 1), 7, 10));
        (4..=6).for_each(|job| holdings.add(lease(job, 1), 8, 10));
        let settled = [1, 2, 3, 4, 6].map(|job| token(job, 1));
        let (count, all) = remove_oldest(&mut holdings, &settled);
        assert_eq!((count, &all[..]), (4, &[freed(7, 3, 30), freed(8, 1, 10)][..]));
        assert_eq!(remove(&mut holdings, token(6, 1)), [freed(8, 1, 10)]);
        assert_eq!(
            remove_oldest(&mut holdings, &[token(5, 1)]).0,
            0,
            "it is in the table"
        );
        assert_eq!(remove(&mut holdings, token(5, 1)), [freed(8, 1, 10)]);
        assert!(holdings.is_empty() && !holdings.wants_sweep());
    }

    #[test]
    fn a_later_delivery_of_the_same_job_frees_the_earlier_one() {
        let mut holdings = Holdings::default();
        holdings.add(lease(1, 1), 7, 100);
        holdings.add(lease(1, 2), 8, 100);
        let mut all = Vec::new();
        holdings.replace_repeated(false, |one| all.push(one));
        assert_eq!(all, [freed(7, 1, 100)]);
        assert_eq!(holdings.leases().collect::<Vec<_>>(), [lease(1, 2)]);
    }

    #[test]
    fn an_answer_that_is_made_again_counts_its_deliveries_once() {
        let mut holdings = Holdings::default();
        (0..2).for_each(|_| holdings.add(lease(1, 1), 0, 100));
        holdings.replace_repeated(true, |_| ());
        assert_eq!(holdings.leases().collect::<Vec<_>>(), [lease(1, 1)]);
    }

    #[test]
    fn an_extended_lease_is_held_until_it_ends() {
        let mut holdings = Holdings::default();
        (1..=2).for_each(|job| holdings.add(lease(job, 1), 7, 100));
        let longer = Lease {
            deadline_ms: 2_000,
            ..lease(2, 1)
        };
        assert!(holdings.extend(longer, |_| ()) && !holdings.extend(lease(2, 2), |_| ()));
        assert!(holdings.leases().any(|lease| lease == longer));
    }

    #[test]
    fn a_sweep_gives_back_what_ended_elsewhere() {
        let mut holdings = Holdings::default();
        for job in 0..10 {
            holdings.add(lease(job, 1), 7, 10);
            if job == 4 {
                holdings.index(|_| ());
            }
        }
        let mut bytes = 0;
        holdings.sweep(|token| token.id.slot() % 2 == 0, |freed| bytes += freed.bytes);
        assert_eq!((bytes, holdings.leases().count()), (50, 5));
        holdings.detach(7);
        assert!(!holdings.wants_sweep());
    }
}
