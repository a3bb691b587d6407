//! Jobs and queues as JSON. The field names are what scripts depend on; they only ever grow.

use crate::base::code::{ErrorCode, ItemError};
use crate::base::job::{JobId, JobStatus};
use crate::base::queue::{Backoff, QueueOptions, QueueStats};
use serde::Serialize;

/// A queue's counters, as `stats` and `queue ls` list them.
#[derive(Debug, Serialize)]
pub(crate) struct QueueReport {
    name: String,
    paused: bool,
    ready: u64,
    scheduled: u64,
    leased: u64,
    dead: u64,
    done: u64,
    kept: u64,
    bytes: u64,
    enqueued: u64,
    deliveries: u64,
    failures: u64,
    expiries: u64,
    releases: u64,
    buried: u64,
    redriven: u64,
    cancelled: u64,
    expired: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<OptionsReport>,
}

impl QueueReport {
    /// Counters only.
    pub(crate) fn counters(stats: &QueueStats) -> Self {
        let counts = &stats.counts;
        Self {
            name: stats.name.clone(),
            paused: stats.paused,
            ready: counts.ready,
            scheduled: counts.scheduled,
            leased: counts.leased,
            dead: counts.dead,
            done: counts.done,
            kept: counts.kept,
            bytes: counts.bytes,
            enqueued: counts.enqueued,
            deliveries: counts.deliveries,
            failures: counts.failures,
            expiries: counts.expiries,
            releases: counts.releases,
            buried: counts.buried,
            redriven: counts.redriven,
            cancelled: counts.cancelled,
            expired: counts.expired,
            options: None,
        }
    }

    /// Counters and options.
    pub(crate) fn full(stats: &QueueStats) -> Self {
        Self {
            options: Some(OptionsReport::new(&stats.options)),
            ..Self::counters(stats)
        }
    }
}

/// A queue's options. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct OptionsReport {
    durability: &'static str,
    lease_ms: u32,
    max_attempts: u16,
    backoff: BackoffReport,
    capacity_jobs: u64,
    capacity_bytes: u64,
    payload_bytes_max: u32,
    dedupe_window_ms: u64,
    keep_finished: u32,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum BackoffReport {
    Exponential { base_ms: u32, cap_ms: u32 },
    List { list_ms: Vec<u32> },
}

impl OptionsReport {
    fn new(options: &QueueOptions) -> Self {
        Self {
            durability: options.durability.name(),
            lease_ms: options.lease_ms,
            max_attempts: options.max_attempts,
            backoff: match &options.backoff {
                Backoff::Exponential { base_ms, cap_ms } => BackoffReport::Exponential {
                    base_ms: *base_ms,
                    cap_ms: *cap_ms,
                },
                Backoff::List(list) => BackoffReport::List {
                    list_ms: list.clone(),
                },
            },
            capacity_jobs: options.capacity_jobs,
            capacity_bytes: options.capacity_bytes,
            payload_bytes_max: options.payload_bytes_max,
            dedupe_window_ms: options.dedupe_window_ms,
            keep_finished: options.keep_finished,
        }
    }
}

/// One job's status. Times are in milliseconds since the Unix epoch, `null` for none. Bytes that are not UTF-8
/// are shown with replacement characters.
#[derive(Debug, Serialize)]
pub(crate) struct JobReport {
    id: String,
    queue: String,
    state: &'static str,
    attempts: u16,
    max_attempts: u16,
    deliveries: u16,
    failures: u16,
    expiries: u16,
    last_error: Option<String>,
    result: Option<String>,
    priority: u8,
    enqueued_ms: Option<u64>,
    at_ms: Option<u64>,
    expires_ms: Option<u64>,
    payload_bytes: u32,
    meta: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl JobReport {
    /// What the server told about a job, without its payload.
    pub(crate) fn new(status: &JobStatus) -> Self {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
        let time = |at_ms: u64| (at_ms > 0).then_some(at_ms);
        Self {
            id: status.id.to_string(),
            queue: status.queue.clone(),
            state: status.state.name(),
            attempts: status.attempts,
            max_attempts: status.max_attempts,
            deliveries: status.deliveries,
            failures: status.failures,
            expiries: status.expiries,
            last_error: status.last_error.as_ref().map(text),
            result: status.result.as_ref().map(text),
            priority: status.priority,
            enqueued_ms: time(status.enqueued_ms),
            at_ms: time(status.at_ms),
            expires_ms: time(status.expires_ms),
            payload_bytes: status.payload_bytes,
            meta: text(&status.meta),
            payload: None,
        }
    }

    /// As [`new`](Self::new), with the payload.
    pub(crate) fn with_payload(status: &JobStatus) -> Self {
        let payload = String::from_utf8_lossy(&status.payload).into_owned();
        Self {
            payload: Some(payload),
            ..Self::new(status)
        }
    }
}

/// A job that a request by ids did not take effect on.
#[derive(Debug, Serialize)]
pub(crate) struct ItemReport {
    id: String,
    code: &'static str,
}

impl ItemReport {
    /// The failures among `items`, which tell positions in `ids`.
    pub(crate) fn failures(items: &[ItemError], ids: &[JobId]) -> Vec<Self> {
        items
            .iter()
            .filter(|item| !is_success(item.code))
            .map(|item| Self {
                id: ids
                    .get(item.position as usize)
                    .map(JobId::to_string)
                    .unwrap_or_default(),
                code: item.code.name(),
            })
            .collect()
    }

    /// `ID: WHAT`, for people.
    pub(crate) fn text(&self) -> String {
        format!("{}: {}", self.id, self.code)
    }
}

/// Whether what was asked for holds, even if it was not this request that made it so.
pub(crate) fn is_success(code: ErrorCode) -> bool {
    code.class() == crate::base::code::Class::Success
}
