//! `ackring log verify`: what a log holds, what is wrong with it, and what would be lost without that.

use crate::cli::args::Global;
use crate::cli::exit::{Done, Failure};
use crate::cli::output;
use crate::cli::reading::ReadingProgress;
use crate::cli::units::show_bytes;
use crate::engine::{Examination, Losses, LostPlace, examine};
use crate::log::BadRange;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Queues and lost jobs that are shown to people one by one.
const SHOWN: usize = 5;

/// Reads the log and says what was found.
pub(super) fn run(global: &Global, directory: &Path) -> Done {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let progress = ReadingProgress::new();
    let found = examine(directory, now.as_millis() as u64, &mut |read| {
        progress.update(read);
        ControlFlow::Continue(())
    });
    progress.finish();
    let Some(found) = found.map_err(super::not_opened)? else {
        unreachable!("nobody has asked to stop")
    };
    if global.json {
        output::json(&Verdict::new(&found))?;
    } else {
        show(&found)?;
    }
    judge(&found)
}

/// The exit code, and the line for it.
fn judge(found: &Examination) -> Done {
    let places = &found.losses.places;
    if let Some(first) = places.first() {
        let more = match places.len() {
            1 => String::new(),
            count => format!(" (and {} more places)", count - 1),
        };
        return Err(Failure::corrupt(format!(
            "the log is corrupt, {}{more}; restore it from a copy, or give up what cannot be read with \
             `ackring serve --salvage`",
            first.corruption
        )));
    }
    if !found.losses.senseless.is_empty() {
        return Err(Failure::refused(format!(
            "{} records are whole but not understood; was the log written by a newer program?",
            found.losses.senseless.len()
        )));
    }
    if found.recovered.torn > 0 {
        return Err(Failure::torn(
            "the log is sound but for an end that a crash left, which a server passes over",
        ));
    }
    Ok(())
}

fn show(found: &Examination) -> Done {
    let log = &found.log;
    output::line(&format!(
        "{} records, {} in {} segments of {}, {} spare; ends at {}",
        log.records,
        show_bytes(log.bytes),
        log.segments.len(),
        show_bytes(u64::from(log.segment_bytes)),
        log.spares,
        log.end
    ))?;
    for hole in &log.holes {
        output::line(&format!(
            "never confirmed, and passed over: {} to {}",
            hole.start, hole.end
        ))?;
    }
    if log.torn_tail {
        output::line("the last record was cut off by a crash, and is passed over")?;
    }
    let what = if found.losses.places.is_empty() {
        "a start brings back"
    } else {
        "a start with --salvage brings back"
    };
    output::line(&format!("{what} {}", output::recovered(&found.recovered)))?;
    for line in output::recovered_queues(&found.recovered, SHOWN) {
        output::line(&line)?;
    }
    show_losses(&found.losses)
}

fn show_losses(losses: &Losses) -> Done {
    if losses.places.is_empty() {
        return Ok(());
    }
    output::line(&format!(
        "\n{} damaged places, {} that cannot be read:",
        losses.places.len(),
        show_bytes(losses.bytes())
    ))?;
    for (index, place) in losses.places.iter().enumerate() {
        output::line(format!("{}. {place}", index + 1).trim_end())?;
    }
    let lost = losses.jobs.len() as u64 + losses.jobs_more;
    if lost > 0 {
        output::line(&format!(
            "{lost} jobs that were not over are lost: later records tell of them, but not of what was enqueued"
        ))?;
    }
    for job in losses.jobs.iter().take(SHOWN) {
        let queue = job.queue.as_deref().unwrap_or("unknown queue");
        output::line(&format!("   {} {} in {queue}", job.id, job.state.name()))?;
    }
    if lost > SHOWN as u64 {
        output::line("   … (all with --json)")?;
    }
    for (_, name) in &losses.queues {
        output::line(&format!(
            "the definition of a queue is lost; its jobs would be in {name}"
        ))?;
    }
    Ok(())
}

/// What was found, as JSON.
#[derive(Debug, Serialize)]
struct Verdict {
    ok: bool,
    segments: Vec<SegmentReport>,
    segment_bytes: u32,
    spares: usize,
    records: u64,
    bytes: u64,
    unreadable: usize,
    torn_tail: bool,
    holes: Vec<RangeReport>,
    corruptions: Vec<PlaceReport>,
    end: String,
    recovered: RecoveredReport,
    lost: LostReport,
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
struct PlaceReport {
    file: String,
    sequence: Option<u32>,
    offset: u64,
    damage: &'static str,
    reason: String,
    bytes: u64,
    bytes_unknown: u64,
    written_after_ms: Option<u64>,
    written_before_ms: Option<u64>,
    records: u64,
    enqueued: BTreeMap<String, u64>,
    delivered: u64,
    changed: u64,
    keys: u64,
    sessions: u64,
    queues: Vec<String>,
    jobs: Vec<JobReport>,
}

#[derive(Debug, Serialize)]
struct JobReport {
    id: String,
    became: &'static str,
}

#[derive(Debug, Serialize)]
struct RecoveredReport {
    ready: u64,
    scheduled: u64,
    leased: u64,
    dead: u64,
    finished: u64,
    queues: Vec<output::QueueCounts>,
}

#[derive(Debug, Serialize)]
struct LostReport {
    bytes: u64,
    records: u64,
    jobs: Vec<LostJobReport>,
    jobs_more: u64,
    queues: Vec<String>,
}

#[derive(Debug, Serialize)]
struct LostJobReport {
    id: String,
    queue: Option<String>,
    state: &'static str,
    attempts: u16,
}

impl Verdict {
    fn new(found: &Examination) -> Self {
        let Examination {
            log,
            recovered,
            losses,
            ..
        } = found;
        let segments = log.segments.iter().map(|segment| SegmentReport {
            file: segment.path.display().to_string(),
            sequence: segment.sequence,
            boot: segment.boot,
            records: segment.records,
        });
        let range = |range: &BadRange| RangeReport {
            start: range.start.to_string(),
            end: range.end.to_string(),
        };
        Self {
            ok: losses.is_empty(),
            segments: segments.collect(),
            segment_bytes: log.segment_bytes,
            spares: log.spares,
            records: log.records,
            bytes: log.bytes,
            unreadable: losses.senseless.len(),
            torn_tail: log.torn_tail,
            holes: log.holes.iter().map(range).collect(),
            corruptions: losses.places.iter().map(PlaceReport::new).collect(),
            end: log.end.to_string(),
            recovered: RecoveredReport {
                ready: recovered.ready,
                scheduled: recovered.scheduled,
                leased: recovered.leased,
                dead: recovered.dead,
                finished: recovered.finished,
                queues: recovered.by_queue.iter().map(Into::into).collect(),
            },
            lost: LostReport::new(losses),
        }
    }
}

impl PlaceReport {
    fn new(place: &LostPlace) -> Self {
        let corruption = &place.corruption;
        let known = |number: u64| (number > 0).then_some(number);
        let jobs = place.jobs.iter().map(|(id, became)| JobReport {
            id: id.to_string(),
            became,
        });
        Self {
            file: corruption.path.display().to_string(),
            sequence: Some(corruption.sequence()).filter(|sequence| *sequence > 0),
            offset: corruption.offset,
            damage: corruption.damage.name(),
            reason: corruption.reason.clone(),
            bytes: place.bytes,
            bytes_unknown: place.bytes_unknown,
            written_after_ms: known(corruption.before_ms),
            written_before_ms: known(corruption.after_ms),
            records: place.records,
            enqueued: place.enqueued.clone(),
            delivered: place.delivered,
            changed: place.changed,
            keys: place.keys,
            sessions: place.sessions,
            queues: place.queues.clone(),
            jobs: jobs.collect(),
        }
    }
}

impl LostReport {
    fn new(losses: &Losses) -> Self {
        let jobs = losses.jobs.iter().map(|job| LostJobReport {
            id: job.id.to_string(),
            queue: job.queue.clone(),
            state: job.state.name(),
            attempts: job.attempts,
        });
        Self {
            bytes: losses.bytes(),
            records: losses.records(),
            jobs: jobs.collect(),
            jobs_more: losses.jobs_more,
            queues: losses.queues.iter().map(|(_, name)| name.clone()).collect(),
        }
    }
}
