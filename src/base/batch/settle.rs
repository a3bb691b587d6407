//! Deliveries to be settled: `entries | notes`.

use super::{check_count, invalid, malformed, put_note, split_note};
use crate::base::code::Refusal;
use crate::base::entry::{SettleEntry, Verb};
use crate::base::job::{JobId, Token};
use crate::base::limits;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes, transmute_ref};

/// Settlements, checked: `entries | notes`.
#[derive(Debug, Clone, Copy)]
pub struct SettleBatch<'a> {
    entries: &'a [SettleEntry],
    notes: &'a [u8],
    /// Nothing but acks without results.
    is_plain: bool,
}

/// One settlement of a [`SettleBatch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement<'a> {
    /// Which delivery.
    pub token: Token,
    /// What to do with it.
    pub verb: Verb,
    /// See [`SettleEntry::arg`].
    pub arg: u32,
    /// The result or error text, if there is one.
    pub note: Option<&'a [u8]>,
}

impl<'a> SettleBatch<'a> {
    /// Checks `bytes` as `count` entries and the notes of the flagged ones, nothing left over.
    ///
    /// # Errors
    /// `BATCH_TOO_LARGE`, `MALFORMED`, or `INVALID_ARGUMENT` with the position.
    pub fn parse(count: usize, bytes: &'a [u8]) -> Result<Self, Refusal> {
        check_count(count)?;
        let split = count * SettleEntry::LEN;
        if bytes.len() < split {
            return Err(malformed("the frame is shorter than its entries"));
        }
        let (head, notes) = bytes.split_at(split);
        let entries = <[SettleEntry]>::ref_from_bytes(head).map_err(|_| malformed("entries"))?;
        let is_plain = are_plain_acks(entries);
        if is_plain && notes.is_empty() {
            return Ok(Self {
                entries,
                notes,
                is_plain,
            });
        }
        let mut rest = notes;
        for (position, entry) in entries.iter().enumerate() {
            check_settlement(position, entry)?;
            if entry.flags & SettleEntry::NOTE != 0 {
                let (note, after) =
                    split_note(rest).ok_or_else(|| malformed("a note runs out of the frame"))?;
                if note.len() > limits::NOTE_BYTES_MAX as usize {
                    return Err(invalid(position, "an error text or result is longer than 64 KiB"));
                }
                rest = after;
            }
        }
        if !rest.is_empty() {
            return Err(malformed("there is something behind the last note"));
        }
        Ok(Self {
            entries,
            notes,
            is_plain,
        })
    }

    /// Whether it is nothing but acks without results. Then its [`entries`](Self::entries) say it all.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }

    /// The settlements without their notes.
    pub fn entries(&self) -> &'a [SettleEntry] {
        self.entries
    }

    /// How many settlements; never 0.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether any settlement has a note.
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// The settlements in order.
    pub fn items(&self) -> impl Iterator<Item = Settlement<'a>> + use<'a> {
        let mut rest = self.notes;
        self.entries.iter().filter_map(move |entry| {
            let note = if entry.flags & SettleEntry::NOTE != 0 {
                let (note, after) = split_note(rest)?;
                rest = after;
                Some(note)
            } else {
                None
            };
            Some(Settlement {
                token: Token {
                    id: JobId(entry.id.get()),
                    attempt: entry.attempt.get(),
                },
                verb: Verb::from_u8(entry.verb)?,
                arg: entry.arg.get(),
                note,
            })
        })
    }
}

/// Whether all are acks without argument and note, which are always valid. Nearly every batch is one of those.
fn are_plain_acks(entries: &[SettleEntry]) -> bool {
    // The second word of an entry has everything but the id, and of a plain ack nothing but attempt and verb.
    const ATTEMPT: u64 = 0xFFFF << 32;
    const ACK: u64 = (Verb::Ack as u64) << 48;
    let differences = entries.iter().fold(0, |all, entry| {
        let [_, rest]: &[U64; SettleEntry::LEN / 8] = transmute_ref!(entry);
        all | (rest.get() ^ ACK)
    });
    differences & !ATTEMPT == 0
}

fn check_settlement(position: usize, entry: &SettleEntry) -> Result<(), Refusal> {
    let Some(verb) = Verb::from_u8(entry.verb) else {
        return Err(malformed("a settlement has an unknown verb"));
    };
    if entry.flags & !SettleEntry::NOTE != 0 {
        return Err(malformed("a reserved flag of a settlement is set"));
    }
    let noted = entry.flags & SettleEntry::NOTE != 0;
    if noted && matches!(verb, Verb::Release | Verb::Extend) {
        return Err(malformed("a release or an extension has a note"));
    }
    let arg = entry.arg.get();
    match verb {
        Verb::Nack if arg != SettleEntry::BACKOFF && arg > limits::BACKOFF_MS_MAX => {
            Err(invalid(position, "a retry delay must not exceed 30 days"))
        }
        Verb::Extend if arg > limits::LEASE_MS_MAX => Err(invalid(position, "a lease must not exceed 24 h")),
        Verb::Ack | Verb::Reject | Verb::Release if arg != 0 => Err(malformed(
            "the argument of an ack, a rejection or a release must be 0",
        )),
        _ => Ok(()),
    }
}

/// Writes settlement batches.
///
/// ```
/// use ackring::{JobId, SettleBuilder, Token};
/// let mut batch = SettleBuilder::new();
/// batch.ack(Token { id: JobId(1 << 32), attempt: 1 }, None);
/// assert_eq!(batch.count(), 1);
/// ```
#[derive(Debug, Clone, Default)]
pub struct SettleBuilder {
    entries: Vec<u8>,
    notes: Vec<u8>,
}

impl SettleBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The work is done; `result` is kept with the finished job.
    pub fn ack(&mut self, token: Token, result: Option<&[u8]>) {
        self.push(token, Verb::Ack, 0, result);
    }

    /// The work failed: try again after the queue's backoff, or after `delay_ms`.
    pub fn nack(&mut self, token: Token, delay_ms: Option<u32>, error: Option<&[u8]>) {
        self.push(token, Verb::Nack, delay_ms.unwrap_or(SettleEntry::BACKOFF), error);
    }

    /// The work failed for good: the job becomes dead.
    pub fn reject(&mut self, token: Token, error: Option<&[u8]>) {
        self.push(token, Verb::Reject, 0, error);
    }

    /// Gives the job back without using an attempt.
    pub fn release(&mut self, token: Token) {
        self.push(token, Verb::Release, 0, None);
    }

    /// Keeps the lease until `lease_ms` from now; 0 for the job's own lease time.
    pub fn extend(&mut self, token: Token, lease_ms: u32) {
        self.push(token, Verb::Extend, lease_ms, None);
    }

    /// Adds a settlement as it stands.
    pub fn push(&mut self, token: Token, verb: Verb, arg: u32, note: Option<&[u8]>) {
        let entry = SettleEntry {
            id: U64::new(token.id.0),
            arg: U32::new(arg),
            attempt: U16::new(token.attempt),
            verb: verb as u8,
            flags: if note.is_some() { SettleEntry::NOTE } else { 0 },
        };
        self.entries.extend_from_slice(entry.as_bytes());
        if let Some(note) = note {
            put_note(&mut self.notes, note);
        }
    }

    /// How many settlements so far.
    pub fn count(&self) -> usize {
        self.entries.len() / SettleEntry::LEN
    }

    /// Length of the encoded batch so far, in bytes.
    pub fn len(&self) -> usize {
        self.entries.len() + self.notes.len()
    }

    /// Whether it has no settlement yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the encoded batch to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.entries);
        out.extend_from_slice(&self.notes);
    }

    /// Forgets the settlements and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.notes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlements_keep_their_notes_apart() {
        let token = |n| Token {
            id: JobId::new(1, n),
            attempt: 1,
        };
        let mut builder = SettleBuilder::new();
        builder.ack(token(1), Some(b"result"));
        builder.release(token(2));
        builder.nack(token(3), Some(5), Some(b""));
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let items: Vec<_> = SettleBatch::parse(3, &bytes).unwrap().items().collect();
        assert_eq!(items[0].note, Some(&b"result"[..]));
        assert_eq!(items[1].note, None);
        assert_eq!((items[2].arg, items[2].note), (5, Some(&b""[..])));
        for len in 0..bytes.len() {
            assert!(SettleBatch::parse(3, &bytes[..len]).is_err(), "at {len}");
        }
    }
}
