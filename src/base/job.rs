//! What a job is to everybody: its id, its token, its state, and the status that people look at.

use std::fmt;
use std::str::FromStr;

/// Names one job for as long as the engine knows it, restarts included.
///
/// Opaque to clients. Inside, the upper 32 bits are the generation of the slot that the lower 32 bits number, so
/// that a look-up is an index and an id of a job long gone does not name its successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

impl JobId {
    /// Puts an id together from the slot's generation (never 0) and the slot number.
    pub fn new(generation: u32, slot: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// The slot number.
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    /// The generation of the slot.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not 1 to 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job id is 1 to 16 hexadecimal digits, as printed by `push --ids` or `job ls`; this is `{0}`")]
pub struct JobIdParseError(pub String);

impl FromStr for JobId {
    type Err = JobIdParseError;

    /// Reads the hexadecimal form that [`Display`](fmt::Display) writes.
    ///
    /// ```
    /// use ackring::JobId;
    /// let id: JobId = "0000000100000002".parse()?;
    /// assert_eq!(id.to_string(), "0000000100000002");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(JobIdParseError(text.to_owned()));
        }
        u64::from_str_radix(text, 16)
            .map(JobId)
            .map_err(|_| JobIdParseError(text.to_owned()))
    }
}

/// What a delivery carries and a settlement needs: which job, and which of its deliveries.
///
/// The attempt number only ever rises, so a token of an earlier delivery is refused with `LEASE_LOST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// The job.
    pub id: JobId,
    /// The number of this delivery, from 1.
    pub attempt: u16,
}

/// Where a job stands. The numbers are those of wire and log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum JobState {
    /// Waits for its due time: delayed, or between two attempts.
    Scheduled = 1,
    /// Can be reserved now.
    Ready = 2,
    /// Handed out under a lease.
    Leased = 3,
    /// Out of attempts, or rejected; kept until redriven, cancelled or purged.
    Dead = 4,
    /// Acked; kept while the queue's retention lasts.
    Done = 5,
    /// Cancelled; kept while the queue's retention lasts.
    Cancelled = 6,
    /// Its TTL passed before it could be handed out; kept while the queue's retention lasts.
    Expired = 7,
}

impl JobState {
    /// Every state, in the order of its number.
    pub const ALL: [JobState; 7] = [
        JobState::Scheduled,
        JobState::Ready,
        JobState::Leased,
        JobState::Dead,
        JobState::Done,
        JobState::Cancelled,
        JobState::Expired,
    ];

    /// The state of that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The lower-case name, as the command line prints it.
    pub fn name(self) -> &'static str {
        match self {
            JobState::Scheduled => "scheduled",
            JobState::Ready => "ready",
            JobState::Leased => "leased",
            JobState::Dead => "dead",
            JobState::Done => "done",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
        }
    }

    /// The state of that [`name`](Self::name), or `None`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the job is over: done, cancelled or expired.
    pub fn is_finished(self) -> bool {
        matches!(self, JobState::Done | JobState::Cancelled | JobState::Expired)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Everything the engine can tell about one job. Times are milliseconds since the Unix epoch, 0 for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// The job.
    pub id: JobId,
    /// The name of its queue.
    pub queue: String,
    /// Where it stands.
    pub state: JobState,
    /// Level it is served at; higher is first.
    pub priority: u8,
    /// Attempts used: deliveries less releases. This is what `max_attempts` bounds.
    pub attempts: u16,
    /// Attempts it may use before it is dead; redrive raises it.
    pub max_attempts: u16,
    /// Deliveries so far. The number of the last one is the attempt in its token.
    pub deliveries: u16,
    /// Deliveries that ended in a nack or a rejection.
    pub failures: u16,
    /// Deliveries whose lease ran out.
    pub expiries: u16,
    /// When it was accepted.
    pub enqueued_ms: u64,
    /// Scheduled: when it becomes ready. Leased: when the lease ends. Finished or dead: when that happened.
    pub at_ms: u64,
    /// When it expires if it was not handed out by then; 0 for never.
    pub expires_ms: u64,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// The metadata it was enqueued with; empty for a finished job whose body is gone.
    pub meta: Vec<u8>,
    /// The payload, where it was asked for (peek); otherwise empty.
    pub payload: Vec<u8>,
    /// The error text of the last failure, if there was one.
    pub last_error: Option<Vec<u8>>,
    /// The result that the ack brought, if it did.
    pub result: Option<Vec<u8>>,
}
