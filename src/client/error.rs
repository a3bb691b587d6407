//! What can become of a call, one kind for each thing that a caller can do about it.

use crate::base::code::{Class, ErrorCode, ItemError, Refusal};

/// Why a call did not succeed.
///
/// | kind | was it applied? | what to do |
/// |---|---|---|
/// | `Refused` | no | change the request, or look at the state it met |
/// | `RetryLater` | no | call again after `retry_ms` |
/// | `NoConnection`, `Timeout` | no | call again; is the server up? |
/// | `OutcomeUnknown` | perhaps | look, or live with a repeat |
/// | `Protocol` | perhaps | the server speaks something else; update one of the two |
/// | `Address`, `Closed` | no | a bug of the caller |
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server said no, and will say so again.
    #[error("{0}")]
    Refused(Refusal),
    /// A limit is reached; the refusal says which, and when to try again.
    #[error("{0}; try again in {pause} ms", pause = .0.retry_ms)]
    RetryLater(Refusal),
    /// The server could not be reached within the deadline, so nothing was sent.
    #[error("no connection to {server}: {reason}; is the server running there?")]
    NoConnection {
        /// The address.
        server: String,
        /// What the last attempt met.
        reason: String,
    },
    /// No answer within the deadline, to a request that changes nothing or was not sent.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// The request was sent, and whether it was applied cannot be told: no answer came within the deadline, or the
    /// server no longer knows the session.
    #[error("outcome unknown ({reason}): the request may or may not have been applied")]
    OutcomeUnknown {
        /// The request's number in the session.
        number: u64,
        /// Why it cannot be told.
        reason: String,
    },
    /// The server answered something that this version does not understand.
    #[error("the server does not speak this client's protocol: {0}")]
    Protocol(String),
    /// The server's address is none.
    #[error("{0}; an address is HOST:PORT or unix:PATH")]
    Address(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// The server's code, if it answered one.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(refusal) | Self::RetryLater(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// What a caller can do about it; `None` for a timeout and for what is no matter of the server.
    pub fn class(&self) -> Option<Class> {
        match self {
            Self::Refused(refusal) | Self::RetryLater(refusal) => Some(refusal.code.class()),
            Self::NoConnection { .. } => Some(Class::Reconnect),
            Self::OutcomeUnknown { .. } => Some(Class::OutcomeUnknown),
            _ => None,
        }
    }

    /// A refusal as the error of its class.
    pub(crate) fn from_refusal(refusal: Refusal, number: u64) -> Self {
        match refusal.code.class() {
            Class::RetryLater => Self::RetryLater(refusal),
            Class::OutcomeUnknown => Self::OutcomeUnknown {
                number,
                reason: refusal.to_string(),
            },
            _ => Self::Refused(refusal),
        }
    }

    /// The only item of a request that had one.
    pub(crate) fn check_single(items: &[ItemError]) -> Result<(), Self> {
        match items.first() {
            Some(item) if item.code.class() != Class::Success => {
                Err(Self::Refused(Refusal::new(item.code, text_of(item.code))))
            }
            _ => Ok(()),
        }
    }
}

fn text_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::LeaseLost => "the lease is over or another worker has the job; stop the work",
        ErrorCode::JobNotFound => "there is no such job, or it finished and is no longer kept",
        ErrorCode::WrongState => "the job is not in a state in which that can be done",
        ErrorCode::KeyConflict => "the key was used for another job",
        _ => "the request was refused",
    }
}
