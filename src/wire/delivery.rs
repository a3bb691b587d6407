//! Deliveries: the answer to RESERVE, and what is pushed to a subscription.
//!
//! Each job is one entry with its body right behind it, so the server appends job after job in one pass, with one
//! copy of the body and without knowing beforehand how many there will be.

use crate::base::code::Refusal;
use crate::base::entry::pad8;
use crate::base::job::{JobId, Token};
use crate::wire::fields::{Fields, malformed};
use crate::wire::frame::FrameWriter;
use crate::wire::op::{Op, PUSH};
use crate::wire::response::Reply;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// One delivery: 40 bytes. Its body follows: `meta | payload`, padded with zeros to 8 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct DeliverEntry {
    /// The job.
    pub id: U64,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub enqueued_ms: U64,
    /// Handle of its queue.
    pub queue: U32,
    /// Length of the payload, in bytes.
    pub payload_len: U32,
    /// What is left of the lease when the frame is written, in milliseconds.
    pub lease_ms: U32,
    /// Length of the metadata, in bytes.
    pub meta_len: U16,
    /// Number of this delivery: with the id, the token that settles it.
    pub attempt: U16,
    /// Attempts used, this one included.
    pub attempts: U16,
    /// Attempts that it may use.
    pub max_attempts: U16,
    /// 0 to 7.
    pub priority: u8,
    /// [`DeliverEntry::REDELIVERED`]; the rest is zero.
    pub flags: u8,
    /// Zero.
    pub reserved: U16,
}

impl DeliverEntry {
    /// Length of an entry, in bytes.
    pub const LEN: usize = 40;
    /// The job was delivered before.
    pub const REDELIVERED: u8 = 1;

    /// What settles this delivery.
    pub fn token(&self) -> Token {
        Token {
            id: JobId(self.id.get()),
            attempt: self.attempt.get(),
        }
    }

    /// Length of the body without padding, in bytes.
    pub fn body_len(&self) -> usize {
        usize::from(self.meta_len.get()) + self.payload_len.get() as usize
    }
}

/// How much one frame of deliveries may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// At most so many jobs.
    pub jobs: u32,
    /// At most so many bytes of metadata and payload, but always one job; 0 for no limit.
    pub bytes: u32,
    /// At most so many bytes in the whole frame, one job or not.
    pub frame_bytes: u32,
}

/// Appends one frame of deliveries to a connection's output. Dropped unfinished, it takes its bytes back.
///
/// ```
/// use ackring::wire::{DeliverEntry, DeliveryBatch, DeliveryLimits, DeliveryWriter};
/// let mut out = Vec::new();
/// let limits = DeliveryLimits { jobs: 10, bytes: 0, frame_bytes: 4096 };
/// let mut writer = DeliveryWriter::push_to(&mut out, 1, limits);
/// assert!(writer.has_room(5));
/// writer.push(&DeliverEntry { payload_len: 5.into(), attempt: 1.into(), ..DeliverEntry::default() }, b"hello");
/// assert_eq!(writer.finish(), 1);
/// let batch = DeliveryBatch::parse(&out[16..])?;
/// assert_eq!(batch.items().next().map(|item| item.payload()), Some(&b"hello"[..]));
/// # Ok::<(), ackring::Refusal>(())
/// ```
#[derive(Debug)]
pub struct DeliveryWriter<'a> {
    frame: FrameWriter<'a>,
    limits: DeliveryLimits,
    count: u32,
    bytes: usize,
}

impl<'a> DeliveryWriter<'a> {
    /// The answer to a RESERVE.
    pub fn reply_to(out: &'a mut Vec<u8>, reply: Reply, limits: DeliveryLimits) -> Self {
        Self::begin(reply.begin(out), limits)
    }

    /// A push to a subscription.
    pub fn push_to(out: &'a mut Vec<u8>, subscription: u32, limits: DeliveryLimits) -> Self {
        Self::begin(
            FrameWriter::begin(out, Op::Delivery as u16 | PUSH, 0, 0, subscription),
            limits,
        )
    }

    fn begin(mut frame: FrameWriter<'a>, limits: DeliveryLimits) -> Self {
        frame.put_u64(0);
        Self {
            frame,
            limits,
            count: 0,
            bytes: 0,
        }
    }

    /// Whether a job with a body of `body_len` bytes fits beside those that are there.
    #[inline]
    pub fn has_room(&self, body_len: usize) -> bool {
        let frame_len = self.frame.len() + DeliverEntry::LEN + pad8(body_len);
        let in_frame = frame_len <= self.limits.frame_bytes as usize;
        let in_bytes = self.limits.bytes == 0 || self.bytes + body_len <= self.limits.bytes as usize;
        in_frame && self.count < self.limits.jobs && (in_bytes || self.count == 0)
    }

    /// Appends one job. `body` is its metadata and payload, as long as the entry says.
    #[inline]
    pub fn push(&mut self, entry: &DeliverEntry, body: &[u8]) {
        debug_assert_eq!(
            entry.body_len(),
            body.len(),
            "the entry tells another length than the body has"
        );
        self.frame.out().reserve(DeliverEntry::LEN + body.len() + 8);
        self.frame.put(entry.as_bytes());
        self.frame.put(body);
        self.frame.pad();
        self.count += 1;
        self.bytes += body.len();
    }

    /// How many jobs so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many bytes of metadata and payload so far.
    pub fn body_bytes(&self) -> usize {
        self.bytes
    }

    /// Completes the frame and returns how many jobs it holds. For a frame without any, drop the writer instead,
    /// unless it is the answer to a RESERVE whose wait is over.
    pub fn finish(mut self) -> u32 {
        self.frame.patch_u32(0, self.count);
        self.frame.finish();
        self.count
    }
}

/// The jobs of one frame, checked.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryBatch<'a> {
    count: usize,
    bytes: &'a [u8],
}

/// One job of a [`DeliveryBatch`].
#[derive(Debug, Clone, Copy)]
pub struct DeliveryItem<'a> {
    /// The fixed part.
    pub entry: &'a DeliverEntry,
    /// Where `body` begins in the frame's body.
    pub body_offset: usize,
    /// `meta | payload`, without padding.
    pub body: &'a [u8],
}

impl<'a> DeliveryItem<'a> {
    /// The metadata.
    pub fn meta(&self) -> &'a [u8] {
        &self.body[..usize::from(self.entry.meta_len.get())]
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.body[usize::from(self.entry.meta_len.get())..]
    }
}

/// What a DELIVERY body begins with: the count and a reserved word, in bytes.
const PREFIX: usize = 8;

impl<'a> DeliveryBatch<'a> {
    /// Checks the body of a RESERVE answer or of a push.
    ///
    /// # Errors
    /// `MALFORMED` when the lengths do not add up.
    pub fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        let mut fields = Fields::new(body);
        let count = fields.u32()? as usize;
        fields.zeros(4)?;
        let bytes = fields.rest();
        let mut at = 0;
        for _ in 0..count {
            let (_, next) = item(bytes, at).ok_or_else(|| malformed("a delivery runs out of the frame"))?;
            at = next;
        }
        if at != bytes.len() {
            return Err(malformed("there is something behind the last delivery"));
        }
        Ok(Self { count, bytes })
    }

    /// How many jobs; 0 when the wait of a reserve passed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The jobs in order.
    pub fn items(&self) -> impl Iterator<Item = DeliveryItem<'a>> + use<'a> {
        let bytes = self.bytes;
        let mut at = 0;
        (0..self.count).map_while(move |_| {
            let (item, next) = item(bytes, at)?;
            at = next;
            Some(item)
        })
    }
}

/// The delivery at `at`, and where the next one begins.
#[inline]
fn item(bytes: &[u8], at: usize) -> Option<(DeliveryItem<'_>, usize)> {
    let (entry, rest) = DeliverEntry::ref_from_prefix(bytes.get(at..)?).ok()?;
    let body_len = entry.body_len();
    let next = at + DeliverEntry::LEN + pad8(body_len);
    let body = rest.get(..pad8(body_len))?.get(..body_len)?;
    Some((
        DeliveryItem {
            entry,
            body_offset: PREFIX + at + DeliverEntry::LEN,
            body,
        },
        next,
    ))
}

const _: () = assert!(size_of::<DeliverEntry>() == DeliverEntry::LEN);
