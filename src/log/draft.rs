//! A short record, put together beside the log and then copied there whole.

use crate::base::crc::crc32c;
use crate::log::config::Room;
use crate::log::error::LogError;
use crate::log::log::Log;
use crate::log::position::LogPosition;
use crate::log::record::COVERED_LEN;

/// Where the pieces of a record's body go, one behind the other.
pub trait Body {
    /// Adds the next bytes. Panics when they do not fit.
    fn put(&mut self, bytes: &[u8]);
}

/// The body of a record that is as short as those of single jobs. Each piece that goes into the log by itself, and each
/// checksum that is begun anew, costs more than all the bytes of such a record do.
pub struct Draft {
    /// The body, and room behind it for what else the checksum covers.
    bytes: [u8; Self::LEN_MAX + COVERED_LEN],
    len: usize,
}

impl Draft {
    /// Longest body, in bytes.
    pub const LEN_MAX: usize = 216;

    /// Nothing yet.
    #[inline]
    #[expect(clippy::new_without_default, reason = "an empty draft is no record")]
    pub fn new() -> Self {
        Self {
            bytes: [0; Self::LEN_MAX + COVERED_LEN],
            len: 0,
        }
    }

    /// What was put so far.
    #[inline]
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The checksum of the body followed by what else it `covers`.
    #[inline]
    pub(super) fn checksum(&mut self, covers: &[u8; COVERED_LEN]) -> u32 {
        let end = self.len + COVERED_LEN;
        self.bytes[self.len..end].copy_from_slice(covers);
        crc32c(0, &self.bytes[..end])
    }
}

impl Body for Draft {
    #[inline(always)]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        assert!(end <= Self::LEN_MAX, "a draft is no longer than that");
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }
}

impl Log {
    /// Appends a record with this body (a multiple of 8 bytes): as [`claim`](Self::claim) and
    /// [`commit`](crate::log::Claim::commit). Returns where it stands and where it ends.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    #[inline]
    pub fn append(
        &self,
        draft: &mut Draft,
        room: Room,
        (kind, flags): (u8, u8),
        now_ms: u64,
        live: u32,
    ) -> Result<(LogPosition, LogPosition), LogError> {
        let claim = self.claim(draft.len, room)?;
        let at = claim.position();
        Ok((at, claim.commit_draft(draft, (kind, flags), now_ms, live)))
    }
}
