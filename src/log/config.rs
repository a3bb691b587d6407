//! What a log is told about its size and place, and what its callers say about theirs.

use crate::base::limits;
use crate::log::disk::Disk;
use crate::log::error::OpenError;
use crate::log::file_system::FileSystem;
use std::path::PathBuf;
use std::sync::Arc;

/// Where the log lives and how large it may become.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The directory, made if it is not there. `None`: anonymous memory, gone with the process.
    pub directory: Option<PathBuf>,
    /// Size of a segment, in bytes: a multiple of 4096 between [`limits::SEGMENT_BYTES_MIN`] and
    /// [`limits::SEGMENT_BYTES_MAX`]. Fixed for the life of a directory.
    pub segment_bytes: u32,
    /// What all segments together may take, in bytes; at least four segments. A start that finds none free makes one
    /// beyond that, and copies may have [`limits::SEGMENTS_FOR_COPIES`] more; new jobs never get those.
    pub log_bytes_max: u64,
    /// Give up what is corrupt, instead of refusing to open.
    pub salvage: bool,
    /// What stands in for the file system; `None` is the real one. For simulations.
    #[doc(hidden)]
    pub disk: Option<Arc<dyn Disk>>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            directory: None,
            segment_bytes: limits::SEGMENT_BYTES_DEFAULT,
            log_bytes_max: limits::LOG_BYTES_DEFAULT,
            salvage: false,
            disk: None,
        }
    }
}

impl LogConfig {
    /// How many segments there may be.
    pub(super) fn segments_max(&self) -> usize {
        let segments = self.log_bytes_max / u64::from(self.segment_bytes);
        usize::try_from(segments)
            .unwrap_or(usize::MAX)
            .min(limits::SEGMENTS_MAX)
    }

    /// The disk that the log lives on.
    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone().unwrap_or_else(|| Arc::new(FileSystem))
    }

    /// Smallest segment, in bytes. Simulations enumerate what a disk may keep of a log, and so have tiny ones.
    fn segment_bytes_min(&self) -> u32 {
        if self.disk.is_some() {
            4096
        } else {
            limits::SEGMENT_BYTES_MIN
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let (min, max) = (self.segment_bytes_min(), limits::SEGMENT_BYTES_MAX);
        if !(min..=max).contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(4096) {
            return Err(OpenError::Config(format!(
                "a segment has {min} to {max} bytes, a multiple of 4096, not {}",
                self.segment_bytes
            )));
        }
        if self.segments_max() < limits::SEGMENTS_MIN {
            let text = format!(
                "the log's byte limit must hold at least {} segments",
                limits::SEGMENTS_MIN
            );
            return Err(OpenError::Config(text));
        }
        Ok(())
    }
}

/// What a record is for, which decides how much of the reserve it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// New jobs. Refused while fewer than two further segments could be had, or fewer than it takes to settle what is
    /// there.
    Enqueue,
    /// Handing out. Refused while fewer segments could be had than it takes to settle what is there, or to copy it.
    HandOut,
    /// Settling: may take all further segments but one.
    Settle,
    /// What frees segments: may take the last, and on a disk [`limits::SEGMENTS_FOR_COPIES`] beyond the limit.
    Migrate,
}

impl Room {
    /// How many segments must be left after a roll for this purpose.
    pub(super) fn roll_reserve(self) -> usize {
        match self {
            Room::Enqueue => 2,
            Room::HandOut | Room::Settle => 1,
            Room::Migrate => 0,
        }
    }
}
