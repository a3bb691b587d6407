//! `ackring work`: runs a command for each job.
//!
//! One thread takes jobs from the server, `-j` threads run the command and settle, one extends leases, one waits
//! for signals; the [`board`] is all that they share.

mod board;
mod child;
mod fetch;
mod leases;
mod result;
mod runner;
mod settle;
mod signals;
mod tail;

use super::args::Global;
use super::connect::connect_patiently;
use super::exit::{Done, Failure};
use super::{output, units};
use crate::base::limits::RESERVE_JOBS_MAX;
use board::{Board, Tally};
use child::Program;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use fetch::Fetcher;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Arguments of `ackring work`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command gets the payload on standard input, and in its environment ACKRING_JOB_ID, ACKRING_ATTEMPT,
ACKRING_QUEUE, and ACKRING_META if the job has metadata. Exit code 0 acks the job, 65 rejects it for good, any
other nacks it with the end of its standard error as the error. Leases are extended while it runs.

SIGTERM or SIGINT: what runs is finished, the rest is given back; a second one kills what runs, which counts as a
failed attempt. A server that restarts is waited for.

With --batch N one run gets up to N jobs, a line each, and ACKRING_JOB_ID and ACKRING_ATTEMPT hold a word for
each. The run's exit code counts for all of them, so the command should take effect for all or for none; a job
that was tried before is run alone, so that a bad one does not use up the attempts of its neighbours.

Examples:
  ackring work mail -- ./send-mail --from me@example.org
  ackring work pictures -j 4 --lease 5m -- sh -c 'convert - \"$ACKRING_JOB_ID.png\"'
  ackring work hits --batch 1000 --until-empty -- ./import-lines
  ackring work mail --max-jobs 1 -- cat")]
pub(crate) struct Work {
    /// The queue; it is made when it does not exist
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Runs at a time
    #[arg(short = 'j', long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    jobs: usize,
    /// Jobs for one run, a line each
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=RESERVE_JOBS_MAX as u64))]
    batch: Option<usize>,
    /// Runs to have jobs ready for beside those that run; other workers do not get these jobs meanwhile
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = RangedU64ValueParser::<usize>::new().range(..=1024))]
    prefetch: usize,
    /// Lease of a job, instead of its own; it is extended when a third of it is over
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true, value_parser = units::millis_u32)]
    lease: u32,
    /// End when nothing is ready, scheduled or leased any more
    #[arg(long)]
    until_empty: bool,
    /// End after so many attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_jobs: Option<u64>,
    /// Do not pass on what the command says on standard error
    #[arg(long, short = 'q')]
    quiet: bool,
    /// Keep what the command writes to standard output as the job's result, up to 64 KiB; see `ackring job get`
    #[arg(long, conflicts_with = "batch")]
    result: bool,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, last = true)]
    command: Vec<OsString>,
}

/// Works until there is a reason to stop, and says what became of the jobs.
pub(crate) fn run(global: &Global, work: Work) -> Done {
    crate::base::queue::check_queue_name(&work.queue).map_err(Failure::usage)?;
    let client = connect_patiently(global)?;
    let queue = client.queue(&work.queue)?;
    let board = Board::new();
    let is_over = AtomicBool::new(false);
    let program = Program {
        command: work.command.clone(),
        keep_stdout: global.json,
        quiet: work.quiet,
        takes_result: work.result,
    };
    let fetcher = Fetcher::new(&client, &queue, &board, &work);
    thread::scope(|scope| -> Done {
        let signals = signals::watch(scope, &board)?;
        let keeper = scope.spawn(|| settle::keep_leases(&client, &board, work.lease, &is_over));
        let runners: Vec<_> = (0..work.jobs)
            .map(|_| scope.spawn(|| runner::run(&client, &board, &program, work.batch.is_some())))
            .collect();
        fetcher.run();
        runners.into_iter().for_each(|runner| join(&board, runner));
        // Only what was never started is still waiting, and only when the worker was stopped.
        settle::release(&client, &board, &board.take_waiting());
        is_over.store(true, Ordering::Release);
        board.wake_keeper();
        join(&board, keeper);
        signals.close();
        Ok(())
    })?;
    let (tally, failure) = board.into_result();
    report(global, &tally)?;
    failure.map_or(Ok(()), Err)
}

fn join(board: &Board, thread: thread::ScopedJoinHandle<'_, ()>) {
    if thread.join().is_err() {
        board.fail(Failure::refused(
            "the worker has a bug and stopped early; jobs that it held come back",
        ));
    }
}

fn report(global: &Global, tally: &Tally) -> Done {
    if global.json {
        return output::json(tally);
    }
    let Tally {
        attempts,
        acked,
        nacked,
        rejected,
        released,
        lost,
    } = tally;
    // Standard output is the command's.
    output::note(&format!(
        "{attempts} attempts: {acked} acked, {nacked} nacked, {rejected} rejected, {lost} lost; {released} given back"
    ));
    Ok(())
}
