//! A disk that forgets: what a power cut leaves is what was synced and any part of the rest.
//!
//! Each file has two sides. Its *cache* is an anonymous file of the system's, which the log maps and writes; it
//! survives the end of the process (`crash_kill`). Its *platter* is a vector of bytes that only a sync (or the
//! kernel's own writing back, drawn from the seed) brings up to date. A power cut (`crash_power`) makes for each
//! sector of 512 bytes that differs a choice of its own: the old bytes, the new ones, or the first part of one and the
//! rest of the other. Names have the same two sides, between which stand the changes that were not synced.
//!
//! A sector tears at multiples of 64 bytes: the log relies on the first 64 bytes of a file, its header, being
//! written at once.
//!
//! Every call counts. [`SimDisk::die_at`] lets the machine stop at one of them: what is in memory at that moment
//! is what counts, and every later call fails until the test says how the machine died.

#[path = "disk/handles.rs"]
mod handles;
#[path = "disk/inode.rs"]
mod inode;

pub use inode::{Fate, SECTOR};

use ackring::log::OpenError;
use ackring::log::disk::{Disk, DiskDirectory};
use handles::SimDirectory;
use inode::{Inode, PAGE, anonymous_file, contents};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// Numbers that follow from a seed: splitmix64 (Steele, Lea, Flood, 2014).
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n.max(1)
    }

    /// `false` for 0.
    pub fn one_in(&mut self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }
}

/// What a simulated disk does besides obeying.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// At one call in so many the kernel writes some of the unsynced sectors on its own; 0: never.
    pub writeback_one_in: u64,
    /// Unsynced changes of names are kept or lost one by one; otherwise a power cut keeps a first part of them.
    pub names_in_any_order: bool,
    /// Bytes that all files together may have.
    pub capacity_bytes: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            writeback_one_in: 0,
            names_in_any_order: true,
            capacity_bytes: u64::MAX,
        }
    }
}

/// What happened on the disk so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls that died or failed for a planned reason are counted too.
    pub calls: u64,
    /// Syncs of files, ranges and the directory that were asked for.
    pub syncs: u64,
    pub syncs_failed: u64,
    pub refused_for_space: u64,
    pub opens_refused: u64,
    pub reads_failed: u64,
    pub power_cuts: u64,
    pub sectors_lost: u64,
    pub sectors_torn: u64,
    pub names_lost: u64,
    /// Files open at the same time, at most.
    pub open_files_max: u64,
}

/// A sector whose new bytes a power cut may lose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsynced {
    /// The name under which the file is in the directory now.
    pub name: String,
    inode: usize,
    /// Its place in the file, in sectors.
    pub sector: usize,
}

#[derive(Debug, Clone)]
enum NameChange {
    Link(String, usize),
    Rename(String, String, usize),
    Unlink(String),
}

/// Called while a sync of a mapping is under way, for what other threads do meanwhile.
pub struct Meanwhile(Box<dyn FnMut() + Send>);

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

#[derive(Debug)]
struct State {
    rng: Rng,
    meanwhile: Option<Meanwhile>,
    options: SimOptions,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    synced_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    /// Handles of an earlier life do nothing.
    life: u64,
    is_locked: bool,
    open_files: u64,
    die_at: Option<u64>,
    /// What the caches held when the machine stopped.
    frozen: Option<Vec<Vec<u8>>>,
    fail_sync_in: Option<u64>,
    /// What the system says instead of opening or making a file.
    opens_refused: Option<rustix::io::Errno>,
    /// Another after each power cut.
    machine: u128,
    counters: Counters,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

fn off() -> io::Error {
    io::Error::other("the machine is off")
}

fn os_error(errno: rustix::io::Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.raw_os_error())
}

impl State {
    /// Begins a call: counts it, lets the kernel write back, and fails when the machine is off.
    fn begin(&mut self, life: u64) -> io::Result<()> {
        self.counters.calls += 1;
        if self.frozen.is_none() && self.die_at == Some(self.counters.calls) {
            self.freeze();
        }
        if self.frozen.is_some() || life != self.life {
            return Err(off());
        }
        if self.rng.one_in(self.options.writeback_one_in) {
            self.write_some_back();
        }
        Ok(())
    }

    fn freeze(&mut self) {
        let caches = self.inodes.iter().map(|inode| contents(&inode.cache));
        self.frozen = Some(caches.collect());
    }

    fn write_some_back(&mut self) {
        let Self { rng, inodes, .. } = self;
        for inode in inodes {
            let cache = contents(&inode.cache);
            for sector in inode.dirty(&cache, 0, cache.len()) {
                if rng.one_in(2) {
                    inode.write_back(&cache, sector);
                }
            }
        }
    }

    /// Whether the sync that is asked for now is the one to fail.
    fn sync_fails(&mut self) -> bool {
        self.counters.syncs += 1;
        match &mut self.fail_sync_in {
            Some(0) => {
                self.fail_sync_in = None;
                self.counters.syncs_failed += 1;
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn sync(&mut self, inode: usize, from: usize, to: usize) -> io::Result<()> {
        let fails = self.sync_fails();
        let Self { rng, inodes, .. } = self;
        let inode = &mut inodes[inode];
        let cache = contents(&inode.cache);
        for sector in inode.dirty(&cache, from, to) {
            if !fails || rng.one_in(3) {
                inode.write_back(&cache, sector);
            }
        }
        if !fails {
            if to >= cache.len() && inode.platter.len() < cache.len() {
                inode.platter.resize(cache.len(), 0);
            }
            return Ok(());
        }
        for page in from / PAGE..to.min(cache.len()).div_ceil(PAGE) {
            let end = cache.len().min((page + 1) * PAGE);
            inode.clean.insert(page, cache[page * PAGE..end].to_vec());
        }
        Err(os_error(rustix::io::Errno::IO))
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .map(|inode| self.inodes[*inode].len() as u64)
            .sum()
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let len = self.inodes[inode].len() as u64;
        let room = self.options.capacity_bytes.saturating_sub(self.used());
        let fits = (len + room).saturating_sub(offset).min(bytes.len() as u64);
        self.inodes[inode]
            .cache
            .write_all_at(&bytes[..fits as usize], offset)?;
        let end = offset as usize + fits as usize;
        let written = (offset as usize).div_ceil(SECTOR)..end / SECTOR;
        self.inodes[inode]
            .unreadable
            .retain(|sector| !written.contains(sector));
        if fits < bytes.len() as u64 {
            self.counters.refused_for_space += 1;
            return Err(os_error(rustix::io::Errno::NOSPC));
        }
        Ok(())
    }

    fn read(&mut self, inode: usize, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let inode = &self.inodes[inode];
        let sectors = offset as usize / SECTOR..(offset as usize + buffer.len()).div_ceil(SECTOR);
        if inode.unreadable.range(sectors).next().is_some() {
            self.counters.reads_failed += 1;
            return Err(os_error(rustix::io::Errno::IO));
        }
        inode.cache.read_exact_at(buffer, offset)
    }

    /// Pages that somebody marked clean are read from the platter again.
    fn forget_clean(&mut self, inode: usize, len: Option<u64>) {
        let inode = &mut self.inodes[inode];
        let cache = contents(&inode.cache);
        let end = len.map_or(cache.len(), |len| len as usize);
        for page in 0..end.min(cache.len()).div_ceil(PAGE) {
            if inode.clean.contains_key(&page) && !inode.is_dirty_page(page, &cache) {
                let to = cache.len().min((page + 1) * PAGE);
                let mut bytes = inode.platter.clone();
                bytes.resize(to.max(bytes.len()), 0);
                inode
                    .cache
                    .write_all_at(&bytes[page * PAGE..to], (page * PAGE) as u64)
                    .unwrap();
                inode.clean.remove(&page);
            }
        }
    }

    /// Whether a file may be opened or made.
    fn check_opens(&mut self) -> io::Result<()> {
        match self.opens_refused {
            Some(errno) => {
                self.counters.opens_refused += 1;
                Err(os_error(errno))
            }
            None => Ok(()),
        }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| os_error(rustix::io::Errno::NOENT))
    }

    fn opened(&mut self) {
        self.open_files += 1;
        self.counters.open_files_max = self.counters.open_files_max.max(self.open_files);
    }

    /// What the caches hold, or held when the machine stopped.
    fn caches(&mut self) -> Vec<Vec<u8>> {
        match self.frozen.take() {
            Some(mut caches) => {
                // Made after the machine stopped: never.
                caches.resize(self.inodes.len(), Vec::new());
                caches
            }
            None => self.inodes.iter().map(|inode| contents(&inode.cache)).collect(),
        }
    }

    fn restart(&mut self) {
        self.life += 1;
        self.is_locked = false;
        self.open_files = 0;
        self.die_at = None;
        self.frozen = None;
        self.meanwhile = None;
        self.fail_sync_in = None;
        self.opens_refused = None;
    }

    fn kill(&mut self) {
        for (inode, cache) in self.caches().into_iter().enumerate() {
            // The old process may still hold its mapping.
            self.inodes[inode].cache = anonymous_file(&cache);
        }
        self.restart();
    }

    fn power_cut(&mut self, names: &[bool], mut fate: impl FnMut(&mut Rng, usize, usize) -> Fate) {
        self.counters.power_cuts += 1;
        self.machine += 1;
        let caches = self.caches();
        let mut kept = self.synced_names.clone();
        for (change, is_kept) in self.unsynced_names.drain(..).zip(names) {
            if !is_kept {
                self.counters.names_lost += 1;
                continue;
            }
            match change {
                NameChange::Link(name, inode) => drop(kept.insert(name, inode)),
                NameChange::Unlink(name) => drop(kept.remove(&name)),
                NameChange::Rename(from, to, inode) => {
                    kept.remove(&from);
                    kept.insert(to, inode);
                }
            }
        }
        let old = std::mem::take(&mut self.inodes);
        for (name, number) in &mut kept {
            let inode = &old[*number];
            let (rng, counters) = (&mut self.rng, &mut self.counters);
            let bytes = inode.after_power_cut(&caches[*number], |sector| {
                let fate = fate(rng, *number, sector);
                match fate {
                    Fate::Lost => counters.sectors_lost += 1,
                    Fate::Kept => {}
                    Fate::NewThenOld(_) | Fate::OldThenNew(_) => counters.sectors_torn += 1,
                }
                fate
            });
            let mut after = Inode::new(bytes);
            after.unreadable.clone_from(&inode.unreadable);
            debug_assert!(!name.is_empty());
            *number = self.inodes.len();
            self.inodes.push(after);
        }
        self.names = kept.clone();
        self.synced_names = kept;
        self.restart();
    }

    fn name_fates(&mut self) -> Vec<bool> {
        let count = self.unsynced_names.len() as u64;
        if self.options.names_in_any_order {
            (0..count).map(|_| self.rng.one_in(2)).collect()
        } else {
            let kept = self.rng.below(count + 1);
            (0..count).map(|change| change < kept).collect()
        }
    }

    fn unsynced(&mut self) -> Vec<Unsynced> {
        let frozen = self.frozen.clone();
        let caches = self.caches();
        self.frozen = frozen;
        let mut found = Vec::new();
        for (name, inode) in &self.names {
            let sectors = self.inodes[*inode].dirty(&caches[*inode], 0, usize::MAX);
            found.extend(sectors.into_iter().map(|sector| Unsynced {
                name: name.clone(),
                inode: *inode,
                sector,
            }));
        }
        found
    }
}

#[allow(dead_code, reason = "each simulation uses its own part")]
impl SimDisk {
    /// An empty disk; all that it draws follows from `seed`.
    pub fn new(seed: u64, options: SimOptions) -> Self {
        Self(Arc::new(Mutex::new(State {
            rng: Rng(seed),
            meanwhile: None,
            options,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            life: 0,
            is_locked: false,
            open_files: 0,
            die_at: None,
            frozen: None,
            fail_sync_in: None,
            opens_refused: None,
            machine: 1,
            counters: Counters::default(),
        })))
    }

    /// For a configuration.
    pub fn handle(&self) -> Option<Arc<dyn Disk>> {
        Some(Arc::new(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed may have poisoned it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// The machine stops at the call that is `calls` from now (1: the next).
    pub fn die_in(&self, calls: u64) {
        let mut state = self.state();
        state.die_at = Some(state.counters.calls + calls);
    }

    /// Takes a planned stop back.
    pub fn live_on(&self) {
        self.state().die_at = None;
    }

    /// Stops the machine at once.
    pub fn stop(&self) {
        let mut state = self.state();
        if state.frozen.is_none() {
            state.freeze();
        }
    }

    /// The machine has stopped, and nobody has said yet how.
    pub fn is_off(&self) -> bool {
        self.state().frozen.is_some()
    }

    /// The sync that comes after `passing` others fails, and its pages count as clean.
    pub fn fail_sync_in(&self, passing: u64) {
        self.state().fail_sync_in = Some(passing);
    }

    /// Takes a planned failure back. Says whether it was still to come.
    pub fn fail_no_sync(&self) -> bool {
        self.state().fail_sync_in.take().is_some()
    }

    /// Until the next crash `act` is called before and after each sync of a mapping, as if by another thread.
    pub fn set_meanwhile(&self, act: impl FnMut() + Send + 'static) {
        self.state().meanwhile = Some(Meanwhile(Box::new(act)));
    }

    fn meanwhile(&self) {
        // Not under the lock: what is done may call the disk.
        if self.is_off() {
            return;
        }
        let act = self.state().meanwhile.take();
        if let Some(mut act) = act {
            act.0();
            self.state().meanwhile = Some(act);
        }
    }

    /// Bytes that all files together may have from now on.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().options.capacity_bytes = bytes;
    }

    /// Until the next crash, or `None`, this is what the system says instead of opening or making a file.
    pub fn refuse_opens(&self, errno: Option<rustix::io::Errno>) {
        self.state().opens_refused = errno;
    }

    /// Bytes that all files have.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// The process ends as by `kill -9`: what it wrote stays in the cache, synced or not.
    pub fn crash_kill(&self) {
        self.state().kill();
    }

    /// The power fails; what becomes of each unsynced sector and name is drawn.
    pub fn crash_power(&self) {
        let mut state = self.state();
        let names = state.name_fates();
        state.power_cut(&names, |rng, _, _| Fate::draw(rng));
    }

    /// The power fails; what was not synced is all gone.
    pub fn crash_power_losing_all(&self) {
        let mut state = self.state();
        let names = vec![false; state.unsynced_names.len()];
        state.power_cut(&names, |_, _, _| Fate::Lost);
    }

    /// The kernel writes those unsynced sectors, told by name and place, for which `which` says so.
    pub fn write_back(&self, which: impl Fn(&str, usize) -> bool) {
        let mut state = self.state();
        let chosen = state.unsynced().into_iter();
        for place in chosen.filter(|place| which(&place.name, place.sector)) {
            let inode = &mut state.inodes[place.inode];
            let cache = contents(&inode.cache);
            inode.write_back(&cache, place.sector);
        }
    }

    /// What a power cut now would choose about.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        self.state().unsynced()
    }

    /// Changes of names that are not synced.
    pub fn unsynced_names(&self) -> usize {
        self.state().unsynced_names.len()
    }

    /// The power fails; each of [`unsynced`](Self::unsynced) and each change of a name has its fate given.
    pub fn crash_power_choosing(&self, sectors: &[(Unsynced, Fate)], names: &[bool]) {
        let fates: BTreeMap<(usize, usize), Fate> = sectors
            .iter()
            .map(|(place, fate)| ((place.inode, place.sector), *fate))
            .collect();
        let mut state = self.state();
        state.power_cut(names, |_, inode, sector| {
            fates.get(&(inode, sector)).copied().unwrap_or(Fate::Lost)
        });
    }

    /// Another disk that is as this one is now, with nothing planned.
    pub fn copy(&self) -> Self {
        let mut state = self.state();
        let frozen = state.frozen.clone();
        let caches = state.caches();
        state.frozen.clone_from(&frozen);
        let inodes = state.inodes.iter().zip(&caches).map(|(inode, cache)| Inode {
            cache: anonymous_file(cache),
            platter: inode.platter.clone(),
            clean: inode.clean.clone(),
            unreadable: inode.unreadable.clone(),
        });
        Self(Arc::new(Mutex::new(State {
            rng: state.rng.clone(),
            meanwhile: None,
            options: state.options.clone(),
            inodes: inodes.collect(),
            names: state.names.clone(),
            synced_names: state.synced_names.clone(),
            unsynced_names: state.unsynced_names.clone(),
            life: 0,
            is_locked: false,
            open_files: 0,
            die_at: None,
            frozen,
            fail_sync_in: None,
            opens_refused: None,
            machine: state.machine,
            counters: Counters::default(),
        })))
    }

    /// Names in the directory.
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// What a reader would find in a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        contents(&state.inodes[state.find(name).unwrap()].cache)
    }

    /// Changes bytes at rest, on the platter as in the cache.
    pub fn damage(&self, name: &str, offset: usize, change: impl Fn(&mut u8)) {
        let mut state = self.state();
        let inode = state.find(name).unwrap();
        let inode = &mut state.inodes[inode];
        let mut bytes = contents(&inode.cache);
        change(&mut bytes[offset]);
        inode
            .cache
            .write_all_at(&bytes[offset..=offset], offset as u64)
            .unwrap();
        if offset < inode.platter.len() {
            inode.platter[offset] = bytes[offset];
        }
    }

    /// Puts other bytes into a file at rest.
    pub fn replace(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let inode = state.find(name).unwrap();
        state.inodes[inode] = Inode::new(bytes);
    }

    /// Takes a file away at rest.
    pub fn take_away(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.synced_names.remove(name);
    }

    /// Reading the sector fails from now on.
    pub fn make_unreadable(&self, name: &str, sector: usize) {
        let mut state = self.state();
        let inode = state.find(name).unwrap();
        state.inodes[inode].unreadable.insert(sector);
    }

    /// Every sector can be read again.
    pub fn make_readable(&self) {
        for inode in &mut self.state().inodes {
            inode.unreadable.clear();
        }
    }
}

impl Disk for SimDisk {
    fn lock(&self, path: &Path, to_write: bool) -> Result<Box<dyn DiskDirectory>, OpenError> {
        let mut state = self.state();
        let life = state.life;
        state.begin(life).map_err(|source| OpenError::Io {
            action: "lock",
            path: path.to_owned(),
            source,
        })?;
        if state.is_locked {
            return Err(OpenError::Locked {
                directory: path.to_owned(),
            });
        }
        state.is_locked = to_write;
        let disk = self.clone();
        Ok(Box::new(SimDirectory { disk, life, to_write }))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state();
        bytes.fill_with(|| state.rng.draw() as u8);
        Ok(())
    }

    fn machine(&self) -> Option<[u8; 16]> {
        Some(self.state().machine.to_le_bytes())
    }
}
