//! What a server runs on: the disk that forgets, with its files right on it or in an ext4 in between.

use super::disk::{Disk, Mood, ROOT};
use super::fuse::Mounted;
use crate::cli::{Home, eventually};
use crate::mounts::Mount;

const IMAGE: &str = "image";
const IMAGE_MEBIBYTES: u64 = 64;

/// The filesystems, mounted one on the other.
pub struct Machine {
    disk: Mounted,
    ext4: Option<Mount>,
}

impl Machine {
    /// Mounts the disk, and the ext4 on it, which replays its journal. `None` where that cannot be done here.
    pub fn on(home: &Home, disk: Disk, on_ext4: bool) -> Option<Self> {
        let disk = super::mount(&home.path("disk"), disk)?;
        let image = home.path("disk").join(IMAGE);
        let mut ext4 = None;
        if on_ext4 {
            ext4 = Some(Mount::ext4(&home.path("ext4"), &image, IMAGE_MEBIBYTES)?);
            // The image itself is the disk here: it is not at stake, what is written to it is.
            disk.disk(|disk| {
                let ino = disk.lookup(ROOT, IMAGE);
                let synced = ino
                    .and_then(|ino| disk.sync(ino))
                    .and_then(|()| disk.sync_directory(ROOT));
                synced.unwrap();
            });
        }
        Some(Self { disk, ext4 })
    }

    pub fn is_on_ext4(&self) -> bool {
        self.ext4.is_some()
    }

    /// The data directory, as the server is told.
    pub fn data(&self) -> &'static str {
        if self.is_on_ext4() {
            "ext4/data"
        } else {
            "disk/data"
        }
    }

    /// Has the disk receive, unsynced, what the kernel holds of the log's files. Nobody changes them meanwhile. Under
    /// ext4 the kernel writes back what and when it likes.
    pub fn write_back(&self) {
        if !self.is_on_ext4() {
            self.disk.write_back("data");
        }
    }

    /// The power fails at that write or sync from now: in the middle of what should have come to the disk together.
    pub fn cut_power_in(&self, operations: u64) {
        self.disk.disk(|disk| disk.fails_in = operations);
        eventually("the disk to be used", || {
            self.disk
                .disk(|disk| (disk.mood == Mood::WithoutPower).then_some(()))
        });
    }

    /// From now on nothing reaches the disk.
    pub fn cut_power(&self) {
        self.disk.cut_power();
    }

    /// Unmounts everything, and takes the disk out. Nobody has a file open any more.
    pub fn off(self) -> Disk {
        drop(self.ext4);
        self.disk.take_out()
    }
}
