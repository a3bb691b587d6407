//! `ackring queue`: makes, shows, stops, empties and removes queues.

use super::args::Global;
use super::connect::connect;
use super::exit::{Done, Failure};
use super::output;
use super::report::QueueReport;
use super::stats::table;
use super::units::{self, show_bytes, show_millis};
use crate::base::job::JobState;
use crate::base::queue::{Backoff, Durability, QueueOptions, QueueStats};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write as _;

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

/// Arguments of `ackring queue create`.
#[derive(Debug, Args)]
#[command(after_help = "\
A queue that exists with the same options is left as it is; with others it is refused.

Examples:
  ackring queue create mail --max-attempts 4 --backoff 10ms --lease 30s
  ackring queue create bills --durability synced --capacity 1000000 --capacity-bytes 2GiB
  ackring queue create hooks --backoff-list 1s,5s,1m,10m")]
pub(crate) struct Create {
    /// The queue: up to 128 of A-Z a-z 0-9 . _ - : / @ +
    #[arg(value_name = "NAME")]
    name: String,
    /// Attempts before a job is dead [default: 25]
    #[arg(long, value_name = "N")]
    max_attempts: Option<u16>,
    /// Pause after the first failure; doubles with each further one, with jitter [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32, conflicts_with = "backoff_list")]
    backoff: Option<u32>,
    /// Longest pause [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32, conflicts_with = "backoff_list")]
    backoff_cap: Option<u32>,
    /// Or exactly these pauses, one a failure, the last one repeated
    #[arg(long, value_name = "TIME,…", value_parser = delays)]
    backoff_list: Option<Delays>,
    /// How long a worker has a job before it is given to another [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::millis_u32)]
    lease: Option<u32>,
    /// What a confirmation means: memory, written or synced [default: written]
    #[arg(long, value_name = "LEVEL")]
    durability: Option<Durability>,
    /// Most jobs at once, dead ones included
    #[arg(long, value_name = "JOBS")]
    capacity: Option<u64>,
    /// Most bytes of payloads and metadata at once
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    capacity_bytes: Option<u64>,
    /// Largest payload, up to 16MiB [default: 1MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::bytes_u32)]
    payload_max: Option<u32>,
    /// How long an idempotency key is remembered [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = units::millis)]
    dedupe_window: Option<u64>,
    /// How many finished jobs can still be looked at [default: 1024]
    #[arg(long, value_name = "N")]
    keep_finished: Option<u32>,
}

/// A backoff list as one argument.
#[derive(Debug, Clone)]
struct Delays(Vec<u32>);

fn delays(text: &str) -> Result<Delays, String> {
    units::millis_list(text).map(Delays)
}

impl Create {
    /// The options, checked before a server is asked.
    fn options(&self) -> Result<QueueOptions, Failure> {
        let defaults = QueueOptions::default();
        let backoff = match (&self.backoff_list, &defaults.backoff) {
            (Some(Delays(list)), _) => Backoff::List(list.clone()),
            (None, Backoff::Exponential { base_ms, cap_ms }) => {
                let base_ms = self.backoff.unwrap_or(*base_ms);
                // A base above the usual cap means that pauses do not grow, unless the cap is given too.
                Backoff::Exponential {
                    base_ms,
                    cap_ms: self.backoff_cap.unwrap_or(base_ms.max(*cap_ms)),
                }
            }
            (None, list) => list.clone(),
        };
        let options = QueueOptions {
            durability: self.durability.unwrap_or(defaults.durability),
            lease_ms: self.lease.unwrap_or(defaults.lease_ms),
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts),
            backoff,
            capacity_jobs: self.capacity.unwrap_or(defaults.capacity_jobs),
            capacity_bytes: self.capacity_bytes.unwrap_or(defaults.capacity_bytes),
            payload_bytes_max: self.payload_max.unwrap_or(defaults.payload_bytes_max),
            dedupe_window_ms: self.dedupe_window.unwrap_or(defaults.dedupe_window_ms),
            keep_finished: self.keep_finished.unwrap_or(defaults.keep_finished),
        };
        options.check().map_err(Failure::usage)?;
        crate::base::queue::check_queue_name(&self.name).map_err(Failure::usage)?;
        Ok(options)
    }
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
            connect(global)?.create_queue(&create.name, &options)?;
            done(global, "created", &create.name, None)
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

/// A queue on some lines of text.
fn describe(stats: &QueueStats) -> String {
    let (options, counts) = (&stats.options, &stats.counts);
    let backoff = match &options.backoff {
        Backoff::Exponential { base_ms, cap_ms } => {
            format!(
                "{}, doubling up to {}",
                show_millis(u64::from(*base_ms)),
                show_millis(u64::from(*cap_ms))
            )
        }
        Backoff::List(list) => list
            .iter()
            .map(|delay| show_millis(u64::from(*delay)))
            .collect::<Vec<_>>()
            .join(", "),
    };
    let rows = [
        (
            "queue",
            format!("{}{}", stats.name, if stats.paused { " (paused)" } else { "" }),
        ),
        ("durability", options.durability.to_string()),
        ("lease", show_millis(u64::from(options.lease_ms))),
        ("max attempts", options.max_attempts.to_string()),
        ("backoff", backoff),
        (
            "capacity",
            format!(
                "{} jobs, {}",
                options.capacity_jobs,
                show_bytes(options.capacity_bytes)
            ),
        ),
        ("payload limit", show_bytes(u64::from(options.payload_bytes_max))),
        ("dedupe window", show_millis(options.dedupe_window_ms)),
        (
            "finished kept",
            format!("{} of up to {}", counts.kept, options.keep_finished),
        ),
        (
            "now",
            format!(
                "{} ready, {} scheduled, {} leased, {} dead, {}",
                counts.ready,
                counts.scheduled,
                counts.leased,
                counts.dead,
                show_bytes(counts.bytes)
            ),
        ),
        (
            "since the start",
            format!(
                "{} enqueued, {} delivered, {} done, {} failed, {} expired leases, {} released, {} became dead, \
                 {} redriven, {} cancelled, {} expired",
                counts.enqueued,
                counts.deliveries,
                counts.done,
                counts.failures,
                counts.expiries,
                counts.releases,
                counts.buried,
                counts.redriven,
                counts.cancelled,
                counts.expired
            ),
        ),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name:<16}{value}");
    }
    text.trim_end().to_owned()
}
