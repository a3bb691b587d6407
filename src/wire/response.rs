//! Answers: written by the server, read by the client.

use crate::base::code::{ErrorCode, ItemError, Refusal};
use crate::base::job::{JobId, JobStatus};
use crate::base::limits;
use crate::base::queue::{Durability, QueueStats};
use crate::wire::error;
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::{FrameWriter, Header};
use crate::wire::op::{Op, PUSH, REPLY};
use crate::wire::{job, queue};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Which request an answer belongs to. Small and `Copy`, so that a waiting reserve can keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    op: u16,
    /// Success needs no answer.
    is_quiet: bool,
    correlation: u32,
}

/// What an [`Outcome`] says besides ids and items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutcomeHead {
    /// The durability that was reached; `None` when nothing had to be kept.
    pub level: Option<Durability>,
    /// The request had been applied before; this is its outcome then.
    pub replayed: bool,
    /// How many jobs (or queues) the request took effect on, `ALREADY_SETTLED` and `DUPLICATE` included.
    pub count: u32,
}

/// One line of an outcome's item errors: 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ItemEntry {
    position: U32,
    code: U16,
    reserved: U16,
}

const REPLAYED: u8 = 1;
const MORE: u32 = 1;

impl Reply {
    /// The answer to the request with that header, known op or not.
    pub fn to(header: &Header) -> Self {
        Self {
            op: header.op.get() | REPLY,
            is_quiet: header.op.get() == Op::Settle as u16 && header.flags & Header::QUIET != 0,
            correlation: header.correlation.get(),
        }
    }

    /// Begins the answer's frame.
    pub fn begin(self, out: &mut Vec<u8>) -> FrameWriter<'_> {
        FrameWriter::begin(out, self.op, 0, self.correlation, 0)
    }

    /// The correlation id, for logs.
    pub fn correlation(self) -> u32 {
        self.correlation
    }

    /// Whether the client wants to hear only of what was not applied.
    pub fn is_quiet(self) -> bool {
        self.is_quiet
    }

    /// Refuses the request.
    pub fn error(self, out: &mut Vec<u8>, refusal: &Refusal) {
        let mut frame = FrameWriter::begin(out, self.op, Header::ERROR, self.correlation, 0);
        error::put(&mut frame, refusal, error::scope_number(refusal.code.scope()));
        frame.finish();
    }

    /// Answers PING or UNSUBSCRIBE.
    pub fn empty(self, out: &mut Vec<u8>) {
        self.begin(out).finish();
    }

    /// Answers QUEUE_OPEN or QUEUE_CREATE with the queue's handle, SUBSCRIBE with the subscription.
    pub fn handle(self, out: &mut Vec<u8>, handle: u32) {
        let mut frame = self.begin(out);
        frame.put_u32(handle);
        frame.finish();
    }

    /// Answers every other request that changes something. `ids` only for ENQUEUE and STEP: one a job, 0 where
    /// there is none.
    pub fn outcome(self, out: &mut Vec<u8>, head: OutcomeHead, ids: &[u64], items: &[ItemError]) {
        let mut frame = self.begin(out);
        frame.put_u8(head.level.map_or(0, |level| level as u8));
        frame.put_u8(if head.replayed { REPLAYED } else { 0 });
        frame.put_u16(0);
        frame.put_u32(head.count);
        frame.put_u32(ids.len() as u32);
        frame.put_u32(items.len() as u32);
        if cfg!(target_endian = "little") {
            frame.put(ids.as_bytes());
        } else {
            ids.iter().for_each(|id| frame.put_u64(*id));
        }
        for item in items {
            frame.put_u32(item.position);
            frame.put_u32(item.code as u32);
        }
        frame.finish();
    }

    /// Answers QUEUE_INFO.
    pub fn queue_info(self, out: &mut Vec<u8>, stats: &QueueStats) {
        let mut frame = self.begin(out);
        queue::encode_stats(&mut frame, stats);
        frame.finish();
    }

    /// Answers QUEUE_LIST; `more` says that there are queues behind the last one.
    pub fn queue_list(self, out: &mut Vec<u8>, queues: &[QueueStats], more: bool) {
        let mut frame = self.begin(out);
        frame.put_u32(queues.len() as u32);
        frame.put_u32(if more { MORE } else { 0 });
        queues
            .iter()
            .for_each(|stats| queue::encode_stats(&mut frame, stats));
        frame.finish();
    }

    /// Answers JOB_GET.
    pub fn job(self, out: &mut Vec<u8>, status: &JobStatus) {
        let mut frame = self.begin(out);
        job::encode_status(&mut frame, status);
        frame.finish();
    }

    /// Answers JOB_LIST and JOB_PEEK (with 0 for the cursor); a cursor of 0 says that this was the last page.
    pub fn jobs(self, out: &mut Vec<u8>, jobs: &[JobStatus], cursor: u64) {
        let mut frame = self.begin(out);
        frame.put_u64(cursor);
        frame.put_u32(jobs.len() as u32);
        frame.put_u32(0);
        jobs.iter()
            .for_each(|status| job::encode_status(&mut frame, status));
        frame.finish();
    }
}

/// Tells a client that a subscription has ended, and why (its queue was deleted, for instance).
pub fn subscription_ended(out: &mut Vec<u8>, subscription: u32, refusal: &Refusal) {
    let op = Op::Delivery as u16 | PUSH;
    let mut frame = FrameWriter::begin(out, op, Header::ERROR, 0, subscription);
    error::put(&mut frame, refusal, error::SCOPE_SUBSCRIPTION);
    frame.finish();
}

/// Tells a client why its connection is closed when that is no answer to a request: a frame whose borders are
/// lost, silence, a shutdown. It is an error reply to op 0.
pub fn connection_error(out: &mut Vec<u8>, refusal: &Refusal) {
    Reply {
        op: REPLY,
        is_quiet: false,
        correlation: 0,
    }
    .error(out, refusal);
}

/// An outcome read in place.
#[derive(Clone, Copy)]
pub struct OutcomeView<'a> {
    /// Level, replay and count.
    pub head: OutcomeHead,
    ids: &'a [U64],
    items: &'a [ItemEntry],
}

impl<'a> OutcomeView<'a> {
    /// Reads the body of an answer.
    ///
    /// # Errors
    /// `MALFORMED` when it is no such body, or tells of a code that this version does not know.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(body);
        let level = match fields.u8()? {
            0 => None,
            level => Some(Durability::from_u8(level).ok_or_else(|| malformed("an unknown durability"))?),
        };
        let replayed = fields.u8()? & REPLAYED != 0;
        fields.zeros(2)?;
        let count = fields.u32()?;
        let id_count = fields.u32()? as usize;
        let item_count = fields.u32()? as usize;
        let ids = fields.entries::<U64>(id_count)?;
        let items = fields.entries::<ItemEntry>(item_count)?;
        fields.end()?;
        if items.iter().any(|item| item_error(item).is_none()) {
            return Err(malformed("an unknown code"));
        }
        Ok(Self {
            head: OutcomeHead {
                level,
                replayed,
                count,
            },
            ids,
            items,
        })
    }

    /// ENQUEUE and STEP: the job of each position; `JobId(0)` where there is none.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = JobId> + use<'a> {
        self.ids.iter().map(|id| JobId(id.get()))
    }

    /// The positions that did not go the plain way.
    pub fn items(&self) -> impl Iterator<Item = ItemError> + use<'a> {
        self.items.iter().filter_map(item_error)
    }
}

/// What a request changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Level, replay and count.
    pub head: OutcomeHead,
    /// ENQUEUE and STEP: the job of each position; `JobId(0)` where there is none.
    pub ids: Vec<JobId>,
    /// The positions that did not go the plain way.
    pub items: Vec<ItemError>,
}

impl Outcome {
    /// As [`OutcomeView::parse`], copied out.
    ///
    /// # Errors
    /// As there.
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let view = OutcomeView::parse(body)?;
        Ok(Self {
            head: view.head,
            ids: view.ids().collect(),
            items: view.items().collect(),
        })
    }
}

fn item_error(entry: &ItemEntry) -> Option<ItemError> {
    Some(ItemError {
        position: entry.position.get(),
        code: ErrorCode::from_u16(entry.code.get())?,
    })
}

/// Reads the answer to QUEUE_OPEN, QUEUE_CREATE or SUBSCRIBE.
///
/// # Errors
/// `MALFORMED` when it is no such body.
pub fn decode_handle(body: &[u8]) -> Result<u32, Refusal> {
    Fields::new(body).u32()
}

/// Reads the answer to QUEUE_INFO.
///
/// # Errors
/// `MALFORMED` when it is no such body.
pub fn decode_queue_info(body: &[u8]) -> Result<QueueStats, Refusal> {
    queue::decode_stats(&mut Fields::new(body))
}

/// Reads the answer to QUEUE_LIST: the queues, and whether there are more.
///
/// # Errors
/// `MALFORMED` when it is no such body.
pub fn decode_queue_list(body: &[u8]) -> Result<(Vec<QueueStats>, bool), Refusal> {
    let mut fields = Fields::new(body);
    let count = page_count(fields.u32()?)?;
    let more = fields.u32()? & MORE != 0;
    let queues = (0..count)
        .map(|_| queue::decode_stats(&mut fields))
        .collect::<Result<_, _>>()?;
    Ok((queues, more))
}

/// Reads the answer to JOB_GET.
///
/// # Errors
/// `MALFORMED` when it is no such body.
pub fn decode_job(body: &[u8]) -> Result<JobStatus, Refusal> {
    job::decode_status(&mut Fields::new(body))
}

/// Reads the answer to JOB_LIST or JOB_PEEK: the jobs, and the next page's cursor (0: there is none).
///
/// # Errors
/// `MALFORMED` when it is no such body.
pub fn decode_jobs(body: &[u8]) -> Result<(Vec<JobStatus>, u64), Refusal> {
    let mut fields = Fields::new(body);
    let cursor = fields.u64()?;
    let count = page_count(fields.u32()?)?;
    fields.zeros(4)?;
    let jobs = (0..count)
        .map(|_| job::decode_status(&mut fields))
        .collect::<Result<_, _>>()?;
    Ok((jobs, cursor))
}

fn page_count(count: u32) -> Result<u32, Refusal> {
    if count > limits::LIST_PAGE_MAX {
        return Err(malformed("a page with more entries than asked for"));
    }
    Ok(count)
}
