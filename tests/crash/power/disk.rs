//! A disk that forgets: it keeps two contents of everything, what was written and what was synced, and when the
//! power fails it falls back to the latter, with any part of the rest.
//!
//! What it may do to unsynced data is what POSIX allows: each 512-byte sector of each write stays or is lost by
//! itself, each new, removed or renamed name likewise unless its directory was synced, and a length with its sectors.

use super::super::seed::Random;
use std::collections::{BTreeMap, HashMap};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// The number of the root directory, as FUSE wants it.
pub const ROOT: u64 = 1;

/// Answers of the system, by number.
pub const ENOENT: i32 = 2;
pub const EIO: i32 = 5;
pub const EEXIST: i32 = 17;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const EFBIG: i32 = 27;
pub const ENOSPC: i32 = 28;
pub const ENOTEMPTY: i32 = 39;

enum Node {
    File(FileNode),
    Directory(DirectoryNode),
}

#[derive(Default)]
struct FileNode {
    now: Vec<u8>,
    synced: Vec<u8>,
    pending: Vec<Pending>,
}

enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Default)]
struct DirectoryNode {
    now: BTreeMap<String, u64>,
    synced: BTreeMap<String, u64>,
}

/// What went over the disk; a test that nothing went over tests nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Traffic {
    pub writes: u64,
    pub syncs: u64,
    /// Sectors that were written and not synced when the power failed …
    pub sectors_at_stake: u64,
    /// … and those of them that were lost.
    pub sectors_lost: u64,
}

/// How the disk misbehaves at the moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Sound,
    /// Syncs fail, and what they should have kept is lost although it can still be read, as on Linux.
    FailsSyncs,
    /// Nothing reaches it any more.
    WithoutPower,
}

/// The disk.
pub struct Disk {
    nodes: HashMap<u64, Node>,
    next: u64,
    pub mood: Mood,
    /// Bytes that all files may take together.
    pub bytes_max: usize,
    bytes: usize,
    pub traffic: Traffic,
    /// The power fails at this write or sync from now, before it is carried out; 0 for none.
    pub fails_in: u64,
}

type Answer<T> = Result<T, i32>;

impl Disk {
    pub fn new() -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::Directory(DirectoryNode::default()))]),
            next: ROOT + 1,
            mood: Mood::Sound,
            bytes_max: usize::MAX,
            bytes: 0,
            traffic: Traffic::default(),
            fails_in: 0,
        }
    }

    /// A write or sync arrives. Says whether there still is power.
    pub fn tick(&mut self) -> bool {
        if self.fails_in > 0 {
            self.fails_in -= 1;
            if self.fails_in == 0 {
                self.mood = Mood::WithoutPower;
            }
        }
        self.mood != Mood::WithoutPower
    }

    pub fn is_directory(&self, ino: u64) -> bool {
        matches!(self.nodes.get(&ino), Some(Node::Directory(_)))
    }

    pub fn len(&self, ino: u64) -> usize {
        match self.nodes.get(&ino) {
            Some(Node::File(file)) => file.now.len(),
            _ => 0,
        }
    }

    pub fn exists(&self, ino: u64) -> bool {
        self.nodes.contains_key(&ino)
    }

    /// Free bytes, as far as there is a bound.
    pub fn bytes_free(&self) -> usize {
        self.bytes_max.saturating_sub(self.bytes)
    }

    fn file(&mut self, ino: u64) -> Answer<&mut FileNode> {
        match self.nodes.get_mut(&ino) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(EISDIR),
            None => Err(ENOENT),
        }
    }

    fn directory(&mut self, ino: u64) -> Answer<&mut DirectoryNode> {
        match self.nodes.get_mut(&ino) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(ENOTDIR),
            None => Err(ENOENT),
        }
    }

    pub fn lookup(&mut self, parent: u64, name: &str) -> Answer<u64> {
        self.directory(parent)?.now.get(name).copied().ok_or(ENOENT)
    }

    pub fn names(&mut self, ino: u64) -> Answer<Vec<(String, u64)>> {
        let names = &self.directory(ino)?.now;
        Ok(names.iter().map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    pub fn make(&mut self, parent: u64, name: &str, directory: bool) -> Answer<u64> {
        let ino = self.next;
        let names = &mut self.directory(parent)?.now;
        if names.contains_key(name) {
            return Err(EEXIST);
        }
        names.insert(name.to_owned(), ino);
        self.next += 1;
        let node = if directory {
            Node::Directory(DirectoryNode::default())
        } else {
            Node::File(FileNode::default())
        };
        self.nodes.insert(ino, node);
        Ok(ino)
    }

    /// The file stays as long as it may be open, and for ever in what was synced.
    pub fn remove(&mut self, parent: u64, name: &str) -> Answer<()> {
        let ino = self.lookup(parent, name)?;
        if let Some(Node::Directory(directory)) = self.nodes.get(&ino)
            && !directory.now.is_empty()
        {
            return Err(ENOTEMPTY);
        }
        self.bytes -= self.len(ino);
        self.directory(parent)?.now.remove(name);
        Ok(())
    }

    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Answer<()> {
        let ino = self.lookup(from.0, from.1)?;
        self.directory(to.0)?;
        self.directory(from.0)?.now.remove(from.1);
        self.directory(to.0)?.now.insert(to.1.to_owned(), ino);
        Ok(())
    }

    pub fn read(&mut self, ino: u64, offset: usize, len: usize) -> Answer<Vec<u8>> {
        let now = &self.file(ino)?.now;
        let start = offset.min(now.len());
        Ok(now[start..(start + len).min(now.len())].to_vec())
    }

    pub fn write(&mut self, ino: u64, offset: usize, bytes: &[u8]) -> Answer<()> {
        let end = offset.checked_add(bytes.len()).ok_or(EFBIG)?;
        let more = end.saturating_sub(self.file(ino)?.now.len());
        if more > self.bytes_free() {
            return Err(ENOSPC);
        }
        self.bytes += more;
        self.traffic.writes += 1;
        let file = self.file(ino)?;
        put(&mut file.now, offset, bytes);
        file.pending.push(Pending::Write(offset, bytes.to_vec()));
        Ok(())
    }

    /// What the kernel holds of a file: those of its sectors that have not come here are written, and not synced, as
    /// if it had begun to write back just now.
    pub fn write_back(&mut self, ino: u64, held: &[u8]) -> Answer<()> {
        let file = self.file(ino)?;
        for (index, sector) in held.chunks(SECTOR).enumerate() {
            let offset = index * SECTOR;
            if file.now.get(offset..offset + sector.len()) != Some(sector) {
                put(&mut file.now, offset, sector);
                file.pending.push(Pending::Write(offset, sector.to_vec()));
            }
        }
        Ok(())
    }

    pub fn set_len(&mut self, ino: u64, len: usize) -> Answer<()> {
        let old = self.file(ino)?.now.len();
        if len.saturating_sub(old) > self.bytes_free() {
            return Err(ENOSPC);
        }
        self.bytes = self.bytes + len - old;
        let file = self.file(ino)?;
        file.now.resize(len, 0);
        file.pending.push(Pending::Length(len));
        Ok(())
    }

    pub fn sync(&mut self, ino: u64) -> Answer<()> {
        self.traffic.syncs += 1;
        let fails = self.mood == Mood::FailsSyncs;
        let file = self.file(ino)?;
        let pending = std::mem::take(&mut file.pending);
        if fails {
            // The kernel may still show it from its cache. The disk does not have it.
            let len = file.now.len();
            file.now = file.synced.clone();
            file.now.resize(len, 0);
            return Err(EIO);
        }
        for change in pending {
            match change {
                Pending::Write(offset, bytes) => put(&mut file.synced, offset, &bytes),
                Pending::Length(len) => file.synced.resize(len, 0),
            }
        }
        Ok(())
    }

    pub fn sync_directory(&mut self, ino: u64) -> Answer<()> {
        if self.mood == Mood::FailsSyncs {
            return Err(EIO);
        }
        let directory = self.directory(ino)?;
        directory.synced = directory.now.clone();
        Ok(())
    }

    /// Whether these bytes stand somewhere in what was synced of a file that is reachable by synced names.
    pub fn has_synced(&self, bytes: &[u8]) -> bool {
        self.nodes.values().any(|node| match node {
            Node::File(file) => file.synced.windows(bytes.len()).any(|window| window == bytes),
            Node::Directory(_) => false,
        })
    }

    /// What is there when the power comes back.
    pub fn after_power_cut(mut self, random: &mut Random) -> Self {
        // From nothing stays to all stays: both ends find bugs of their own.
        let keep = [0, 3, 50, 97, 100][random.below(5) as usize];
        let mut numbers: Vec<u64> = self.nodes.keys().copied().collect();
        // The order of a hash map is no part of a seed.
        numbers.sort_unstable();
        for ino in numbers {
            match self.nodes.get_mut(&ino) {
                Some(Node::File(file)) => file.fall_back(random, keep, &mut self.traffic),
                Some(Node::Directory(directory)) => directory.fall_back(random, keep),
                None => {}
            }
        }
        self.forget_unreachable();
        self.mood = Mood::Sound;
        self.fails_in = 0;
        self
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = vec![ROOT];
        let mut next = 0;
        while next < reachable.len() {
            if let Some(Node::Directory(directory)) = self.nodes.get(&reachable[next]) {
                reachable.extend(directory.now.values());
            }
            next += 1;
        }
        self.nodes.retain(|ino, _| reachable.contains(ino));
        let len = |node: &Node| match node {
            Node::File(file) => file.now.len(),
            Node::Directory(_) => 0,
        };
        self.bytes = self.nodes.values().map(len).sum();
    }
}

impl FileNode {
    fn fall_back(&mut self, random: &mut Random, keep: u64, traffic: &mut Traffic) {
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::Write(offset, bytes) => {
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        traffic.sectors_at_stake += 1;
                        if random.percent(keep) {
                            put(&mut self.synced, offset + index * SECTOR, sector);
                        } else {
                            traffic.sectors_lost += 1;
                        }
                    }
                }
                Pending::Length(len) if random.percent(keep) => self.synced.resize(len, 0),
                Pending::Length(_) => {}
            }
        }
        self.now = self.synced.clone();
    }
}

impl DirectoryNode {
    fn fall_back(&mut self, random: &mut Random, keep: u64) {
        let names: Vec<String> = self.now.keys().chain(self.synced.keys()).cloned().collect();
        for name in names {
            if !random.percent(keep) {
                continue;
            }
            match self.now.get(&name) {
                Some(ino) => self.synced.insert(name, *ino),
                None => self.synced.remove(&name),
            };
        }
        self.now = self.synced.clone();
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}
