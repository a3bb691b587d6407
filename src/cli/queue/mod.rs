//! `ackring queue`: makes, shows, stops, empties and removes queues.

mod create;
mod describe;

use super::args::Global;
use super::connect::connect;
use super::exit::Done;
use super::output;
use super::report::QueueReport;
use super::stats::table;
use crate::base::job::JobState;
use clap::{Args, Subcommand};
use create::Create;
use describe::describe;
use serde::Serialize;

/// Subcommands of `ackring queue`.
#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// List all queues
    #[command(after_help = "Examples:\n  ackring queue ls\n  ackring queue ls --json")]
    Ls,
    /// Show a queue's options and counters
    #[command(after_help = "Examples:\n  ackring queue info mail\n  ackring queue info mail --json")]
    Info(Named),
    /// Make a queue with options
    Create(Box<Create>),
    /// Stop handing out a queue's jobs; enqueueing goes on
    #[command(after_help = "Examples:\n  ackring queue pause mail")]
    Pause(Named),
    /// Hand out a paused queue's jobs again
    #[command(after_help = "Examples:\n  ackring queue resume mail")]
    Resume(Named),
    /// Cancel all jobs of a queue, or those in some states
    Purge(Purge),
    /// Remove a queue and everything in it
    #[command(after_help = "Examples:\n  ackring queue delete mail")]
    Delete(Named),
}

/// A queue by name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The queue
    #[arg(value_name = "NAME")]
    name: String,
}

/// Arguments of `ackring queue purge`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without --state all jobs go that are not finished: scheduled, ready, leased and dead ones. They are cancelled, and
can be looked at as long as the queue keeps finished jobs; naming done, cancelled or expired forgets those.

Examples:
  ackring queue purge mail
  ackring queue purge mail --state dead")]
pub(crate) struct Purge {
    /// The queue
    #[arg(value_name = "NAME")]
    name: String,
    /// Only jobs in these states, separated by commas
    #[arg(long, value_name = "STATE,…", value_delimiter = ',', value_parser = super::job::state)]
    state: Vec<JobState>,
}

/// What is purged unless the arguments say otherwise.
const UNFINISHED: [JobState; 4] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Leased,
    JobState::Dead,
];

/// Runs one of the subcommands.
pub(crate) fn run(global: &Global, queue: Queue) -> Done {
    match queue {
        Queue::Ls => list(global),
        Queue::Info(named) => {
            let stats = connect(global)?.queue_info(&named.name)?;
            if global.json {
                output::json(&QueueReport::full(&stats))
            } else {
                output::line(&describe(&stats))
            }
        }
        Queue::Create(create) => {
            let options = create.options()?;
            connect(global)?.create_queue(create.name(), &options)?;
            done(global, "created", create.name(), None)
        }
        Queue::Pause(named) => {
            connect(global)?.pause_queue(&named.name)?;
            done(global, "paused", &named.name, None)
        }
        Queue::Resume(named) => {
            connect(global)?.resume_queue(&named.name)?;
            done(global, "resumed", &named.name, None)
        }
        Queue::Purge(purge) => {
            let states = if purge.state.is_empty() {
                &UNFINISHED[..]
            } else {
                &purge.state
            };
            let count = connect(global)?.purge_queue(&purge.name, states)?;
            done(global, "purged", &purge.name, Some(u64::from(count)))
        }
        Queue::Delete(named) => {
            connect(global)?.delete_queue(&named.name)?;
            done(global, "deleted", &named.name, None)
        }
    }
}

fn list(global: &Global) -> Done {
    let queues = connect(global)?.queues()?;
    if global.json {
        #[derive(Serialize)]
        struct Report {
            queues: Vec<QueueReport>,
        }
        return output::json(&Report {
            queues: queues.iter().map(QueueReport::full).collect(),
        });
    }
    table(&queues)
        .print("no queues yet; `ackring queue create NAME` or `ackring push NAME` makes the first one")
}

/// Says what was done to which queue.
fn done(global: &Global, what: &'static str, name: &str, jobs: Option<u64>) -> Done {
    if global.json {
        #[derive(Serialize)]
        struct Report<'a> {
            queue: &'a str,
            done: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            jobs: Option<u64>,
        }
        return output::json(&Report {
            queue: name,
            done: what,
            jobs,
        });
    }
    match jobs {
        Some(jobs) => output::line(&format!("{what} {jobs} jobs of {name}")),
        None => output::line(&format!("{what} {name}")),
    }
}
