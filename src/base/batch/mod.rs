//! Batches in the layout that wire and log share: checked views over bytes, and builders that write such bytes.
//!
//! A view is made by one pass that checks every length, number and reserved bit, so that whoever holds one can
//! walk it without further checks.

mod enqueue;
mod settle;

pub use enqueue::{EnqueueBatch, EnqueueBuilder, EnqueueItem, JobOptions};
pub use settle::{SettleBatch, SettleBuilder, Settlement};

use crate::base::code::{ErrorCode, Refusal};
use crate::base::entry::pad8;
use crate::base::limits;

fn malformed(text: &str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, text)
}

fn invalid(position: usize, text: &str) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, format!("entry {position}: {text}"))
}

fn check_count(count: usize) -> Result<(), Refusal> {
    if count == 0 || count > limits::BATCH_JOBS_MAX {
        let text = format!(
            "a batch has 1 to {} entries, this one {count}",
            limits::BATCH_JOBS_MAX
        );
        return Err(Refusal::new(ErrorCode::BatchTooLarge, text));
    }
    Ok(())
}

/// Splits `u32 length | bytes | padding to 8` off the front: the bytes, and what is behind.
pub fn split_note(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, _) = bytes.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*head) as usize;
    let total = pad8(len.checked_add(4)?);
    let (front, rest) = bytes.split_at_checked(total)?;
    Some((&front[4..4 + len], rest))
}

/// Appends `u32 length | bytes | padding to 8`.
pub fn put_note(out: &mut Vec<u8>, note: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&(u32::try_from(note.len()).unwrap_or(u32::MAX)).to_le_bytes());
    out.extend_from_slice(note);
    out.resize(start + pad8(4 + note.len()), 0);
}
