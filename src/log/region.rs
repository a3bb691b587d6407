//! The memory behind one segment: a shared mapping of its file, or anonymous memory. The only unsafe code of the
//! log, and the only place that knows about `mmap`.
//!
//! Nothing here makes a `&mut` over the shared bytes, and a `&[u8]` only over bytes that nobody writes meanwhile.
//! Who may touch which bytes is decided by [`tail`](crate::log::tail), whose rules the SAFETY comments name:
//!
//! - *claim*: the compare-and-swap on the tail gives a range of bytes to one writer, once a use of the segment;
//! - *commit*: the Release store of the commit word hands the record to readers, who load it with Acquire;
//! - *retire*: a segment is used again only after its holders' word went, by an AcqRel compare-and-swap, from
//!   (sequence, no pins) to "retired"; every reader's unpin and release is a Release before it.

#![allow(unsafe_code, reason = "the one file of the log that handles raw memory")]

use crate::log::disk::RangeSync;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Pages of a sync from which on it is worth a system call to unmap them together.
#[cfg(target_os = "linux")]
const UNMAP_PAGES_MIN: usize = 4;

/// A stretch of shared memory of fixed length.
///
/// Public for simulated disks only: only this crate reads and writes it.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    /// Instead of the system's call, where another disk stands behind the mapping.
    syncs: Option<Arc<dyn RangeSync>>,
}

impl Region {
    /// Zeroed anonymous memory, handed out page by page as it is touched.
    pub(super) fn anonymous(len: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(len).map_anon()?;
        Ok(Self {
            map: MmapRaw::from(map),
            syncs: None,
        })
    }

    /// The first `len` bytes of a file that is at least so long and that nobody else cuts or writes (the lock of
    /// the directory sees to that).
    pub(super) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        Ok(Self {
            map: MmapOptions::new().len(len).map_raw(file)?,
            syncs: None,
        })
    }

    /// As [`of_file`](Self::of_file), but what is to reach the disk goes through `syncs`: for a simulated disk
    /// whose cache is the file.
    ///
    /// # Errors
    /// The system's.
    pub fn simulated(file: &File, len: usize, syncs: Arc<dyn RangeSync>) -> io::Result<Self> {
        let region = Self::of_file(file, len)?;
        Ok(Self {
            syncs: Some(syncs),
            ..region
        })
    }

    /// Makes every page resident and writable, so that no store takes a fault that could fail. Where the system
    /// has no such call the pages come with the first touch.
    pub(super) fn populate(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        match self.map.advise(Advice::PopulateWrite) {
            Ok(()) => {}
            // Kernels before 5.14 do not know the advice.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    #[inline]
    fn has(&self, offset: usize, len: usize) -> bool {
        offset.checked_add(len).is_some_and(|end| end <= self.map.len())
    }

    #[inline]
    fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(self.has(offset, len), "a range of a segment lies inside it");
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    /// The 64-bit word at `offset`, a multiple of 8: the commit word of a record.
    #[inline]
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        let pointer = self.pointer(offset, 8).cast::<u64>();
        assert!(pointer.is_aligned(), "records are aligned to 8 bytes");
        // SAFETY: in bounds and aligned (checked above), valid for reads and writes while `self.map` lives, which
        // the returned lifetime is tied to. Within one use of the segment a header's first word is only touched
        // through this function; plain accesses of another use are ordered before by the retire edge.
        unsafe { AtomicU64::from_ptr(pointer) }
    }

    /// Copies `bytes` to `offset`. The caller has claimed that range and has not committed it yet, or prepares
    /// a segment that nobody else can find.
    #[inline]
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let pointer = self.pointer(offset, bytes.len());
        // SAFETY: in bounds (checked above). The claim edge makes this thread the only one that touches the range
        // until the commit edge; no `&[u8]` over it exists, as those are made after commit and ended by retire.
        // `bytes` cannot overlap it for the same reason: a slice of the region covers bytes that were written before.
        unsafe { pointer.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    /// The bytes from `offset` on. The caller has seen their record committed and keeps the segment from being
    /// retired (a pin, a live job, or the lock under which segments are retired) for as long as it holds them; or it
    /// has claimed them, has written them, and writes them no more while it holds them.
    #[inline]
    pub(super) fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let pointer = self.pointer(offset, len);
        // SAFETY: in bounds (checked above), initialised (mapped memory is). The commit edge (Acquire load of the
        // commit word, or a hand-over from a thread that did it) orders all writes of the record before this, and
        // nobody writes the range again before the retire edge, which the caller holds off. Before the commit the
        // claim edge makes the caller the only one that writes them, and it does so no more.
        unsafe { std::slice::from_raw_parts(pointer, len) }
    }

    /// As [`bytes`](Self::bytes), or `None` where the region ends before.
    #[inline]
    pub(super) fn bytes_inside(&self, offset: usize, len: usize) -> Option<&[u8]> {
        self.has(offset, len).then(|| self.bytes(offset, len))
    }

    /// Waits until the range is on the disk. Nothing to do for anonymous memory, and not called for it.
    pub(super) fn flush(&self, offset: usize, len: usize) -> io::Result<()> {
        match &self.syncs {
            None => {
                self.unmap_settled(offset, len);
                self.map.flush_range(offset, len)
            }
            Some(syncs) => syncs.sync_range(offset, len),
        }
    }

    /// Takes the pages of a range that is about to be synced out of the page tables, at once. Else the system write-protects
    /// each of them by itself, and has every processor that runs this program drop its translation, page by page. The page in
    /// which the range ends stays: it is being written. They come back with the next touch, as written pages would take
    /// a fault after the sync anyhow. Best effort.
    fn unmap_settled(&self, offset: usize, len: usize) {
        #[cfg(target_os = "linux")]
        {
            let page = rustix::param::page_size();
            let (from, to) = (offset / page * page, (offset + len) / page * page);
            if to.saturating_sub(from) < UNMAP_PAGES_MIN * page {
                return;
            }
            // SAFETY: a mapping of a file that is shared keeps its contents, which stand in the page cache: what reads or
            // writes the range meanwhile, or later, finds there what it would have found before.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from)
            };
        }
    }

    /// Tells the system that the contents are no longer needed; the pages come back zeroed. For anonymous memory
    /// whose segment is retired and not yet used again.
    pub(super) fn discard(&self) -> io::Result<()> {
        // SAFETY: nothing refers to the bytes: the segment is retired and its preparer, who holds the lock of the
        // spares, is the only one that can find it. Zeroed pages are as good as any other stale contents.
        unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) }
    }
}
