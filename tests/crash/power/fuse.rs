//! The disk as a filesystem: as much of the FUSE protocol (linux/fuse.h, version 7.31) as a log directory or an
//! image under a loop device needs.
//!
//! The kernel's cache of file pages lies between a server and the disk: a store into a shared mapping arrives here
//! with `msync`, `fdatasync` or when the kernel writes back, and not otherwise.

use super::disk::{Disk, EIO, ENOENT, Mood};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const ENOSYS: i32 = 38;
/// Longest write that the kernel hands over at once.
const WRITE_MAX: usize = 128 * 1024;
/// The kernel may keep what it knows of names and attributes: nobody else changes them.
const VALID_S: u64 = 3600;
/// Keep the cached pages of a file over an open, as any disk filesystem does.
const KEEP_CACHE: u32 = 1 << 1;
const BIG_WRITES: u32 = 1 << 5;
const SETATTR_SIZE: u32 = 1 << 3;

/// A disk that is mounted; unmounted when dropped.
pub struct Mounted {
    disk: Option<Arc<Mutex<Disk>>>,
    path: PathBuf,
    daemon: Option<JoinHandle<()>>,
}

impl Mounted {
    /// Mounts the disk at `path`, an empty directory.
    ///
    /// # Errors
    /// Where there is no FUSE, or no right to mount: the reason.
    pub fn at(path: &Path, disk: Disk) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            device.as_raw_fd()
        );
        let options = CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("ackring-test-disk", path, "fuse", flags, options.as_c_str())?;
        let disk = Arc::new(Mutex::new(disk));
        let served = disk.clone();
        let daemon = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || serve(device, &served));
        Ok(Self {
            disk: Some(disk),
            path: path.to_owned(),
            daemon: Some(daemon.unwrap()),
        })
    }

    /// Looks at the disk, or changes its mood.
    pub fn disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.disk.as_ref().unwrap().lock().unwrap())
    }

    /// Has the disk receive, unsynced, what the kernel still holds of the files in `folder`. Nobody changes them
    /// meanwhile: content that is older than a sync would undo it.
    pub fn write_back(&self, folder: &str) {
        for entry in std::fs::read_dir(self.path.join(folder)).into_iter().flatten() {
            let entry = entry.unwrap();
            let held = std::fs::read(entry.path()).unwrap();
            let ino = entry.metadata().unwrap().ino();
            self.disk(|disk| disk.write_back(ino, &held)).unwrap();
        }
    }

    /// From now on nothing reaches the disk.
    pub fn cut_power(&self) {
        self.disk(|disk| disk.mood = Mood::WithoutPower);
    }

    /// Unmounts, and takes the disk out. Nobody has a file of it open any more.
    pub fn take_out(mut self) -> Disk {
        self.unmount();
        let disk = Arc::into_inner(self.disk.take().unwrap()).unwrap();
        disk.into_inner().unwrap()
    }

    fn unmount(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            rustix::mount::unmount(&self.path, UnmountFlags::DETACH).unwrap();
            daemon.join().unwrap();
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.unmount();
        } else if self.daemon.is_some() {
            // Whoever still has a file open keeps the daemon busy; a failed test does not wait for that.
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        }
    }
}

/// Answers until the filesystem is unmounted.
fn serve(mut device: File, disk: &Mutex<Disk>) {
    let mut buffer = vec![0; WRITE_MAX + 4096];
    loop {
        let len = match device.read(&mut buffer) {
            Ok(len) => len,
            // The request was withdrawn before it was read.
            Err(error) if [4, ENOENT].contains(&error.raw_os_error().unwrap_or(0)) => continue,
            Err(_) => return,
        };
        let request = Request::read(&buffer[..len]);
        let Some(answer) = answer(&request, &mut disk.lock().unwrap()) else {
            continue;
        };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let mut reply = Out::default();
        reply
            .u32(16 + body.len() as u32)
            .u32(error as u32)
            .u64(request.unique);
        reply.0.extend_from_slice(&body);
        // Refused when the request was withdrawn meanwhile.
        let _ = device.write(&reply.0);
    }
}

/// `fuse_in_header` and what follows it.
struct Request<'a> {
    op: u32,
    unique: u64,
    node: u64,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let header = Request {
            op: 0,
            unique: 0,
            node: 0,
            body: bytes,
        };
        Request {
            op: header.u32(4),
            unique: header.u64(8),
            node: header.u64(16),
            body: &bytes[40..],
        }
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.body[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.body[at..at + 8].try_into().unwrap())
    }

    /// The text that ends with a zero, the `index`th from `at` on.
    fn name(&self, at: usize, index: usize) -> &'a str {
        let name = self.body[at..].split(|byte| *byte == 0).nth(index).unwrap();
        std::str::from_utf8(name).unwrap()
    }
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// `fuse_attr`.
    fn attributes(&mut self, disk: &Disk, ino: u64) -> &mut Self {
        let (mode, len) = if disk.is_directory(ino) {
            (0o040_755, 4096)
        } else {
            (0o100_600, disk.len(ino) as u64)
        };
        self.u64(ino).u64(len).u64(len.div_ceil(512));
        self.u64(0).u64(0).u64(0).u32(0).u32(0).u32(0);
        self.u32(mode).u32(1).u32(0).u32(0).u32(0).u32(4096).u32(0)
    }

    /// `fuse_entry_out`.
    fn entry(&mut self, disk: &Disk, ino: u64) -> &mut Self {
        self.u64(ino).u64(0).u64(VALID_S).u64(VALID_S).u32(0).u32(0);
        self.attributes(disk, ino)
    }

    /// `fuse_open_out`.
    fn open(&mut self) -> &mut Self {
        self.u64(0).u32(KEEP_CACHE).u32(0)
    }

    fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// What to answer; `None` where the kernel expects nothing.
fn answer(request: &Request<'_>, disk: &mut Disk) -> Option<Result<Vec<u8>, i32>> {
    let mut out = Out::default();
    match request.op {
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // INIT and DESTROY belong to the mount, not to the disk.
        26 => return Some(Ok(init())),
        38 => return Some(Ok(Vec::new())),
        _ => {}
    }
    // WRITE, FSYNC, FSYNCDIR
    let is_counted = matches!(request.op, 16 | 20 | 30);
    if disk.mood == Mood::WithoutPower || is_counted && !disk.tick() {
        return Some(Err(EIO));
    }
    Some(operate(request, disk, &mut out).map(|()| out.done()))
}

fn init() -> Vec<u8> {
    let mut out = Out::default();
    out.u32(7).u32(31).u32(WRITE_MAX as u32).u32(BIG_WRITES);
    out.u16(64).u16(48).u32(WRITE_MAX as u32).u32(1);
    out.u16(0).u16(0).u32(0).u32(0);
    let mut bytes = out.done();
    bytes.resize(64, 0);
    bytes
}

fn operate(request: &Request<'_>, disk: &mut Disk, out: &mut Out) -> Result<(), i32> {
    let node = request.node;
    match request.op {
        // LOOKUP
        1 => {
            let found = disk.lookup(node, request.name(0, 0))?;
            out.entry(disk, found);
        }
        // GETATTR, SETATTR
        3 | 4 => {
            if request.op == 4 && request.u32(0) & SETATTR_SIZE != 0 {
                disk.set_len(node, request.u64(16) as usize)?;
            }
            if !disk.exists(node) {
                return Err(ENOENT);
            }
            out.u64(VALID_S).u32(0).u32(0).attributes(disk, node);
        }
        // MKNOD, MKDIR, CREATE
        8 | 9 | 35 => {
            let at = if request.op == 9 { 8 } else { 16 };
            let made = disk.make(node, request.name(at, 0), request.op == 9)?;
            out.entry(disk, made);
            if request.op == 35 {
                out.open();
            }
        }
        // UNLINK, RMDIR
        10 | 11 => disk.remove(node, request.name(0, 0))?,
        // RENAME, RENAME2
        12 | 45 => {
            let at = if request.op == 12 { 8 } else { 16 };
            let (from, to) = (request.name(at, 0), request.name(at, 1));
            disk.rename((node, from), (request.u64(0), to))?;
        }
        // OPEN, OPENDIR
        14 | 27 => _ = out.open(),
        // READ
        15 => out.0 = disk.read(node, request.u64(8) as usize, request.u32(16) as usize)?,
        // WRITE
        16 => {
            let len = request.u32(16);
            disk.write(
                node,
                request.u64(8) as usize,
                &request.body[40..40 + len as usize],
            )?;
            out.u32(len).u32(0);
        }
        // STATFS
        17 => statfs(disk, out),
        // RELEASE, FLUSH, RELEASEDIR
        18 | 25 | 29 => {}
        // FSYNC
        20 => disk.sync(node)?,
        // FSYNCDIR
        30 => disk.sync_directory(node)?,
        // READDIR
        28 => read_directory(request, disk, out)?,
        _ => return Err(ENOSYS),
    }
    Ok(())
}

fn statfs(disk: &Disk, out: &mut Out) {
    let free = (disk.bytes_free() / 4096) as u64;
    out.u64(free).u64(free).u64(free).u64(1 << 20).u64(1 << 20);
    out.u32(4096).u32(255).u32(4096).u32(0);
    out.0.resize(80, 0);
}

fn read_directory(request: &Request<'_>, disk: &mut Disk, out: &mut Out) -> Result<(), i32> {
    let (skip, room) = (request.u64(8) as usize, request.u32(16) as usize);
    let own = [(".".to_owned(), request.node), ("..".to_owned(), request.node)];
    let names = own.into_iter().chain(disk.names(request.node)?);
    for (index, (name, ino)) in names.enumerate().skip(skip) {
        let padded = name.len().next_multiple_of(8);
        if out.0.len() + 24 + padded > room {
            break;
        }
        let kind = if disk.is_directory(ino) { 4 } else { 8 };
        out.u64(ino)
            .u64(index as u64 + 1)
            .u32(name.len() as u32)
            .u32(kind);
        let end = out.0.len() + padded;
        out.0.extend_from_slice(name.as_bytes());
        out.0.resize(end, 0);
    }
    Ok(())
}
