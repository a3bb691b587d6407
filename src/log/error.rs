//! What can go wrong with a log, in words that say where and what to do.

use crate::log::bad_range::BadRange;
use crate::log::damage::Damage;
use crate::log::position::LogPosition;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a log could not be opened. Nothing on the disk was changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process holds the directory's lock.
    #[error("{} is already in use by another server; stop it, or choose another directory", directory.display())]
    Locked {
        /// The log's directory.
        directory: PathBuf,
    },
    /// The operating system said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A later version of this program wrote the log.
    #[error(
        "{} has log format {found}, this program reads up to {supported}; use the newer program", path.display()
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version that this program reads.
        supported: u32,
    },
    /// Something that was once on the disk is damaged or gone.
    #[error(
        "{} is corrupt at byte {offset}: {reason}; restore it from a copy, or open with salvage to give up \
         what cannot be read", path.display()
    )]
    Corrupt {
        /// The file (the directory when a file is missing).
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// The segments on the disk have another size than the configuration asks for.
    #[error("{} has segments of {found} bytes, not {wanted}; open it with that size", path.display())]
    SegmentSize {
        /// A segment file.
        path: PathBuf,
        /// Its segment size.
        found: u32,
        /// The configured one.
        wanted: u32,
    },
    /// The configuration makes no sense.
    #[error("log configuration: {0}")]
    Config(String),
}

/// Why the log does not take a record or cannot say that it is durable.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// No segment left for this purpose: the log's byte limit is reached, or the disk is full, or the system gives no
    /// further file. Passes when jobs are settled and segments come free; a further segment is tried again, too.
    #[error("the log is full ({segments} segments in use{}); {}", told(.obstacle), advice(.obstacle))]
    Full {
        /// Segments in use.
        segments: usize,
        /// What the system said when one more was to be made; `None` where the byte limit allows no more.
        obstacle: Option<Arc<str>>,
    },
    /// The record is longer than a segment can hold.
    #[error("a record of {len} bytes does not fit a log segment, which takes {max}; use larger segments")]
    TooLarge {
        /// Length of the body, in bytes.
        len: usize,
        /// Longest body, in bytes.
        max: usize,
    },
    /// A write or sync failed before. Nothing is confirmed any more; the process should end.
    #[error("the log is poisoned: {0}; restart the server once the disk is sound")]
    Poisoned(String),
}

fn told(obstacle: &Option<Arc<str>>) -> String {
    let told = obstacle
        .as_deref()
        .map(|text| format!(", and no more can be made: {text}"));
    told.unwrap_or_default()
}

fn advice(obstacle: &Option<Arc<str>>) -> &'static str {
    match obstacle {
        Some(_) => "settle jobs, or remove the cause",
        None => "settle jobs, or raise its byte limit",
    }
}

/// A place where the log is not what it was, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file (the directory when whole segments are missing).
    pub path: PathBuf,
    /// Where in the file it begins.
    pub offset: u64,
    /// What is wrong there.
    pub damage: Damage,
    /// Why that is no harmless end of a log.
    pub reason: String,
    /// What of the log cannot be read there. Empty where nothing is lost, or where nobody knows what stood there.
    pub range: BadRange,
    /// When the record in front of it was written, in milliseconds since the Unix epoch; 0 where there is none.
    pub before_ms: u64,
    /// When the record behind it was written, likewise.
    pub after_ms: u64,
    /// Where a salvage has put the damaged bytes.
    pub kept: Vec<PathBuf>,
}

impl Corruption {
    pub(super) fn new(path: PathBuf, damage: Damage, reason: &str) -> Self {
        Self {
            path,
            offset: 0,
            damage,
            reason: reason.to_owned(),
            range: BadRange::NONE,
            before_ms: 0,
            after_ms: 0,
            kept: Vec::new(),
        }
    }

    /// Place of the segment in the log; 0 where it is not known.
    pub fn sequence(&self) -> u32 {
        self.range.start.sequence()
    }

    /// How many bytes of the log cannot be read, in segments of `segment_bytes`.
    pub fn bytes(&self, segment_bytes: u32) -> u64 {
        let at = |position: LogPosition| {
            u64::from(position.sequence()) * u64::from(segment_bytes) + u64::from(position.offset())
        };
        at(self.range.end).saturating_sub(at(self.range.start))
    }
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} at byte {}: {}",
            self.path.display(),
            self.offset,
            self.reason
        )
    }
}
