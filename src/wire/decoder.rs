//! Bytes in, frames out: finds frame borders in whatever pieces a socket delivers.
//!
//! Frames are handed out borrowed from the buffer, as many as one read brought, so nothing is copied between the
//! socket's buffer and the code that reads a request. The length of a frame is checked before any memory is set
//! aside for it, and memory grows only with bytes that really came: a peer that announces 20 MiB and sends one byte
//! holds a few kilobytes.

use crate::base::code::{ErrorCode, Refusal};
use crate::wire::frame::{Frame, Header};
use zerocopy::FromBytes;

/// The first buffer to read into, in bytes: what connections that say little, and they are most where they are many,
/// have to themselves.
const SPACE_BYTES_FIRST: usize = 1024;
/// The least space that a larger buffer has for a read, in bytes.
const SPACE_BYTES_MIN: usize = 4 * 1024;
/// Reads grow up to this while a peer keeps filling them, in bytes.
const READ_BYTES_MAX: usize = 256 * 1024;
/// An empty buffer larger than this is given back once it was more than needed for a while, in bytes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// For how many times in a row that it was emptied.
const KEPT_TIMES_MAX: u8 = 32;

/// A length that cannot be a frame's: the borders are lost, and with them the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {len} bytes; it must be a multiple of 8 from 16 to {len_max}")]
pub struct BadFrame {
    /// The length that was announced, in bytes.
    pub len: u32,
    /// The longest frame allowed here, in bytes.
    pub len_max: u32,
}

impl From<BadFrame> for Refusal {
    fn from(bad: BadFrame) -> Self {
        Refusal::new(ErrorCode::BadFrame, bad.to_string())
    }
}

/// Cuts a stream of bytes into frames.
///
/// ```
/// use ackring::wire::{FrameDecoder, FrameWriter, Op};
/// let mut bytes = Vec::new();
/// FrameWriter::begin(&mut bytes, Op::Ping as u16, 0, 1, 0).finish();
/// FrameWriter::begin(&mut bytes, Op::Ping as u16, 0, 2, 0).finish();
///
/// let mut decoder = FrameDecoder::new(1024);
/// decoder.extend(&bytes[..20]);
/// assert_eq!(decoder.frames().count(), 1);
/// decoder.extend(&bytes[20..]);
/// let frame = decoder.next_frame()?.expect("the second frame is whole now");
/// assert_eq!(frame.header.correlation.get(), 2);
/// # Ok::<(), ackring::wire::BadFrame>(())
/// ```
#[derive(Debug)]
pub struct FrameDecoder {
    /// All of it is initialised; bytes `start..end` came and were not handed out yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes still to come of a frame that was given up.
    to_drop: usize,
    len_max: u32,
    /// Times in a row that a large buffer was emptied without having been needed.
    unneeded: u8,
}

impl FrameDecoder {
    /// A decoder for frames of at most `len_max` bytes. It holds no memory yet.
    pub fn new(len_max: u32) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            to_drop: 0,
            len_max,
            unneeded: 0,
        }
    }

    /// Changes the longest frame that is taken, in bytes: small before HELLO, the agreed one afterwards.
    pub fn set_len_max(&mut self, len_max: u32) {
        self.len_max = len_max;
    }

    /// Where the next read from the socket goes; never empty. Tell how much came with [`filled`](Self::filled).
    ///
    /// Take all whole frames out before reading again: what waits here is what memory is spent on.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.give_back();
            self.start = 0;
            self.end = 0;
        }
        if self.buffer.len() - self.end < self.space_min() {
            self.make_space();
        }
        // A large buffer is for large frames: what else comes stays in the part that the caches know.
        let len = self.to_come().max(READ_BYTES_MAX);
        let end = self.buffer.len().min(self.end.saturating_add(len));
        &mut self.buffer[self.end..end]
    }

    /// Bytes that are still to come of the first frame that is not whole, as far as its header is there and allowed.
    fn to_come(&self) -> usize {
        let Some(len) = self.buffer[self.start..self.end].first_chunk::<4>() else {
            return 0;
        };
        let len = u32::from_le_bytes(*len).min(self.len_max) as usize;
        len.saturating_sub(self.pending())
    }

    /// Gives a large buffer that was emptied back if it is not used for large frames any more. Those who send one after the
    /// other would have memory made for each otherwise, page by page, at the price of all else that is done with it.
    fn give_back(&mut self) {
        if self.buffer.len() <= KEPT_BYTES_MAX || self.end > KEPT_BYTES_MAX {
            self.unneeded = 0;
            return;
        }
        self.unneeded += 1;
        if self.unneeded > KEPT_TIMES_MAX {
            self.buffer = Vec::new();
            self.unneeded = 0;
        }
    }

    /// The space below which more is made, for a buffer as long as this one.
    fn space_min(&self) -> usize {
        (self.buffer.len() / 2).clamp(1, SPACE_BYTES_MIN)
    }

    /// Moves the unread bytes to the front, and grows by doubling only when they fill more than half: no further
    /// than one longest frame and a large read behind it need, unless the caller leaves more than that unread.
    fn make_space(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let len = self.buffer.len();
        let enough = self.len_max as usize + READ_BYTES_MAX;
        if self.end * 2 >= len && len < enough || len - self.end < self.space_min() {
            let doubled = (len * 2).min(enough);
            self.buffer.resize(doubled.max(self.end + SPACE_BYTES_FIRST), 0);
        }
    }

    /// The first `count` bytes of the last [`space`](Self::space) were filled.
    ///
    /// A read that filled all of it makes the next one larger, up to 256 KiB (and what is to come of a larger frame).
    pub fn filled(&mut self, count: usize) {
        assert!(
            count <= self.buffer.len() - self.end,
            "more bytes than there was space for"
        );
        self.end += count;
        let dropped = self.to_drop.min(self.pending());
        self.start += dropped;
        self.to_drop -= dropped;
        if self.end == self.buffer.len() && self.buffer.len() < READ_BYTES_MAX {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
    }

    /// Copies bytes in, for those who have them elsewhere already.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// The next whole frame, `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`BadFrame`], from then on for ever: the connection is of no more use.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, BadFrame> {
        self.frames().next().transpose()
    }

    /// All whole frames, each borrowed from the buffer; a frame counts as taken when the iterator yields it.
    pub fn frames(&mut self) -> Frames<'_> {
        Frames {
            bytes: &self.buffer[..self.end],
            start: &mut self.start,
            len_max: self.len_max,
        }
    }

    /// Bytes that came and belong to no frame handed out so far.
    pub fn pending(&self) -> usize {
        self.end - self.start
    }

    /// Memory that it holds, in bytes.
    pub fn memory(&self) -> usize {
        self.buffer.len()
    }

    /// Gives the memory back when nothing is pending; for connections that are idle.
    pub fn release_memory(&mut self) {
        if self.start == self.end {
            (self.buffer, self.start, self.end) = (Vec::new(), 0, 0);
        }
    }

    /// Gives up the frame of which a part has come, and its memory: what is still to come of it is dropped, and the
    /// frames behind it follow as ever. Returns its header; `None`, and nothing is given up, where not even that is
    /// there, or whole frames are, or no frame that is allowed.
    ///
    /// ```
    /// use ackring::wire::{FrameDecoder, FrameWriter, Op};
    /// let mut bytes = vec![0; 64];
    /// bytes[0] = 64;
    /// FrameWriter::begin(&mut bytes, Op::Ping as u16, 0, 2, 0).finish();
    ///
    /// let mut decoder = FrameDecoder::new(1024);
    /// decoder.extend(&bytes[..40]);
    /// assert_eq!(decoder.give_up_frame().map(|header| header.len.get()), Some(64));
    /// assert_eq!(decoder.memory(), 0);
    /// decoder.extend(&bytes[40..]);
    /// let next = decoder.next_frame()?.expect("the frame behind");
    /// assert_eq!(next.header.correlation.get(), 2);
    /// # Ok::<(), ackring::wire::BadFrame>(())
    /// ```
    pub fn give_up_frame(&mut self) -> Option<Header> {
        let (header, _) = Header::read_from_prefix(&self.buffer[self.start..self.end]).ok()?;
        let len = header.len.get();
        let to_come = (len as usize).checked_sub(self.pending())?;
        if to_come == 0 || len > self.len_max || !len.is_multiple_of(8) {
            return None;
        }
        self.start = self.end;
        self.to_drop = to_come;
        self.release_memory();
        Some(header)
    }
}

/// The whole frames that a [`FrameDecoder`] holds. They may all be kept while the iterator's borrow lasts.
#[derive(Debug)]
pub struct Frames<'a> {
    bytes: &'a [u8],
    start: &'a mut usize,
    len_max: u32,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, BadFrame>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let rest = &self.bytes[*self.start..];
        // The length is judged as soon as it is there, before the rest of the header.
        let len = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        if len < Header::LEN as u32 || len > self.len_max || !len.is_multiple_of(8) {
            return Some(Err(BadFrame {
                len,
                len_max: self.len_max,
            }));
        }
        let frame = rest.get(..len as usize)?;
        let (header, body) = Header::ref_from_prefix(frame).ok()?;
        *self.start += frame.len();
        Some(Ok(Frame { header, body }))
    }
}
