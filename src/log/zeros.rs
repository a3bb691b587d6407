//! Filling files with zeros.

use crate::log::disk::DiskFile;
use std::io;

/// What a segment is filled with, a piece at a time. A cache of large folios makes one of each piece, and takes all of it for
/// written when a byte is: a sync of one record writes so much, and each page that is made ready again has so much marked.
/// Still smaller pieces would make the filling dear.
static ZEROS: [u8; 32 * 1024] = [0; 32 * 1024];

/// Fills a file with zeros between two places and waits until it is on the disk.
pub(super) fn write_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    put_zeros(file, from, to)?;
    file.sync_data()
}

/// Fills a file with zeros between two places.
pub(super) fn put_zeros(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let len = (to - at).min(ZEROS.len() as u64 - at % ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..len as usize], at)?;
        at += len;
    }
    Ok(())
}
