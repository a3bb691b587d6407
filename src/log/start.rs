//! The record that opens a segment: what a reader must know who has none of the segments before.

use crate::log::bad_range::BadRange;
use crate::log::position::LogPosition;
use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

/// Flag of such a record: this is the first segment of a boot, and the ranges are listed.
pub(crate) const FLAG_BOOT: u8 = 1;

/// Body of a [`KIND_START`](super::record::KIND_START) record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct StartBody {
    /// The engine's note as it was when the segment was begun.
    pub(crate) note: u64,
    /// With [`FLAG_BOOT`]: where the records of the boot before end. [`LogPosition::NONE`] when there are none.
    pub(crate) previous_end: LogPosition,
    /// With [`FLAG_BOOT`]: every range of the segments that still exist which recovery has accepted as holding
    /// nothing.
    pub(crate) accepted: Vec<BadRange>,
}

impl StartBody {
    /// Length without ranges, in bytes.
    pub(crate) const LEN_MIN: usize = 24;
    const RANGE_LEN: usize = 16;

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN_MIN + self.accepted.len() * Self::RANGE_LEN);
        bytes.extend_from_slice(&self.note.to_le_bytes());
        bytes.extend_from_slice(&self.previous_end.raw().to_le_bytes());
        bytes.extend_from_slice(&(self.accepted.len() as u64).to_le_bytes());
        for range in &self.accepted {
            bytes.extend_from_slice(&range.start.raw().to_le_bytes());
            bytes.extend_from_slice(&range.end.raw().to_le_bytes());
        }
        bytes
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let words = <[U64]>::ref_from_bytes(body).ok()?;
        let (head, ranges) = words.split_at_checked(Self::LEN_MIN / 8)?;
        if u64::try_from(ranges.len()) != Ok(head[2].get().checked_mul(2)?) {
            return None;
        }
        let at = |word: &U64| LogPosition::from_raw(word.get());
        let accepted = ranges
            .chunks_exact(2)
            .map(|pair| BadRange {
                start: at(&pair[0]),
                end: at(&pair[1]),
            })
            .collect();
        Some(Self {
            note: head[0].get(),
            previous_end: at(&head[1]),
            accepted,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_bodies_survive_the_trip() {
        let range = BadRange {
            start: LogPosition::new(2, 80),
            end: LogPosition::new(2, 96),
        };
        let body = StartBody {
            note: 5,
            previous_end: LogPosition::new(2, 1000),
            accepted: vec![range; 3],
        };
        assert_eq!(StartBody::decode(&body.encode()), Some(body.clone()));
        assert_eq!(StartBody::decode(&body.encode()[..64]), None);
        assert_eq!(StartBody::decode(&[]), None);
    }
}
