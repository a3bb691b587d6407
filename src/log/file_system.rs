//! The real disk: files of the operating system.

use crate::log::disk::{Disk, DiskDirectory, DiskFile};
use crate::log::error::OpenError;
use crate::log::region::Region;
use rustix::fs::{Advice, FlockOperation, OFlags};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const LOCK_NAME: &str = "lock";
/// Drawn anew whenever the machine starts.
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct FileSystem;

#[derive(Debug)]
struct LockedDirectory {
    path: PathBuf,
    handle: File,
    _lock: File,
}

#[derive(Debug)]
struct OpenFile(File);

/// Opens a file of the log. Whatever else somebody has put in its place is refused: a pipe, for one, would be waited for
/// without end.
fn open_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    // For a regular file this flag means nothing.
    let file = options.custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is not a regular file"))
    }
}

/// Wraps what the system answered in what was being done.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

/// Makes the directory if it is not there, and those that it stands in, with their names on the disk: a log whose
/// directory a power cut takes away is lost whole.
fn make_directory(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let is_missing = |path: &&Path| !path.is_dir();
    let missing = path.ancestors().take_while(is_missing).count();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    // The nearest parent in any case: a start that was killed may have made the directory and not waited.
    for parent in path.ancestors().skip(1).take(missing.max(1)) {
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        match synced {
            // What was there already may be somebody else's, who does not let this user look around.
            Err(error) if missing == 0 && error.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// 32 hexadecimal digits, whatever stands between them.
fn parse_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| number.to_be_bytes())
}

impl Disk for FileSystem {
    fn lock(&self, path: &Path, to_write: bool) -> Result<Box<dyn DiskDirectory>, OpenError> {
        if to_write {
            // Only this user: whoever may cut a mapped file can kill the server with a signal.
            make_directory(path).map_err(failed("create the log directory", path))?;
        }
        let handle = File::open(path).map_err(failed("open the log directory", path))?;
        let lock_path = path.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true);
        if to_write {
            options.write(true).create(true).truncate(false).mode(0o600);
        }
        let lock = open_file(&mut options, &lock_path);
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

    fn machine(&self) -> Option<[u8; 16]> {
        parse_id(&fs::read_to_string(BOOT_ID_PATH).ok()?)
    }

    fn reads_ahead(&self) -> bool {
        true
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
        let file = open_file(options.read(true).write(to_write), &self.path.join(name))?;
        Ok(Box::new(OpenFile(file)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600);
        let file = open_file(&mut options, &self.path.join(name))?;
        Ok(Box::new(OpenFile(file)))
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

impl DiskFile for OpenFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&self.0)?)
    }

    fn forget_clean_pages(&self, len: Option<u64>) {
        // Best effort: not every file system knows the advice, and one that does not is not worse off.
        let len = len.and_then(std::num::NonZeroU64::new);
        let _ = rustix::fs::fadvise(&self.0, 0, len, Advice::DontNeed);
    }

    fn map(&self, len: usize) -> io::Result<Region> {
        Region::of_file(&self.0, len)
    }
}
