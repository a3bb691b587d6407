//! The directory of a log: its lock, its files, and the calls that make them last.
//!
//! A segment file is made under a temporary name, filled with zeros and synced, so that it has real blocks before
//! it is mapped (a store into a hole of a full disk would be a SIGBUS); only then it gets its name, and the
//! directory is synced. Files are read with `pread`, never through the mapping: an unreadable sector must be an
//! error, not a signal.

use crate::log::error::OpenError;
use crate::log::record::{HeaderFlaw, SEGMENT_HEADER_LEN, SegmentHeader};
use rustix::fs::{Advice, FlockOperation};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

const LOCK_NAME: &str = "lock";
const SEGMENT_SUFFIX: &str = ".segment";
const UNFINISHED_SUFFIX: &str = ".unfinished";
const DAMAGED_SUFFIX: &str = ".damaged";
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// A locked log directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

/// A segment file as found.
#[derive(Debug)]
pub(super) struct FoundSegment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) header: Result<SegmentHeader, HeaderFlaw>,
    pub(super) len: u64,
}

/// Wraps what the system answered in what was being done.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

impl Directory {
    /// Makes the directory if it is not there, and locks it for this process alone.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        // Only this user: whoever may cut a mapped file can kill the server with a signal.
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(failed("create the log directory", path))?;
        Self::lock(path, true)
    }

    /// Locks an existing directory for reading only; fails while a server has it.
    pub(super) fn open_to_read(path: &Path) -> Result<Self, OpenError> {
        Self::lock(path, false)
    }

    fn lock(path: &Path, to_write: bool) -> Result<Self, OpenError> {
        let handle = File::open(path).map_err(failed("open the log directory", path))?;
        let lock_path = path.join(LOCK_NAME);
        let lock = if to_write {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&lock_path)
        } else {
            File::open(&lock_path)
        };
        let lock = lock.map_err(failed("open the lock file", &lock_path))?;
        let operation = if to_write {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match rustix::fs::flock(&lock, operation) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                handle,
                _lock: lock,
            }),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Locked {
                directory: path.to_owned(),
            }),
            Err(error) => Err(failed("lock", &lock_path)(error.into())),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn segment_path(&self, number: u32) -> PathBuf {
        self.path.join(format!("{number:08}{SEGMENT_SUFFIX}"))
    }

    /// Every segment file, in order of its number. A header that cannot be used is part of the answer.
    pub(super) fn list(&self) -> Result<Vec<FoundSegment>, OpenError> {
        let mut found = Vec::new();
        let entries = fs::read_dir(&self.path).map_err(failed("read the log directory", &self.path))?;
        for entry in entries {
            let entry = entry.map_err(failed("read the log directory", &self.path))?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(SEGMENT_SUFFIX));
            let Some(number) = number.and_then(|digits| digits.parse().ok()) else {
                continue;
            };
            found.push(read_header(number, entry.path())?);
        }
        found.sort_by_key(|segment| segment.number);
        Ok(found)
    }

    /// Makes a file of `bytes` zeros behind `header`, on the disk with its name when this returns.
    pub(super) fn create(&self, number: u32, bytes: u32, header: &SegmentHeader) -> io::Result<File> {
        let unfinished = self.path.join(format!("{number:08}{UNFINISHED_SUFFIX}"));
        let result = self.fill(&unfinished, bytes, header).and_then(|file| {
            fs::rename(&unfinished, self.segment_path(number))?;
            self.sync()?;
            Ok(file)
        });
        if result.is_err() {
            // Best effort: what stays is removed by the next start.
            let _ = fs::remove_file(&unfinished);
        }
        result
    }

    fn fill(&self, path: &Path, bytes: u32, header: &SegmentHeader) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        (&file).write_all(header.as_bytes())?;
        write_zeros(&file, bytes as usize - SEGMENT_HEADER_LEN)?;
        Ok(file)
    }

    /// Opens a segment file for mapping. One that was cut (which is told as corruption before, unless it was a
    /// spare) is filled up, as the mapping must have blocks behind it.
    pub(super) fn open_segment(&self, number: u32, bytes: u32) -> io::Result<File> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.segment_path(number))?;
        let len = file.metadata()?.len();
        if len < u64::from(bytes) {
            (&file).seek(io::SeekFrom::Start(len))?;
            write_zeros(&file, bytes as usize - len as usize)?;
        }
        Ok(file)
    }

    /// Makes names last.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    /// Removes what a crash left of files that were being made.
    pub(super) fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path
                .to_str()
                .is_some_and(|name| name.ends_with(UNFINISHED_SUFFIX))
            {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Puts a file whose header cannot be read out of the way, under a name that says why.
    pub(super) fn set_aside(&self, path: &Path) -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(DAMAGED_SUFFIX);
        fs::rename(path, name)?;
        self.sync()
    }
}

/// Appends zeros and waits until the file is on the disk.
fn write_zeros(mut file: &File, len: usize) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let len = left.min(ZEROS.len());
        file.write_all(&ZEROS[..len])?;
        left -= len;
    }
    rustix::fs::fdatasync(file)?;
    Ok(())
}

/// What the cache holds clean may never have reached the disk: a sync that failed leaves such pages behind. What
/// is judged must be what the disk has. (Dirty pages stay; they are synced before the log is used.)
fn forget_clean_pages(file: &File, bytes: Option<u64>) {
    // Best effort: not every file system knows the advice, and one that does not is not worse off.
    let _ = rustix::fs::fadvise(
        file,
        0,
        bytes.and_then(std::num::NonZeroU64::new),
        Advice::DontNeed,
    );
}

fn read_header(number: u32, path: PathBuf) -> Result<FoundSegment, OpenError> {
    let file = File::open(&path).map_err(failed("open", &path))?;
    forget_clean_pages(&file, Some(4096));
    let len = file.metadata().map_err(failed("look at", &path))?.len();
    let mut bytes = [0u8; SEGMENT_HEADER_LEN];
    let header = match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => SegmentHeader::parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => SegmentHeader::parse(&[]),
        Err(error) => return Err(failed("read", &path)(error)),
    };
    if header.as_ref().is_ok_and(|header| !header.is_spare()) {
        forget_clean_pages(&file, None);
    }
    Ok(FoundSegment {
        number,
        path,
        file,
        header,
        len,
    })
}

impl FoundSegment {
    /// Reads the whole file into `buffer`, whose old contents are lost.
    pub(super) fn read(&self, buffer: &mut Vec<u8>) -> Result<(), OpenError> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        buffer.resize(len, 0);
        self.file
            .read_exact_at(buffer, 0)
            .map_err(failed("read", &self.path))
    }

    /// Waits until everything that was ever written to the file is on the disk.
    pub(super) fn sync(&self) -> Result<(), OpenError> {
        rustix::fs::fdatasync(&self.file).map_err(|error| failed("sync", &self.path)(error.into()))
    }
}

/// Whether a failed write only means that there is no room.
pub(super) fn is_disk_full(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOSPC.raw_os_error()) || code == Some(Errno::DQUOT.raw_os_error())
}
