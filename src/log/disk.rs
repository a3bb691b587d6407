//! What a log needs of the machine's storage, as traits: the real file system is one such disk
//! (`file_system`), a simulation that loses what was not synced is another.
//!
//! Only the cold paths go through here: opening, making and preparing segments, syncing. Records are written and read
//! through the [`Region`] that [`DiskFile::map`] gives out, which is plain memory.

use crate::log::error::OpenError;
use crate::log::region::Region;
use std::fmt::Debug;
use std::io;
use std::path::Path;

/// Where directories are found, and random numbers.
pub trait Disk: Debug + Send + Sync {
    /// Locks the directory, shared with other readers or (`to_write`) for one process alone, which makes the
    /// directory if it is not there.
    ///
    /// # Errors
    /// [`OpenError::Locked`], [`OpenError::Io`].
    fn lock(&self, path: &Path, to_write: bool) -> Result<Box<dyn DiskDirectory>, OpenError>;

    /// Fills `bytes` with random numbers: the log's id and the epochs of its segments.
    ///
    /// # Errors
    /// The system has none.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;

    /// What tells this run of the machine from all others. As long as it is the same, files hold all that was written
    /// to them, synced or not. `None` where nobody can tell.
    fn machine(&self) -> Option<[u8; 16]> {
        None
    }

    /// Whether a start may read the log on a thread of its own, ahead of what it looks at. Not where a run must follow
    /// from a seed.
    fn reads_ahead(&self) -> bool {
        false
    }
}

/// A locked directory; dropping it gives the lock back. Names are those of files in it.
pub trait DiskDirectory: Debug + Send + Sync {
    /// Every name, in any order. Names that are not text may be left out.
    ///
    /// # Errors
    /// The disk's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there.
    ///
    /// # Errors
    /// The disk's.
    fn open(&self, name: &str, to_write: bool) -> io::Result<Box<dyn DiskFile>>;

    /// Makes an empty file, or empties the one of that name.
    ///
    /// # Errors
    /// The disk's.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, whose file, if there is one, is gone then.
    ///
    /// # Errors
    /// The disk's.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Waits until the names are on the disk as they are now.
    ///
    /// # Errors
    /// The disk's.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
#[allow(
    clippy::len_without_is_empty,
    reason = "nobody asks whether a segment file is empty"
)]
pub trait DiskFile: Debug + Send + Sync {
    /// Its length, in bytes.
    ///
    /// # Errors
    /// The disk's.
    fn len(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on; `UnexpectedEof` where the file ends before.
    ///
    /// # Errors
    /// The disk's.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; the file grows as needed.
    ///
    /// # Errors
    /// The disk's.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Waits until everything that was ever written to the file, and its length, is on the disk.
    ///
    /// # Errors
    /// The disk's. The log never repeats the call then: what it did not write may be taken for written.
    fn sync_data(&self) -> io::Result<()>;

    /// Drops what the cache holds of the first `len` bytes (`None`: of all) and need not be written, so that what is
    /// read next comes from the disk. Best effort.
    fn forget_clean_pages(&self, len: Option<u64>);

    /// Maps the first `len` bytes, shared with every reader and writer of the file. The file has at least so many,
    /// with blocks behind them. The mapping outlives `self`.
    ///
    /// # Errors
    /// The disk's.
    fn map(&self, len: usize) -> io::Result<Region>;
}

/// Brings a range of a mapping to the disk, where the system's own call would not do.
pub trait RangeSync: Debug + Send + Sync {
    /// Waits until what stands in the range of the mapping is on the disk.
    ///
    /// # Errors
    /// The disk's.
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()>;
}
