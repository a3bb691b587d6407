//! Small real filesystems to be filled up. It takes the right to mount; where that is missing the tests say
//! `skipped: …` and pass.

use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted filesystem, gone when dropped.
pub struct Mount {
    path: PathBuf,
    loop_device: Option<String>,
}

impl Mount {
    /// So much memory as a filesystem, or why not.
    pub fn tmpfs(path: &Path, options: &CStr) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(error) = rustix::mount::mount("tmpfs", path, "tmpfs", flags, options) {
            skipped(&format!("no tmpfs can be mounted here ({error})"));
            return None;
        }
        Some(Self {
            path: path.to_owned(),
            loop_device: None,
        })
    }

    /// The image as ext4; it is made if it is not there. Or why not.
    pub fn ext4(path: &Path, image: &Path, mebibytes: u64) -> Option<Self> {
        match Self::try_ext4(path, image, mebibytes) {
            Ok(mount) => Some(mount),
            Err(why) => {
                skipped(&format!("no ext4 image can be mounted here ({why})"));
                None
            }
        }
    }

    fn try_ext4(path: &Path, image: &Path, mebibytes: u64) -> Result<Self, String> {
        std::fs::create_dir_all(path).unwrap();
        let name = image.to_str().unwrap();
        if !image.exists() {
            let file = std::fs::File::create(image).map_err(|error| error.to_string())?;
            file.set_len(mebibytes << 20).map_err(|error| error.to_string())?;
            // Nothing is kept back for root, so that full is full.
            tool("mkfs.ext4", &["-q", "-F", "-m", "0", name])?;
        }
        let device = tool("losetup", &["--find", "--show", name])?.trim().to_owned();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(error) = rustix::mount::mount(device.as_str(), path, "ext4", flags, None) {
            let _ = tool("losetup", &["--detach", &device]);
            return Err(error.to_string());
        }
        Ok(Self {
            path: path.to_owned(),
            loop_device: Some(device),
        })
    }

    /// Nothing can be changed on it any more. Nobody has a file open on it for writing.
    pub fn make_read_only(&self) {
        rustix::mount::mount_remount(&self.path, MountFlags::RDONLY, c"").unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // At once where it can be, so that nothing below it is in use any more.
        if rustix::mount::unmount(&self.path, UnmountFlags::empty()).is_err() {
            let _ = rustix::mount::unmount(&self.path, UnmountFlags::DETACH);
        }
        if let Some(device) = &self.loop_device {
            let _ = tool("losetup", &["--detach", device]);
        }
    }
}

/// Runs a tool of the system.
pub fn tool(name: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(name)
        .args(arguments)
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Says why a test has nothing to do here; aloud, though the harness keeps to itself what tests that pass print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}
