//! How a command ends: the exit codes, and the one line that says why.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes of `ackring`, the same for every subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// The server (or for `serve` and `log` the data directory) said no.
    Refused = 1,
    /// The arguments, or a file that they name, make no sense.
    Usage = 2,
    /// No server answered in time.
    NoConnection = 3,
    /// `log verify`: sound but for an end that a crash left.
    Torn = 4,
    /// `log`: something is damaged.
    Corrupt = 5,
}

/// Why a command did not do what it was asked to: a code for scripts and one line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Code,
    text: String,
}

impl Failure {
    /// Exit code 1.
    pub(crate) fn refused(text: impl fmt::Display) -> Self {
        Self {
            code: Code::Refused,
            text: text.to_string(),
        }
    }

    /// Exit code 2.
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self {
            code: Code::Usage,
            text: text.to_string(),
        }
    }

    /// Exit code 3.
    pub(crate) fn no_connection(text: impl fmt::Display) -> Self {
        Self {
            code: Code::NoConnection,
            text: text.to_string(),
        }
    }

    /// Exit code 4.
    pub(crate) fn torn(text: impl fmt::Display) -> Self {
        Self {
            code: Code::Torn,
            text: text.to_string(),
        }
    }

    /// Exit code 5.
    pub(crate) fn corrupt(text: impl fmt::Display) -> Self {
        Self {
            code: Code::Corrupt,
            text: text.to_string(),
        }
    }

    /// Whether the server is out of reach.
    pub(crate) fn is_no_connection(&self) -> bool {
        self.code == Code::NoConnection
    }

    /// The same failure, with what was being done in front of it.
    pub(crate) fn while_doing(self, what: impl fmt::Display) -> Self {
        Self {
            text: format!("{what}: {}", self.text),
            ..self
        }
    }

    /// What the process exits with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }
}

impl fmt::Display for Failure {
    /// The text on one line, whatever an underlying error put into it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self
            .text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .enumerate()
        {
            f.write_str(if index == 0 { "" } else { " " })?;
            f.write_str(line)?;
        }
        Ok(())
    }
}

/// What commands return.
pub(crate) type Done = Result<(), Failure>;

/// A failure to write to standard output. A reader that went away is no failure: the rest is simply not wanted.
pub(crate) fn stdout_result(result: io::Result<()>) -> Done {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::refused(format!(
            "cannot write to standard output: {error}"
        ))),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::refused("first\n  second\n\nthird").while_doing("push");
        assert_eq!(failure.to_string(), "push: first second third");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(stdout_result(Err(io::ErrorKind::BrokenPipe.into())), Ok(()));
        assert!(stdout_result(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
