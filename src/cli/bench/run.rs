//! The runs of a load, one after the other: warm-up, what must be there beforehand, and the one that counts.

use super::pace::End;
use super::phase::{Books, Phase, Ran, Role, Tally};
use super::plan::{Plan, Shape};
use super::progress::Progress;
use super::target::Target;
use super::{embedded, lane, process};
use crate::cli::exit::Failure;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Jobs in one request that puts jobs in beforehand.
const PRELOAD_BATCH: usize = 1_000;
/// Their bytes: what also the log of a server with small segments takes at once.
const PRELOAD_BYTES: usize = 256 * 1024;
/// How long what was confirmed may take to be seen in the queues.
const SETTLED: Duration = Duration::from_millis(20);

/// How jobs were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// Each by its number.
    Each,
    /// Only how many there were.
    Counts,
    /// The load did not get to its end, so what did not come may still be in the queues.
    Not,
}

/// What the run that counts came to.
pub(super) struct Measured {
    pub(super) ran: Ran,
    /// Jobs that were done.
    pub(super) jobs: u64,
    /// Jobs that were confirmed and did not come.
    pub(super) lost: Option<u64>,
    pub(super) repeated: u64,
    pub(super) checked: Checked,
    /// CPU seconds of this process.
    pub(super) client_cpu: Option<f64>,
    pub(super) server_cpu: Option<f64>,
}

/// Runs the load.
///
/// # Errors
/// What kept it from being measured at all; a failure half-way stands in the tally.
pub(super) fn measure(plan: &Plan, target: &Target, abort: &AtomicBool) -> Result<Measured, Failure> {
    if let Some(end) = plan.warmup {
        let warmup = Plan {
            end,
            backlog: 0,
            ..plan.clone()
        };
        let progress = Progress::new("warm-up", end);
        let ran = once(&warmup, target, &progress, abort);
        progress.finish();
        let ran = ran?.ran;
        if let Some(failure) = ran.tally.failure {
            return Err(failure.while_doing("warm-up"));
        }
    }
    let progress = Progress::new("load", plan.end);
    let measured = once(plan, target, &progress, abort);
    progress.finish();
    measured
}

fn once(plan: &Plan, target: &Target, progress: &Progress, abort: &AtomicBool) -> Result<Measured, Failure> {
    let books = Books::new();
    let before = if plan.shape == Shape::Enqueue {
        target.ready_jobs()?
    } else {
        0
    };
    let preloaded = plan.preload();
    if preloaded > 0 {
        preload(plan, target, &books, preloaded, abort)?;
    }
    let cpu = || (process::cpu_seconds(std::process::id()), target.server_cpu());
    // A backlog that is drained behind the jobs that count would be worked off at their cost.
    let cpu_at_end = OnceLock::new();
    let at_end = || {
        cpu_at_end.get_or_init(cpu);
    };
    let mut phase = Phase::new(plan, &books, plan.end, preloaded, abort);
    phase.at_end = Some(&at_end);
    let mut cpu_at_start = (None, None);
    let ran = phase.run(
        |phase, lane| thread(phase, target, lane),
        progress,
        || cpu_at_start = cpu(),
    );
    let since = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    let cpu_at_end = *cpu_at_end.get_or_init(cpu);
    let client_cpu = since(cpu_at_start.0, cpu_at_end.0);
    let server_cpu = since(cpu_at_start.1, cpu_at_end.1);
    let acked = ran.acked.saturating_sub(ran.tally.unheard);
    let jobs = match plan.shape {
        Shape::Enqueue | Shape::Echo => ran.accepted,
        Shape::Reserve => acked.min(preloaded - plan.backlog),
        Shape::Life => acked.min(ran.target),
    };
    let (lost, repeated, checked) = check(plan, target, &books, &ran, before, preloaded)?;
    Ok(Measured {
        ran,
        jobs,
        lost,
        repeated,
        checked,
        client_cpu,
        server_cpu,
    })
}

fn thread(phase: &Phase<'_>, target: &Target, lane: &[Role]) -> Tally {
    match target {
        Target::Service(service) => lane::run(phase, service, lane),
        Target::Embedded(engine) => embedded::run(phase, engine, lane),
    }
}

/// Puts jobs in before the clock starts.
fn preload(
    plan: &Plan,
    target: &Target,
    books: &Books,
    jobs: u64,
    abort: &AtomicBool,
) -> Result<(), Failure> {
    let job_bytes = 40 + plan.payload.len.next_multiple_of(8);
    let plan = Plan {
        shape: Shape::Enqueue,
        batch: (PRELOAD_BYTES / job_bytes).clamp(1, PRELOAD_BATCH),
        producers: 1,
        workers: 0,
        rate: None,
        end: End::Jobs(jobs),
        ..plan.clone()
    };
    let mut phase = Phase::new(&plan, books, plan.end, 0, abort);
    phase.stamps = false;
    let progress = Progress::new("jobs beforehand", plan.end);
    let ran = phase.run(|phase, lane| thread(phase, target, lane), &progress, || ());
    progress.finish();
    match ran.tally.failure {
        Some(failure) => Err(failure.while_doing("jobs beforehand")),
        None if ran.accepted < jobs => Err(Failure::refused(format!(
            "only {} of {jobs} jobs could be put in beforehand",
            ran.accepted
        ))),
        None => Ok(()),
    }
}

/// Losses, repeats, and how they were found.
fn check(
    plan: &Plan,
    target: &Target,
    books: &Books,
    ran: &Ran,
    before: u64,
    preloaded: u64,
) -> Result<(Option<u64>, u64, Checked), Failure> {
    if !ran.is_whole {
        return Ok((None, ran.tally.repeated, Checked::Not));
    }
    let confirmed = ran.accepted + preloaded;
    match plan.shape {
        Shape::Echo => Ok((Some(0), 0, Checked::Counts)),
        Shape::Enqueue => {
            std::thread::sleep(SETTLED);
            let there = target.ready_jobs()?.saturating_sub(before);
            let lost = confirmed.saturating_sub(there);
            Ok((Some(lost), there.saturating_sub(confirmed), Checked::Counts))
        }
        Shape::Reserve | Shape::Life if plan.payload.is_numbered() => {
            let lost = books.sent.missing_in(&books.came);
            Ok((Some(lost), ran.tally.repeated, Checked::Each))
        }
        Shape::Reserve | Shape::Life => {
            let delivered = ran.tally.delivered;
            let lost = confirmed.saturating_sub(delivered);
            Ok((Some(lost), delivered.saturating_sub(confirmed), Checked::Counts))
        }
    }
}
