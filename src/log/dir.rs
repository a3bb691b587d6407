//! The directory of a log: its files, their names, and the order of calls that makes them last.
//!
//! A segment file is made under a temporary name, filled with zeros and synced, so that it has real blocks before
//! it is mapped (a store into a hole of a full disk would be a SIGBUS); only then it gets its name, and the
//! directory is synced. Files are read with `pread`, never through the mapping: an unreadable sector must be an
//! error, not a signal.

use crate::base::limits;
use crate::base::plant::{Plant, is_planted};
use crate::log::count::SegmentCount;
use crate::log::disk::{Disk, DiskDirectory, DiskFile};
use crate::log::error::OpenError;
use crate::log::file_system::failed;
use crate::log::header::{HeaderFlaw, SEGMENT_HEADER_LEN, SegmentHeader};
use crate::log::recover::FILL_UP_LEN;
use crate::log::witness::{NO_MACHINE, Voucher, Witness};
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use zerocopy::IntoBytes;

const SEGMENT_SUFFIX: &str = ".segment";
const UNFINISHED_SUFFIX: &str = ".unfinished";
const DAMAGED_SUFFIX: &str = ".damaged";
/// Says how many segment files there are: of the one made last no other header knows yet.
const COUNT_NAME: &str = "segments";
/// Says in which run of the machine the log was written last.
const VOUCHER_NAME: &str = "machine";
/// Says what segments told that are gone.
pub(super) const ANCHOR_NAME: &str = "anchor";
/// What is read at once where a disk has unreadable places: it gives back or refuses pages.
const BLOCK_BYTES: u32 = 4096;
/// What a segment is filled with, a piece at a time. A cache of large folios makes one of each piece, and takes all of it for
/// written when a byte is: a sync of one record writes so much, and each page that is made ready again has so much marked.
/// Still smaller pieces would make the filling dear.
static ZEROS: [u8; 32 * 1024] = [0; 32 * 1024];

/// A file, and its length in bytes.
type OpenFile = (Box<dyn DiskFile>, u64);

/// A locked log directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    disk: Box<dyn DiskDirectory>,
    machine: Option<[u8; 16]>,
    reads_ahead: bool,
    /// What [`vouch`](Self::vouch) wrote, in a file that stays open: when it is to be taken back it may be that no
    /// file can be opened.
    vouched: OnceLock<(Box<dyn DiskFile>, Voucher)>,
}

/// A segment file as found. It is not kept open: a log may have more files than a process may open at once.
#[derive(Debug)]
pub(super) struct FoundSegment {
    /// Its number by its name; 0 where the name is none that a log gives.
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) header: Result<SegmentHeader, HeaderFlaw>,
    pub(super) len: u64,
}

impl Directory {
    /// Makes the directory if it is not there, and locks it for this process alone.
    pub(super) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        Self::lock(disk, path, true)
    }

    /// Locks an existing directory for reading only; fails while a server has it.
    pub(super) fn open_to_read(disk: &dyn Disk, path: &Path) -> Result<Self, OpenError> {
        Self::lock(disk, path, false)
    }

    fn lock(disk: &dyn Disk, path: &Path, to_write: bool) -> Result<Self, OpenError> {
        Ok(Self {
            path: path.to_owned(),
            disk: disk.lock(path, to_write)?,
            machine: disk.machine(),
            reads_ahead: disk.reads_ahead(),
            vouched: OnceLock::new(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a thread may read from it ahead of what is looked at.
    pub(super) fn reads_ahead(&self) -> bool {
        self.reads_ahead
    }

    pub(super) fn segment_path(&self, number: u32) -> PathBuf {
        self.path.join(segment_name(number))
    }

    /// Every segment file, in order of its number. A header that cannot be used is part of the answer.
    pub(super) fn list(&self) -> Result<Vec<FoundSegment>, OpenError> {
        let mut found = Vec::new();
        let names = self.disk.names();
        for name in names.map_err(failed("read the log directory", &self.path))? {
            if let Some(digits) = name.strip_suffix(SEGMENT_SUFFIX) {
                found.push(self.read_header(number_of(digits), &name)?);
            }
        }
        found.sort_by_key(|segment| segment.number);
        Ok(found)
    }

    fn read_header(&self, number: u32, name: &str) -> Result<FoundSegment, OpenError> {
        let path = self.path.join(name);
        let file = self.disk.open(name, false).map_err(failed("open", &path))?;
        // What the cache holds clean may never have reached the disk: a sync that failed leaves such pages behind.
        // What is judged must be what the disk has. (Dirty pages stay; they are synced before the log is used.)
        file.forget_clean_pages(Some(4096));
        let len = file.len().map_err(failed("look at", &path))?;
        let mut bytes = [0u8; SEGMENT_HEADER_LEN];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => SegmentHeader::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => SegmentHeader::parse(&[]),
            Err(error) if is_unreadable(&error) => Err(HeaderFlaw::Damaged(
                "the disk does not give the segment header back",
            )),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if header.as_ref().is_ok_and(|header| !header.is_spare()) {
            file.forget_clean_pages(None);
        }
        Ok(FoundSegment {
            number,
            path,
            header,
            len,
        })
    }

    /// Reads a segment's file into `buffer`, whose old contents are lost, up to `len_max` bytes. Returns the ranges
    /// that the disk does not give back; zeros stand there in `buffer`.
    pub(super) fn read(
        &self,
        segment: &FoundSegment,
        len_max: u32,
        buffer: &mut Vec<u8>,
    ) -> Result<Vec<Range<u32>>, OpenError> {
        let len = segment.len.min(u64::from(len_max)) as usize;
        // Room for what recovery puts behind a file that was cut: it would be copied as a whole otherwise.
        buffer.reserve_exact((len + FILL_UP_LEN).saturating_sub(buffer.len()));
        buffer.resize(len, 0);
        let file = self.reopen(segment)?;
        match file.read_exact_at(buffer, 0) {
            Ok(()) => Ok(Vec::new()),
            Err(error) if is_unreadable(&error) => {
                read_around(&*file, buffer).map_err(failed("read", &segment.path))
            }
            Err(error) => Err(failed("read", &segment.path)(error)),
        }
    }

    /// Makes a file that holds `bytes`, on the disk with its name when this returns. The name is `name` or, where
    /// there is such a file already, one like it.
    pub(super) fn write_new(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, OpenError> {
        let write = || {
            let names = self.disk.names()?;
            let name = unused(name, &names);
            let file = self.disk.create(&name)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
            self.disk.sync()?;
            Ok(self.path.join(name))
        };
        write().map_err(failed("write", &self.path.join(name)))
    }

    /// Writes zeros over what does not count, or what the disk does not give back, so that it does again.
    pub(super) fn blank(&self, segment: &FoundSegment, range: Range<u32>) -> Result<(), OpenError> {
        let write = || {
            let file = self.disk.open(file_name(&segment.path)?, true)?;
            write_zeros(&*file, u64::from(range.start), u64::from(range.end))
        };
        write().map_err(failed("write over what does not count in", &segment.path))
    }

    /// Waits until everything that was ever written to a segment's file is on the disk.
    pub(super) fn sync_file(&self, segment: &FoundSegment) -> Result<(), OpenError> {
        let file = self.reopen(segment)?;
        file.sync_data().map_err(|error| {
            self.disown();
            failed("sync", &segment.path)(error)
        })
    }

    fn reopen(&self, segment: &FoundSegment) -> Result<Box<dyn DiskFile>, OpenError> {
        let name = file_name(&segment.path).and_then(|name| self.disk.open(name, false));
        name.map_err(failed("open", &segment.path))
    }

    /// Makes a file of `bytes` zeros behind `header`, on the disk with its name when this returns.
    pub(super) fn create(
        &self,
        number: u32,
        bytes: u32,
        header: &SegmentHeader,
    ) -> io::Result<Box<dyn DiskFile>> {
        let unfinished = format!("{number:08}{UNFINISHED_SUFFIX}");
        let result = self.fill(&unfinished, bytes, header).and_then(|file| {
            self.disk.rename(&unfinished, &segment_name(number))?;
            if !is_planted(Plant::SkipDirectorySync) {
                self.disk.sync()?;
            }
            Ok(file)
        });
        if result.is_err() {
            // Best effort: what stays is removed by the next start.
            let _ = self.disk.remove(&unfinished);
        }
        result
    }

    fn fill(&self, name: &str, bytes: u32, header: &SegmentHeader) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(name)?;
        file.write_all_at(header.as_bytes(), 0)?;
        write_zeros(&*file, SEGMENT_HEADER_LEN as u64, u64::from(bytes))?;
        Ok(file)
    }

    /// How many segment files there were when the last one was made, where that can be read.
    pub(super) fn segment_count(&self) -> Result<Option<SegmentCount>, OpenError> {
        let mut bytes = [0; SegmentCount::LEN];
        let read = self.disk.open(COUNT_NAME, false);
        match read.and_then(|file| file.read_exact_at(&mut bytes, 0)) {
            Ok(()) => Ok(SegmentCount::parse(&bytes)),
            // An older program writes none, a crash may have come before the first, and nothing depends on it but
            // that a loss is noticed.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) if is_unreadable(&error) => Ok(None),
            Err(error) => Err(failed("read", &self.path.join(COUNT_NAME))(error)),
        }
    }

    /// Writes down how many segment files there are, by name and on the disk.
    pub(super) fn count_segments(&self, count: SegmentCount) -> io::Result<()> {
        self.write_small(COUNT_NAME, &count.encode()).map(drop)
    }

    /// Who vouches for what a start of the log wrote and did not sync.
    pub(super) fn witness(&self) -> Result<Witness, OpenError> {
        let Some(machine) = self.machine else {
            return Ok(Witness::Unknown);
        };
        match self.voucher() {
            Ok(Some(voucher)) => Ok(Witness::Start {
                voucher,
                goes_on: voucher.machine == machine,
            }),
            Ok(None) => Ok(Witness::Nobody),
            // Of an older program, or its first start died before it served anybody.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Witness::Unknown),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof || is_unreadable(&error) => {
                Ok(Witness::Nobody)
            }
            Err(error) => Err(failed("read", &self.path.join(VOUCHER_NAME))(error)),
        }
    }

    fn voucher(&self) -> io::Result<Option<Voucher>> {
        let mut bytes = [0; Voucher::LEN];
        self.disk
            .open(VOUCHER_NAME, false)?
            .read_exact_at(&mut bytes, 0)?;
        Ok(Voucher::parse(&bytes))
    }

    /// Writes down which run of the machine this start of the log is in, by name and on the disk.
    pub(super) fn vouch(&self, log_id: [u8; 16], boot: u32) -> io::Result<()> {
        let Some(machine) = self.machine else {
            return Ok(());
        };
        let voucher = Voucher {
            log_id,
            machine,
            boot,
        };
        match self.write_small(VOUCHER_NAME, &voucher.encode()) {
            // Then what a killed writer left of it is taken for a power cut's work, which is no reason not to serve.
            Err(error) if may_pass(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(file) => {
                let _ = self.vouched.set((file, voucher));
                Ok(())
            }
        }
    }

    /// A sync failed: what was written before may be gone although the machine goes on.
    pub(super) fn disown(&self) {
        // Best effort; not synced, as it is to be read by who comes next on this machine, and the disk fails.
        let void = |file: &dyn DiskFile, voucher: Voucher| {
            let machine = NO_MACHINE;
            let _ = file.write_all_at(&Voucher { machine, ..voucher }.encode(), 0);
        };
        if let Some((file, voucher)) = self.vouched.get() {
            void(&**file, *voucher);
        } else if let (Ok(Some(voucher)), Ok(file)) = (self.voucher(), self.disk.open(VOUCHER_NAME, true)) {
            void(&*file, voucher);
        }
    }

    /// Writes a file of a few bytes, within a sector, by name and on the disk.
    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let (file, is_new) = match self.disk.open(name, true) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == ErrorKind::NotFound => (self.disk.create(name)?, true),
            Err(error) => return Err(error),
        };
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        if is_new {
            self.disk.sync()?;
        }
        Ok(file)
    }

    /// Opens the anchor to read it, if there is one; says how long it is.
    pub(super) fn open_anchor(&self) -> Result<Option<OpenFile>, OpenError> {
        let open = || match self.disk.open(ANCHOR_NAME, false) {
            Ok(file) => {
                file.forget_clean_pages(None);
                let len = file.len()?;
                Ok(Some((file, len)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        open().map_err(failed("read", &self.path.join(ANCHOR_NAME)))
    }

    /// Reads a part of the anchor; zeros stand for what the disk does not give back.
    pub(super) fn read_slot(
        &self,
        file: &dyn DiskFile,
        slot: &mut [u8],
        offset: u64,
    ) -> Result<(), OpenError> {
        match file.read_exact_at(slot, offset) {
            Err(error) if is_unreadable(&error) => slot.fill(0),
            other => other.map_err(failed("read", &self.path.join(ANCHOR_NAME)))?,
        }
        Ok(())
    }

    /// Opens the anchor to write it, if there is one.
    pub(super) fn reopen_anchor(&self) -> io::Result<Option<Box<dyn DiskFile>>> {
        match self.disk.open(ANCHOR_NAME, true) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes an anchor of `bytes` zeros, on the disk with its name when this returns.
    pub(super) fn make_anchor(&self, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let unfinished = format!("{ANCHOR_NAME}{UNFINISHED_SUFFIX}");
        let make = || {
            let file = self.disk.create(&unfinished)?;
            write_zeros(&*file, 0, bytes)?;
            self.disk.rename(&unfinished, ANCHOR_NAME)?;
            self.disk.sync()?;
            Ok(file)
        };
        make().inspect_err(|_| {
            // Best effort: what stays is removed by the next start.
            let _ = self.disk.remove(&unfinished);
        })
    }

    /// Opens a segment file for mapping. One that was cut (which is told as corruption before, unless it was a
    /// spare) is filled up, as the mapping must have blocks behind it.
    pub(super) fn open_segment(&self, number: u32, bytes: u32) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(&segment_name(number), true)?;
        let len = file.len()?;
        if len < u64::from(bytes) {
            write_zeros(&*file, len, u64::from(bytes))?;
        }
        Ok(file)
    }

    /// Waits until the names are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    /// Removes what a crash left of files that were being made.
    pub(super) fn remove_unfinished(&self) -> io::Result<()> {
        for name in self.disk.names()? {
            if name.ends_with(UNFINISHED_SUFFIX) {
                self.disk.remove(&name)?;
            }
        }
        Ok(())
    }

    /// Puts a file that cannot be used out of the way, under a name that says why.
    pub(super) fn set_aside(&self, path: &Path) -> Result<PathBuf, OpenError> {
        let rename = || {
            let name = file_name(path)?;
            let aside = unused(&format!("{name}{DAMAGED_SUFFIX}"), &self.disk.names()?);
            self.disk.rename(name, &aside)?;
            self.disk.sync()?;
            Ok(self.path.join(aside))
        };
        rename().map_err(failed("set aside", path))
    }
}

/// `name`, or one like it where there is such a file already: what was put aside once is never written over.
fn unused(name: &str, names: &[String]) -> String {
    let is_free = |name: &String| !names.contains(name);
    let others = (2..).map(|count: u64| format!("{name}.{count}"));
    let mut all = std::iter::once(name.to_owned()).chain(others);
    all.find(is_free).unwrap_or_default()
}

/// Whether the disk has lost what should be read, as against a file that is shorter or a system out of means.
fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

/// Reads what can be read, block by block; returns the rest.
fn read_around(file: &dyn DiskFile, buffer: &mut [u8]) -> io::Result<Vec<Range<u32>>> {
    let mut lost: Vec<Range<u32>> = Vec::new();
    let mut at = 0;
    for block in buffer.chunks_mut(BLOCK_BYTES as usize) {
        let end = at + block.len() as u32;
        match file.read_exact_at(block, u64::from(at)) {
            Ok(()) => {}
            Err(error) if is_unreadable(&error) => {
                block.fill(0);
                match lost.last_mut() {
                    Some(last) if last.end == at => last.end = end,
                    _ => lost.push(at..end),
                }
            }
            Err(error) => return Err(error),
        }
        at = end;
    }
    Ok(lost)
}

/// The number that stands in the name of a segment file; 0 where no log would write it so. A number that was believed
/// unchecked would have all files below it missed.
fn number_of(digits: &str) -> u32 {
    let number = digits.parse().unwrap_or(0);
    let is_own = number <= limits::SEGMENT_FILES_MAX && format!("{number:08}") == digits;
    if is_own { number } else { 0 }
}

fn segment_name(number: u32) -> String {
    format!("{number:08}{SEGMENT_SUFFIX}")
}

/// The name by which the directory listed the file.
fn file_name(path: &Path) -> io::Result<&str> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

/// Fills a file with zeros between two places and waits until it is on the disk.
fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64 - at % ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    file.sync_data()
}

/// Whether a segment that could not be made says nothing about those that are there, so that another try may come:
/// no room on the disk or below a limit, no free file, no memory, or no permission (any more). Everything else may
/// mean that the disk fails.
pub(super) fn may_pass(error: &io::Error) -> bool {
    const PASSING: [Errno; 10] = [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::FBIG,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::PERM,
        Errno::ACCESS,
        Errno::ROFS,
    ];
    let code = error.raw_os_error();
    PASSING.iter().any(|errno| code == Some(errno.raw_os_error()))
}
