//! What the log holds of the simulated disk: its directory, files and mappings.

use super::inode::Inode;
use super::{NameChange, SimDisk, State, os_error};
use ackring::log::Region;
use ackring::log::disk::{DiskDirectory, DiskFile, RangeSync};
use std::io;
use std::sync::{Arc, MutexGuard};

/// A handle to the directory.
#[derive(Debug)]
pub(super) struct SimDirectory {
    pub(super) disk: SimDisk,
    pub(super) life: u64,
    pub(super) to_write: bool,
}

/// A handle to a file.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    life: u64,
    inode: usize,
}

/// A mapping's way to the disk. Unlike a file it is not open.
#[derive(Debug)]
struct SimMapping {
    disk: SimDisk,
    life: u64,
    inode: usize,
}

impl Drop for SimDirectory {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life && self.to_write {
            state.is_locked = false;
        }
    }
}

impl SimDirectory {
    fn begin(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        state.begin(self.life)?;
        Ok(state)
    }

    fn file(&self, state: &mut State, inode: usize) -> Box<dyn DiskFile> {
        state.opened();
        Box::new(SimFile {
            disk: self.disk.clone(),
            life: self.life,
            inode,
        })
    }
}

impl DiskDirectory for SimDirectory {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.begin()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str, _to_write: bool) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.begin()?;
        state.check_opens()?;
        let inode = state.find(name)?;
        Ok(self.file(&mut state, inode))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.begin()?;
        state.check_opens()?;
        let inode = state.inodes.len();
        state.inodes.push(Inode::new(Vec::new()));
        state.names.insert(name.to_owned(), inode);
        state
            .unsynced_names
            .push(NameChange::Link(name.to_owned(), inode));
        Ok(self.file(&mut state, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.begin()?;
        let inode = state.find(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), inode);
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
        state.unsynced_names.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.begin()?;
        state.find(name)?;
        state.names.remove(name);
        state.unsynced_names.push(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.begin()?;
        if state.sync_fails() {
            return Err(os_error(rustix::io::Errno::IO));
        }
        state.synced_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.open_files -= 1;
        }
    }
}

impl SimFile {
    fn begin(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        state.begin(self.life)?;
        Ok(state)
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.begin()?.inodes[self.inode].len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.begin()?.read(self.inode, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.begin()?.write(self.inode, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.begin()?.sync(self.inode, 0, usize::MAX)
    }

    fn forget_clean_pages(&self, len: Option<u64>) {
        let mut state = self.disk.state();
        if state.life == self.life && state.frozen.is_none() {
            state.forget_clean(self.inode, len);
        }
    }

    fn map(&self, len: usize) -> io::Result<Region> {
        let state = self.begin()?;
        let mapping = SimMapping {
            disk: self.disk.clone(),
            life: self.life,
            inode: self.inode,
        };
        Region::simulated(&state.inodes[self.inode].cache, len, Arc::new(mapping))
    }
}

impl RangeSync for SimMapping {
    fn sync_range(&self, offset: usize, len: usize) -> io::Result<()> {
        self.disk.meanwhile();
        let mut state = self.disk.state();
        state.begin(self.life)?;
        let result = state.sync(self.inode, offset, offset + len);
        drop(state);
        self.disk.meanwhile();
        result
    }
}
