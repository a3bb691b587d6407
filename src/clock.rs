//! The one place that reads a clock for engine and server.
//!
//! Wall time, since leases and due times must mean something after a restart; but anchored: read once at the
//! start and then carried on by the monotonic clock, so that it never steps back while the process lives. Nor does it
//! from one process to the next: it begins no earlier than the latest time in the log.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A clock that never steps back.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    /// Starts it at the present wall time.
    #[allow(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn start() -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        Self {
            started: Instant::now(),
            started_ms: wall,
        }
    }

    /// The same clock, moved on to `ms` if it is behind that.
    pub fn not_before(self, ms: u64) -> Self {
        let behind_ms = ms.saturating_sub(self.now_ms());
        Self {
            started_ms: self.started_ms + behind_ms,
            ..self
        }
    }

    /// Milliseconds since the Unix epoch.
    #[allow(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn now_ms(&self) -> u64 {
        self.started_ms + Instant::now().duration_since(self.started).as_millis() as u64
    }

    /// Nanoseconds since the clock was started, for what is shorter than a millisecond.
    #[cfg(feature = "server")]
    #[allow(clippy::disallowed_methods, reason = "this is where time enters")]
    pub fn passed_ns(&self) -> u64 {
        Instant::now().duration_since(self.started).as_nanos() as u64
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn it_is_only_moved_forward() {
        let clock = Clock::start();
        let later = clock.not_before(clock.now_ms() + 3_600_000);
        assert!(later.now_ms() >= clock.started_ms + 3_600_000);
        assert!(later.not_before(5).now_ms() >= later.started_ms);
    }
}
