//! `ackring push`: a job a line, in batches, several of them in flight.

mod pipeline;
mod progress;
mod reader;
mod source;
mod template;

use super::args::Global;
use super::connect::connect_patiently;
use super::exit::{Done, Failure};
use super::{output, units};
use crate::base::job::JobId;
use crate::base::limits::{BATCH_JOBS_MAX, PRIORITIES};
use crate::base::queue::Durability;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use pipeline::{Pipeline, Tally};
use progress::Progress;
use reader::{Next, Reader};
use serde::Serialize;
use source::{BatchLimits, Source};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use template::Template;

/// A batch is sent when its payloads reach this, in bytes.
const BATCH_BYTES: usize = 1024 * 1024;

/// Arguments of `ackring push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every line is a job, an empty one too; the line end is not part of it. When the queue or the log is full, push
waits as long as the server asks, and goes on. A server that restarts meanwhile is waited for, and what was on
the way is applied once.

Examples:
  ackring push mail addresses.txt
  tail -F access.log | ackring push hits -
  ackring push pictures --whole a.png b.png
  ackring push mail --delay 10m --priority 7 --key 'june-{}' addresses.txt")]
pub(crate) struct Push {
    /// The queue; it is made when it does not exist
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// Files to read; - is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// A job for each file instead of each line
    #[arg(long)]
    whole: bool,
    /// Most jobs in one request
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=BATCH_JOBS_MAX as u64))]
    batch: usize,
    /// 0 (last) to 7 (first)
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u8).range(..PRIORITIES as i64))]
    priority: u8,
    /// Time before the first attempt
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true, value_parser = units::millis)]
    delay: u64,
    /// Expire jobs that were not handed out within this time
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true, value_parser = units::millis)]
    ttl: u64,
    /// Attempts before a job is dead, instead of the queue's
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_attempts: u16,
    /// Lease of a delivery, instead of the queue's
    #[arg(long, value_name = "TIME", default_value = "0s", hide_default_value = true, value_parser = units::millis_u32)]
    lease: u32,
    /// Idempotency key; {} in it stands for the number of the line
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Small data that travels beside the payload
    #[arg(long, value_name = "TEXT")]
    meta: Option<String>,
    /// What a confirmation means: memory, written or synced; instead of the queue's
    #[arg(long, value_name = "LEVEL")]
    durability: Option<Durability>,
    /// Print the jobs' ids, one a line
    #[arg(long)]
    ids: bool,
    /// Fail when the queue or the log is full, instead of waiting
    #[arg(long)]
    fail_when_full: bool,
}

/// Pushes, and says how much and how fast; also when it failed half-way.
pub(crate) fn run(global: &Global, push: Push) -> Done {
    crate::base::queue::check_queue_name(&push.queue).map_err(Failure::usage)?;
    let client = connect_patiently(global)?;
    let queue = client.queue(&push.queue)?;
    let template = Template::new(&push);
    let progress = Progress::new(&push.files);
    let mut pipeline = Pipeline {
        client: &client,
        queue: &queue,
        template: &template,
        durability: push.durability,
        fail_when_full: push.fail_when_full,
        progress: &progress,
        tally: Tally::default(),
        builder: Default::default(),
        flying: Default::default(),
        spare: Vec::new(),
        pauses: 0,
    };
    let mut ids = Ids::new(global, &push);
    let start = Instant::now();
    let pushed = push_all(&mut pipeline, &push, &mut ids);
    let drained = pipeline.drain(&mut |batch| ids.take(batch));
    let seconds = start.elapsed();
    let tally = pipeline.tally;
    progress.finish();
    ids.flush();
    report(global, &push, &tally, seconds, ids.kept)?;
    pushed.and(drained)?;
    match tally.first_conflict {
        Some(number) => Err(Failure::refused(format!(
            "{} jobs were refused because their key stands for another job, the first of them job {number} of the \
             input; use other keys",
            tally.conflicts
        ))),
        None => Ok(()),
    }
}

fn push_all(pipeline: &mut Pipeline<'_>, push: &Push, ids: &mut Ids) -> Done {
    let limits = BatchLimits {
        jobs: push.batch,
        bytes: BATCH_BYTES,
    };
    let reader = Reader::start(Source::new(&push.files, push.whole), limits)?;
    loop {
        let next = match reader.try_next()? {
            // While there is nothing to send, what is in flight is looked after.
            Next::Nothing if pipeline.is_flying() => {
                pipeline.confirm_oldest(&mut |batch| ids.take(batch))?;
                continue;
            }
            Next::Nothing => {
                ids.flush();
                reader.next()?
            }
            next => next,
        };
        let Next::Batch(batch) = next else { return Ok(()) };
        pipeline
            .progress
            .update(batch.input_bytes(), pipeline.tally.confirmed);
        pipeline.send(batch, &mut |batch| ids.take(batch))?;
        pipeline.spare.drain(..).for_each(|batch| reader.recycle(batch));
    }
}

/// What is done with the ids of confirmed jobs.
struct Ids {
    out: Option<io::BufWriter<io::Stdout>>,
    /// For the JSON object, which has to wait for the end.
    kept: Option<Vec<String>>,
}

impl Ids {
    fn new(global: &Global, push: &Push) -> Self {
        Self {
            out: (push.ids && !global.json).then(|| io::BufWriter::new(io::stdout())),
            kept: (push.ids && global.json).then(Vec::new),
        }
    }

    fn take(&mut self, ids: &[JobId]) {
        if let Some(kept) = &mut self.kept {
            kept.extend(ids.iter().map(JobId::to_string));
        }
        if let Some(out) = &mut self.out
            && ids.iter().try_for_each(|id| writeln!(out, "{id}")).is_err()
        {
            // Nobody reads the ids any more; the jobs are pushed all the same.
            self.out = None;
        }
    }

    fn flush(&mut self) {
        if let Some(out) = &mut self.out {
            // As above.
            let _ = out.flush();
        }
    }
}

/// The end of a push as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    queue: &'a str,
    confirmed: u64,
    duplicates: u64,
    conflicts: u64,
    unknown: u64,
    durability: Option<&'static str>,
    seconds: f64,
    jobs_per_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<String>>,
}

fn report(global: &Global, push: &Push, tally: &Tally, time: Duration, ids: Option<Vec<String>>) -> Done {
    let seconds = time.as_secs_f64();
    let jobs_per_s = if seconds > 0.0 {
        (tally.confirmed as f64 / seconds).round()
    } else {
        0.0
    };
    if global.json {
        return output::json(&Report {
            queue: &push.queue,
            confirmed: tally.confirmed,
            duplicates: tally.duplicates,
            conflicts: tally.conflicts,
            unknown: tally.unknown,
            durability: tally.level.map(Durability::name),
            seconds,
            jobs_per_s,
            ids,
        });
    }
    let mut text = format!("{} jobs confirmed", tally.confirmed);
    if let Some(level) = tally.level {
        text.push_str(&format!(" ({level})"));
    }
    text.push_str(&format!(" in {seconds:.2} s, {jobs_per_s} jobs/s"));
    for (count, what) in [
        (tally.duplicates, "of them known before"),
        (tally.conflicts, "refused for their keys"),
        (tally.unknown, "with an unknown outcome"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    if push.ids {
        // Standard output is for the ids.
        output::note(&text);
        return Ok(());
    }
    output::line(&text)
}
