//! One job in memory: a 64-byte slot. Its state word ([`StateWord`]) says who may touch the rest of it.
//!
//! A slot is eight 64-bit words, one cache line. Word 0 is the *state word*; whoever moves it by CAS into
//! [`Phase::Busy`], or by a store where [the gate](super::gate) allows it, owns the other seven until it publishes a new
//! state with Release. Everybody else only reads, and checks afterwards that the state word has not moved (a sequence
//! lock, Lamport 1977).

use crate::base::sync::{AtomicU64, Ordering, fence};
use crate::engine::gate::{Closed, Passing};
use crate::engine::word::{Phase, StateWord};
use crate::log::LogPosition;

/// Words of a slot.
pub const SLOT_WORDS: usize = 8;

/// The fields of a job behind its state word, read or written together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fields {
    /// Where `meta | payload` begin in the log; what keeps that segment alive.
    pub body: LogPosition,
    /// Where the last error text or the result stands in the log; none if there is none.
    pub note: LogPosition,
    /// Scheduled: due. Leased: lease deadline. Dead or finished: when that happened.
    pub at_ms: u64,
    /// When it was accepted.
    pub enqueued_ms: u64,
    /// When it expires unserved; 0 for never.
    pub expires_ms: u64,
    /// Deliveries given back without using an attempt.
    pub releases: u16,
    /// Deliveries that ended in a nack or rejection.
    pub failures: u16,
    /// Deliveries whose lease ran out.
    pub expiries: u16,
    /// Deliveries allowed: max attempts, raised by releases and redrives.
    pub limit: u16,
    /// The queue's index, below 2^24.
    pub queue: u32,
    /// Priority level.
    pub priority: u8,
    /// Length of the payload.
    pub payload_len: u32,
    /// Length of the metadata.
    pub meta_len: u16,
    /// Lease of a delivery; 0 for the queue's.
    pub lease_ms: u32,
}

impl Fields {
    /// Payload and metadata bytes, as counted against the queue's capacity.
    pub fn body_bytes(&self) -> u64 {
        u64::from(self.payload_len) + u64::from(self.meta_len)
    }

    /// Attempts used after `deliveries` of them were handed out.
    pub fn attempts(&self, deliveries: u16) -> u16 {
        deliveries.saturating_sub(self.releases)
    }

    /// Attempts allowed: the limit on deliveries less those that were given back.
    pub fn max_attempts(&self) -> u16 {
        self.limit.saturating_sub(self.releases)
    }
}

const TIME_MASK: u64 = (1 << 48) - 1;

fn pack(time_ms: u64, count: u16) -> u64 {
    // 48 bits of milliseconds last for 8,900 years; every time is checked against limits at the door.
    (time_ms & TIME_MASK) << 16 | u64::from(count)
}

/// A view of one slot.
#[derive(Clone, Copy)]
pub struct Slot<'a> {
    words: &'a [AtomicU64; SLOT_WORDS],
}

impl<'a> Slot<'a> {
    /// The slot in these eight words.
    #[inline]
    pub(super) fn new(words: &'a [AtomicU64; SLOT_WORDS]) -> Self {
        Self { words }
    }

    /// The state word; Acquire, so that the fields read next are at least those published with it.
    #[inline]
    pub fn state(self) -> StateWord {
        StateWord(self.words[0].load(Ordering::Acquire))
    }

    /// Moves the state word. Acquire on success makes the previous owner's fields visible to the new owner;
    /// Release is needed where the caller has written fields before.
    #[inline]
    pub fn exchange(self, from: StateWord, to: StateWord) -> Result<(), StateWord> {
        let moved = self.words[0]
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(StateWord);
        // Release fence: the fields that an owner writes from here on do not become visible before the word that
        // says so; pairs with the Acquire fence in `snapshot`.
        fence(Ordering::Release);
        moved
    }

    /// Publishes a state as the owner (the slot is Busy or not yet public). Release: whoever reads the new state
    /// reads the fields written before it.
    #[inline]
    pub fn publish(self, state: StateWord) {
        self.words[0].store(state.0, Ordering::Release);
    }

    /// Writes all fields, as the owner.
    #[inline]
    pub fn write(self, fields: &Fields) {
        let set = |word: usize, value: u64| self.words[word].store(value, Ordering::Relaxed);
        debug_assert!(fields.queue < 1 << 24);
        set(1, fields.body.raw());
        set(2, fields.note.raw());
        set(3, pack(fields.at_ms, fields.releases));
        set(4, pack(fields.enqueued_ms, fields.failures));
        set(5, pack(fields.expires_ms, fields.expiries));
        set(
            6,
            u64::from(fields.queue) << 40 | u64::from(fields.priority) << 32 | u64::from(fields.payload_len),
        );
        set(
            7,
            u64::from(fields.meta_len) << 48 | u64::from(fields.limit) << 32 | u64::from(fields.lease_ms),
        );
    }

    /// Writes the fields that change after a job was accepted, as the owner: everything but body, enqueue time,
    /// queue, lengths and lease.
    pub fn write_changes(self, fields: &Fields) {
        let set = |word: usize, value: u64| self.words[word].store(value, Ordering::Relaxed);
        set(2, fields.note.raw());
        set(3, pack(fields.at_ms, fields.releases));
        set(4, pack(fields.enqueued_ms, fields.failures));
        set(5, pack(fields.expires_ms, fields.expiries));
        set(
            7,
            u64::from(fields.meta_len) << 48 | u64::from(fields.limit) << 32 | u64::from(fields.lease_ms),
        );
    }

    /// Writes only the deadline, as the owner; the release count beside it is kept.
    #[inline]
    pub fn write_at(self, at_ms: u64) {
        let releases = self.words[3].load(Ordering::Relaxed) as u16;
        self.words[3].store(pack(at_ms, releases), Ordering::Relaxed);
    }

    /// The fields. Exact for the owner; anybody else uses [`snapshot`](Self::snapshot).
    #[inline]
    pub fn fields(self) -> Fields {
        let get = |word: usize| self.words[word].load(Ordering::Relaxed);
        let (at, enqueued, expires, shape, extra) = (get(3), get(4), get(5), get(6), get(7));
        Fields {
            // Acquire: both are moved to copies while the word stays as it is, and what stands there is read next. The
            // fence in `snapshot` would do, but ThreadSanitizer does not know that.
            body: self.body(),
            note: self.note(),
            at_ms: at >> 16,
            enqueued_ms: enqueued >> 16,
            expires_ms: expires >> 16,
            releases: at as u16,
            failures: enqueued as u16,
            expiries: expires as u16,
            limit: (extra >> 32) as u16,
            queue: (shape >> 40) as u32,
            priority: (shape >> 32) as u8,
            payload_len: shape as u32,
            meta_len: (extra >> 48) as u16,
            lease_ms: extra as u32,
        }
    }

    /// Of the fields those that a delivery tells of, as the owner; the others are as for no job.
    #[inline]
    pub fn delivered(self) -> Fields {
        let get = |word: usize| self.words[word].load(Ordering::Relaxed);
        let (at, enqueued, shape, extra) = (get(3), get(4), get(6), get(7));
        Fields {
            enqueued_ms: enqueued >> 16,
            releases: at as u16,
            limit: (extra >> 32) as u16,
            queue: (shape >> 40) as u32,
            priority: (shape >> 32) as u8,
            payload_len: shape as u32,
            meta_len: (extra >> 48) as u16,
            ..Fields::default()
        }
    }

    /// The queue's index alone.
    #[inline]
    pub fn queue(self) -> u32 {
        (self.words[6].load(Ordering::Relaxed) >> 40) as u32
    }

    /// Body bytes (payload and metadata) alone.
    #[inline]
    pub fn body_bytes(self) -> usize {
        self.words[6].load(Ordering::Relaxed) as u32 as usize
            + (self.words[7].load(Ordering::Relaxed) >> 48) as usize
    }

    /// The job's own lease alone, in milliseconds; 0 for the queue's.
    #[inline]
    pub fn lease_ms(self) -> u32 {
        self.words[7].load(Ordering::Relaxed) as u32
    }

    /// The deadline alone.
    #[inline]
    pub fn at_ms(self) -> u64 {
        self.words[3].load(Ordering::Relaxed) >> 16
    }

    /// The end of the TTL alone.
    #[inline]
    pub fn expires_ms(self) -> u64 {
        self.words[5].load(Ordering::Relaxed) >> 16
    }

    /// State and fields that belong together, or `None` while somebody is changing them.
    pub fn snapshot(self) -> Option<(StateWord, Fields)> {
        let before = self.state();
        if before.phase() == Phase::Busy {
            return None;
        }
        let fields = self.fields();
        // Acquire fence: the field loads above are done before the state word is read again, so an unchanged
        // word means that no owner wrote in between (an owner first makes the word Busy).
        fence(Ordering::Acquire);
        (StateWord(self.words[0].load(Ordering::Relaxed)) == before).then_some((before, fields))
    }

    /// Whether a job that was found at rest, in this state and with this deadline, has not been changed since. (An
    /// extension leaves nothing but the deadline behind once the turns have come round.) Acquire: see
    /// [`state`](Self::state).
    pub fn is_still(self, word: StateWord, at_ms: u64) -> bool {
        self.state() == word && self.at_ms() == at_ms
    }

    /// Moves the body to where a copy of it stands, unless it was moved or dropped meanwhile. The gate is closed, for
    /// the sake of those who [leave](Self::leave_body) it in passing.
    pub fn move_body(self, from: LogPosition, to: LogPosition, _: &Closed<'_>) -> bool {
        self.words[1]
            .compare_exchange(from.raw(), to.raw(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Moves the note along with its body, unless a newer note was written meanwhile.
    pub fn move_note(self, from: LogPosition, to: LogPosition) -> bool {
        self.words[2]
            .compare_exchange(from.raw(), to.raw(), Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// The body as it stands now (it moves when its segment is reclaimed).
    #[inline]
    pub fn body(self) -> LogPosition {
        LogPosition::from_raw(self.words[1].load(Ordering::Acquire))
    }

    /// The note as it stands now.
    pub fn note(self) -> LogPosition {
        LogPosition::from_raw(self.words[2].load(Ordering::Acquire))
    }

    /// Takes the body away when the job leaves: what the segment's live count goes down by.
    pub fn drop_body(self) -> LogPosition {
        LogPosition::from_raw(self.words[1].swap(0, Ordering::AcqRel))
    }

    /// As [`drop_body`](Self::drop_body), in passing: nobody moves the body meanwhile.
    #[inline]
    pub fn leave_body(self, _: &Passing<'_>) -> LogPosition {
        let body = self.body();
        // Relaxed: the state word that follows is stored with Release, and who moves bodies comes by the gate.
        self.words[1].store(0, Ordering::Relaxed);
        body
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::sync::ZeroedWords;

    #[test]
    fn every_field_survives_packing() {
        let words = ZeroedWords::new(SLOT_WORDS);
        let slot = Slot::new(words.group(0));
        let fields = Fields {
            body: LogPosition::from_raw(0x0000_0007_0000_1008),
            note: LogPosition::from_raw(0x0000_0008_0000_2010),
            at_ms: TIME_MASK,
            enqueued_ms: TIME_MASK - 1,
            expires_ms: TIME_MASK - 2,
            releases: u16::MAX,
            failures: u16::MAX - 1,
            expiries: u16::MAX - 2,
            limit: u16::MAX - 3,
            queue: (1 << 24) - 1,
            priority: 7,
            payload_len: crate::base::limits::PAYLOAD_BYTES_MAX,
            meta_len: 4096,
            lease_ms: crate::base::limits::LEASE_MS_MAX,
        };
        slot.write(&fields);
        assert_eq!(slot.fields(), fields);
        slot.write_at(5);
        assert_eq!(slot.fields(), Fields { at_ms: 5, ..fields });
    }
}
