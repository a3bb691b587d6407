//! Looking for work again and again instead of sleeping, as long as that takes the core from nobody.
//!
//! A thread that polls lets others run between two looks. Where that takes longer than the call itself does, somebody
//! else wanted the core, a client that polls as well for instance; to sleep is better then, as whoever is woken goes
//! first, while one that polls stands behind all that do.

use crate::clock::Clock;

/// To let others run when there are none takes less than this, in nanoseconds.
const ALONE_NS: u64 = 1_500;
/// So many longer ones in a row are no chance, such as an interrupt.
const CROWD: u32 = 2;
/// How long the core is taken to be wanted by others, in milliseconds.
const PAUSE_MS: u64 = 100;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Polling {
    /// Times in a row that others ran.
    crowd: u32,
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
        self.crowd = if took_ns < ALONE_NS { 0 } else { self.crowd + 1 };
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
        // An interrupt now and then is nobody.
        let noted = [100, 9_000, 100, 9_000].map(|took_ns| polling.note(took_ns, 1_000));
        assert_eq!(noted, [true; 4]);
        assert!(!polling.note(2_000, 1_000));
        assert!(!polling.go_on(&clock, 1_000 + PAUSE_MS - 1));
        assert!(polling.note(100, 1_000 + PAUSE_MS));
    }
}
