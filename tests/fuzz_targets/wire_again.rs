//! Writes again what was read from the wire: a request from its parts, by the functions that clients use.
//!
//! Every kind of request is named, so that a new one does not compile until it is here.

use ackring::wire::{Header, Op, Request, compose};
use ackring::{EnqueueBatch, EnqueueBuilder, EnqueueEntry, JobId, JobOptions, SettleBatch, SettleBuilder};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// The frame of a request that was read from a frame with that header.
pub fn request(header: &Header, request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let c = header.correlation.get();
    match request {
        Request::Hello(hello) => hello.encode(&mut out, c),
        Request::Ping => compose::ping(&mut out, c),
        Request::QueueOpen { name } => compose::queue_open(&mut out, c, name),
        Request::QueueCreate {
            number,
            name,
            options,
        } => compose::queue_create(&mut out, c, *number, name, options),
        Request::QueueInfo { name } => compose::queue_info(&mut out, c, name),
        Request::QueueList { after, limit } => compose::queue_list(&mut out, c, after, *limit),
        Request::QueuePause { number, name } => {
            compose::queue_change(&mut out, c, Op::QueuePause, *number, name);
        }
        Request::QueueResume { number, name } => {
            compose::queue_change(&mut out, c, Op::QueueResume, *number, name);
        }
        Request::QueueDelete { number, name } => {
            compose::queue_change(&mut out, c, Op::QueueDelete, *number, name);
        }
        Request::QueuePurge { number, name, states } => {
            compose::queue_purge(&mut out, c, *number, name, *states);
        }
        Request::Enqueue {
            number,
            queue,
            durability,
            batch,
        } => compose::enqueue(&mut out, c, *number, *queue, *durability, &enqueue_batch(batch)),
        Request::Reserve(fields) => {
            let plain = compose::ReserveFields {
                number: fields.number,
                max_jobs: fields.max_jobs,
                wait_ms: fields.wait_ms,
                max_bytes: fields.max_bytes,
                lease_ms: fields.lease_ms,
            };
            compose::reserve(&mut out, c, &plain, &numbers(fields.queues));
        }
        Request::Settle {
            number: 0,
            quiet: true,
            batch,
        } => compose::settle_quietly(&mut out, c, &settle_batch(batch)),
        Request::Settle { number, batch, .. } => compose::settle(&mut out, c, *number, &settle_batch(batch)),
        Request::Step {
            number,
            settlements,
            groups,
        } => {
            let settlements = settlements.as_ref().map(settle_batch).unwrap_or_default();
            let built: Vec<_> = groups
                .iter()
                .map(|(queue, batch)| (*queue, enqueue_batch(batch)))
                .collect();
            let borrowed: Vec<_> = built.iter().map(|(queue, batch)| (*queue, batch)).collect();
            compose::step(&mut out, c, *number, &settlements, &borrowed);
        }
        Request::Subscribe(fields) => {
            let queues = numbers(fields.queues);
            let (jobs, bytes) = (fields.window_jobs, fields.window_bytes);
            compose::subscribe(&mut out, c, jobs, bytes, fields.lease_ms, &queues);
        }
        Request::Unsubscribe { subscription } => compose::unsubscribe(&mut out, c, *subscription),
        Request::JobGet { id } => compose::job_get(&mut out, c, *id),
        Request::JobList {
            queue,
            state,
            cursor,
            limit,
        } => compose::job_list(&mut out, c, queue, *state, *cursor, *limit),
        Request::JobPeek { queue, limit } => compose::job_peek(&mut out, c, queue, *limit),
        Request::JobCancel { number, ids } => compose::job_cancel(&mut out, c, *number, &job_ids(ids)),
        Request::JobRedrive {
            number,
            queue,
            ids,
            limit,
        } => compose::job_redrive(&mut out, c, *number, queue, &job_ids(ids), *limit),
    }
    out
}

fn numbers(queues: &[U32]) -> Vec<u32> {
    queues.iter().map(|queue| queue.get()).collect()
}

fn job_ids(ids: &[U64]) -> Vec<JobId> {
    ids.iter().map(|id| JobId(id.get())).collect()
}

pub fn enqueue_batch(batch: &EnqueueBatch<'_>) -> EnqueueBuilder {
    let mut builder = EnqueueBuilder::new();
    for item in batch.items() {
        let time_ms = item.entry.due_ms.get();
        let absolute = is_absolute(item.entry);
        let options = JobOptions {
            priority: item.entry.priority,
            delay_ms: if absolute { 0 } else { time_ms },
            due_ms: if absolute { time_ms } else { 0 },
            ttl_ms: item.entry.ttl_ms.get(),
            lease_ms: item.entry.lease_ms.get(),
            max_attempts: item.entry.max_attempts.get(),
            key: item.key(),
            meta: item.meta(),
        };
        builder.push(item.payload(), &options);
    }
    builder
}

pub fn settle_batch(batch: &SettleBatch<'_>) -> SettleBuilder {
    let mut builder = SettleBuilder::new();
    for item in batch.items() {
        builder.push(item.token, item.verb, item.arg, item.note);
    }
    builder
}

fn is_absolute(entry: &EnqueueEntry) -> bool {
    entry.flags.get() & EnqueueEntry::DUE_ABSOLUTE != 0
}

/// A frame as [`request`] writes it: the padding zero, nothing behind what this version knows of a HELLO, and a job
/// that is due at time 0 as one without a delay, which is the same. Everything else stands as it came.
pub fn canonical(frame: &[u8], body: &[u8], request: &Request<'_>) -> Vec<u8> {
    let mut out = frame.to_vec();
    let place = |slice: &[u8]| Header::LEN + slice.as_ptr().addr() - body.as_ptr().addr();
    for slice in padded(request) {
        let end = place(slice) + slice.len();
        out[end..end.next_multiple_of(8)].fill(0);
    }
    for entry in entries(request) {
        if is_absolute(entry) && entry.due_ms.get() == 0 {
            let end = place(entry.as_bytes()) + EnqueueEntry::LEN;
            out[end - 2..end].fill(0);
        }
    }
    if let Request::Hello(hello) = request {
        let end = place(hello.name.as_bytes()) + hello.name.len();
        out.truncate(end.next_multiple_of(8));
        let len = out.len() as u32;
        out[..4].copy_from_slice(&len.to_le_bytes());
    }
    out
}

fn batches<'a>(request: &Request<'a>) -> Vec<EnqueueBatch<'a>> {
    match request {
        Request::Enqueue { batch, .. } => vec![*batch],
        Request::Step { groups, .. } => groups.iter().map(|(_, batch)| *batch).collect(),
        _ => Vec::new(),
    }
}

fn entries<'a>(request: &Request<'a>) -> impl Iterator<Item = &'a EnqueueEntry> {
    batches(request).into_iter().flat_map(|batch| batch.entries())
}

/// Every part of a request that padding follows.
fn padded<'a>(request: &Request<'a>) -> Vec<&'a [u8]> {
    let mut parts: Vec<&'a [u8]> = batches(request)
        .into_iter()
        .flat_map(|batch| batch.items().map(|item| item.body))
        .collect();
    match request {
        Request::Hello(hello) => parts.push(hello.name.as_bytes()),
        Request::QueueOpen { name }
        | Request::QueueCreate { name, .. }
        | Request::QueueInfo { name }
        | Request::QueuePause { name, .. }
        | Request::QueueResume { name, .. }
        | Request::QueueDelete { name, .. }
        | Request::QueuePurge { name, .. } => parts.push(name.as_bytes()),
        Request::QueueList { after: text, .. }
        | Request::JobList { queue: text, .. }
        | Request::JobPeek { queue: text, .. }
        | Request::JobRedrive { queue: text, .. } => parts.push(text.as_bytes()),
        Request::Settle { batch, .. } => parts.extend(batch.items().filter_map(|item| item.note)),
        Request::Step { settlements, .. } => {
            parts.extend(
                settlements
                    .iter()
                    .flat_map(|batch| batch.items().filter_map(|item| item.note)),
            );
        }
        // Their arrays are padded too; that padding must be zero to be read at all.
        Request::Reserve(_) | Request::Subscribe(_) => {}
        Request::Ping
        | Request::Enqueue { .. }
        | Request::Unsubscribe { .. }
        | Request::JobGet { .. }
        | Request::JobCancel { .. } => {}
    }
    parts
}
