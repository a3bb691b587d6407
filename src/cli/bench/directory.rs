//! A directory for the data of one load.

use crate::cli::exit::Failure;
use std::path::{Path, PathBuf};

/// Made for the load, and removed with all that is in it when it goes.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes one in `parent`, or where the system keeps such things.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn make(parent: Option<&Path>) -> Result<Self, Failure> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("ackring-bench-{}", std::process::id()));
        std::fs::create_dir_all(&parent)
            .and_then(|()| std::fs::create_dir(&path))
            .map_err(|error| Failure::refused(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is left; the load is over.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
