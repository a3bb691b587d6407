//! Fixed little-endian layouts that wire and log share, read in place.
//!
//! An enqueue batch travels from the socket into the log in this shape, by one copy; so what a client encodes is
//! what recovery reads back.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One job of an enqueue batch: 32 bytes. Its body is `meta | payload | key`, padded with zeros to 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EnqueueEntry {
    /// With [`EnqueueEntry::DUE_ABSOLUTE`]: milliseconds since the Unix epoch; without: a delay in milliseconds.
    pub due_ms: U64,
    /// Time from now in which the job must be handed out, in milliseconds; 0 for no limit.
    pub ttl_ms: U64,
    /// Length of the payload, in bytes.
    pub payload_len: U32,
    /// Lease of a delivery of this job, in milliseconds; 0 for the queue's.
    pub lease_ms: U32,
    /// Length of the metadata, in bytes.
    pub meta_len: U16,
    /// Attempts it may use; 0 for the queue's limit.
    pub max_attempts: U16,
    /// Length of the idempotency key, in bytes; 0 for none.
    pub key_len: u8,
    /// 0 (the default, last) to 7 (first).
    pub priority: u8,
    /// [`EnqueueEntry::DUE_ABSOLUTE`]; the rest is zero on the wire. In the log, bits from
    /// [`EnqueueEntry::DUPLICATE`] on tell what became of the entry.
    pub flags: U16,
}

impl EnqueueEntry {
    /// Length of an entry, in bytes.
    pub const LEN: usize = 32;
    /// `due_ms` is a time, not a delay.
    pub const DUE_ABSOLUTE: u16 = 1;
    /// Log only: the key was known with the same body; the id beside it is the first job's.
    pub const DUPLICATE: u16 = 1 << 8;
    /// Log only: the key was known with another body; there is no job.
    pub const KEY_CONFLICT: u16 = 1 << 9;

    /// Length of the body without padding, in bytes.
    pub fn body_len(&self) -> usize {
        self.payload_len.get() as usize + usize::from(self.meta_len.get()) + usize::from(self.key_len)
    }

    /// Length of the body with its padding, in bytes.
    pub fn padded_len(&self) -> usize {
        pad8(self.body_len())
    }
}

/// One settlement: 16 bytes. Notes of the flagged ones follow the entries, each `u32 length | bytes`, padded to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SettleEntry {
    /// The job.
    pub id: U64,
    /// ack: 0. nack: delay in milliseconds or [`SettleEntry::BACKOFF`]. extend: the new lease from now in
    /// milliseconds, 0 for the job's own.
    pub arg: U32,
    /// The delivery's number.
    pub attempt: U16,
    /// A [`Verb`] on the wire.
    pub verb: u8,
    /// [`SettleEntry::NOTE`]; the rest is zero.
    pub flags: u8,
}

impl SettleEntry {
    /// Length of an entry, in bytes.
    pub const LEN: usize = 16;
    /// A note follows: a result for an ack, an error text for a nack or a rejection.
    pub const NOTE: u8 = 1;
    /// As the delay of a nack: the queue's own backoff.
    pub const BACKOFF: u32 = u32::MAX;
}

/// What a settlement wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Verb {
    /// The work is done.
    Ack = 1,
    /// The work failed: try again.
    Nack = 2,
    /// The work failed for good: the job becomes dead.
    Reject = 3,
    /// Give the job back without using an attempt.
    Release = 4,
    /// Keep the lease for longer.
    Extend = 5,
}

impl Verb {
    /// The verb of that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        [Verb::Ack, Verb::Nack, Verb::Reject, Verb::Release, Verb::Extend]
            .into_iter()
            .find(|verb| *verb as u8 == number)
    }
}

/// Rounds a length up to a multiple of 8.
#[inline]
pub const fn pad8(len: usize) -> usize {
    (len + 7) & !7
}

const _: () = {
    assert!(size_of::<EnqueueEntry>() == EnqueueEntry::LEN);
    assert!(size_of::<SettleEntry>() == SettleEntry::LEN);
};
