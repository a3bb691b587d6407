//! `ackring job`: looks at jobs, and cancels them.

use super::args::Global;
use super::connect::connect;
use super::exit::{Done, Failure};
use super::output::{self, Align, Table, printable};
use super::report::{ItemReport, JobReport};
use super::units::show_millis;
use crate::base::job::{JobId, JobState, JobStatus};
use crate::base::limits::LIST_PAGE_MAX;
use crate::clock::Clock;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write as _;

/// Subcommands of `ackring job`.
#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Show one job: state, attempts, times, last error, result
    #[command(
        after_help = "Examples:\n  ackring job get 0000000100000002\n  ackring job get 0000000100000002 --json"
    )]
    Get(One),
    /// List a queue's jobs
    Ls(List),
    /// Show the next jobs of a queue with their payloads; nobody gets them
    #[command(after_help = "Examples:\n  ackring job peek mail\n  ackring job peek mail --limit 3 --json")]
    Peek(Peek),
    /// Cancel jobs, whatever they wait for
    #[command(after_help = "Examples:\n  ackring job cancel 0000000100000002 0000000100000003")]
    Cancel(Cancel),
}

/// A job by id.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The job's id
    #[arg(value_name = "ID")]
    id: JobId,
}

/// Arguments of `ackring job ls`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ackring job ls mail
  ackring job ls mail --state scheduled --limit 1000")]
pub(crate) struct List {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Only jobs in this state
    #[arg(long, value_name = "STATE", value_parser = state)]
    state: Option<JobState>,
    /// Which part of the list
    #[command(flatten)]
    page: Page,
}

/// A part of a long list.
#[derive(Debug, Args)]
pub(crate) struct Page {
    /// Most jobs to list
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
    /// Go on behind an earlier list: the cursor that it ended with
    #[arg(long, value_name = "CURSOR", default_value_t = 0)]
    pub(crate) after: u64,
}

/// Arguments of `ackring job peek`.
#[derive(Debug, Args)]
pub(crate) struct Peek {
    /// The queue
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Most jobs to show
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// Arguments of `ackring job cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The jobs' ids
    #[arg(value_name = "ID", required = true)]
    ids: Vec<JobId>,
}

/// Reads a state's name.
///
/// # Errors
/// Lists the states.
pub(crate) fn state(text: &str) -> Result<JobState, String> {
    JobState::from_name(text).ok_or_else(|| {
        let names: Vec<_> = JobState::ALL.iter().map(|state| state.name()).collect();
        format!("`{text}` is no state; it is one of {}", names.join(", "))
    })
}

/// Runs one of the subcommands.
pub(crate) fn run(global: &Global, job: Job) -> Done {
    match job {
        Job::Get(one) => {
            let status = connect(global)?.job(one.id)?;
            if global.json {
                output::json(&JobReport::new(&status))
            } else {
                output::line(&describe(&status))
            }
        }
        Job::Ls(list) => print_list(global, &list.queue, list.state, &list.page),
        Job::Peek(peek) => {
            let jobs = connect(global)?.peek(&peek.queue, peek.limit)?;
            if global.json {
                return output::json(&JobsReport {
                    jobs: jobs.iter().map(JobReport::with_payload).collect(),
                    next: None,
                });
            }
            let mut table = Table::new(&[
                ("ID", Align::Left),
                ("PRIORITY", Align::Right),
                ("PAYLOAD", Align::Left),
            ]);
            for job in &jobs {
                table.row(vec![
                    job.id.to_string(),
                    job.priority.to_string(),
                    printable(&job.payload, 120),
                ]);
            }
            table.print("no job is ready")
        }
        Job::Cancel(cancel) => {
            let done = connect(global)?.cancel(&cancel.ids)?;
            let errors = ItemReport::failures(&done.items, &cancel.ids);
            print_changed(global, "cancelled", cancel.ids.len() - errors.len(), &errors)
        }
    }
}

/// Some of a queue's jobs, and where to go on.
#[derive(Debug, Serialize)]
struct JobsReport {
    jobs: Vec<JobReport>,
    /// For `--after`; `null` at the end of the list.
    next: Option<u64>,
}

/// Lists jobs of a queue, all or those in one state.
pub(super) fn print_list(global: &Global, queue: &str, state: Option<JobState>, page: &Page) -> Done {
    let client = connect(global)?;
    let mut jobs: Vec<JobStatus> = Vec::new();
    let mut next = Some(page.after);
    while let (Some(cursor), true) = (next, jobs.len() < page.limit) {
        let wanted = (page.limit - jobs.len()).min(LIST_PAGE_MAX as usize) as u32;
        let part = client.job_list(queue, state, cursor, wanted)?;
        jobs.extend(part.jobs);
        next = part.next;
    }
    if global.json {
        return output::json(&JobsReport {
            jobs: jobs.iter().map(JobReport::new).collect(),
            next,
        });
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("STATE", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("PRIORITY", Align::Right),
        ("WHEN", Align::Left),
        ("LAST ERROR", Align::Left),
    ]);
    let now_ms = now_ms();
    for job in &jobs {
        table.row(vec![
            job.id.to_string(),
            job.state.to_string(),
            format!("{}/{}", job.attempts, job.max_attempts),
            job.priority.to_string(),
            when(job.at_ms, now_ms),
            printable(job.last_error.as_deref().unwrap_or_default(), 80),
        ]);
    }
    table.print("no such jobs")?;
    match next {
        Some(next) => output::line(&format!("more: --after {next}")),
        None => Ok(()),
    }
}

/// Says what became of a request by ids.
///
/// # Errors
/// Exit code 1 when it took no effect on some of them.
pub(super) fn print_changed(
    global: &Global,
    what: &'static str,
    count: usize,
    errors: &[ItemReport],
) -> Done {
    if global.json {
        let report = serde_json::json!({ what: count, "errors": errors });
        output::json(&report)?;
    } else {
        output::line(&format!("{what} {count} jobs"))?;
    }
    if errors.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = errors.iter().take(5).map(ItemReport::text).collect();
    let more = if errors.len() > texts.len() {
        format!(" and {} more", errors.len() - texts.len())
    } else {
        String::new()
    };
    Err(Failure::refused(format!(
        "not {what}: {}{more}; see `ackring job get ID`",
        texts.join(", ")
    )))
}

/// One job on some lines of text.
fn describe(job: &JobStatus) -> String {
    let now_ms = now_ms();
    let at = match job.state {
        JobState::Scheduled => "ready",
        JobState::Leased => "lease ends",
        _ => "since",
    };
    let mut rows = vec![
        ("job", job.id.to_string()),
        ("queue", job.queue.clone()),
        ("state", job.state.to_string()),
        (
            "attempts",
            format!(
                "{} of {} ({} deliveries, {} failures, {} expired leases)",
                job.attempts, job.max_attempts, job.deliveries, job.failures, job.expiries
            ),
        ),
        ("priority", job.priority.to_string()),
        ("enqueued", when(job.enqueued_ms, now_ms)),
        (at, when(job.at_ms, now_ms)),
        ("expires", when(job.expires_ms, now_ms)),
        ("payload", format!("{} bytes", job.payload_bytes)),
        ("meta", printable(&job.meta, 200)),
    ];
    rows.push((
        "last error",
        printable(job.last_error.as_deref().unwrap_or_default(), 2_000),
    ));
    rows.push((
        "result",
        printable(job.result.as_deref().unwrap_or_default(), 2_000),
    ));
    let mut text = String::new();
    for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    }
    text.trim_end().to_owned()
}

/// A time relative to now, and nothing for no time.
fn when(at_ms: u64, now_ms: u64) -> String {
    match at_ms {
        0 => String::new(),
        at_ms if at_ms > now_ms => format!("in {}", show_millis(at_ms - now_ms)),
        at_ms => format!("{} ago", show_millis(now_ms - at_ms)),
    }
}

fn now_ms() -> u64 {
    Clock::start().now_ms()
}
