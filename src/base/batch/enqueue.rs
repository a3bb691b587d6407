//! Jobs to be enqueued: `entries | bodies`.

use super::{check_count, invalid, malformed};
use crate::base::code::{ErrorCode, Refusal};
use crate::base::entry::{EnqueueEntry, pad8};
use crate::base::limits;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes, transmute, transmute_ref};

/// Jobs to enqueue, checked: `entries | bodies`, each body `meta | payload | key` padded to 8.
#[derive(Debug, Clone, Copy)]
pub struct EnqueueBatch<'a> {
    entries: &'a [EnqueueEntry],
    bodies: &'a [u8],
    /// All entries with all their bits.
    union: EnqueueEntry,
    /// Lengths of payloads and metadata together.
    job_bytes: u64,
}

/// One job of an [`EnqueueBatch`].
#[derive(Debug, Clone, Copy)]
pub struct EnqueueItem<'a> {
    /// The fixed part.
    pub entry: &'a EnqueueEntry,
    /// Where the body begins, counted from the first body's first byte.
    pub body_offset: usize,
    /// `meta | payload | key`, without padding.
    pub body: &'a [u8],
}

impl<'a> EnqueueItem<'a> {
    /// The metadata.
    pub fn meta(&self) -> &'a [u8] {
        &self.body[..usize::from(self.entry.meta_len.get())]
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        let start = usize::from(self.entry.meta_len.get());
        &self.body[start..start + self.entry.payload_len.get() as usize]
    }

    /// The idempotency key, empty for none.
    pub fn key(&self) -> &'a [u8] {
        &self.body[self.body.len() - usize::from(self.entry.key_len)..]
    }
}

impl<'a> EnqueueBatch<'a> {
    /// Checks `bytes` as `count` entries and their bodies, nothing left over.
    ///
    /// # Errors
    /// `BATCH_TOO_LARGE`, `MALFORMED` for lengths that do not add up or reserved bits, `INVALID_ARGUMENT` for a
    /// number out of its range, with the position. A queue's own payload limit is not checked here.
    pub fn parse(count: usize, bytes: &'a [u8]) -> Result<Self, Refusal> {
        check_count(count)?;
        let split = count * EnqueueEntry::LEN;
        if bytes.len() < split {
            return Err(malformed("the frame is shorter than its entries"));
        }
        let (head, bodies) = bytes.split_at(split);
        let entries = <[EnqueueEntry]>::ref_from_bytes(head).map_err(|_| malformed("entries"))?;
        let sums = Sums::of(entries);
        if !is_surely_valid(&sums.union) {
            for (position, entry) in entries.iter().enumerate() {
                check_entry(position, entry)?;
            }
        }
        if sums.padded_bytes != bodies.len() as u64 {
            return Err(malformed(
                "the bodies do not have the lengths that the entries say",
            ));
        }
        Ok(Self {
            entries,
            bodies,
            union: sums.union,
            job_bytes: sums.job_bytes,
        })
    }

    /// A batch read back from the log, where flags tell outcomes; otherwise as [`parse`](Self::parse).
    ///
    /// Returns `None` where the lengths do not add up.
    pub fn from_log(count: usize, bytes: &'a [u8]) -> Option<Self> {
        let split = count.checked_mul(EnqueueEntry::LEN)?;
        let (head, bodies) = bytes.split_at_checked(split)?;
        let entries = <[EnqueueEntry]>::ref_from_bytes(head).ok()?;
        let sums = Sums::of(entries);
        (sums.padded_bytes == bodies.len() as u64).then_some(Self {
            entries,
            bodies,
            union: sums.union,
            job_bytes: sums.job_bytes,
        })
    }

    /// The fixed parts.
    pub fn entries(&self) -> &'a [EnqueueEntry] {
        self.entries
    }

    /// How many jobs; never 0.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// All bodies with their padding.
    pub fn bodies(&self) -> &'a [u8] {
        self.bodies
    }

    /// Whether any job has an idempotency key.
    pub fn has_keys(&self) -> bool {
        self.union.key_len > 0
    }

    /// Bytes of payloads and metadata together.
    pub fn job_bytes(&self) -> u64 {
        self.job_bytes
    }

    /// No payload is longer than this, in bytes; there need not be one that long.
    pub fn payload_len_bound(&self) -> u32 {
        self.union.payload_len.get()
    }

    /// Whether all jobs are alike but for payloads and leases: due now, for ever, of the lowest priority, with the
    /// queue's number of attempts, without metadata and keys.
    pub fn is_bare(&self) -> bool {
        let EnqueueEntry {
            payload_len,
            lease_ms,
            ..
        } = self.union;
        let bare = EnqueueEntry {
            payload_len,
            lease_ms,
            ..EnqueueEntry::new_zeroed()
        };
        self.union == bare
    }

    /// The jobs in order.
    pub fn items(&self) -> impl Iterator<Item = EnqueueItem<'a>> + use<'a> {
        let bodies = self.bodies;
        let mut offset = 0;
        self.entries.iter().map(move |entry| {
            let body_offset = offset;
            offset += entry.padded_len();
            EnqueueItem {
                entry,
                body_offset,
                body: &bodies[body_offset..body_offset + entry.body_len()],
            }
        })
    }
}

/// What one pass over all entries finds. Nothing in it overflows: there are fewer than 2^32 entries in memory, each
/// for less than 2^33 bytes.
struct Sums {
    /// All entries with all their bits: no field of any entry is larger than that field here.
    union: EnqueueEntry,
    padded_bytes: u64,
    job_bytes: u64,
}

impl Sums {
    fn of(entries: &[EnqueueEntry]) -> Self {
        // As words: four for an entry, which a processor has as two registers.
        let mut union = [0u64; EnqueueEntry::LEN / 8];
        let (mut padded_bytes, mut job_bytes) = (0, 0);
        for entry in entries {
            let words: &[U64; EnqueueEntry::LEN / 8] = transmute_ref!(entry);
            union
                .iter_mut()
                .zip(words)
                .for_each(|(all, word)| *all |= word.get());
            let len = u64::from(entry.payload_len.get()) + u64::from(entry.meta_len.get());
            job_bytes += len;
            padded_bytes += (len + u64::from(entry.key_len) + 7) & !7;
        }
        Self {
            union: transmute!(union.map(U64::new)),
            padded_bytes,
            job_bytes,
        }
    }
}

/// Whether entries with these bits, and no others, are valid, as nearly all are. If not, each is to be looked at.
fn is_surely_valid(union: &EnqueueEntry) -> bool {
    union.flags == U16::ZERO && check_entry(0, union).is_ok()
}

fn check_entry(position: usize, entry: &EnqueueEntry) -> Result<(), Refusal> {
    if entry.payload_len.get() > limits::PAYLOAD_BYTES_MAX {
        let text = format!(
            "entry {position}: a payload has at most {} bytes",
            limits::PAYLOAD_BYTES_MAX
        );
        return Err(Refusal::new(ErrorCode::PayloadTooLarge, text));
    }
    if u32::from(entry.meta_len.get()) > limits::META_BYTES_MAX {
        return Err(invalid(position, "metadata is longer than 4 KiB"));
    }
    if u32::from(entry.key_len) > limits::KEY_BYTES_MAX {
        return Err(invalid(position, "an idempotency key is longer than 128 bytes"));
    }
    if usize::from(entry.priority) >= limits::PRIORITIES {
        return Err(invalid(position, "priority must be 0 to 7"));
    }
    if entry.max_attempts.get() > limits::ATTEMPTS_MAX {
        return Err(invalid(position, "max attempts must not exceed 60000"));
    }
    if entry.lease_ms.get() > limits::LEASE_MS_MAX {
        return Err(invalid(position, "lease must not exceed 24 h"));
    }
    if entry.flags.get() & !EnqueueEntry::DUE_ABSOLUTE != 0 {
        return Err(malformed("a reserved flag of an entry is set"));
    }
    let delay_max = if entry.flags.get() & EnqueueEntry::DUE_ABSOLUTE == 0 {
        limits::DELAY_MS_MAX
    } else {
        1 << 47
    };
    if entry.due_ms.get() > delay_max || entry.ttl_ms.get() > limits::DELAY_MS_MAX {
        return Err(invalid(position, "a delay or TTL must not exceed ten years"));
    }
    Ok(())
}

/// What one job is enqueued with, besides its payload. `Default` is: now, priority 0, the queue's own limits.
///
/// ```
/// use ackring::JobOptions;
/// let options = JobOptions { priority: 7, delay_ms: 1_500, ..JobOptions::default() };
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobOptions<'a> {
    /// 0 (last) to 7 (first).
    pub priority: u8,
    /// Wait this long before the first attempt, in milliseconds. Ignored when `due_ms` is set.
    pub delay_ms: u64,
    /// Or until this time, in milliseconds since the Unix epoch; 0 for none.
    pub due_ms: u64,
    /// Expire when not handed out within this time, in milliseconds; 0 for never.
    pub ttl_ms: u64,
    /// Lease of a delivery, in milliseconds; 0 for the queue's.
    pub lease_ms: u32,
    /// Attempts before it is dead; 0 for the queue's.
    pub max_attempts: u16,
    /// Idempotency key; empty for none.
    pub key: &'a [u8],
    /// Small data that travels beside the payload.
    pub meta: &'a [u8],
}

/// Writes enqueue batches.
///
/// ```
/// use ackring::{EnqueueBuilder, JobOptions};
/// let mut batch = EnqueueBuilder::new();
/// batch.push(b"first", &JobOptions::default());
/// batch.push(b"second", &JobOptions { delay_ms: 50, ..JobOptions::default() });
/// assert_eq!(batch.count(), 2);
/// ```
#[derive(Debug, Clone, Default)]
pub struct EnqueueBuilder {
    entries: Vec<u8>,
    bodies: Vec<u8>,
}

impl EnqueueBuilder {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a job. Lengths beyond the layout's fields are cut to the field's largest value, which every check of
    /// the limits then refuses; so nothing wrong is ever accepted.
    pub fn push(&mut self, payload: &[u8], options: &JobOptions<'_>) {
        let (due_ms, flags) = if options.due_ms > 0 {
            (options.due_ms, EnqueueEntry::DUE_ABSOLUTE)
        } else {
            (options.delay_ms, 0)
        };
        let entry = EnqueueEntry {
            due_ms: U64::new(due_ms),
            ttl_ms: U64::new(options.ttl_ms),
            payload_len: U32::new(u32::try_from(payload.len()).unwrap_or(u32::MAX)),
            lease_ms: U32::new(options.lease_ms),
            meta_len: U16::new(u16::try_from(options.meta.len()).unwrap_or(u16::MAX)),
            max_attempts: U16::new(options.max_attempts),
            key_len: u8::try_from(options.key.len()).unwrap_or(u8::MAX),
            priority: options.priority,
            flags: U16::new(flags),
        };
        self.entries.extend_from_slice(entry.as_bytes());
        self.bodies.extend_from_slice(options.meta);
        self.bodies.extend_from_slice(payload);
        self.bodies.extend_from_slice(options.key);
        self.bodies.resize(pad8(self.bodies.len()), 0);
    }

    /// How many jobs so far.
    pub fn count(&self) -> usize {
        self.entries.len() / EnqueueEntry::LEN
    }

    /// Length of the encoded batch so far, in bytes.
    pub fn len(&self) -> usize {
        self.entries.len() + self.bodies.len()
    }

    /// Whether it has no job yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the encoded batch to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.entries);
        out.extend_from_slice(&self.bodies);
    }

    /// Forgets the jobs and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bodies.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_batch_parses_to_what_was_pushed() {
        let mut builder = EnqueueBuilder::new();
        builder.push(
            b"payload",
            &JobOptions {
                key: b"k",
                meta: b"meta",
                priority: 3,
                ..JobOptions::default()
            },
        );
        builder.push(b"", &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        let batch = EnqueueBatch::parse(2, &bytes).unwrap();
        let items: Vec<_> = batch.items().collect();
        assert_eq!(items[0].payload(), b"payload");
        assert_eq!(items[0].meta(), b"meta");
        assert_eq!(items[0].key(), b"k");
        assert_eq!(items[1].body, b"");
        assert!(batch.has_keys());
    }

    #[test]
    fn every_truncation_is_malformed() {
        let mut builder = EnqueueBuilder::new();
        builder.push(b"payload", &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        for len in 0..bytes.len() {
            let refusal = EnqueueBatch::parse(1, &bytes[..len]).unwrap_err();
            assert_eq!(refusal.code, ErrorCode::Malformed, "at {len}");
        }
    }

    #[test]
    fn reserved_bits_are_refused() {
        let mut builder = EnqueueBuilder::new();
        builder.push(b"", &JobOptions::default());
        let mut bytes = Vec::new();
        builder.write_to(&mut bytes);
        for bit in 1..16 {
            let mut broken = bytes.clone();
            broken[30 + bit / 8] |= 1 << (bit % 8);
            assert!(EnqueueBatch::parse(1, &broken).is_err(), "bit {bit}");
        }
    }
}
