//! What a session remembers: which of its numbers were applied or are under way, and where their records stand.

use crate::base::limits::SESSION_WINDOW;
use crate::log::LogPosition;
use std::collections::VecDeque;

/// Which request of which session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// The client's session, 128 random bits; 0 for none.
    pub session: u128,
    /// The request's number in the session, from 1; 0 for a request that is not remembered.
    pub number: u64,
}

impl RequestId {
    /// A request that is not remembered.
    pub const NONE: RequestId = RequestId {
        session: 0,
        number: 0,
    };

    /// Whether it is to be remembered.
    pub fn is_numbered(self) -> bool {
        self.session != 0 && self.number != 0
    }
}

/// Where a request's record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The record's header; none where nothing was logged.
    pub position: LogPosition,
    /// Whether it stands in the volatile log.
    pub volatile: bool,
}

/// What is known of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Being carried out; its record, if there will be one, stands in this segment or a later one.
    InProgress(u32),
    /// Carried out.
    Applied(Applied),
}

impl Outcome {
    pub(super) fn applied(self) -> Option<Applied> {
        match self {
            Outcome::InProgress(_) => None,
            Outcome::Applied(applied) => Some(applied),
        }
    }
}

#[derive(Default)]
pub(super) struct Session {
    /// Numbers applied or in progress with where, oldest arrival first; all above `highest - SESSION_WINDOW`
    /// but for a few at the front that wait to be trimmed.
    pub(super) known: VecDeque<(u64, Outcome)>,
    pub(super) highest: u64,
    pub(super) used_ms: u64,
    /// Sequence of the oldest log segment that a restart would need to know this session, 0 for none.
    pub(super) oldest_sequence: u32,
}

impl Session {
    pub(super) fn find(&self, number: u64) -> Option<Outcome> {
        // New numbers are above all others, so the search is for resends and stragglers only.
        if number > self.highest {
            return None;
        }
        self.known
            .iter()
            .rev()
            .find(|(known, _)| *known == number)
            .map(|(_, outcome)| *outcome)
    }

    pub(super) fn insert(&mut self, number: u64, outcome: Outcome) {
        self.highest = self.highest.max(number);
        let floor = self.highest.saturating_sub(SESSION_WINDOW);
        // Before the push: a full window then fits memory for as many as it has.
        while self
            .known
            .front()
            .is_some_and(|(known, outcome)| *known <= floor && outcome.applied().is_some())
        {
            self.known.pop_front();
        }
        self.known.push_back((number, outcome));
        if self.known.len() as u64 > 2 * SESSION_WINDOW {
            self.known
                .retain(|(known, outcome)| *known > floor || outcome.applied().is_none());
        }
    }

    pub(super) fn set(&mut self, number: u64, applied: Applied) {
        if let Some(entry) = self.known.iter_mut().rev().find(|(known, _)| *known == number) {
            entry.1 = Outcome::Applied(applied);
        } else {
            self.insert(number, Outcome::Applied(applied));
        }
        self.note_needs(applied);
    }

    pub(super) fn note_needs(&mut self, applied: Applied) {
        if !applied.volatile && !applied.position.is_none() {
            self.needs(applied.position.sequence());
        }
    }

    /// A restart needs the segment of that number, or what is logged again of it.
    pub(super) fn needs(&mut self, sequence: u32) {
        if self.oldest_sequence == 0 || self.oldest_sequence > sequence {
            self.oldest_sequence = sequence;
        }
    }
}
