//! What the command line looks like as a whole. The arguments of a subcommand stand in its own file.

use super::exit::Failure;
use super::{bench, dead, job, log, push, queue, serve, stats, units, work};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::time::Duration;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 the server said no, 2 wrong usage, 3 no connection (and those of `log verify`).

Examples:
  ackring serve                                      start a server, data in ./ackring-data
  printf 'one\\ntwo\\n' | ackring push mail            a job for each line
  ackring work mail -j 4 -- ./send-mail              run a command for each job
  ackring stats                                      what stands where
  ackring dead redrive mail --all                    give dead jobs another chance";

/// A job queue: takes jobs, hands them out under leases, and has them all again after a crash.
#[derive(Debug, Parser)]
#[command(name = "ackring", version, after_help = AFTER_HELP, propagate_version = true)]
#[command(subcommand_required = true)]
pub(crate) struct Cli {
    /// How to reach a server and how to answer.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all subcommands that talk to a server understand.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The server to talk to: HOST:PORT or unix:PATH
    #[arg(
        long,
        global = true,
        env = "ACKRING_SERVER",
        value_name = "ADDR",
        default_value = "127.0.0.1:7257"
    )]
    pub(crate) server: String,
    /// Answer with one JSON object on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give up when the server has not answered for this long, reconnecting included
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server
    Serve(serve::Serve),
    /// Enqueue a job for each line of a file or of standard input
    Push(push::Push),
    /// Run a command for each job of a queue
    Work(work::Work),
    /// List, make, pause, resume, purge and delete queues
    #[command(subcommand)]
    Queue(queue::Queue),
    /// Look at jobs and cancel them
    #[command(subcommand)]
    Job(job::Job),
    /// Look at dead jobs and bring them back
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Show what stands where, and what has happened, for every queue
    Stats(stats::Stats),
    /// Measure how fast a server, or an engine in this process, is
    Bench(bench::Bench),
    /// Check or print the log of a server that is not running
    #[command(subcommand)]
    Log(log::Log),
}

/// What the arguments of the process come to.
pub(crate) enum Parsed {
    /// Something to do.
    Run(Box<Cli>),
    /// Help or version, already rendered, with the stream that it belongs to.
    Help(clap::Error),
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// Wrong usage, on one line, with the help that would show how it is meant.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command();
    let parsed = command
        .try_get_matches_from_mut(&arguments)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Run(Box::new(cli))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Help(error)),
            _ => Err(Failure::usage(one_line(&error, &arguments))),
        },
    }
}

/// The first paragraph of a usage error (the rest is a usage text of many lines) and where to read more.
fn one_line(error: &clap::Error, arguments: &[OsString]) -> String {
    let text = error.to_string();
    let mut paragraphs = text.split("\n\n");
    let what = paragraphs
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    let tip = paragraphs
        .next()
        .filter(|next| next.trim_start().starts_with("tip:"))
        .unwrap_or_default();
    let subcommands = known_subcommands(arguments);
    format!("{what} {}; see `ackring {subcommands}--help`", tip.trim()).replace(" ;", ";")
}

/// As many of the leading arguments as name subcommands, each with a space behind it.
fn known_subcommands(arguments: &[OsString]) -> String {
    let mut command = Cli::command();
    let mut names = String::new();
    for argument in arguments.iter().skip(1) {
        let Some(next) = argument
            .to_str()
            .and_then(|name| command.find_subcommand(name))
            .cloned()
        else {
            break;
        };
        names.push_str(next.get_name());
        names.push(' ');
        command = next;
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        match parse(line.split(' ').map(OsString::from)) {
            Err(failure) => failure.to_string(),
            Ok(_) => panic!("`{line}` was taken"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_one_line_that_names_the_help() {
        let text = refusal("ackring queue create mail --lease soon");
        assert!(text.contains("--lease"), "{text}");
        assert!(text.ends_with("see `ackring queue create --help`"), "{text}");
        assert!(refusal("ackring push").contains("<QUEUE>"));
        assert!(refusal("ackring psuh x").contains("push"));
        assert!(refusal("ackring work mail").ends_with("see `ackring work --help`"));
        assert!(!text.contains('\n'));
    }

    #[test]
    fn every_subcommand_has_examples_in_its_help() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            if command.has_subcommands() {
                command.get_subcommands().for_each(|sub| check(sub, &path));
            } else {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.contains("ackring "), "`{path}` has no example");
            }
        }
        Cli::command()
            .get_subcommands()
            .for_each(|command| check(command, "ackring"));
    }

    #[test]
    fn global_arguments_stand_anywhere() {
        for line in [
            "ackring --json --server unix:/s stats",
            "ackring stats --server unix:/s --json",
        ] {
            let Ok(Parsed::Run(cli)) = parse(line.split(' ').map(OsString::from)) else {
                panic!("{line}")
            };
            assert!(cli.global.json, "{line}");
            assert_eq!(cli.global.server, "unix:/s", "{line}");
        }
    }
}
