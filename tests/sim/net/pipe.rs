//! One direction of a connection: bytes on the way, and bytes that have arrived.

use crate::rng::Rng;
use std::collections::VecDeque;

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// Behind the last byte.
    Fin,
    /// At once.
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// On the way.
    pub(super) sent: VecDeque<u8>,
    /// At the reader's.
    pub(super) arrived: VecDeque<u8>,
    /// How the writer ended it.
    pub(super) close: Option<Close>,
    /// Whether the reader knows.
    pub(super) closed: Option<Close>,
    pub(super) capacity: usize,
}

impl Pipe {
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.sent.len() + self.arrived.len())
    }

    pub(super) fn has_news(&self) -> bool {
        !self.arrived.is_empty() || self.closed.is_some()
    }

    pub(super) fn can_move(&self) -> bool {
        !self.sent.is_empty() || self.close.is_some() && self.closed.is_none()
    }

    /// Ends it at once: what is on the way arrives up to some byte, the rest never. Says how many were lost.
    pub(super) fn reset(&mut self, rng: &mut Rng, tell: bool) -> usize {
        let kept = rng.index(self.sent.len() + 1);
        let lost = self.sent.len() - kept;
        self.sent.truncate(kept);
        self.close = Some(Close::Reset);
        if tell {
            self.arrived.extend(self.sent.drain(..));
            self.closed = Some(Close::Reset);
            if rng.per_mille(300) {
                // A reset may overtake what was not read.
                self.arrived.clear();
            }
        }
        lost
    }
}
