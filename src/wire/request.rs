//! Requests as the server reads them: borrowed from the frame, checked once, nothing copied.

use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, JobState};
use crate::base::limits;
use crate::base::queue::{Durability, QueueOptions};
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::Header;
use crate::wire::hello::Hello;
use crate::wire::op::Op;
use crate::wire::queue;
use zerocopy::little_endian::{U32, U64};

/// One request. `number` is its number in the session, 0 for none; `queue` and `queues` are handles.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the fields are those of PROTOCOL.md, one to one")]
pub enum Request<'a> {
    Hello(Hello<'a>),
    Ping,
    QueueOpen {
        name: &'a str,
    },
    QueueCreate {
        number: u64,
        name: &'a str,
        options: QueueOptions,
    },
    QueueInfo {
        name: &'a str,
    },
    QueueList {
        after: &'a str,
        limit: u32,
    },
    QueuePause {
        number: u64,
        name: &'a str,
    },
    QueueResume {
        number: u64,
        name: &'a str,
    },
    QueuePurge {
        number: u64,
        name: &'a str,
        states: u32,
    },
    QueueDelete {
        number: u64,
        name: &'a str,
    },
    Enqueue {
        number: u64,
        queue: u32,
        durability: Option<Durability>,
        batch: EnqueueBatch<'a>,
    },
    Reserve(ReserveRequest<'a>),
    Settle {
        number: u64,
        batch: SettleBatch<'a>,
    },
    Step {
        number: u64,
        settlements: Option<SettleBatch<'a>>,
        groups: Vec<(u32, EnqueueBatch<'a>)>,
    },
    Subscribe(SubscribeRequest<'a>),
    Unsubscribe {
        subscription: u32,
    },
    JobGet {
        id: JobId,
    },
    JobList {
        queue: &'a str,
        state: Option<JobState>,
        cursor: u64,
        limit: u32,
    },
    JobPeek {
        queue: &'a str,
        limit: u32,
    },
    JobCancel {
        number: u64,
        ids: &'a [U64],
    },
    JobRedrive {
        number: u64,
        queue: &'a str,
        ids: &'a [U64],
        limit: u32,
    },
}

/// Jobs wanted now, or within a time.
#[derive(Debug, Clone, Copy)]
pub struct ReserveRequest<'a> {
    /// Its number in the session, 0 for none.
    pub number: u64,
    /// At most so many jobs; never 0.
    pub max_jobs: u32,
    /// How long to wait for the first job, in milliseconds; 0 answers at once.
    pub wait_ms: u32,
    /// At most so many bytes of metadata and payload, but always one job; 0 for no limit but the frame's.
    pub max_bytes: u32,
    /// Lease, in milliseconds; 0 for the job's or queue's own.
    pub lease_ms: u32,
    /// Handles of the queues, in the order in which they are looked at; never empty.
    pub queues: &'a [U32],
}

/// Jobs wanted as they come.
#[derive(Debug, Clone, Copy)]
pub struct SubscribeRequest<'a> {
    /// At most so many unsettled jobs at a time; never 0.
    pub window_jobs: u32,
    /// At most so many bytes of metadata and payload in unsettled jobs, but always one job; 0 for no limit.
    pub window_bytes: u32,
    /// Lease, in milliseconds; 0 for the job's or queue's own.
    pub lease_ms: u32,
    /// Handles of the queues, in the order in which they are looked at; never empty.
    pub queues: &'a [U32],
}

impl<'a> Request<'a> {
    /// Reads one frame's request.
    ///
    /// ```
    /// use ackring::wire::{FrameDecoder, Request, compose};
    /// let mut bytes = Vec::new();
    /// compose::queue_open(&mut bytes, 1, "mail");
    /// let mut decoder = FrameDecoder::new(1024);
    /// decoder.extend(&bytes);
    /// let frame = decoder.next_frame()?.expect("it is whole");
    /// assert!(matches!(Request::decode(frame.header, frame.body)?, Request::QueueOpen { name: "mail" }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `UNSUPPORTED` for an unknown op; `MALFORMED` for a body that does not have its op's layout or a reserved
    /// field that is not zero; `INVALID_ARGUMENT`, `PAYLOAD_TOO_LARGE` or `BATCH_TOO_LARGE` for a value out of
    /// its range. None of these costs the connection.
    pub fn decode(header: &Header, body: &'a [u8]) -> Result<Self, Refusal> {
        let number = header.op.get();
        let Some(op) = Op::from_u16(number) else {
            return Err(Refusal::new(
                ErrorCode::Unsupported,
                format!("op {number} is not known here"),
            ));
        };
        if header.words != Header::WORDS {
            return Err(malformed("the header is 16 bytes long in this version"));
        }
        if header.flags != 0 && op != Op::Enqueue {
            return Err(malformed("a reserved flag is set"));
        }
        if header.aux.get() != 0 && !matches!(op, Op::Enqueue | Op::Unsubscribe) {
            return Err(malformed("aux is not zero"));
        }
        let mut fields = Fields::new(body);
        let request = match op {
            Op::Enqueue => return enqueue(header, &mut fields),
            Op::Settle => return settle(&mut fields),
            // Frozen, and open to what later versions put behind it.
            Op::Hello => return Hello::decode(body).map(Request::Hello),
            Op::Delivery => {
                return Err(Refusal::new(
                    ErrorCode::Unsupported,
                    "DELIVERY comes from the server only",
                ));
            }
            Op::Step => step(&mut fields)?,
            Op::Reserve => Request::Reserve(reserve(&mut fields)?),
            Op::Subscribe => Request::Subscribe(subscribe(&mut fields)?),
            Op::Unsubscribe => Request::Unsubscribe {
                subscription: header.aux.get(),
            },
            Op::Ping => Request::Ping,
            _ => by_name_or_id(op, &mut fields)?,
        };
        fields.end()?;
        Ok(request)
    }

    /// The request's number in its session; 0 when it has none.
    pub fn number(&self) -> u64 {
        match self {
            Request::QueueCreate { number, .. }
            | Request::QueuePause { number, .. }
            | Request::QueueResume { number, .. }
            | Request::QueuePurge { number, .. }
            | Request::QueueDelete { number, .. }
            | Request::Enqueue { number, .. }
            | Request::Settle { number, .. }
            | Request::Step { number, .. }
            | Request::JobCancel { number, .. }
            | Request::JobRedrive { number, .. }
            | Request::Reserve(ReserveRequest { number, .. }) => *number,
            _ => 0,
        }
    }
}

#[inline]
fn enqueue<'a>(header: &Header, fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
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
fn settle<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
    let number = fields.u64()?;
    let count = fields.u32()? as usize;
    fields.zeros(4)?;
    Ok(Request::Settle {
        number,
        batch: SettleBatch::parse(count, fields.rest())?,
    })
}

fn step<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
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

fn reserve<'a>(fields: &mut Fields<'a>) -> Result<ReserveRequest<'a>, Refusal> {
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

fn subscribe<'a>(fields: &mut Fields<'a>) -> Result<SubscribeRequest<'a>, Refusal> {
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
fn by_name_or_id<'a>(op: Op, fields: &mut Fields<'a>) -> Result<Request<'a>, Refusal> {
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
