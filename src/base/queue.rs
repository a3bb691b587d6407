//! What a queue is to everybody: its options and its counters.

use crate::base::limits;
use std::fmt;
use std::str::FromStr;

/// How much must have happened to a job's record before its confirmation is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "engine", derive(bincode::Encode, bincode::Decode))]
#[repr(u8)]
pub enum Durability {
    /// Not logged: lost when the process ends.
    Memory = 1,
    /// In the mapped log: survives `kill -9`, not a power cut. Synced in the background every second.
    Written = 2,
    /// On the disk (`fdatasync`) before the confirmation.
    Synced = 3,
}

impl Durability {
    /// Every level, weakest first.
    pub const ALL: [Durability; 3] = [Durability::Memory, Durability::Written, Durability::Synced];

    /// The level of that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| *level as u8 == number)
    }

    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Written => "written",
            Durability::Synced => "synced",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| format!("`{text}` is no durability; it is one of memory, written, synced"))
    }
}

/// How long a failed job waits before its next attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "engine", derive(bincode::Encode, bincode::Decode))]
pub enum Backoff {
    /// Twice as long after each failure, up to a cap, with jitter: a delay is drawn from the upper half of the
    /// interval ("equal jitter"), so that jobs that failed together do not return together.
    Exponential {
        /// Delay after the first failure, in milliseconds; 0 retries at once.
        base_ms: u32,
        /// No delay is longer than this, in milliseconds.
        cap_ms: u32,
    },
    /// Exactly these delays, one a failure, the last one repeated, in milliseconds.
    List(Vec<u32>),
}

/// How a queue behaves. Made once with the queue; `Default` is what a queue made on first use gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "engine", derive(bincode::Encode, bincode::Decode))]
pub struct QueueOptions {
    /// What a confirmation means unless the request asks for more.
    pub durability: Durability,
    /// Lease of a delivery, in milliseconds, unless the job or the reserve says otherwise.
    pub lease_ms: u32,
    /// Attempts of a job, unless the job says otherwise.
    pub max_attempts: u16,
    /// Pause between two attempts.
    pub backoff: Backoff,
    /// Most jobs at once: scheduled, ready, leased and dead.
    pub capacity_jobs: u64,
    /// Most payload and metadata bytes of those jobs.
    pub capacity_bytes: u64,
    /// Largest payload, in bytes.
    pub payload_bytes_max: u32,
    /// How long an idempotency key is remembered, in milliseconds.
    pub dedupe_window_ms: u64,
    /// How many finished jobs are kept for status look-ups and repeated acks.
    pub keep_finished: u32,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Written,
            lease_ms: limits::LEASE_MS_DEFAULT,
            max_attempts: limits::ATTEMPTS_DEFAULT,
            backoff: Backoff::Exponential {
                base_ms: limits::BACKOFF_BASE_MS_DEFAULT,
                cap_ms: limits::BACKOFF_CAP_MS_DEFAULT,
            },
            capacity_jobs: limits::QUEUE_JOBS_DEFAULT,
            capacity_bytes: limits::QUEUE_BYTES_DEFAULT,
            payload_bytes_max: limits::PAYLOAD_BYTES_DEFAULT,
            dedupe_window_ms: limits::DEDUPE_WINDOW_MS_DEFAULT,
            keep_finished: limits::KEEP_FINISHED_DEFAULT,
        }
    }
}

/// Why queue options were refused: which option, and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionsError(pub &'static str);

impl QueueOptions {
    /// Checks every option against the limits.
    ///
    /// # Errors
    /// Names the first option that is out of its range.
    pub fn check(&self) -> Result<(), OptionsError> {
        let wrong = |message| Err(OptionsError(message));
        if !(limits::LEASE_MS_MIN..=limits::LEASE_MS_MAX).contains(&self.lease_ms) {
            return wrong("lease must be between 1 ms and 24 h");
        }
        if !(1..=limits::ATTEMPTS_MAX).contains(&self.max_attempts) {
            return wrong("max attempts must be between 1 and 60000");
        }
        match &self.backoff {
            Backoff::Exponential { base_ms, cap_ms } => {
                if *cap_ms > limits::BACKOFF_MS_MAX || base_ms > cap_ms {
                    return wrong("backoff must not exceed its cap, and the cap must not exceed 30 days");
                }
            }
            Backoff::List(list) => {
                if list.is_empty() || list.len() > limits::BACKOFF_LIST_MAX {
                    return wrong("a backoff list has 1 to 64 delays");
                }
                if list.iter().any(|delay| *delay > limits::BACKOFF_MS_MAX) {
                    return wrong("a backoff delay must not exceed 30 days");
                }
            }
        }
        if self.capacity_jobs == 0 || self.capacity_jobs > limits::QUEUE_JOBS_DEFAULT {
            return wrong("capacity must be between 1 and 2^30 jobs");
        }
        if self.capacity_bytes == 0 || self.capacity_bytes > limits::QUEUE_BYTES_DEFAULT {
            return wrong("byte capacity must be between 1 byte and 1 TiB");
        }
        if self.payload_bytes_max > limits::PAYLOAD_BYTES_MAX {
            return wrong("payload limit must not exceed 16 MiB");
        }
        if self.dedupe_window_ms > limits::DEDUPE_WINDOW_MS_MAX {
            return wrong("dedupe window must not exceed 30 days");
        }
        if self.keep_finished > limits::KEEP_FINISHED_MAX {
            return wrong("finished jobs to keep must not exceed 16777216");
        }
        Ok(())
    }
}

/// Checks a queue name: 1 to 128 bytes of letters, digits and `. _ - : / @ +`.
///
/// # Errors
/// Says what a name may be.
pub fn check_queue_name(name: &str) -> Result<(), OptionsError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@+".contains(&b);
    if name.is_empty() || name.len() > limits::QUEUE_NAME_BYTES_MAX || !name.bytes().all(allowed) {
        return Err(OptionsError(
            "a queue name is 1 to 128 of the characters A-Z a-z 0-9 . _ - : / @ +",
        ));
    }
    Ok(())
}

/// A snapshot of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStats {
    /// The queue.
    pub name: String,
    /// Whether handing out is paused.
    pub paused: bool,
    /// Its options.
    pub options: QueueOptions,
    /// Jobs by where they stand.
    pub counts: QueueCounts,
}

/// The numbers of [`QueueStats`], in the order of the wire: sixteen 64-bit words. The first six count jobs that are
/// there now; the rest count events since the queue was made, restarts included (but for jobs of durability
/// `memory`, whose events are counted since the last start).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueCounts {
    /// Jobs that can be reserved now.
    pub ready: u64,
    /// Jobs that wait for their due time.
    pub scheduled: u64,
    /// Jobs handed out under a lease.
    pub leased: u64,
    /// Dead jobs kept.
    pub dead: u64,
    /// Finished jobs (done, cancelled, expired) still kept for look-ups.
    pub kept: u64,
    /// Payload and metadata bytes of the jobs that are not finished.
    pub bytes: u64,
    /// Jobs accepted.
    pub enqueued: u64,
    /// Jobs acked.
    pub done: u64,
    /// Deliveries handed out.
    pub deliveries: u64,
    /// Deliveries that ended in a nack or rejection.
    pub failures: u64,
    /// Deliveries whose lease ran out.
    pub expiries: u64,
    /// Deliveries given back without using an attempt.
    pub releases: u64,
    /// Jobs that became dead.
    pub buried: u64,
    /// Dead jobs brought back.
    pub redriven: u64,
    /// Jobs cancelled or purged.
    pub cancelled: u64,
    /// Jobs that passed their TTL unserved.
    pub expired: u64,
}
