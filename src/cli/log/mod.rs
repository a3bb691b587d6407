//! `ackring log`: looks at the log of a server that is not running, and changes nothing.

mod record;

use super::args::Global;
use super::exit::{Done, Failure, stdout_result};
use super::output;
use super::units::show_bytes;
use crate::log::{BadRange, Corruption, InspectReport, OpenError, Recovered, inspect};
use clap::{Args, Subcommand};
use record::Record;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

/// Subcommands of `ackring log`.
#[derive(Debug, Subcommand)]
pub(crate) enum Log {
    /// Check that all of a log can be read
    #[command(after_help = "\
Exit code 0 means that a server would start on this log, 1 that it would not, or that one is running on it.

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
        Log::Verify(Directory { directory }) => {
            let mut strange = 0u64;
            let mut visit = |record: Recovered<'_>| strange += u64::from(Record::read(&record).is_none());
            let report = inspect(&directory, &mut visit).map_err(not_opened)?;
            verdict(global, &report, strange)
        }
        Log::Dump(Directory { directory }) => {
            let mut out = BufWriter::new(io::stdout().lock());
            let mut written = Ok(());
            let mut visit = |record: Recovered<'_>| {
                // A reader that has gone away wants nothing more, and the log is only read.
                if written.is_ok() {
                    written = dump(&mut out, &record, global.json);
                }
            };
            let report = inspect(&directory, &mut visit).map_err(not_opened)?;
            stdout_result(written.and_then(|()| out.flush()))?;
            check(&report.corruptions)
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

/// What `verify` found, as JSON.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    segments: Vec<SegmentReport>,
    segment_bytes: u32,
    spares: usize,
    records: u64,
    bytes: u64,
    unreadable: u64,
    torn_tail: bool,
    holes: Vec<RangeReport>,
    corruptions: Vec<CorruptionReport>,
    end: String,
}

#[derive(Debug, Serialize)]
struct SegmentReport {
    file: String,
    sequence: u32,
    boot: u32,
    records: u64,
}

#[derive(Debug, Serialize)]
struct RangeReport {
    start: String,
    end: String,
}

#[derive(Debug, Serialize)]
struct CorruptionReport {
    file: String,
    offset: u64,
    reason: String,
}

fn verdict(global: &Global, report: &InspectReport, unreadable: u64) -> Done {
    if global.json {
        output::json(&as_json(report, unreadable))?;
    } else {
        output::line(&format!(
            "{} records, {} in {} segments of {}, {} spare; ends at {}",
            report.records,
            show_bytes(report.bytes),
            report.segments.len(),
            show_bytes(u64::from(report.segment_bytes)),
            report.spares,
            report.end
        ))?;
        for hole in &report.holes {
            output::line(&format!(
                "never confirmed, and passed over: {} to {}",
                hole.start, hole.end
            ))?;
        }
        if report.torn_tail {
            output::line("the last record was cut off by a crash, and is passed over")?;
        }
        for corruption in &report.corruptions {
            output::line(&format!("corrupt: {corruption}"))?;
        }
    }
    check(&report.corruptions)?;
    if unreadable > 0 {
        return Err(Failure::refused(format!(
            "{unreadable} records are whole but not understood; was the log written by a newer program?"
        )));
    }
    Ok(())
}

fn as_json(report: &InspectReport, unreadable: u64) -> Verdict {
    let segments = report.segments.iter().map(|segment| SegmentReport {
        file: segment.path.display().to_string(),
        sequence: segment.sequence,
        boot: segment.boot,
        records: segment.records,
    });
    let range = |range: &BadRange| RangeReport {
        start: range.start.to_string(),
        end: range.end.to_string(),
    };
    let corruption = |corruption: &Corruption| CorruptionReport {
        file: corruption.path.display().to_string(),
        offset: corruption.offset,
        reason: corruption.reason.clone(),
    };
    Verdict {
        ok: report.corruptions.is_empty() && unreadable == 0,
        segments: segments.collect(),
        segment_bytes: report.segment_bytes,
        spares: report.spares,
        records: report.records,
        bytes: report.bytes,
        unreadable,
        torn_tail: report.torn_tail,
        holes: report.holes.iter().map(range).collect(),
        corruptions: report.corruptions.iter().map(corruption).collect(),
        end: report.end.to_string(),
    }
}

/// A failure where the log is damaged.
fn check(corruptions: &[Corruption]) -> Done {
    match corruptions {
        [] => Ok(()),
        [first, rest @ ..] => Err(Failure::refused(format!(
            "the log is corrupt, {first} ({} more places); restore it from a copy, or give up what cannot be read \
             with `ackring serve --salvage`",
            rest.len()
        ))),
    }
}
