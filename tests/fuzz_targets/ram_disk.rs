//! A disk in memory without any failings, whose directory can be taken from and turned into bytes.

use ackring::log::disk::{Disk, DiskDirectory, DiskFile, RangeSync};
use ackring::log::{OpenError, Region};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// A file's first bytes and its length; what is between reads as zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    pub bytes: Vec<u8>,
    pub len: u64,
}

/// Everything in a directory.
pub type Image = BTreeMap<String, Contents>;

/// The most that is looked at of one file, in bytes.
const FILE_BYTES_SHOWN: u64 = 64 * 1024;

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Arc<File>>,
    is_locked: bool,
    drawn: u64,
    /// Files made so far.
    created: u64,
    created_max: u64,
}

#[derive(Debug, Clone)]
pub struct RamDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct Locked {
    disk: RamDisk,
    to_write: bool,
}

#[derive(Debug)]
struct RamFile(Arc<File>);

/// There is nothing below the memory.
#[derive(Debug)]
struct Nowhere;

impl RamDisk {
    /// A disk with these files, whose random numbers follow from `seed`.
    pub fn new(image: &Image, seed: u64) -> Self {
        let file = |contents: &Contents| {
            let fd = rustix::fs::memfd_create("ackring-fuzz", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let file = File::from(fd);
            let end = contents
                .bytes
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            file.write_all_at(&contents.bytes[..end], 0).unwrap();
            file.set_len(contents.len).unwrap();
            Arc::new(file)
        };
        let names = image
            .iter()
            .map(|(name, contents)| (name.clone(), file(contents)))
            .collect();
        Self(Arc::new(Mutex::new(State {
            names,
            created_max: 200,
            drawn: seed,
            ..State::default()
        })))
    }

    /// As a configuration takes it.
    pub fn handle(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::new(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub fn image(&self) -> Image {
        let contents = |file: &File| {
            let len = file.metadata().unwrap().len();
            let mut bytes = vec![0; len.min(FILE_BYTES_SHOWN) as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            Contents { bytes, len }
        };
        let state = self.state();
        state
            .names
            .iter()
            .map(|(name, file)| (name.clone(), contents(file)))
            .collect()
    }

    fn find(&self, name: &str) -> io::Result<Arc<File>> {
        self.state()
            .names
            .get(name)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for RamDisk {
    fn lock(&self, path: &Path, to_write: bool) -> Result<Box<dyn DiskDirectory>, OpenError> {
        let mut state = self.state();
        if state.is_locked {
            return Err(OpenError::Locked {
                directory: path.to_owned(),
            });
        }
        state.is_locked = to_write;
        Ok(Box::new(Locked {
            disk: self.clone(),
            to_write,
        }))
    }

    /// The same numbers on each new disk, so that an input always does the same.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        for byte in bytes {
            state.drawn = state
                .drawn
                .wrapping_mul(0x5851_f42d_4c95_7f2d)
                .wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (state.drawn >> 56) as u8;
        }
        Ok(())
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.to_write {
            self.disk.state().is_locked = false;
        }
    }
}

impl DiskDirectory for Locked {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.state().names.keys().cloned().collect())
    }

    fn open(&self, name: &str, _to_write: bool) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RamFile(self.disk.find(name)?)))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.disk.state();
        state.created += 1;
        assert!(state.created <= state.created_max, "files are made without end");
        let fd = rustix::fs::memfd_create("ackring-fuzz", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = Arc::new(File::from(fd));
        state.names.insert(name.to_owned(), file.clone());
        Ok(Box::new(RamFile(file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.disk.state();
        let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.disk.state().names.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for RamFile {
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
        Ok(())
    }

    fn forget_clean_pages(&self, _len: Option<u64>) {}

    fn map(&self, len: usize) -> io::Result<Region> {
        Region::simulated(&self.0, len, Arc::new(Nowhere))
    }
}

impl RangeSync for Nowhere {
    fn sync_range(&self, _offset: usize, _len: usize) -> io::Result<()> {
        Ok(())
    }
}
