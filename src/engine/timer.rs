//! A hierarchical timing wheel (Varghese & Lauck, 1987): entering and firing cost O(1) a deadline.
//!
//! Six levels of 64 buckets. A bucket of level 0 is one tick, of level 1 64 ticks, and so on; an entry of a
//! higher level moves down when its bucket's turn comes. Nothing is ever cancelled: an entry that fires is
//! checked against the job's own state and deadline, and dropped or entered again.

use crate::base::job::JobId;
use crate::base::limits::TICK_MS;

const LEVELS: usize = 6;
const BUCKETS: usize = 64;
const BITS: u32 = 6;

/// What an entry watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// The due time or lease deadline of the job as of this delivery.
    Deadline(u16),
    /// The TTL of the job.
    Ttl,
}

/// An entry of the wheel: 16 bytes. The attempt, or 65535 for the TTL, stands in the upper 16 bits of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    packed: u64,
    /// The job.
    pub id: JobId,
}

const TTL_MARK: u16 = u16::MAX;
const TIME_BITS: u32 = 48;

impl Entry {
    /// Watches `what` of a job, to fire at `at_ms` or up to two ticks later.
    pub fn new(at_ms: u64, id: JobId, what: Watch) -> Self {
        let mark = match what {
            Watch::Deadline(attempt) => attempt,
            Watch::Ttl => TTL_MARK,
        };
        Self {
            packed: u64::from(mark) << TIME_BITS | (at_ms & ((1 << TIME_BITS) - 1)),
            id,
        }
    }

    /// When it is to fire, in milliseconds.
    pub fn at_ms(self) -> u64 {
        self.packed & ((1 << TIME_BITS) - 1)
    }

    /// What it watches.
    pub fn watch(self) -> Watch {
        match (self.packed >> TIME_BITS) as u16 {
            TTL_MARK => Watch::Ttl,
            attempt => Watch::Deadline(attempt),
        }
    }
}

/// The wheel. Not shared: the engine keeps it under a lock, which is taken once a batch.
pub struct Wheel {
    /// The tick up to which everything has fired.
    tick: u64,
    levels: Vec<Vec<Vec<Entry>>>,
    /// Entries by level, so that a clock that jumps skips what is empty.
    counts: [usize; LEVELS],
}

impl Wheel {
    /// An empty wheel that stands at `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        let level = || (0..BUCKETS).map(|_| Vec::new()).collect();
        Self {
            tick: now_ms / TICK_MS,
            levels: (0..LEVELS).map(|_| level()).collect(),
            counts: [0; LEVELS],
        }
    }

    /// How many entries there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Enters a deadline; one that has passed fires at the next tick.
    pub fn insert(&mut self, entry: Entry) {
        self.place(entry);
    }

    fn place(&mut self, entry: Entry) {
        // Rounded up: never early.
        let due = entry.at_ms().div_ceil(TICK_MS).max(self.tick + 1);
        let distance = due - self.tick;
        // Beyond the horizon (2^36 ticks, 21 years) it waits in the last bucket and is placed again from there.
        let (level, due) = match (0..LEVELS).find(|level| distance < 1 << (BITS * (*level as u32 + 1))) {
            Some(level) => (level, due),
            None => (LEVELS - 1, self.tick + (1 << (BITS * LEVELS as u32)) - 1),
        };
        let bucket = (due >> (BITS * level as u32)) as usize % BUCKETS;
        self.levels[level][bucket].push(entry);
        self.counts[level] += 1;
    }

    /// Moves on to `now_ms` and appends what fires to `fired`, until there are `budget` of them (then the rest
    /// comes with the next call; a bucket is not split). Says whether it got as far as `now_ms`.
    pub fn advance(&mut self, now_ms: u64, budget: usize, fired: &mut Vec<Entry>) -> bool {
        let target = now_ms / TICK_MS;
        while self.tick < target {
            if fired.len() >= budget {
                return false;
            }
            // The next tick at which anything can happen: a bucket of the lowest level that is not empty comes.
            let stride = match self.counts.iter().position(|count| *count > 0) {
                Some(level) => 1u64 << (BITS * level as u32),
                None => u64::MAX,
            };
            let next = (self.tick / stride).saturating_add(1).saturating_mul(stride);
            if next > target {
                self.tick = target;
                return true;
            }
            self.tick = next;
            // Lower levels first: what comes from further up was entered earlier and goes in front.
            for level in 1..LEVELS {
                if self.tick.is_multiple_of(1 << (BITS * level as u32)) {
                    self.come_down(level);
                }
            }
            let bucket = &mut self.levels[0][self.tick as usize % BUCKETS];
            self.counts[0] -= bucket.len();
            fired.append(bucket);
        }
        true
    }

    /// Spreads a bucket over the levels below. What comes down was entered before anything that was put there
    /// directly, so it goes in front: entries of one tick fire in the order in which they were entered.
    fn come_down(&mut self, level: usize) {
        let bucket = (self.tick >> (BITS * level as u32)) as usize % BUCKETS;
        let entries = std::mem::take(&mut self.levels[level][bucket]);
        if entries.is_empty() {
            return;
        }
        self.counts[level] -= entries.len();
        let below = self.levels[..level].iter_mut().flatten();
        let later: Vec<Vec<Entry>> = below.map(std::mem::take).collect();
        for entry in entries {
            if entry.at_ms().div_ceil(TICK_MS) <= self.tick {
                // Due now: level 0's bucket of this tick is emptied right after.
                self.levels[0][self.tick as usize % BUCKETS].push(entry);
                self.counts[0] += 1;
            } else {
                self.place(entry);
            }
        }
        let below = self.levels[..level].iter_mut().flatten();
        below.zip(later).for_each(|(bucket, later)| bucket.extend(later));
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn entry(at_ms: u64, n: u64) -> Entry {
        Entry::new(at_ms, JobId(n), Watch::Deadline(1))
    }

    fn fire_times(start_ms: u64, deadlines: &[u64], step_ms: u64) -> Vec<(u64, u64)> {
        let mut wheel = Wheel::new(start_ms);
        for (n, at) in deadlines.iter().enumerate() {
            wheel.insert(entry(*at, n as u64));
        }
        let mut fired_at = Vec::new();
        let mut now = start_ms;
        while wheel.len() > 0 {
            now += step_ms;
            let mut fired = Vec::new();
            assert!(wheel.advance(now, usize::MAX, &mut fired));
            fired_at.extend(fired.iter().map(|e| (e.id.0, now)));
        }
        fired_at
    }

    #[test]
    fn fires_within_two_ticks_and_never_early() {
        let start = 1_000_003;
        let deadlines: Vec<u64> = (0..3_000)
            .map(|n| start + n * 37)
            .chain([start, start + 5_000_000])
            .collect();
        let fired = fire_times(start, &deadlines, TICK_MS);
        assert_eq!(fired.len(), deadlines.len());
        for (n, at) in fired {
            let due = deadlines[n as usize];
            assert!(
                at >= due && at <= due.max(start) + 2 * TICK_MS,
                "due {due} fired {at}"
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_far_ahead_fires_all_once() {
        let deadlines: Vec<u64> = (1..500).map(|n| n * n * 1_009).collect();
        let fired = fire_times(0, &deadlines, 1_000_000_000);
        assert_eq!(fired.len(), deadlines.len());
    }

    #[test]
    fn entries_of_one_tick_fire_in_the_order_in_which_they_were_entered() {
        let mut wheel = Wheel::new(0);
        let due = 5_000 * TICK_MS;
        let mut fired = Vec::new();
        for n in 0..500 {
            wheel.insert(entry(due, n));
            assert!(wheel.advance(n * TICK_MS * 10, usize::MAX, &mut fired));
        }
        assert!(wheel.advance(due, usize::MAX, &mut fired));
        let order: Vec<u64> = fired.iter().map(|entry| entry.id.0).collect();
        assert_eq!(order, (0..500).collect::<Vec<_>>());
    }

    #[test]
    fn a_clock_set_from_1970_to_today_does_not_walk_every_tick() {
        let mut wheel = Wheel::new(0);
        wheel.insert(entry(1_000, 1));
        wheel.insert(entry(crate::base::limits::DELAY_MS_MAX, 2));
        let mut fired = Vec::new();
        assert!(wheel.advance(1_800_000_000_000, usize::MAX, &mut fired));
        assert_eq!(fired.len(), 2);
    }

    #[test]
    fn a_budget_is_kept_and_the_rest_comes_later() {
        let mut wheel = Wheel::new(0);
        (0..100).for_each(|n| wheel.insert(entry(n * TICK_MS, n)));
        let mut fired = Vec::new();
        assert!(!wheel.advance(10_000, 10, &mut fired));
        assert!(fired.len() >= 10 && fired.len() < 20);
        assert!(wheel.advance(10_000, usize::MAX, &mut fired));
        assert_eq!(fired.len(), 100);
    }

    #[test]
    fn ten_years_ahead_is_not_early() {
        let mut wheel = Wheel::new(0);
        let ten_years = crate::base::limits::DELAY_MS_MAX;
        wheel.insert(entry(ten_years, 1));
        let mut fired = Vec::new();
        assert!(wheel.advance(1_000_000, usize::MAX, &mut fired));
        assert!(fired.is_empty());
        assert_eq!(Entry::new(ten_years, JobId(1), Watch::Ttl).watch(), Watch::Ttl);
    }
}
