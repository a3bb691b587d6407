//! `ackring log`: looks at the log of a server that is not running, and changes nothing.

mod record;
mod verify;

use super::args::Global;
use super::exit::{Done, Failure, stdout_result};
use crate::log::{Corruption, LogVisitor, OpenError, ReadProgress, Recovered, inspect_with};
use clap::{Args, Subcommand};
use record::Record;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Subcommands of `ackring log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Check that all of a log can be read
    #[command(after_help = "\
Says what a start would bring back, what is damaged, and what would be lost without that. Changes nothing.

Exit codes: 0 sound; 4 sound but for a torn end that a crash left and a start passes over; 5 corrupt: a server
refuses to start without --salvage; 1 it cannot be read, or a server is running on it.

Examples:
  ackring log verify ./ackring-data
  ackring log verify /var/lib/ackring --json")]
    Verify(Directory),
    /// Print the records of a log, one a line
    #[command(after_help = "\
With --json each line is an object with position, time_ms, kind, and what the record says of which jobs.

Examples:
  ackring log dump ./ackring-data
  ackring log dump ./ackring-data --json | grep 0000000100000002")]
    Dump(Directory),
}

/// Where the log is.
#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The server's data directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Runs one of the subcommands.
pub(crate) fn run(global: &Global, log: Log) -> Done {
    match log {
        Log::Verify(Directory { directory }) => verify::run(global, &directory),
        Log::Dump(Directory { directory }) => dump_all(global, &directory),
    }
}

fn dump_all(global: &Global, directory: &Path) -> Done {
    let mut dumping = Dumping {
        out: BufWriter::new(io::stdout().lock()),
        as_json: global.json,
        written: Ok(()),
    };
    let reading = inspect_with(directory, &mut dumping).map_err(not_opened)?;
    stdout_result(dumping.written.and_then(|()| dumping.out.flush()))?;
    // Without one, the reader has gone away.
    reading.map_or(Ok(()), |reading| check(reading.corruptions()))
}

/// Prints records until nobody wants more.
struct Dumping<'a> {
    out: BufWriter<StdoutLock<'a>>,
    as_json: bool,
    written: io::Result<()>,
}

impl LogVisitor for Dumping<'_> {
    fn record(&mut self, record: Recovered<'_>) {
        if self.written.is_ok() {
            self.written = dump(&mut self.out, &record, self.as_json);
        }
    }

    fn progress(&mut self, _: &ReadProgress) -> ControlFlow<()> {
        match self.written {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}

/// One line for one record.
fn dump(out: &mut impl Write, record: &Recovered<'_>, as_json: bool) -> io::Result<()> {
    match (Record::read(record), as_json) {
        (Some(readable), true) => serde_json::to_writer(&mut *out, &readable)?,
        (Some(readable), false) => write!(out, "{readable}")?,
        (None, true) => serde_json::to_writer(&mut *out, &Record::unreadable(record))?,
        (None, false) => write!(out, "{}", Record::unreadable(record))?,
    }
    out.write_all(b"\n")
}

fn not_opened(error: OpenError) -> Failure {
    Failure::refused(error)
}

/// A failure where the log is damaged.
fn check(corruptions: &[Corruption]) -> Done {
    match corruptions {
        [] => Ok(()),
        [first, rest @ ..] => Err(Failure::corrupt(format!(
            "the log is corrupt, {first} ({} more places); restore it from a copy, or give up what cannot be read \
             with `ackring serve --salvage`",
            rest.len()
        ))),
    }
}
