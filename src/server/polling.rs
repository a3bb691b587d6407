//! Looking for work again and again instead of sleeping, as long as that takes the core from nobody.
//!
//! A thread that polls lets others run between two looks. Where that takes longer than the call itself does, somebody
//! else wanted the core, a client that polls as well for instance; to sleep is better then, as whoever is woken goes
//! first, while one that polls stands behind all that do.

use crate::clock::Clock;

/// To let others run when there are none takes less than this, in nanoseconds.
const ALONE_NS: u64 = 1_500;
/// A longer one is a point, and so many nanoseconds of it are one more.
const POINT_NS: u64 = 250_000;
/// So many points, less one for each time that nobody ran, are no chance: an interrupt, a thread that has a moment's
/// work, a core that the machine takes for a few milliseconds come to less.
const CROWD: u64 = 20;
/// How long the core is taken to be wanted by others, in milliseconds.
const PAUSE_MS: u64 = 100;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Points for how others ran lately.
    crowd: u64,
    /// No polling before this, in milliseconds since the Unix epoch.
    not_before_ms: u64,
}

impl Polling {
    /// Lets others run, if one may poll at all now; says whether to look again instead of sleeping.
    pub(super) fn go_on(&mut self, clock: &Clock, now_ms: u64) -> bool {
        if now_ms < self.not_before_ms {
            return false;
        }
        let before_ns = clock.passed_ns();
        std::thread::yield_now();
        self.note(clock.passed_ns().saturating_sub(before_ns), now_ms)
    }

    fn note(&mut self, took_ns: u64, now_ms: u64) -> bool {
        if took_ns < ALONE_NS {
            self.crowd = self.crowd.saturating_sub(1);
            return true;
        }
        self.crowd += 1 + took_ns / POINT_NS;
        if self.crowd < CROWD {
            return true;
        }
        self.crowd = 0;
        self.not_before_ms = now_ms + PAUSE_MS;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_who_want_the_core_get_it_for_a_while() {
        let mut polling = Polling::default();
        let clock = Clock::start();
        // One who polls as well, and lets others run as soon.
        let noted: Vec<bool> = (0..CROWD).map(|_| polling.note(2_000, 1_000)).collect();
        assert_eq!(
            noted.iter().position(|goes_on| !goes_on),
            Some(CROWD as usize - 1)
        );
        assert!(!polling.go_on(&clock, 1_000 + PAUSE_MS - 1));
        assert!(polling.note(100, 1_000 + PAUSE_MS));
        // One who computes: gone for a time slice, and soon again.
        let noted = [4_000_000, 100, 100, 100, 4_000_000].map(|took_ns| polling.note(took_ns, 2_000));
        assert_eq!(noted, [true, true, true, true, false]);
    }

    #[test]
    fn whoever_needs_the_core_for_a_moment_ends_no_polling() {
        let mut polling = Polling::default();
        let burst = [3_000, 14_000, 9_000, 2_000, 5_000, 30_000];
        for _ in 0..1_000 {
            let rest = std::iter::repeat_n(200, 20);
            for took_ns in burst.into_iter().chain(rest).chain([3_500_000]) {
                assert!(polling.note(took_ns, 1_000));
            }
            assert!((0..20).all(|_| polling.note(200, 1_000)));
        }
    }
}
