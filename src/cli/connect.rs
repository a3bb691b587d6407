//! The way to a server, and what its refusals mean for a person at a terminal.

use super::args::Global;
use super::exit::Failure;
use crate::base::code::ErrorCode;
use crate::client::{Client, ClientConfig, ClientError};
use std::time::Duration;

/// Connects to the server that the arguments name.
///
/// # Errors
/// Wrong usage when the address is none, no connection when nobody answers there.
pub(crate) fn connect(global: &Global) -> Result<Client, Failure> {
    Ok(Client::connect(config(global)?)?)
}

/// As [`connect`], for commands that go on for long: they are to survive a restart of the server, so the pauses
/// between attempts to reconnect stay short.
///
/// # Errors
/// As [`connect`].
pub(crate) fn connect_patiently(global: &Global) -> Result<Client, Failure> {
    let mut config = config(global)?;
    config.reconnect.pause_max = Duration::from_millis(500);
    Ok(Client::connect(config)?)
}

/// How to connect to the server that the arguments name.
///
/// # Errors
/// Wrong usage when the address is none.
pub(crate) fn config(global: &Global) -> Result<ClientConfig, Failure> {
    let mut config = ClientConfig::to(&global.server)?;
    config.name = concat!("ackring ", env!("CARGO_PKG_VERSION")).to_owned();
    config.request_timeout = global.timeout;
    config.connect_timeout = config.connect_timeout.min(global.timeout);
    Ok(config)
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = error.code().map_or("", hint);
        match &error {
            ClientError::NoConnection { .. } => Failure::no_connection(format!(
                "{error} Start it with `ackring serve`, or name another with --server."
            )),
            ClientError::Timeout(_) | ClientError::OutcomeUnknown { .. } => Failure::no_connection(format!(
                "{error}; look at `ackring stats`, and try again or raise --timeout"
            )),
            ClientError::Address(_) => Failure::usage(error),
            _ => Failure::refused(format!("{error}{hint}")),
        }
    }
}

/// What to do about a refusal, where its own text cannot know.
fn hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::QueueNotFound => "; `ackring queue ls` shows those that exist",
        ErrorCode::JobNotFound => "; `ackring job ls QUEUE` shows the jobs of a queue",
        ErrorCode::QueueExists => {
            "; `ackring queue info NAME` shows its options, only a new queue takes others"
        }
        ErrorCode::QueueFull => "; wait for workers, or purge the queue",
        ErrorCode::PayloadTooLarge => "; make the queue with a larger --payload-max",
        _ => "",
    }
}
