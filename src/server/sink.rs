//! Puts deliveries straight from the log into a connection's outbox.

use super::holdings::Holdings;
use super::orphans::Lease;
use crate::base::job::Token;
use crate::base::limits;
use crate::engine::{DeliveryHead, DeliverySink};
use crate::wire::{DeliverEntry, DeliveryLimits, DeliveryWriter};
use zerocopy::little_endian::{U16, U32, U64};

/// What a frame of deliveries must never exceed; the wishes of the client are smaller and softer.
pub(super) const HARD_LIMITS: DeliveryLimits = DeliveryLimits {
    jobs: u32::MAX,
    bytes: 0,
    frame_bytes: limits::FRAME_BYTES_MAX,
};

/// Bytes of metadata and payload that surely fit into one frame beside the entries and padding of as many jobs as
/// one reserve hands out.
pub(super) const BODY_BYTES_MAX: usize =
    limits::FRAME_BYTES_MAX as usize - limits::RESERVE_JOBS_MAX * (DeliverEntry::LEN + 8) - 64;

/// One frame of deliveries in the making.
pub(super) struct FrameSink<'a> {
    pub(super) writer: DeliveryWriter<'a>,
    pub(super) holdings: &'a mut Holdings,
    /// The time from which leases run.
    pub(super) now_ms: u64,
    /// The subscription whose window they take; 0 for none.
    pub(super) subscription: u32,
    /// Jobs and bytes that are asked for.
    pub(super) room: (u32, usize),
    /// Where deliveries go that do not fit after all.
    pub(super) unfit: &'a mut Vec<Token>,
}

/// What came of a frame.
pub(super) struct Framed {
    /// Deliveries in it.
    pub(super) count: u32,
    /// Their bytes of metadata and payload.
    pub(super) bytes: usize,
}

impl FrameSink<'_> {
    /// Completes the frame. One without deliveries is taken back unless `even_empty`.
    pub(super) fn end(self, even_empty: bool) -> Framed {
        let (count, bytes) = (self.writer.count(), self.writer.body_bytes());
        if count > 0 || even_empty {
            self.writer.finish();
        }
        Framed { count, bytes }
    }
}

impl DeliverySink for FrameSink<'_> {
    fn room(&self) -> (usize, usize) {
        (self.room.1.min(BODY_BYTES_MAX), self.room.0 as usize)
    }

    fn push(&mut self, head: &DeliveryHead, body: &[u8]) {
        // The engine peeks at the sizes before it takes the jobs, and others may take those first; then larger
        // ones come than it saw. What cannot be sent is given back at once.
        if !self.writer.has_room(body.len()) {
            self.unfit.push(head.token);
            return;
        }
        let lease = Lease {
            token: head.token,
            deadline_ms: self.now_ms + u64::from(head.lease_ms),
        };
        self.holdings.add(lease, self.subscription, body.len() as u32);
        self.writer.push(&entry_of(head), body);
    }
}

fn entry_of(head: &DeliveryHead) -> DeliverEntry {
    DeliverEntry {
        id: U64::new(head.token.id.0),
        enqueued_ms: U64::new(head.enqueued_ms),
        queue: U32::new(head.queue.0),
        payload_len: U32::new(head.payload_len),
        lease_ms: U32::new(head.lease_ms),
        meta_len: U16::new(head.meta_len),
        attempt: U16::new(head.token.attempt),
        attempts: U16::new(head.attempts),
        max_attempts: U16::new(head.max_attempts),
        priority: head.priority,
        flags: if head.token.attempt > 1 {
            DeliverEntry::REDELIVERED
        } else {
            0
        },
        reserved: U16::ZERO,
    }
}

const _: () = {
    // One largest job, and more, fits into the room that a sink offers.
    assert!(BODY_BYTES_MAX > (limits::PAYLOAD_BYTES_MAX + limits::META_BYTES_MAX) as usize);
};
