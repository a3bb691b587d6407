//! Requests as the server reads them: borrowed from the frame, checked once, nothing copied.

use crate::base::batch::{EnqueueBatch, SettleBatch};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::job::{JobId, JobState};
use crate::base::queue::{Durability, QueueOptions};
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::Header;
use crate::wire::hello::Hello;
use crate::wire::op::Op;
use crate::wire::parse;
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
        /// It is answered only where something of it was not applied.
        quiet: bool,
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
        if header.flags != 0 && !matches!(op, Op::Enqueue | Op::Settle) {
            return Err(malformed("a reserved flag is set"));
        }
        if header.aux.get() != 0 && !matches!(op, Op::Enqueue | Op::Unsubscribe) {
            return Err(malformed("aux is not zero"));
        }
        let mut fields = Fields::new(body);
        let request = match op {
            Op::Enqueue => return parse::enqueue(header, &mut fields),
            Op::Settle => return parse::settle(header, &mut fields),
            // Frozen, and open to what later versions put behind it.
            Op::Hello => return Hello::decode(body).map(Request::Hello),
            Op::Delivery => {
                return Err(Refusal::new(
                    ErrorCode::Unsupported,
                    "DELIVERY comes from the server only",
                ));
            }
            Op::Step => parse::step(&mut fields)?,
            Op::Reserve => Request::Reserve(parse::reserve(&mut fields)?),
            Op::Subscribe => Request::Subscribe(parse::subscribe(&mut fields)?),
            Op::Unsubscribe => Request::Unsubscribe {
                subscription: header.aux.get(),
            },
            Op::Ping => Request::Ping,
            _ => parse::by_name_or_id(op, &mut fields)?,
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
