//! The command line: one file for each subcommand.
//!
//! A subcommand is a struct of arguments and a function that returns `exit::Done`; nothing in here ends the
//! process, and nothing but `output` writes to standard output. This is the only room besides the server's and
//! the client's that may read clocks, open files and start threads.
#![allow(
    clippy::disallowed_methods,
    reason = "how long a push took and when a lease must be extended are measured here, on the user's side"
)]

mod args;
mod bench;
mod connect;
mod dead;
mod exit;
mod job;
mod log;
mod output;
mod push;
mod queue;
mod reading;
mod report;
mod serve;
mod stats;
mod units;
mod work;

use args::{Command, Parsed};
use exit::Done;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command line `arguments`, the program's name first, and returns what to exit with: 0 done, 1 the
/// server said no, 2 wrong usage, 3 no connection. A failure stands on standard error, on one line.
///
/// ```
/// use std::process::ExitCode;
/// let code = ackring::cli::run(["ackring", "--version"].map(Into::into));
/// assert_eq!(code, ExitCode::SUCCESS);
/// ```
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let done = match args::parse(arguments) {
        Ok(Parsed::Help(help)) => {
            // A pager that closed early has seen what it wanted.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
        Ok(Parsed::Run(cli)) => dispatch(&cli.global, cli.command),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::note(&failure.to_string());
            failure.exit_code()
        }
    }
}

fn dispatch(global: &args::Global, command: Command) -> Done {
    match command {
        Command::Serve(serve) => serve::run(global, serve),
        Command::Push(push) => push::run(global, push),
        Command::Work(work) => work::run(global, work),
        Command::Queue(queue) => queue::run(global, queue),
        Command::Job(job) => job::run(global, job),
        Command::Dead(dead) => dead::run(global, dead),
        Command::Stats(stats) => stats::run(global, &stats),
        Command::Bench(bench) => bench::run(global, &bench),
        Command::Log(log) => log::run(global, log),
    }
}
