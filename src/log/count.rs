//! The number of segment files, written down beside them: so that one that is gone is missed.

use crate::base::crc::crc32c;

/// How many segment files a log has, as it is written down beside them: 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentCount {
    pub(crate) log_id: [u8; 16],
    pub(crate) files: u32,
}

impl SegmentCount {
    pub(crate) const LEN: usize = 32;
    const MAGIC: [u8; 8] = *b"ackringN";

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..24].copy_from_slice(&self.log_id);
        bytes[24..28].copy_from_slice(&self.files.to_le_bytes());
        let crc = crc32c(0, &bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` for anything but what [`encode`](Self::encode) gives.
    pub(crate) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let count = Self {
            log_id: *bytes[8..].first_chunk()?,
            files: u32::from_le_bytes(*bytes[24..].first_chunk()?),
        };
        (*bytes == count.encode()).then_some(count)
    }
}
