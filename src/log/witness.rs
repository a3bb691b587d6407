//! Whether what stands behind a gap in the log can be believed.
//!
//! A process that is killed leaves a gap where a thread was in the middle of a record, and what others wrote behind it
//! was confirmed as written: it counts. A machine that stops leaves a gap wherever it had not written a page, and
//! what stands behind it may tell of what is lost there: that a request was applied, that a key has its job, that a job
//! was copied. So the log ends at the gap then. Both gaps look alike. What tells them apart is whether the machine is
//! still the one on which the records were written, which each start notes in a file beside the log once all
//! that it found, and its own first record, is on the disk.

use crate::base::crc::crc32c;
use crate::log::dir::Directory;
use crate::log::error::OpenError;
use crate::log::examine::UsedSegment;
use crate::log::position::LogPosition;
use crate::log::recover::Recovery;

/// Who knows whether unsynced writes of the log's newest start are all there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// Nobody can tell: they are taken for whole.
    Unknown,
    /// This start found all before it on the disk. What it wrote itself is all there if the machine goes on that it
    /// wrote on.
    Start { voucher: Voucher, goes_on: bool },
    /// Nobody vouches for them.
    Nobody,
}

/// In which run of the machine a start of the log wrote: 48 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Voucher {
    pub(super) log_id: [u8; 16],
    pub(super) machine: [u8; 16],
    /// Number of the start.
    pub(super) boot: u32,
}

/// No machine: what was written may be gone although the machine goes on.
pub(super) const NO_MACHINE: [u8; 16] = [0; 16];

impl Voucher {
    pub(super) const LEN: usize = 48;
    const MAGIC: [u8; 8] = *b"ackringM";

    pub(super) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&Self::MAGIC);
        bytes[8..24].copy_from_slice(&self.log_id);
        bytes[24..40].copy_from_slice(&self.machine);
        bytes[40..44].copy_from_slice(&self.boot.to_le_bytes());
        let crc = crc32c(0, &bytes[..44]);
        bytes[44..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` for anything but what [`encode`](Self::encode) gives.
    pub(super) fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let voucher = Self {
            log_id: *bytes[8..].first_chunk()?,
            machine: *bytes[24..].first_chunk()?,
            boot: u32::from_le_bytes(*bytes[40..].first_chunk()?),
        };
        (*bytes == voucher.encode()).then_some(voucher)
    }
}

/// Where the log ends before its last record, because nobody vouches for what stands behind.
pub(super) fn find_cut(
    directory: &Directory,
    used: &[UsedSegment],
) -> Result<Option<LogPosition>, OpenError> {
    let witness = directory.witness()?;
    let is_whole = |log_id: [u8; 16], boot: u32| match witness {
        Witness::Unknown => true,
        Witness::Start { voucher, goes_on } => {
            log_id == voucher.log_id && (boot < voucher.boot || boot == voucher.boot && goes_on)
        }
        Witness::Nobody => false,
    };
    let mut boots: Vec<u32> = used.iter().map(|segment| segment.header.boot.get()).collect();
    boots.dedup();
    let mut buffer = Vec::new();
    for (index, boot) in boots.iter().enumerate().rev() {
        let mut recovery = Recovery::default();
        for segment in used.iter().filter(|segment| segment.header.boot.get() == *boot) {
            if is_whole(segment.header.log_id, *boot) {
                return Ok(None);
            }
            directory.read(&segment.file, segment.header.segment_bytes.get(), &mut buffer)?;
            recovery.segment(&segment.header, &mut buffer, &mut |_| ());
        }
        // One without a record died before it served anybody; the one before is the newest then.
        if let Some(hole) = recovery.first_hole(index == 0) {
            return Ok(hole);
        }
    }
    Ok(None)
}
