//! Requests as a client writes them: one function an operation, each appends one frame.
//!
//! `number` is the request's number in the session, 0 for none; `queue` and `queues` are handles.

use crate::base::batch::{EnqueueBuilder, SettleBuilder};
use crate::base::entry::{EnqueueEntry, SettleEntry, Verb, pad8};
use crate::base::job::{JobId, JobState, Token};
use crate::base::queue::{Durability, QueueOptions};
use crate::wire::frame::{FrameWriter, Header};
use crate::wire::op::Op;
use crate::wire::queue as layout;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn begin(out: &mut Vec<u8>, op: Op, correlation: u32) -> FrameWriter<'_> {
    FrameWriter::begin(out, op as u16, 0, correlation, 0)
}

fn named(out: &mut Vec<u8>, op: Op, correlation: u32, name: &str) {
    let mut frame = begin(out, op, correlation);
    frame.put_blob(name.as_bytes());
    frame.finish();
}

/// PING.
pub fn ping(out: &mut Vec<u8>, correlation: u32) {
    begin(out, Op::Ping, correlation).finish();
}

/// QUEUE_OPEN.
pub fn queue_open(out: &mut Vec<u8>, correlation: u32, name: &str) {
    named(out, Op::QueueOpen, correlation, name);
}

/// QUEUE_INFO.
pub fn queue_info(out: &mut Vec<u8>, correlation: u32, name: &str) {
    named(out, Op::QueueInfo, correlation, name);
}

/// QUEUE_CREATE.
pub fn queue_create(out: &mut Vec<u8>, correlation: u32, number: u64, name: &str, options: &QueueOptions) {
    let mut frame = begin(out, Op::QueueCreate, correlation);
    frame.put_u64(number);
    frame.put_blob(name.as_bytes());
    layout::encode_options(&mut frame, options);
    frame.finish();
}

/// QUEUE_LIST: up to `limit` queues whose names come after `after`.
pub fn queue_list(out: &mut Vec<u8>, correlation: u32, after: &str, limit: u32) {
    let mut frame = begin(out, Op::QueueList, correlation);
    frame.put_u32(limit);
    frame.put_u32(0);
    frame.put_blob(after.as_bytes());
    frame.finish();
}

/// QUEUE_PAUSE, QUEUE_RESUME or QUEUE_DELETE, as `op` says.
pub fn queue_change(out: &mut Vec<u8>, correlation: u32, op: Op, number: u64, name: &str) {
    let mut frame = begin(out, op, correlation);
    frame.put_u64(number);
    frame.put_blob(name.as_bytes());
    frame.finish();
}

/// QUEUE_PURGE of the jobs in the states of the mask: bit *n* for state *n*.
pub fn queue_purge(out: &mut Vec<u8>, correlation: u32, number: u64, name: &str, states: u32) {
    let mut frame = begin(out, Op::QueuePurge, correlation);
    frame.put_u64(number);
    frame.put_u32(states);
    frame.put_u32(0);
    frame.put_blob(name.as_bytes());
    frame.finish();
}

/// ENQUEUE.
pub fn enqueue(
    out: &mut Vec<u8>,
    correlation: u32,
    number: u64,
    queue: u32,
    durability: Option<Durability>,
    batch: &EnqueueBuilder,
) {
    out.reserve(Header::LEN + 16 + batch.len());
    let flags = durability.map_or(0, |level| level as u8);
    let mut frame = FrameWriter::begin(out, Op::Enqueue as u16, flags, correlation, queue);
    frame.put_u64(number);
    frame.put_u32(batch.count() as u32);
    frame.put_u32(0);
    batch.write_to(frame.out());
    frame.finish();
}

/// ENQUEUE of `count` jobs without options, written where they are sent from: `fill` is called with each position and
/// appends that job's payload to the buffer. It must only append.
pub fn enqueue_with(
    out: &mut Vec<u8>,
    correlation: u32,
    number: u64,
    queue: u32,
    durability: Option<Durability>,
    count: usize,
    mut fill: impl FnMut(usize, &mut Vec<u8>),
) {
    let flags = durability.map_or(0, |level| level as u8);
    let mut frame = FrameWriter::begin(out, Op::Enqueue as u16, flags, correlation, queue);
    frame.put_u64(number);
    frame.put_u32(count as u32);
    frame.put_u32(0);
    let out = frame.out();
    let entries = out.len();
    let bodies = entries + count * EnqueueEntry::LEN;
    out.resize(bodies, 0);
    for position in 0..count {
        let body = out.len();
        fill(position, out);
        let len = out.len() - body;
        // Bodies begin at multiples of 8 from the first one, wherever in the buffer that is.
        out.resize(body + pad8(len), 0);
        let mut entry = EnqueueEntry::new_zeroed();
        entry.payload_len = U32::new(u32::try_from(len).unwrap_or(u32::MAX));
        let place = entries + position * EnqueueEntry::LEN;
        out[place..place + EnqueueEntry::LEN].copy_from_slice(entry.as_bytes());
    }
    frame.finish();
}

/// What RESERVE asks for; the fields are those of [`ReserveRequest`](crate::wire::ReserveRequest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented where the server reads them")]
pub struct ReserveFields {
    pub number: u64,
    pub max_jobs: u32,
    pub wait_ms: u32,
    pub max_bytes: u32,
    pub lease_ms: u32,
}

/// RESERVE.
pub fn reserve(out: &mut Vec<u8>, correlation: u32, fields: &ReserveFields, queues: &[u32]) {
    let mut frame = begin(out, Op::Reserve, correlation);
    frame.put_u64(fields.number);
    frame.put_u32(fields.max_jobs);
    frame.put_u32(fields.wait_ms);
    frame.put_u32(fields.max_bytes);
    frame.put_u32(fields.lease_ms);
    frame.put_u32(queues.len() as u32);
    frame.put_u32(0);
    queues.iter().for_each(|queue| frame.put_u32(*queue));
    frame.finish();
}

/// SETTLE.
pub fn settle(out: &mut Vec<u8>, correlation: u32, number: u64, batch: &SettleBuilder) {
    put_settlements(out, 0, correlation, number, batch);
}

/// As [`settle`], answered only where something of it was not applied. It has no number.
pub fn settle_quietly(out: &mut Vec<u8>, correlation: u32, batch: &SettleBuilder) {
    put_settlements(out, Header::QUIET, correlation, 0, batch);
}

fn put_settlements(out: &mut Vec<u8>, flags: u8, correlation: u32, number: u64, batch: &SettleBuilder) {
    out.reserve(Header::LEN + 16 + batch.len());
    let mut frame = FrameWriter::begin(out, Op::Settle as u16, flags, correlation, 0);
    frame.put_u64(number);
    frame.put_u32(batch.count() as u32);
    frame.put_u32(0);
    batch.write_to(frame.out());
    frame.finish();
}

/// SETTLE that acks all of them, without results.
pub fn ack_all(out: &mut Vec<u8>, correlation: u32, number: u64, tokens: &[Token]) {
    put_acks(out, 0, correlation, number, tokens);
}

/// As [`ack_all`], answered only where a delivery was not current any more. It has no number.
pub fn ack_quietly(out: &mut Vec<u8>, correlation: u32, tokens: &[Token]) {
    put_acks(out, Header::QUIET, correlation, 0, tokens);
}

fn put_acks(out: &mut Vec<u8>, flags: u8, correlation: u32, number: u64, tokens: &[Token]) {
    out.reserve(Header::LEN + 16 + tokens.len() * SettleEntry::LEN);
    let mut frame = FrameWriter::begin(out, Op::Settle as u16, flags, correlation, 0);
    frame.put_u64(number);
    frame.put_u32(tokens.len() as u32);
    frame.put_u32(0);
    for token in tokens {
        let entry = SettleEntry {
            id: U64::new(token.id.0),
            arg: U32::new(0),
            attempt: U16::new(token.attempt),
            verb: Verb::Ack as u8,
            flags: 0,
        };
        frame.put(entry.as_bytes());
    }
    frame.finish();
}

/// STEP.
pub fn step(
    out: &mut Vec<u8>,
    correlation: u32,
    number: u64,
    settlements: &SettleBuilder,
    groups: &[(u32, &EnqueueBuilder)],
) {
    let mut frame = begin(out, Op::Step, correlation);
    frame.put_u64(number);
    frame.put_u32(settlements.count() as u32);
    frame.put_u32(groups.len() as u32);
    frame.put_u32(settlements.len() as u32);
    frame.put_u32(0);
    settlements.write_to(frame.out());
    for (queue, batch) in groups {
        frame.put_u32(*queue);
        frame.put_u32(batch.count() as u32);
        frame.put_u32(batch.len() as u32);
        frame.put_u32(0);
        batch.write_to(frame.out());
    }
    frame.finish();
}

/// SUBSCRIBE.
pub fn subscribe(
    out: &mut Vec<u8>,
    correlation: u32,
    window_jobs: u32,
    window_bytes: u32,
    lease_ms: u32,
    queues: &[u32],
) {
    let mut frame = begin(out, Op::Subscribe, correlation);
    frame.put_u32(window_jobs);
    frame.put_u32(window_bytes);
    frame.put_u32(lease_ms);
    frame.put_u32(queues.len() as u32);
    queues.iter().for_each(|queue| frame.put_u32(*queue));
    frame.finish();
}

/// UNSUBSCRIBE.
pub fn unsubscribe(out: &mut Vec<u8>, correlation: u32, subscription: u32) {
    FrameWriter::begin(out, Op::Unsubscribe as u16, 0, correlation, subscription).finish();
}

/// JOB_GET.
pub fn job_get(out: &mut Vec<u8>, correlation: u32, id: JobId) {
    let mut frame = begin(out, Op::JobGet, correlation);
    frame.put_u64(id.0);
    frame.finish();
}

/// JOB_LIST: up to `limit` jobs from `cursor` on (0: from the beginning), in one state or in any.
pub fn job_list(
    out: &mut Vec<u8>,
    correlation: u32,
    queue: &str,
    state: Option<JobState>,
    cursor: u64,
    limit: u32,
) {
    let mut frame = begin(out, Op::JobList, correlation);
    frame.put_u64(cursor);
    frame.put_u32(limit);
    frame.put_u32(state.map_or(0, |state| state as u32));
    frame.put_blob(queue.as_bytes());
    frame.finish();
}

/// JOB_PEEK.
pub fn job_peek(out: &mut Vec<u8>, correlation: u32, queue: &str, limit: u32) {
    let mut frame = begin(out, Op::JobPeek, correlation);
    frame.put_u32(limit);
    frame.put_u32(0);
    frame.put_blob(queue.as_bytes());
    frame.finish();
}

/// JOB_CANCEL.
pub fn job_cancel(out: &mut Vec<u8>, correlation: u32, number: u64, ids: &[JobId]) {
    let mut frame = begin(out, Op::JobCancel, correlation);
    frame.put_u64(number);
    frame.put_u32(ids.len() as u32);
    frame.put_u32(0);
    ids.iter().for_each(|id| frame.put_u64(id.0));
    frame.finish();
}

/// JOB_REDRIVE of these jobs, or with no ids of up to `limit` dead ones (0: all).
pub fn job_redrive(out: &mut Vec<u8>, correlation: u32, number: u64, queue: &str, ids: &[JobId], limit: u32) {
    let mut frame = begin(out, Op::JobRedrive, correlation);
    frame.put_u64(number);
    frame.put_u32(limit);
    frame.put_u32(ids.len() as u32);
    frame.put_blob(queue.as_bytes());
    ids.iter().for_each(|id| frame.put_u64(id.0));
    frame.finish();
}

/// Writes other queue handles into a request that was composed before, in the order in which they stand there.
///
/// Handles are good for one boot of the server, so a request that is sent again after a reconnect needs new ones.
/// Other operations carry none and stay as they are.
pub fn set_queues(frame: &mut [u8], queues: &[u32]) {
    let op = Header::ref_from_prefix(frame)
        .ok()
        .and_then(|(header, _)| Op::from_u16(header.op.get()));
    match op {
        Some(Op::Enqueue) => put_handles(&mut frame[12..], queues),
        Some(Op::Reserve) => put_handles(&mut frame[48..], queues),
        Some(Op::Subscribe) => put_handles(&mut frame[32..], queues),
        Some(Op::Step) => {
            let u32_at =
                |frame: &[u8], at: usize| frame[at..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
            let mut at = 40 + u32_at(frame, 32) as usize;
            for queue in queues {
                frame[at..at + 4].copy_from_slice(&queue.to_le_bytes());
                at += 16 + u32_at(frame, at + 8) as usize;
            }
        }
        _ => {}
    }
}

fn put_handles(places: &mut [u8], queues: &[u32]) {
    for (place, queue) in places.chunks_exact_mut(4).zip(queues) {
        place.copy_from_slice(&queue.to_le_bytes());
    }
}

/// Cuts the wait of a RESERVE that was composed before down to `wait_ms`, in milliseconds.
pub fn shorten_wait(frame: &mut [u8], wait_ms: u32) {
    if let Some(place) = frame[28..].first_chunk_mut() {
        *place = wait_ms.min(u32::from_le_bytes(*place)).to_le_bytes();
    }
}
