//! Finding a segment without a lock.

use crate::base::sync::{AtomicU64, Ordering};
use crate::log::segment::Segment;
use std::sync::OnceLock;

/// All segments that exist, found by file number or by sequence number, without a lock.
pub(super) struct Segments {
    by_number: Box<[OnceLock<Segment>]>,
    /// At `sequence & mask`: sequence number in the upper half, file number in the lower.
    by_sequence: Box<[AtomicU64]>,
    mask: u32,
}

impl Segments {
    /// For file numbers up to `capacity`, and sequence numbers of which those in use at any time lie within
    /// `span` of each other.
    pub(super) fn new(capacity: usize, span: usize) -> Self {
        let places = span.next_power_of_two();
        Self {
            by_number: (0..capacity).map(|_| OnceLock::new()).collect(),
            by_sequence: (0..places).map(|_| AtomicU64::new(0)).collect(),
            mask: (places - 1) as u32,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn add(&self, segment: Segment) {
        let place = &self.by_number[segment.number as usize - 1];
        assert!(place.set(segment).is_ok(), "a segment's number is given once");
    }

    pub(super) fn by_number(&self, number: u32) -> &Segment {
        match self.by_number[number as usize - 1].get() {
            Some(segment) => segment,
            None => unreachable!("numbers are only known of segments that exist"),
        }
    }

    pub(super) fn install(&self, sequence: u32, number: u32) {
        let entry = u64::from(sequence) << 32 | u64::from(number);
        // Release: pairs with the Acquire below; the segment is complete before it can be found.
        self.by_sequence[(sequence & self.mask) as usize].store(entry, Ordering::Release);
    }

    /// The segment that was last installed under that number; it may have been retired since.
    #[inline]
    pub(super) fn by_sequence(&self, sequence: u32) -> Option<&Segment> {
        let entry = self.by_sequence[(sequence & self.mask) as usize].load(Ordering::Acquire);
        if (entry >> 32) as u32 != sequence || entry == 0 {
            return None;
        }
        self.by_number[(entry as u32) as usize - 1].get()
    }
}
