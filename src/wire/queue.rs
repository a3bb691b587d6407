//! Queue options and counters as they stand in a body.

use crate::base::code::{ErrorCode, Refusal};
use crate::base::limits;
use crate::base::queue::{Backoff, Durability, QueueCounts, QueueOptions, QueueStats};
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::FrameWriter;
use zerocopy::little_endian::U32;

/// The bits of all job states, as QUEUE_PURGE takes them: bit *n* for state *n*.
pub const STATES_ALL: u32 = 0b1111_1110;

const EXPONENTIAL: u8 = 1;
const LIST: u8 = 2;
const PAUSED: u32 = 1;

/// Appends options to a body.
pub(crate) fn encode_options(frame: &mut FrameWriter<'_>, options: &QueueOptions) {
    let exponential;
    let (kind, delays) = match &options.backoff {
        Backoff::Exponential { base_ms, cap_ms } => {
            exponential = [*base_ms, *cap_ms];
            (EXPONENTIAL, &exponential[..])
        }
        Backoff::List(list) => (LIST, &list[..]),
    };
    frame.put_u8(options.durability as u8);
    frame.put_u8(kind);
    frame.put_u16(options.max_attempts);
    frame.put_u32(options.lease_ms);
    frame.put_u64(options.capacity_jobs);
    frame.put_u64(options.capacity_bytes);
    frame.put_u64(options.dedupe_window_ms);
    frame.put_u32(options.payload_bytes_max);
    frame.put_u32(options.keep_finished);
    frame.put_u32(delays.len() as u32);
    frame.put_u32(0);
    for delay in delays {
        frame.put_u32(*delay);
    }
    frame.pad();
}

/// Reads options from a body and checks them.
pub(crate) fn decode_options(fields: &mut Fields<'_>) -> Result<QueueOptions, Refusal> {
    let durability = Durability::from_u8(fields.u8()?).ok_or_else(|| malformed("an unknown durability"))?;
    let kind = fields.u8()?;
    let max_attempts = fields.u16()?;
    let lease_ms = fields.u32()?;
    let capacity_jobs = fields.u64()?;
    let capacity_bytes = fields.u64()?;
    let dedupe_window_ms = fields.u64()?;
    let payload_bytes_max = fields.u32()?;
    let keep_finished = fields.u32()?;
    let count = fields.u32()? as usize;
    fields.zeros(4)?;
    if count > limits::BACKOFF_LIST_MAX {
        return Err(Refusal::new(
            ErrorCode::InvalidArgument,
            "a backoff list has 1 to 64 delays",
        ));
    }
    let delays = fields.entries_padded::<U32>(count)?;
    let backoff = match (kind, delays) {
        (EXPONENTIAL, [base, cap]) => Backoff::Exponential {
            base_ms: base.get(),
            cap_ms: cap.get(),
        },
        (LIST, delays) => Backoff::List(delays.iter().map(|delay| delay.get()).collect()),
        _ => return Err(malformed("an unknown backoff")),
    };
    let options = QueueOptions {
        durability,
        lease_ms,
        max_attempts,
        backoff,
        capacity_jobs,
        capacity_bytes,
        payload_bytes_max,
        dedupe_window_ms,
        keep_finished,
    };
    options
        .check()
        .map_err(|error| Refusal::new(ErrorCode::InvalidArgument, error.to_string()))?;
    Ok(options)
}

/// Appends one queue's options and counters to a body.
pub(crate) fn encode_stats(frame: &mut FrameWriter<'_>, stats: &QueueStats) {
    frame.put_u32(if stats.paused { PAUSED } else { 0 });
    frame.put_u32(0);
    frame.put_blob(stats.name.as_bytes());
    encode_options(frame, &stats.options);
    for count in words(&stats.counts) {
        frame.put_u64(count);
    }
}

/// Reads one queue's options and counters from a body.
pub(crate) fn decode_stats(fields: &mut Fields<'_>) -> Result<QueueStats, Refusal> {
    let paused = fields.u32()? & PAUSED != 0;
    fields.zeros(4)?;
    let name = fields.queue_name()?.to_owned();
    let options = decode_options(fields)?;
    let mut next = || fields.u64();
    let counts = QueueCounts {
        ready: next()?,
        scheduled: next()?,
        leased: next()?,
        dead: next()?,
        kept: next()?,
        bytes: next()?,
        enqueued: next()?,
        done: next()?,
        deliveries: next()?,
        failures: next()?,
        expiries: next()?,
        releases: next()?,
        buried: next()?,
        redriven: next()?,
        cancelled: next()?,
        expired: next()?,
    };
    Ok(QueueStats {
        name,
        paused,
        options,
        counts,
    })
}

fn words(counts: &QueueCounts) -> [u64; 16] {
    // Taken apart by name, so that a new counter cannot be forgotten here.
    let QueueCounts {
        ready,
        scheduled,
        leased,
        dead,
        kept,
        bytes,
        enqueued,
        done,
        deliveries,
        failures,
        expiries,
        releases,
        buried,
        redriven,
        cancelled,
        expired,
    } = *counts;
    [
        ready, scheduled, leased, dead, kept, bytes, enqueued, done, deliveries, failures, expiries,
        releases, buried, redriven, cancelled, expired,
    ]
}
