//! Every refusal has a stable number, a class that says what a caller can do about it, and a scope that says how
//! much it hit. Only the number is API; texts are for people.

use std::fmt;

/// What a caller can do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// It is no failure: what was asked for holds already.
    Success,
    /// Send the same request again at once.
    RetryNow,
    /// Send the same request again after the pause that the refusal names.
    RetryLater,
    /// Connect again, then send the same request.
    Reconnect,
    /// The request is wrong and will stay so: a bug or a state that the caller must look at.
    Caller,
    /// Whether the request was applied cannot be told any more.
    OutcomeUnknown,
}

/// How much a refusal hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One position of a batch; the others went through.
    Item,
    /// The whole request, and nothing of it was applied.
    Request,
    /// The connection, which is closed after the answer.
    Connection,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal, $class:ident, $scope:ident;)+) => {
        /// The stable numbers. See `PROTOCOL.md` for the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[doc = $doc])+ $name = $number,)+ }

        impl ErrorCode {
            /// Every code, in the order of its number.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+];

            /// The name on the wire's table, in capitals.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)+ }
            }

            /// What a caller can do about it.
            pub fn class(self) -> Class {
                match self { $(ErrorCode::$name => Class::$class,)+ }
            }

            /// How much it hit.
            pub fn scope(self) -> Scope {
                match self { $(ErrorCode::$name => Scope::$scope,)+ }
            }
        }
    };
}

codes! {
    /// The ack (or other settlement) was applied before.
    AlreadySettled = 1, "ALREADY_SETTLED", Success, Item;
    /// Same key, same body, within the window: the first job's id is answered.
    Duplicate = 2, "DUPLICATE", Success, Item;
    /// The request was applied before, and its details are no longer kept.
    AlreadyApplied = 3, "ALREADY_APPLIED", Success, Request;

    /// The token is not that of the current delivery; nothing changed.
    LeaseLost = 16, "LEASE_LOST", Caller, Item;
    /// No such job: never there, or finished and no longer kept.
    JobNotFound = 17, "JOB_NOT_FOUND", Caller, Item;
    /// Same key, another body, within the window.
    KeyConflict = 18, "KEY_CONFLICT", Caller, Item;
    /// The job is not in a state in which that can be done.
    WrongState = 19, "WRONG_STATE", Caller, Item;

    /// The queue does not exist or was deleted; open it again by name.
    QueueNotFound = 32, "QUEUE_NOT_FOUND", Caller, Request;
    /// The queue exists with other options.
    QueueExists = 33, "QUEUE_EXISTS", Caller, Request;
    /// The queue's capacity in jobs or bytes is reached.
    QueueFull = 34, "QUEUE_FULL", RetryLater, Request;
    /// The engine holds as many jobs as it can.
    SlabFull = 35, "SLAB_FULL", RetryLater, Request;
    /// The log's space is used up for new jobs; settlements still fit.
    LogFull = 36, "LOG_FULL", RetryLater, Request;
    /// The payload is larger than the queue takes.
    PayloadTooLarge = 37, "PAYLOAD_TOO_LARGE", Caller, Request;
    /// An option, priority, time or name is out of its range.
    InvalidArgument = 38, "INVALID_ARGUMENT", Caller, Request;
    /// More items in one request than allowed.
    BatchTooLarge = 39, "BATCH_TOO_LARGE", Caller, Request;
    /// As many queues, keys, sessions or waiters as the server can keep, or bytes of requests on their way.
    LimitReached = 40, "LIMIT_REACHED", RetryLater, Request;
    /// The same numbered request is being applied right now on another connection.
    InProgress = 41, "IN_PROGRESS", RetryNow, Request;
    /// The request's number is older than the session's window.
    SessionExpired = 42, "SESSION_EXPIRED", OutcomeUnknown, Request;
    /// One settlement of an atomic step was refused, so nothing of the step was applied.
    StepRefused = 43, "STEP_REFUSED", Caller, Request;

    /// The op is not known to this server; the connection goes on.
    Unsupported = 48, "UNSUPPORTED", Caller, Request;
    /// The body does not have the layout of its op, or a reserved bit is set; the connection goes on.
    Malformed = 49, "MALFORMED", Caller, Request;
    /// The frame is shorter than its header or longer than allowed; framing is lost.
    BadFrame = 50, "BAD_FRAME", Reconnect, Connection;
    /// The first frame was not HELLO, or HELLO came twice or too late.
    HelloExpected = 51, "HELLO_EXPECTED", Reconnect, Connection;
    /// No protocol version in common.
    VersionMismatch = 52, "VERSION_MISMATCH", Caller, Connection;
    /// As many connections as the server takes.
    TooManyConnections = 53, "TOO_MANY_CONNECTIONS", Reconnect, Connection;
    /// The server stops; connect again later.
    ShuttingDown = 54, "SHUTTING_DOWN", Reconnect, Connection;
    /// The log failed (a sync or a write); nothing more is confirmed until a restart.
    LogPoisoned = 55, "LOG_POISONED", OutcomeUnknown, Connection;
}

impl ErrorCode {
    /// The code of that number, or `None` where this version knows none.
    ///
    /// ```
    /// use ackring::ErrorCode;
    /// assert_eq!(ErrorCode::from_u16(16), Some(ErrorCode::LeaseLost));
    /// assert_eq!(ErrorCode::from_u16(9_999), None);
    /// ```
    pub fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| *code as u16 == number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One position of a batch that did not go the plain way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemError {
    /// Position in the request, from 0.
    pub position: u32,
    /// What happened to it. `AlreadySettled` and `Duplicate` are successes.
    pub code: ErrorCode,
}

/// A whole request refused: nothing of it was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Refusal {
    /// The stable number.
    pub code: ErrorCode,
    /// For `RetryLater`: how long to wait before the next try, in milliseconds; else 0.
    pub retry_ms: u32,
    /// What to do about it, for people, in one line.
    pub text: String,
}

impl Refusal {
    /// A refusal with the retry time that fits its class.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        let retry_ms = if code.class() == Class::RetryLater {
            crate::base::limits::RETRY_LATER_MS
        } else {
            0
        };
        Self {
            code,
            retry_ms,
            text: text.into(),
        }
    }
}
