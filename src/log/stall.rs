//! A writer that loses its processor in the middle of a record, while everybody else goes on for long. A simulation on one
//! thread has none; builds with planted bugs let it ask for one.

use crate::log::log::Log;

#[cfg(planted)]
impl Log {
    /// Takes room for a record with a body of `body_len` bytes (a multiple of 8), which is not done before
    /// [`go_on`](Self::go_on). `false`: there is one already, or there is no room.
    pub fn stall(&self, body_len: usize) -> bool {
        let mut stalled = self.stalled.lock();
        if stalled.is_some() {
            return false;
        }
        let Ok(claim) = self.claim(body_len, crate::log::Room::Enqueue) else {
            return false;
        };
        *stalled = Some((claim.position(), (crate::log::HEADER_LEN + body_len) as u32));
        // It neither becomes a record nor padding.
        std::mem::forget(claim);
        true
    }

    /// Has it give up its record. Whoever has to wait for the disk while nobody else can run calls this, too.
    pub fn go_on(&self) {
        if let Some((position, len)) = self.stalled.lock().take()
            && let Some(segment) = self.segments.by_sequence(position.sequence())
        {
            drop(crate::log::Claim::new(self, segment, position, len));
        }
    }
}

#[cfg(not(planted))]
impl Log {
    /// Nothing in a build that ships.
    #[inline(always)]
    pub(super) fn go_on(&self) {}
}
