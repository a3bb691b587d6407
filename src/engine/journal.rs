//! What stands in the bodies of the log's records: the engine's half of `FORMAT.md`.
//!
//! Every entry says where a job stands *after* what happened, in absolute numbers, never "one more". A job's records
//! stand in the order in which things happened, and the last one holds; only copies ([`Kind::Job`]) might be behind
//! the times, and say as of when they are ([`JobHead::as_of`]).

use crate::base::batch::{EnqueueBatch, split_note};
use crate::base::entry::pad8;
use crate::base::job::JobId;
use crate::base::limits::{LOG_KEPT_BY_ENQUEUE_BYTES, LOG_KEPT_BY_HAND_OUT_BYTES};
use crate::engine::replay::RequestId;
use crate::log::{Body, HEADER_LEN, LogPosition};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Kinds of record, the `kind` byte of the record header. 0 and 240..=255 are the log's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Jobs accepted: `head | ids | entries | bodies`.
    Enqueue = 1,
    /// Jobs handed out: `count | entries`.
    Reserve = 2,
    /// Jobs settled or otherwise changed: `counts | done entries | change entries | notes | refused entries`.
    Change = 3,
    /// An atomic step: lengths, one body as of Change, bodies as of Enqueue.
    Step = 4,
    /// One job as it stands, copied out of a segment that is reclaimed.
    Job = 5,
    /// A queue as it stands (codec).
    Queue = 6,
    /// A session as it stands (codec).
    Session = 7,
    /// An idempotency key as it stands (codec).
    Key = 8,
    /// Generations up to this one may have been given out: 8 bytes.
    Generation = 9,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Kind; 9] = [
        Kind::Enqueue,
        Kind::Reserve,
        Kind::Change,
        Kind::Step,
        Kind::Job,
        Kind::Queue,
        Kind::Session,
        Kind::Key,
        Kind::Generation,
    ];

    /// The kind of that number, or `None`.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Record flag: the body begins with the request's session and number (24 bytes).
pub const NUMBERED: u8 = 1;

/// Session and number of the request that a record carries out.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Prelude {
    session: [u8; 16],
    number: U64,
}

impl Prelude {
    /// Bytes that a request's prelude takes: none for an unnumbered one.
    pub fn len_for(request: RequestId) -> usize {
        if request.is_numbered() {
            size_of::<Prelude>()
        } else {
            0
        }
    }

    /// The prelude of a numbered request.
    pub fn new(request: RequestId) -> Self {
        Self {
            session: request.session.to_le_bytes(),
            number: U64::new(request.number),
        }
    }

    /// Begins a record's body with the prelude of a numbered request; with nothing for another.
    #[inline]
    pub fn put(request: RequestId, body: &mut impl Body) {
        if request.is_numbered() {
            body.put(Prelude::new(request).as_bytes());
        }
    }

    /// Splits the prelude off a record's body where its flags say there is one.
    pub fn split(flags: u8, body: &[u8]) -> Option<(RequestId, &[u8])> {
        if flags & NUMBERED == 0 {
            return Some((RequestId::NONE, body));
        }
        let (prelude, rest) = Prelude::ref_from_prefix(body).ok()?;
        let request = RequestId {
            session: u128::from_le_bytes(prelude.session),
            number: prelude.number.get(),
        };
        Some((request, rest))
    }
}

/// Head of an Enqueue body.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct EnqueueHead {
    /// Queue number.
    pub queue: U32,
    /// Jobs.
    pub count: U32,
}

/// Where the first job's body begins, counted from the start of an Enqueue body.
pub fn enqueue_bodies_offset(count: usize) -> usize {
    size_of::<EnqueueHead>() + count * (8 + crate::base::entry::EnqueueEntry::LEN)
}

/// Length of an Enqueue body, without prelude.
pub fn enqueue_len(batch: &EnqueueBatch<'_>) -> usize {
    enqueue_bodies_offset(batch.count()) + batch.bodies().len()
}

/// An Enqueue body taken apart.
pub struct EnqueueBody<'a> {
    /// Queue number.
    pub queue: u32,
    /// An id for each entry.
    pub ids: &'a [U64],
    /// The jobs, with the outcome flags of the log.
    pub batch: EnqueueBatch<'a>,
}

/// Takes an Enqueue body apart.
pub fn parse_enqueue(body: &[u8]) -> Option<EnqueueBody<'_>> {
    let (head, rest) = EnqueueHead::ref_from_prefix(body).ok()?;
    let count = head.count.get() as usize;
    let (ids, rest) = rest.split_at_checked(count.checked_mul(8)?)?;
    let ids = <[U64]>::ref_from_bytes(ids).ok()?;
    Some(EnqueueBody {
        queue: head.queue.get(),
        ids,
        batch: EnqueueBatch::from_log(count, rest)?,
    })
}

/// One job handed out: 16 bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ReserveEntry {
    /// The job.
    pub id: U64,
    /// The lease runs this long from the record's time, in milliseconds.
    pub lease_ms: U32,
    /// The delivery's number.
    pub attempt: U16,
    /// Zero.
    pub reserved: U16,
}

impl ReserveEntry {
    /// The job's slot.
    #[inline]
    pub fn slot(&self) -> u32 {
        JobId(self.id.get()).slot()
    }
}

/// One job done without a result: 16 bytes. One with a result is a [`ChangeEntry`].
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DoneEntry {
    /// The job.
    pub id: U64,
    /// The delivery that did it.
    pub attempt: U16,
    /// Zero.
    pub reserved: U16,
    /// Zero.
    pub reserved2: U32,
}

/// One job as it stands after a change: 32 bytes.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangeEntry {
    /// The job.
    pub id: U64,
    /// Its time in that phase: due, lease deadline, or when it ended.
    pub at_ms: U64,
    /// Deliveries so far.
    pub attempt: U16,
    /// Deliveries allowed.
    pub limit: U16,
    /// Failures so far.
    pub failures: U16,
    /// Lease expiries so far.
    pub expiries: U16,
    /// Releases so far.
    pub releases: U16,
    /// The phase; 0 for a job that is over and forgotten.
    pub phase: u8,
    /// [`ChangeEntry::ERROR`] or [`ChangeEntry::RESULT`]: a note of this entry stands behind the entries.
    pub noted: u8,
    /// [`has_ttl`](Self::has_ttl) of a job that is there, [`purged_from`](Self::purged_from) of one that is over and
    /// forgotten.
    pub ttl_or_queue: U32,
}

impl ChangeEntry {
    /// The note is an error text.
    pub const ERROR: u8 = 1;
    /// The note is a result.
    pub const RESULT: u8 = 2;

    /// Of a job that is over and forgotten, because somebody purged this queue: when it had ended.
    pub fn of_purged(id: JobId, queue: u32, ended_ms: u64) -> Self {
        Self {
            id: U64::new(id.0),
            at_ms: U64::new(ended_ms),
            ttl_or_queue: U32::new(queue + 1),
            ..Self::default()
        }
    }

    /// Of a job that is there: whether the TTL it was enqueued with still holds. If not, it had none, or a redrive lifted
    /// it.
    #[inline]
    pub fn has_ttl(&self) -> bool {
        self.ttl_or_queue.get() != 0
    }

    /// Of a job that is over and forgotten: the number of its queue. `None` where an older program wrote it, or the job
    /// is there.
    pub fn purged_from(&self) -> Option<u32> {
        if self.phase != 0 {
            return None;
        }
        self.ttl_or_queue.get().checked_sub(1)
    }
}

/// Head of a Change body.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ChangeHead {
    /// Done entries.
    pub done: U32,
    /// Change entries.
    pub changes: U32,
    /// Refused entries: positions of a numbered request that were not done, so that its answer can be made again.
    pub refused: U32,
    /// Zero.
    pub reserved: U32,
}

/// One position that was not done: 8 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RefusedEntry {
    /// The position in the request.
    pub position: U32,
    /// Why, as a number of the wire.
    pub code: U16,
    /// Zero.
    pub reserved: U16,
}

/// A Change body taken apart. Notes stand behind the entries in the order of the entries that have one.
pub struct ChangeBody<'a> {
    /// Jobs done.
    pub done: &'a [DoneEntry],
    /// Jobs changed.
    pub changes: &'a [ChangeEntry],
    /// All notes.
    pub notes: &'a [u8],
    /// Where the notes begin, counted from the start of the body.
    pub notes_offset: usize,
    /// Positions that were not done.
    pub refused: &'a [RefusedEntry],
}

/// Takes a Change body apart.
pub fn parse_change(body: &[u8]) -> Option<ChangeBody<'_>> {
    let (head, rest) = ChangeHead::ref_from_prefix(body).ok()?;
    let (done, rest) =
        rest.split_at_checked((head.done.get() as usize).checked_mul(size_of::<DoneEntry>())?)?;
    let (changes, rest) =
        rest.split_at_checked((head.changes.get() as usize).checked_mul(size_of::<ChangeEntry>())?)?;
    let refused_len = (head.refused.get() as usize).checked_mul(size_of::<RefusedEntry>())?;
    let (notes, refused) = rest.split_at_checked(rest.len().checked_sub(refused_len)?)?;
    Some(ChangeBody {
        done: <[DoneEntry]>::ref_from_bytes(done).ok()?,
        changes: <[ChangeEntry]>::ref_from_bytes(changes).ok()?,
        notes,
        notes_offset: body.len() - refused.len() - notes.len(),
        refused: <[RefusedEntry]>::ref_from_bytes(refused).ok()?,
    })
}

/// Takes a Reserve body apart.
pub fn parse_reserve(body: &[u8]) -> Option<&[ReserveEntry]> {
    let (count, rest) = U64::ref_from_prefix(body).ok()?;
    let len = usize::try_from(count.get())
        .ok()?
        .checked_mul(size_of::<ReserveEntry>())?;
    <[ReserveEntry]>::ref_from_bytes(rest.get(..len)?).ok()
}

/// Length of a note in the log: `u32 length | bytes`, padded to 8; a result is followed by where the error text
/// before it stands (8 bytes, 0 for none).
pub fn note_len(note: &[u8], is_result: bool) -> usize {
    pad8(4 + note.len()) + if is_result { 8 } else { 0 }
}

/// Puts a note, and for a result where the error text before it stands.
pub fn put_note(body: &mut impl Body, note: &[u8], prior: Option<LogPosition>) {
    body.put(&(note.len() as u32).to_le_bytes());
    body.put(note);
    let padding = pad8(4 + note.len()) - 4 - note.len();
    body.put(&[0; 8][..padding]);
    if let Some(prior) = prior {
        body.put(&prior.raw().to_le_bytes());
    }
}

/// The error text at the front of `bytes`.
pub fn parse_note(bytes: &[u8]) -> Option<&[u8]> {
    split_note(bytes).map(|(note, _)| note)
}

/// Lengths at the head of a Step body.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StepHead {
    /// Length of the Change body.
    pub change_len: U32,
    /// How many groups follow, each behind its [`GroupHead`].
    pub groups: U32,
}

/// Head of a group of a Step body.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct GroupHead {
    /// Length of the group's body.
    pub len: U32,
    /// 0: an Enqueue body. 1: jobs that are not logged, of which only the answer stands here, an
    /// [`AnswerEntry`] for each.
    pub kind: U32,
}

impl GroupHead {
    /// An Enqueue body follows.
    pub const JOBS: u32 = 0;
    /// Only the answer follows.
    pub const ANSWER: u32 = 1;
}

/// What was answered for one job that is not logged: 16 bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct AnswerEntry {
    /// Its id.
    pub id: U64,
    /// As [`EnqueueEntry::flags`](crate::base::entry::EnqueueEntry::flags) in the log.
    pub flags: U16,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A group of a Step body.
pub enum Group<'a> {
    /// Jobs: where their Enqueue body begins in the Step body, and that body.
    Jobs(usize, &'a [u8]),
    /// Answers for jobs that are not logged.
    Answer(&'a [AnswerEntry]),
}

/// Takes a Step body apart: the Change body, and the groups.
pub fn parse_step(body: &[u8]) -> Option<(&[u8], Vec<Group<'_>>)> {
    let (head, rest) = StepHead::ref_from_prefix(body).ok()?;
    let (change, mut rest) = rest.split_at_checked(head.change_len.get() as usize)?;
    let mut groups = Vec::new();
    for _ in 0..head.groups.get() {
        let (head, after) = GroupHead::ref_from_prefix(rest).ok()?;
        let (group, after) = after.split_at_checked(head.len.get() as usize)?;
        groups.push(match head.kind.get() {
            GroupHead::JOBS => Group::Jobs(body.len() - after.len() - group.len(), group),
            GroupHead::ANSWER => Group::Answer(<[AnswerEntry]>::ref_from_bytes(group).ok()?),
            _ => return None,
        });
        rest = after;
    }
    Some((change, groups))
}

/// Fixed part of a Job body; behind it `meta | payload` padded to 8, then the error text and the result, each as
/// a note where its flag is set.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct JobHead {
    /// The job.
    pub id: U64,
    /// Where its body stood first: its place in the order of jobs never handed out.
    pub order: U64,
    /// Records of the job from here on are as late as this copy or later, those before it are earlier or the same: the
    /// record's own place, as no other came between the look at the job and that.
    pub as_of: U64,
    /// When it was accepted.
    pub enqueued_ms: U64,
    /// When it expires; 0 for never.
    pub expires_ms: U64,
    /// As it stands.
    pub change: ChangeEntry,
    /// Queue number.
    pub queue: U32,
    /// Length of the payload.
    pub payload_len: U32,
    /// Lease of a delivery; 0 for the queue's.
    pub lease_ms: U32,
    /// Length of the metadata.
    pub meta_len: U16,
    /// Priority level.
    pub priority: u8,
    /// 1: an error text follows, 2: a result follows, 4: enqueued under a key, 8: metadata and payload do not follow.
    pub flags: u8,
}

impl JobHead {
    /// An error text follows.
    pub const ERROR: u8 = 1;
    /// A result follows.
    pub const RESULT: u8 = 2;
    /// The job was enqueued under a key.
    pub const KEYED: u8 = 4;
    /// The job is over, and neither metadata nor payload follow.
    pub const BODILESS: u8 = 8;
}

const _: () = {
    assert!(size_of::<Prelude>() == 24);
    assert!(size_of::<ReserveEntry>() == 16 && size_of::<DoneEntry>() == 16);
    assert!(size_of::<ChangeEntry>() == 32);
    assert!(size_of::<JobHead>().is_multiple_of(8));
    assert!(size_of::<ChangeHead>() == 16 && size_of::<RefusedEntry>() == 8);
    // One delivery and one ack, each in a numbered record of its own, and a copy instead of a place in a batch.
    let delivery = HEADER_LEN + size_of::<Prelude>() + 8 + size_of::<ReserveEntry>();
    let ack = HEADER_LEN + size_of::<Prelude>() + size_of::<ChangeHead>() + size_of::<DoneEntry>();
    let grown = HEADER_LEN + size_of::<JobHead>() - (8 + crate::base::entry::EnqueueEntry::LEN);
    assert!((ack + grown) as u64 <= LOG_KEPT_BY_HAND_OUT_BYTES);
    assert!((delivery + ack + grown) as u64 <= LOG_KEPT_BY_ENQUEUE_BYTES);
    assert!(size_of::<GroupHead>() == 8 && size_of::<AnswerEntry>() == 16);
};
