//! A file of the simulated disk: its cache, its platter, and what a power cut makes of the two.

use super::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What a disk writes at once, nearly.
pub const SECTOR: usize = 512;
/// What the cache holds as one.
pub(super) const PAGE: usize = 4096;
/// Where a sector may tear.
const TEAR: usize = 64;

/// What becomes of a sector that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// The first so many bytes are the new ones, the others the old.
    NewThenOld(usize),
    /// The other way round.
    OldThenNew(usize),
}

impl Fate {
    pub(super) fn draw(rng: &mut Rng) -> Fate {
        let at = TEAR * (1 + rng.below((SECTOR / TEAR - 1) as u64) as usize);
        match rng.below(16) {
            0 => Fate::NewThenOld(at),
            1 => Fate::OldThenNew(at),
            2..=8 => Fate::Kept,
            _ => Fate::Lost,
        }
    }
}

/// A file: what the system has of it, and what the disk has.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) cache: Arc<File>,
    pub(super) platter: Vec<u8>,
    /// Pages that a failed sync marked clean, with the bytes they had: as long as they have those, nobody writes
    /// them.
    pub(super) clean: BTreeMap<usize, Vec<u8>>,
    /// Sectors that cannot be read.
    pub(super) unreadable: BTreeSet<usize>,
}

pub(super) fn anonymous_file(bytes: &[u8]) -> Arc<File> {
    let fd = rustix::fs::memfd_create("ackring-sim", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(fd);
    file.write_all_at(bytes, 0).unwrap();
    Arc::new(file)
}

pub(super) fn contents(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl Inode {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            cache: anonymous_file(&bytes),
            platter: bytes,
            clean: BTreeMap::new(),
            unreadable: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.cache.metadata().unwrap().len() as usize
    }

    /// Whether somebody would write the page: no failed sync has marked it clean as it is.
    pub(super) fn is_dirty_page(&self, page: usize, cache: &[u8]) -> bool {
        let end = cache.len().min((page + 1) * PAGE);
        self.clean
            .get(&page)
            .is_none_or(|known| known[..] != cache[page * PAGE..end])
    }

    /// Sectors in the range that a sync would write.
    pub(super) fn dirty(&self, cache: &[u8], from: usize, to: usize) -> Vec<usize> {
        let end = to.min(cache.len()).div_ceil(SECTOR);
        (from / SECTOR..end)
            .filter(|sector| {
                let new = sector_of(cache, *sector);
                let old = sector_of(&self.platter, *sector);
                new != old && self.is_dirty_page(sector * SECTOR / PAGE, cache)
            })
            .collect()
    }

    pub(super) fn write_back(&mut self, cache: &[u8], sector: usize) {
        let (from, to) = (sector * SECTOR, cache.len().min((sector + 1) * SECTOR));
        if self.platter.len() < to {
            self.platter.resize(to, 0);
        }
        self.platter[from..to].copy_from_slice(&cache[from..to]);
    }

    /// The bytes after a power cut, given what the cache held.
    pub(super) fn after_power_cut(&self, cache: &[u8], mut fate: impl FnMut(usize) -> Fate) -> Vec<u8> {
        let mut bytes = self.platter.clone();
        bytes.resize(cache.len().max(bytes.len()), 0);
        let mut len = self.platter.len();
        for sector in self.dirty(cache, 0, cache.len()) {
            let (from, to) = (sector * SECTOR, cache.len().min((sector + 1) * SECTOR));
            let cut = |at: usize| (from + at).min(to);
            let new = match fate(sector) {
                Fate::Lost => continue,
                Fate::Kept => from..to,
                Fate::NewThenOld(at) => from..cut(at),
                Fate::OldThenNew(at) => cut(at)..to,
            };
            bytes[new.clone()].copy_from_slice(&cache[new]);
            len = len.max(to);
        }
        bytes.truncate(len);
        bytes
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> &[u8] {
    let from = (sector * SECTOR).min(bytes.len());
    &bytes[from..bytes.len().min((sector + 1) * SECTOR)]
}
