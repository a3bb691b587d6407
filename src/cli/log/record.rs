//! What a record of the log says, for people and as JSON.

use crate::base::entry::EnqueueEntry;
use crate::base::job::{JobId, JobState};
use crate::engine::journal::{
    ChangeEntry, Group, JobHead, Kind, Prelude, parse_change, parse_enqueue, parse_reserve, parse_step,
};
use crate::log::Recovered;
use serde::Serialize;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};
use zerocopy::FromBytes;

/// How many jobs of a record are shown to people.
const JOBS_SHOWN: usize = 4;

/// One record.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    position: String,
    time_ms: u64,
    kind: String,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    jobs: Vec<JobLine>,
}

/// What a record says of a job.
#[derive(Debug, Serialize)]
struct JobLine {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    became: &'static str,
}

impl Record {
    /// Takes a record apart; `None` when this program does not understand it.
    pub(super) fn read(record: &Recovered<'_>) -> Option<Self> {
        let kind = Kind::from_u8(record.kind)?;
        let (request, body) = Prelude::split(record.flags, record.body)?;
        let mut jobs = Vec::new();
        match kind {
            Kind::Enqueue => enqueued(body, &mut jobs)?,
            Kind::Reserve => jobs.extend(parse_reserve(body)?.iter().map(|entry| JobLine {
                id: JobId(entry.id.get()).to_string(),
                attempt: Some(entry.attempt.get()),
                became: JobState::Leased.name(),
            })),
            Kind::Change => changed(body, &mut jobs)?,
            Kind::Step => {
                let (change, groups) = parse_step(body)?;
                changed(change, &mut jobs)?;
                for group in groups {
                    if let Group::Jobs(_, body) = group {
                        enqueued(body, &mut jobs)?;
                    }
                }
            }
            Kind::Job => {
                let (head, _) = JobHead::ref_from_prefix(body).ok()?;
                jobs.push(JobLine {
                    id: JobId(head.id.get()).to_string(),
                    ..line(&head.change)
                });
            }
            Kind::Queue | Kind::Session | Kind::Key | Kind::Generation => {}
        }
        let numbered = request.is_numbered().then_some(request);
        Some(Self {
            kind: format!("{kind:?}").to_lowercase(),
            session: numbered.map(|request| format!("{:032x}", request.session)),
            number: numbered.map(|request| request.number),
            jobs,
            ..Self::unreadable(record)
        })
    }

    /// Only what every record has.
    pub(super) fn unreadable(record: &Recovered<'_>) -> Self {
        Self {
            position: record.position.to_string(),
            time_ms: record.now_ms,
            kind: format!("unknown {}", record.kind),
            bytes: record.body.len(),
            session: None,
            number: None,
            jobs: Vec::new(),
        }
    }
}

fn enqueued(body: &[u8], jobs: &mut Vec<JobLine>) -> Option<()> {
    let parts = parse_enqueue(body)?;
    for (id, entry) in parts.ids.iter().zip(parts.batch.entries()) {
        let flags = entry.flags.get();
        let became = match () {
            () if flags & EnqueueEntry::KEY_CONFLICT != 0 => "key conflict",
            () if flags & EnqueueEntry::DUPLICATE != 0 => "duplicate",
            () if entry.due_ms.get() > 0 => JobState::Scheduled.name(),
            () => JobState::Ready.name(),
        };
        jobs.push(JobLine {
            id: JobId(id.get()).to_string(),
            attempt: None,
            became,
        });
    }
    Some(())
}

fn changed(body: &[u8], jobs: &mut Vec<JobLine>) -> Option<()> {
    let parts = parse_change(body)?;
    jobs.extend(parts.done.iter().map(|entry| JobLine {
        id: JobId(entry.id.get()).to_string(),
        attempt: Some(entry.attempt.get()),
        became: JobState::Done.name(),
    }));
    jobs.extend(parts.changes.iter().map(line));
    Some(())
}

fn line(entry: &ChangeEntry) -> JobLine {
    JobLine {
        id: JobId(entry.id.get()).to_string(),
        attempt: Some(entry.attempt.get()),
        became: JobState::from_u8(entry.phase).map_or("unknown", JobState::name),
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(self.time_ms));
        write!(
            f,
            "{:<12} {time} {:<10} {:>8} bytes",
            self.position, self.kind, self.bytes
        )?;
        if !self.jobs.is_empty() {
            write!(f, "  {} jobs:", self.jobs.len())?;
        }
        for job in self.jobs.iter().take(JOBS_SHOWN) {
            match job.attempt {
                Some(attempt) => write!(f, " {}#{attempt} {}", job.id, job.became)?,
                None => write!(f, " {} {}", job.id, job.became)?,
            }
        }
        f.write_str(if self.jobs.len() > JOBS_SHOWN { " …" } else { "" })
    }
}
