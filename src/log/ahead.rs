//! Reading segments in order, the next one on a thread of its own while the one before is looked at.
//!
//! A disk says whether that is wanted ([`Disk::reads_ahead`](crate::log::disk::Disk::reads_ahead)): a simulated one,
//! whose calls are counted, has everything done in turn. What is seen, and in which order, is the same either way.

use crate::log::dir::{Directory, FoundSegment};
use crate::log::error::OpenError;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::sync_channel;

/// Segments that are in memory at once: one that is looked at, and one that is read.
const BUFFERS: usize = 2;

/// What was read of a segment.
pub(super) struct Content {
    /// Its file, with zeros where the disk does not give it back.
    pub(super) bytes: Vec<u8>,
    /// What the disk does not give back.
    pub(super) unreadable: Vec<Range<u32>>,
}

/// A segment to be read: its file, and how much of that at most, in bytes.
pub(super) type Wanted<'a> = (&'a FoundSegment, u32);

/// Shows the content of each segment in turn, by its index, until `see` breaks off; says whether it did.
///
/// # Errors
/// [`OpenError::Io`], once all segments before were seen.
pub(super) fn read_each(
    directory: &Directory,
    wanted: &[Wanted<'_>],
    mut see: impl FnMut(usize, &mut Content) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, OpenError> {
    let read = |(file, len_max): Wanted<'_>, mut bytes: Vec<u8>| {
        let unreadable = directory.read(file, len_max, &mut bytes)?;
        Ok(Content { bytes, unreadable })
    };
    if wanted.len() < 2 || !directory.reads_ahead() {
        let mut buffer = Vec::new();
        for (index, segment) in wanted.iter().enumerate() {
            let mut content = read(*segment, buffer)?;
            if see(index, &mut content).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            buffer = content.bytes;
        }
        return Ok(ControlFlow::Continue(()));
    }
    let (give_back, empty) = sync_channel(BUFFERS);
    // No room in between: a segment that was read waits in its reader's hands.
    let (hand_over, full) = sync_channel::<Result<Content, OpenError>>(0);
    for _ in 0..BUFFERS {
        // The channel has room for all of them.
        let _ = give_back.send(Vec::new());
    }
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for segment in wanted {
                // An end of either channel: nobody wants more.
                let Ok(buffer) = empty.recv() else { return };
                let content = read(*segment, buffer);
                let is_last = content.is_err();
                if hand_over.send(content).is_err() || is_last {
                    return;
                }
            }
        });
        // Its end goes with this, at a break too, and that ends the reader.
        let full = full;
        for (index, content) in full.iter().enumerate() {
            let mut content = content?;
            if see(index, &mut content).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            // The last ones are not wanted back.
            let _ = give_back.send(content.bytes);
        }
        Ok(ControlFlow::Continue(()))
    })
}
