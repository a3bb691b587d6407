//! What a job of the load carries: its number, and when it was sent or should have been.

/// Bytes of a number.
const NUMBER: usize = 8;
/// Bytes of a number and a time.
const STAMPED: usize = 16;

/// How much of that fits into a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) len: usize,
}

impl Payload {
    /// Whether a job can be told from another.
    pub(super) fn is_numbered(self) -> bool {
        self.len >= NUMBER
    }

    /// Whether a job says when it was sent.
    pub(super) fn is_stamped(self) -> bool {
        self.len >= STAMPED
    }

    /// Appends a payload.
    #[inline]
    pub(super) fn write(self, out: &mut Vec<u8>, number: u64, time_ns: u64) {
        let start = out.len();
        let mut head = [0; STAMPED];
        self.put(&mut head, number, time_ns);
        out.extend_from_slice(&head[..self.len.min(STAMPED)]);
        out.resize(start + self.len, b'.');
    }

    /// Overwrites the beginning of a payload.
    #[inline]
    pub(super) fn put(self, place: &mut [u8], number: u64, time_ns: u64) {
        if let (true, Some(place)) = (self.is_numbered(), place.first_chunk_mut::<NUMBER>()) {
            *place = number.to_le_bytes();
        }
        if let (true, Some(place)) = (self.is_stamped(), place.get_mut(NUMBER..STAMPED)) {
            place.copy_from_slice(&time_ns.to_le_bytes());
        }
    }

    /// The number in a payload, if there is one.
    #[inline]
    pub(super) fn number(payload: &[u8]) -> Option<u64> {
        payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// The time in a payload, if there is one.
    #[inline]
    pub(super) fn time_ns(payload: &[u8]) -> Option<u64> {
        let time = payload.get(NUMBER..)?.first_chunk()?;
        Some(u64::from_le_bytes(*time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_there() {
        for len in [0, 7, 8, 15, 16, 64] {
            let mut bytes = Vec::new();
            Payload { len }.write(&mut bytes, 0x0102_0304, 99);
            assert_eq!(bytes.len(), len);
            assert_eq!(
                Payload::number(&bytes),
                (len >= 8).then_some(0x0102_0304),
                "{len}"
            );
            assert_eq!(Payload::time_ns(&bytes), (len >= 16).then_some(99), "{len}");
        }
    }
}
