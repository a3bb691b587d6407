//! Where something stands in the log.

use std::fmt;

/// A place in the log: the sequence number of a segment (from 1) and a byte offset in it.
///
/// Ordered as the log is; [`LogPosition::NONE`] is before every place. Segments never share a sequence number, so
/// a position is never reused, although the memory behind it is.
///
/// ```
/// use ackring::log::LogPosition;
/// let position = LogPosition::new(7, 64);
/// assert_eq!((position.sequence(), position.offset()), (7, 64));
/// assert!(position < position.plus(8) && position.plus(8) < LogPosition::new(8, 0));
/// assert_eq!(position.to_string(), "7:64");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition(u64);

impl LogPosition {
    /// No place at all.
    pub const NONE: Self = Self(0);

    /// The place `offset` bytes into segment `sequence`.
    #[inline]
    pub const fn new(sequence: u32, offset: u32) -> Self {
        Self((sequence as u64) << 32 | offset as u64)
    }

    /// The position that [`raw`](Self::raw) gave.
    #[inline]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// As one number: sequence in the upper half, offset in the lower.
    #[inline]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The segment's sequence number; 0 for none.
    #[inline]
    pub const fn sequence(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The byte offset in the segment's file, its header included.
    #[inline]
    pub const fn offset(self) -> u32 {
        self.0 as u32
    }

    /// The place `bytes` further on in the same segment.
    #[inline]
    pub const fn plus(self, bytes: u32) -> Self {
        debug_assert!(
            self.offset().checked_add(bytes).is_some(),
            "a segment is shorter than 4 GiB"
        );
        Self(self.0 + bytes as u64)
    }

    /// Whether this is a place at all.
    #[inline]
    pub const fn is_some(self) -> bool {
        self.0 != 0
    }

    /// Whether this is [`LogPosition::NONE`].
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence(), self.offset())
    }
}

impl fmt::Debug for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
