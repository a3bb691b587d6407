//! The real disk: files of the operating system.

use crate::log::disk::{Disk, DiskDirectory, DiskFile};
use crate::log::error::OpenError;
use crate::log::region::Region;
use rustix::fs::{Advice, FlockOperation};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "lock";

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct FileSystem;

#[derive(Debug)]
struct LockedDirectory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

/// Wraps what the system answered in what was being done.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

impl Disk for FileSystem {
    fn lock(&self, path: &Path, to_write: bool) -> Result<Box<dyn DiskDirectory>, OpenError> {
        if to_write {
            // Only this user: whoever may cut a mapped file can kill the server with a signal.
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(failed("create the log directory", path))?;
        }
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
            Ok(()) => Ok(Box::new(LockedDirectory {
                path: path.to_owned(),
                handle,
                _lock: lock,
            })),
            Err(Errno::WOULDBLOCK) => Err(OpenError::Locked {
                directory: path.to_owned(),
            }),
            Err(error) => Err(failed("lock", &lock_path)(error.into())),
        }
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }
}

impl DiskDirectory for LockedDirectory {
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str, to_write: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(to_write).open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.path.join(name))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(self)?)
    }

    fn forget_clean_pages(&self, len: Option<u64>) {
        // Best effort: not every file system knows the advice, and one that does not is not worse off.
        let len = len.and_then(std::num::NonZeroU64::new);
        let _ = rustix::fs::fadvise(self, 0, len, Advice::DontNeed);
    }

    fn map(&self, len: usize) -> io::Result<Region> {
        Region::of_file(self, len)
    }
}
