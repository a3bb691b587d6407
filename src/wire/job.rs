//! A job's status as it stands in a body.

use crate::base::code::Refusal;
use crate::base::job::{JobId, JobState, JobStatus};
use crate::base::limits;
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::FrameWriter;

const HAS_ERROR: u16 = 1;
const HAS_RESULT: u16 = 2;

/// Appends one status to a body.
pub(crate) fn encode_status(frame: &mut FrameWriter<'_>, status: &JobStatus) {
    let mut flags = 0;
    flags |= if status.last_error.is_some() { HAS_ERROR } else { 0 };
    flags |= if status.result.is_some() { HAS_RESULT } else { 0 };
    frame.put_u64(status.id.0);
    frame.put_u64(status.enqueued_ms);
    frame.put_u64(status.at_ms);
    frame.put_u64(status.expires_ms);
    frame.put_u8(status.state as u8);
    frame.put_u8(status.priority);
    frame.put_u16(flags);
    frame.put_u16(status.attempts);
    frame.put_u16(status.max_attempts);
    frame.put_u16(status.deliveries);
    frame.put_u16(status.failures);
    frame.put_u16(status.expiries);
    frame.put_u16(0);
    frame.put_u32(status.payload_bytes);
    frame.put_u32(0);
    frame.put_blob(status.queue.as_bytes());
    frame.put_blob(&status.meta);
    frame.put_blob(&status.payload);
    for note in [&status.last_error, &status.result].into_iter().flatten() {
        frame.put_blob(note);
    }
}

/// Reads one status from a body.
pub(crate) fn decode_status(fields: &mut Fields<'_>) -> Result<JobStatus, Refusal> {
    let id = JobId(fields.u64()?);
    let enqueued_ms = fields.u64()?;
    let at_ms = fields.u64()?;
    let expires_ms = fields.u64()?;
    let state = JobState::from_u8(fields.u8()?).ok_or_else(|| malformed("an unknown state"))?;
    let priority = fields.u8()?;
    let flags = fields.u16()?;
    let attempts = fields.u16()?;
    let max_attempts = fields.u16()?;
    let deliveries = fields.u16()?;
    let failures = fields.u16()?;
    let expiries = fields.u16()?;
    fields.zeros(2)?;
    let payload_bytes = fields.u32()?;
    fields.zeros(4)?;
    let queue = fields.text(limits::QUEUE_NAME_BYTES_MAX)?.to_owned();
    let meta = fields.blob()?.to_vec();
    let payload = fields.blob()?.to_vec();
    let mut note = |flag| {
        if flags & flag != 0 {
            fields.blob().map(|note| Some(note.to_vec()))
        } else {
            Ok(None)
        }
    };
    let last_error = note(HAS_ERROR)?;
    let result = note(HAS_RESULT)?;
    Ok(JobStatus {
        id,
        queue,
        state,
        priority,
        attempts,
        max_attempts,
        deliveries,
        failures,
        expiries,
        enqueued_ms,
        at_ms,
        expires_ms,
        payload_bytes,
        meta,
        payload,
        last_error,
        result,
    })
}

/// Length of one status in a body, in bytes: what a page of them must fit into a frame by.
pub fn status_len(status: &JobStatus) -> usize {
    let blob = |len: usize| crate::base::entry::pad8(4 + len);
    let notes = [&status.last_error, &status.result]
        .into_iter()
        .flatten()
        .map(|note| blob(note.len()));
    56 + blob(status.queue.len())
        + blob(status.meta.len())
        + blob(status.payload.len())
        + notes.sum::<usize>()
}
