//! Records whose length is known before they are written. A short one is put together beside the log and then copied
//! there whole; a longer one is put straight into the log.

use crate::base::crc::crc32c;
use crate::log::claim::Claims;
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

/// What a record says, for [`Log::append`] and [`Claims::append`].
pub trait Content {
    /// Length of the body, in bytes; a multiple of 8.
    fn body_len(&self) -> usize;

    /// Puts all of the body.
    fn put_into(self, body: &mut impl Body);
}

/// The body of a record that is as short as those of single jobs. Each piece that goes into the log by itself, and each
/// checksum that is begun anew, costs more than all the bytes of such a record do.
pub(super) struct Draft {
    /// The body, and room behind it for what else the checksum covers.
    bytes: [u8; Self::LEN_MAX + COVERED_LEN],
    len: usize,
}

impl Draft {
    /// Longest body, in bytes.
    const LEN_MAX: usize = 216;

    #[inline]
    fn new() -> Self {
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
    /// Appends a record: as [`claim`](Self::claim) and [`commit`](crate::log::Claim::commit). Returns where it stands
    /// and where it ends.
    ///
    /// # Errors
    /// As [`claim`](Self::claim).
    #[inline]
    pub fn append(
        &self,
        content: impl Content,
        room: Room,
        (kind, flags): (u8, u8),
        now_ms: u64,
        live: u32,
    ) -> Result<(LogPosition, LogPosition), LogError> {
        let len = content.body_len();
        if len <= Draft::LEN_MAX {
            // Before the claim: while that is open, what is written behind it is not known to be there.
            let mut draft = Draft::new();
            content.put_into(&mut draft);
            let claim = self.claim(len, room)?;
            let at = claim.position();
            return Ok((at, claim.commit_draft(&mut draft, (kind, flags), now_ms, live)));
        }
        let mut claim = self.claim(len, room)?;
        content.put_into(&mut claim);
        Ok((claim.position(), claim.commit(kind, flags, now_ms, live)))
    }
}

impl Claims<'_> {
    /// Takes the next record and commits it as [`Log::append`] does. Returns where it stands and where it ends. Panics
    /// where there is no room left for it.
    #[inline]
    pub fn append(
        &mut self,
        content: impl Content,
        (kind, flags): (u8, u8),
        now_ms: u64,
        live: u32,
    ) -> (LogPosition, LogPosition) {
        let len = content.body_len();
        let mut claim = self.next(len);
        let at = claim.position();
        if len <= Draft::LEN_MAX {
            let mut draft = Draft::new();
            content.put_into(&mut draft);
            return (at, claim.commit_draft(&mut draft, (kind, flags), now_ms, live));
        }
        content.put_into(&mut claim);
        (at, claim.commit(kind, flags, now_ms, live))
    }
}
