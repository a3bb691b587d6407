//! How busy a reactor is: which part of the time it does not wait.
//!
//! The clock has milliseconds and a turn takes microseconds; but every millisecond that passes does so either in a
//! turn or in a wait, so over a window both come out right.

/// Time over which the load is taken, in milliseconds.
pub(super) const WINDOW_MS: u64 = 100;
/// A load that was told so long ago is none: its reactor sleeps, in milliseconds.
const STALE_MS: u64 = 5 * WINDOW_MS;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Load {
    /// When the present window began, in milliseconds since the Unix epoch; 0 before the first.
    since_ms: u64,
    rested_ms: u64,
    rests_since_ms: u64,
}

impl Load {
    /// The reactor begins to wait.
    pub(super) fn rest(&mut self, now_ms: u64) {
        self.rests_since_ms = now_ms;
    }

    /// It goes on.
    pub(super) fn go_on(&mut self, now_ms: u64) {
        self.rested_ms += now_ms.saturating_sub(self.rests_since_ms);
        self.rests_since_ms = now_ms;
    }

    /// Once in a window: which part of it the reactor was busy, in percent, and when the window began.
    pub(super) fn take(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        let passed_ms = now_ms.saturating_sub(self.since_ms);
        if passed_ms < WINDOW_MS {
            return None;
        }
        // What passed before the first turn was no work.
        let is_first = self.since_ms == 0;
        let busy_ms = passed_ms.saturating_sub(self.rested_ms);
        let since_ms = std::mem::replace(&mut self.since_ms, now_ms);
        self.rested_ms = 0;
        (!is_first).then_some((busy_ms * 100 / passed_ms, since_ms))
    }
}

/// A load in one word, with the time at which it was so.
pub(super) fn told(busy: u64, now_ms: u64) -> u64 {
    now_ms << 8 | busy
}

/// The load in such a word, in percent.
pub(super) fn heard(word: u64, now_ms: u64) -> u64 {
    let is_fresh = now_ms.saturating_sub(word >> 8) <= STALE_MS;
    if is_fresh { word & 0xff } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_waited_is_busy() {
        let mut load = Load::default();
        assert_eq!(load.take(1_000), None, "it begins");
        for turn in 0..100 {
            load.rest(1_000 + turn);
            // Three of four milliseconds pass in the wait.
            load.go_on(1_000 + turn + u64::from(turn % 4 != 0));
            assert_eq!(load.take(1_000 + turn), None);
        }
        assert_eq!(load.take(1_100), Some((25, 1_000)));
    }

    #[test]
    fn an_old_load_is_none() {
        let word = told(97, 1_700_000_000_000);
        assert_eq!(heard(word, 1_700_000_000_000 + STALE_MS), 97);
        assert_eq!(heard(word, 1_700_000_000_001 + STALE_MS), 0);
    }
}
