//! `ackring log`: looks at the log of a server that is not running, and changes nothing.

use super::args::Global;
use super::exit::{Done, Failure};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Subcommands of `ackring log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Check that every record of a log can be read
    #[command(after_help = "Examples:\n  ackring log verify ./ackring-data")]
    Verify(Directory),
    /// Print the records of a log, one a line
    #[command(
        after_help = "Examples:\n  ackring log dump ./ackring-data\n  ackring log dump ./ackring-data --json | head"
    )]
    Dump(Directory),
}

/// Where the log is.
#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

pub(crate) fn run(_global: &Global, _log: Log) -> Done {
    Err(Failure::refused("x"))
}
