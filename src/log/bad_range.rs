//! Stretches of the log that readers pass over.

use crate::log::position::LogPosition;

/// A stretch of the log that holds nothing and was found to be harmless, or was given up by a salvage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRange {
    /// Its first byte.
    pub start: LogPosition,
    /// The byte after its last, in the same segment (in a later one for lost segments).
    pub end: LogPosition,
}

impl BadRange {
    /// No stretch at all.
    pub(crate) const NONE: Self = Self {
        start: LogPosition::NONE,
        end: LogPosition::NONE,
    };

    /// Whether all of `other` lies in it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}
