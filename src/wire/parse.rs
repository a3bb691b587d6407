//! The bodies of requests, one function a shape.

use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, JobState};
use crate::base::limits;
use crate::base::queue::Durability;
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::Header;
use crate::wire::op::Op;
use crate::wire::queue;
use crate::wire::request::{Request, ReserveRequest, SubscribeRequest};
use zerocopy::little_endian::{U32, U64};

#[inline]
pub(crate) fn enqueue<'a>(header: &Header, fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
    let durability = match header.flags {
        0 => None,
        level => Some(Durability::from_u8(level).ok_or_else(|| malformed("a reserved flag is set"))?),
    };
    let number = fields.u64()?;
    let count = fields.u32()? as usize;
    fields.zeros(4)?;
    let batch = EnqueueBatch::parse(count, fields.rest())?;
    Ok(Request::Enqueue {
        number,
        queue: header.aux.get(),
        durability,
        batch,
    })
}

#[inline]
pub(crate) fn settle<'a>(header: &Header, fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
    let quiet = match header.flags {
        0 => false,
        Header::QUIET => true,
        _ => return Err(malformed("a reserved flag is set")),
    };
    let number = fields.u64()?;
    if quiet && number != 0 {
        return Err(malformed("a quiet SETTLE has no number"));
    }
    let count = fields.u32()? as usize;
    fields.zeros(4)?;
    Ok(Request::Settle {
        number,
        quiet,
        batch: SettleBatch::parse(count, fields.rest())?,
    })
}

pub(crate) fn step<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
    let number = fields.u64()?;
    let settle_count = fields.u32()? as usize;
    let group_count = fields.u32()? as usize;
    let settle_len = fields.u32()? as usize;
    fields.zeros(4)?;
    let settle_bytes = fields.bytes(settle_len)?;
    let settlements = match (settle_count, settle_len) {
        (0, 0) => None,
        (0, _) => return Err(malformed("settlements that are not counted")),
        _ => Some(SettleBatch::parse(settle_count, settle_bytes)?),
    };
    if group_count > limits::QUEUES_PER_REQUEST_MAX {
        let text = format!("a step has at most {} groups", limits::QUEUES_PER_REQUEST_MAX);
        return Err(Refusal::new(ErrorCode::BatchTooLarge, text));
    }
    let mut groups = Vec::with_capacity(group_count);
    let mut jobs = 0;
    for _ in 0..group_count {
        let queue = fields.u32()?;
        let count = fields.u32()? as usize;
        let len = fields.u32()? as usize;
        fields.zeros(4)?;
        let batch = EnqueueBatch::parse(count, fields.bytes(len)?)?;
        jobs += batch.count();
        groups.push((queue, batch));
    }
    if jobs > limits::BATCH_JOBS_MAX {
        let text = format!("a step enqueues at most {} jobs", limits::BATCH_JOBS_MAX);
        return Err(Refusal::new(ErrorCode::BatchTooLarge, text));
    }
    if settlements.is_none() && groups.is_empty() {
        return Err(Refusal::new(ErrorCode::InvalidArgument, "an empty step"));
    }
    Ok(Request::Step {
        number,
        settlements,
        groups,
    })
}

pub(crate) fn reserve<'a>(fields: &mut Fields<'a>) -> Result<ReserveRequest<'a>, Refusal> {
    let number = fields.u64()?;
    let max_jobs = in_range(fields.u32()?, 1, limits::BATCH_JOBS_MAX as u32, "jobs to reserve")?;
    let wait_ms = in_range(fields.u32()?, 0, limits::WAIT_MS_MAX, "milliseconds to wait")?;
    let max_bytes = fields.u32()?;
    let lease_ms = in_range(fields.u32()?, 0, limits::LEASE_MS_MAX, "milliseconds of lease")?;
    let count = fields.u32()?;
    fields.zeros(4)?;
    Ok(ReserveRequest {
        number,
        max_jobs,
        wait_ms,
        max_bytes,
        lease_ms,
        queues: handles(count, fields)?,
    })
}

pub(crate) fn subscribe<'a>(fields: &mut Fields<'a>) -> Result<SubscribeRequest<'a>, Refusal> {
    let window_jobs = in_range(fields.u32()?, 1, limits::WINDOW_JOBS_MAX, "jobs in a window")?;
    let window_bytes = fields.u32()?;
    let lease_ms = in_range(fields.u32()?, 0, limits::LEASE_MS_MAX, "milliseconds of lease")?;
    let count = fields.u32()?;
    Ok(SubscribeRequest {
        window_jobs,
        window_bytes,
        lease_ms,
        queues: handles(count, fields)?,
    })
}

fn handles<'a>(count: u32, fields: &mut Fields<'a>) -> Result<&'a [U32], Refusal> {
    let count = in_range(count, 1, limits::QUEUES_PER_REQUEST_MAX as u32, "queues")?;
    fields.entries_padded(count as usize)
}

fn in_range(value: u32, min: u32, max: u32, what: &str) -> Result<u32, Refusal> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(Refusal::new(
        ErrorCode::InvalidArgument,
        format!("{what}: {min} to {max}, not {value}"),
    ))
}

/// The requests off the hot path: by a queue's name or a job's id.
pub(crate) fn by_name_or_id<'a>(op: Op, fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
    let number = if op.is_numbered() { fields.u64()? } else { 0 };
    Ok(match op {
        Op::QueueOpen => Request::QueueOpen {
            name: fields.queue_name()?,
        },
        Op::QueueCreate => Request::QueueCreate {
            number,
            name: fields.queue_name()?,
            options: queue::decode_options(fields)?,
        },
        Op::QueueInfo => Request::QueueInfo {
            name: fields.queue_name()?,
        },
        Op::QueueList => {
            let limit = page(fields)?;
            fields.zeros(4)?;
            Request::QueueList {
                after: fields.text(limits::QUEUE_NAME_BYTES_MAX)?,
                limit,
            }
        }
        Op::QueuePause => Request::QueuePause {
            number,
            name: fields.queue_name()?,
        },
        Op::QueueResume => Request::QueueResume {
            number,
            name: fields.queue_name()?,
        },
        Op::QueueDelete => Request::QueueDelete {
            number,
            name: fields.queue_name()?,
        },
        Op::QueuePurge => {
            let states = fields.u32()?;
            fields.zeros(4)?;
            if states == 0 || states & !queue::STATES_ALL != 0 {
                return Err(Refusal::new(
                    ErrorCode::InvalidArgument,
                    "no state, or an unknown one, to purge",
                ));
            }
            Request::QueuePurge {
                number,
                name: fields.queue_name()?,
                states,
            }
        }
        Op::JobGet => Request::JobGet {
            id: JobId(fields.u64()?),
        },
        Op::JobList => {
            let cursor = fields.u64()?;
            let limit = page(fields)?;
            let state = match fields.u8()? {
                0 => None,
                state => Some(JobState::from_u8(state).ok_or_else(|| malformed("an unknown state"))?),
            };
            fields.zeros(3)?;
            Request::JobList {
                queue: fields.queue_name()?,
                state,
                cursor,
                limit,
            }
        }
        Op::JobPeek => {
            let limit = page(fields)?;
            fields.zeros(4)?;
            Request::JobPeek {
                queue: fields.queue_name()?,
                limit,
            }
        }
        Op::JobCancel => {
            let count = fields.u32()?;
            fields.zeros(4)?;
            Request::JobCancel {
                number,
                ids: ids(count, 1, fields)?,
            }
        }
        Op::JobRedrive => {
            let limit = fields.u32()?;
            let count = fields.u32()?;
            let queue = fields.queue_name()?;
            Request::JobRedrive {
                number,
                queue,
                ids: ids(count, 0, fields)?,
                limit,
            }
        }
        _ => unreachable!("every other op has its own branch in decode"),
    })
}

fn page(fields: &mut Fields<'_>) -> Result<u32, Refusal> {
    in_range(fields.u32()?, 1, limits::LIST_PAGE_MAX, "entries of a page")
}

fn ids<'a>(count: u32, min: u32, fields: &mut Fields<'a>) -> Result<&'a [U64], Refusal> {
    if count < min || count as usize > limits::BATCH_JOBS_MAX {
        let text = format!("{min} to {} job ids, not {count}", limits::BATCH_JOBS_MAX);
        return Err(Refusal::new(ErrorCode::BatchTooLarge, text));
    }
    fields.entries(count as usize)
}
